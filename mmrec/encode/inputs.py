"""What is encoded: the texts and pictures of a dataset's items, with a hash of their content."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmrec.data.dataset import Dataset
from mmrec.encode.pictures import Reason, open_picture
from mmrec.errors import FeatureError, did_you_mean
from mmrec.files import content_hash, sha256_file
from mmrec.progress import Progress

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

Ids = NDArray[np.int64]
TEMPLATE = "values joined by '. ' (by ' ' after . ! ?), white space collapsed, empty ones left out"
READERS = min(4, os.cpu_count() or 1)  # threads that open pictures while the model computes


@dataclass(frozen=True, eq=False)
class Inputs:
    """Texts and pictures of the items that have one.

    Attributes:
        rows: Item of each input ``(n,)``, ascending.
        texts: Text of each input, empty where the item has none; None: texts are not asked for.
        pictures: File of each input, None where the item has none; None: pictures are not asked for.
        manifest: Columns, template, counts and ``sha256`` of the content of all inputs with their items.
    """

    rows: Ids
    texts: Sequence[str] | None
    pictures: Sequence[Path | None] | None
    manifest: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Batch:
    """What is encoded at once.

    Attributes:
        positions: Which inputs these are ``(b,)``.
        values: What the encoder gets, one for each input that could be read.
        usable: ``(b,)`` False where nothing could be read.
        reasons: ``(b,)`` :class:`mmrec.encode.pictures.Reason` of each picture.
    """

    positions: Ids
    values: list[Any]
    usable: NDArray[np.bool_]
    reasons: NDArray[np.uint8]


def collect_inputs(
    dataset: Dataset, modality: str, fields: Sequence[str] | None, *, show_progress: bool = True
) -> Inputs:
    """Collect what there is to encode of each item.

    Args:
        dataset: The items.
        modality: ``text``, ``image`` or ``joint``.
        fields: Text columns in the order they are joined; None: all of kind ``text``, then all of kind ``tokens``.
        show_progress: Show the hashing of pictures.

    Raises:
        FeatureError: A column is unknown, or no item has an input.
    """
    texts = pictures = None
    manifest: dict[str, Any] = {}
    if modality in ("text", "joint"):
        columns = _text_columns(dataset, fields)
        texts = join_texts(dataset.items, columns)
        manifest |= {"fields": columns, "template": TEMPLATE}
    elif fields:
        raise FeatureError(
            "fields with modality text or joint only",
            f"{', '.join(fields)} with {modality}",
            "leave --fields out",
        )
    if modality in ("image", "joint"):
        pictures = _picture_files(dataset)
    has_text = (
        np.array([bool(t) for t in texts]) if texts is not None else np.zeros(dataset.n_items, dtype=bool)
    )
    has_file = (
        np.array([p is not None for p in pictures]) if pictures else np.zeros(dataset.n_items, dtype=bool)
    )
    rows = np.flatnonzero(has_text | has_file)
    if not len(rows):
        raise FeatureError(
            f"at least one item with {modality} input",
            f"none in {dataset.n_items:,} items of {dataset.path}",
            "check the columns with: mmrec data show " + str(dataset.path),
        )
    texts = [texts[row] for row in rows] if texts is not None else None
    pictures = [pictures[row] for row in rows] if pictures is not None else None
    hashes = _hash_files(pictures, show_progress=show_progress) if pictures is not None else None
    manifest["sha256"] = content_hash([dataset.n_items, rows.tolist(), texts, hashes])
    return Inputs(rows, texts, pictures, manifest)


def _text_columns(dataset: Dataset, fields: Sequence[str] | None) -> list[str]:
    kinds: dict[str, str] = dataset.manifest.get("columns", {}).get("items", {})
    present = list(dataset.items.columns)
    if fields is None:
        columns = [c for kind in ("text", "tokens") for c in present if kinds.get(c) == kind]
        if not columns:
            raise FeatureError(
                "columns of kind text or tokens in items.parquet",
                f"{', '.join(f'{c} ({kinds.get(c)})' for c in present)}",
                "name columns with --fields, or import the items' texts",
            )
        return columns
    for column in fields:
        if column not in present:
            raise FeatureError(
                f"a column of items.parquet in {dataset.path}", repr(column), did_you_mean(column, present)
            )
    return list(fields)


def join_texts(items: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """One text per item from several columns, as :data:`TEMPLATE` says; empty where all of them are."""
    import pandas as pd

    joined = pd.Series("", index=items.index, dtype=object)
    for column in columns:
        values = _as_text(items[column])
        separator = np.where(joined.str.endswith((".", "!", "?")), " ", ". ")
        separator = np.where((joined == "") | (values == ""), "", separator)
        joined = joined + separator + values
    texts: list[str] = joined.tolist()
    return texts


def _as_text(column: pd.Series[Any]) -> pd.Series[Any]:
    """Clean strings from a column of strings, numbers or lists of words; missing values become empty."""
    import pandas as pd

    values = column.astype(object)
    if not isinstance(column.dtype, pd.StringDtype):
        is_list = values.map(lambda value: isinstance(value, (list, tuple, np.ndarray)))
        values = values.where(~is_list, values[is_list].map(lambda words: " ".join(map(str, words))))
    values = values.where(values.notna(), "").astype(str)
    return values.str.replace(r"\s+", " ", regex=True).str.strip().astype(object)


def _picture_files(dataset: Dataset) -> list[Path | None]:
    if "image" not in dataset.items.columns:
        raise FeatureError(
            "a column image in items.parquet",
            f"{', '.join(dataset.items.columns)} in {dataset.path}",
            "import the data again with its picture folder (--images)",
        )
    column = dataset.items["image"]
    known = (column.notna() & (column.astype(str).str.strip() != "")).tolist()
    folder = dataset.images
    return [folder / str(name) if there else None for name, there in zip(column, known, strict=True)]


def _hash_files(files: Sequence[Path | None], *, show_progress: bool) -> list[str]:
    """SHA-256 of each picture file; an absent one has a word instead."""
    hashes: list[str] = []
    with (
        Progress("hash pictures", len(files), unit="pictures", show=show_progress) as progress,
        ThreadPoolExecutor(READERS) as pool,
    ):
        for digest in pool.map(_hash_file, files):
            hashes.append(digest)
            progress.advance()
    return hashes


def _hash_file(file: Path | None) -> str:
    if file is None:
        return "none"
    try:
        return sha256_file(file)
    except OSError:  # missing, a folder, or not ours to read: the run will count it
        return "unreadable"


def read_batches(inputs: Inputs, batches: Iterable[Ids]) -> Iterator[Batch]:
    """Read the inputs of each batch; the pictures of the next batch are decoded while this one is encoded."""
    waiting: deque[tuple[Ids, list[Future[tuple[Image | None, Reason]] | None]]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        for positions in batches:
            files = [inputs.pictures[p] if inputs.pictures is not None else None for p in positions]
            waiting.append(
                (positions, [pool.submit(open_picture, f) if f is not None else None for f in files])
            )
            if len(waiting) > 1:
                yield _batch(inputs, *waiting.popleft())
        while waiting:
            yield _batch(inputs, *waiting.popleft())


def _batch(
    inputs: Inputs, positions: Ids, futures: list[Future[tuple[Image | None, Reason]] | None]
) -> Batch:
    opened = [future.result() if future is not None else (None, Reason.OK) for future in futures]
    reasons = np.array([reason for _, reason in opened], dtype=np.uint8)
    pictures = [picture for picture, _ in opened]
    texts = [inputs.texts[p] or None for p in positions] if inputs.texts is not None else [None] * len(opened)
    usable = np.array([t is not None or p is not None for t, p in zip(texts, pictures, strict=True)])
    values: list[Any]
    if inputs.texts is None:
        values = [picture for picture in pictures if picture is not None]
    elif inputs.pictures is None:
        values = [text for text in texts if text is not None]
    else:
        values = [pair for pair, use in zip(zip(texts, pictures, strict=True), usable, strict=True) if use]
    return Batch(positions, values, usable, reasons)
