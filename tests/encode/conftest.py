"""Small datasets with texts and pictures, built by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmrec.files import sha256_file


def write_dataset(folder: Path, items: pd.DataFrame, kinds: dict[str, str]) -> Path:
    """A dataset folder of two users who took the first item."""
    folder.mkdir(parents=True, exist_ok=True)
    items.to_parquet(folder / "items.parquet", index=False)
    pd.DataFrame({"user_id": ["u0", "u1"]}).to_parquet(folder / "users.parquet", index=False)
    pd.DataFrame({"user": [0, 1], "item": [0, 0]}).to_parquet(folder / "interactions.parquet", index=False)
    names = ("items.parquet", "users.parquet", "interactions.parquet")
    files = {
        name: {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}
        for name in names
    }
    manifest = {
        "format": 1,
        "name": folder.name,
        "counts": {"users": 2, "items": len(items), "interactions": 2},
        "files": files,
        "images": "images",
        "columns": {"interactions": {}, "users": {}, "items": {"item_id": "id", **kinds}},
        "provenance": {},
    }
    (folder / "dataset.json").write_text(json.dumps(manifest))
    return folder


WORDS = [
    "red",
    "green",
    "blue",
    "old",
    "new",
    "war",
    "love",
    "space",
    "ship",
    "crime",
    "night",
    "river",
    "dog",
    "cat",
    "king",
    "queen",
    "city",
    "road",
]


def make_texts(n: int, seed: int = 0) -> list[str]:
    """Texts of 1 to 12 words."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 13, n)
    return [" ".join(generator.choice(WORDS, length)) for length in lengths]


@pytest.fixture
def text_data(tmp_path: Path) -> Callable[..., Path]:
    """Make a dataset with a column ``plot``; every tenth plot is empty."""

    def make(n: int = 50, name: str = "data") -> Path:
        texts = make_texts(n)
        texts[3::10] = [""] * len(texts[3::10])
        items = pd.DataFrame({"item_id": [f"i{row}" for row in range(n)], "plot": texts})
        return write_dataset(tmp_path / name, items, {"plot": "text"})

    return make


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub cannot be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny model by kind, made when it is first asked for."""
    root = tmp_path_factory.mktemp("models")

    def folder(kind: str) -> Path:
        from tests.encode import tiny_models

        path = root / kind
        if not path.is_dir():
            if kind == "bert":
                tiny_models.save_bert(path)
            elif kind in ("clip", "siglip"):
                tiny_models.save_towers(path, kind)
            else:
                tiny_models.save_vision(path, kind)
        return path

    return folder
