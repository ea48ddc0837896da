"""A row dataset folder read back: parts, fields and the items' side, checked by hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import parquet

from mmrec.data.dataset import PARTS, Dataset, find_item_table, item_tables
from mmrec.data.rows.encoder import Encoder
from mmrec.data.rows.histories import HistoryMode, with_histories
from mmrec.data.rows.items import read_items
from mmrec.data.rows.parts import ParquetRows
from mmrec.data.rows.schema import Schema, load_schema
from mmrec.data.rows.table import HistoryField, RowData, RowField, Rows
from mmrec.errors import DataError
from mmrec.files import changed_file, content_hash, hash_of_files, read_json

if TYPE_CHECKING:
    from mmrec.codes.table import CodeTable
    from mmrec.encode.features import FeatureTable

FORMAT = 1
ROWS_FILE = "rows.json"
BUDGET = 2 << 30  # bytes of a part that is read at once


@dataclass(frozen=True, eq=False)
class RowSplit:
    """The parts of a row dataset.

    Attributes:
        name: Always ``default``: rows are encoded for one split.
        hash: Content hash of the parts.
        manifest: ``protocol`` and its options, counts.
        train: Rows to learn from.
        valid: Rows to choose a model by.
        test: Rows that only an evaluation reads.
    """

    name: str
    hash: str
    manifest: Mapping[str, Any]
    train: Rows
    valid: Rows
    test: Rows


class RowDataset:
    """A folder of encoded rows (``rows.json``, a Parquet file for each part, ``items.parquet``, ``features/``).

    Args:
        path: The folder.
        check: Compare the tables' SHA-256 with those recorded when they were made.
        budget: Parts that take more bytes in memory are streamed.

    Raises:
        DataError: No row dataset there, written by another version, or changed.
    """

    def __init__(self, path: str | Path, *, check: bool = True, budget: int = BUDGET) -> None:
        self.path, self._budget = Path(path), budget
        if not is_row_dataset(self.path):
            raise DataError(
                f"a row dataset with {ROWS_FILE}",
                f"none in {self.path}",
                f"mmrec data rows SOURCE --to {self.path}",
            )
        self.manifest: dict[str, Any] = read_json(self.path / ROWS_FILE)
        if self.manifest.get("format") != FORMAT:
            raise DataError(
                f"row dataset format {FORMAT}", f"{self.manifest.get('format')}", "make the rows again"
            )
        changed = changed_file(self.path, self.manifest["files"]) if check else None
        if changed:
            name, found = changed
            raise DataError(f"{name} as it was written", found, "restore the file, or make the rows again")

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.manifest['parts'][part]['rows']:,} {part}" for part in PARTS)
        return f"RowDataset({self.name!r}: {counts} rows, {len(self.encoder.schema.fields)} fields)"

    @property
    def name(self) -> str:
        """Name given when the rows were made."""
        return str(self.manifest["name"])

    @property
    def hash(self) -> str:
        """Content hash of the tables."""
        return hash_of_files(self.manifest["files"])

    @cached_property
    def schema(self) -> Schema:
        """What the columns were before they were encoded."""
        return load_schema(self.manifest["schema"])

    @cached_property
    def encoder(self) -> Encoder:
        """What encoded the rows; it encodes new ones likewise."""
        vocabularies = parquet.read_table(self.path / "vocabularies.parquet")
        return Encoder.restore(self.schema, self.manifest["coders"], vocabularies)

    @cached_property
    def catalogue(self) -> Dataset | None:
        """The dataset whose items the rows are about; None where they bring their own.

        Raises:
            DataError: It is gone, or another one lies there.
        """
        entry = self.manifest.get("catalogue")
        if entry is None:
            return None
        dataset = Dataset((self.path / entry["path"]).resolve())
        if dataset.hash != entry["hash"]:
            raise DataError(
                f"the dataset that the rows of {self.path} were made from",
                f"another one in {dataset.path}",
                f"make the rows again: mmrec data rows {dataset.path} --to ANOTHER_FOLDER",
            )
        return dataset

    def rows(self, part: str) -> ParquetRows:
        """The rows of a part: train, valid or test. Nothing is read before it is asked for."""
        return ParquetRows(
            self.path / f"{part}.parquet", int(self.manifest["parts"][part]["bytes"]), self._budget
        )

    def split(self, name: str = "default", *, histories: HistoryMode = "real", seed: int = 0) -> RowSplit:
        """The parts.

        Args:
            name: ``default``.
            histories: The ``real`` ones, or, to find what they are worth, those ``shuffled`` among the rows of a part or
                ``none`` at all.
            seed: Of the shuffle.

        Raises:
            DataError: Another name than ``default``.
        """
        if name != "default":
            raise DataError(
                "the split 'default': rows are encoded for one split",
                repr(name),
                "leave split out, or make rows of another split: mmrec data rows DATASET --split NAME",
            )
        digest = content_hash({part: self.manifest["files"][f"{part}.parquet"]["sha256"] for part in PARTS})
        counts = {part: int(self.manifest["parts"][part]["rows"]) for part in PARTS}
        manifest = {**self.manifest["protocol"], "counts": counts}
        parts = (with_histories(self.rows(part), self.histories, histories, seed=seed) for part in PARTS)
        return RowSplit(name, digest, manifest, *parts)

    def training_data(
        self, split: RowSplit, features: Mapping[str, str], codes: Mapping[str, str] | None = None
    ) -> RowData:
        """What a model may see of this dataset.

        Args:
            split: Its training rows.
            features: Modality to the name of a feature table.
            codes: Source to the name of a code table.
        """
        encoder = self.encoder
        values, rows = ({}, None) if self.schema.item is None else read_items(self.path / "items.parquet")
        return RowData(
            encoder.fields,
            split.train,
            self.schema.item,
            encoder.histories,
            encoder.item_fields,
            values,
            rows,
            {modality: self.features(name) for modality, name in features.items()},
            {source: self.codes(name) for source, name in (codes or {}).items()},
        )

    @property
    def histories(self) -> tuple[HistoryField, ...]:
        """Histories of rows."""
        return self.encoder.histories

    @property
    def fields(self) -> tuple[RowField, ...]:
        """Fields of rows, without histories."""
        return self.encoder.fields

    def feature_names(self) -> list[str]:
        """Names of the items' feature tables, the catalogue's among them."""
        return self._names("features")

    def features(self, name: str) -> FeatureTable:
        """Open a feature table of the items; the rows' own one, else the catalogue's.

        Raises:
            FeatureError: No such features, or they do not fit the items.
        """
        from mmrec.encode.features import FeatureTable

        if name not in item_tables(self.path, "features") and self.catalogue is not None:
            return self.catalogue.features(name)
        return FeatureTable.open(self._find("features", name), n_items=self._n_items())

    def code_names(self) -> list[str]:
        """Names of the items' code tables, the catalogue's among them."""
        return self._names("codes")

    def codes(self, name: str) -> CodeTable:
        """Open a table of semantic IDs of the items; the rows' own one, else the catalogue's.

        Raises:
            FeatureError: No such codes, or they are not of these items.
        """
        from mmrec.codes.table import CodeTable

        if name not in item_tables(self.path, "codes") and self.catalogue is not None:
            return self.catalogue.codes(name)
        return CodeTable.open(self._find("codes", name), n_items=self._n_items())

    def _n_items(self) -> int:
        return self.encoder.coders[str(self.schema.item)].size - 2

    def _names(self, kind: str) -> list[str]:
        others: list[str] = []
        if self.catalogue is not None:
            others = self.catalogue.feature_names() if kind == "features" else self.catalogue.code_names()
        return sorted({*item_tables(self.path, kind), *others})

    def _find(self, kind: str, name: str) -> Path:
        return find_item_table(self.path, kind, name, "declare embeddings of the items in the schema")


def is_row_dataset(path: str | Path) -> bool:
    """Whether a folder holds encoded rows."""
    return (Path(path) / ROWS_FILE).is_file()
