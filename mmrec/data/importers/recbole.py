"""RecBole's atomic files: tab separated tables whose header gives each column a type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmrec.data.importers.reading import describe_source, picture_folder, read_delimited
from mmrec.data.raw import RawData
from mmrec.data.values import CANONICAL, infer_kind, named_like_text
from mmrec.errors import DataError, did_you_mean

TYPES = ("token", "token_seq", "float", "float_seq")
PARTS = ("train", "valid", "test")
_TEXT_LENGTH = 12  # tokens; longer sequences without a telling name are text, shorter ones are words


def import_recbole(source: str | Path) -> RawData:
    """Read ``<name>.inter`` and, where they exist, ``<name>.item``, ``<name>.user`` and a folder ``images``.

    ``<name>.train.inter``, ``.valid.inter`` and ``.test.inter`` are read as one table with a given split.
    ``token_seq`` columns become text where their name says so (title, plot, …), else words separated by
    ``", "``, in which ``_`` stands for a blank. ``float_seq`` columns of the items become features.

    Args:
        source: The folder, or its ``.inter`` file.

    Raises:
        DataError: Unreadable files, or headers that are not RecBole's.
    """
    inter_files = find_inter_files(Path(source))
    folder, stem = inter_files[0].parent, inter_files[0].name.split(".")[0]
    others = [file for suffix in ("item", "user") if (file := folder / f"{stem}.{suffix}").is_file()]
    parts = [_read(file) for file in inter_files]
    interactions = parts[0][0]
    if len(inter_files) > 1:
        labels = [PARTS.index(file.name.split(".")[-2]) for file in inter_files]
        frames = [frame.assign(label=label) for (frame, _), label in zip(parts, labels, strict=True)]
        interactions = pd.concat(frames, ignore_index=True)
    tables = {file.suffix[1:]: _read(file) for file in others}
    kinds = {"interactions": parts[0][1]}
    kinds.update({f"{suffix}s": kind for suffix, (_, kind) in tables.items()})
    items = tables["item"][0] if "item" in tables else None
    features, items = _split_features(items, kinds.get("items", {}), folder / f"{stem}.item")
    return RawData(
        interactions,
        items,
        tables["user"][0] if "user" in tables else None,
        picture_folder(folder),
        features,
        kinds,
        describe_source("recbole", folder, [*inter_files, *others]),
        {"interactions": inter_files[0].name, "items": f"{stem}.item", "users": f"{stem}.user"},
    )


def find_inter_files(source: Path) -> list[Path]:
    """The ``.inter`` file of a folder, or its train, valid and test parts.

    Raises:
        DataError: None, or several that do not belong together.
    """
    if source.is_file():
        return [source]
    files = sorted(source.glob("*.inter"))
    whole = [file for file in files if not file.stem.endswith(tuple(f".{part}" for part in PARTS))]
    if len(whole) == 1:
        return whole
    parts = [source / f"{files[0].name.split('.')[0]}.{part}.inter" for part in PARTS] if files else []
    if not whole and files and sorted(parts) == files:
        return parts
    raise DataError(
        f"one file NAME.inter in {source}, or NAME.train.inter, NAME.valid.inter and NAME.test.inter",
        ", ".join(file.name for file in files) or "no .inter file",
        "name the file itself instead of its folder",
    )


def is_recbole(file: Path) -> bool:
    """Whether the first line of an ``.inter`` file has typed column names."""
    with file.open("rb") as stream:
        return b":" in stream.readline(1 << 16)


def _read(file: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """A table under plain column names, and the kind of each column; sequences are made readable."""
    table = read_delimited(file, "\t", quoted=False)
    header = [str(column) for column in table.columns]
    names, types = [c.rpartition(":")[0] for c in header], [c.rpartition(":")[2] for c in header]
    for column, name, kind in zip(header, names, types, strict=True):
        if kind not in TYPES or not name:
            raise DataError(
                f"NAME:TYPE with type {' | '.join(TYPES)} in the header of {file}",
                repr(column),
                did_you_mean(kind, list(TYPES)),
            )
        if names.count(name) > 1:
            raise DataError(f"different column names in {file}", f"{name!r} twice", "rename one of them")
    plain = table.set_axis(names, axis=1)
    kinds: dict[str, str] = {}
    for column, kind in zip(plain.columns, types, strict=True):
        name = str(column)
        kinds[name] = _kind(name, kind, plain[name])
        if kind == "float_seq" and file.suffix != ".item":
            kinds[name] = "tokens"  # only items have features
        if kind == "token_seq" and kinds[name] == "tokens":
            plain[name] = _join_words(plain[name])
    return plain, kinds


def _kind(name: str, recbole_type: str, values: pd.Series[Any]) -> str:
    if recbole_type == "float_seq":  # also under a name such as "image"
        return "vector"
    if name in CANONICAL:
        return CANONICAL[name]
    if recbole_type == "float":
        return "number"
    if recbole_type == "token":
        inferred = infer_kind(name, values)
        return inferred if inferred in ("id", "text") else "tokens"
    filled = values[values != ""]
    long = len(filled) and filled.str.count(" ").mean() + 1 >= _TEXT_LENGTH
    return "text" if named_like_text(name) or long else "tokens"


def _join_words(values: pd.Series[str]) -> pd.Series[str]:
    """``John_Lasseter Andrew_Stanton`` to ``John Lasseter, Andrew Stanton``."""
    words = values.str.strip().str.replace(r"\s+", ", ", regex=True)
    return words.str.replace("_", " ", regex=False)


def _split_features(
    items: pd.DataFrame | None, kinds: dict[str, str], file: Path
) -> tuple[dict[str, NDArray[np.float32]], pd.DataFrame | None]:
    """Take the ``float_seq`` columns out of the item table, as feature matrices."""
    names = [name for name, kind in kinds.items() if kind == "vector"]
    if items is None or not names:
        return {}, items
    for name in names:
        del kinds[name]
    return {name: _parse_vectors(items[name], name, file) for name in names}, items.drop(columns=names)


def _parse_vectors(values: pd.Series[str], name: str, file: Path) -> NDArray[np.float32]:
    """``(n_items, d)`` numbers separated by blanks; empty values become rows of zeros."""
    filled = (values.str.strip() != "").to_numpy(dtype=bool)
    lengths = values[filled].str.count(r"\S+")
    if lengths.nunique() != 1:
        found = f"{lengths.min()} to {lengths.max()} numbers" if len(lengths) else "none"
        raise DataError(
            f"vectors of one length in column {name!r} of {file}", found, "correct or drop the column"
        )
    try:
        flat = np.array(" ".join(values[filled]).split(), dtype=np.float32)
    except ValueError as error:
        raise DataError(f"numbers in column {name!r} of {file}", str(error), "correct the column") from None
    vectors = np.zeros((len(values), int(lengths.iloc[0])), dtype=np.float32)
    vectors[filled] = flat.reshape(-1, vectors.shape[1])
    return vectors
