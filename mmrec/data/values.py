"""Column values made uniform: ids, times, numbers and texts, each bad value named with its row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmrec.errors import DataError, did_you_mean

KINDS = ("id", "text", "tokens", "number", "time", "image", "label", "order")
CANONICAL = {
    "user_id": "id",
    "item_id": "id",
    "timestamp": "time",
    "rating": "number",
    "position": "order",
    "label": "label",
    "image": "image",
}
_TEXT_WORDS = {
    "title", "description", "plot", "text", "summary", "caption", "keywords", "overview", "abstract",
    "review", "synopsis", "headline", "body", "name", "comment",
}  # fmt: skip
_ID_WORDS = {"id", "asin", "isbn", "ean", "sku", "gtin", "uuid", "url", "uri", "link", "imurl", "href"}
_SAMPLE = 10_000  # values looked at to tell text from tokens
_TEXT_LENGTH = 4  # words; longer values that hardly repeat are text


def bad_value(
    mask: NDArray[np.bool_], values: pd.Series[Any], expected: str, column: str, table: str, do: str
) -> DataError:
    """The error for the first row of ``mask``; rows count from 1 and the header does not count."""
    row = int(mask.argmax())
    others = int(mask.sum()) - 1
    more = f" and {others:,} more rows" if others else ""
    value = values.iloc[row]
    shown = "nothing" if pd.isna(value) else repr(value.item() if isinstance(value, np.generic) else value)
    return DataError(f"{expected} in column {column!r} of {table}", f"{shown} in row {row + 1:,}{more}", do)


def as_ids(values: pd.Series[Any], column: str, table: str) -> pd.Series[str]:
    """Ids as strings without outer white space; whole numbers lose their decimal point.

    Raises:
        DataError: Missing or empty ids, or numbers that are not whole.
    """
    missing = values.isna().to_numpy(dtype=bool)
    do = f"remove these rows or fill in {column}"
    if missing.any():
        raise bad_value(missing, values, "an id in each row", column, table, do)
    if pd.api.types.is_float_dtype(values.dtype):  # pandas makes floats of integers as soon as one is missing
        broken = np.asarray(values != values.round(), dtype=bool)
        if broken.any():
            raise bad_value(broken, values, "whole numbers or text as ids", column, table, "save ids as text")
        values = values.astype("int64")
    ids = values.astype(str)
    if not pd.api.types.is_integer_dtype(values.dtype):
        ids = ids.str.strip()
    empty = np.asarray(ids == "", dtype=bool)
    if empty.any():
        raise bad_value(empty, values, "an id in each row", column, table, do)
    return ids


def as_numbers(values: pd.Series[Any], column: str, table: str) -> pd.Series[Any]:
    """Numbers; integers stay integers, empty strings become NaN.

    Raises:
        DataError: Something that is neither a number nor empty, or infinite.
    """
    if pd.api.types.is_bool_dtype(values.dtype):
        return values.astype("int64" if values.notna().all() else "float64")
    if pd.api.types.is_integer_dtype(values.dtype) and values.notna().all():
        return values.astype("int64")
    numbers = pd.to_numeric(values, errors="coerce")
    if pd.api.types.is_integer_dtype(numbers.dtype) and numbers.notna().all():
        return numbers.astype("int64")
    numbers = numbers.astype("float64")
    empty = values.isna() | (values.astype(str).str.strip() == "")
    bad = np.asarray(~np.isfinite(numbers) & ~empty, dtype=bool)
    if bad.any():
        raise bad_value(bad, values, "numbers", column, table, "correct or empty these values")
    return numbers


def as_integers(values: pd.Series[Any], column: str, table: str) -> pd.Series[int]:
    """Whole numbers as int64.

    Raises:
        DataError: Missing, broken or no numbers.
    """
    numbers = pd.to_numeric(values, errors="coerce")
    bad = (numbers.isna() | (numbers != numbers.round())).to_numpy(dtype=bool)
    if bad.any():
        raise bad_value(bad, values, "whole numbers", column, table, "correct these values")
    return numbers.astype("int64")


def as_labels(values: pd.Series[Any], column: str, table: str) -> pd.Series[Any]:
    """Labels of a given split as int8: 0 train, 1 valid, 2 test, -1 left out.

    Raises:
        DataError: Another label.
    """
    labels = as_integers(values, column, table)
    odd = ~labels.isin([0, 1, 2, -1]).to_numpy(dtype=bool)
    if odd.any():
        raise bad_value(odd, values, "labels 0, 1, 2 or -1", column, table, "correct the labels")
    return labels.astype("int8")


def as_times(values: pd.Series[Any], column: str, table: str) -> pd.Series[Any]:
    """Times as numbers: numbers stay in their unit (whole ones as int64), dates become seconds since 1970, UTC.

    Dates are ISO 8601 (``2024-01-31``, ``2024-01-31T12:00:00Z``); without a zone they are taken as UTC. Other
    spellings are refused, as day and month cannot be told apart in them.

    Raises:
        DataError: A value is missing or neither a number nor a date.
    """
    do = "write numbers (seconds or milliseconds) or ISO dates such as 2024-01-31T12:00:00Z, or drop the column"
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        dates, bad = values, values.isna()
    else:
        numbers = pd.to_numeric(values, errors="coerce")
        finite = np.isfinite(numbers.to_numpy(dtype="float64", na_value=np.nan))
        if finite.all():
            whole = pd.api.types.is_integer_dtype(numbers.dtype) or bool((numbers == numbers.round()).all())
            return numbers.astype("int64" if whole else "float64")
        texts = values.astype(str).astype(object).where(~finite, None)
        dates = pd.to_datetime(texts, errors="coerce", utc=True, format="ISO8601")
        if finite.sum() >= dates.notna().sum():  # a column of numbers with bad ones, not of dates
            raise bad_value(~finite, values, "times", column, table, do)
        bad = dates.isna()  # also a number among dates
    if bad.any():
        raise bad_value(bad.to_numpy(dtype=bool), values, "times", column, table, do)
    if dates.dt.tz is not None:
        dates = dates.dt.tz_convert("UTC").dt.tz_localize(None)
    return dates.astype("datetime64[s]").astype("int64")


def as_words(values: pd.Series[Any]) -> pd.Series[Any]:
    """Texts or tokens as stripped strings, missing where empty; lists are joined with ``", "``."""
    if values.dtype == object:
        lists = values.map(_is_list)
        if lists.any():
            values = values.where(~lists, values[lists].map(_joined))
    words = values.astype(object).where(values.notna(), "").astype(str).str.strip().astype(object)
    return words.where(words != "", None)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray))


def _joined(values: Any) -> str:
    return ", ".join(str(value) for value in values)


def infer_kind(name: str, values: pd.Series[Any]) -> str:
    """What a column without declared kind holds, from its type, its name and a sample of its values."""
    if name in CANONICAL:
        return CANONICAL[name]
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return "time"
    if pd.api.types.is_numeric_dtype(values.dtype):
        return "number"
    words = _words(name)
    sample = as_words(values.head(_SAMPLE)).dropna().astype(str)
    if words & _ID_WORDS or name.casefold() in _ID_WORDS or bool(sample.str.startswith("http").mean() > 0.5):
        return "id"
    if named_like_text(name):
        return "text"
    if len(sample) and _are_numbers(sample) and _are_numbers(as_words(values).dropna().astype(str)):
        return "number"
    long = len(sample) and sample.str.count(r"\s+").mean() + 1 > _TEXT_LENGTH
    return "text" if long and sample.nunique() > 0.5 * len(sample) else "tokens"


def named_like_text(name: str) -> bool:
    """Whether a column's name says that it holds free text, for example ``movie_title``."""
    return bool(_words(name) & _TEXT_WORDS)


def _words(name: str) -> set[str]:
    return set(re.split(r"[\W_]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).casefold()))


def _are_numbers(sample: pd.Series[str]) -> bool:
    """Whether all are numbers; codes such as the zip code 02460 are not."""
    code = sample.str.match(r"[+-]?0\d")
    return not code.any() and bool(np.isfinite(pd.to_numeric(sample, errors="coerce")).all())


def convert(frame: pd.DataFrame, kinds: Mapping[str, str], table: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table with uniform values, and the kind of each column (declared in ``kinds``, or inferred).

    Raises:
        DataError: An unknown kind or a value that does not fit its column.
    """
    columns: dict[str, pd.Series[Any]] = {}
    result: dict[str, str] = {}
    for label in frame.columns:
        name, values = str(label), frame[label]
        kind = kinds.get(name) or infer_kind(name, values)
        columns[name], result[name] = _convert_column(values, kind, name, table), kind
    return pd.DataFrame(columns, index=frame.index), result


def _convert_column(values: pd.Series[Any], kind: str, name: str, table: str) -> pd.Series[Any]:
    if name in ("user_id", "item_id"):
        return as_ids(values, name, table)
    if kind == "number":
        numbers = as_numbers(values, name, table)
        return numbers.astype("float64") if name == "rating" else numbers
    readers = {"time": as_times, "order": as_integers, "label": as_labels}
    if kind in readers:
        return readers[kind](values, name, table)
    if kind not in KINDS:
        raise DataError(
            f"a kind for column {name!r} of {table}", repr(kind), did_you_mean(str(kind), list(KINDS))
        )
    return as_words(values)
