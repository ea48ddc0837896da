from __future__ import annotations

import pytest
import torch

from mmrec.devices import choose_device
from mmrec.encode.encoders import EncoderOptions
from mmrec.encode.pretrained import choose_precision
from mmrec.errors import ConfigError


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_f": True, "avx512_bf16": False}, "float32"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"neon": True, "bf16": True}, "bfloat16"),
        ({}, "float32"),
    ],
)
def test_auto_takes_bfloat16_where_the_cpu_has_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert choose_precision(EncoderOptions(), torch.device("cpu")) == expected
    for asked in ("float32", "bfloat16"):
        options = EncoderOptions(precision=asked)
        assert choose_precision(options, torch.device("cpu")) == asked


def test_auto_takes_bfloat16_where_the_gpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation, s=supported: s)
        assert choose_precision(EncoderOptions(), torch.device("cuda")) == expected


def test_the_device_is_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu").type == "cpu"
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda a=available: a)
        assert choose_device(None).type == expected


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "tpu:0"])
def test_devices_that_are_not_there(name: str) -> None:
    with pytest.raises(ConfigError, match="a device of this machine"):
        choose_device(name)
