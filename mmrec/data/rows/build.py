"""A row dataset on disk, made of a source in two passes: fit on the training rows, then encode all rows."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import parquet

from mmrec.data.dataset import PARTS
from mmrec.data.rows.dataset import FORMAT, ROWS_FILE, RowDataset
from mmrec.data.rows.encoder import TYPES, Encoder, Fitters, item_fitter
from mmrec.data.rows.items import WHERE, fit_items, item_words, write_embeddings, write_items
from mmrec.data.rows.parts import PartWriter
from mmrec.data.rows.source import RowSource
from mmrec.data.rows.table import PADDING
from mmrec.data.rows.values import as_groups, as_labels, find_column, is_list
from mmrec.data.rows.vocabulary import WordCounter
from mmrec.errors import DataError
from mmrec.files import atomic_folder, sha256_file, write_text
from mmrec.progress import Progress


def build(
    source: RowSource,
    to: str | Path,
    *,
    missing_embeddings: Literal["error", "zero"] = "error",
    show_progress: bool = True,
) -> RowDataset:
    """Write a row dataset; the folder appears whole or not at all.

    Vocabularies, borders and moments are fitted on training rows alone; those of the items' side on the items that
    training rows are about, each once. Memory grows with the vocabularies and the table of items, not with the rows.

    Args:
        source: Raw rows.
        to: The new folder.
        missing_embeddings: What to do with items without a vector: ``error``, or ``zero`` to mark them absent.
        show_progress: Print progress to stderr.

    Raises:
        DataError: Columns that lack or hold what they must not, a part without rows, items without vectors.
        FeatureError: NaN in an embedding.
        DiskError: The disk is full.
    """
    target = Path(to)
    with atomic_folder(target) as folder:
        encoder, counts = _fit(source, show_progress=show_progress)
        parquet.write_table(encoder.vocabularies(), folder / "vocabularies.parquet")
        write_items(folder / "items.parquet", encoder, source)
        write_embeddings(folder / "features", encoder, source, missing=missing_embeddings)
        parts = _encode(source, encoder, folder, counts, show_progress=show_progress)
        _write_manifest(folder, target, source, encoder, parts)
    return RowDataset(target)


def _fit(source: RowSource, *, show_progress: bool) -> tuple[Encoder, dict[str, int]]:
    """The encoder, and the rows of each part."""
    schema = source.schema
    words = None if schema.items is None else item_words(source)
    fit = (
        None if words is None else item_fitter(schema, words, where=f"column {schema.item_key!r} of {WHERE}")
    )
    fitters = Fitters(schema.fields, {} if fit is None else {str(schema.item): fit})
    trained = WordCounter()  # items of training rows
    counts = dict.fromkeys(PARTS, 0)
    with Progress("fit", source.n_rows, unit="rows", show=show_progress) as progress:
        for part, chunk in source.chunks():
            if part == "train":
                fitters.add(chunk, "the train rows")
                if words is not None:
                    item = str(schema.item)
                    trained.add(*find_column(chunk, schema.fields[item].column or item, "the train rows"))
            counts[part] += len(chunk)
            progress.advance(len(chunk))
    _check_parts(counts)
    coders = fitters.finish()
    if words is not None:
        coders |= fit_items(schema, source.items, words, trained.finish().words)
    return Encoder(schema, coders), counts


def _check_parts(counts: Mapping[str, int]) -> None:
    empty = [part for part, count in counts.items() if not count]
    if empty:
        raise DataError(
            "rows for train, valid and test",
            f"none for {' and '.join(empty)} ({', '.join(f'{count:,} {part}' for part, count in counts.items())})",
            "check the files, or the shares that are held out",
        )


def _encode(
    source: RowSource, encoder: Encoder, folder: Path, counts: Mapping[str, int], *, show_progress: bool
) -> dict[str, dict[str, Any]]:
    """Write the parts; their entries in the manifest."""
    schema = source.schema
    kinds = {name: TYPES[field.encoded_kind] for name, field in schema.fields.items()}
    kinds |= {"label": pa.int8()} | ({"group": pa.int64()} if schema.group else {})
    unknown = {part: _Coverage(encoder) for part in PARTS}
    with ExitStack() as stack:
        progress = stack.enter_context(
            Progress("encode", sum(counts.values()), unit="rows", show=show_progress)
        )
        writers = {
            part: stack.enter_context(PartWriter(folder / f"{part}.parquet", pa.schema(kinds)))
            for part in PARTS
        }
        for part, chunk in source.chunks():
            where = f"the {part} rows"
            columns = encoder.encode(chunk, schema.fields, where)
            unknown[part].add(columns)
            label, place = find_column(chunk, schema.rule.column, where)
            columns["label"] = pa.array(as_labels(label, schema.rule, place))
            if schema.group:
                columns["group"] = pa.array(as_groups(*find_column(chunk, schema.group, where)))
            writers[part].write(columns)
            progress.advance(len(chunk))
    return {
        part: {
            "rows": writer.rows,
            "positives": writer.positives,
            "bytes": writer.bytes,
            "fields": unknown[part].shares(),
        }
        for part, writer in writers.items()
    }


class _Coverage:
    """Counts what is missing and what is unknown, by field of ids; a missing number cannot be told from the mean."""

    def __init__(self, encoder: Encoder) -> None:
        self._last = {field.name: field.size - 1 for field in encoder.fields if field.size}
        if encoder.schema.item is not None:
            last = encoder.coders[encoder.schema.item].size - 1
            self._last |= dict.fromkeys(encoder.schema.histories, last)
        self._counts = {name: [0, 0, 0, 0] for name in self._last}

    def add(self, columns: Mapping[str, Any]) -> None:
        """See a chunk."""
        for name, last in self._last.items():
            column = columns[name]
            if is_list(column.type):
                values: NDArray[Any] = column.flatten().to_numpy()
                missing = int((pc.list_value_length(column).to_numpy() == 0).sum())
            else:
                values = column.to_numpy()
                missing = int((values == PADDING).sum())
            seen = (missing, len(column), int((values == last).sum()), len(values))
            self._counts[name] = [old + new for old, new in zip(self._counts[name], seen, strict=True)]

    def shares(self) -> dict[str, dict[str, float]]:
        """Share of the rows without a value, and of the values outside the vocabulary."""
        shares = {}
        for name, (missing, rows, unknown, values) in self._counts.items():
            shares[name] = {"missing": missing / max(rows, 1), "unknown": unknown / max(values, 1)}
        return shares


def _write_manifest(
    folder: Path, target: Path, source: RowSource, encoder: Encoder, parts: Mapping[str, Mapping[str, Any]]
) -> None:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    content: dict[str, Any] = {
        "format": FORMAT,
        "name": source.name,
        "label": source.schema.label,
        "group": source.schema.group,
        "item": source.schema.item,
        "schema": source.schema.document(),
        "coders": encoder.document(),
        "fields": {one.name: {"kind": one.kind, "size": one.size} for one in encoder.fields},
        "histories": {one.name: {"length": one.length} for one in encoder.histories},
        "item_fields": {one.name: {"kind": one.kind, "size": one.size} for one in encoder.item_fields},
        "parts": parts,
        "protocol": dict(source.protocol),
        "files": {path.name: {"sha256": sha256_file(path), "bytes": path.stat().st_size} for path in files},
        "provenance": dict(source.provenance),
    }
    if source.catalogue is not None:
        path = os.path.relpath(source.catalogue["path"], target.resolve())
        content["catalogue"] = {**source.catalogue, "path": Path(path).as_posix()}
    # not write_json, which sorts: the order of the fields is theirs
    write_text(folder / ROWS_FILE, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
