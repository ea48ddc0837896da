"""A shop of two tastes for rankers: small, learned in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmrec.data.dataset import Dataset
from mmrec.data.importers.frames import from_frames
from mmrec.data.rows.dataset import RowDataset
from mmrec.data.split import split
from mmrec.encode.features import write_features
from tests.worlds import write_dataset

FAST = {"epochs": 5, "batch_size": 64, "lr": 0.02}
N_USERS, N_ITEMS = 60, 40


def make_tastes(folder: Path) -> Dataset:
    """Users and items of two tastes; each user has ten of the twenty items of the own one, one after the other."""
    rng = np.random.default_rng(0)
    table = {**_tastes(rng), "timestamp": np.arange(10 * N_USERS)}
    dataset = write_dataset(folder, table, {"shelf": np.arange(N_ITEMS) % 4})
    return _finish(dataset, rng)


def make_rated_tastes(folder: Path) -> Dataset:
    """The same with ratings, half of them below 4, with attributes of users, some missing, and of items."""
    rng = np.random.default_rng(0)
    own = _tastes(rng)
    who, what = np.arange(N_USERS), np.arange(N_ITEMS)
    table = pd.DataFrame(
        {
            "user_id": [f"u{user}" for user in own["user"]],
            "item_id": [f"i{item}" for item in own["item"]],
            "timestamp": np.arange(10 * N_USERS),
            "rating": np.where((own["user"] // 2 + own["item"] // 2) % 2, 5, 2),
        }
    )
    users = pd.DataFrame(
        {
            "user_id": [f"u{user}" for user in who],
            "city": [None if user % 7 == 0 else f"c{user % 5}" for user in who],
            "likes": [", ".join(["red", "green", "blue"][: user % 4]) or None for user in who],
            "age": np.where(who % 6 == 0, np.nan, 20 + who),
        }
    )
    items = pd.DataFrame(
        {
            "item_id": [f"i{item}" for item in what],
            "tags": [", ".join(["new", "old"][: 1 + item % 2]) for item in what],
            "price": what / 2,
        }
    )
    return _finish(from_frames(table, items, users, to=folder), rng)


def _tastes(rng: np.random.Generator) -> dict[str, Any]:
    items = np.concatenate([user % 2 + 2 * rng.permutation(N_ITEMS // 2)[:10] for user in range(N_USERS)])
    return {"user": np.repeat(np.arange(N_USERS), 10), "item": items}


def _finish(dataset: Dataset, rng: np.random.Generator) -> Dataset:
    """A split, and features that tell the taste, which three items lack."""
    split(dataset, "random-rows", seed=0)
    vectors = np.eye(2)[np.arange(N_ITEMS) % 2] + 0.1 * rng.normal(size=(N_ITEMS, 2))
    present = np.arange(N_ITEMS) > 2
    write_features(
        dataset.path / "features/text-small", "text", vectors.astype(np.float32), present, {"encoder": "test"}
    )
    return dataset


def ranker_config(rows: RowDataset, model: str = "din", **changes: Any) -> dict[str, Any]:
    """A fast experiment on rows; ``changes`` are keys of ``train``."""
    return {
        "model": model,
        "data": str(rows.path),
        "features": {"text": "text-small"},
        "params": {} if model == "lr" else {"dim": 8},
        "train": {**FAST, **changes},
    }
