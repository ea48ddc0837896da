"""Tables read in chunks: Parquet, and delimited text whose values stay strings."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv as arrow
from pyarrow import parquet

from mmrec.data.importers.reading import DELIMITERS
from mmrec.data.rows.source import Stream
from mmrec.data.rows.values import no_column
from mmrec.errors import DataError

CHUNK_ROWS = 1 << 17
CHUNK_BYTES = 1 << 24  # of text; a row may not be longer
TABLES = (".parquet", ".csv", ".tsv", ".csv.gz", ".tsv.gz")
_HEADER_BYTES = 1 << 16


def stream_table(path: Path, *, columns: Sequence[str] | None = None) -> Stream:
    """The chunks of a table.

    Args:
        path: ``.parquet``, or text (``.csv``, ``.tsv``, each also ``.gz``) with a header.
        columns: Columns of a Parquet file to read; all if not given.

    Raises:
        DataError: While it is read: unreadable, or rows with another number of fields than the header.
    """
    if path.suffix == ".parquet":
        return lambda: _parquet_chunks(path, columns)
    if not path.name.endswith(TABLES):
        raise DataError(f"a table {', '.join(TABLES)}", path.name, "save it in one of these formats")

    def run() -> Iterator[Any]:
        names, delimiter, lines = _header(path)
        yield from text_chunks(path, names, delimiter, skip=lines)

    return run


def read_table(path: Path) -> Any:
    """A whole table in memory.

    Raises:
        DataError: Unreadable, or without rows.
    """
    chunks = list(stream_table(path)())
    table = pa.concat_tables(chunks) if chunks else None
    if table is None or not len(table):
        raise DataError(f"rows in {path}", "none", "export the table again, with its rows")
    return table


def count_rows(path: Path) -> int:
    """About how many rows a file has: exactly for Parquet, lines for text."""
    if path.suffix == ".parquet":
        return int(_open_parquet(path).metadata.num_rows)
    with pa.input_stream(str(path), compression="detect") as stream:
        count = 0
        while block := stream.read(CHUNK_BYTES):
            count += block.count(b"\n")
    return count


def _open_parquet(path: Path) -> Any:
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are both
        raise DataError(f"a Parquet table in {path}", f"{error}", "export the file again") from None


def _parquet_chunks(path: Path, columns: Sequence[str] | None) -> Iterator[Any]:
    file = _open_parquet(path)
    names = file.schema_arrow.names
    absent = [name for name in columns or () if name not in names]
    if absent:
        raise no_column(absent[0], list(names), str(path))
    for batch in file.iter_batches(batch_size=CHUNK_ROWS, columns=columns):
        yield pa.Table.from_batches([batch])


def _header(path: Path) -> tuple[list[str], str, int]:
    """Column names, what separates them, and how many lines the header takes."""
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            text = stream.read(_HEADER_BYTES).decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise DataError(f"the table {path.name}", f"{error}", "check the path") from None
    if not text.strip():
        raise DataError(f"a table in {path}", "an empty file", "fetch or export the file again")
    first = text.split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    names = [name.strip() for name in next(reader)]
    odd = [name for name in names if not name or names.count(name) > 1]
    if odd:
        raise DataError(
            f"a name of its own for each column in the first line of {path}",
            f"{odd[0]!r} twice" if odd[0] else "one without a name",
            "name the columns in the first line",
        )
    return names, delimiter, reader.line_num


def text_chunks(path: Path, names: Sequence[str] | None, delimiter: str, *, skip: int = 0) -> Iterator[Any]:
    """Chunks of delimited text; every value is a string.

    Args:
        path: The file, packed with gzip or not.
        names: Column names; None numbers them ``f0``, ``f1``, …
        delimiter: One character.
        skip: Lines before the rows.

    Raises:
        DataError: Unreadable, or rows with another number of fields.
    """
    try:
        if names is None:
            names = _numbered(path, delimiter)
        with pa.input_stream(str(path), compression="detect") as stream:
            reader = arrow.open_csv(
                stream,
                arrow.ReadOptions(
                    column_names=names, skip_rows=skip, use_threads=False, block_size=CHUNK_BYTES
                ),
                arrow.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                arrow.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
                ),
            )
            for batch in reader:
                yield pa.Table.from_batches([batch])
    except pa.ArrowInvalid as error:
        if "Empty CSV file" in str(error):
            return
        raise DataError(
            f"a table in {path}, UTF-8 text with {len(names or ())} fields in each row",
            " ".join(str(error).split())[:200],
            "quote fields that hold the separator, and export the file again",
        ) from None
    except OSError as error:
        raise DataError(f"the table {path.name}", f"{error}", "check the path") from None


def _numbered(path: Path, delimiter: str) -> list[str]:
    with pa.input_stream(str(path), compression="detect") as stream:
        line = stream.read(_HEADER_BYTES).decode("utf-8", errors="replace").split("\n", 1)[0]
    return [f"f{place}" for place in range(line.rstrip("\r").count(delimiter) + 1)]
