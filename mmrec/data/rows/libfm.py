"""Rows in the format of libFM: ``label index:1 index:1 …``, one feature for each field, in the order of the fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmrec.config import validate
from mmrec.data.importers.reading import describe_source
from mmrec.data.rows.reading import count_rows, text_chunks
from mmrec.data.rows.schema import Schema
from mmrec.data.rows.source import RowSource, files_of, part_streams
from mmrec.errors import DataError

SUFFIXES = (".libfm", ".libsvm", ".svm", ".libfm.gz", ".libsvm.gz")


def read_libfm(
    source: str | Path,
    *,
    valid: str | Path | None = None,
    test: str | Path | None = None,
    fields: Sequence[str] | None = None,
    item: str | None = None,
    group: str | None = None,
    min_count: int = 1,
    valid_share: float = 0.1,
    seed: int = 0,
    name: str | None = None,
) -> RowSource:
    """Read libFM files in which every row has the same fields.

    Args:
        source: The training rows, or a folder of train, valid and test.
        valid: Validation rows; None holds out ``valid_share`` of the training rows, drawn at random.
        test: Test rows.
        fields: Names of the fields by position; ``f1``, ``f2``, … if not given.
        item: Which field is the item.
        group: Which field rows belong to.
        min_count: Training rows that a feature needs for an id of its own.
        valid_share: Share for validation.
        seed: Of the draws.
        name: Of the dataset; the name of the source if not given.

    Raises:
        ConfigError: An item that is no field.
        DataError: Unreadable files, or another number of features than fields.
    """
    path = Path(source)
    files = files_of(path, SUFFIXES, valid, test)
    names = list(fields or [f"f{place}" for place in range(1, _n_fields(files["train"]) + 1)])
    entries = {one: {"kind": "category", "min_count": min_count} for one in names}
    schema = validate(
        Schema, {"label": "label", "group": group, "item": item, "fields": entries}, "the options"
    )
    streams = {part: lambda file=file: _chunks(file, names) for part, file in files.items()}
    chunks, protocol = part_streams(streams, valid_share=valid_share, seed=seed)
    n_rows = sum(count_rows(file) for file in files.values())
    provenance = describe_source("libfm", path, files.values())
    return RowSource(name or path.stem, schema, chunks, n_rows, protocol, provenance=provenance)


def _n_fields(path: Path) -> int:
    first = next(text_chunks(path, None, " "), None)
    if first is None:
        raise DataError(f"rows in {path}", "none", "fetch the file again")
    return len(first.column_names) - 1


def _chunks(path: Path, names: Sequence[str]) -> Iterator[Any]:
    for chunk in text_chunks(path, None, " "):
        if len(chunk.column_names) != len(names) + 1:
            raise DataError(
                f"a label and {len(names)} features, {', '.join(names)}, in each row of {path}",
                f"{len(chunk.column_names) - 1} features",
                "name as many fields: --fields user,item,…",
            )
        columns = {"label": _labels(chunk.column(0), path)}
        for place, name in enumerate(names, start=1):
            columns[name] = _indices(chunk.column(place), name, path)
        yield pa.table(columns)


def _labels(column: Any, path: Path) -> Any:
    """1 and 0, of 1 and 0 or of 1 and -1."""
    known = pa.array(["1", "0", "-1", "+1"])
    places = pc.index_in(column, value_set=known)
    if places.null_count:
        odd = column.filter(pc.is_null(places))[0].as_py()
        raise DataError(f"labels 1 and -1, or 1 and 0, in {path}", repr(odd), "correct the labels")
    return pa.array([1, 0, 0, 1], pa.int8()).take(places)


def _indices(column: Any, name: str, path: Path) -> Any:
    parts = pc.extract_regex(column, r"^(?P<index>[0-9]+):(?P<value>1|1\.0)$")
    if parts.null_count:
        odd = column.filter(pc.is_null(parts))[0].as_py()
        raise DataError(
            f"a feature index:1 of the field {name!r} in each row of {path}",
            repr(odd),
            "one feature for each field, in the same order; numbers belong into a table (--format tables)",
        )
    return pc.struct_field(parts, "index")
