"""A dataset folder on disk: tables, pictures, manifest, given features and the given split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmrec.data.dataset import FORMAT, Dataset
from mmrec.data.pictures import copy_pictures, find_pictures
from mmrec.data.raw import Numbered, RawData
from mmrec.data.split_files import write_split
from mmrec.encode.features import write_features
from mmrec.errors import DataError
from mmrec.files import atomic_folder, sha256_file, write_json, write_table
from mmrec.progress import note

GIVEN_SPLIT = "default"  # name of the split that comes with the data


def write_dataset(work: Numbered, raw: RawData, to: Path, *, name: str, options: dict[str, Any]) -> Dataset:
    """Write a dataset folder; it appears whole or not at all.

    Args:
        work: The tables as they shall be.
        raw: Where pictures, features and provenance come from.
        to: The new folder.
        name: Name of the dataset.
        options: Options of the preparation, for the provenance; ``link_images`` is obeyed.

    Raises:
        DataError: ``to`` is in use, or no item has a picture in the picture folder.
        DiskError: The disk is full.
    """
    _find_images(work, raw, link=bool(options["link_images"]))
    with atomic_folder(to) as folder:
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "name": name,
            "counts": {"users": len(work.users), "items": len(work.items), "interactions": len(work.user)},
            **_write_tables(work, folder),
            "provenance": {
                **raw.provenance,
                "options": {**raw.provenance.get("options", {}), **options},
                "steps": work.steps,
            },
        }
        if raw.images is not None and options["link_images"]:
            manifest["images"] = str(raw.images.resolve())
        elif raw.images is not None:
            manifest["images"] = "images"
            copy_pictures(work.items["image"].dropna().tolist(), raw.images, folder / "images")
        write_json(folder / "dataset.json", manifest)
        _write_features(work, raw, folder)
        _write_given_split(work, raw, Dataset(folder, check=False))
    dataset = Dataset(to)
    _report(dataset, work)
    return dataset


def _find_images(work: Numbered, raw: RawData, *, link: bool) -> None:
    """Fill ``items["image"]``, as paths relative to the picture folder."""
    if raw.images is None:
        if "image" in work.items.columns:  # names without a folder lead nowhere
            work.items = work.items.rename(columns={"image": "image_name"})
            work.kinds["items"]["image_name"] = "id"
            note("the items name pictures, but there is no picture folder: --images FOLDER")
        return
    pictures = find_pictures(work.items, raw.images)
    found = int(pictures.files.notna().sum())
    if not found:
        raise DataError(
            f"pictures of items in {raw.images}, named <item_id>.jpg (or png, webp, …) or in a column 'image'",
            f"none for {len(work.items):,} items such as {work.items['item_id'].iloc[0]!r}",
            "rename the pictures, name them in a column 'image', or give another folder with --images",
        )
    if pictures.absent:
        note(f"{len(pictures.absent):,} named pictures are not in {raw.images}, first {pictures.absent[0]!r}")
    work.items = work.items.assign(image=pictures.files)
    work.kinds["items"]["image"] = "image"
    counts = {"found": found, "items": len(work.items), "named_but_absent": len(pictures.absent)}
    work.steps.append({"step": "pictures", **counts, "linked": link})


def _write_tables(work: Numbered, folder: Path) -> dict[str, Any]:
    """Write the three Parquet tables; the manifest's entries ``files`` and ``columns``."""
    ids = pd.DataFrame({"user": work.user, "item": work.item})
    tables = {
        "interactions": pd.concat([ids, work.interactions], axis=1),
        "items": work.items,
        "users": work.users,
    }
    files: dict[str, dict[str, Any]] = {}
    columns: dict[str, dict[str, str]] = {}
    for table, frame in tables.items():
        file = folder / f"{table}.parquet"
        write_table(file, frame)
        files[file.name] = {"sha256": sha256_file(file), "bytes": file.stat().st_size}
        kinds = {"user": "id", "item": "id", **work.kinds[table]}
        columns[table] = {str(column): kinds[str(column)] for column in frame.columns}
    return {"files": files, "columns": columns}


def _write_features(work: Numbered, raw: RawData, folder: Path) -> None:
    source = str(raw.provenance.get("importer", "given"))
    rows = work.feature_rows
    for modality, vectors in raw.features.items():
        selected = np.asarray(vectors[np.maximum(rows, 0)], dtype=_feature_type(vectors))
        present = (rows >= 0) & (selected != 0).any(axis=1)
        manifest = {"encoder": "given", "source": source, "inputs": raw.provenance.get("source_files", {})}
        write_features(folder / "features" / f"{modality}-{source}", modality, selected, present, manifest)


def _feature_type(vectors: NDArray[Any]) -> type[np.floating[Any]]:
    return np.float16 if vectors.dtype == np.float16 else np.float32


def _write_given_split(work: Numbered, raw: RawData, dataset: Dataset) -> None:
    if "label" in work.interactions.columns:
        labels = work.interactions["label"].to_numpy(dtype=np.int8)
        source = raw.provenance.get("options", {}).get("split_file") or raw.name("interactions")
        write_split(dataset, GIVEN_SPLIT, labels, protocol="given", options={"source": source}, seed=None)


def _report(dataset: Dataset, work: Numbered) -> None:
    """One line about the new dataset, on stderr."""
    cold = dataset.n_items - int(np.count_nonzero(np.bincount(work.item)))
    unused = f" ({cold:,} without interactions)" if cold else ""
    pictures = ""
    if "image" in work.items.columns:
        pictures = f", pictures of {int(work.items['image'].notna().sum()):,} items"
    note(
        f"{dataset.path}: {dataset.n_users:,} users, {dataset.n_items:,} items{unused}, "
        f"{dataset.n_interactions:,} interactions{pictures}"
    )
