"""Pictures of items: found by name inside one folder, copied into a dataset or linked."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from mmrec.errors import DataError
from mmrec.progress import Progress

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
)  # first wins for an item with two


@dataclass(frozen=True, eq=False)
class Pictures:
    """Which picture each item has.

    Attributes:
        files: Row i: the picture of item i relative to the folder, None where there is none.
        absent: Names that the item table gives and the folder lacks.
    """

    files: pd.Series[str]
    absent: list[str]


def find_pictures(items: pd.DataFrame, folder: Path) -> Pictures:
    """Pictures of ``items`` in ``folder``: those named in a column ``image``, else ``<item_id>.<suffix>``.

    The folder is listed once and names are looked up in that list, so that no name can lead out of the folder.

    Raises:
        DataError: No such folder, or a name that is absolute or climbs with ``..``.
    """
    if not folder.is_dir():
        raise DataError(f"the picture folder {folder}", "no such folder", "correct --images")
    listed = _list_pictures(folder)
    if "image" in items.columns:
        return _named_pictures(items["image"], listed)
    names = pd.Series(listed, dtype=object)
    flat = names[~names.str.contains("/", regex=False).astype(bool)]
    table = pd.DataFrame({"file": flat, "stem": flat.map(_stem), "rank": flat.map(_rank)})
    first = table.sort_values(["rank", "file"]).drop_duplicates("stem").set_index("stem")["file"]
    files = items["item_id"].astype(object).map(first).astype(object)
    return Pictures(files.where(files.notna(), None), [])


def _list_pictures(folder: Path) -> list[str]:
    """Names of all picture files, relative to ``folder``; links that leave it are passed over."""
    root = folder.resolve()
    found: list[str] = []
    for place, _, names in os.walk(folder):
        here = Path(place).relative_to(folder).as_posix()
        prefix = "" if here == "." else f"{here}/"
        found += [
            prefix + name
            for name in names
            if name.lower().endswith(SUFFIXES) and _stays_inside(Path(place, name), root)
        ]
    return sorted(found)


def _stays_inside(file: Path, root: Path) -> bool:
    return not file.is_symlink() or (file.is_file() and file.resolve().is_relative_to(root))


def _stem(name: str) -> str:
    return name[: name.rindex(".")]


def _rank(name: str) -> int:
    return SUFFIXES.index(name[name.rindex(".") :].lower())


def _named_pictures(column: pd.Series[str], listed: list[str]) -> Pictures:
    names = column.astype(object).where(column.notna(), "").astype(str).str.strip().str.replace("\\", "/")
    outside = names.str.startswith("/") | names.str.match(r"(?:.*/)?\.\.(?:/|$)|[A-Za-z]:/")
    if outside.any():
        row = int(outside.to_numpy().argmax())
        raise DataError(
            "picture names relative to the picture folder and inside it",
            f"{column.iloc[row]!r} in row {row + 1:,} of the items",
            "write paths inside the folder, or give the folder above with --images",
        )
    names = names.str.replace(r"^(?:\./+)+", "", regex=True).str.replace(r"/{2,}|/(?:\./)+", "/", regex=True)
    found = names.isin(listed)
    absent = names[~found & (names != "")].tolist()
    return Pictures(names.astype(object).where(found, None), absent)


def copy_pictures(files: list[str], source: Path, to: Path) -> None:
    """Copy the pictures ``files`` (relative names) from folder ``source`` to folder ``to``."""
    for parent in sorted({PurePosixPath(file).parent for file in files}):
        (to / parent).mkdir(parents=True, exist_ok=True)
    with Progress("copy pictures", len(files), unit="pictures", show=len(files) > 10_000) as progress:
        for file in files:
            shutil.copyfile(source / file, to / file)
            progress.advance()
