"""Datasets as RecBole's atomic files; :mod:`mmrec.data.importers.recbole` reads them back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmrec.data.dataset import PARTS, Dataset
from mmrec.data.values import infer_kind, named_like_text
from mmrec.encode.features import FeatureTable
from mmrec.files import atomic_folder, disk_errors

Columns = dict[str, "pd.Series[str]"]  # header such as user_id:token, and the values as they are written


def write_atomic_files(
    dataset: Dataset, to: str | Path, *, split: str | None = "default", features: Sequence[str] = ()
) -> Path:
    """Write ``NAME.train.inter``, ``.valid.inter``, ``.test.inter``, ``NAME.item`` and ``NAME.user``.

    ``NAME`` is the folder's name, as RecBole wants it (``benchmark_filename: [train, valid, test]`` reads the three
    parts). Tokens become ``token_seq`` with ``_`` for blanks, texts ``token_seq`` where the importer knows them again
    and ``token`` elsewhere, numbers and times ``float``. Pictures are not written, nor are interactions that the
    split leaves out. A value that starts with a quotation mark gets a blank before it, as RecBole's reader would
    take the mark as its own.

    Args:
        dataset: What to write.
        to: The new folder; it appears whole or not at all.
        split: The split whose parts are written; with None one file ``NAME.inter`` holds all interactions.
        features: Feature tables to write as ``float_seq`` columns of the items, under the name of their modality.

    Returns:
        The folder.

    Raises:
        DataError: No such split, or ``to`` is in use.
        FeatureError: No such features.
        DiskError: The disk is full.
    """
    to = Path(to)
    tables = [dataset.features(name) for name in features]
    interactions = _columns(
        dataset, "interactions", without=("user", "item", *([] if split is None else ["label"]))
    )
    ids = {"user_id": dataset.users["user_id"], "item_id": dataset.items["item_id"]}
    named = {
        f"{column}:token": _cells(ids[column].iloc[dataset.interactions[key]])
        for column, key in (("user_id", "user"), ("item_id", "item"))
    }
    rows = pd.DataFrame({**named, **interactions})
    with atomic_folder(to) as folder:
        for part, chosen in _parts(dataset, split).items():
            _write(folder / f"{to.name}{part}.inter", rows if chosen is None else rows[chosen])
        items = {
            **_columns(dataset, "items", without=("image",)),
            **{_header(t): _vectors(t) for t in tables},
        }
        _write(folder / f"{to.name}.item", pd.DataFrame(items))
        _write(folder / f"{to.name}.user", pd.DataFrame(_columns(dataset, "users")))
    return to


def _parts(dataset: Dataset, split: str | None) -> dict[str, Any]:
    """Suffix of each interaction file, and the mask of its rows (None for all)."""
    if split is None:
        return {"": None}
    labels = dataset.split_labels(split)
    return {f".{part}": labels == code for code, part in enumerate(PARTS)}


def _columns(dataset: Dataset, table: str, without: Iterable[str] = ()) -> Columns:
    """The columns of a table under typed names."""
    frame: pd.DataFrame = getattr(dataset, table)
    kinds = dataset.manifest["columns"].get(table, {})
    columns: Columns = {}
    for label in frame.columns:
        name = str(label)
        if name not in without:
            kind, cells = _typed(name, kinds.get(name) or infer_kind(name, frame[name]), frame[name])
            columns[f"{name}:{kind}"] = cells
    return columns


def _typed(name: str, kind: str, values: pd.Series[Any]) -> tuple[str, pd.Series[str]]:
    """RecBole's type of a column, and its values in that type."""
    cells = _cells(values)
    if kind in ("number", "time", "order", "label"):
        return "float", cells
    if kind == "tokens" and not cells.str.contains("_", regex=False).any():
        words = cells.str.split(", ").map(lambda parts: [part.replace(" ", "_") for part in parts])
        return "token_seq", words.str.join(" ")
    if kind == "text" and named_like_text(name):
        return "token_seq", cells
    return "token", cells


def _cells(values: pd.Series[Any]) -> pd.Series[str]:
    """Values as one line of text each, empty where missing."""
    text = values.astype(object).where(values.notna(), "").map(str).str.replace(r"\s+", " ", regex=True)
    return text.mask(text.str.startswith('"'), " " + text).reset_index(drop=True)


def _header(table: FeatureTable) -> str:
    return f"{table.modality}:float_seq"


def _vectors(table: FeatureTable) -> pd.Series[str]:
    """Vectors as numbers separated by blanks, empty for absent items."""
    show: Callable[[Any], str] = np.format_float_positional
    present = np.asarray(table.present)
    rows = [
        " ".join(map(show, vector)) if there else ""
        for vector, there in zip(np.asarray(table.vectors, dtype=np.float32), present, strict=True)
    ]
    return pd.Series(rows, dtype=object)


def _write(file: Path, table: pd.DataFrame) -> None:
    lines = ["\t".join(map(str, table.columns)), *map("\t".join, table.itertuples(index=False, name=None))]
    with disk_errors(file):
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
