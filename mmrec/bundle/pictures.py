"""Pictures inside a bundle: copied or hard-linked in, listed with their hashes, given out as checked bytes."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from mmrec.bundle.manifest import PICTURES, FileEntry, Pictures, check_name
from mmrec.bundle.reading import AGAIN, STRANGE, parse_table, read_inside
from mmrec.data.dataset import Dataset
from mmrec.data.pictures import SUFFIXES
from mmrec.errors import BundleError, DataError
from mmrec.files import sha256_file, write_table
from mmrec.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

How = Literal["copy", "link", "none"]
FOLDER, COLUMNS = "images", ["image", "bytes", "sha256"]
# Pictures only: whatever else a web browser is given under these types, it does not run.
TYPES = dict.fromkeys((".jpg", ".jpeg"), "image/jpeg") | dict.fromkeys((".tif", ".tiff"), "image/tiff")
TYPES |= {suffix: f"image/{suffix[1:]}" for suffix in SUFFIXES if suffix not in TYPES}
MOST_BYTES = 64 * 2**20  # of a picture


def write_pictures(folder: Path, dataset: Dataset, how: How) -> Pictures | None:
    """Put the pictures of a dataset into a bundle; None where none are wanted or there are none.

    Args:
        folder: The bundle.
        dataset: Its items name the pictures.
        how: ``copy``, or ``link``: hard links, which take no space but need the same file system.

    Raises:
        DataError: A named picture is missing or no picture, or cannot be linked.
    """
    if how == "none" or "image" not in dataset.items:
        return None
    names = sorted({_checked(str(name)) for name in dataset.items["image"].dropna()})
    if not names:
        return None
    rows = []
    with Progress(f"{how} pictures", len(names), unit="pictures", show=len(names) > 10_000) as progress:
        for name in names:
            file = folder / FOLDER / name
            file.parent.mkdir(parents=True, exist_ok=True)
            _put(_source(dataset, name), file, how)
            rows.append((name, file.stat().st_size, sha256_file(file)))
            progress.advance()
    return write_list(folder, rows)


def write_list(folder: Path, rows: Sequence[tuple[str, int, str]]) -> Pictures:
    """List the pictures of a bundle: name, size and SHA-256 of each."""
    import pandas as pd

    table = pd.DataFrame(rows, columns=COLUMNS)
    write_table(folder / PICTURES, table)
    return Pictures(files=len(table), bytes=int(table["bytes"].sum()))


def _checked(name: str) -> str:
    try:
        return check_name(name)
    except BundleError as error:
        again = "rename the picture and import again, or export without pictures"
        raise DataError("plain names of pictures", error.found, again) from None


def _source(dataset: Dataset, name: str) -> Path:
    source = dataset.images / name
    if PurePosixPath(name).suffix.lower() not in TYPES or not source.is_file():
        raise DataError(
            f"the picture {name} in {dataset.images}, one of {', '.join(TYPES)}",
            "no such picture",
            "restore it, or export without pictures",
        )
    return source


def _put(source: Path, file: Path, how: How) -> None:
    if how == "link":
        try:
            os.link(source.resolve(), file)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                raise
            raise DataError(
                f"pictures that can be linked into {file.parent}",
                f"{error.strerror}: {source}",
                "copy them: --images copy",
            ) from None
        return
    shutil.copyfile(source, file)


def parse_pictures(content: bytes, pictures: Pictures) -> dict[str, FileEntry]:
    """The pictures of a bundle by name.

    Raises:
        BundleError: The list is none, or names what is no picture of the bundle.
    """
    table: pd.DataFrame = parse_table(content, PICTURES, rows=pictures.files)
    if list(table.columns) != COLUMNS or not table["image"].is_unique:
        raise BundleError(f"pictures, bytes and hashes in {PICTURES}", "another table", AGAIN)
    names = [str(name) for name in table["image"]]
    odd = [name for name in names if PurePosixPath(check_name(name)).suffix.lower() not in TYPES]
    if odd:
        raise BundleError(f"pictures ({', '.join(TYPES)})", repr(odd[0]), STRANGE)
    try:
        entries = [
            FileEntry(bytes=size, sha256=sha256)
            for size, sha256 in zip(table["bytes"].tolist(), table["sha256"].tolist(), strict=True)
        ]
    except ValidationError as error:
        raise BundleError(f"sizes and hashes in {PICTURES}", error.errors()[0]["msg"], AGAIN) from None
    return dict(zip(names, entries, strict=True))


def read_picture(root: Path, name: str, entry: FileEntry) -> tuple[bytes, str]:
    """Content and media type of a picture.

    Raises:
        BundleError: Missing, changed or not inside the bundle.
    """
    content = read_inside(root, f"{FOLDER}/{name}", entry, most=MOST_BYTES)
    return content, TYPES[PurePosixPath(name).suffix.lower()]
