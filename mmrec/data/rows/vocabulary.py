"""What turns values into ids and numbers, fitted on training rows only, chunk by chunk.

A fitter has ``add(column, where)`` for a chunk of a raw column and ``finish()``, which gives the coder; a coder has
``encode(column, where)``, the number of its ids ``size`` and what to save, ``document()``. Ids of every coder: 0 for what
is missing, 1 to n for known values, n + 1 for values that the training rows do not have.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mmrec.data.rows.schema import FieldSchema
from mmrec.data.rows.table import PADDING
from mmrec.data.rows.values import Column, as_numbers, as_words, whole
from mmrec.errors import DataError

SAMPLE = 1 << 20  # training rows whose values the quantiles are taken from
_MERGE = 1 << 18  # counted values that wait to be merged


class Coder(Protocol):
    """Values to ids, or to numbers."""

    size: int

    def encode(self, column: Column, where: str) -> NDArray[np.generic]:
        """``(n,)`` int32 ids, or float32 numbers where :attr:`size` is 0."""
        ...

    def document(self) -> dict[str, Any]:
        """What to save beside the vocabulary."""
        ...


class Fitter(Protocol):
    """Looks at the training rows."""

    def add(self, column: Column, where: str) -> None:
        """See a chunk."""
        ...

    def finish(self) -> Coder:
        """What was learned."""
        ...


class Vocabulary:
    """An id for each known word: the more frequent the smaller, equally frequent ones in the order of their bytes.

    Args:
        words: ``(n,)`` strings; id 1 is the first.
        counts: ``(n,)`` training rows.
        missing: Words that mean nothing is known.
        log: Words are log buckets of numbers.
    """

    def __init__(
        self, words: Any, counts: NDArray[np.int64], missing: Collection[str] = (), *, log: bool = False
    ) -> None:
        import pandas as pd

        self.words, self.counts, self._missing, self._log = words, counts, missing, log
        self.size = len(words) + 2
        self._index = pd.Index(words.to_numpy(zero_copy_only=False).astype(object))

    def encode(self, column: Column, where: str) -> NDArray[np.int32]:
        """Ids ``(n,)``."""
        distinct = _words(column, where, self._missing, log=self._log).dictionary_encode()
        words = distinct.dictionary.to_numpy(zero_copy_only=False).astype(object)
        found = self._index.get_indexer(words)
        ids = np.where(found < 0, self.size - 1, found + 1).astype(np.int32)
        places = pc.fill_null(distinct.indices, len(ids)).to_numpy()
        return np.asarray(np.append(ids, np.int32(PADDING))[places])

    def document(self) -> dict[str, Any]:
        """Nothing: words are saved as a table."""
        return {}


class WordCounter:
    """Counts words for a :class:`Vocabulary`.

    Args:
        min_count: Rows that a word needs.
        missing: Words that mean nothing is known.
        log: Count the log buckets of numbers.
        first: Words that get the first ids however often they come.
    """

    def __init__(
        self, min_count: int = 1, missing: Collection[str] = (), *, log: bool = False, first: Any = None
    ) -> None:
        self._min_count, self._missing, self._log, self._first = min_count, missing, log, first
        self._tables: list[Any] = []

    def add(self, column: Column, where: str) -> None:
        """Count a chunk."""
        counted = pc.value_counts(_words(column, where, self._missing, log=self._log).drop_null())
        self._tables.append(pa.table({"word": counted.field("values"), "count": counted.field("counts")}))
        if sum(len(table) for table in self._tables[1:]) > _MERGE:
            self._tables = [self._merged()]

    def _merged(self) -> Any:
        empty = pa.table({"word": pa.array([], pa.string()), "count": pa.array([], pa.int64())})
        table = pa.concat_tables([empty, *self._tables]).group_by("word").aggregate([("count", "sum")])
        return table.select(["word", "count_sum"]).rename_columns(["word", "count"])

    def finish(self) -> Vocabulary:
        """The words that come often enough."""
        table = self._merged().sort_by([("count", "descending"), ("word", "ascending")])
        often = table.filter(pc.greater_equal(table["count"], self._min_count))
        if self._first is None:
            return self._vocabulary(whole(often["word"]), often["count"].to_numpy())
        counts = dict(zip(table["word"].to_pylist(), table["count"].to_pylist(), strict=True))
        more = often.filter(pc.invert(pc.is_in(often["word"], value_set=self._first)))
        first = np.array([counts.get(word, 0) for word in self._first.to_pylist()], dtype=np.int64)
        words = pa.concat_arrays([self._first, whole(more["word"])])
        return self._vocabulary(words, np.concatenate([first, more["count"].to_numpy()]))

    def _vocabulary(self, words: Any, counts: NDArray[np.int64]) -> Vocabulary:
        return Vocabulary(words, counts.astype(np.int64), self._missing, log=self._log)


def _words(column: Column, where: str, missing: Collection[str], *, log: bool) -> Any:
    if not log:
        return as_words(column, where, missing)
    buckets = log_buckets(as_numbers(column, where, missing))
    return as_words(pa.array(buckets, mask=np.isnan(buckets)), where)


def log_buckets(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Buckets of the Criteo winners: ``floor(ln(x)^2)`` for x > 2, else ``floor(x)``; NaN stays.

    Below 5 they overlap as in the original: 1, 3 and 4 share the bucket 1.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.floor(np.where(numbers > 2, np.log(np.maximum(numbers, 2.0)) ** 2, numbers))


class GivenIds:
    """Values that are ids already: 0 is missing, what is above ``largest`` unknown."""

    def __init__(self, largest: int) -> None:
        self.largest, self.size = largest, largest + 2

    def encode(self, column: Column, where: str) -> NDArray[np.int32]:
        """Ids ``(n,)``."""
        return np.minimum(_given(column, where), self.size - 1).astype(np.int32)

    def document(self) -> dict[str, Any]:
        """The largest id."""
        return {"largest": self.largest}


class LargestId:
    """Finds the largest id for :class:`GivenIds`."""

    def __init__(self) -> None:
        self._largest = 1

    def add(self, column: Column, where: str) -> None:
        """See a chunk."""
        self._largest = max(self._largest, int(_given(column, where).max(initial=0)))

    def finish(self) -> GivenIds:
        """Ids up to the largest that was seen."""
        return GivenIds(self._largest)


class FixedIds:
    """A :class:`Fitter` that has nothing to learn."""

    def __init__(self, coder: Coder) -> None:
        self._coder = coder

    def add(self, column: Column, where: str) -> None:
        """Nothing."""

    def finish(self) -> Coder:
        """What was given."""
        return self._coder


def _given(column: Column, where: str) -> NDArray[np.int64]:
    array = whole(column)
    if pa.types.is_integer(array.type) and not array.null_count:
        ids: NDArray[np.int64] = array.to_numpy(zero_copy_only=False).astype(np.int64)
        bad = ids < 0
    else:
        numbers = as_numbers(array, where)
        bad = (numbers < 0) | (numbers != np.round(numbers)) & ~np.isnan(numbers)
        ids = np.nan_to_num(numbers).astype(np.int64)
    if bad.any():
        raise DataError(
            f"ids from 0 in {where}",
            f"{array[int(bad.argmax())].as_py()!r}",
            "declare vocabulary: fitted, or correct these values",
        )
    return ids


class Scale:
    """``(x - mean) / deviation`` of the training rows; 0 where x is missing."""

    size = 0

    def __init__(self, mean: float, deviation: float, missing: Collection[str] = ()) -> None:
        self.mean, self.deviation, self._missing = mean, deviation, missing

    def encode(self, column: Column, where: str) -> NDArray[np.float32]:
        """Numbers ``(n,)``."""
        numbers = (as_numbers(column, where, self._missing) - self.mean) / (self.deviation or 1.0)
        return np.nan_to_num(numbers).astype(np.float32)

    def document(self) -> dict[str, Any]:
        """Mean and deviation."""
        return {"mean": self.mean, "deviation": self.deviation}


class Moments:
    """Mean and deviation for :class:`Scale`, merged over chunks (Chan, Golub and LeVeque, 1979)."""

    def __init__(self, missing: Collection[str] = ()) -> None:
        self._missing = missing
        self._n, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, column: Column, where: str) -> None:
        """See a chunk."""
        numbers = as_numbers(column, where, self._missing)
        numbers = numbers[~np.isnan(numbers)]
        if not len(numbers):
            return
        n, mean = len(numbers), float(numbers.mean())
        step, total = mean - self._mean, self._n + n
        self._squares += float(((numbers - mean) ** 2).sum()) + step * step * self._n * n / total
        self._mean += step * n / total
        self._n = total

    def finish(self) -> Scale:
        """Mean and deviation of all that was seen."""
        return Scale(self._mean, float(np.sqrt(self._squares / max(self._n, 1))), self._missing)


class Buckets:
    """Which quantile a number is in; a border belongs to the bucket above it."""

    def __init__(self, borders: NDArray[np.float64], missing: Collection[str] = ()) -> None:
        self.borders, self._missing = borders, missing
        self.size = len(borders) + 3

    def encode(self, column: Column, where: str) -> NDArray[np.int32]:
        """Ids ``(n,)``."""
        numbers = as_numbers(column, where, self._missing)
        ids = 1 + np.searchsorted(self.borders, numbers, side="right")
        return np.where(np.isnan(numbers), PADDING, ids).astype(np.int32)

    def document(self) -> dict[str, Any]:
        """The borders."""
        return {"borders": self.borders.tolist()}


class NumberSample:
    """Borders for :class:`Buckets`: quantiles of all training rows, or of :data:`SAMPLE` drawn ones where there are more.

    The rows with the smallest random keys are kept, so that chunks do not matter; the share of rows below a border is
    then off by about ``0.5 / sqrt(SAMPLE)``, a twentieth of a per cent.
    """

    def __init__(self, buckets: int, missing: Collection[str] = (), *, size: int = SAMPLE) -> None:
        self._buckets, self._missing, self._size = buckets, missing, size
        self._rng = np.random.default_rng(0)
        self._keys, self._numbers = np.zeros(0), np.zeros(0)

    def add(self, column: Column, where: str) -> None:
        """See a chunk."""
        numbers = as_numbers(column, where, self._missing)
        known = ~np.isnan(numbers)
        keys = np.concatenate([self._keys, self._rng.random(len(numbers))[known]])
        numbers = np.concatenate([self._numbers, numbers[known]])
        if len(keys) > self._size:
            kept = np.argpartition(keys, self._size)[: self._size]
            keys, numbers = keys[kept], numbers[kept]
        self._keys, self._numbers = keys, numbers

    def finish(self) -> Buckets:
        """The distinct quantiles, which are values that occur."""
        shares = np.arange(1, self._buckets) / self._buckets
        if not len(self._numbers):
            return Buckets(np.zeros(0), self._missing)
        borders = np.unique(np.quantile(self._numbers, shares, method="higher"))
        return Buckets(borders[borders > self._numbers.min()], self._missing)


def fitter(field: FieldSchema) -> Fitter:
    """What learns the coder of a field."""
    if field.kind == "number":
        if field.treatment == "raw":
            return Moments(field.missing)
        if field.treatment == "quantile":
            return NumberSample(field.buckets, field.missing)
        return WordCounter(field.min_count, field.missing, log=True)
    if field.vocabulary == "index":
        return LargestId() if field.largest is None else FixedIds(GivenIds(field.largest))
    return WordCounter(field.min_count, field.missing)


def restore(field: FieldSchema, document: Mapping[str, Any], words: Any, counts: NDArray[np.int64]) -> Coder:
    """The coder of a field as it was saved."""
    if "largest" in document:
        return GivenIds(int(document["largest"]))
    if "borders" in document:
        return Buckets(np.asarray(document["borders"], dtype=np.float64), field.missing)
    if "mean" in document:
        return Scale(float(document["mean"]), float(document["deviation"]), field.missing)
    return Vocabulary(words, counts, field.missing, log=field.kind == "number")
