"""Batches of training items and others of the same user, in no order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmrec.data.batches.sequences import group_by_length, windows
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories, Ids
from mmrec.errors import DataError


@dataclass(frozen=True)
class SetBatch:
    """Training items of some users as the targets of others, which come in no order.

    Attributes:
        users: ``(b,)`` internal user ids.
        items: ``(b, t)`` other training items of the user, then -1; t is at most ``max_items``, and at least 1.
        targets: ``(b, w)`` the items that are to be found, then -1; never among ``items``.
    """

    users: Tensor
    items: Tensor
    targets: Tensor

    def to(self, device: torch.device | str) -> SetBatch:
        """Copy to a device."""
        return SetBatch(self.users.to(device), self.items.to(device), self.targets.to(device))


class SetBatches:
    """Every training pair once per epoch as target and user, shown with other items of the user, in a fresh order.

    Users with more than ``max_items`` other items show as many, drawn anew each time without replacement and all
    alike; who has no other item shows none. Sets of about equal size come together. The draws are made when a batch is
    asked for, so memory grows with the interactions only.

    Args:
        data: Training data.
        batch_size: Pairs per batch at most, but at least one user's; the last batch may be short.
        max_items: How many other items are shown.
        targets: How many items of a user are the targets of the same others, at most; half of them, who has fewer than
            twice as many, lest nothing be left to show.

    Raises:
        DataError: No training interactions.
    """

    def __init__(self, data: TrainingData, batch_size: int, max_items: int = 32, targets: int = 1) -> None:
        if not len(data.train.items):
            raise DataError("training interactions", "none", "check the split with mmrec data show")
        self._train = data.train
        self._readings = max(1, batch_size // targets)  # in a batch
        self.max_items, self.targets = max_items, targets
        counts = data.train.counts
        widths = np.minimum(targets, np.maximum(counts // 2, 1))
        blocks = -(-counts // widths)  # of targets of the same others
        self._users = np.repeat(np.arange(len(counts)), blocks)
        own = np.arange(len(self._users)) - np.repeat(np.cumsum(blocks) - blocks, blocks)
        self._before = own * widths[self._users]  # items of the user in the blocks before
        self._sizes = np.minimum(widths[self._users], counts[self._users] - self._before)

    def __len__(self) -> int:
        return -(-len(self._users) // self._readings)

    def epoch(self, generator: torch.Generator, first: int = 0) -> Iterator[SetBatch]:
        """The batches of one epoch from number ``first`` on; the generator alone decides what they hold."""
        train = self._train
        others = train.counts[self._users] - self._sizes
        groups = group_by_length(np.minimum(others, self.max_items), self._readings, generator)
        seeds = torch.randint(2**62, (len(groups),), generator=generator).tolist()
        items = train.items
        if self.targets > 1:  # who is a target together with whom
            keys = torch.rand(len(items), generator=generator, dtype=torch.float64).numpy()
            items = items[np.lexsort([keys, train.users])]
        for places, seed in zip(groups[first:], seeds[first:], strict=True):
            users, sizes, before = self._users[places], self._sizes[places], self._before[places]
            starts = train.offsets[users]
            chosen = _subsets(others[places], self.max_items, np.random.default_rng(seed))
            passed = np.where(chosen >= before[:, None], sizes[:, None], 0)  # the targets' own places
            shown = np.where(
                chosen < 0, -1, items[np.where(chosen < 0, 0, starts[:, None] + chosen + passed)]
            )
            begins = starts + before
            targets, _ = windows(items, begins, begins + sizes, int(sizes.max()))
            yield SetBatch(torch.from_numpy(users), torch.from_numpy(shown), targets)


def _subsets(counts: Ids, size: int, rng: np.random.Generator) -> Ids:
    """For each n of ``counts (b,)`` min(n, size) different numbers below n, every subset alike, then -1.

    Those with n > size by Floyd's algorithm: the j-th draw is uniform up to ``n - size + j``, and if it came before,
    that bound itself is taken. It costs size² look-ups, however large n is.
    """
    columns = np.arange(max(1, min(size, int(counts.max()))))
    chosen = np.where(columns < counts[:, None], columns, -1)
    large = np.flatnonzero(counts > size)
    if not len(large):
        return chosen
    drawn = np.full((len(large), size), -1, dtype=np.int64)
    for column in range(size):
        bound = counts[large] - size + column
        draw = rng.integers(bound + 1)
        drawn[:, column] = np.where((drawn[:, :column] == draw[:, None]).any(1), bound, draw)
    chosen[large] = drawn
    return chosen


def _mixed(numbers: NDArray[Any]) -> NDArray[np.uint64]:
    """Numbers that look random, one for each integer: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014)."""
    keys: NDArray[np.uint64] = numbers.astype(np.uint64)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    keys ^= keys >> np.uint64(31)
    return keys


def some_items(histories: Histories, users: Ids, max_items: int) -> Tensor:
    """Items ``(b, t)`` of each user, then -1; at most ``max_items``, and t is at least 1.

    Who has more shows those with the smallest hash of user and item: as good as drawn, but always the same, whatever
    the order of the history or the other users of the block.

    Args:
        histories: One row for each of the users.
        users: ``(b,)`` internal user ids.
        max_items: How many items are shown.
    """
    rows, items = histories.users, histories.items
    order = np.lexsort([_mixed(_mixed(users)[rows] + items.astype(np.uint64)), rows])
    ends = np.minimum(histories.counts, max_items) + histories.offsets[:-1]
    shown, lengths = windows(items[order], histories.offsets[:-1], ends, max_items)
    return shown[:, : max(int(lengths.max()), 1)]
