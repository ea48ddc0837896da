"""What rows of a dataset are made of: the items before a moment, and items that a user does not know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrec.data.histories import Histories, Ids
from mmrec.errors import DataError


@dataclass(frozen=True, eq=False)
class EarlierItems:
    """Interactions by user and time, for looking up what came before.

    Attributes:
        moments: Distinct times, rising.
        keys: ``(n,)`` user and place of the time among ``moments`` as one number, rising.
        items: ``(n,)``.
        starts: ``(largest user + 2,)`` where a user's interactions start.
    """

    moments: NDArray[Any]
    keys: Ids
    items: Ids
    starts: Ids

    @classmethod
    def of(cls, users: Ids, items: Ids, times: NDArray[Any]) -> EarlierItems:
        """From the user, item and time ``(n,)`` of each interaction."""
        moments, place = np.unique(times, return_inverse=True)
        keys = users * (len(moments) + 1) + place
        order = np.argsort(keys, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(users))]).astype(np.int64)
        return cls(moments, keys[order], items[order], starts)

    def look_up(self, users: Ids, times: NDArray[Any], length: int) -> Histories:
        """The latest items of each user before a time, oldest first."""
        place = np.searchsorted(self.moments, times, side="left")
        ends = np.searchsorted(self.keys, users * (len(self.moments) + 1) + place, side="left")
        first = self.starts[np.minimum(users, len(self.starts) - 1)]
        starts = np.maximum(first, ends - length)
        counts = np.maximum(ends - starts, 0)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        flat = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, counts)
        return Histories(offsets, self.items[flat])


@dataclass(frozen=True, eq=False)
class FreeItems:
    """The distinct items of each user, for drawing others.

    Attributes:
        counts: ``(n_users,)`` how many there are.
        starts: ``(n_users,)`` where a user's keys start.
        keys: ``(n,)`` rising ``user * (n_items + 1) + item - place among the user's items``: the number of free items
            below it.
        n_items: Items of the catalogue.
    """

    counts: Ids
    starts: Ids
    keys: Ids
    n_items: int

    @classmethod
    def of(cls, users: Ids, items: Ids, n_users: int, n_items: int) -> FreeItems:
        """From the user and item ``(n,)`` of each interaction."""
        pairs = np.unique(users * n_items + items)
        owners, taken = np.divmod(pairs, n_items)
        counts = np.bincount(owners, minlength=n_users)
        starts = np.cumsum(counts) - counts
        place = np.arange(len(pairs)) - starts[owners]
        return cls(counts, starts, owners * (n_items + 1) + taken - place, n_items)

    def draw(self, users: Ids, rng: np.random.Generator) -> Ids:
        """A free item of each user, each with the same probability.

        Raises:
            DataError: A user without any.
        """
        free = self.n_items - self.counts[users]
        if len(users) and free.min() < 1:
            raise DataError(
                "items that a user does not know, to draw negatives from",
                f"a user with all {self.n_items:,} items",
                "leave that user out, or use ratings: --label 'rating>=4'",
            )
        rank = rng.integers(0, free)  # the free item with so many free ones below it
        below = np.searchsorted(self.keys, users * (self.n_items + 1) + rank, side="right")
        return np.asarray(rank + below - self.starts[users], dtype=np.int64)
