"""Features made elsewhere, checked against the items and laid beside the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrec.data.dataset import Dataset
from mmrec.encode.encoders import check_choice
from mmrec.encode.features import FeatureTable
from mmrec.encode.runner import describe_table, feature_folder, find_finished
from mmrec.encode.shards import open_workplace
from mmrec.errors import FeatureError
from mmrec.files import content_hash, read_json, sha256_file
from mmrec.progress import note

_BLOCK = 65536  # rows copied at once: the matrix may be larger than memory
_ID_FILES = (".txt", ".json", ".npy")


def import_features(
    dataset: Dataset | str | Path,
    file: str | Path,
    *,
    name: str,
    modality: str,
    mask: str | Path | NDArray[np.bool_] | None = None,
    ids: str | Path | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
) -> FeatureTable:
    """Lay a matrix of features made elsewhere beside a dataset's own, as ``features/NAME``.

    Args:
        dataset: Dataset or its folder.
        file: ``.npy`` matrix ``(n, d)`` of floating point numbers; float64 is stored as float32.
        name: Folder name under ``features``.
        modality: ``text``, ``image``, ``audio``, …
        mask: Which rows are present: boolean ``(n,)``, or a ``.npy`` file of it. Rows of zeros are absent anyway.
        ids: Item id of each row: a ``.txt`` file with one a line, a ``.json`` list or a ``.npy`` of strings. Items
            that it does not name are absent, ids that are no items of the dataset are left out. None: one row
            per item, in the order of items.parquet.
        overwrite: Replace features of that name made from other files.
        show_progress: Print a summary to stderr.

    Raises:
        FeatureError: Wrong row count, unknown or repeated ids, NaN or infinite numbers, no floating point matrix.
        DiskError: The disk is full.
    """
    data = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
    path = Path(file)
    target = feature_folder(data, name)
    vectors = _read_matrix(path)
    items, rows, n_unknown = _match_rows(data, vectors, path, Path(ids) if ids is not None else None)
    keep = _read_mask(mask, len(vectors), path)
    if keep is not None:
        items, rows = items[keep[rows]], rows[keep[rows]]
    content: dict[str, Any] = {
        "modality": modality,
        "encoder": {"name": "imported", "file": path.name, "revision": f"sha256:{sha256_file(path)}"},
        "inputs": {
            "sha256": content_hash([items.tolist(), rows.tolist()]),
            "ids": Path(ids).name if ids is not None else None,
            "rows": len(vectors),
            "rows_of_other_items": n_unknown,
        },
    }
    key = content_hash(content)
    with open_workplace(target, content) as workplace:
        finished = find_finished(workplace, key, data.n_items, overwrite=overwrite)
        if finished is not None:
            note(f"{target} is already imported")
            return finished
        dtype = "float16" if vectors.dtype == np.float16 else "float32"
        blocks = _blocks(vectors, items, rows, dtype, path)
        manifest = {"name": name, "key": key, **content}
        workplace.start(None)
        try:
            table = workplace.finish(modality, manifest, (data.n_items, vectors.shape[1]), dtype, blocks)
        except BaseException:
            workplace.discard()
            raise
    if show_progress:
        note(describe_table(table) + (f"; {n_unknown:,} rows of other items left out" if n_unknown else ""))
    return table


def _read_matrix(path: Path) -> NDArray[Any]:
    vectors = _load(path)
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise FeatureError(
            "a matrix (n_items, d)", f"shape {vectors.shape} in {path}", "save one row per item"
        )
    if not np.issubdtype(vectors.dtype, np.floating):
        raise FeatureError("floating point numbers", f"{vectors.dtype} in {path}", "save them as float32")
    return vectors


def _load(path: Path) -> NDArray[Any]:
    """Open a .npy file, memory-mapped, never unpickled."""
    if not path.is_file():
        raise FeatureError("a .npy file", f"no file {path}", "check the path")
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise FeatureError(
            "a .npy file of plain numbers", f"{path}: {error}", "save the array with numpy.save(file, array)"
        ) from None
    if not isinstance(loaded, np.ndarray):
        raise FeatureError(
            "a .npy file of one array", f"an archive of several in {path}", "save one with numpy.save"
        )
    return loaded


def _match_rows(
    dataset: Dataset, vectors: NDArray[Any], path: Path, ids: Path | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Items and the rows of their vectors, and how many rows belong to no item."""
    n_items = dataset.n_items
    if ids is None:
        if len(vectors) != n_items:
            raise FeatureError(
                f"{n_items:,} rows, one per item in the order of items.parquet",
                f"{len(vectors):,} rows in {path}",
                "export all items in that order (absent ones as rows of zeros), or name the rows' items with --ids",
            )
        every = np.arange(n_items, dtype=np.int64)
        return every, every, 0
    import pandas as pd

    named = pd.Index(_read_ids(ids))
    if len(named) != len(vectors):
        raise FeatureError(
            f"one id for each of the {len(vectors):,} rows of {path}",
            f"{len(named):,} ids in {ids}",
            "export both again",
        )
    if named.has_duplicates:
        twice = named[named.duplicated()][0]
        raise FeatureError("each item once", f"{twice!r} twice in {ids}", "leave one row of it")
    items = pd.Index(dataset.items["item_id"].astype(str)).get_indexer(named)
    rows = np.flatnonzero(items >= 0)
    if not len(rows):
        raise FeatureError(
            f"ids of items of {dataset.name}, such as {dataset.items['item_id'].iloc[0]!r}",
            f"none of them in {ids}; its first is {named[0]!r}",
            "write the ids as the dataset's source does",
        )
    return items[rows].astype(np.int64), rows.astype(np.int64), int((items < 0).sum())


def _read_ids(path: Path) -> list[str]:
    if not path.is_file():
        raise FeatureError("a file of item ids", f"no file {path}", "check the path")
    check_choice("ids file", path.suffix.lower(), _ID_FILES)
    if path.suffix.lower() == ".npy":
        return [str(item_id) for item_id in _load(path).ravel()]
    if path.suffix.lower() == ".json":
        listed = read_json(path)
        if not isinstance(listed, list):
            raise FeatureError(
                "a JSON list of item ids", f"{type(listed).__name__} in {path}", "write a list"
            )
        return [str(item_id) for item_id in listed]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise FeatureError("UTF-8 text, one id a line", f"{path}: {error}", "save it as UTF-8") from None
    return [line.strip() for line in lines]


def _read_mask(
    mask: str | Path | NDArray[np.bool_] | None, n_rows: int, path: Path
) -> NDArray[np.bool_] | None:
    if mask is None:
        return None
    keep = mask if isinstance(mask, np.ndarray) else _load(Path(mask))
    if keep.shape != (n_rows,) or keep.dtype != np.bool_:
        raise FeatureError(
            f"a boolean mask ({n_rows},), one for each row of {path}",
            f"{keep.dtype} {keep.shape}",
            "save it as bool",
        )
    return np.asarray(keep)


def _blocks(
    vectors: NDArray[Any], items: NDArray[np.int64], rows: NDArray[np.int64], dtype: str, path: Path
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.floating[Any]]]]:
    """Items and their vectors, block by block, without rows of zeros."""
    n_present = 0
    for start in range(0, len(rows), _BLOCK):
        taken = rows[start : start + _BLOCK]
        with np.errstate(over="ignore"):
            block = vectors[taken].astype(dtype)
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if len(bad):
            raise FeatureError(
                f"finite numbers in {dtype}",
                f"NaN or infinity in row {taken[bad[0]]} of {path}",
                "repair that row, or mark it absent with --mask",
            )
        full = block.any(axis=1)
        n_present += int(full.sum())
        yield items[start : start + _BLOCK][full], block[full]
    if not n_present:
        raise FeatureError(
            "at least one row that is not zero", f"none in {path}", "check how it was exported"
        )
