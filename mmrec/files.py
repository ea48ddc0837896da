"""Files that are either whole or absent: atomic writes, JSON, Parquet, arrays and content hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrec.errors import DataError, DiskError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name in the folder of ``path``; rename it to ``path`` when the block ends well.

    The content is flushed to disk before the rename, so that after a crash at any moment the file is the old
    one or the new one, never a part. When the block raises, the temporary file is removed.

    Raises:
        DiskError: The disk is full or may not be written.
    """
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``path``; rename it to ``path`` when the block ends well.

    With ``overwrite`` the two folders change names, in one step where the system can do so (Linux, on most file
    systems): whoever opens ``path`` finds the old folder or the new one. Elsewhere the old one is renamed first, and for
    that moment there is none; a kill just then leaves it as ``.NAME.old-PROCESS``.

    Raises:
        DataError: ``path`` exists and is not an empty folder.
        DiskError: The disk is full or may not be written.
    """
    taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if taken and not overwrite:
        raise DataError(
            "a new or empty folder", f"{path} with files in it", "choose another folder, or remove it first"
        )
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with disk_errors(path):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            if taken:
                _swap(temporary, path)
            else:
                if path.exists():
                    path.rmdir()
                temporary.rename(path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, path: Path) -> None:
    """Give ``path`` the new content; the old one takes the name ``new``."""
    if _exchange(new, path):
        return
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    path.rename(old)
    new.rename(path)
    old.rename(new)


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change names in one step; False where the system or the file system cannot."""
    import ctypes

    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    at_working_folder, exchange = -100, 2
    failed = call(at_working_folder, os.fsencode(one), at_working_folder, os.fsencode(other), exchange)
    return bool(failed == 0)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what processes that were killed while writing ``name`` into ``folder`` have left."""
    for path in folder.glob(f".{name}.partial-*"):
        process = path.name.rpartition("-")[2]
        if process.isdecimal() and not _is_alive(int(process)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` atomically as indented JSON with sorted keys."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def read_json(path: Path) -> Any:
    """Read a JSON file that mmrec wrote.

    Raises:
        DataError: The file is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"the file {path.name}", f"no such file in {path.parent}", "check the folder's name"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"JSON in {path}", f"{error}", "restore the file or make the folder again") from None


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table atomically as Parquet."""
    with atomic_path(path) as temporary:
        table.to_parquet(temporary, index=False)


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet table that mmrec wrote.

    Raises:
        DataError: The file is missing or damaged.
    """
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise DataError(
            f"the table {path.name}", f"no such file in {path.parent}", "check the folder's name"
        ) from None
    except (OSError, ValueError) as error:  # pyarrow's errors are both
        raise DataError(
            f"a Parquet table in {path}", f"{error}", "restore the file or import the data again"
        ) from None


def write_array(path: Path, array: np.ndarray[Any, Any]) -> None:
    """Write an array atomically as .npy without pickle."""
    import numpy as np

    whole = np.asarray(array, order="C")
    if whole.dtype.hasobject:
        raise TypeError("arrays of Python objects need pickle")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        # Not np.save: it writes with C's stdio and hides the reason when the disk is full.
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(whole))
        file.write(whole.reshape(-1).view(np.uint8).data)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of_files(recorded: Mapping[str, Any]) -> str:
    """Content hash of files as a manifest records them: ``{name: {"sha256": …, "bytes": …}}``."""
    return content_hash({name: entry["sha256"] for name, entry in recorded.items()})


def changed_file(folder: Path, recorded: Mapping[str, Any]) -> tuple[str, str] | None:
    """Name of the first file that is not as a manifest records it (:func:`hash_of_files`), and what was found."""
    for name, entry in recorded.items():
        file = folder / name
        if not file.is_file():
            return name, f"no such file in {folder}"
        if file.stat().st_size != entry["bytes"] or sha256_file(file) != entry["sha256"]:
            return name, f"{file} was changed since"
    return None


def content_hash(value: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form: the key of every cache."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors about a disk that is full or may not be written into DiskError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _WRITE_ERRORS:
            raise
        free = _free_bytes(path)
        raise DiskError(
            f"a disk that takes {path}",
            f"{error.strerror or error} ({free / 2**20:.0f} MiB free); nothing half-written was left",
            "free space or choose another folder, then run the same command again",
        ) from error


def _free_bytes(path: Path) -> int:
    folder = path
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut (the folder entry is data too)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
