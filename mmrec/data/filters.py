"""Which interactions stay: duplicates, k-core and unknown items, all on arrays of ids."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmrec.data.dataset import unique_pairs
from mmrec.data.histories import Ids

Mask = NDArray[np.bool_]


def keep_one_of_each(users: Ids, items: Ids, n_items: int, keep: str) -> Mask:
    """Mask ``(n,)`` that keeps the ``first`` or ``last`` row of each (user, item) pair, in source order."""
    if keep == "last":
        return unique_pairs(users[::-1], items[::-1], n_items)[::-1]
    return unique_pairs(users, items, n_items)


def count_label_conflicts(users: Ids, items: Ids, n_items: int, labels: NDArray[np.int8]) -> int:
    """Number of (user, item) pairs whose rows carry different labels of a given split."""
    pairs = pd.Series(labels).groupby(users * n_items + items)
    return int((pairs.max() != pairs.min()).sum())


def k_core(users: Ids, items: Ids, user_minimum: int, item_minimum: int) -> Mask:
    """Mask ``(n,)`` of the largest part in which each user and each item has enough interactions.

    Users and items below their minimum are removed in turn until nothing changes; the result does not depend
    on the order of removal. A minimum of 0 or 1 removes nothing on that side.
    """
    rows = np.arange(len(users), dtype=np.int64)
    while len(rows):
        user_counts, item_counts = np.bincount(users[rows]), np.bincount(items[rows])
        enough = (user_counts[users[rows]] >= user_minimum) & (item_counts[items[rows]] >= item_minimum)
        if enough.all():
            break
        rows = rows[enough]
    keep = np.zeros(len(users), dtype=bool)
    keep[rows] = True
    return keep


def compact(ids: Ids, keep: Mask) -> tuple[Ids, Ids]:
    """Renumber ids after dropping some: the new ids ``(n,)`` and the old id of each new one, order kept."""
    new = np.cumsum(keep, dtype=np.int64) - 1
    return new[ids], np.flatnonzero(keep).astype(np.int64)
