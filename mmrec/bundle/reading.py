"""Files of a folder that nobody vouches for: names stay inside, sizes and hashes come before contents, contents have limits."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mmrec.bundle.manifest import FileEntry, check_name
from mmrec.errors import BundleError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

MOST_JSON = 64 * 2**20  # bytes of a JSON file
MOST_DEPTH = 32  # of lists and objects in each other
MOST_HEADER = 16 * 2**20  # bytes before the tensors of a safetensors file
MOST_COLUMNS = 4096  # of a table
MOST_TABLE = 16 * 2**30  # bytes of a table in memory
ROWS_AT_ONCE = 512  # of a table: how far reading goes before the limit is looked at again

AGAIN = "copy the bundle again, or export the run again"
STRANGE = "do not use this bundle: ask who made it"


def open_inside(root: Path, name: str) -> int:
    """A descriptor of a regular file in ``root``; no part of its path below ``root`` may be a link.

    Raises:
        BundleError: Missing, a link, no file, or a name that leads elsewhere.
    """
    *folders, last = check_name(name).split("/")
    try:
        place = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for folder in folders:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                inner = os.open(folder, flags, dir_fd=place)
                os.close(place)
                place = inner
            # without waiting for somebody to write, should it be a pipe
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(last, flags, dir_fd=place)
        finally:
            os.close(place)
    except FileNotFoundError:
        raise BundleError(f"the file {name}", f"no such file in {root}", AGAIN) from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise BundleError(f"a file {name} inside {root}", "a link", STRANGE) from None
        raise BundleError(f"a readable file {name}", f"{error.strerror} in {root}", AGAIN) from None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise BundleError(f"a file {name} in {root}", "something that is no file", STRANGE)
    return file


def read_inside(
    root: Path, name: str, entry: FileEntry | None = None, *, check: bool = True, most: int | None = None
) -> bytes:
    """The content of a file in ``root``; what is checked is what is returned.

    Args:
        root: The folder.
        name: Relative path.
        entry: Its size, compared before anything is read, and its SHA-256.
        check: Compare the SHA-256 too.
        most: Bytes that it may have.

    Raises:
        BundleError: Not this file, or too large.
    """
    with os.fdopen(open_inside(root, name), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if entry is not None and size != entry.bytes:
            raise BundleError(f"{name} of {entry.bytes:,} bytes", f"{size:,} bytes in {root}", AGAIN)
        if most is not None and size > most:
            raise BundleError(f"{name} of at most {most:,} bytes", f"{size:,} bytes in {root}", STRANGE)
        content = file.read(size)
    if entry is not None and check and hashlib.sha256(content).hexdigest() != entry.sha256:
        raise _changed(name, entry, root)
    return content


def check_inside(root: Path, name: str, entry: FileEntry) -> None:
    """Compare a file's size and SHA-256 without keeping its content.

    Raises:
        BundleError: Another file.
    """
    with os.fdopen(open_inside(root, name), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != entry.bytes:
            raise BundleError(f"{name} of {entry.bytes:,} bytes", f"{size:,} bytes in {root}", AGAIN)
        if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
            raise _changed(name, entry, root)


def _changed(name: str, entry: FileEntry, root: Path) -> BundleError:
    return BundleError(
        f"{name} as it was written (sha256 {entry.sha256[:12]}…)", f"another content in {root}", AGAIN
    )


def parse_json(content: bytes, where: str, *, depth: int = MOST_DEPTH) -> Any:
    """JSON without what makes parsers differ or fail: keys given twice, NaN, bottomless nesting.

    Raises:
        BundleError: No such JSON.
    """
    try:
        value = json.loads(content, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"JSON in {where}", f"{error}", AGAIN) from None
    level, deep = [value], 0
    while level := [part for whole in level for part in _parts(whole)]:
        deep += 1
        if deep > depth:
            raise BundleError(f"JSON at most {depth} deep in {where}", "a deeper one", STRANGE)
    return value


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key given twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def parse_tensors(content: bytes, where: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        BundleError: Not such a file.
    """
    import safetensors
    import safetensors.torch

    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(MOST_HEADER, len(content) - 8):
        raise BundleError(
            f"a safetensors file {where} with a header of at most {MOST_HEADER:,} bytes",
            f"one of {length:,} bytes in a file of {len(content):,}: it is damaged, or another kind of file",
            AGAIN,
        )
    parse_json(content[8 : 8 + length], f"the header of {where}")
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BundleError(f"a safetensors file {where}", f"{error}", AGAIN) from None


def take(tensors: Mapping[str, Tensor], name: str, dtype: str, shape: tuple[int, ...], where: str) -> Tensor:
    """The tensor ``name``, of that type and shape; -1 stands for any length.

    Raises:
        BundleError: None, or another one.
    """
    found = tensors.get(name)
    wanted = f"{name}: {dtype} ({', '.join('any' if n < 0 else str(n) for n in shape)}) in {where}"
    if found is None:
        raise BundleError(wanted, f"{', '.join(sorted(tensors)[:5]) or 'nothing'}", AGAIN)
    same = len(found.shape) == len(shape) and all(
        n in (-1, own) for n, own in zip(shape, found.shape, strict=True)
    )
    if str(found.dtype) != f"torch.{dtype}" or not same:
        described = f"{str(found.dtype).removeprefix('torch.')} {tuple(found.shape)}"
        raise BundleError(wanted, described, AGAIN)
    return found


def parse_table(content: bytes, where: str, *, rows: int) -> pd.DataFrame:
    """A Parquet table of plain columns and lists, read with an eye on how much memory it takes.

    Raises:
        BundleError: No such table, or not of so many rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        found, schema = file.metadata.num_rows, file.schema_arrow.remove_metadata()
        if found != rows:
            raise BundleError(f"{rows:,} rows in {where}", f"{found:,}", AGAIN)
        odd = [field.name for field in schema if not _is_plain(field.type)]
        if odd or len(schema) > MOST_COLUMNS:
            reason = f"the column {odd[0]!r} of another kind" if odd else f"{len(schema):,} columns"
            raise BundleError(f"plain columns, at most {MOST_COLUMNS:,}, in {where}", reason, STRANGE)
        batches, size, count = [], 0, 0
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            size, count = size + batch.nbytes, count + len(batch)
            if size > MOST_TABLE or count > rows:
                raise BundleError(
                    f"at most {MOST_TABLE:,} bytes and {rows:,} rows in {where}", "more", STRANGE
                )
            batches.append(batch.replace_schema_metadata(None))
        table = pa.Table.from_batches(batches, schema)
        if len(table) != rows:
            raise BundleError(f"{rows:,} rows in {where}", f"{len(table):,}", AGAIN)
        frame: pd.DataFrame = table.to_pandas()
        return frame
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BundleError(f"a Parquet table {where}", f"{error}", AGAIN) from None


def _is_plain(kind: Any) -> bool:
    """Numbers, truth values, times, words, and lists or dictionaries of these."""
    import pyarrow as pa

    types = pa.types
    while types.is_list(kind) or types.is_large_list(kind) or types.is_dictionary(kind):
        kind = kind.value_type
    primitive = types.is_primitive(kind) or types.is_null(kind)
    return bool(primitive or types.is_string(kind) or types.is_large_string(kind))
