"""Batches of training pairs with an item that the user does not have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories, Ids
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

    A first draw over all candidates is kept unless it is a positive. Most are told apart by one look into a hashed
    table of the positives; only where that says "perhaps" are they searched for. A draw that is a positive is
    replaced by one from the exact distribution: the user's positives have sorted ranks ``p_0 < p_1 < …`` among the
    candidates, and the r-th candidate that is none of them has rank ``r + #{j: p_j - j <= r}``. So the result is
    uniform, and no loop can hang on a user who has nearly everything.

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
        if not len(keys) or not (train.counts[users] < len(candidates)).any():
            raise DataError(
                "users with some, not all, of the items",
                f"{len(keys)} training interactions, {len(candidates)} items",
                "import more data, or check the split with mmrec data show",
            )
        self._n = len(candidates)
        self._candidates = candidates
        self._free = len(candidates) - train.counts
        self._offsets = train.offsets
        self._positives = keys
        self._gaps = keys - (np.arange(len(keys)) - train.offsets[users])  # user * n + (p_j - j), ascending
        self._bits = min(26, (16 * len(keys)).bit_length())  # at most 1 in 16 places is taken, up to 64 MiB
        self._perhaps = np.zeros(1 << self._bits, dtype=bool)
        self._perhaps[self._place(keys)] = True

    def _place(self, keys: Ids) -> Ids:
        """Multiplicative hash of keys (Knuth): the upper bits of the product with 2^64 / golden ratio."""
        return (keys * np.int64(-7046029254386353131) >> (64 - self._bits)) & ((1 << self._bits) - 1)

    def has_negatives(self, users: Tensor) -> Tensor:
        """Mask ``(b,)``: False for users who have every candidate."""
        return torch.from_numpy(self._free[users.numpy()] > 0)

    def sample(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """One negative ``(b,)`` for each of ``users (b,)``, who must have one."""
        # NumPy draws and looks up several times faster than torch does on the CPU.
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        return torch.from_numpy(self._sample(users.numpy(), rng))

    def _sample(self, users: Ids, rng: np.random.Generator) -> Ids:
        draw = rng.integers(self._n, size=len(users))
        keys = users * self._n + draw
        perhaps = np.flatnonzero(self._perhaps.take(self._place(keys)))
        found = np.searchsorted(self._positives, keys[perhaps]).clip(max=len(self._positives) - 1)
        wrong = perhaps[self._positives[found] == keys[perhaps]]
        draw[wrong] = self._sample_ranked(users[wrong], rng)
        return self._candidates.take(draw)

    def _sample_ranked(self, users: Ids, rng: np.random.Generator) -> Ids:
        """Ranks of negatives by the exact formula, one binary search each."""
        r = rng.integers(self._free[users])
        return r + np.searchsorted(self._gaps, users * self._n + r, side="right") - self._offsets[users]


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
