"""Rows of the MM-CTR challenge (WWW 2025): clicks on MicroLens videos with histories and frozen vectors.

The files are those of :mod:`mmrec.data.importers.mmctr`, which makes plain interactions of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from mmrec.config import validate
from mmrec.data.importers.reading import describe_source
from mmrec.data.rows.reading import count_rows, read_table, stream_table
from mmrec.data.rows.schema import Schema
from mmrec.data.rows.source import RowSource, part_streams
from mmrec.data.rows.values import find_column
from mmrec.errors import DataError
from mmrec.progress import note

FOLDER = "MicroLens_1M_x1"
_INDEX = {"kind": "category", "vocabulary": "index"}
_FIELDS: dict[str, Any] = {
    "likes_level": _INDEX,
    "views_level": _INDEX,
    "item_id": _INDEX,
    "item_seq": {"kind": "history", "max_length": 64},
}
_TAGS = {"kind": "tags", "vocabulary": "index", "max_length": 5}


def read_mmctr(
    source: str | Path, *, valid_share: float = 0.1, seed: int = 0, name: str | None = None
) -> RowSource:
    """Read ``train``, ``valid``, ``test`` and ``item_info.parquet``, in the folder or its ``MicroLens_1M_x1``.

    Ids are the indices of the files, 0 is padding. The organisers keep the clicks of the test rows: where ``test.parquet``
    has no label, their validation rows become the test part, which stays closed until the end, and a share of the
    training rows drawn at random is for validation.

    Args:
        source: The folder.
        valid_share: That share.
        seed: Of the draws.
        name: Of the dataset; the name of the folder if not given.

    Raises:
        DataError: Missing files or columns.
    """
    folder = Path(source)
    inner = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    files = {part: inner / f"{part}.parquet" for part in ("train", "valid", "test")}
    info = inner / "item_info.parquet"
    for path in (files["train"], files["valid"], info):
        if not path.is_file():
            raise DataError(f"{path.name} of the challenge", f"no such file in {inner}", "download it again")
    if not files["test"].is_file() or "label" not in parquet.read_schema(files["test"]).names:
        note("the test rows have no labels: valid.parquet is for test, some training rows for validation")
        files = {"train": files["train"], "test": files["valid"]}
    schema = validate(
        Schema,
        {
            "label": "label",
            "group": "user_id",
            "item": "item_id",
            "fields": _FIELDS,
            "items": {
                "fields": {"item_tags": _TAGS},
                "embeddings": {"item_emb_d128": {"column": "item_emb_d128", "modality": "joint"}},
            },
        },
        "the schema",
    )
    streams = {part: stream_table(path, columns=schema.columns()) for part, path in files.items()}
    chunks, protocol = part_streams(streams, valid_share=valid_share, seed=seed)
    return RowSource(
        name or folder.resolve().name,
        schema,
        chunks,
        sum(count_rows(path) for path in files.values()),
        protocol,
        _without_padding(read_table(info)),
        provenance=describe_source("mmctr", folder, [*files.values(), info]),
    )


def _without_padding(items: Any) -> Any:
    """The table of items without the row of item 0."""
    ids, _ = find_column(items, "item_id", "item_info.parquet")
    return items.filter(pc.not_equal(ids, pa.scalar(0, ids.type)))
