"""Training batches, of pairs, of whole users, of sequences or of sets: vectorised, a function of seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories, Ids
from mmrec.data.rows.table import RowBatch, RowData
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


def _windows(items: Ids, begins: Ids, ends: Ids, max_length: int) -> tuple[Tensor, Tensor]:
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
    return _windows(sequences.items, sequences.offsets[:-1], sequences.offsets[1:], max_length)


RUN = 32  # batches whose histories are sorted by length among each other


def _group_by_length(lengths: Ids, batch_size: int, generator: torch.Generator) -> list[Ids]:
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
        groups = _group_by_length(np.minimum(before, self.max_length), self.batch_size, generator)
        seeds = torch.randint(2**62, (len(groups),), generator=generator).tolist()
        for group, seed in zip(groups[first:], seeds[first:], strict=True):
            places = self._targets[group]
            users = torch.from_numpy(self._users[places])
            begins = self._sequences.offsets[users.numpy()]
            items, lengths = _windows(self._sequences.items, begins, places, self.max_length)
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
        groups = _group_by_length(counts, self.batch_size, generator)
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


@dataclass(frozen=True)
class SetBatch:
    """One training item of some users as the target of others, which come in no order.

    Attributes:
        users: ``(b,)`` internal user ids.
        items: ``(b, t)`` other training items of the user, then -1; t is at most ``max_items``, and at least 1.
        targets: ``(b,)`` the item that is to be found; never among ``items``.
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
        batch_size: Pairs per batch; the last batch may be short.
        max_items: How many other items are shown.

    Raises:
        DataError: No training interactions.
    """

    def __init__(self, data: TrainingData, batch_size: int, max_items: int = 32) -> None:
        if not len(data.train.items):
            raise DataError("training interactions", "none", "check the split with mmrec data show")
        self._train, self._users = data.train, data.train.users
        self.batch_size, self.max_items = batch_size, max_items

    def __len__(self) -> int:
        return -(-len(self._users) // self.batch_size)

    def epoch(self, generator: torch.Generator, first: int = 0) -> Iterator[SetBatch]:
        """The batches of one epoch from number ``first`` on; the generator alone decides what they hold."""
        others = self._train.counts[self._users] - 1
        groups = _group_by_length(np.minimum(others, self.max_items), self.batch_size, generator)
        seeds = torch.randint(2**62, (len(groups),), generator=generator).tolist()
        for places, seed in zip(groups[first:], seeds[first:], strict=True):
            users = self._users[places]
            starts = self._train.offsets[users]
            chosen = _subsets(others[places], self.max_items, np.random.default_rng(seed))
            own = (places - starts)[:, None]
            found = starts[:, None] + chosen + (chosen >= own)  # the target's own place is passed over
            items = np.where(chosen < 0, -1, self._train.items[np.where(chosen < 0, 0, found)])
            targets = torch.from_numpy(self._train.items[places])
            yield SetBatch(torch.from_numpy(users), torch.from_numpy(items), targets)


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
    shown, lengths = _windows(items[order], histories.offsets[:-1], ends, max_items)
    return shown[:, : max(int(lengths.max()), 1)]


class RowBatches:
    """All training rows once per epoch, in a fresh order; the last batch may be short.

    Args:
        data: Row data.
        batch_size: Rows per batch.
    """

    def __init__(self, data: RowData, batch_size: int) -> None:
        self._rows, self.batch_size = data.train, batch_size

    def __len__(self) -> int:
        return -(-len(self._rows) // self.batch_size)

    def epoch(self, generator: torch.Generator, first: int = 0) -> Iterator[RowBatch]:
        """The batches of one epoch from number ``first`` on; the generator alone decides what they hold."""
        return self._rows.batches(self.batch_size, generator, first)


Batches = RowBatches | PairBatches | UserBatches | SequenceBatches | HistoryBatches | SetBatches
BATCHES: dict[str, type[Batches]] = {
    "pairs": PairBatches,
    "users": UserBatches,
    "sequences": SequenceBatches,
    "sequence-pairs": SequencePairBatches,
    "histories": HistoryBatches,
    "history-pairs": HistoryPairBatches,
    "sets": SetBatches,
    "rows": RowBatches,
}


def make_batches(model: Any, data: Any, batch_size: int) -> Batches:
    """The batches that a model asks for by ``model.batches``.

    Those of sequences end at ``model.max_length``; those of sets show ``model.max_items``.
    """
    kind = BATCHES[model.batches]
    if issubclass(kind, SetBatches):
        return kind(data, batch_size, model.max_items)
    if issubclass(kind, SequenceBatches | HistoryBatches):
        return kind(data, batch_size, model.max_length)
    return kind(data, batch_size)
