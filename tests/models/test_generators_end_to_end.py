"""From a dataset through its codes to trained, evaluated generators."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmrec.codes.health import read_health
from mmrec.codes.table import CodeTable
from mmrec.codes.tokenize import tokenize
from mmrec.compare import compare
from mmrec.data.dataset import Dataset
from mmrec.errors import DataError
from mmrec.runs import Run
from mmrec.train import train
from tests.learning import SMALL
from tests.small_shop import config_of, copy_shop

GRAPH = {"hidden": (8,), "epochs": 2, "graph_width": 8, "graph_dim": 6, "graph_epochs": 2}


@pytest.fixture(scope="module")
def shop(small_shop: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    own = copy_shop(small_shop, tmp_path_factory.mktemp("generators") / "shop")
    for modality in ("text", "image"):
        make(own, modality, [f"{modality}-small"])
    make(own, "graph", ["text-small", "image-small"], method="graph-rqvae", options=GRAPH)
    return own


def make(shop: Dataset, name: str, features: list[str], **changes: Any) -> CodeTable:
    usual = {"levels": 2, "size": 4, "show_progress": False, "allow_collapse": True}
    return tokenize(shop, features=features, name=name, **{**usual, **changes})


@pytest.mark.parametrize(
    ("model", "codes", "params"),
    [
        ("mmgrec", {"items": "graph"}, SMALL),
        ("graphvectors", {"items": "graph"}, {}),
        ("liger", {"items": "text"}, {**SMALL, "max_length": 5}),
        ("mscgrec", {"text": "text", "image": "image"}, {**SMALL, "max_length": 5, "target": "text"}),
    ],
)
def test_trains_and_is_evaluated(
    shop: Dataset, tmp_path: Path, model: str, codes: dict[str, str], params: dict[str, Any]
) -> None:
    features = {"features": {"text": "text-small", "image": "image-small"}} if model == "liger" else {}
    config = config_of(shop, model, epochs=1, lr=0.01, codes=codes, **features) | {"params": params}
    train(config, run=tmp_path / "run", show_progress=False)
    valid = json.loads((tmp_path / "run" / "valid.json").read_text())
    assert 0 < valid["metrics"]["recall@10"] <= 1
    (row,) = compare([tmp_path / "run"], split="valid", codes=True).rows
    for source, name in codes.items():
        health = read_health(shop.path / "codes" / name)
        assert row.codes[source]["in_use"] == min(level.usage for level in health.levels)
        assert row.codes[source]["colliding"] == health.colliding
    opened = Run(tmp_path / "run")
    rebuilt = opened.model(opened.training_data(shop, opened.split(shop)))
    if model == "mscgrec":  # the tokeniser has said which items lack a picture
        assert (
            rebuilt.there.numpy().all(0) == [shop.features(f"{m}-small").present.all() for m in codes]
        ).all()
        assert not rebuilt.there.all()


def test_the_tokeniser_says_who_lacks_content(shop: Dataset) -> None:
    for modality in ("text", "image"):
        assert np.array_equal(
            shop.codes(modality).array("present"), shop.features(f"{modality}-small").present
        )
    assert shop.codes("text").array("item_vectors") is None


def test_codes_that_know_held_out_interactions_are_refused(shop: Dataset, tmp_path: Path) -> None:
    config = config_of(shop, "graphvectors", codes={"items": "graph"}) | {"params": {}, "split": "loo"}
    with pytest.raises(DataError, match="--split loo"):
        train(config, run=tmp_path / "run", show_progress=False)
