"""The set of the MM-CTR challenge (WWW 2025): clicks on MicroLens videos with histories, texts and vectors.

``MicroLens_1M_x1/{train,valid,test}.parquet`` hold one shown video per row, with the videos that the user had
watched before; ``item_feature.parquet`` and ``item_info.parquet`` describe the videos. The organisers kept the
clicks of the test rows, so that only train and valid are read. Video 0 pads histories and is no video.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmrec.data.importers.reading import describe_source
from mmrec.data.raw import RawData
from mmrec.errors import DataError
from mmrec.progress import note

HISTORY = 64  # videos of the history that are kept, the latest
_PARTS = ("train", "valid")  # label 0 and 1 of the given split
_ROWS = ["user_id", "item_id", "item_seq", "likes_level", "views_level", "label"]
_KINDS = {
    "interactions": {
        "click": "number",
        "history": "tokens",
        "likes_level": "number",
        "views_level": "number",
    },
    "items": {"title": "text", "tags": "tokens"},
}


def import_mmctr(source: str | Path) -> RawData:
    """Read the rows of train and valid as interactions with ``rating`` and ``history`` (video ids, oldest first).

    The rating is 1 where the shown video was clicked, else 0: a minimum rating of 1 leaves the clicks, which is
    what models that learn from positives need. The split of the challenge becomes the split ``default``; the vectors of ``item_info.parquet``
    (``item_emb_d128``) become features of the modality ``joint``. Pictures are read from ``item_images/<video>.jpg``
    where that folder exists; the organisers pack it as RAR, which has to be unpacked by hand.

    Args:
        source: The folder with ``item_feature.parquet`` and the folder ``MicroLens_1M_x1``.

    Raises:
        DataError: Missing files or columns.
    """
    folder = Path(source)
    inner = folder / "MicroLens_1M_x1"
    rows = [_read(inner / f"{part}.parquet", _ROWS) for part in _PARTS]
    interactions = pd.concat(
        [_interactions(table, label) for label, table in enumerate(rows)], ignore_index=True
    )
    features = _read(folder / "item_feature.parquet", ["item_id", "item_title", "item_tags"]).to_pandas()
    features = features[features["item_id"] != 0].sort_values("item_id").reset_index(drop=True)
    features["item_tags"] = [" ".join(str(tag) for tag in tags if tag) for tags in features["item_tags"]]
    items = features.rename(columns={"item_title": "title", "item_tags": "tags"})
    vectors = _vectors(inner / "item_info.parquet", items["item_id"].to_numpy())
    files = [inner / f"{part}.parquet" for part in _PARTS]
    files += [folder / "item_feature.parquet", inner / "item_info.parquet"]
    shown = int((interactions["rating"] == 0).sum())
    note(f"{shown:,} rows are shown videos without a click (rating 0): a minimum rating of 1 leaves them out")
    described = describe_source("mmctr", folder, files, {"history": HISTORY})
    names = {"interactions": "train.parquet and valid.parquet", "items": "item_feature.parquet"}
    images = next((path for path in (folder / "item_images",) if path.is_dir()), None)
    return RawData(interactions, items, None, images, {"joint": vectors}, _KINDS, described, names)


def _read(path: Path, columns: list[str]) -> Any:
    """Some columns of a Parquet file, as an Arrow table."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.read_table(path, columns=columns).select(columns)
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise DataError(
            f"{path.name} with {', '.join(columns)}", f"{error}", f"download {path} again"
        ) from None


def _interactions(table: Any, label: int) -> pd.DataFrame:
    flat = {name: table.column(name).to_numpy() for name in _ROWS if name != "item_seq"}
    flat["rating"] = flat.pop("label")
    return pd.DataFrame({**flat, "history": _histories(table.column("item_seq")), "label": label})


def _histories(column: Any) -> pd.Series[str]:
    """Lists of video ids as words, without padding: ``"17 4 523"``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    values = lists.flatten().to_numpy(zero_copy_only=False)
    row = np.repeat(np.arange(len(lengths)), lengths)
    real = values != 0
    values, row = values[real], row[real]
    counts = np.bincount(row, minlength=len(lengths))
    ends = np.cumsum(counts)
    late = np.arange(len(values)) >= np.repeat(ends, counts) - HISTORY
    offsets = np.concatenate([[0], np.cumsum(np.minimum(counts, HISTORY))])
    words = pc.cast(pa.array(values[late]), pa.string())
    joined = pc.binary_join(pa.LargeListArray.from_arrays(offsets, words), " ")
    return pd.Series(pd.array(joined.to_numpy(zero_copy_only=False), dtype="str"))


def _vectors(path: Path, item_ids: NDArray[Any]) -> NDArray[np.float32]:
    """``(n_items, d)`` vectors in the order of ``item_ids``, zero where an item has none."""
    table = _read(path, ["item_id", "item_emb_d128"])
    found = np.stack(table.column("item_emb_d128").to_pandas().to_numpy()).astype(np.float32)
    rows = pd.Index(table.column("item_id").to_numpy()).get_indexer(pd.Index(item_ids))
    return np.where((rows >= 0)[:, None], found[rows], np.float32(0))
