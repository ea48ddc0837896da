"""Own tables: pandas frames, or CSV, TSV, JSON lines and Parquet files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Unpack

import pandas as pd

from mmrec.data.dataset import Dataset
from mmrec.data.importers.columns import declare_kinds, rename_raw
from mmrec.data.importers.reading import describe_source, picture_folder, read_any_table
from mmrec.data.prepare import PrepareOptions, prepare
from mmrec.data.raw import RawData
from mmrec.errors import DataError

Table = pd.DataFrame | str | Path
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".csv.gz", ".tsv.gz", ".jsonl.gz")


def from_frames(
    interactions: Table,
    items: Table | None = None,
    users: Table | None = None,
    images: str | Path | None = None,
    *,
    to: str | Path,
    columns: Mapping[str, str] | None = None,
    kinds: Mapping[str, str] | None = None,
    **options: Unpack[PrepareOptions],
) -> Dataset:
    """Make a dataset folder of own tables.

    Args:
        interactions: ``user_id``, ``item_id``; where known ``timestamp``, ``rating``, ``position`` (order within
            the user), ``label`` (0 train, 1 valid, 2 test). A frame, or a .csv, .tsv, .jsonl or .parquet file.
        items: ``item_id`` and any attributes; ``image`` names pictures relative to ``images``.
        users: ``user_id`` and any attributes.
        images: Folder of pictures, ``<item_id>.jpg`` (or .png, .webp, …) where items have no column ``image``.
        to: The new dataset folder.
        columns: Own column names to canonical ones, for example ``{"sku": "item_id"}``.
        kinds: Kind of columns whose guess would be wrong, for example ``{"brand": "text"}``; text encoders read
            ``text`` by default. Known kinds: id, text, tokens, number, time.
        **options: Those of :func:`mmrec.data.prepare.prepare`, such as ``k_core=5``.

    Raises:
        ConfigError: An unknown kind or option value.
        DataError: Tables that cannot be used; nothing is left behind.
        DiskError: The disk is full.
    """
    raw = read_tables(interactions, items, users, images)
    return prepare(declare_kinds(rename_raw(raw, columns), kinds), to, **options)


def import_tables(source: str | Path) -> RawData:
    """Read a folder with ``interactions``, and where they exist ``items`` and ``users``, or one file of interactions.

    Args:
        source: The folder or the file; each table is .csv, .tsv, .jsonl or .parquet.

    Raises:
        DataError: Unreadable files.
    """
    folder = Path(source)
    if folder.is_file():
        return read_tables(folder)
    interactions = find_table(folder, "interactions")
    if interactions is None:
        raise DataError(
            f"a table interactions{' | '.join(SUFFIXES)} in {folder}", "none", "name the file itself"
        )
    items, users = find_table(folder, "items"), find_table(folder, "users")
    return read_tables(interactions, items, users, picture_folder(folder))


def find_table(folder: Path, name: str) -> Path | None:
    """The table ``name`` of a folder in any format, or None.

    Raises:
        DataError: It is there in several formats.
    """
    found = [path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"one table {name} in {folder}", names, "name the files themselves")
    return found[0] if found else None


def read_tables(
    interactions: Table,
    items: Table | None = None,
    users: Table | None = None,
    images: str | Path | None = None,
) -> RawData:
    """Own tables as raw data, under their own column names; the arguments are those of :func:`from_frames`.

    Raises:
        DataError: Unreadable files.
    """
    every = {"interactions": interactions, "items": items, "users": users}
    given = {table: value for table, value in every.items() if value is not None}
    files = {table: Path(value) for table, value in given.items() if not isinstance(value, pd.DataFrame)}
    frames = {
        table: _check_frame(value, table) if isinstance(value, pd.DataFrame) else read_any_table(Path(value))
        for table, value in given.items()
    }
    source = files["interactions"] if "interactions" in files else Path("frames")
    return RawData(
        frames["interactions"],
        frames.get("items"),
        frames.get("users"),
        None if images is None else Path(images),
        provenance=describe_source("tables", source, files.values()),
        names={table: path.name for table, path in files.items()},
    )


def _check_frame(frame: pd.DataFrame, table: str) -> pd.DataFrame:
    names = [str(column) for column in frame.columns]
    if isinstance(frame.columns, pd.MultiIndex) or len(set(names)) < len(names):
        raise DataError(
            f"one name per column in the {table} table", ", ".join(names), "rename: frame.columns = [...]"
        )
    return frame
