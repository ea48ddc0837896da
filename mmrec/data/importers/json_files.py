"""Sequences and item texts as JSON: ``NAME.inter.json`` and ``NAME.item.json``."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmrec.data.importers.reading import describe_source, picture_folder, read_json_file
from mmrec.data.importers.s3rec import sort_ids
from mmrec.data.raw import RawData
from mmrec.errors import DataError


def import_json(source: str | Path) -> RawData:
    """Read ``NAME.inter.json`` (``{"user": [item, …]}``) and ``NAME.item.json`` (``{"item": {attribute: value}}``).

    Items are oldest first. Numbered users and items are put in the order of their numbers.

    Args:
        source: The folder, or the ``.inter.json`` file.

    Raises:
        DataError: Unreadable files, or JSON of another shape.
    """
    file = _find(Path(source))
    attributes = file.with_name(file.name.removesuffix(".inter.json") + ".item.json")
    interactions = _read_sequences(file)
    users = pd.DataFrame({"user_id": sort_ids(interactions["user_id"])})
    items: pd.DataFrame | None = None
    files = [file]
    if attributes.is_file():
        items = _read_items(attributes)
        files.append(attributes)
    names = {"interactions": file.name, "items": attributes.name, "users": "the users"}
    described = describe_source("json", file.parent, files)
    return RawData(interactions, items, users, picture_folder(file.parent), {}, {}, described, names)


def _find(source: Path) -> Path:
    if source.is_file():
        return source
    files = sorted(source.glob("*.inter.json"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise DataError(f"one file NAME.inter.json in {source}", found, "name the file itself")
    return files[0]


def _read_sequences(file: Path) -> pd.DataFrame:
    content = read_json_file(file)
    if not isinstance(content, dict) or not set(map(type, content.values())) <= {list}:
        raise DataError(f'{{"user": [item, …]}} in {file}', _shape(content), "export the file again")
    lengths = np.fromiter(map(len, content.values()), dtype=np.int64, count=len(content))
    items = list(chain.from_iterable(content.values()))
    strange = set(map(type, items)) - {int, str}
    if strange:
        raise DataError(
            f"item ids as numbers or text in {file}", strange.pop().__name__, "export the file again"
        )
    if not items:
        raise DataError(f"interactions in {file}", "none", "export the file again")
    position = np.arange(len(items)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    users = np.repeat(np.array(list(content), dtype=object), lengths)
    return pd.DataFrame({"user_id": users, "item_id": list(map(str, items)), "position": position})


def _read_items(file: Path) -> pd.DataFrame:
    content = read_json_file(file)
    if not isinstance(content, dict) or not content or not set(map(type, content.values())) <= {dict}:
        raise DataError(f'{{"item": {{"title": …}}}} in {file}', _shape(content), "export the file again")
    table = pd.DataFrame(list(content.values()))
    if "item_id" in table.columns:
        raise DataError(
            f"item ids as the keys of {file}", "an attribute 'item_id' too", "rename that attribute"
        )
    table.insert(0, "item_id", list(content))
    order = sort_ids(table["item_id"])
    return table.set_index("item_id").loc[order].reset_index()


def _shape(content: Any) -> str:
    if isinstance(content, dict) and content:
        key, value = next(iter(content.items()))
        return f"{{{key!r}: {type(value).__name__}, …}}"
    return f"{'an empty' if not content else 'a'} {type(content).__name__}"
