"""A dataset folder read back: tables, id maps, splits and features, checked by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmrec.data.histories import Histories, Ids
from mmrec.errors import DataError, FeatureError, did_you_mean
from mmrec.files import changed_file, hash_of_files, read_json, read_table

if TYPE_CHECKING:
    import pandas as pd

    from mmrec.codes.table import CodeTable
    from mmrec.data.rows.dataset import RowDataset
    from mmrec.encode.features import FeatureTable

FORMAT = 1
PARTS = ("train", "valid", "test")  # label 0, 1, 2 of a split; -1 marks an interaction that is left out


@dataclass(frozen=True, eq=False)
class Split:
    """Which interactions are for training, validation and test.

    Attributes:
        name: Folder name of the split.
        manifest: Protocol, options, seed, counts and hashes as written by :func:`mmrec.data.split.write_split`.
        train: Training items of each user.
        valid: Validation items of each user.
        test: Test items of each user. Only :func:`mmrec.evaluate.evaluate` and the reports read it.
    """

    name: str
    manifest: Mapping[str, Any]
    train: Histories
    valid: Histories
    test: Histories

    @property
    def hash(self) -> str:
        """Content hash of the labels."""
        return str(self.manifest["labels_sha256"])


@dataclass(frozen=True, eq=False)
class TrainingData:
    """All that a model may see: sizes, training histories and item features.

    Attributes:
        n_users: Number of users, with and without training interactions.
        n_items: Number of items, with and without training interactions.
        train: Training items of each user, no pair twice.
        features: Feature tables by modality (``text``, ``image``, …).
        codes: Semantic IDs by what they are made from.
        in_time: Gives :attr:`train` with each user's items in the order of time; None where they are so already.
    """

    n_users: int
    n_items: int
    train: Histories
    features: Mapping[str, FeatureTable]
    in_time: Callable[[], Histories] | None = None
    codes: Mapping[str, CodeTable] = field(default_factory=dict)

    @cached_property
    def sequences(self) -> Histories:
        """Training items of each user, oldest first.

        Raises:
            DataError: It is not known when they happened.
        """
        return self.train if self.in_time is None else self.in_time()


class Dataset:
    """A dataset folder (``dataset.json``, Parquet tables, ``images/``, ``splits/``, ``features/``).

    Internal ids are row numbers: item ``i`` is row ``i`` of :attr:`items`, user ``u`` row ``u`` of :attr:`users`.

    Args:
        path: The folder.
        check: Compare the tables' SHA-256 with those recorded at import.

    Raises:
        DataError: No dataset there, written by a newer mmrec, or changed after import.
    """

    def __init__(self, path: str | Path, *, check: bool = True) -> None:
        self.path = Path(path)
        if not (self.path / "dataset.json").is_file():
            raise DataError(
                "a dataset folder with dataset.json",
                f"none in {self.path}",
                f"mmrec data import SOURCE --to {self.path}",
            )
        self.manifest: dict[str, Any] = read_json(self.path / "dataset.json")
        if self.manifest.get("format") != FORMAT:
            raise DataError(
                f"dataset format {FORMAT}", f"{self.manifest.get('format')}", "import the data again"
            )
        changed = changed_file(self.path, self.manifest["files"]) if check else None
        if changed:
            name, found = changed
            raise DataError(
                f"{name} as it was imported",
                found,
                "restore the file, or import again into a new folder: splits and features belong to the old one",
            )

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}: {self.n_users:,} users, {self.n_items:,} items, {self.n_interactions:,} interactions)"

    @property
    def name(self) -> str:
        """Name given at import."""
        return str(self.manifest["name"])

    @property
    def hash(self) -> str:
        """Content hash of the tables."""
        return hash_of_files(self.manifest["files"])

    @property
    def n_users(self) -> int:
        """Number of users."""
        return int(self.manifest["counts"]["users"])

    @property
    def n_items(self) -> int:
        """Number of items."""
        return int(self.manifest["counts"]["items"])

    @property
    def n_interactions(self) -> int:
        """Number of interactions."""
        return int(self.manifest["counts"]["interactions"])

    @cached_property
    def interactions(self) -> pd.DataFrame:
        """Columns ``user`` and ``item`` (internal ids), and where known ``timestamp``, ``rating``, ``label``, …"""
        return read_table(self.path / "interactions.parquet")

    @cached_property
    def items(self) -> pd.DataFrame:
        """Row i is item i: ``item_id``, ``image`` (a path under :attr:`images`, or missing), texts, attributes."""
        return read_table(self.path / "items.parquet")

    @cached_property
    def users(self) -> pd.DataFrame:
        """Row u is user u: ``user_id`` and attributes."""
        return read_table(self.path / "users.parquet")

    @property
    def images(self) -> Path:
        """Folder of the pictures; ``items["image"]`` is relative to it."""
        return self.path / str(self.manifest.get("images", "images"))

    @cached_property
    def _user_rows(self) -> dict[str, int]:
        return {user_id: row for row, user_id in enumerate(self.users["user_id"].tolist())}

    @cached_property
    def _item_rows(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.items["item_id"].tolist())}

    def user(self, user_id: str) -> int:
        """Internal id of a user.

        Raises:
            DataError: Unknown user.
        """
        return find_row(self._user_rows, user_id, f"a user of {self.name}")

    def item(self, item_id: str) -> int:
        """Internal id of an item.

        Raises:
            DataError: Unknown item.
        """
        return find_row(self._item_rows, item_id, f"an item of {self.name}")

    def split_names(self) -> list[str]:
        """Names of the splits made so far (their manifests are written last)."""
        return sorted(file.stem for file in (self.path / "splits").glob("*.json"))

    def split(self, name: str = "default") -> Split:
        """Read a split.

        Raises:
            DataError: No such split, damaged, or it belongs to other interactions.
        """
        labels = self.split_labels(name)
        users = self.interactions["user"].to_numpy(dtype=np.int64)
        items = self.interactions["item"].to_numpy(dtype=np.int64)
        parts = [
            Histories.from_pairs(users[labels == p], items[labels == p], self.n_users)
            for p in range(len(PARTS))
        ]
        return Split(name, read_json(self.path / "splits" / f"{name}.json"), *parts)

    def split_labels(self, name: str = "default") -> NDArray[np.int8]:
        """Labels ``(n_interactions,)`` of a split: 0 train, 1 valid, 2 test, -1 left out.

        Raises:
            DataError: No such split, damaged, or it belongs to other interactions.
        """
        folder = self.path / "splits"
        if name not in self.split_names():
            found = ", ".join(self.split_names()) or "none yet"
            raise DataError(
                f"the split {name!r} of {self.path}", found, f"mmrec data split {self.path} --name {name}"
            )
        manifest = read_json(folder / f"{name}.json")
        labels: NDArray[np.int8] = read_table(folder / f"{name}.parquet")["label"].to_numpy()
        if manifest["dataset"] != self.hash or len(labels) != self.n_interactions:
            raise DataError(
                f"the split {name!r} of this dataset",
                "one of other interactions",
                f"mmrec data split {self.path} --name {name} --overwrite",
            )
        if hashlib.sha256(labels.tobytes()).hexdigest() != manifest["labels_sha256"]:
            raise DataError(
                f"the labels of the split {name!r} as they were written",
                f"{folder / name}.parquet was changed or damaged",
                f"restore it, or make it again: mmrec data split {self.path} --name {name} --overwrite",
            )
        return labels

    def text_columns(self) -> list[str]:
        """Columns of :attr:`items` with free text, in the order of the table: a title before its description."""
        return text_columns_of(self.items, self.manifest["columns"].get("items", {}))

    def titles(self) -> dict[str, str]:
        """External item id to a short name for people; empty where there is no text."""
        if not self.text_columns():
            return {}
        return dict(
            zip(self.items["item_id"].tolist(), titles_of(self.items, self.text_columns()), strict=True)
        )

    def modalities(self) -> dict[str, NDArray[np.bool_]]:
        """Which items ``(n_items,)`` have an ``image`` and which have a ``text``; only modalities that some item has."""
        return modalities_of(self.items, self.text_columns())

    def feature_names(self) -> list[str]:
        """Names of the feature tables made so far."""
        return item_tables(self.path, "features")

    def features(self, name: str) -> FeatureTable:
        """Open a feature table (memory-mapped).

        Raises:
            FeatureError: No such features, or they do not fit the items.
        """
        from mmrec.encode.features import FeatureTable

        folder = find_item_table(
            self.path, "features", name, f"mmrec encode {self.path} --modality text --name {name}"
        )
        return FeatureTable.open(folder, n_items=self.n_items)

    def code_names(self) -> list[str]:
        """Names of the code tables made so far."""
        return item_tables(self.path, "codes")

    def codes(self, name: str) -> CodeTable:
        """Open a table of semantic IDs.

        Raises:
            FeatureError: No such codes, or they are not of these items.
        """
        from mmrec.codes.table import CodeTable

        folder = find_item_table(self.path, "codes", name, f"mmrec tokenize {self.path} --name {name}")
        return CodeTable.open(folder, n_items=self.n_items)

    def training_data(
        self, split: Split, features: Mapping[str, str], codes: Mapping[str, str] | None = None
    ) -> TrainingData:
        """What a model may see of this dataset.

        Args:
            split: Its training pairs.
            features: Modality to the name of a feature table.
            codes: Source to the name of a code table.
        """
        return TrainingData(
            self.n_users,
            self.n_items,
            split.train,
            {modality: self.features(name) for modality, name in features.items()},
            lambda: self.in_time(split.train),
            {source: self.codes(name) for source, name in (codes or {}).items()},
        )

    @cached_property
    def time_column(self) -> str | None:
        """What says which interaction came first, ``timestamp``, else ``position``; None if neither is known of all."""
        table = self.interactions
        known = (name for name in ("timestamp", "position") if name in table and table[name].notna().all())
        return next(known, None)

    def in_time(self, part: Histories) -> Histories:
        """The items of each user by ``timestamp``, else by ``position``; equal times in the order of the file.

        Raises:
            DataError: Neither is known of every interaction.
        """
        table = self.interactions
        if self.time_column is None:
            raise DataError(
                "a timestamp or a position for each interaction, to know what came first",
                f"columns {', '.join(map(str, table.columns))} in {self.path}, none of them complete",
                "import the data with its times, or choose a model that does not read sequences (mmrec models)",
            )
        rows = np.lexsort([table[self.time_column].to_numpy()])
        pairs = (table["user"].to_numpy() * self.n_items + table["item"].to_numpy())[rows]
        inside = np.isin(pairs, part.users * self.n_items + part.items)
        users, items = np.divmod(pairs[inside], self.n_items)
        return Histories.from_pairs(users, items, self.n_users)


def load(path: str | Path) -> Dataset | RowDataset:
    """Open a folder of users and items, or one of rows with labels, after comparing its tables with what was imported.

    Raises:
        DataError: No dataset there, or one that was changed after import.
    """
    from mmrec.data.rows.dataset import RowDataset, is_row_dataset

    return RowDataset(path) if is_row_dataset(path) else Dataset(path)


def item_tables(path: Path, kind: str) -> list[str]:
    """Names of the finished tables of a kind, ``features`` or ``codes``, in a folder of items or rows."""
    return sorted(file.parent.name for file in (path / kind).glob("*/manifest.json"))


def find_item_table(path: Path, kind: str, name: str, remedy: str) -> Path:
    """The folder of such a table.

    Raises:
        FeatureError: No such table; ``remedy`` says how to make the first one.
    """
    names = item_tables(path, kind)
    if name not in names:
        hint = did_you_mean(name, names) if names else remedy
        raise FeatureError(f"{kind} {name!r} in {path}", ", ".join(names) or "none yet", hint)
    return path / kind / name


def find_row(rows: Mapping[str, int], name: str, wanted: str) -> int:
    """Internal id of an external one.

    Raises:
        DataError: Unknown.
    """
    try:
        return rows[str(name)]
    except KeyError:
        first = ", ".join(list(rows)[:3])
        raise DataError(wanted, repr(name), f"use an id such as {first}") from None


def text_columns_of(items: pd.DataFrame, kinds: Mapping[str, str]) -> list[str]:
    """Columns of ``items`` with free text, in the order of the table; ``kinds`` says of each column what it is."""
    return [str(column) for column in items.columns if kinds.get(str(column)) == "text"]


def titles_of(items: pd.DataFrame, text_columns: Sequence[str]) -> list[str]:
    """A short name of each item for people: the first text column, cut to 80 characters; empty where there is none."""
    if not text_columns:
        return [""] * len(items)
    return [str(text) for text in items[text_columns[0]].fillna("").astype(str).str.slice(0, 80)]


def modalities_of(items: pd.DataFrame, text_columns: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """Which items ``(n_items,)`` have an ``image`` and which have a ``text``; only modalities that some item has."""
    masks = {}
    if "image" in items:
        masks["image"] = items["image"].notna().to_numpy(dtype=bool)
    if text_columns:
        filled = [items[column].fillna("").astype(str).str.strip() != "" for column in text_columns]
        masks["text"] = np.any([column.to_numpy(dtype=bool) for column in filled], axis=0)
    return {modality: present for modality, present in masks.items() if present.any()}


def unique_pairs(users: Ids, items: Ids, n_items: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Mask ``(n,)`` that keeps the first occurrence of each (user, item) pair."""
    _, first = np.unique(users * n_items + items, return_index=True)
    keep = np.zeros(len(users), dtype=bool)
    keep[first] = True
    return keep
