from __future__ import annotations

import inspect
import json
import sys

import pytest

import mmrec
from mmrec.callable_module import make_callable
from tests.forks import Forks

CALL = "mmrec.encode('no such folder')"


ORDERS = [
    ["import mmrec", CALL],
    ["import mmrec", "from mmrec.encode.features import FeatureTable", CALL],
    ["from mmrec.encode.features import FeatureTable", "import mmrec", CALL],
    ["import mmrec", "mmrec.encode", "import mmrec.encode.features", CALL],
    ["from mmrec import encode, FeatureTable", "import mmrec.encode.features", "encode('no such folder')"],
]


def test_the_verb_is_callable_in_every_import_order(forks: Forks) -> None:
    ended = forks.run("tests.import_orders:main", *["; ".join(lines) for lines in ORDERS])
    assert ended.returncode == 0, ended.stderr
    for lines, errors in zip(ORDERS, json.loads(ended.stdout), strict=True):
        assert len(errors) == 1, lines
        assert errors[0].startswith("DataError"), (lines, errors)
        assert "dataset.json" in errors[0], (lines, errors)


def test_the_verb_shows_its_signature() -> None:
    parameters = inspect.signature(mmrec.encode).parameters
    assert {"dataset", "modality", "encoder", "shard_rows"} <= set(parameters)


def test_a_module_passes_calls_on(monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("planted")
    monkeypatch.setitem(sys.modules, "planted", module)
    make_callable("planted", "math:hypot")
    assert module(3, 4) == 5  # type: ignore[operator]
    assert module.__name__ == "planted"
