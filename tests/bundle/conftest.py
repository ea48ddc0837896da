from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmrec.bundle.export import export
from mmrec.codes.tokenize import tokenize
from mmrec.data.dataset import Dataset
from mmrec.runs import Run
from mmrec.train import train
from tests.learning import SMALL
from tests.small_shop import config_of, copy_shop

BOTH = {"text": "text-small", "image": "image-small"}
# One model for each kind of bundle, and one of sequences that reads features.
MODELS = {
    "lightgcn": {"params": {"dim": 8}},
    "unisrec": {"params": {"dim": 8, "max_length": 5, "experts": 2}, "features": BOTH},
    "ease": {"params": {}, "features": BOTH},
    "tiger": {"params": {**SMALL, "max_length": 5}, "codes": {"items": "text"}},
}


@pytest.fixture(scope="session")
def shop(small_shop: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    own = copy_shop(small_shop, tmp_path_factory.mktemp("bundles") / "shop")
    tokenize(
        own, features=["text-small"], name="text", levels=2, size=8, show_progress=False, allow_collapse=True
    )
    return own


@pytest.fixture(scope="session")
def runs(shop: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A finished run of each of :data:`MODELS`."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: train(
            config_of(shop, name, epochs=1, lr=0.01, **sections), run=folder / name, show_progress=False
        )
        for name, sections in MODELS.items()
    }


@pytest.fixture(scope="session")
def folders(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle of each run; copy it before altering it."""
    folder = tmp_path_factory.mktemp("bundles")
    return {name: export(run, folder / name) for name, run in runs.items()}


@pytest.fixture
def lightgcn(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a bundle of vectors to alter."""
    return Path(shutil.copytree(folders["lightgcn"], tmp_path / "lightgcn"))


@pytest.fixture
def ease(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a bundle of scores to alter."""
    return Path(shutil.copytree(folders["ease"], tmp_path / "ease"))
