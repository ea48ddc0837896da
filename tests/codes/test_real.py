"""Semantic IDs of real catalogues: MiniLM texts and posters."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmrec.codes.health import read_health
from mmrec.codes.store import extend
from mmrec.codes.tokenize import tokenize
from mmrec.data.dataset import Dataset
from mmrec.data.importers.frames import from_frames
from mmrec.data.split import split
from tests.shared import shared_data

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_texts_of_a_real_catalogue(tmp_path: Path) -> None:
    source = ROOT / "datasets" / "amazon-scientific"
    if not (source / "features" / "text-minilm" / "manifest.json").is_file():
        pytest.skip(f"no features text-minilm in {source}: get, import, split and encode it first")
    shutil.copytree(source, tmp_path / "data", ignore=shutil.ignore_patterns("codes"))
    dataset = Dataset(tmp_path / "data")
    table = tokenize(dataset, features=["text-minilm"], name="kmeans", show_progress=False)
    health = read_health(dataset.path / "codes" / "kmeans")
    assert table.sizes == (256,) * 4
    assert all(level.usage == 1 and level.balance > 0.95 for level in health.levels)
    assert health.levels[-1].prefixes > 0.85 * dataset.n_items
    assert health.largest_before < 20
    assert health.reconstruction < 0.4
    assert health.neighbourhood > 0.45
    new = np.array(dataset.features("text-minilm").vectors[:20])
    assert (extend(dataset.path / "codes" / "kmeans", new)[:, :3] == table.codes[:20, :3]).all()


@pytest.mark.slow
def test_posters_by_self_distillation(tmp_path: Path) -> None:
    """A few hundred real pictures for about a minute: the teacher does not collapse, the codes are used."""
    pictures = sorted((shared_data("ml1m") / "images").glob("*.jpg"))[:320]
    if len(pictures) < 320:
        pytest.skip("320 posters are needed")
    (tmp_path / "posters").mkdir()
    for picture in pictures:
        shutil.copy(picture, tmp_path / "posters" / picture.name)
    ids = [picture.stem for picture in pictures]
    interactions = pd.DataFrame({"user_id": np.repeat(["a", "b", "c"], 320), "item_id": ids * 3})
    dataset = from_frames(
        interactions, pd.DataFrame({"item_id": ids}), images=tmp_path / "posters", to=tmp_path / "data"
    )
    split(dataset, "random")
    options = {"epochs": 12, "picture_size": 64, "global_size": 48, "local_size": 24, "batch_size": 32}
    tokenize(dataset, method="rq-dino", size=16, name="dino", options=options, show_progress=False)
    health = read_health(dataset.path / "codes" / "dino")
    assert health.absent == 0
    assert min(health.notes["entropy"]) > 0.5
    assert all(level.usage > 0.6 for level in health.levels)
    assert health.levels[-1].prefixes > 100
    assert health.reconstruction < 0.8
