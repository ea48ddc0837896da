"""Probabilities by the ranker of a bundle, and what is said where there is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmrec.bundle.bundle import Bundle
from mmrec.bundle.export import export
from mmrec.bundle.manifest import RANKER_CHECKPOINT
from mmrec.data.rows.catalogue import rows_from_dataset
from mmrec.errors import BundleError, ConfigError
from mmrec.serve.engine import Engine
from mmrec.serve.errors import NotFoundError
from mmrec.serve.requests import ScoreRequest
from mmrec.train import train
from tests.tastes import make_tastes, ranker_config


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("score")
    shop = make_tastes(folder / "shop")
    rows = rows_from_dataset(shop, folder / "rows", negatives=3, history=8, show_progress=False)
    ranker = train(ranker_config(rows), run=folder / "ranker", show_progress=False)
    first = train("lightgcn", shop, overrides=["train.epochs=1"], run=folder / "run", show_progress=False)
    return Engine(Bundle(export(first, folder / "bundle", ranker=ranker)))


def test_probabilities_are_the_ranker_s(engine: Engine) -> None:
    bundle, items = engine.bundle, ["i3", "i0", "i17"]
    ranker, rows = bundle.ranker(), [3, 0, 17]
    assert ranker is not None
    for request, expected in (
        (ScoreRequest(user="u7", items=items), ranker.probabilities([7], rows)),
        (
            ScoreRequest(history=["i2", "i4"], items=items),
            ranker.probabilities(None, rows, histories=[[2, 4]]),
        ),
    ):
        answer = engine.score(request)
        assert [entry["item"] for entry in answer["items"]] == items
        assert [entry["probability"] for entry in answer["items"]] == pytest.approx(expected.tolist())
    liked, other = (engine.score(ScoreRequest(user="u7", items=[item]))["items"][0] for item in ("i1", "i2"))
    assert liked["probability"] > other["probability"]


def test_a_damaged_ranker_is_found_before_anybody_asks(engine: Engine, tmp_path: Path) -> None:
    folder = shutil.copytree(engine.bundle.path, tmp_path / "bundle")
    file = folder / RANKER_CHECKPOINT
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match="as it was written"):
        Engine(Bundle(folder))


def test_what_cannot_be_scored(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        engine.score(ScoreRequest(user="nobody", items=["i3"]))
    with pytest.raises(NotFoundError):
        engine.score(ScoreRequest(user="u7", items=["nothing"]))
    with pytest.raises(ConfigError, match="give one of them"):
        engine.score(ScoreRequest(items=["i3"]))
