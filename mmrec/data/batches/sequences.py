"""Batches of what came before a target in the order of time, and of histories that predict each next item."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mmrec.data.batches.pairs import NegativeSampler
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories, Ids
from mmrec.errors import DataError


@dataclass(frozen=True)
class SequenceBatch:
    """What some users had in training up to a moment, and what they took next.

    Attributes:
        users: ``(b,)`` internal user ids.
        items: ``(b, max_length)`` the last items before the target, oldest first, then -1.
        lengths: ``(b,)`` how many of them there are, at least 1.
        targets: ``(b,)`` the item that came next.
        negatives: ``(b,)`` an item the user does not have in training; of ``sequence-pairs`` only.
    """

    users: Tensor
    items: Tensor
    lengths: Tensor
    targets: Tensor
    negatives: Tensor | None = None

    def to(self, device: torch.device | str) -> SequenceBatch:
        """Copy to a device."""
        negatives = None if self.negatives is None else self.negatives.to(device)
        return SequenceBatch(
            self.users.to(device),
            self.items.to(device),
            self.lengths.to(device),
            self.targets.to(device),
            negatives,
        )


def windows(items: Ids, begins: Ids, ends: Ids, max_length: int) -> tuple[Tensor, Tensor]:
    """Items ``(b, max_length)`` at the places ``begins <= place < ends``, the last ones, then -1; and how many."""
    begins = np.maximum(begins, ends - max_length)
    lengths = ends - begins
    columns = np.arange(max_length)
    places = np.minimum(begins[:, None] + columns, max(len(items) - 1, 0))
    inside = columns < lengths[:, None]
    padded = np.where(inside, items[places], -1) if len(items) else np.full(inside.shape, -1)
    return torch.from_numpy(padded), torch.from_numpy(lengths)


def last_items(sequences: Histories, max_length: int) -> tuple[Tensor, Tensor]:
    """The last items ``(n_users, max_length)`` of each user, oldest first, then -1; and how many ``(n_users,)``.

    Args:
        sequences: Items of each user in the order of time.
        max_length: How far back to look.
    """
    return windows(sequences.items, sequences.offsets[:-1], sequences.offsets[1:], max_length)


RUN = 32  # batches whose histories are sorted by length among each other


def group_by_length(lengths: Ids, batch_size: int, generator: torch.Generator) -> list[Ids]:
    """The places 0 to n - 1 of each batch: about equal lengths together, so that little is padded.

    A fresh order is cut into runs of :data:`RUN` batches, each run is sorted by length and cut into batches, and these
    come in random order.
    """
    order = torch.randperm(len(lengths), generator=generator).numpy()
    runs = np.arange(len(order)) // (RUN * batch_size)
    order = order[np.lexsort([lengths[order], runs])]
    groups = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [groups[place] for place in torch.randperm(len(groups), generator=generator).tolist()]


class SequenceBatches:
    """Every training item but each user's first as the target of all that came before it, in a fresh order.

    A history ``i1 i2 i3 i4`` gives ``i1 → i2``, ``i1 i2 → i3`` and ``i1 i2 i3 → i4``, as sequential models are
    trained since Tan, Xu and Liu, "Improved recurrent neural networks for session-based recommendations", 2016.
    Histories of about equal length come together. The padded items are cut out when a batch is asked for, so memory
    grows with the interactions only.

    Args:
        data: Training data; the order of time is that of ``data.sequences``.
        batch_size: Targets per batch; the last batch may be short.
        max_length: How many items before the target are shown.

    Raises:
        DataError: No user has two training items, or there is no order of time.
    """

    negatives: ClassVar[bool] = False

    def __init__(self, data: TrainingData, batch_size: int, max_length: int = 50) -> None:
        self._sequences = data.sequences
        self._users = self._sequences.users
        starts = self._sequences.offsets[self._users]
        targets = np.flatnonzero(np.arange(len(starts)) > starts)
        if self.negatives:
            self._sampler = NegativeSampler(data.train, data.n_items)
            targets = targets[self._sampler.has_negatives(torch.from_numpy(self._users[targets])).numpy()]
        if not len(targets):
            raise _too_short(data.n_users)
        self._targets = targets
        self.batch_size, self.max_length = batch_size, max_length

    def __len__(self) -> int:
        return -(-len(self._targets) // self.batch_size)

    def epoch(self, generator: torch.Generator, first: int = 0) -> Iterator[SequenceBatch]:
        """The batches of one epoch from number ``first`` on; the generator alone decides what they hold."""
        before = self._targets - self._sequences.offsets[self._users[self._targets]]
        groups = group_by_length(np.minimum(before, self.max_length), self.batch_size, generator)
        seeds = torch.randint(2**62, (len(groups),), generator=generator).tolist()
        for group, seed in zip(groups[first:], seeds[first:], strict=True):
            places = self._targets[group]
            users = torch.from_numpy(self._users[places])
            begins = self._sequences.offsets[users.numpy()]
            items, lengths = windows(self._sequences.items, begins, places, self.max_length)
            negatives = None
            if self.negatives:
                negatives = self._sampler.sample(users, torch.Generator().manual_seed(seed))
            targets = torch.from_numpy(self._sequences.items[places])
            yield SequenceBatch(users, items, lengths, targets, negatives)


class SequencePairBatches(SequenceBatches):
    """:class:`SequenceBatches` with one negative for each target; users who have every item are left out."""

    negatives: ClassVar[bool] = True


@dataclass(frozen=True)
class HistoryBatch:
    """The last items of some users, each to be predicted from those before it.

    Attributes:
        users: ``(b,)`` internal user ids.
        items: ``(b, t)`` oldest first, then -1; t is at most ``max_length``. Item j is to predict ``targets[:, j]``.
        targets: ``(b, t)`` the item that came next, then -1.
        negatives: ``(b, t)`` an item the user does not have in training, then -1; of ``history-pairs`` only.
    """

    users: Tensor
    items: Tensor
    targets: Tensor
    negatives: Tensor | None = None

    def to(self, device: torch.device | str) -> HistoryBatch:
        """Copy to a device."""
        negatives = None if self.negatives is None else self.negatives.to(device)
        return HistoryBatch(self.users.to(device), self.items.to(device), self.targets.to(device), negatives)


class HistoryBatches:
    """All users with two or more training items once per epoch, each with the last items of the history.

    For models that predict every next item of a history in one pass. Histories of about equal length come together.

    Args:
        data: Training data; the order of time is that of ``data.sequences``.
        batch_size: Users per batch; the last batch may be short.
        max_length: How many items before a target are shown.

    Raises:
        DataError: No user has two training items, or there is no order of time.
    """

    negatives: ClassVar[bool] = False

    def __init__(self, data: TrainingData, batch_size: int, max_length: int = 50) -> None:
        sequences = data.sequences
        usable = sequences.counts > 1
        if self.negatives:
            self._sampler = NegativeSampler(data.train, data.n_items)
            usable &= self._sampler.has_negatives(torch.arange(data.n_users)).numpy()
        self._users = np.flatnonzero(usable)
        if not len(self._users):
            raise _too_short(data.n_users)
        self._sequences = sequences
        self.batch_size, self.max_length = batch_size, max_length

    def __len__(self) -> int:
        return -(-len(self._users) // self.batch_size)

    def epoch(self, generator: torch.Generator, first: int = 0) -> Iterator[HistoryBatch]:
        """The batches of one epoch from number ``first`` on; the generator alone decides what they hold."""
        counts = np.minimum(self._sequences.counts[self._users], self.max_length + 1)
        groups = group_by_length(counts, self.batch_size, generator)
        seeds = torch.randint(2**62, (len(groups),), generator=generator).tolist()
        for group, seed in zip(groups[first:], seeds[first:], strict=True):
            users = self._users[group]
            window, lengths = last_items(self._sequences.select(users), self.max_length + 1)
            window = window[:, : int(lengths.max())]
            items = window[:, :-1].masked_fill(window[:, 1:] < 0, -1)  # the last item has nothing to predict
            owners = torch.from_numpy(users)
            negatives = self._draw(owners, items >= 0, seed) if self.negatives else None
            yield HistoryBatch(owners, items, window[:, 1:].contiguous(), negatives)

    def _draw(self, users: Tensor, inside: Tensor, seed: int) -> Tensor:
        negatives = torch.full(inside.shape, -1)
        owners = users[:, None].expand_as(inside)[inside]
        negatives[inside] = self._sampler.sample(owners, torch.Generator().manual_seed(seed))
        return negatives


class HistoryPairBatches(HistoryBatches):
    """:class:`HistoryBatches` with one negative for each target; users who have every item are left out."""

    negatives: ClassVar[bool] = True


def _too_short(n_users: int) -> DataError:
    return DataError(
        "users with two or more training items, to predict the later from the earlier ones",
        f"none among {n_users:,} users",
        "import more data, or train a model that does not read sequences (mmrec models)",
    )
