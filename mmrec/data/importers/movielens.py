"""MovieLens files: fields separated by ``::``, without header, in Latin-1; other editions are passed on."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mmrec.data.importers.reading import describe_source, picture_folder, read_delimited
from mmrec.data.raw import RawData
from mmrec.errors import DataError

RATINGS = ("user_id", "item_id", "rating", "timestamp")
MOVIES = ("item_id", "title", "genres")
USERS = ("user_id", "gender", "age", "occupation", "zip_code")


def import_movielens(source: str | Path) -> RawData:
    """Read ``ratings.dat`` and, where they exist, ``movies.dat``, ``users.dat`` and posters ``images/<movie>.jpg``.

    The other editions (100K with ``u.data``; 25M, 32M and latest with ``ratings.csv``) are read as well. Each file may be packed with gzip. Ratings have three fields or, with a time, four. The year at the end of
    a title becomes a column ``year`` and stays in the title.

    Args:
        source: The folder.

    Raises:
        DataError: Unreadable files.
    """
    folder = Path(source)
    ratings = find_packed(folder, "ratings.dat")
    if ratings is None:
        return _read_other_edition(folder)
    files = [ratings]
    kinds: dict[str, dict[str, str]] = {}
    tables: dict[str, pd.DataFrame | None] = {"items": None, "users": None}
    for table, name, fields in (("items", "movies.dat", MOVIES), ("users", "users.dat", USERS)):
        file = find_packed(folder, name)
        if file is not None:
            frame = _read(file, fields)
            tables[table] = split_titles(frame) if table == "items" else frame
            kinds[table] = dict.fromkeys(frame.columns[1:], "tokens")
            files.append(file)
    if "items" in kinds:
        kinds["items"].update({"title": "text", "year": "number"})
    return RawData(
        _read(ratings, RATINGS),
        tables["items"],
        tables["users"],
        picture_folder(folder),
        {},
        kinds,
        describe_source("movielens", folder, files),
        {"interactions": ratings.name, "items": "movies.dat", "users": "users.dat"},
    )


def _read_other_edition(folder: Path) -> RawData:
    from mmrec.data.importers import movielens_files

    if (folder / "u.data").is_file():
        return movielens_files.read_100k(folder)
    if (folder / "ratings.csv").is_file():
        return movielens_files.read_csv(folder)
    raise DataError(
        f"ratings.dat or ratings.dat.gz (or u.data, or ratings.csv) in {folder}",
        "none of them",
        "name another folder",
    )


def find_packed(folder: Path, name: str) -> Path | None:
    """The file ``name`` or ``name.gz`` of a folder, or None."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read(file: Path, fields: tuple[str, ...]) -> pd.DataFrame:
    # later editions are UTF-8, which Latin-1 text with accents practically never is by chance
    return read_delimited(file, "::", columns=fields, quoted=False, encodings=("utf-8", "latin-1"))


def split_titles(movies: pd.DataFrame) -> pd.DataFrame:
    """Films with a column ``year`` from the end of the title, and genres as a list in words."""
    if "title" in movies.columns:
        movies["year"] = movies["title"].str.extract(r"\((\d{4})\)\s*$")[0]
    if "genres" in movies.columns:
        movies["genres"] = movies["genres"].str.replace("|", ", ", regex=False)
    return movies
