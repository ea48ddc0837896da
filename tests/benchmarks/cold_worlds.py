"""A catalogue before its cold items came: the dataset of a ``cold-item`` split without the items that it withholds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmrec.data.dataset import FORMAT, Dataset
from mmrec.data.split import TEST, TRAIN, VALID
from mmrec.data.split_files import OUT, write_split
from mmrec.encode.features import write_features
from mmrec.files import atomic_folder, sha256_file, write_json, write_table

SPLIT = "before"  # name of the split that both catalogues get


@dataclass(frozen=True, eq=False)
class Before:
    """Two datasets with the same training and validation pairs, all of warm items.

    Attributes:
        dataset: Without the withheld items: what there was when the model was trained.
        whole: With them, known by their features alone: what retraining would see.
        rows: ``(n_warm,)`` item of ``whole`` that each item of ``dataset`` is.
        cold: Items of ``whole`` withheld for ``valid`` and ``test``.
        wanted: Pairs of users and these items ``(n, 2)``, of users with training items.
    """

    dataset: Dataset
    whole: Dataset
    rows: NDArray[np.int64]
    cold: dict[str, NDArray[np.int64]]
    wanted: dict[str, NDArray[np.int64]]


def go_back(whole: Dataset, split: str, folder: Path, *, seed: int = 0) -> Before:
    """Make the catalogue before its cold items, and the split ``before`` in both.

    One training interaction of each user with three or more is for validation, drawn at random: epochs are chosen on
    items that the model knows, since no other ones exist yet.

    Args:
        whole: Dataset with a split of protocol ``cold-item``; gets the split ``before``.
        split: Name of that split.
        folder: Where the smaller dataset is written; one that is there is read.
        seed: Of the draw.
    """
    labels = whole.split_labels(split)
    users, items = (whole.interactions[name].to_numpy(dtype=np.int64) for name in ("user", "item"))
    own = _validate(users, np.flatnonzero(labels == TRAIN), len(labels), np.random.default_rng(seed))
    options = {"of": split, "seed": seed}
    write_split(whole, SPLIT, own, protocol="given", options=options, seed=None, overwrite=True)
    rows = np.unique(items[labels == TRAIN])
    if not folder.exists():
        _write(whole, rows, labels == TRAIN, folder)
    dataset = Dataset(folder)
    kept = own[labels == TRAIN]
    write_split(dataset, SPLIT, kept, protocol="given", options=options, seed=None, overwrite=True)
    parts = {"valid": labels == VALID, "test": labels == TEST}
    return Before(
        dataset,
        whole,
        rows,
        {part: np.unique(items[inside]) for part, inside in parts.items()},
        {part: np.stack([users[inside], items[inside]], 1) for part, inside in parts.items()},
    )


def _validate(
    users: NDArray[np.int64], rows: NDArray[np.int64], n: int, rng: np.random.Generator
) -> NDArray[np.int8]:
    """Labels ``(n,)``: of the interactions ``rows`` one of each user with three or more is for validation."""
    labels = np.full(n, OUT, dtype=np.int8)
    labels[rows] = TRAIN
    shuffled = rng.permutation(rows)
    _, first, count = np.unique(users[shuffled], return_index=True, return_counts=True)
    labels[shuffled[first[count >= 3]]] = VALID
    return labels


def _write(whole: Dataset, rows: NDArray[np.int64], pairs: NDArray[np.bool_], folder: Path) -> None:
    places = np.full(whole.n_items, -1)
    places[rows] = np.arange(len(rows))
    interactions = whole.interactions[pairs].reset_index(drop=True)
    interactions["item"] = places[interactions["item"].to_numpy()]
    tables = {
        "interactions": interactions,
        "items": whole.items.iloc[rows].reset_index(drop=True),
        "users": whole.users,
    }
    with atomic_folder(folder) as temporary:
        for name, table in tables.items():
            write_table(temporary / f"{name}.parquet", table)
        files = {
            file.name: {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
            for file in sorted(temporary.iterdir())
        }
        counts = {"users": whole.n_users, "items": len(rows), "interactions": len(interactions)}
        manifest = {"format": FORMAT, "name": folder.name, "counts": counts, "files": files}
        write_json(
            temporary / "dataset.json",
            {**manifest, "columns": whole.manifest["columns"], "images": str(whole.images.resolve())},
        )
        for name in whole.feature_names():
            table = whole.features(name)
            made = {key: table.manifest[key] for key in ("encoder", "inputs") if key in table.manifest}
            vectors, present = np.asarray(table.vectors)[rows], np.asarray(table.present)[rows]
            write_features(temporary / "features" / name, table.modality, vectors, present, made)
