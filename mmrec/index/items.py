"""Items as an index holds them: ids, vectors and attributes side by side, ordered by id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmrec.errors import DataError
from mmrec.files import read_table, write_array, write_table
from mmrec.index.protocol import Ids, Vectors
from mmrec.where import Attributes

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Items:
    """Items by ascending id; ties of scores go to the lower id, so to the earlier row.

    Attributes:
        ids: ``(n,)`` ascending.
        vectors: ``(n, dim)`` float32.
        attributes: ``n`` rows; no columns where items have no attributes.
    """

    ids: Ids
    vectors: Vectors
    attributes: Attributes

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _dense(self) -> bool:
        """Whether id i is row i."""
        return len(self.ids) == 0 or (self.ids[0] == 0 and self.ids[-1] == len(self.ids) - 1)

    def rows(self, ids: Ids) -> Ids:
        """Row of each id, -1 where it is not there."""
        if self._dense:
            return np.where((ids >= 0) & (ids < len(self.ids)), ids, -1)
        places = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[places] == ids, places, -1)

    def mask(self, ids: Ids) -> NDArray[np.bool_]:
        """Mask ``(n,)`` of the items that are among ``ids``."""
        mask = np.zeros(len(self.ids), dtype=bool)
        rows = self.rows(ids)
        mask[rows[rows >= 0]] = True
        return mask

    def take(self, rows: Ids) -> Items:
        """The items of some ascending rows."""
        return Items(self.ids[rows], self.vectors[rows], self.attributes.take(rows))

    def without(self, ids: Ids) -> Items:
        """The items whose id is not among ``ids``."""
        return self.take(np.flatnonzero(~self.mask(ids)))

    def replaced(self, new: Items) -> Items:
        """These items and the new ones, which take the place of those with the same id."""
        kept = self.without(new.ids)
        ids = np.concatenate([kept.ids, new.ids])
        vectors = np.concatenate([kept.vectors, new.vectors])
        order = np.argsort(ids, kind="stable")
        return Items(ids[order], vectors[order], kept.attributes.join(new.attributes).take(order))

    def write(self, folder: Path) -> None:
        """Write ``ids.npy``, ``vectors.npy`` and ``attributes.parquet`` where there are attributes."""
        write_array(folder / "ids.npy", self.ids)
        write_array(folder / "vectors.npy", self.vectors)
        if self.attributes.columns:
            write_table(folder / "attributes.parquet", self.attributes.to_frame())


def read_items(folder: Path, kinds: Mapping[str, str]) -> Items:
    """Read what :meth:`Items.write` wrote; vectors stay on the disk until they are used."""
    ids = np.load(folder / "ids.npy", allow_pickle=False)
    vectors = np.load(folder / "vectors.npy", mmap_mode="c", allow_pickle=False)
    if not kinds:
        return Items(ids, vectors, Attributes({}, len(ids)))
    return Items(ids, vectors, Attributes.from_frame(read_table(folder / "attributes.parquet"), kinds))


def make_items(
    vectors: NDArray[Any],
    attributes: pd.DataFrame | None = None,
    ids: NDArray[Any] | None = None,
    *,
    like: tuple[int, Mapping[str, str]] | None = None,
) -> Items:
    """Check items and put them in order.

    Args:
        vectors: ``(n, dim)``.
        attributes: One row per item.
        ids: ``(n,)`` whole numbers from 0; row numbers if None.
        like: Length of the vectors and kinds of the attributes that they have to have.

    Raises:
        DataError: Something does not fit: shapes, values that are not finite, an id twice, attributes.
    """
    matrix = check_vectors(vectors, "item vectors", None if like is None else like[0])
    numbers = np.arange(len(matrix)) if ids is None else check_ids(ids, "item ids")
    if len(numbers) != len(matrix):
        raise DataError(
            "one id per vector", f"{len(numbers):,} ids, {len(matrix):,} vectors", "give both alike"
        )
    if len(numbers) and numbers.min() < 0:
        raise DataError("item ids from 0", f"{numbers.min()}", "use the row numbers of the items as ids")
    order = np.argsort(numbers, kind="stable")
    numbers = numbers[order]
    twice = np.flatnonzero(numbers[1:] == numbers[:-1])
    if len(twice):
        raise DataError("each item id once", f"{numbers[twice[0]]} twice", "give one vector per item")
    columns = _check_attributes(attributes, len(numbers), None if like is None else like[1])
    if not np.array_equal(order, np.arange(len(order))):
        matrix, columns = matrix[order], columns.take(order)
    return Items(numbers, matrix, columns)


def _check_attributes(frame: pd.DataFrame | None, n: int, kinds: Mapping[str, str] | None) -> Attributes:
    attributes = Attributes({}, n) if frame is None else Attributes.from_frame(frame, kinds)
    if attributes.n != n:
        raise DataError(
            "one row of attributes per item", f"{attributes.n:,} rows, {n:,} items", "give both alike"
        )
    if kinds is not None and attributes.kinds != dict(kinds):
        given = {name: kind for name, kind in attributes.kinds.items() if kinds.get(name) != kind}
        absent = [name for name in kinds if name not in attributes.kinds]
        if given or absent:
            raise DataError(
                f"the attributes of the index: {_listed(kinds) or 'none'}",
                f"{_listed(given) or 'others alike'}; absent: {', '.join(absent) or 'none'}",
                "give new items the same columns",
            )
        attributes = Attributes({name: attributes.columns[name] for name in kinds}, n)
    return attributes


def _listed(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items())


def check_vectors(vectors: NDArray[Any], what: str, dim: int | None) -> Vectors:
    """Vectors as a float32 matrix of its own rows.

    Raises:
        DataError: No matrix, another length, or not finite.
    """
    try:
        matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} as an array of numbers", str(error), "give a float32 array") from None
    if matrix.ndim != 2 or matrix.shape[1] == 0 or (dim is not None and matrix.shape[1] != dim):
        shape = f"(n, {dim or 'dim'})"
        raise DataError(
            f"{what} of shape {shape}", f"{matrix.shape}", "use the vectors of the model of this index"
        )
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        raise DataError(f"finite {what}", f"NaN or infinity in row {int(finite.argmin())}", "check the model")
    return matrix


def check_ids(ids: NDArray[Any], what: str) -> Ids:
    """Ids as int64.

    Raises:
        DataError: Not a list of whole numbers.
    """
    array = np.asarray(ids)
    if array.ndim != 1 or (len(array) and not np.issubdtype(array.dtype, np.integer)):
        raise DataError(
            f"{what} as a list of whole numbers", f"{array.dtype} of shape {array.shape}", "use internal ids"
        )
    return array.astype(np.int64)
