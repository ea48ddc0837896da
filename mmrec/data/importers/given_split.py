"""A published split in a file of its own, joined to the interactions pair by pair."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from mmrec.data.importers.reading import read_any_table, rename_columns, require_columns
from mmrec.data.raw import RawData
from mmrec.data.values import as_ids, as_labels
from mmrec.errors import DataError
from mmrec.files import sha256_file

NAMES = {"x_label": "label", "userID": "user_id", "itemID": "item_id"}


def add_labels(raw: RawData, path: Path) -> RawData:
    """Raw data whose interactions carry the labels of a split file.

    Args:
        raw: Interactions without labels.
        path: Table with ``user_id``, ``item_id`` and ``x_label`` or ``label``: 0 train, 1 valid, 2 test.

    Raises:
        DataError: A pair is missing on either side, or has two labels.
    """
    if "label" in raw.interactions.columns:
        raise DataError(
            "interactions without labels", f"labels in {raw.name('interactions')}", "leave out --split-file"
        )
    table = rename_columns(read_any_table(path), NAMES, path.name)
    require_columns(table, ["user_id", "item_id", "label"], path.name)
    require_columns(raw.interactions, ["user_id", "item_id"], raw.name("interactions"))
    labels = as_labels(table["label"], "x_label", path.name).to_numpy()
    sides = {
        name: [as_ids(frame[column], column, name) for column in ("user_id", "item_id")]
        for name, frame in ((path.name, table), (raw.name("interactions"), raw.interactions))
    }
    users = pd.factorize(pd.concat([side[0] for side in sides.values()], ignore_index=True))[0].astype(
        np.int64
    )
    items = pd.factorize(pd.concat([side[1] for side in sides.values()], ignore_index=True))[0].astype(
        np.int64
    )
    pairs = users * (items.max() + 1) + items
    split, data = pairs[: len(table)], pairs[len(table) :]
    known = pd.DataFrame({"pair": split, "label": labels}).drop_duplicates()
    if known["pair"].duplicated().any():
        twice = int(known["pair"].duplicated().sum())
        raise DataError(f"one label for each pair in {path}", f"{twice:,} pairs with two", "correct the file")
    _check_same_pairs(raw, path, sides, split, data)
    provenance = dict(raw.provenance)
    provenance["source_files"] = {**provenance.get("source_files", {}), path.name: sha256_file(path)}
    provenance["options"] = {**provenance.get("options", {}), "split_file": path.name}
    interactions = raw.interactions.assign(label=known.set_index("pair")["label"].loc[data].to_numpy())
    return dataclasses.replace(raw, interactions=interactions, provenance=provenance)


def _check_same_pairs(
    raw: RawData,
    path: Path,
    sides: dict[str, list[pd.Series[str]]],
    split: np.ndarray[tuple[int], np.dtype[np.int64]],
    data: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> None:
    inter = raw.name("interactions")
    for name, other, absent in (
        (inter, path.name, ~np.isin(data, split)),
        (path.name, inter, ~np.isin(split, data)),
    ):
        if absent.any():
            row = int(absent.argmax())
            users, items = sides[name]
            raise DataError(
                f"the same (user, item) pairs in {inter} and {path.name}",
                f"{int(absent.sum()):,} pairs of {name} are not in {other}, the first user {users.iloc[row]!r} "
                f"and item {items.iloc[row]!r} in row {row + 1:,}",
                "take the split made for these interactions",
            )
