"""Rows from the interactions of a dataset: users and items as fields, histories of what came before, labels from ratings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmrec.config import validate
from mmrec.data.dataset import PARTS, Dataset
from mmrec.data.histories import Histories, Ids
from mmrec.data.rows.build import build
from mmrec.data.rows.dataset import RowDataset
from mmrec.data.rows.examples import EarlierItems, FreeItems
from mmrec.data.rows.schema import LabelRule, Schema
from mmrec.data.rows.source import RowSource
from mmrec.data.rows.values import as_labels
from mmrec.errors import ConfigError, DataError, did_you_mean

CHUNK_ROWS = 1 << 17
USER, HISTORY = "user_id", "history"  # names of fields
_LIST = ", "  # between the words of a column of tokens


def rows_from_dataset(
    dataset: Dataset | str | Path, to: str | Path, *, show_progress: bool = True, **options: Any
) -> RowDataset:
    """Make a row dataset of a dataset.

    Args:
        dataset: The dataset or its folder.
        to: The new folder.
        show_progress: Print progress to stderr.
        **options: Those of :func:`read_dataset`: ``split``, ``label`` or ``negatives``, ``history``, …

    Raises:
        ConfigError: Wrong options.
        DataError: Labels or times that are missing.
    """
    return build(read_dataset(dataset, **options), to, show_progress=show_progress)


def read_dataset(
    source: Dataset | str | Path,
    *,
    split: str = "default",
    label: tuple[str, str, float] | str | None = None,
    negatives: int | None = None,
    history: int = 64,
    history_of: Literal["positives", "all"] = "positives",
    user_fields: Sequence[str] | None = None,
    item_fields: Sequence[str] | None = None,
    min_count: int = 1,
    seed: int = 0,
    name: str | None = None,
) -> RowSource:
    """The interactions of a dataset as rows; their parts are those of a split.

    Fields of a row are ``user_id``, attributes of the user, ``item_id`` and the history; attributes of the item are on
    the items' side. Columns of tokens are categories, or tags where a value lists several; numbers are put into quantile
    buckets. Free text is no field: its embeddings are features. The group of a row is its user.

    Every item of the catalogue has an id, its internal one plus 1, so that items without training rows find their
    attributes and features; what training rows do not have is unknown only in the other fields.

    The history of a row holds the user's positive items strictly before the row's time, the latest ones, oldest first.
    Interactions of the same moment are not in it: one could give the other away. Nor are those of a later part: a
    training row knows training interactions only, a validation row also those of validation, a test row all. Otherwise
    a random split would show held-out labels to training.

    Args:
        source: The dataset or its folder.
        split: Name of the split.
        label: ``("rating", ">=", 4)`` or ``"rating >= 4"``: which interactions are positive, the others are negative.
        negatives: Without ``label``: all interactions are positive, and each comes with so many items that its user has
            no interaction with in any part, drawn uniformly. They take the time of their positive.
        history: Most items of a history; 0 for none.
        history_of: ``positives``, or ``all`` interactions whatever their label.
        user_fields: Attributes of users; all but free text if not given.
        item_fields: Attributes of items, likewise.
        min_count: Training rows (of attributes of items: trained items) that a value needs for an id of its own.
        seed: Of the drawn negatives.
        name: Of the row dataset; the dataset's name if not given.

    Raises:
        ConfigError: Neither or both of ``label`` and ``negatives``, or an unknown attribute.
        DataError: No times for histories, missing labels, or a user who knows all items.
    """
    data = source if isinstance(source, Dataset) else Dataset(source)
    rule = _rule(label, negatives)
    table = data.interactions
    labels = data.split_labels(split)
    times = _times(data) if history else np.zeros(len(table), dtype=np.int64)
    users, items = (table[column].to_numpy(dtype=np.int64) for column in ("user", "item"))
    values = np.ones(len(table)) if rule is None else _values(data, rule)
    positive = values.astype(np.int8) if rule is None else _positive(values, rule, data)
    shown = positive == 1 if history_of == "positives" else np.ones(len(table), dtype=bool)
    rng = np.random.default_rng(seed)
    taken = FreeItems.of(users, items, data.n_users, data.n_items) if rule is None else None
    parts = {}
    for code, part in enumerate(PARTS):
        rows = np.flatnonzero(labels == code)
        known = shown & (labels >= 0) & (labels <= code)
        before = EarlierItems.of(users[known], items[known], times[known]) if history else None
        examples = _Rows(users[rows], items[rows], values[rows], times[rows], before)
        parts[part] = (
            examples if taken is None else _with_negatives(examples, int(negatives or 0), taken, rng)
        )
    schema = _schema(data, rule, history, user_fields, item_fields, min_count)
    options = {
        "label": schema.label if rule else None,
        "negatives": negatives,
        "history": history,
        "history_of": history_of,
        "seed": seed,
    }
    return RowSource(
        name or data.name,
        schema,
        lambda: _chunks(data, schema, parts, history),
        sum(len(one.users) for one in parts.values()),
        _protocol(data, split),
        _item_table(data),
        provenance={"importer": "dataset", "source": str(data.path), "options": options},
        catalogue={
            "path": str(data.path.resolve()),
            "hash": data.hash,
            "split": split,
            "split_hash": data.split(split).hash,
        },
    )


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of a part: users, items, what their label is made of, times, and where histories come from."""

    users: Ids
    items: Ids
    values: NDArray[np.float64]
    times: NDArray[Any]
    before: EarlierItems | None


def _with_negatives(rows: _Rows, negatives: int, taken: FreeItems, rng: np.random.Generator) -> _Rows:
    """Each row, then its negatives."""
    users, times = (np.repeat(column, negatives + 1) for column in (rows.users, rows.times))
    first = np.arange(len(users)) % (negatives + 1) == 0
    items = np.empty(len(users), dtype=np.int64)
    items[first] = rows.items
    items[~first] = taken.draw(users[~first], rng)
    return _Rows(users, items, first.astype(np.float64), times, rows.before)


def _rule(label: tuple[str, str, float] | str | None, negatives: int | None) -> LabelRule | None:
    """What makes a row positive; None where negatives are drawn."""
    if (label is None) == (negatives is None):
        raise ConfigError(
            "either a label or a number of negatives",
            "neither" if label is None else "both",
            "say which interactions are positive (--label 'rating>=4'), or draw negatives (--negatives 4)",
        )
    if negatives is not None:
        if negatives < 1:
            raise ConfigError("at least 1 negative", str(negatives), "try --negatives 4")
        return None
    return LabelRule.parse(label if isinstance(label, str) else " ".join(map(str, label or ())))


def _values(data: Dataset, rule: LabelRule) -> NDArray[np.float64]:
    if rule.column not in data.interactions:
        columns = list(map(str, data.interactions.columns))
        raise DataError(
            f"a column {rule.column!r} in the interactions",
            f"columns {', '.join(columns)}",
            f"{did_you_mean(rule.column, columns)} Without ratings, draw negatives: --negatives 4",
        )
    return np.asarray(data.interactions[rule.column].to_numpy(dtype=np.float64, na_value=np.nan))


def positives(data: Dataset, rule: LabelRule) -> NDArray[np.bool_]:
    """Which interactions ``(n,)`` of a dataset are positive by a rule."""
    return np.asarray(_positive(_values(data, rule), rule, data), dtype=bool)


def _positive(values: NDArray[np.float64], rule: LabelRule, data: Dataset) -> NDArray[np.int8]:
    return as_labels(pa.array(values), rule, f"column {rule.column!r} of the interactions of {data.path}")


def _times(data: Dataset) -> NDArray[Any]:
    """When each interaction happened: its ``timestamp``, else its ``position`` among the user's interactions."""
    table = data.interactions
    for column in ("timestamp", "position"):
        if column in table and table[column].notna().all():
            return table[column].to_numpy()
    raise DataError(
        "a timestamp for each interaction, to know what a history may hold",
        f"columns {', '.join(map(str, table.columns))} in {data.path}, no complete one with times",
        "make rows without histories (--history 0), or import the data with its times",
    )


def _protocol(data: Dataset, split: str) -> dict[str, Any]:
    manifest = data.split(split).manifest
    return {key: manifest[key] for key in ("protocol", "options", "seed")}


def _schema(
    data: Dataset,
    rule: LabelRule | None,
    history: int,
    user_fields: Sequence[str] | None,
    item_fields: Sequence[str] | None,
    min_count: int,
) -> Schema:
    users = _fields(data, "users", user_fields, min_count)
    items = _fields(data, "items", item_fields, min_count)
    if history and HISTORY in users:
        raise ConfigError(
            "no attribute of users with the name of the history", HISTORY, "leave it out: --user-field"
        )
    fields: dict[str, Any] = {USER: {"kind": "category", "min_count": min_count}, **users}
    fields["item_id"] = {"kind": "category", "vocabulary": "index", "largest": data.n_items}
    if history:
        fields[HISTORY] = {"kind": "history", "max_length": history}
    own = {f"item_{name}" if name in fields else name: {**one, "column": name} for name, one in items.items()}
    label = "label" if rule is None else f"{rule.column} {rule.operator} {rule.threshold:g}"
    if rule is not None and rule.operator is None:
        label = rule.column
    document = {
        "label": label,
        "group": "user",
        "item": "item_id",
        "fields": fields,
        "items": {"key": "item_id", "fields": own},
    }
    return validate(Schema, document, f"the attributes of {data.path}")


def _fields(
    data: Dataset, table: Literal["users", "items"], wanted: Sequence[str] | None, min_count: int
) -> dict[str, dict[str, Any]]:
    """Entries of the schema for attributes of users or items."""
    kinds: Mapping[str, str] = data.manifest["columns"].get(table, {})
    usable = [column for column, kind in kinds.items() if kind in ("tokens", "number")]
    fields: dict[str, dict[str, Any]] = {}
    for column in usable if wanted is None else wanted:
        if column not in usable:
            raise ConfigError(
                f"attributes of {table}: {', '.join(usable) or 'none'}",
                f"{column!r}, of kind {kinds.get(column)}" if column in kinds else repr(column),
                did_you_mean(column, usable) if usable else "leave it out",
            )
        if kinds[column] == "number":
            fields[column] = {"kind": "number", "treatment": "quantile"}
            continue
        values = (data.users if table == "users" else data.items)[column]
        lists = bool(values.dropna().astype(str).str.contains(_LIST, regex=False).any())
        kind = {"kind": "tags", "separator": _LIST} if lists else {"kind": "category"}
        fields[column] = {**kind, "min_count": min_count}
    return fields


def _item_table(data: Dataset) -> Any:
    """The attributes of the items by their id in rows."""
    columns = [column for column in map(str, data.items.columns) if column not in ("item_id", "image")]
    arrays = {column: pa.array(data.items[column], from_pandas=True) for column in columns}
    return pa.table({"item_id": pa.array(np.arange(1, data.n_items + 1)), **arrays})


def user_columns(data: Dataset, schema: Schema, users: Ids) -> dict[str, Any]:
    """The user's side of raw rows: the fields of ``users (n,)`` by column, each value stored once; of -1 nothing."""
    names = [name for name in schema.fields if name in data.users.columns]
    rows = pa.array(users, mask=users < 0)
    return {
        name: pa.DictionaryArray.from_arrays(rows, pa.array(data.users[name], from_pandas=True))
        for name in names
    }


def history_column(histories: Histories) -> Any:
    """Histories of internal ids ``(n,)`` as ids of the item field."""
    return pa.ListArray.from_arrays(pa.array(histories.offsets, pa.int32()), pa.array(histories.items + 1))


def _chunks(
    data: Dataset, schema: Schema, parts: Mapping[str, _Rows], history: int
) -> Iterator[tuple[str, Any]]:
    for part, rows in parts.items():
        for start in range(0, len(rows.users), CHUNK_ROWS):
            one = slice(start, start + CHUNK_ROWS)
            columns = user_columns(data, schema, rows.users[one])
            columns |= {"user": pa.array(rows.users[one]), "item_id": pa.array(rows.items[one] + 1)}
            columns[schema.rule.column] = pa.array(rows.values[one])
            if rows.before is not None:
                columns[HISTORY] = history_column(
                    rows.before.look_up(rows.users[one], rows.times[one], history)
                )
            yield part, pa.table(columns)
