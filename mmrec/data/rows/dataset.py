"""A row dataset folder read back: parts, fields and the items' side, checked by hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import parquet

from mmrec.data.dataset import PARTS, Dataset
from mmrec.data.rows.encoder import Encoder
from mmrec.data.rows.histories import HistoryMode, with_histories
from mmrec.data.rows.items import read_items
from mmrec.data.rows.parts import ParquetRows
from mmrec.data.rows.schema import Schema, load_schema
from mmrec.data.rows.table import HistoryField, RowData, RowField, Rows
from mmrec.errors import DataError, FeatureError, did_you_mean
from mmrec.files import content_hash, read_json, sha256_file

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
        if check:
            self._check_files()

    def _check_files(self) -> None:
        for name, recorded in self.manifest["files"].items():
            file = self.path / name
            if not file.is_file():
                found = f"no such file in {self.path}"
            elif file.stat().st_size != recorded["bytes"] or sha256_file(file) != recorded["sha256"]:
                found = f"{file} was changed since"
            else:
                continue
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
        return content_hash({name: entry["sha256"] for name, entry in self.manifest["files"].items()})

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

        if name not in self._made("features") and self.catalogue is not None:
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

        if name not in self._made("codes") and self.catalogue is not None:
            return self.catalogue.codes(name)
        return CodeTable.open(self._find("codes", name), n_items=self._n_items())

    def _n_items(self) -> int:
        return self.encoder.coders[str(self.schema.item)].size - 2

    def _made(self, kind: str) -> list[str]:
        return sorted(file.parent.name for file in (self.path / kind).glob("*/manifest.json"))

    def _names(self, kind: str) -> list[str]:
        others: list[str] = []
        if self.catalogue is not None:
            others = self.catalogue.feature_names() if kind == "features" else self.catalogue.code_names()
        return sorted({*self._made(kind), *others})

    def _find(self, kind: str, name: str) -> Path:
        names = self._made(kind)
        if name not in names:
            hint = did_you_mean(name, names) if names else "declare embeddings of the items in the schema"
            raise FeatureError(f"{kind} {name!r} in {self.path}", ", ".join(names) or "none", hint)
        return self.path / kind / name


def is_row_dataset(path: str | Path) -> bool:
    """Whether a folder holds encoded rows."""
    return (Path(path) / ROWS_FILE).is_file()
