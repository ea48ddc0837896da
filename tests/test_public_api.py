"""The names under ``mmrec``: there, lazy, and callable in whatever order things are imported."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

import mmrec
from mmrec import _PUBLIC
from tests.forks import Forks

VERBS = ("compare", "encode", "evaluate", "explain", "recommend", "train", "tune")

# Each runs in a process that has imported nothing of mmrec; {0} is a verb.
SCENARIOS = [
    "import mmrec; verbs = [mmrec.{0}]",
    "from mmrec import {0}; verbs = [{0}]",
    "import mmrec.{0}; verbs = [mmrec.{0}]",
    "import mmrec; mmrec.{0}; import mmrec.{0}; verbs = [mmrec.{0}]",
    "import importlib; importlib.import_module('mmrec.{0}'); import mmrec; verbs = [mmrec.{0}]",
]
# These import much, so that one process asks for all verbs.
LONG_SCENARIOS = [
    "import mmrec.runs, mmrec.cli; import mmrec",
    "from mmrec.train import train; from mmrec.evaluate import evaluate; import mmrec",
]


def test_verbs_are_callable_in_every_import_order(forks: Forks) -> None:
    orders = {scenario.format(verb): 1 for scenario in SCENARIOS for verb in VERBS}
    every = ", ".join(f"mmrec.{verb}" for verb in VERBS)
    orders |= {f"{scenario}; verbs = [{every}]": len(VERBS) for scenario in LONG_SCENARIOS}
    ended = forks.run("tests.import_orders:main", *orders)
    assert ended.returncode == 0, ended.stderr
    for (order, calls), errors in zip(orders.items(), json.loads(ended.stdout), strict=True):
        assert len(errors) == calls, (order, errors)
        for error in errors:  # the function was reached: it wants arguments
            assert error.startswith("TypeError"), (order, error)
            assert "missing" in error, (order, error)


@pytest.mark.parametrize("name", _PUBLIC)
def test_every_name_is_there_and_documented(name: str) -> None:
    found = getattr(mmrec, name)
    assert callable(found)
    assert found.__doc__
    assert name in dir(mmrec)


def test_the_lists_of_names_agree() -> None:
    assert set(mmrec.__all__) == {*_PUBLIC, "__version__"}
    assert mmrec.__all__ == sorted(mmrec.__all__)
    source = Path(mmrec.__file__).read_text(encoding="utf-8")
    typed = source.split("if TYPE_CHECKING:")[1].split("__version__")[0]
    imported = {
        name.strip()
        for line in typed.splitlines()
        if " import " in line
        for name in line.split(" import ")[1].split(",")
    }
    assert imported == _PUBLIC.keys()


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trains'"):
        _ = mmrec.trains  # type: ignore[attr-defined]


def test_from_tables_to_recommendations(tmp_path: Path) -> None:
    """Two groups of users, two groups of items: the text tells them apart."""
    rows = [(f"u{u}", f"i{i}") for u in range(20) for i in range(12) if u % 2 == i % 2 and i != u % 12]
    items = pd.DataFrame({"item_id": [f"i{i}" for i in range(12)]})
    items["title"] = [("red apple", "blue sky")[i % 2] for i in range(12)]
    pairs = pd.DataFrame(rows, columns=["user_id", "item_id"])
    data = mmrec.from_frames(pairs, items, to=tmp_path / "data", kinds={"title": "text"})
    assert isinstance(data, mmrec.Dataset)
    mmrec.split(data, "leave-one-out")
    features = mmrec.encode(data, dim=2, name="words", show_progress=False)
    assert isinstance(features, mmrec.FeatureTable)
    run = mmrec.train(
        "itemknn", data, features={"text": "words"}, params={"source": "features"}, run=tmp_path / "run",
        overrides=["train.monitor=recall@3", "evaluate.ks=[3, 5]"],
    )  # fmt: skip
    assert isinstance(run, mmrec.Run)
    result = mmrec.evaluate(run)
    assert result["metrics"]["recall@5"] == 1.0  # at most five unseen items of the own group are left
    [best] = mmrec.recommend(run, "u0", k=2)
    assert all(int(entry["item"][1:]) % 2 == 0 for entry in best["items"])
    assert "itemknn" in mmrec.compare([run.path], metrics=["recall@3"]).to_markdown()
    assert mmrec.load(data.path).hash == data.hash
    with pytest.raises(mmrec.MMRecError):
        mmrec.load(tmp_path)
