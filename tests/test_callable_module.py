from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import mmrec
from mmrec.callable_module import make_callable

CALL = "mmrec.encode('no such folder')"


@pytest.mark.parametrize(
    "lines",
    [
        ["import mmrec", CALL],
        ["import mmrec", "from mmrec.encode.features import FeatureTable", CALL],
        ["from mmrec.encode.features import FeatureTable", "import mmrec", CALL],
        ["import mmrec", "mmrec.encode", "import mmrec.encode.features", CALL],
        [
            "from mmrec import encode, FeatureTable",
            "import mmrec.encode.features",
            "encode('no such folder')",
        ],
    ],
)
def test_the_verb_is_callable_in_every_import_order(lines: list[str]) -> None:
    code = "; ".join(lines)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "DataError" in ended.stderr
    assert "dataset.json" in ended.stderr


def test_the_verb_shows_its_signature() -> None:
    parameters = inspect.signature(mmrec.encode).parameters
    assert {"dataset", "modality", "encoder", "shard_rows"} <= set(parameters)


def test_a_module_passes_calls_on(monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("planted")
    monkeypatch.setitem(sys.modules, "planted", module)
    make_callable("planted", "math:hypot")
    assert module(3, 4) == 5  # type: ignore[operator]
    assert module.__name__ == "planted"
