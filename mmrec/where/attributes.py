"""Attributes of items in columns: numbers, strings, booleans and lists, in the form in which filters are fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmrec.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

LARGEST = 2**53 - 1  # up to here every whole number is a double of its own


@dataclass(frozen=True, eq=False)
class Column:
    """One attribute.

    Attributes:
        kind: ``number``, ``string``, ``boolean``, ``numbers`` or ``strings``.
        values: ``(n,)``, or ``(n_values,)`` where there are lists: float64 with NaN for a missing number, int8 with -1
            for a missing boolean, int32 places in ``words`` with -1 for a missing string.
        words: ``(n_words,)`` the different strings in ascending order; None for other kinds.
        offsets: ``(n + 1,)`` the list of row i is ``values[offsets[i]:offsets[i + 1]]``; None where there are no lists.
    """

    kind: str
    values: NDArray[Any]
    words: NDArray[np.object_] | None = None
    offsets: NDArray[np.int64] | None = None

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Mask ``(n,)`` of the rows without a value."""
        if self.offsets is not None:
            return np.asarray(np.diff(self.offsets) == 0)
        return np.isnan(self.values) if self.kind == "number" else np.asarray(self.values < 0)

    def take(self, rows: NDArray[np.int64]) -> Column:
        """The column of some rows, in their order."""
        if self.offsets is None:
            return Column(self.kind, self.values[rows], self.words)
        counts = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][rows] - offsets[:-1], counts)
        return Column(self.kind, self.values[places], self.words, offsets)

    def join(self, other: Column) -> Column:
        """This column and below it another of the same kind."""
        own, more, words = self.values, other.values, self.words
        if self.words is not None and other.words is not None:
            words = np.union1d(self.words, other.words)
            own, more = _translate(own, self.words, words), _translate(more, other.words, words)
        offsets = None
        if self.offsets is not None and other.offsets is not None:
            offsets = np.concatenate([self.offsets, other.offsets[1:] + self.offsets[-1]])
        return Column(self.kind, np.concatenate([own, more]), words, offsets)

    def to_list(self) -> list[Any]:
        """The values as Python objects, None where missing."""
        values: list[Any]
        if self.words is not None:
            values = np.array([*self.words, None], dtype=object)[self.values].tolist()  # -1 is the last
        elif self.kind == "boolean":
            values = [None if value < 0 else bool(value) for value in self.values.tolist()]
        else:
            values = [None if value != value else value for value in self.values.tolist()]
        if self.offsets is None:
            return values
        cuts = self.offsets.tolist()
        return [values[start:stop] or None for start, stop in pairwise(cuts)]


def _translate(places: NDArray[Any], old: NDArray[np.object_], new: NDArray[np.object_]) -> NDArray[np.int32]:
    moved: NDArray[np.int32] = np.append(np.searchsorted(new, old), -1).astype(np.int32)  # -1 stays
    return np.asarray(moved[places])


@dataclass(frozen=True, eq=False)
class Attributes:
    """Columns of equal length.

    Attributes:
        columns: Attribute name to column.
        n: Number of rows.
    """

    columns: Mapping[str, Column]
    n: int

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, kinds: Mapping[str, str] | None = None) -> Attributes:
        """Columns of a table; lists may be lists, tuples or arrays.

        Args:
            frame: One row per item.
            kinds: Attribute name to kind where it is known, for columns whose values do not tell because all are missing.

        Raises:
            DataError: A column's name or values cannot be used: its values are of several kinds or of none that a
                filter knows, numbers are infinite, or whole numbers are too large for double precision.
        """
        columns = {}
        for place, name in enumerate(frame.columns):
            if not isinstance(name, str) or not name or "`" in name or len(name) > 100 or name in columns:
                raise DataError(
                    "different attribute names of 1 to 100 characters, without backquotes",
                    repr(name),
                    "rename the column",
                )
            columns[name] = _make_column(frame.iloc[:, place], name, (kinds or {}).get(name))
        return cls(columns, len(frame))

    @property
    def kinds(self) -> dict[str, str]:
        """Attribute name to kind."""
        return {name: column.kind for name, column in self.columns.items()}

    def take(self, rows: NDArray[np.int64]) -> Attributes:
        """The attributes of some rows, in their order."""
        return Attributes({name: column.take(rows) for name, column in self.columns.items()}, len(rows))

    def join(self, other: Attributes) -> Attributes:
        """These rows and below them those of ``other``, which has the same columns."""
        columns = {name: column.join(other.columns[name]) for name, column in self.columns.items()}
        return Attributes(columns, self.n + other.n)

    def to_frame(self) -> pd.DataFrame:
        """The table, with None where a value is missing."""
        import pandas as pd

        columns = {
            name: column.values if column.kind == "number" else pd.Series(column.to_list(), dtype=object)
            for name, column in self.columns.items()
        }
        return pd.DataFrame(columns, index=range(self.n))


def _make_column(series: pd.Series[Any], name: str, known: str | None) -> Column:
    import pandas as pd

    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(object)
    inferred = pd.api.types.infer_dtype(series, skipna=True)
    if inferred == "empty" or (inferred == "floating" and known and series.isna().all()):
        inferred = _INFERRED[known or ("number" if inferred == "floating" else "string")]
    if inferred == "string":
        places, words = pd.factorize(np.asarray(series, dtype=object), sort=True)
        return Column("string", places.astype(np.int32), np.asarray(words, dtype=object))
    if inferred == "boolean":
        missing = series.isna().to_numpy()
        values = np.where(missing, -1, series.astype(object).where(~missing, False).to_numpy(dtype=np.int8))
        return Column("boolean", values.astype(np.int8))
    if inferred in ("integer", "floating", "mixed-integer-float", "integer-na"):
        return Column("number", _numbers(series, name))
    if inferred in ("mixed", "lists"):
        return _make_lists(series, name, known)
    raise _unusable(name, f"{inferred} values")


_INFERRED = {
    "number": "floating", "string": "string", "boolean": "boolean", "numbers": "lists", "strings": "lists",
}  # fmt: skip


def _numbers(series: pd.Series[Any], name: str) -> NDArray[np.float64]:
    values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    if (np.abs(values) > LARGEST).any():  # infinities too
        largest = values[np.nanargmax(np.abs(values))]
        raise DataError(
            f"numbers below 2**53 in attribute {name!r}",
            f"{largest:g}",
            "store long ids as strings; leave unknown out",
        )
    return values


def _make_lists(series: pd.Series[Any], name: str, known: str | None) -> Column:
    import pandas as pd

    flat: list[Any] = []
    offsets = np.zeros(len(series) + 1, dtype=np.int64)
    for row, entry in enumerate(series):
        if isinstance(entry, list | tuple | np.ndarray):
            flat.extend(value for value in entry if value is not None and value == value)
        elif entry is not None and entry is not pd.NA and entry == entry:
            raise _unusable(name, f"{entry!r} beside lists or values of other kinds")
        offsets[row + 1] = len(flat)
    inside = _make_column(pd.Series(flat, dtype=object), name, (known or "strings").removesuffix("s"))
    if inside.kind not in ("number", "string"):
        raise _unusable(name, f"lists of {inside.kind} values")
    return Column(f"{inside.kind}s", inside.values, inside.words, offsets)


def _unusable(name: str, found: str) -> DataError:
    return DataError(
        f"numbers, strings, booleans, or lists of strings or of numbers in attribute {name!r}",
        found,
        "make the column of one kind (dates as numbers or as text such as 2024-05-31), or leave it out",
    )
