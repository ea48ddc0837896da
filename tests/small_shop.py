"""A small toy shop with a split and features, made in half a second and shared by many tests."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mmrec.data.dataset import Dataset, Split
from mmrec.data.toyshop import make_toyshop
from mmrec.encode.features import write_features

# Settings under which every model learns the shop in well under a second.
FAST: dict[str, Any] = {
    "epochs": 6,
    "batch_size": 512,
    "lr": 0.05,
    "monitor": "recall@5",
}


def make_small_shop(folder: Path) -> Dataset:
    """60 items and 150 users; features ``text-small`` tell the category, ``image-small`` the style, some are absent.

    Three items are cold under the split ``default``; there is a second split ``loo`` (leave-one-out).
    """
    from mmrec.data.split import split

    dataset = make_toyshop(folder, n_items=60, n_users=150, picture_size=16, seed=1)
    split(dataset, "leave-one-out", name="loo")
    rng = np.random.default_rng(0)
    _, category = np.unique(dataset.items["category"], return_inverse=True)
    signals = {"text": np.eye(6)[category], "image": rng.normal(size=(60, 4))}
    for modality, signal in signals.items():
        vectors = (signal + 0.1 * rng.normal(size=signal.shape)).astype(np.float32)
        present = dataset.modalities()[modality]
        write_features(
            dataset.path / "features" / f"{modality}-small", modality, vectors, present, {"encoder": "test"}
        )
    return dataset


def copy_shop(shop: Dataset, folder: Path) -> Dataset:
    """A copy to alter."""
    shutil.copytree(shop.path, folder)
    return Dataset(folder)


def config_of(shop: Dataset, model: str = "bpr", **changes: Any) -> dict[str, Any]:
    """A fast experiment on the shop; ``changes`` are keys of ``train``, or whole sections given as mappings."""
    sections = {key: value for key, value in changes.items() if isinstance(value, dict)}
    numbers = {key: value for key, value in changes.items() if key not in sections}
    return {
        "model": model,
        "data": str(shop.path),
        "params": {"dim": 8},
        "train": {**FAST, **numbers},
        "evaluate": {"ks": [5, 10]},
        **sections,
    }


def write_config(path: Path, document: dict[str, Any]) -> Path:
    """An experiment as YAML."""
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


class _Sealed(Split):
    """A split whose test part must not be read."""

    @property
    def test(self) -> Any:  # type: ignore[override]
        raise AssertionError("the test split was read")


def seal_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make reading the test part of any split an error."""
    read = Dataset.split

    def sealed(self: Dataset, name: str = "default") -> Split:
        parts = read(self, name)
        made = object.__new__(_Sealed)
        for field in ("name", "manifest", "train", "valid"):
            object.__setattr__(made, field, getattr(parts, field))
        return made

    monkeypatch.setattr(Dataset, "split", sealed)
