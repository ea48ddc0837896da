"""What the doctor finds on this and on other machines."""

from __future__ import annotations

import json
from importlib.metadata import metadata, version

import pytest
import torch

from mmrec.doctor import EXTRAS, examine


def test_findings_are_those_of_this_machine() -> None:
    found = examine()
    assert found["packages"]["torch"] == version("torch")
    assert found["threads"] == torch.get_num_threads()
    assert found["extras"].keys() == EXTRAS.keys()
    assert json.loads(json.dumps(found)) == found


def test_every_extra_is_known_to_the_package() -> None:
    declared = set(metadata("mmrec").get_all("Provides-Extra") or [])
    assert EXTRAS.keys() == declared - {"dev"}


def test_a_missing_extra_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "imaginary", ("json", "no_such_module"))
    monkeypatch.setitem(EXTRAS, "there", ("json", "csv"))
    extras = examine()["extras"]
    assert extras["imaginary"] is False
    assert extras["there"] is True


def test_advice_about_threads_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(torch.version, "cuda", "12.4")
    assert [line.split(":")[0] for line in examine()["advice"]] == [
        "torch uses one thread",
        "this torch is built for CUDA but sees no GPU",
    ]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert examine()["advice"] == []
