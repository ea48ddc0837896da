"""Small worlds with a planted structure, for tests of models, splits and reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmrec.codes.table import CodeTable
from mmrec.data.dataset import FORMAT, Dataset, TrainingData
from mmrec.data.histories import Histories, Ids
from mmrec.encode.features import FeatureTable
from mmrec.files import sha256_file, write_json, write_table


@dataclass(frozen=True, eq=False)
class PlantedWorld:
    """Two blocks on a checkerboard: user u likes item i exactly when both are even or both are odd.

    Attributes:
        data: What a model may see. Each user's training items are all warm items of the own block but one.
        withheld: ``(n_users,)`` that one item: whoever has understood the world ranks it first among the warm
            items that are not in training.
        cold: Items without any training interaction (the last ones); they belong to blocks as all others do.
    """

    data: TrainingData
    withheld: Ids
    cold: Ids


def planted_blocks(
    n_users: int = 24,
    n_items: int = 20,
    *,
    seed: int = 0,
    dim: int = 8,
    missing: float = 0.0,
    cold_items: int = 0,
) -> PlantedWorld:
    """A world of two blocks whose text and image features separate the blocks.

    Args:
        n_users: Number of users; even ones form one block, odd ones the other.
        n_items: Number of items, likewise.
        seed: Seed of the withheld items, of the order of the histories and of the features' noise.
        dim: Width of both feature tables.
        missing: Share of the items without text, and of others without image; no item lacks both up to 0.5.
        cold_items: Number of items, the last ones, that nobody has in training.
    """
    rng = np.random.default_rng(seed)
    n_warm = n_items - cold_items
    blocks = [rng.permutation(np.arange(block, n_warm, 2)) for block in (0, 1)]
    users = np.arange(n_users)
    withheld = np.array([blocks[u % 2][u // 2 % len(blocks[u % 2])] for u in users], dtype=np.int64)
    likes = (users[:, None] % 2 == np.arange(n_warm) % 2) & (withheld[:, None] != np.arange(n_warm))
    pairs = np.argwhere(likes)
    pairs = pairs[rng.permutation(len(pairs))]
    train = Histories.from_pairs(pairs[:, 0], pairs[:, 1], n_users)
    shuffled = rng.permutation(n_items)
    n_missing = round(missing * n_items)
    absent = {"text": shuffled[:n_missing], "image": shuffled[n_items - n_missing :]}
    features = {name: _block_features(name, n_items, dim, absent[name], rng) for name in ("text", "image")}
    data = TrainingData(n_users, n_items, train, features, codes={"items": block_codes(n_items, n_users)})
    return PlantedWorld(data, withheld, np.arange(n_warm, n_items, dtype=np.int64))


def block_codes(n_items: int, n_users: int) -> CodeTable:
    """Semantic IDs of the checkerboard: the block, then two digits of the place in it, which warm items have all.

    Beside them lie vectors of users and items, as a graph network would make them.
    """
    item = np.arange(n_items)
    place = item // 2
    codes = np.stack([item % 2, place % 7, place // 7], 1).astype(np.int32)
    rng = np.random.default_rng(0)
    vectors = {
        name: ((1 - 2 * (np.arange(n) % 2))[:, None] + rng.normal(scale=0.3, size=(n, 8))).astype(np.float32)
        for name, n in (("item_vectors", n_items), ("user_vectors", n_users))
    }
    return CodeTable("planted", codes, (2, 7, int(codes[:, 2].max()) + 1), arrays=vectors)


def _block_features(
    modality: str, n_items: int, dim: int, absent: NDArray[np.int64], rng: np.random.Generator
) -> FeatureTable:
    centre = rng.normal(size=dim)
    centre /= np.linalg.norm(centre)
    sign = 1.0 - 2.0 * (np.arange(n_items) % 2)
    vectors = sign[:, None] * centre + rng.normal(scale=0.3 / np.sqrt(dim), size=(n_items, dim))
    present = np.ones(n_items, dtype=bool)
    present[absent] = False
    vectors[absent] = 0.0
    return FeatureTable(f"{modality}-planted", modality, vectors.astype(np.float32), present)


def write_dataset(
    folder: Path,
    interactions: dict[str, Any],
    items: dict[str, Any] | None = None,
    columns: dict[str, dict[str, str]] | None = None,
) -> Dataset:
    """Write a dataset folder from columns with internal ids, without any importer.

    Args:
        folder: Where to.
        interactions: Columns ``user``, ``item``, …
        items: Columns of the items besides ``item_id``; without them only ids up to the largest one.
        columns: Kinds of the columns by table.
    """
    table = pd.DataFrame(interactions)
    n_users, n_items = int(table["user"].max()) + 1, int(table["item"].max()) + 1
    if items is not None:
        n_items = max(n_items, *(len(values) for values in items.values()))
    tables = {
        "interactions.parquet": table,
        "items.parquet": pd.DataFrame({"item_id": [f"i{i}" for i in range(n_items)], **(items or {})}),
        "users.parquet": pd.DataFrame({"user_id": [f"u{u}" for u in range(n_users)]}),
    }
    files = {}
    for name, content in tables.items():
        write_table(folder / name, content)
        files[name] = {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}
    manifest = {
        "format": FORMAT,
        "name": folder.name,
        "counts": {"users": n_users, "items": n_items, "interactions": len(table)},
        "files": files,
        "columns": columns or {},
        "images": "images",
    }
    write_json(folder / "dataset.json", manifest)
    return Dataset(folder)
