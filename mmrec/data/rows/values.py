"""Raw columns made uniform: words, lists, numbers, labels and groups, each bad value named with its column."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mmrec.data.rows.schema import LabelRule
from mmrec.errors import DataError, did_you_mean

Column = Any  # a pyarrow Array or ChunkedArray

_COMPARE = {
    ">=": np.greater_equal,
    ">": np.greater,
    "<=": np.less_equal,
    "<": np.less,
    "==": np.equal,
}


def whole(column: Column) -> Any:
    """A column as one array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def find_column(table: Any, column: str, where: str) -> tuple[Any, str]:
    """A column of an Arrow table, and what to call it in messages.

    Raises:
        DataError: There is none.
    """
    if column not in table.column_names:
        raise no_column(column, list(table.column_names), where)
    return table.column(column), f"column {column!r} of {where}"


def no_column(column: str, columns: list[str], where: str) -> DataError:
    """The error for a column that is not there."""
    hint = did_you_mean(column, columns)
    found = f"columns {', '.join(columns)}"
    return DataError(f"a column {column!r} in {where}", found, f"{hint} Correct the schema, or the table")


def is_list(kind: Any) -> bool:
    """Whether values of this Arrow type are lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def as_words(column: Column, where: str, missing: Collection[str] = ()) -> Any:
    """Values ``(n,)`` as strings without outer white space; missing and empty ones are null.

    Whole numbers are written without a decimal point, whatever their type: pandas makes floats of integers as soon
    as one is missing.

    Raises:
        DataError: Lists or records.
    """
    array = whole(column)
    if pa.types.is_dictionary(array.type):
        return as_words(array.dictionary, where, missing).take(array.indices)
    if is_list(array.type) or pa.types.is_struct(array.type):
        raise DataError(
            f"one value per row in {where}", f"{array.type}", "declare it as kind: tags, or history"
        )
    if pa.types.is_floating(array.type):
        array = _without_point(array)
    words = array if pa.types.is_string(array.type) else pc.cast(array, pa.string())
    words = pc.utf8_trim_whitespace(words)
    none = pc.is_in(words, value_set=pa.array(["", *missing], pa.string()))
    return pc.if_else(none, pa.scalar(None, pa.string()), words)


def _without_point(array: Any) -> Any:
    """Floats as integers where all of them are whole; NaN is null."""
    numbers = array.to_numpy(zero_copy_only=False)
    absent = np.isnan(numbers)
    whole_numbers = bool((numbers[~absent] == np.round(numbers[~absent])).all())
    if whole_numbers and bool((np.abs(numbers[~absent]) < 2**53).all()):
        return pa.array(np.where(absent, 0, numbers).astype(np.int64), mask=absent)
    return pa.array(numbers, mask=absent)


def split_lists(column: Column, separator: str | None, where: str) -> tuple[NDArray[np.int64], Any]:
    """The values of lists end to end, and the row ``(n,)`` each of them is from, rising.

    Args:
        column: Lists, or strings with a separator.
        separator: Between the values of a string.
        where: What to call the column in messages.

    Raises:
        DataError: Neither lists nor strings with a separator.
    """
    array = whole(column)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_null(array.type):
        return np.zeros(0, dtype=np.int64), pa.array([], pa.string())
    if not is_list(array.type):
        if separator is None:
            raise DataError(
                f"lists in {where}", f"{array.type}", "declare what stands between the values: separator"
            )
        words = as_words(array, where)
        array = pc.split_pattern(words, pattern=separator)
    if pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(array), dtype=np.int64), lengths), array.flatten()


def as_numbers(column: Column, where: str, missing: Collection[str] = ()) -> NDArray[np.float64]:
    """Numbers ``(n,)``; missing ones are NaN.

    Raises:
        DataError: Something that is neither a number nor missing, or infinite.
    """
    array = whole(column)
    if pa.types.is_boolean(array.type):
        array = pc.cast(array, pa.int8())
    if missing or not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        words = as_words(array, where, missing)
        try:
            array = pc.cast(words, pa.float64())
        except pa.ArrowInvalid:
            raise _no_number(words, where) from None
    numbers: NDArray[np.float64] = (
        pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
    )
    infinite = np.isinf(numbers)
    if infinite.any():
        raise _bad(infinite, numbers, "finite numbers", where, "correct or empty these values")
    return numbers


def _no_number(words: Any, where: str) -> DataError:
    import pandas as pd

    values = words.to_numpy(zero_copy_only=False)
    bad = np.isnan(pd.to_numeric(values, errors="coerce").astype(np.float64)) & ~pd.isna(values)
    return _bad(bad, values, "numbers", where, "correct or empty these values, or declare another kind")


def as_labels(column: Column, rule: LabelRule, where: str) -> NDArray[np.int8]:
    """Labels ``(n,)``, 0 or 1.

    Raises:
        DataError: A missing value, or without a rule one that is neither 0 nor 1.
    """
    numbers = as_numbers(column, where)
    absent = np.isnan(numbers)
    if absent.any():
        raise _bad(absent, numbers, "a label in each row", where, "remove these rows")
    if rule.operator is not None:
        return np.asarray(_COMPARE[rule.operator](numbers, rule.threshold), dtype=np.int8)
    odd = (numbers != 0) & (numbers != 1)
    if odd.any():
        do = f"correct the labels, or say which are positive: label: {rule.column} >= 4"
        raise _bad(odd, numbers, "labels 0 and 1", where, do)
    return numbers.astype(np.int8)


def as_groups(column: Column, where: str) -> NDArray[np.int64]:
    """Groups ``(n,)``: integers as they are, other values as 64 bits of a hash, which no other value is likely to share.

    Raises:
        DataError: A missing value.
    """
    array = whole(column)
    words = None if pa.types.is_integer(array.type) else as_words(array, where)
    absent = pc.is_null(array if words is None else words).to_numpy(zero_copy_only=False)
    if absent.any():
        raise DataError(
            f"a group in each row of {where}", f"nothing in {int(absent.sum()):,} rows", "fill them in"
        )
    if words is None:
        return np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.int64)
    from pandas.util import hash_array

    distinct = words.dictionary_encode()
    hashes = hash_array(distinct.dictionary.to_numpy(zero_copy_only=False).astype(object)).view(np.int64)
    return np.asarray(hashes[distinct.indices.to_numpy()])


def _bad(mask: NDArray[np.bool_], values: NDArray[Any], expected: str, where: str, do: str) -> DataError:
    row = int(mask.argmax())
    more = int(mask.sum()) - 1
    value = values[row].item() if isinstance(values[row], np.generic) else values[row]
    shown = "nothing" if value != value else repr(value)
    others = f" and {more:,} more rows near it" if more else ""
    return DataError(f"{expected} in {where}", f"{shown}{others}", do)
