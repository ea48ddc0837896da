"""Own column names and further tables brought into raw data."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mmrec.data.importers.reading import hash_sources, rename_columns, require_columns
from mmrec.data.raw import RawData
from mmrec.data.values import CANONICAL, KINDS, as_ids
from mmrec.errors import ConfigError, DataError, did_you_mean

ALIASES = {"x_label": "label"}  # names of the field that need no renaming by the user


def rename_raw(
    raw: RawData, columns: Mapping[str, str] | None, *, elsewhere: Collection[str] = ()
) -> RawData:
    """Raw data under canonical column names.

    Args:
        raw: Tables under their owner's column names.
        columns: Own column name to canonical one; applies to each table that has the column.
        elsewhere: Columns of further tables, which ``columns`` may name as well.

    Raises:
        DataError: No table has such a column, or two columns would have the same name.
    """
    frames = raw.tables()
    _check_present([name for name in columns or {} if name not in elsewhere], frames, "--column")
    full = {**ALIASES, **(columns or {})}
    renamed = {table: rename_columns(frame, full, raw.name(table)) for table, frame in frames.items()}
    kinds = {
        table: {
            full.get(name, name): kind for name, kind in declared.items() if full.get(name) not in CANONICAL
        }
        for table, declared in raw.kinds.items()
    }
    options = {**raw.provenance.get("options", {}), **({"columns": dict(columns)} if columns else {})}
    changes: dict[str, Any] = {
        **renamed,
        "kinds": kinds,
        "provenance": {**raw.provenance, "options": options},
    }
    return dataclasses.replace(raw, **changes)


def declare_kinds(raw: RawData, kinds: Mapping[str, str] | None) -> RawData:
    """Raw data with the kinds of some columns declared.

    Raises:
        ConfigError: An unknown kind, or one for a column whose kind is fixed.
        DataError: No table has such a column.
    """
    free = [kind for kind in KINDS if kind not in ("label", "order", "image")]
    frames = raw.tables()
    for column, kind in (kinds or {}).items():
        if column in CANONICAL:
            raise ConfigError(
                f"kinds of own columns; {column} is always {CANONICAL[column]}", kind, "leave it out"
            )
        if kind not in free:
            raise ConfigError(
                f"a kind for {column!r}: {' | '.join(free)}", repr(kind), did_you_mean(kind, free)
            )
    _check_present(kinds or {}, frames, "kinds")
    declared = {
        table: {
            **raw.kinds.get(table, {}),
            **{column: kind for column, kind in (kinds or {}).items() if column in frame.columns},
        }
        for table, frame in frames.items()
    }
    return dataclasses.replace(raw, kinds=declared)


def _check_present(chosen: Collection[str], frames: Mapping[str, pd.DataFrame], option: str) -> None:
    present = list(dict.fromkeys(str(column) for frame in frames.values() for column in frame.columns))
    for column in chosen:
        if column not in present:
            raise DataError(
                f"columns of the data in {option}: {', '.join(present)}",
                repr(column),
                did_you_mean(column, present),
            )


def join_table(raw: RawData, table: str, more: pd.DataFrame, path: Path) -> RawData:
    """Raw data with the attributes of one more table, by id; without such a table before, it becomes the table.

    Args:
        raw: Under canonical names.
        table: ``items`` or ``users``.
        more: ``item_id`` or ``user_id``, and attributes.
        path: Where ``more`` was read.

    Raises:
        DataError: Missing, repeated or foreign ids, or attributes that are there already.
    """
    key = f"{table[:-1]}_id"
    require_columns(more, [key], path.name)
    base = raw.tables().get(table)
    names = dict(raw.names)
    if base is None:
        names[table] = path.name
    else:
        require_columns(base, [key], raw.name(table))
        base = base.assign(**{key: as_ids(base[key], key, raw.name(table))})
        more = _attach(base, more.assign(**{key: as_ids(more[key], key, path.name)}), key, path)
    files = {**raw.provenance.get("source_files", {}), **hash_sources([path])}
    changes: dict[str, Any] = {table: more, "provenance": {**raw.provenance, "source_files": files}}
    return dataclasses.replace(raw, names=names, **changes)


def _attach(base: pd.DataFrame, more: pd.DataFrame, key: str, path: Path) -> pd.DataFrame:
    """Rows and order of ``base`` with the further columns of ``more``."""
    repeated = more[key].duplicated()
    if repeated.any():
        raise DataError(
            f"each {key} once in {path}", f"{more[key][repeated].iloc[0]!r} twice", "keep one row for each"
        )
    if not more[key].isin(base[key]).any():
        raise DataError(
            f"the ids of the data, such as {base[key].iloc[0]!r}, in {path}",
            f"others, such as {more[key].iloc[0]!r}",
            "write the table with the same ids",
        )
    both = [str(column) for column in more.columns if column in base.columns and column != key]
    if both:
        raise DataError(f"new columns in {path}", f"{both[0]!r}, which is there already", "rename or drop it")
    return base.merge(more, on=key, how="left")
