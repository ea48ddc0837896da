"""Rankings of parts made to one: blocks of items, and the candidates of several lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mmrec.compress.codec import Rows
from mmrec.data.histories import Ids
from mmrec.rank import Ranking, top_items

BLOCK_BYTES = 64 * 2**20  # of one block of scores


def rank_blocks(score: Callable[[slice], Rows], n_items: int, n_queries: int, k: int) -> Ranking:
    """The k best of n items by scores ``(n_queries, block)`` that are made a block of items at a time.

    Ties go to the lower id.
    """
    k = min(k, n_items)
    items = torch.empty(n_queries, 0, dtype=torch.int64)
    values = torch.empty(n_queries, 0)
    step = max(k, BLOCK_BYTES // (4 * max(n_queries, 1)))
    for start in range(0, n_items, step):
        found, scores = top_items(torch.from_numpy(score(slice(start, min(start + step, n_items)))), k)
        # earlier items stand first, and top_items gives ties to the lower column
        items, scores = torch.cat([items, found + start], 1), torch.cat([values, scores], 1)
        best, values = top_items(scores, k)
        items = items.gather(1, best)
    return Ranking(items.numpy(), values.numpy())


def join_candidates(lists: Sequence[Ids]) -> tuple[Ids, list[Ids]]:
    """Items of several lists ``(b, k_m)``, each once: ids ``(b, c)`` ascending and then -1, and the lists' columns there.

    Columns ``(b, k_m)`` of entries that are -1 mean nothing.
    """
    largest = np.iinfo(np.int64).max
    together = np.concatenate(lists, axis=1).astype(np.int64)
    together[together < 0] = largest  # behind all items
    order = together.argsort(axis=1, kind="stable")
    ordered = np.take_along_axis(together, order, axis=1)
    new = np.ones_like(ordered, dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    columns = new.cumsum(axis=1) - 1
    width = int((new & (ordered < largest)).sum(axis=1).max(initial=0))
    candidates = np.full((len(together), width), -1, dtype=np.int64)
    row, column = np.nonzero(ordered < largest)
    candidates[row, columns[row, column]] = ordered[row, column]
    places = np.empty_like(columns)
    np.put_along_axis(places, order, columns, axis=1)
    ends = np.cumsum([part.shape[1] for part in lists])[:-1]
    return candidates, np.split(places, ends, axis=1)


def rank_candidates(candidates: Ids, scores: Tensor, k: int | None = None) -> Ranking:
    """The k best of candidates ``(b, c)``, ascending ids and then -1, by scores ``(b, c)``; ties by id."""
    best, values = top_items(scores, candidates.shape[1] if k is None else k)
    items = np.take_along_axis(candidates, best.numpy(), axis=1)
    return Ranking(items, np.where(items >= 0, values.numpy(), -np.inf).astype(np.float32))
