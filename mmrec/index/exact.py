"""Exact search: blocks of a matrix product and a masked top-k. The default, and the judge of the other indexes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from mmrec.index.folder import save_index
from mmrec.index.items import Items, check_ids, make_items, read_items
from mmrec.index.protocol import Deny, Found, Ids, IndexOptions, Vectors
from mmrec.index.request import Request, check_request
from mmrec.rank import top_items

if TYPE_CHECKING:
    import pandas as pd

    from mmrec.where import Filter

BLOCK_BYTES = 64 * 2**20  # of one block of scores
SPARE = 16  # candidates beyond k whose scores are computed again
GATHER = 4  # below one in so many items permitted, their rows are gathered first
MASKS = 16  # filters whose masks are kept
Mask = NDArray[np.bool_]


class Options(IndexOptions):
    """Exact search has no options."""


class ExactIndex:
    """``s(q, i) = q · v_i``, over all permitted items.

    Scores are sums in double precision rounded to float32: they depend neither on the batch nor on blocks, and equal
    vectors tie exactly. The fast product in float32 only chooses candidates; where its rounding could have
    chosen wrongly, the row is computed again in full.
    """

    backend: ClassVar = "exact"
    options_type: ClassVar = Options

    def __init__(self, items: Items) -> None:
        self.items = items
        self.counts: Counter[str] = Counter()
        self.recall: dict[str, Any] | None = None
        self._masks: dict[str, Mask] = {}
        self._longest = _longest(items.vectors)

    @classmethod
    def build(cls, items: Items, options: Options) -> Self:
        """An index over ``items``."""
        return cls(items)

    @classmethod
    def load(cls, folder: Path, manifest: Mapping[str, Any], options: Options) -> Self:
        """Open the files that :meth:`save` wrote."""
        return cls(read_items(folder, manifest["kinds"]))

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return int(self.items.vectors.shape[1])

    @property
    def kinds(self) -> dict[str, str]:
        """Attribute name to kind."""
        return self.items.attributes.kinds

    def __len__(self) -> int:
        return len(self.items)

    def search(
        self,
        queries: Vectors,
        k: int,
        *,
        where: str | Filter | None = None,
        allow: Ids | None = None,
        deny: Deny | None = None,
    ) -> Found:
        """Find the k best items of each query; see :class:`mmrec.index.Index`."""
        request = check_request(queries, k, where, allow, deny, dim=self.dim, kinds=self.kinds)
        return self.search_among(request, self.permitted(request))

    def permitted(self, request: Request) -> Mask | None:
        """Mask ``(n,)`` of what filter, allow and common deny permit; None where that is everything."""
        mask: Mask | None = None
        if request.where is not None:
            mask = self._filter_mask(request.where)
        if request.allow is not None:
            allowed = self.items.mask(request.allow)
            mask = allowed if mask is None else mask & allowed
        if len(request.deny):
            denied = self.items.mask(request.deny)
            mask = ~denied if mask is None else mask & ~denied
        return mask

    def _filter_mask(self, where: Filter) -> Mask:
        key = str(where)
        mask = self._masks.get(key)  # another thread may clear them at any time
        if mask is None:
            mask = where.mask(self.items.attributes)
            if len(self._masks) >= MASKS:
                self._masks.clear()
            self._masks[key] = mask
        return mask

    def search_among(self, request: Request, permitted: Mask | None) -> Found:
        """Find the best of the permitted rows."""
        b, n = len(request.queries), len(self)
        rows = None
        if permitted is not None and np.count_nonzero(permitted) * GATHER < n:
            rows, permitted = np.flatnonzero(permitted), None
        vectors = self.items.vectors if rows is None else self.items.vectors[rows]
        ids = np.full((b, request.k), -1, dtype=np.int64)
        scores = np.full((b, request.k), -np.inf, dtype=np.float32)
        size = max(1, BLOCK_BYTES // (4 * max(len(vectors), 1)))
        for start in range(0, b if len(vectors) else 0, size):
            block = slice(start, min(start + size, b))
            quick = request.queries[block] @ vectors.T
            if permitted is not None:
                np.copyto(quick, -np.inf, where=~permitted)
            if request.own_deny is not None:
                for row, denied in zip(quick, request.own_deny[block], strict=True):
                    row[self._places(denied, rows)] = -np.inf
            columns, values = self._select(request.queries[block], vectors, quick, request.k)
            taken = columns if rows is None else rows[columns]
            width = columns.shape[1]
            ids[block, :width] = np.where(values == -np.inf, -1, self.items.ids[taken])
            scores[block, :width] = values
        return Found(ids, scores)

    def _places(self, ids: Ids, rows: Ids | None) -> Ids:
        """Columns of ``ids`` in a block over all rows, or over ``rows``; those that are not there are left out."""
        found = self.items.rows(ids)
        found = found[found >= 0]
        if rows is None:
            return found
        places = np.minimum(np.searchsorted(rows, found), len(rows) - 1)
        return np.asarray(places[rows[places] == found])

    def _select(self, queries: Vectors, vectors: Vectors, quick: Vectors, k: int) -> tuple[Ids, Vectors]:
        """Columns and scores ``(b, min(k, n))`` of the best, given quick scores ``(b, n)``."""
        n = quick.shape[1]
        columns, values = (part.numpy() for part in top_items(torch.from_numpy(quick), min(k + SPARE, n)))
        exact = score(queries, vectors[columns])
        exact[values == -np.inf] = -np.inf
        order = np.lexsort((columns, -exact))[:, :k]
        best, scores = np.take_along_axis(columns, order, 1), np.take_along_axis(exact, order, 1)
        if columns.shape[1] < n:
            # A dot product in any order errs by at most dim * 2^-24 of the lengths' product; twice, for safety.
            error = vectors.shape[1] * 2**-23 * np.linalg.norm(queries, axis=1) * self._longest
            doubtful = (scores[:, -1] <= values[:, -1] + error) & (error > 0) & (values[:, -1] > -np.inf)
            for row in np.flatnonzero(doubtful):
                near = np.flatnonzero(quick[row] >= scores[row, -1] - error[row])
                best[row], scores[row] = _best_among(queries[row], vectors, near, best.shape[1])
        return best, scores

    def add(self, ids: Ids, vectors: Vectors, attributes: pd.DataFrame | None = None) -> None:
        """Add or replace items; costs a copy of all vectors, so add many at once."""
        self.replace(make_items(vectors, attributes, ids, like=(self.dim, self.kinds)))

    def replace(self, new: Items) -> None:
        """Add or replace checked items."""
        self.items = self.items.replaced(new)
        self._longest = max(self._longest, _longest(new.vectors))
        self._masks.clear()
        self.recall = None

    def delete(self, ids: Ids) -> None:
        """Remove items; ids that are not there are ignored."""
        self.items = self.items.without(check_ids(ids, "ids to delete"))
        self._masks.clear()
        self.recall = None

    def read(self) -> Items:
        """All items, by ascending id."""
        return self.items

    def save(self, folder: Path) -> None:
        """Write ids, vectors and attributes."""
        save_index(self, folder, {}, self.items.write)


def score(queries: Vectors, vectors: Vectors) -> Vectors:
    """Inner products ``(b, m)`` of each query ``(b, dim)`` with its own vectors ``(b, m, dim)``.

    Sums in double precision, each over its own row alone, so that equal vectors get equal scores in any company.
    """
    products = vectors.astype(np.float64) * queries[:, None, :]
    return np.asarray(products.sum(axis=2), dtype=np.float32)


def _best_among(query: Vectors, vectors: Vectors, near: Ids, k: int) -> tuple[Ids, Vectors]:
    """The k best of the columns ``near`` by score and then column, in blocks."""
    exact = np.concatenate(
        [score(query[None], vectors[None, near[i : i + 2**15]])[0] for i in range(0, len(near), 2**15)]
    )
    places, values = top_items(torch.from_numpy(exact[None]), k)
    return near[places[0].numpy()], values[0].numpy()


def _longest(vectors: Vectors) -> float:
    """The largest length of a vector."""
    if not len(vectors):
        return 0.0
    return float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors).max()))
