"""Raw rows and items to encoded ones: one coder for each field, saved as a table of words and a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mmrec.data.rows.schema import FieldSchema, Schema
from mmrec.data.rows.table import PADDING, HistoryField, Lists, RowField
from mmrec.data.rows.values import find_column, split_lists
from mmrec.data.rows.vocabulary import Coder, Fitter, Vocabulary, WordCounter, fitter, restore

TYPES = {"category": pa.int32(), "tags": pa.list_(pa.int32()), "number": pa.float32()}


class Fitters:
    """Learns the coders of some fields from chunks.

    Args:
        fields: Fields by name; histories are passed over, as they speak of items.
        given: Fitters that stand in for the usual one.
    """

    def __init__(self, fields: Mapping[str, FieldSchema], given: Mapping[str, Fitter] | None = None) -> None:
        self._fields = {name: field for name, field in fields.items() if field.kind != "history"}
        self._fitters = {name: fitter(field) for name, field in self._fields.items()} | dict(given or {})

    def add(self, chunk: Any, where: str) -> None:
        """See a chunk of training rows, an Arrow table."""
        for name, field in self._fields.items():
            column, place = find_column(chunk, field.column or name, where)
            if field.kind == "tags":
                column = split_lists(column, field.separator, place)[1]
            self._fitters[name].add(column, place)

    def finish(self) -> dict[str, Coder]:
        """The coders by field."""
        return {name: one.finish() for name, one in self._fitters.items()}


class Encoder:
    """Encodes rows and items.

    Args:
        schema: What the columns are.
        coders: By field of rows and of items; a history uses that of the item field.
    """

    def __init__(self, schema: Schema, coders: Mapping[str, Coder]) -> None:
        self.schema, self.coders = schema, coders

    @property
    def fields(self) -> tuple[RowField, ...]:
        """Fields of rows, without histories."""
        return tuple(self._row_fields(self.schema.fields))

    @property
    def item_fields(self) -> tuple[RowField, ...]:
        """Fields of items."""
        return tuple(self._row_fields(self.schema.items.fields)) if self.schema.items else ()

    @property
    def histories(self) -> tuple[HistoryField, ...]:
        """Histories of rows."""
        return tuple(HistoryField(name, field.length) for name, field in self.schema.histories.items())

    def _row_fields(self, fields: Mapping[str, FieldSchema]) -> list[RowField]:
        return [
            RowField(name, field.encoded_kind, self.coders[name].size)
            for name, field in fields.items()
            if field.kind != "history"
        ]

    def encode(self, chunk: Any, fields: Mapping[str, FieldSchema], where: str) -> dict[str, Any]:
        """Encoded columns of some fields, as Arrow arrays by field."""
        return {name: self._encode(chunk, name, field, where) for name, field in fields.items()}

    def _encode(self, chunk: Any, name: str, field: FieldSchema, where: str) -> Any:
        column, place = find_column(chunk, field.column or name, where)
        if field.kind not in ("tags", "history"):
            return pa.array(self.coders[name].encode(column, place), TYPES[field.encoded_kind])
        latest = field.kind == "history"
        rows, values = split_lists(column, field.separator, place)
        coder = self.coders[str(self.schema.item) if latest else name]
        ids = coder.encode(values, place).astype(np.int32)
        keep = ids != PADDING
        lists = cut_lists(rows[keep], ids[keep], len(chunk), field.length, latest=latest)
        return pa.ListArray.from_arrays(lists.offsets.astype(np.int32), lists.values)

    def vocabularies(self) -> Any:
        """An Arrow table ``field, value, id, count`` of all words."""
        tables = [
            pa.table(
                {
                    "field": pa.array([name] * len(coder.words), pa.string()),
                    "value": coder.words,
                    "id": pa.array(np.arange(1, len(coder.words) + 1), pa.int32()),
                    "count": coder.counts,
                }
            )
            for name, coder in self.coders.items()
            if isinstance(coder, Vocabulary)
        ]
        empty = pa.schema(
            {"field": pa.string(), "value": pa.string(), "id": pa.int32(), "count": pa.int64()}
        ).empty_table()
        return pa.concat_tables([empty, *tables])

    def document(self) -> dict[str, Any]:
        """What has to be saved besides schema and vocabularies, by field."""
        return {name: coder.document() for name, coder in self.coders.items()}

    @classmethod
    def restore(cls, schema: Schema, document: Mapping[str, Any], vocabularies: Any) -> Encoder:
        """The encoder as it was saved."""
        fields = {**schema.fields, **(schema.items.fields if schema.items else {})}
        places, end = {}, 0
        for entry in pc.value_counts(vocabularies["field"].combine_chunks()).to_pylist():
            start, end = end, end + entry["counts"]
            places[entry["values"]] = (start, end)
        coders = {}
        for name, saved in document.items():
            start, end = places.get(name, (0, 0))
            table = vocabularies.slice(start, end - start).combine_chunks()
            words = table["value"].combine_chunks()
            coders[name] = restore(fields[name], saved, words, table["count"].to_numpy())
        return cls(schema, coders)


def item_fitter(schema: Schema, item_ids: Any, *, where: str) -> Fitter | None:
    """How the ids of items are learned where there is a table of items; None: as those of other categories.

    All items of the table get an id, also those without training rows, so that their content is found by it. They
    are the first ids, in the order of the table; items that only rows name come after them.

    Args:
        schema: Names the item field.
        item_ids: The column of ids in the table of items, as words.
        where: What to call the column.
    """
    field = schema.fields[str(schema.item)]
    if field.vocabulary == "fitted":
        return WordCounter(field.min_count, field.missing, first=item_ids)
    if field.largest is not None:
        return None
    fit = fitter(field)
    fit.add(item_ids, where)
    return fit


def cut_lists(
    rows: NDArray[np.int64], ids: NDArray[np.int32], n_rows: int, length: int, *, latest: bool
) -> Lists:
    """Lists of at most ``length`` ids.

    Args:
        rows: ``(m,)`` which list an id belongs to, rising.
        ids: ``(m,)``.
        n_rows: How many lists there are.
        length: Most ids of a list.
        latest: Keep the last ids of a list instead of the first ones.
    """
    counts = np.bincount(rows, minlength=n_rows)
    ends = np.cumsum(counts)
    place = np.arange(len(rows)) - (ends - counts)[rows]  # within the list
    keep = place >= counts[rows] - length if latest else place < length
    offsets = np.concatenate([[0], np.cumsum(np.minimum(counts, length))]).astype(np.int64)
    return Lists(ids[keep], offsets)
