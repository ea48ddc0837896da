from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mmrec.bundle.bundle import Bundle
from mmrec.bundle.export import export
from mmrec.data.dataset import Dataset
from mmrec.runs import Run
from mmrec.serve.engine import Engine
from mmrec.train import train
from tests.bundle.conftest import BOTH
from tests.serve.clients import Server, start_server
from tests.small_shop import config_of

# One model for each kind of bundle that is answered in a way of its own, and the index that its bundle has.
MODELS = {
    "lightgcn": ({"params": {"dim": 8}}, "faiss-hnsw"),
    "unisrec": ({"params": {"dim": 8, "max_length": 5, "experts": 2}, "features": BOTH}, None),
    "ease": ({"params": {}, "features": BOTH}, None),
}


@pytest.fixture(scope="session")
def runs(small_shop: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("served")
    return {
        name: train(
            config_of(small_shop, name, epochs=2, lr=0.05, **sections), run=folder / name, show_progress=False
        )
        for name, (sections, _) in MODELS.items()
    }


@pytest.fixture(scope="session")
def bundles(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle of each of :data:`MODELS`, with pictures; copy it before altering it."""
    folder = tmp_path_factory.mktemp("bundles")
    return {
        name: export(runs[name], folder / name, images="copy", index=index)
        for name, (_, index) in MODELS.items()
    }


@pytest.fixture(scope="session")
def engines(bundles: dict[str, Path]) -> dict[str, Engine]:
    return {name: Engine(Bundle(folder)) for name, folder in bundles.items()}


@pytest.fixture(scope="session")
def engine(engines: dict[str, Engine]) -> Engine:
    """Over user and item vectors."""
    return engines["lightgcn"]


@pytest.fixture(scope="module")
def current(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A link to the bundle that the server serves."""
    link = tmp_path_factory.mktemp("server") / "current"
    link.symlink_to(bundles["lightgcn"])
    return link


@pytest.fixture(scope="module")
def server(current: Path) -> Iterator[Server]:
    """A process that serves, with short patience, and watches the link; a module's tests share it."""
    patience = ("--limit=body_seconds=0.5", "--limit=header_seconds=0.5")
    yield from start_server(current, current.parent, "--watch", *patience)
