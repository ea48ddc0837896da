"""The folder of the MMRec toolbox: numbered interactions with a split, id mappings, attributes and features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmrec.data.histories import Ids
from mmrec.data.importers.reading import (
    describe_source,
    picture_folder,
    read_delimited,
    rename_columns,
    require_columns,
)
from mmrec.data.importers.recbole import find_inter_files
from mmrec.data.raw import RawData
from mmrec.data.values import as_integers, bad_value
from mmrec.errors import DataError
from mmrec.progress import note

NAMES = {"userID": "user_id", "itemID": "item_id", "x_label": "label"}


def import_mmrec(source: str | Path) -> RawData:
    """Read ``NAME.inter`` (``userID``, ``itemID``, ``x_label``) and what lies beside it.

    The numbering stays: row i of the items is item i, up to the largest number anywhere. Where
    ``u_id_mapping.csv`` or ``i_id_mapping.csv`` names all of them, these names are the ids; else the numbers are,
    and the names that exist become a column ``raw_id``. Each other table with a column ``itemID`` gives attributes.

    ``image_feat.npy``, ``text_feat.npy`` and so on become features. A row of zeros is an absent item. The
    published picture features fill absent items with the mean vector instead, which cannot be told from a real
    one here: those items count as present.

    Args:
        source: The folder, or its ``.inter`` file.

    Raises:
        DataError: Unreadable or unfitting files.
    """
    (file,) = _one(find_inter_files(Path(source)))
    folder = file.parent
    table = read_delimited(file, quoted=False)
    require_columns(table, ["userID", "itemID"], file.name, renaming=False)
    table = rename_columns(table, NAMES, file.name)

    user = _numbers(table["user_id"], "userID", file.name)
    item = _numbers(table["item_id"], "itemID", file.name)
    attributes = _read_attributes(folder)
    item_names, item_map = _read_mapping(folder / "i_id_mapping.csv", "itemID")
    user_names, user_map = _read_mapping(folder / "u_id_mapping.csv", "userID")
    items = _catalogue(_size([item, item_map, *(numbers for numbers, _ in attributes.values())]), "item_id")
    users = _catalogue(_size([user, user_map]), "user_id")
    items = _name_rows(items, "item_id", item_map, item_names)
    users = _name_rows(users, "user_id", user_map, user_names)
    for numbers, more in attributes.values():
        items = _add_columns(items, numbers, more)
    interactions = table.assign(
        user_id=users["user_id"].to_numpy()[user], item_id=items["item_id"].to_numpy()[item]
    )
    vectors = sorted(folder.glob("*_feat.npy"))
    modalities = [path.stem.removesuffix("_feat") for path in vectors]
    mappings = [path for path in (folder / "u_id_mapping.csv", folder / "i_id_mapping.csv") if path.is_file()]
    return RawData(
        interactions,
        items,
        users,
        picture_folder(folder),
        {modality: _load(path) for modality, path in zip(modalities, vectors, strict=True)},
        {},
        describe_source("mmrec", folder, [file, *mappings, *attributes, *vectors]),
        {
            "interactions": file.name,
            "items": "the items",
            "users": "the users",
            **{modality: path.name for modality, path in zip(modalities, vectors, strict=True)},
        },
    )


def _one(files: list[Path]) -> list[Path]:
    if len(files) > 1:
        raise DataError("one .inter file with x_label", f"{len(files)} parts", "name the file itself")
    return files


def _numbers(values: pd.Series[Any], column: str, name: str) -> Ids:
    numbers = np.asarray(as_integers(values, column, name), dtype=np.int64)
    if (numbers < 0).any():
        raise bad_value(numbers < 0, values, "numbers from 0", column, name, "correct these rows")
    return numbers


def _size(numbers: list[Ids]) -> int:
    return max(int(array.max()) for array in numbers if len(array)) + 1


def _catalogue(size: int, column: str) -> pd.DataFrame:
    return pd.DataFrame({column: np.arange(size).astype(str).astype(object)})


def _read_mapping(path: Path, column: str) -> tuple[pd.Series[str], Ids]:
    """The names and numbers of a mapping file with two columns, one of them ``column``; empty without a file."""
    if not path.is_file():
        return pd.Series([], dtype=object), np.zeros(0, dtype=np.int64)
    table = read_delimited(path)
    require_columns(table, [column], path.name, renaming=False)
    if table.shape[1] != 2:
        raise DataError(
            f"{column} and one column of names in {path}", ", ".join(table.columns), "correct the file"
        )
    numbers = _numbers(table[column], column, path.name)
    _check_once(numbers, column, path.name)
    return table.drop(columns=column).iloc[:, 0], numbers


def _check_once(numbers: Ids, column: str, name: str) -> None:
    repeated = pd.Series(numbers).duplicated().to_numpy()
    if repeated.any():
        raise bad_value(
            repeated, pd.Series(numbers), "each number once", column, name, "remove the repeated rows"
        )


def _name_rows(table: pd.DataFrame, column: str, numbers: Ids, names: pd.Series[str]) -> pd.DataFrame:
    if not len(numbers):
        return table
    raw = pd.Series(names.to_numpy(dtype=object), index=numbers).reindex(table.index)
    unnamed = int(raw.isna().sum())
    if unnamed == 0:
        return table.assign(**{column: raw})
    note(
        f"the mapping names {len(numbers):,} of {len(table):,} rows: numbers stay the ids, names go to raw_id"
    )
    return table.assign(raw_id=raw)


def _read_attributes(folder: Path) -> dict[Path, tuple[Ids, pd.DataFrame]]:
    """All other tables of the folder that have a column ``itemID``, with the numbers in it."""
    tables: dict[Path, tuple[Ids, pd.DataFrame]] = {}
    for path in sorted([*folder.glob("*.csv"), *folder.glob("*.tsv")]):
        if path.name in ("u_id_mapping.csv", "i_id_mapping.csv"):
            continue
        table = read_delimited(path)
        if "itemID" in table.columns and "userID" not in table.columns:
            numbers = _numbers(table["itemID"], "itemID", path.name)
            _check_once(numbers, "itemID", path.name)
            tables[path] = numbers, table.drop(columns="itemID")
    return tables


def _add_columns(items: pd.DataFrame, numbers: Ids, more: pd.DataFrame) -> pd.DataFrame:
    """Join attributes by number, without columns that are there already or repeat the ids."""
    aligned = more.set_axis(numbers, axis=0).reindex(items.index)
    new = [
        column
        for column in aligned.columns
        if column not in items.columns and not (aligned[column] == items["item_id"]).all()
    ]
    lists = [column for column in new if aligned[column].dropna().str.fullmatch(r"\d+(?: \d+)+|\d*").all()]
    for column in lists:  # attribute numbers separated by blanks
        aligned[column] = aligned[column].str.replace(" ", ", ", regex=False)
    return items.join(aligned[new])


def _load(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"a matrix in {path}", str(error), "save it with numpy.save as float32") from None
    return array
