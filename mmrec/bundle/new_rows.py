"""A table of new items, read as the catalogue's was and checked against it; bad rows are named, all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmrec.data.importers.reading import read_any_table, require_columns
from mmrec.data.pictures import find_pictures
from mmrec.data.text import clean_text
from mmrec.data.values import convert
from mmrec.encode.pictures import Reason, open_picture, quiet_decoding
from mmrec.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN = 5  # bad rows in a message


@dataclass(frozen=True, eq=False)
class NewRows:
    """Checked new items.

    Attributes:
        items: All columns of the catalogue, in its order.
        rows: ``(m,)`` row of each in the catalogue: the next ones, or that of an item which it replaces.
        pictures: In mode RGB; None for an item without.
    """

    items: pd.DataFrame
    rows: NDArray[np.int64]
    pictures: list[Image | None]


def read_new_rows(
    table: pd.DataFrame | str | Path,
    known: pd.DataFrame,
    kinds: Mapping[str, str],
    *,
    images: Path | None = None,
    replace: bool = False,
    drop_unknown: bool = False,
) -> NewRows:
    """Read new items.

    Args:
        table: ``item_id`` and columns of the catalogue; CSV, TSV, JSON lines or Parquet. Absent columns are empty.
        known: The catalogue.
        kinds: Of its columns.
        images: Folder of pictures, named in a column ``image`` or ``<item_id>.<suffix>``.
        replace: Items of the catalogue may be given again.
        drop_unknown: Leave out columns that the catalogue lacks.

    Raises:
        DataError: Columns that are absent or unknown, or bad rows, with number, id and reason.
    """
    name = "the new items" if isinstance(table, pd.DataFrame) else Path(table).name
    frame = table if isinstance(table, pd.DataFrame) else read_any_table(Path(table))
    require_columns(frame, ["item_id"], name, renaming=False)
    if frame.empty:
        raise DataError(f"rows in {name}", "none", "give at least one item")
    frame = _known_columns(frame.reset_index(drop=True), known, name, drop_unknown=drop_unknown)
    items, own = convert(frame, kinds, name)
    for column, kind in own.items():
        if kind in ("text", "tokens"):
            items[column] = clean_text(items[column])
    rows, reasons = _place(items["item_id"].tolist(), known["item_id"].tolist(), replace=replace)
    pictures: list[Image | None] = [None] * len(items)
    if images is not None:
        items, pictures = _find(items, images, reasons, known)
    raise_bad_rows(items["item_id"].tolist(), reasons, name)
    return NewRows(items.reindex(columns=known.columns), rows, pictures)


def _known_columns(
    frame: pd.DataFrame, known: pd.DataFrame, name: str, *, drop_unknown: bool
) -> pd.DataFrame:
    unknown = [str(column) for column in frame.columns if str(column) not in known]
    if unknown and not drop_unknown:
        raise DataError(
            f"columns of the catalogue in {name}: {', '.join(map(str, known.columns))}",
            ", ".join(map(repr, unknown[:SHOWN])),
            f"{did_you_mean(unknown[0], list(map(str, known.columns)))}; or leave it out: --drop-unknown",
        )
    return frame[[column for column in frame.columns if str(column) in known]]


def _place(
    ids: Sequence[str], known: Sequence[str], *, replace: bool
) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Row of each new item, and what is wrong with some."""
    places = {one: row for row, one in enumerate(known)}
    first: dict[str, int] = {}
    reasons: dict[int, str] = {}
    n = len(known)
    rows = np.zeros(len(ids), dtype=np.int64)
    for row, one in enumerate(ids):
        if one in first:
            reasons[row] = f"the same item as row {first[one] + 1:,}"
        elif one in places and not replace:
            reasons[row] = "in the catalogue already (--replace puts it in place of the old one)"
        first.setdefault(one, row)
        rows[row] = places.get(one, n)
        n += one not in places
    return rows, reasons


def _find(
    items: pd.DataFrame, folder: Path, reasons: dict[int, str], known: pd.DataFrame
) -> tuple[pd.DataFrame, list[Image | None]]:
    """The items with the names of their pictures, and these."""
    if "image" not in known:
        raise DataError("a catalogue with pictures for --images", "one without", "leave --images out")
    found = find_pictures(items, folder).files
    files: list[Any] = found.tolist()  # None where there is none
    named = items.get("image", found)
    pictures: list[Image | None] = []
    with quiet_decoding():
        for row, (file, asked) in enumerate(zip(files, named.tolist(), strict=True)):
            if not isinstance(file, str):
                pictures.append(None)
                if isinstance(asked, str):
                    reasons.setdefault(row, f"no picture {asked} in {folder}")
                continue
            picture, reason = open_picture(folder / file)
            pictures.append(picture)
            if reason is not Reason.OK:
                reasons.setdefault(row, f"picture {file}: {reason.words}")
    return items.assign(image=found), pictures


def raise_bad_rows(ids: Sequence[str], reasons: Mapping[int, str], name: str) -> None:
    """Name bad rows.

    Raises:
        DataError: There are some.
    """
    if not reasons:
        return
    lines = [f"row {row + 1:,}, {ids[row]!r}: {reason}" for row, reason in sorted(reasons.items())[:SHOWN]]
    more = f"; and {len(reasons) - SHOWN:,} more" if len(reasons) > SHOWN else ""
    raise DataError(
        f"new items in {name}", "; ".join(lines) + more, "correct these rows; nothing was written"
    )


def join_rows(content: bytes, new: pd.DataFrame, rows: NDArray[np.int64]) -> Any:
    """The catalogue's table (Parquet) with new items at ``rows (m,)``; its types stay as they are.

    Raises:
        DataError: A value that its column cannot hold.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    old = pq.read_table(pa.BufferReader(content)).replace_schema_metadata(None)
    columns = []
    for field in old.schema:
        try:
            columns.append(pa.array(new[field.name].tolist(), type=field.type, from_pandas=True))
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise DataError(
                f"values of type {field.type} in column {field.name!r}", f"{error}", "correct the column"
            ) from None
    both = pa.concat_tables([old, pa.Table.from_arrays(columns, schema=old.schema)])
    order = np.arange(max(len(old), int(rows.max()) + 1))
    order[rows] = len(old) + np.arange(len(new))
    return both.take(order)
