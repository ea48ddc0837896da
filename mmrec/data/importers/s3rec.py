"""S3-Rec's sequence files: one user per line, the items oldest first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmrec.data.importers.reading import (
    describe_source,
    picture_folder,
    read_delimited,
    read_json_file,
    read_text,
    require_columns,
)
from mmrec.data.raw import RawData
from mmrec.errors import DataError

_SPACES = np.frombuffer(b" \t\r\n", dtype=np.uint8)


def import_s3rec(source: str | Path) -> RawData:
    """Read ``NAME.txt`` (``user item item …`` a line) and what lies beside it.

    ``NAME_item2attributes.json`` becomes a column ``attributes``, ``items.csv`` and ``users.csv`` (with
    ``item_id``, ``user_id``) give further columns. Numbered users and items are put in the order of their numbers.

    Args:
        source: The folder, or the sequence file.

    Raises:
        DataError: Unreadable files, a line without items, a user on two lines.
    """
    file = find_sequence_file(Path(source))
    folder = file.parent
    interactions = _read_sequences(file)
    attributes = folder / f"{file.stem}_item2attributes.json"
    tables = [path for path in (folder / "items.csv", folder / "users.csv") if path.is_file()]
    frames = {path.name: read_delimited(path) for path in tables}
    items = _gather(interactions["item_id"], frames.get("items.csv"), "item_id", "items.csv")
    users = _gather(interactions["user_id"], frames.get("users.csv"), "user_id", "users.csv")
    files = [file, *tables]
    if attributes.is_file():
        items = _add_attributes(items, attributes)
        files.append(attributes)
    names = {"interactions": file.name, "items": "the items", "users": "the users"}
    described = describe_source("s3rec", folder, files)
    return RawData(interactions, items, users, picture_folder(folder), {}, {}, described, names)


def find_sequence_file(source: Path) -> Path:
    """The sequence file of a folder: its only ``.txt`` file that begins with numbers.

    Raises:
        DataError: None or several.
    """
    if source.is_file():
        return source
    files = [file for file in sorted(source.glob("*.txt")) if looks_like_sequences(file)]
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise DataError(f"one sequence file NAME.txt in {source}", found, "name the file itself")
    return files[0]


def looks_like_sequences(file: Path) -> bool:
    """Whether a file's first line is numbers separated by blanks."""
    with file.open("rb") as stream:
        words = stream.readline(1 << 16).split()
    return len(words) > 1 and all(word.isdigit() for word in words)


def _read_sequences(file: Path) -> pd.DataFrame:
    text, _ = read_text(file)
    lines = _line_of_each_word(text.encode())
    words = np.array(text.split(), dtype=object)
    starts = np.flatnonzero(np.diff(lines, prepend=-1))
    lengths = np.diff(starts, append=len(lines))
    if (lengths < 2).any():
        bad = int((lengths < 2).argmax())
        raise DataError(
            f"a user and at least one item in each line of {file}",
            f"only {words[starts[bad]]!r} in line {lines[starts[bad]] + 1:,}",
            "remove that line",
        )
    users = pd.Series(words[starts])
    if users.duplicated().any():
        bad = int(users.duplicated().to_numpy().argmax())
        raise DataError(
            f"each user on one line of {file}",
            f"user {users[bad]!r} again in line {lines[starts[bad]] + 1:,}",
            "join the lines of each user",
        )
    first = np.zeros(len(words), dtype=bool)
    first[starts] = True
    position = np.arange(len(words), dtype=np.int64) - np.repeat(starts, lengths) - 1
    return pd.DataFrame(
        {
            "user_id": np.repeat(words[starts], lengths - 1),
            "item_id": words[~first],
            "position": position[~first],
        }
    )


def _line_of_each_word(data: bytes) -> NDArray[np.int64]:
    characters = np.frombuffer(data, dtype=np.uint8)
    blank = np.isin(characters, _SPACES)
    begins = ~blank
    begins[1:] &= blank[:-1]
    line = np.cumsum(characters == ord("\n"))
    return line[begins].astype(np.int64)


def sort_ids(ids: pd.Series[Any]) -> pd.Series[Any]:
    """Distinct ids: ascending where all are numbers, else in the order of appearance."""
    distinct = pd.Series(pd.unique(ids.astype(object)))
    if distinct.str.fullmatch(r"\d{1,18}").all():
        distinct = distinct.iloc[np.argsort(distinct.astype("int64").to_numpy(), kind="stable")]
    return distinct.reset_index(drop=True)


def _gather(ids: pd.Series[str], table: pd.DataFrame | None, column: str, name: str) -> pd.DataFrame:
    """All ids of sequences and table in order, with the table's columns."""
    if table is None:
        return pd.DataFrame({column: sort_ids(ids)})
    require_columns(table, [column], name, renaming=False)
    if table[column].duplicated().any():
        twice = table[column][table[column].duplicated()].iloc[0]
        raise DataError(f"each {column} once in {name}", f"{twice!r} twice", "keep one row for each")
    everything = sort_ids(pd.concat([ids.astype(object), table[column].astype(object)], ignore_index=True))
    return pd.DataFrame({column: everything}).merge(table.astype({column: object}), on=column, how="left")


def _add_attributes(items: pd.DataFrame, path: Path) -> pd.DataFrame:
    content = read_json_file(path)
    if not isinstance(content, dict) or not all(isinstance(value, list) for value in content.values()):
        raise DataError(
            f'{{"item": [attribute, …]}} in {path}', type(content).__name__, "fetch the file again"
        )
    lists = pd.Series(content, dtype=object)
    unknown = ~lists.index.isin(items["item_id"])
    if unknown.all():
        raise DataError(
            f"items of the sequences in {path}", f"none, the first is {lists.index[0]!r}", "check the file"
        )
    words = lists.map(lambda values: ", ".join(map(str, values)))
    return items.assign(attributes=items["item_id"].map(words))
