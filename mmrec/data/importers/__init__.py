"""Importers, one file per format that people have: files in, :class:`mmrec.data.raw.RawData` out."""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from mmrec.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from mmrec.data.dataset import Dataset
    from mmrec.data.prepare import PrepareOptions
    from mmrec.data.raw import RawData

IMPORTERS = {
    "recbole": "mmrec.data.importers.recbole:import_recbole",
    "mmrec": "mmrec.data.importers.mmrec_folder:import_mmrec",
    "json": "mmrec.data.importers.json_files:import_json",
    "movielens": "mmrec.data.importers.movielens:import_movielens",
    "amazon": "mmrec.data.importers.amazon:import_amazon",
    "microlens": "mmrec.data.importers.microlens:import_microlens",
    "mmctr": "mmrec.data.importers.mmctr:import_mmctr",
    "tables": "mmrec.data.importers.frames:import_tables",
    "s3rec": "mmrec.data.importers.s3rec:import_s3rec",
}
_SIGNS = {
    "recbole": "NAME.inter with a header such as user_id:token",
    "mmrec": "NAME.inter with a header such as userID",
    "json": "NAME.inter.json",
    "movielens": "ratings.dat, ratings.dat.gz, u.data, or ratings.csv with movies.csv",
    "amazon": "reviews and meta_….json.gz",
    "microlens": "MicroLens-…_pairs.csv",
    "mmctr": "item_feature.parquet and MicroLens_1M_x1",
    "tables": "interactions.csv, .tsv, .jsonl or .parquet",
    "s3rec": "NAME.txt with lines of numbers",
}


_PUBLISHED = {"meta_*.json*": "amazon", "*_pairs.csv": "microlens", "item_feature.parquet": "mmctr"}


def import_dataset(
    source: str | Path,
    to: str | Path,
    *,
    format: str = "auto",
    images: str | Path | None = None,
    items: str | Path | None = None,
    users: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    kinds: Mapping[str, str] | None = None,
    split_file: str | Path | None = None,
    **options: Unpack[PrepareOptions],
) -> Dataset:
    """Import a folder or file into a new dataset folder.

    Args:
        source: The folder, or its main file.
        to: The new dataset folder.
        format: A key of :data:`IMPORTERS`, or ``auto`` to tell by the files present.
        images: Folder of pictures; None takes ``images`` in the source folder where there is one.
        items: Table with ``item_id`` and attributes, joined to the items of the format.
        users: Table with ``user_id`` and attributes, likewise.
        columns: Own column names to canonical ones (``user_id``, ``item_id``, ``timestamp``, …).
        kinds: Kind of columns whose guess would be wrong, for example ``{"brand": "text"}``.
        split_file: Table with ``user_id``, ``item_id`` and ``x_label`` (0 train, 1 valid, 2 test) for all pairs.
        **options: Those of :func:`mmrec.data.prepare.prepare`, such as ``k_core=5``.

    Raises:
        ConfigError: Unknown format, kind or option value.
        DataError: Data that cannot be used; nothing is left behind.
        DiskError: The disk is full.
    """
    from mmrec.data.importers.columns import declare_kinds, join_table, rename_raw
    from mmrec.data.importers.given_split import add_labels
    from mmrec.data.importers.reading import read_any_table, rename_columns
    from mmrec.data.prepare import prepare

    raw = read_source(Path(source), format)
    further = {"items": items, "users": users}
    tables = {table: Path(path) for table, path in further.items() if path is not None}
    frames = {table: read_any_table(path) for table, path in tables.items()}
    own = [str(column) for frame in frames.values() for column in frame.columns]
    raw = rename_raw(raw, columns, elsewhere=own)
    for table, path in tables.items():
        raw = join_table(raw, table, rename_columns(frames[table], columns, path.name), path)
    raw = declare_kinds(raw, kinds)
    if split_file is not None:
        raw = add_labels(raw, Path(split_file))
    if images is not None:
        raw = dataclasses.replace(raw, images=Path(images))
    return prepare(raw, to, **options)


def read_source(source: Path, format: str = "auto") -> RawData:
    """Read a folder or file with the importer of its format.

    Raises:
        ConfigError: Unknown format.
        DataError: Unreadable, or the format cannot be told.
    """
    if not source.exists():
        raise DataError("a folder or file to import", f"{source} does not exist", "check the path")
    if format == "auto":
        format = detect(source)
    if format not in IMPORTERS:
        known = ["auto", *IMPORTERS]
        raise ConfigError(f"a format: {' | '.join(known)}", repr(format), did_you_mean(format, known))
    module, _, function = IMPORTERS[format].partition(":")
    read: Callable[[Path], RawData] = getattr(importlib.import_module(module), function)
    return read(source)


def detect(source: str | Path) -> str:
    """The format of a folder or file, told by the files present.

    Where several fit, the more specific one wins: the order is that of :data:`IMPORTERS`.

    Raises:
        DataError: No known format.
    """
    from mmrec.data.importers.frames import SUFFIXES, find_table
    from mmrec.data.importers.recbole import is_recbole
    from mmrec.data.importers.s3rec import looks_like_sequences

    source = Path(source)
    files = [source] if source.is_file() else sorted(path for path in source.glob("*") if path.is_file())
    inter = [path for path in files if path.suffix == ".inter"]
    if inter:
        return "recbole" if is_recbole(inter[0]) else "mmrec"
    if any(path.name.endswith(".inter.json") for path in files):
        return "json"
    names = {path.name for path in files}
    if names & {"ratings.dat", "ratings.dat.gz", "u.data"} or names >= {"ratings.csv", "movies.csv"}:
        return "movielens"
    for pattern, format in _PUBLISHED.items():
        if any(fnmatch.fnmatch(name, pattern) for name in names):
            return format
    if (source.is_file() and source.name.endswith(SUFFIXES)) or find_table(source, "interactions"):
        return "tables"
    if any(path.suffix == ".txt" and looks_like_sequences(path) for path in files):
        return "s3rec"
    found = ", ".join(path.name for path in files[:8]) + (", …" if len(files) > 8 else "")
    signs = "; ".join(f"{sign} ({name})" for name, sign in _SIGNS.items())
    raise DataError(
        f"files of a known format in {source}: {signs}",
        found or "no files",
        "name the table itself: mmrec data import FILE.csv --items ITEMS.csv --to DIR",
    )
