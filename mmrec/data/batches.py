"""Training batches of (user, positive, negative): vectorised, exact, a function of seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.errors import DataError


@dataclass(frozen=True)
class PairBatch:
    """One training batch.

    Attributes:
        users: ``(b,)`` internal user ids.
        positives: ``(b,)`` an item each user interacted with.
        negatives: ``(b,)`` an item the user has not interacted with in training.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor

    def to(self, device: torch.device | str) -> PairBatch:
        """Copy to a device."""
        return PairBatch(self.users.to(device), self.positives.to(device), self.negatives.to(device))


class NegativeSampler:
    """Draws items that a user has no training interaction with, uniformly over the items that occur in training.

    Exact without rejection: a user's positives have sorted ranks ``p_0 < p_1 < …`` among the candidates, and the
    r-th candidate that is not a positive has rank ``r + #{j: p_j - j <= r}``. The count is one binary search in the
    sorted keys ``user * n + (p_j - j)`` of all users, so a batch costs ``O(b log n)`` and no loop can hang on a user
    who has nearly everything.

    Args:
        train: Training items of each user, no pair twice.
        n_items: Size of the catalogue.

    Raises:
        DataError: Nothing to learn from: no user has both an item and a non-item.
    """

    def __init__(self, train: Histories, n_items: int) -> None:
        candidates = np.unique(train.items)
        place = np.zeros(n_items, dtype=np.int64)
        place[candidates] = np.arange(len(candidates))
        keys = np.sort(train.users * len(candidates) + place[train.items])
        users = keys // max(len(candidates), 1)
        within = np.arange(len(keys)) - train.offsets[users]
        self._n = len(candidates)
        self._candidates = torch.from_numpy(candidates)
        self._offsets = torch.from_numpy(train.offsets[:-1].copy())
        self._gaps = torch.from_numpy(keys - within)  # user * n + (p_j - j), ascending
        self._free = torch.from_numpy(len(candidates) - train.counts)
        if not len(keys) or not (train.counts[users] < self._n).any():
            raise DataError(
                "users with some, not all, of the items",
                f"{len(keys)} training interactions, {self._n} items",
                "import more data, or check the split with mmrec data show",
            )

    def has_negatives(self, users: Tensor) -> Tensor:
        """Mask ``(b,)``: False for users who have every candidate."""
        return self._free[users] > 0

    def sample(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """One negative ``(b,)`` for each of ``users (b,)``, who must have one."""
        free = self._free[users]
        draw = torch.rand(len(users), generator=generator, dtype=torch.float64)
        r = torch.minimum((draw * free).long(), free - 1)
        smaller = torch.searchsorted(self._gaps, users * self._n + r, right=True) - self._offsets[users]
        return self._candidates[r + smaller]


class PairBatches:
    """All training pairs once per epoch, in a fresh order, each with one negative; the last batch may be short.

    Pairs of users who have every item cannot be ranked against anything and are left out.

    Args:
        data: Training data.
        batch_size: Pairs per batch.
    """

    def __init__(self, data: TrainingData, batch_size: int) -> None:
        self._sampler = NegativeSampler(data.train, data.n_items)
        users, items = torch.from_numpy(data.train.users), torch.from_numpy(data.train.items)
        usable = self._sampler.has_negatives(users)
        self._users, self._items = users[usable], items[usable]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._users) // self.batch_size)

    def epoch(self, generator: torch.Generator, first: int = 0) -> Iterator[PairBatch]:
        """The batches of one epoch from number ``first`` on; the generator alone decides what they hold."""
        order = torch.randperm(len(self._users), generator=generator)
        users, items = self._users[order], self._items[order]
        negatives = self._sampler.sample(users, generator)
        for start in range(first * self.batch_size, len(users), self.batch_size):
            cut = slice(start, start + self.batch_size)
            yield PairBatch(users[cut], items[cut], negatives[cut])
