"""What importers hand over, checked: uniform values, known items, ids turned into row numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmrec.data.filters import Mask
from mmrec.data.histories import Ids
from mmrec.data.importers.reading import require_columns
from mmrec.data.text import clean_text
from mmrec.data.values import convert
from mmrec.errors import DataError
from mmrec.progress import note

RESERVED = ("user", "item")  # columns of internal ids in interactions.parquet


@dataclass(frozen=True, eq=False)
class RawData:
    """What an importer has read, before any filtering.

    Attributes:
        interactions: ``user_id`` and ``item_id``, where known ``timestamp``, ``rating``, ``position``, ``label``.
        items: ``item_id`` and attributes, in the order that internal ids will have; None without a table.
        users: ``user_id`` and attributes, likewise.
        images: Folder of pictures, named in ``items["image"]`` or ``<item_id>.<suffix>``.
        features: Vectors by modality, row i for row i of ``items``; rows of zeros are absent.
        kinds: Kind of columns by table (``interactions``, ``items``, ``users``); others are inferred.
        provenance: ``importer``, ``source``, ``options``, ``source_files``, ``steps``.
        names: What to call the tables in messages, for example ``{"items": "ml100k.item"}``.
    """

    interactions: pd.DataFrame
    items: pd.DataFrame | None = None
    users: pd.DataFrame | None = None
    images: Path | None = None
    features: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    kinds: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables that exist, by name."""
        every = {"interactions": self.interactions, "items": self.items, "users": self.users}
        return {table: frame for table, frame in every.items() if frame is not None}

    def name(self, table: str) -> str:
        """What to call a table in messages."""
        return self.names.get(table, f"the {table} table")


@dataclass
class Numbered:
    """Checked tables on their way to a dataset: ids are row numbers of ``items`` and ``users``.

    Attributes:
        user: ``(n,)`` row of ``users`` for each interaction.
        item: ``(n,)`` row of ``items`` for each interaction.
        interactions: The other columns of the interactions.
        items: ``item_id`` and attributes.
        users: ``user_id`` and attributes.
        kinds: Kind of each column by table.
        feature_rows: Row of each item in the raw features, -1 for items that were added.
        steps: What was done so far, for the provenance.
    """

    user: Ids
    item: Ids
    interactions: pd.DataFrame
    items: pd.DataFrame
    users: pd.DataFrame
    kinds: dict[str, dict[str, str]]
    feature_rows: Ids
    steps: list[dict[str, Any]]

    def select(self, keep: Mask) -> None:
        """Keep some interactions."""
        self.user, self.item = self.user[keep], self.item[keep]
        self.interactions = self.interactions[keep].reset_index(drop=True)


def check_and_number(raw: RawData, unknown_items: str) -> Numbered:
    """Make values uniform and turn ids into row numbers.

    Args:
        raw: The tables.
        unknown_items: ``error``, ``drop`` or ``add`` interactions with items that the item table lacks.

    Raises:
        DataError: Missing columns, unusable values, repeated or unknown ids, features that do not fit.
    """
    tables, kinds = _convert_tables(raw)
    steps = [*raw.provenance.get("steps", []), *_clean_texts(tables, kinds)]
    interactions, items, users = tables["interactions"], tables.get("items"), tables.get("users")
    if items is not None:
        _check_unique(items, "item_id", raw.name("items"))
        keep = _find_unknown(interactions, items, raw, unknown_items, steps)
        interactions = interactions[keep].reset_index(drop=True)
    if users is not None:
        _check_unique(users, "user_id", raw.name("users"))
    _check_features(raw)
    item, all_items = _number(interactions.pop("item_id"), items)
    user, all_users = _number(interactions.pop("user_id"), users)
    if users is not None and len(all_users) > len(users):
        added = len(all_users) - len(users)
        steps.append({"step": "unknown users: add", "users": added})
        note(f"{added:,} users are not in {raw.name('users')}: added without attributes")
    rows = np.arange(len(all_items), dtype=np.int64)
    rows[0 if items is None else len(items) :] = -1
    return Numbered(user, item, interactions, all_items, all_users, kinds, rows, steps)


def _convert_tables(raw: RawData) -> tuple[dict[str, pd.DataFrame], dict[str, dict[str, str]]]:
    needed = {"interactions": ["user_id", "item_id"], "items": ["item_id"], "users": ["user_id"]}
    tables: dict[str, pd.DataFrame] = {}
    kinds: dict[str, dict[str, str]] = {"items": {"item_id": "id"}, "users": {"user_id": "id"}}
    for table, frame in raw.tables().items():
        require_columns(frame, needed[table], raw.name(table))
        if frame.empty:
            raise DataError(f"rows in {raw.name(table)}", "none", "check the source")
        declared = raw.kinds.get(table, {})
        tables[table], kinds[table] = convert(frame.reset_index(drop=True), declared, raw.name(table))
    reserved = [column for column in RESERVED if column in tables["interactions"].columns]
    if reserved:
        raise DataError(
            f"no further column {reserved[0]!r} in {raw.name('interactions')}: that name is for internal ids",
            "one beside user_id and item_id",
            "rename or drop it",
        )
    return tables, kinds


def _clean_texts(
    tables: dict[str, pd.DataFrame], kinds: Mapping[str, Mapping[str, str]]
) -> list[dict[str, Any]]:
    """Clean the words of items and users in place; one step that counts the changed values of each column."""
    changed: dict[str, int] = {}
    for table in sorted(tables.keys() & {"items", "users"}):
        for column, kind in kinds[table].items():
            if kind in ("text", "tokens"):
                before = tables[table][column]
                after = clean_text(before)
                tables[table][column] = after
                changed[f"{table}.{column}"] = int((after.fillna("") != before.fillna("")).sum())
    return [{"step": "clean text", "changed": changed}] if changed else []


def _check_unique(table: pd.DataFrame, column: str, name: str) -> None:
    twice = table[column].duplicated()
    if twice.any():
        row = int(twice.to_numpy().argmax())
        raise DataError(
            f"each {column} once in {name}",
            f"{table[column].iloc[row]!r} again in row {row + 1:,} ({int(twice.sum()):,} such rows)",
            "keep one row for each",
        )


def _find_unknown(
    interactions: pd.DataFrame,
    items: pd.DataFrame,
    raw: RawData,
    unknown_items: str,
    steps: list[dict[str, Any]],
) -> Mask:
    """Mask of the interactions to keep; raises, or records a step, where items are unknown."""
    known = interactions["item_id"].isin(items["item_id"]).to_numpy(dtype=bool)
    strange = interactions["item_id"][~known]
    if strange.empty:
        return known
    counts = {"interactions": len(strange), "items": int(strange.nunique())}
    found = f"{counts['interactions']:,} interactions with {counts['items']:,} items that are not in {raw.name('items')}"
    if unknown_items == "error":
        raise DataError(
            f"only items of {raw.name('items')} in {raw.name('interactions')}",
            f"{found}, the first {strange.iloc[0]!r} in row {int(strange.index[0]) + 1:,}",
            "--unknown-items drop leaves these interactions out, add keeps the items without attributes",
        )
    if unknown_items == "drop" and len(strange) == len(interactions):
        raise DataError(
            f"interactions with items of {raw.name('items')}",
            f"none; {strange.iloc[0]!r} is unknown",
            "check that both tables use the same ids",
        )
    steps.append({"step": f"unknown items: {unknown_items}", **counts})
    note(f"{found}: {'dropped' if unknown_items == 'drop' else 'added without attributes'}")
    return known if unknown_items == "drop" else np.ones(len(known), dtype=bool)


def _number(ids: pd.Series[str], table: pd.DataFrame | None) -> tuple[Ids, pd.DataFrame]:
    """Row numbers of ids in ``table``, and the table with a row more for each id that it lacked."""
    codes, distinct = pd.factorize(ids)
    column = str(ids.name)
    if table is None:
        return codes.astype(np.int64), pd.DataFrame({column: distinct})
    rows = pd.Index(table[column]).get_indexer(distinct)
    new = rows == -1
    if new.any():
        rows[new] = len(table) + np.arange(int(new.sum()))
        table = pd.concat([table, pd.DataFrame({column: distinct[new]})], ignore_index=True)
    return rows[codes].astype(np.int64), table


def _check_features(raw: RawData) -> None:
    rows = 0 if raw.items is None else len(raw.items)
    for modality, vectors in raw.features.items():
        if vectors.ndim != 2 or len(vectors) != rows:
            raise DataError(
                f"one {modality} vector for each of the {rows:,} items",
                f"an array of shape {vectors.shape} in {raw.names.get(modality, 'the features')}",
                "export the features again, in the order of the items",
            )
