"""MicroLens as published: pairs, titles, likes and views, categories and covers of short videos.

File names carry the edition (``MicroLens-50k_pairs.csv``); the 50k titles have a header, the 100k titles none.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd

from mmrec.data.importers.reading import describe_source, read_delimited, read_text, require_columns
from mmrec.data.raw import RawData
from mmrec.errors import DataError

_TITLES = ("*_titles.csv", "*_title_en.csv")
_KINDS = {"title": "text", "category": "tokens", "likes": "number", "views": "number"}


def import_microlens(source: str | Path) -> RawData:
    """Read ``…_pairs.csv`` and, where they exist, titles, likes and views, categories and ``…_covers/<item>.jpg``.

    Items are ordered by their number. Times are milliseconds, as in the source.

    Args:
        source: The folder with the files; the covers may lie one folder deeper, as their archive puts them.

    Raises:
        DataError: No pairs, more than one edition, or unreadable files.
    """
    folder = Path(source)
    pairs = _find(folder, "*_pairs.csv")
    if pairs is None:
        raise DataError(
            f"one file …_pairs.csv in {folder}", "none", "name the folder of the downloaded files"
        )
    interactions = read_delimited(pairs, ",")
    interactions = interactions.rename(columns={"user": "user_id", "item": "item_id"})
    require_columns(interactions, ["user_id", "item_id", "timestamp"], pairs.name, renaming=False)
    numbers = pd.to_numeric(interactions["item_id"]).drop_duplicates().sort_values()
    items = pd.DataFrame({"item_id": numbers.astype(str).to_numpy()})
    files = [pairs]
    for patterns, columns in (
        (_TITLES, ["item_id", "title"]),
        (("*_likes_and_views.txt",), ["item_id", "likes", "views"]),
        (("tags_to_summary.csv",), ["item_id", "category"]),
    ):
        file = next((file for pattern in patterns if (file := _find(folder, pattern))), None)
        if file is not None:
            items = items.merge(_read_attributes(file, columns), on="item_id", how="left")
            files.append(file)
    described = describe_source("microlens", folder, files)
    names = {"interactions": pairs.name, "items": "the videos"}
    return RawData(interactions, items, None, _covers(folder), {}, {"items": _KINDS}, described, names)


def _find(folder: Path, pattern: str) -> Path | None:
    found = sorted(folder.glob(pattern))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"one file {pattern} in {folder}", names, "keep one edition in a folder")
    return found[0] if found else None


def _read_attributes(path: Path, columns: list[str]) -> pd.DataFrame:
    """A table with or without header; in a title, separators need not be quoted."""
    text, _ = read_text(path)
    separator = "\t" if path.suffix == ".txt" else ","
    last = len(columns) - 1
    rows = [
        [*row[:last], separator.join(row[last:])]
        for row in csv.reader(text.splitlines(keepends=True), delimiter=separator)
        if row
    ]
    if rows and not rows[0][0].strip().isdigit():
        rows = rows[1:]
    odd = next((row for row in rows if len(row) != len(columns) or not row[0].strip().isdigit()), None)
    if odd or not rows:
        raise DataError(
            f"{', '.join(columns)} in each line of {path}", repr(odd or "no rows"), "download the file again"
        )
    table = pd.DataFrame(rows, columns=columns)
    table["item_id"] = table["item_id"].str.strip()
    return table.drop_duplicates("item_id")


def _covers(folder: Path) -> Path | None:
    """The innermost folder ``…_covers``: the archive holds a folder of its own name."""
    found = sorted(
        path for path in [*folder.glob("*_covers"), *folder.glob("*_covers/*_covers")] if path.is_dir()
    )
    return found[-1] if found else None
