"""A schema guessed from a sample of rows, with the reason for each guess."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmrec.config import validate
from mmrec.data.rows.schema import LabelRule, Schema
from mmrec.data.rows.values import as_numbers, as_words, is_list, split_lists, whole
from mmrec.data.values import infer_kind
from mmrec.errors import DataError

SAMPLE_ROWS = 100_000
MANY = 100  # distinct numbers; fewer are categories
_LABELS = ("label", "click", "clicked", "is_click", "y", "target")
_ITEMS = ("item_id", "item", "video_id", "movie_id", "ad_id", "product_id", "asin")
_GROUPS = ("user_id", "user", "session_id", "userid")
_TIMES = ("timestamp", "time", "datetime", "date")
_HISTORY = {"history", "hist", "seq", "sequence", "behaviour", "behavior", "clicked"}
_SEPARATORS = ("|", ", ", ";", "^")


@dataclass(frozen=True)
class ColumnReport:
    """What a column was taken for.

    Attributes:
        column: Its name.
        kind: ``category``, ``tags``, ``number``, ``history``, ``embedding``, ``label`` or ``left out``.
        why: The reason.
        distinct: Distinct values in the sample; of lists, of their entries.
        missing: Rows of the sample without a value.
    """

    column: str
    kind: str
    why: str
    distinct: int
    missing: int


def infer_schema(
    rows: Any,
    items: Any = None,
    *,
    label: str | None = None,
    item: str | None = None,
    group: str | None = None,
    leave_out: Collection[str] = (),
) -> tuple[Schema, list[ColumnReport]]:
    """Guess what the columns of rows and of items mean.

    Args:
        rows: Some training rows, an Arrow table.
        items: The table of items.
        label: Column of 0 and 1 or a rule; None looks for a column called label, click, …
        item: Column of the item's id; None looks for item_id, …
        group: Column of what rows belong to; None looks for user_id, …
        leave_out: Columns that are no fields, such as that of a split.

    Raises:
        DataError: No label, or a named column that is not there.
    """
    names = list(rows.column_names)
    label = label or _label(rows)
    item = _named(item, names, _ITEMS, "item")
    group = _named(group, names, _GROUPS, "group")
    out = {
        LabelRule.parse(label).column: "the label",
        **dict.fromkeys(leave_out, "says which part a row is in"),
    }
    fields, reports = _guess(rows, out, item, embeddings=False)
    document: dict[str, Any] = {"label": label, "group": group, "item": item, "fields": fields}
    if items is not None:
        if item is None:
            raise DataError("the item's id among the columns", ", ".join(names), "name its column: --item")
        key = item if item in items.column_names else items.column_names[0]
        inner, more = _guess(items, {key: "the item's id"}, None, embeddings=True)
        vectors = {name: entry for name, entry in inner.items() if entry["kind"] == "embedding"}
        attributes = {name: entry for name, entry in inner.items() if name not in vectors}
        document["items"] = {
            "key": key,
            "fields": {
                _own_name(name, fields): {**entry, "column": name} for name, entry in attributes.items()
            },
            "embeddings": {name: {"column": name} for name in vectors},
        }
        reports += more
    return validate(Schema, document, "the inferred schema"), reports


def _own_name(name: str, taken: Collection[str]) -> str:
    return f"item_{name}" if name in taken else name


def _label(rows: Any) -> str:
    for name in rows.column_names:
        if name.casefold() in _LABELS:
            return str(name)
    hint = (
        "--label 'rating >= 4'"
        if "rating" in rows.column_names
        else "--label COLUMN or --label 'COLUMN >= 4'"
    )
    raise DataError(
        f"a label: a column called {', '.join(_LABELS)}",
        ", ".join(rows.column_names),
        f"say which rows are positive: {hint}",
    )


def _named(given: str | None, names: list[str], usual: tuple[str, ...], what: str) -> str | None:
    if given is None:
        return next((name for name in names if name.casefold() in usual), None)
    if given not in names:
        raise DataError(f"a column {given!r} ({what})", f"columns {', '.join(names)}", "name one of them")
    return given


def _guess(
    table: Any, out: dict[str, str], item: str | None, *, embeddings: bool
) -> tuple[dict[str, dict[str, Any]], list[ColumnReport]]:
    """Entries of the schema by column, and a report on each."""
    fields: dict[str, dict[str, Any]] = {}
    reports = []
    for name in table.column_names:
        column = whole(table[name])
        separator = None if is_list(column.type) else _separator(column)
        distinct, missing = _count(column, separator)
        if name in out:
            entry, why = {"kind": "label" if out[name] == "the label" else "left out"}, out[name]
        elif name == item:
            entry, why = {"kind": "category"}, "the item's id"
        else:
            entry, why = _kind(name, column, separator, distinct, item, embeddings=embeddings)
        if entry["kind"] not in ("label", "left out"):
            fields[name] = entry
        shown = " ".join(str(entry[key]) for key in ("treatment", "kind") if key in entry)
        reports.append(ColumnReport(name, shown, why, distinct, missing))
    return fields, reports


def _count(column: Any, separator: str | None) -> tuple[int, int]:
    if is_list(column.type) or separator:
        rows, values = split_lists(column, separator, "")
        return len(pc.unique(values)), len(column) - len(np.unique(rows))
    if pa.types.is_struct(column.type):
        return 0, column.null_count
    words = as_words(column, "")
    return len(pc.unique(words.drop_null())), words.null_count


def _kind(
    name: str, column: Any, separator: str | None, distinct: int, item: str | None, *, embeddings: bool
) -> tuple[dict[str, Any], str]:
    """The schema's entry for a column, and why."""
    words = set(re.split(r"[\W_]+", name.casefold()))
    if pa.types.is_struct(column.type):
        return {"kind": "left out"}, "records are no values"
    if is_list(column.type) or separator:
        return _list_kind(column, separator, words, item, embeddings=embeddings)
    if name.casefold() in _TIMES or pa.types.is_temporal(column.type):
        return {"kind": "left out"}, "a time: for cutting, not for learning"
    if distinct < 2:
        return {"kind": "left out"}, "the same everywhere"
    if words & {"id", "ids"}:
        return {"kind": "category"}, "an id by its name"
    numbers = _numbers(column)
    if numbers is not None:
        if distinct <= MANY:
            return {"kind": "category"}, f"numbers, but only {distinct} of them"
        known = numbers[~np.isnan(numbers)]
        long_tail = known.min() >= -1 and known.max() > 10 * max(known.mean(), 1.0)
        treatment, why = ("log", "a long tail") if long_tail else ("raw", "no long tail")
        return {"kind": "number", "treatment": treatment}, f"many numbers, {why}"
    values = as_words(column, "").to_pandas()
    if infer_kind(name, values) == "text":
        return {"kind": "left out"}, "free text: encode it to an embedding"
    return {"kind": "category"}, "strings"


def _list_kind(
    column: Any, separator: str | None, words: set[str], item: str | None, *, embeddings: bool
) -> tuple[dict[str, Any], str]:
    more = {"separator": separator} if separator else {}
    why = f"values separated by {separator!r}" if separator else "lists"
    if not separator and pa.types.is_floating(column.type.value_type):
        if embeddings:
            return {"kind": "embedding"}, "lists of floating point numbers"
        return {"kind": "left out"}, "vectors: declare them as embeddings of the items"
    if item is not None and words & _HISTORY:
        return {"kind": "history", **more}, f"{why}, a history by its name"
    return {"kind": "tags", **more}, why


def _numbers(column: Any) -> Any:
    try:
        return as_numbers(column, "")
    except DataError:
        return None


def _separator(column: Any) -> str | None:
    """What stands between several values in most of the strings."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return None
    known = column.drop_null()
    for separator in _SEPARATORS:
        if len(known) and pc.mean(pc.match_substring(known, separator).cast(pa.int8())).as_py() > 0.3:
            return separator
    return None


def render_report(reports: list[ColumnReport]) -> str:
    """The report as a table for people."""
    width = max(len(one.column) for one in reports)
    lines = [f"{'column':<{width}}  {'kind':<16}  {'distinct':>9}  {'missing':>8}  why"]
    for one in reports:
        lines.append(
            f"{one.column:<{width}}  {one.kind:<16}  {one.distinct:>9,}  {one.missing:>8,}  {one.why}"
        )
    return "\n".join(lines)
