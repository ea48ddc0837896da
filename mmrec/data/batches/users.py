"""Batches of users with all their training items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmrec.data.dataset import TrainingData


@dataclass(frozen=True)
class UserBatch:
    """Whole histories of some users, for models that reconstruct them.

    Attributes:
        users: ``(b,)`` internal user ids.
        rows: ``(n,)`` position in ``users`` of each training item.
        items: ``(n,)`` the training items.
    """

    users: Tensor
    rows: Tensor
    items: Tensor

    def to(self, device: torch.device | str) -> UserBatch:
        """Copy to a device."""
        return UserBatch(self.users.to(device), self.rows.to(device), self.items.to(device))

    def matrix(self, n_items: int) -> Tensor:
        """``(b, n_items)`` ones at the training items."""
        dense = torch.zeros(len(self.users), n_items, device=self.items.device)
        dense[self.rows, self.items] = 1.0
        return dense


class UserBatches:
    """All users with training items once per epoch, in a fresh order; the last batch may be short.

    Args:
        data: Training data.
        batch_size: Users per batch.
    """

    def __init__(self, data: TrainingData, batch_size: int) -> None:
        self._train = data.train
        self._users = np.flatnonzero(data.train.counts > 0)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._users) // self.batch_size)

    def epoch(self, generator: torch.Generator, first: int = 0) -> Iterator[UserBatch]:
        """The batches of one epoch from number ``first`` on; the generator alone decides what they hold."""
        order = self._users[torch.randperm(len(self._users), generator=generator).numpy()]
        for start in range(first * self.batch_size, len(order), self.batch_size):
            users = order[start : start + self.batch_size]
            chosen = self._train.select(users)
            yield UserBatch(
                torch.from_numpy(users), torch.from_numpy(chosen.users), torch.from_numpy(chosen.items)
            )
