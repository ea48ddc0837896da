"""Files as people have them, read strictly: bytes, delimited text, JSON, Parquet."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mmrec.errors import DataError, did_you_mean
from mmrec.files import sha256_file

DELIMITERS = ",\t;|"
_HEADER_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 30  # the parser's block; a row may not be longer


def read_bytes(path: Path) -> bytes:
    """Content of a file; ``.gz`` files are unpacked.

    Raises:
        DataError: No such file, empty, or damaged gzip.
    """
    if not path.is_file():
        raise DataError(f"the file {path.name}", f"no such file in {path.parent}", "check the path")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"gzip data in {path}", f"{error}", "fetch or pack the file again") from None
    if not data.strip():
        raise DataError(f"a table in {path}", "an empty file", "fetch or export the file again")
    return data


def read_text(path: Path, encodings: Sequence[str] = ("utf-8",)) -> tuple[str, str]:
    """Text of a file and the encoding it was in: the first of ``encodings`` that fits.

    Raises:
        DataError: Not text, or in none of the encodings.
    """
    data = read_bytes(path)
    if b"\0" in data:
        raise DataError(
            f"text in {path}",
            f"a zero byte at position {data.index(0):,}: a binary file or UTF-16",
            "give the exported table itself, saved as UTF-8 text",
        )
    error: UnicodeDecodeError | None = None
    for encoding in encodings:
        try:
            return data.decode("utf-8-sig" if encoding == "utf-8" else encoding), encoding
        except UnicodeDecodeError as caught:
            error = error or caught
    assert error is not None  # latin-1 never fails, so only a list without it comes here
    line = data.count(b"\n", 0, error.start) + 1
    raise DataError(
        f"{' or '.join(encodings)} text in {path}",
        f"byte 0x{data[error.start]:02x} in line {line:,}",
        f"convert it: iconv -f latin1 -t utf-8 {path.name} > converted.csv",
    )


def read_delimited(
    path: Path,
    delimiter: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    quoted: bool = True,
    encodings: Sequence[str] = ("utf-8",),
) -> pd.DataFrame:
    """A delimited text file as a table of strings; empty fields are empty strings.

    Args:
        path: The file, packed with gzip or not.
        delimiter: Field separator, of one or more characters; None looks at the header.
        columns: Column names; None takes them from the first line. Fewer fields in the file drop the last names.
        quoted: Double quotes enclose fields, which may then hold separators and line breaks.
        encodings: Tried in this order.

    Raises:
        DataError: Unreadable, no rows, unusable header, or rows with another number of fields.
    """
    text, _ = read_text(path, encodings)
    if delimiter is not None and len(delimiter) > 1:  # the fast parser takes one character only
        text, delimiter = text.replace(delimiter, "\x1f"), "\x1f"
    delimiter = delimiter or _sniff_delimiter(text)
    fields, lines = _first_row(text, delimiter, quoted=quoted)
    if columns is None:
        _check_header(fields, path)
        names = fields
    else:
        names, lines = list(columns)[: len(fields)], 0
    table = _parse(path, text.encode(), delimiter, names, skip=lines, quoted=quoted)
    if table.empty:
        raise DataError(f"rows in {path}", "only a header", "export the table again, with its rows")
    return table


def _sniff_delimiter(text: str) -> str:
    header = text[: text.find("\n")] if "\n" in text else text
    return max(DELIMITERS, key=header.count)


def _first_row(text: str, delimiter: str, *, quoted: bool) -> tuple[list[str], int]:
    """Fields of the first row and the number of lines it takes."""
    if not quoted:
        return text.split("\n", 1)[0].rstrip("\r").split(delimiter), 1
    reader = csv.reader(io.StringIO(text[:_HEADER_BYTES]), delimiter=delimiter)
    return next(reader), reader.line_num


def _check_header(names: list[str], path: Path) -> None:
    names[:] = [name.strip() for name in names]
    if "" in names:
        raise DataError(
            f"a name for each column in the first line of {path}",
            f"column {names.index('') + 1} of {len(names)} without a name",
            "name it, or save without the row numbers (pandas: index=False)",
        )
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise DataError(
            f"different column names in {path}", f"{twice[0]!r} twice", "rename or remove one of them"
        )


def _parse(
    path: Path, data: bytes, delimiter: str, names: list[str], *, skip: int, quoted: bool
) -> pd.DataFrame:
    import pyarrow as pa
    from pyarrow import csv as arrow

    if skip and b"\n" not in data.strip() and b"\r" not in data.strip():  # the parser fails on a lone header
        return pd.DataFrame(columns=pd.Index(names))
    ragged: list[Any] = []

    def remember(row: Any) -> str:
        ragged.append(row)
        return "skip"

    try:
        table: pd.DataFrame = arrow.read_csv(
            pa.BufferReader(data),
            arrow.ReadOptions(
                column_names=names,
                skip_rows=skip,
                use_threads=False,  # else rows have no number to be reported
                block_size=min(len(data) + 1, _BLOCK_BYTES),
            ),
            arrow.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                invalid_row_handler=remember,
            ),
            arrow.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
        ).to_pandas()
    except pa.ArrowInvalid as error:
        raise DataError(f"a table in {path}", str(error), "export the file again") from None
    if ragged:
        row = ragged[0]
        raise DataError(
            f"{row.expected_columns} fields in each row of {path}",
            f"{row.actual_columns} in line {row.number:,}: {row.text[:80]!r}"
            + (f", and {len(ragged) - 1:,} more such rows" if len(ragged) > 1 else ""),
            "quote fields that hold the separator, and export the file again",
        )
    _check_last_quote(path, data, table, quoted=quoted)
    return table


def _check_last_quote(path: Path, data: bytes, table: pd.DataFrame, *, quoted: bool) -> None:
    """An unclosed quote makes the parser take the rest of the file for one field."""
    if quoted and len(table) and data.count(b'"') % 2 and table.iloc[-1].str.contains("\n").any():
        raise DataError(
            f"a closing quote in {path}",
            f"row {len(table):,} runs to the end of the file: {str(table.iloc[-1].iloc[-1])[:60]!r}",
            "close the quote, and double quotes inside fields",
        )


def read_json_file(path: Path) -> Any:
    """A JSON document in which no object names a key twice.

    Raises:
        DataError: Unreadable, no JSON, or a repeated key.
    """
    text, _ = read_text(path)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in result if keys.count(key) > 1)
            raise DataError(f"each key once in {path}", f"{twice!r} twice", "remove one of them")
        return result

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise DataError(f"JSON in {path}", str(error), "fetch or export the file again") from None


def read_any_table(path: Path) -> pd.DataFrame:
    """A table from CSV, TSV, JSON lines (packed with gzip or not) or Parquet.

    Raises:
        DataError: Another suffix, or unreadable.
    """
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix.lower() in (".csv", ".tsv"):
        return read_delimited(path, "\t" if suffix.lower() == ".tsv" else None)
    if suffix.lower() == ".parquet":
        return _read_parquet(path)
    if suffix.lower() in (".jsonl", ".ndjson"):
        return _read_json_lines(path)
    raise DataError(
        "a table .csv, .tsv, .jsonl (each also .gz) or .parquet",
        path.name,
        "save the table in one of these formats",
    )


def _read_parquet(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"the file {path.name}", f"no such file in {path.parent}", "check the path")
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are both
        raise DataError(f"a Parquet table in {path}", f"{error}", "export the file again") from None
    if table.empty:
        raise DataError(f"rows in {path}", "none", "export the table again, with its rows")
    return table


def _read_json_lines(path: Path) -> pd.DataFrame:
    text, _ = read_text(path)
    lines = [line for line in text.split("\n") if line.strip()]
    try:
        rows = json.loads("[" + ",\n".join(lines) + "]")  # one call: far faster than one for each line
    except json.JSONDecodeError as error:
        found = f"{error.msg} in line {error.lineno:,}: {lines[min(error.lineno, len(lines)) - 1][:80]!r}"
        raise DataError(
            f"one JSON object per line in {path}", found, "write the table as JSON lines"
        ) from None
    if set(map(type, rows)) != {dict}:
        found = f"a {next(type(row).__name__ for row in rows if not isinstance(row, dict))}"
        raise DataError(f"one JSON object per line in {path}", found, "write the table as JSON lines")
    return pd.DataFrame(rows)


def require_columns(table: pd.DataFrame, needed: Iterable[str], name: str, *, renaming: bool = True) -> None:
    """Check that a table has the columns ``needed``.

    Args:
        table: The table.
        needed: Column names.
        name: What to call the table.
        renaming: Whether the user can say what the column is called.

    Raises:
        DataError: A column is missing; names the one that was probably meant.
    """
    columns = [str(column) for column in table.columns]
    for column in needed:
        if column not in columns:
            plain = {_plain(other): other for other in reversed(columns)}
            near = plain.get(_plain(column)) or plain.get(_plain(column.removesuffix("_id")))
            hint = f"did you mean {near!r}?" if near else did_you_mean(column, columns)
            own = near or "OWN_NAME"
            rename = (
                f", or say so: columns={{{own!r}: {column!r}}} (--column {own}={column})" if renaming else ""
            )
            raise DataError(
                f"a column {column!r} in {name}",
                f"columns {', '.join(columns)}",
                f"{hint} Rename it{rename}",
            )


def _plain(name: str) -> str:
    return name.casefold().replace("_", "").replace("-", "").replace(" ", "")


def rename_columns(table: pd.DataFrame, columns: Mapping[str, str] | None, name: str) -> pd.DataFrame:
    """The table with its owner's column names replaced by ours where ``columns`` names them.

    Raises:
        DataError: Two columns would have the same name.
    """
    present = {own: ours for own, ours in (columns or {}).items() if own in table.columns}
    names = [present.get(str(column), str(column)) for column in table.columns]
    twice = next((column for column in names if names.count(column) > 1), None)
    if twice:
        raise DataError(
            f"one column {twice!r} in {name}", "two after renaming", "drop or rename the other column"
        )
    return table.set_axis(names, axis=1)


def hash_sources(files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of the files by name, for the provenance."""
    return {file.name: sha256_file(file) for file in files}


def describe_source(
    importer: str, source: Path, files: Iterable[Path], options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The provenance of imported data: importer, source, options, and the SHA-256 of each file read."""
    return {
        "importer": importer,
        "source": str(source),
        "options": dict(options or {}),
        "source_files": hash_sources(files),
        "steps": [],
    }


def picture_folder(folder: Path) -> Path | None:
    """The folder ``images`` beside the tables, where there is one."""
    return folder / "images" if (folder / "images").is_dir() else None
