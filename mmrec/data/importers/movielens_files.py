"""MovieLens as GroupLens packs the other editions: 100K (``u.data``, ``u.item``) and 25M, 32M, latest (CSV)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mmrec.data.importers.movielens import split_titles
from mmrec.data.importers.reading import describe_source, picture_folder, read_delimited
from mmrec.data.raw import RawData
from mmrec.errors import DataError

_RATINGS = ["user_id", "item_id", "rating", "timestamp"]
_FILM = ["item_id", "title", "release_date", "video_release_date", "imdb_url"]
_USER = ["user_id", "age", "gender", "occupation", "zip_code"]
_GENRES = [
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
]  # fmt: skip
_KINDS = {"title": "text", "year": "number", "genres": "tokens"}


def read_100k(folder: Path) -> RawData:
    """Read ``u.data``, ``u.item`` (Latin-1, a column for each genre) and ``u.user``.

    Raises:
        DataError: Unreadable files.
    """
    files = {name: folder / name for name in ("u.data", "u.item", "u.user")}
    absent = [name for name, path in files.items() if not path.is_file()]
    if absent:
        raise DataError(
            f"u.data, u.item and u.user in {folder}", f"no {absent[0]}", "unpack ml-100k.zip again"
        )
    ratings = read_delimited(files["u.data"], "\t", columns=_RATINGS, quoted=False)
    films = read_delimited(
        files["u.item"], "|", columns=[*_FILM, *_GENRES], quoted=False, encodings=("utf-8", "latin-1")
    )
    flags = films[_GENRES[1:]] == "1"
    films["genres"] = flags.dot(pd.Series(_GENRES[1:], index=_GENRES[1:]) + ", ").str.removesuffix(", ")
    films = split_titles(films.drop(columns=[*_GENRES, "video_release_date"]))  # the latter is empty
    users = read_delimited(files["u.user"], "|", columns=_USER, quoted=False)
    kinds = {
        "items": {**_KINDS, "release_date": "tokens", "imdb_url": "id"},
        "users": dict.fromkeys(_USER[1:], "tokens"),
    }
    described = describe_source("movielens", folder, files.values())
    names = {"interactions": "u.data", "items": "u.item", "users": "u.user"}
    return RawData(ratings, films, users, picture_folder(folder), {}, kinds, described, names)


def read_csv(folder: Path) -> RawData:
    """Read ``ratings.csv``, ``movies.csv`` and, where it exists, ``links.csv`` (the ids at IMDb and TMDB).

    Raises:
        DataError: Unreadable files.
    """
    files = [folder / "ratings.csv", folder / "movies.csv"]
    ratings = _read_ratings(files[0])
    films = read_delimited(files[1], ",").rename(columns={"movieId": "item_id"})
    films["genres"] = films["genres"].where(films["genres"] != "(no genres listed)", "")
    kinds = dict(_KINDS)
    if (folder / "links.csv").is_file():
        files.append(folder / "links.csv")
        links = read_delimited(files[-1], ",")
        links.columns = pd.Index(["item_id", "imdb_id", "tmdb_id"])
        films = films.merge(links, on="item_id", how="left")
        kinds |= {"imdb_id": "id", "tmdb_id": "id"}
    described = describe_source("movielens", folder, files)
    names = {"interactions": "ratings.csv", "items": "movies.csv"}
    images = picture_folder(folder)
    return RawData(ratings, split_titles(films), None, images, {}, {"items": kinds}, described, names)


def _read_ratings(path: Path) -> pd.DataFrame:
    """Tens of millions of rows: straight into numbers."""
    import pyarrow as pa
    from pyarrow import csv

    types = {"userId": pa.int64(), "movieId": pa.int64(), "rating": pa.float64(), "timestamp": pa.int64()}
    try:
        table = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=types))
        ratings: pd.DataFrame = table.select(list(types)).to_pandas()
    except (pa.ArrowInvalid, KeyError, OSError) as error:
        raise DataError(
            f"ratings with the columns {', '.join(types)} in {path}", f"{error}", "unpack the archive again"
        ) from None
    return ratings.set_axis(_RATINGS, axis=1)
