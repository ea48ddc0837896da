"""Batches of sets: every pair once, never with its target among what is shown, and all subsets alike."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch

from mmrec.data.batches import SetBatch, SetBatches, some_items
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.errors import DataError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def histories(*rows: list[int]) -> Histories:
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return Histories.from_pairs(users, np.array([i for row in rows for i in row], dtype=np.int64), len(rows))


def data(train: Histories, n_items: int = 60) -> TrainingData:
    return TrainingData(train.n_users, n_items, train, {})


Example = tuple[int, tuple[int, ...], int]


def examples(batches: list[SetBatch]) -> list[Example]:
    """User, the items that are there, target."""
    return [
        (user, tuple(sorted(item for item in items if item >= 0)), target)
        for batch in batches
        for user, items, targets in zip(
            batch.users.tolist(), batch.items.tolist(), batch.targets.tolist(), strict=True
        )
        for target in targets
        if target >= 0
    ]


SMALL = histories([3, 0, 5, 1], [], [7], [2, 6])


def test_every_pair_with_the_other_items_of_the_user() -> None:
    batches = SetBatches(data(SMALL), 3, max_items=4)
    assert len(batches) == 3
    assert sorted(examples(list(batches.epoch(generator())))) == [
        (0, (0, 1, 3), 5),
        (0, (0, 1, 5), 3),
        (0, (0, 3, 5), 1),
        (0, (1, 3, 5), 0),
        (2, (), 7),
        (3, (2,), 6),
        (3, (6,), 2),
    ]


@pytest.mark.parametrize("targets", [1, 4, 100])
@pytest.mark.parametrize("max_items", [1, 5, 11, 12, 40])
def test_never_a_target_never_twice_never_more(max_items: int, targets: int) -> None:
    rng = np.random.default_rng(0)
    rows = [rng.permutation(60)[: rng.integers(0, 30)].tolist() for _ in range(40)]
    batches = SetBatches(data(histories(*rows)), 16, max_items, targets)
    found = list(batches.epoch(generator(3)))
    assert len(found) == len(batches)
    made = examples(found)
    assert sorted((user, target) for user, _, target in made) == sorted(
        (user, item) for user, row in enumerate(rows) for item in row
    )
    for user, items, target in made:
        assert target not in items
        assert set(items) <= set(rows[user])
        assert len(items) == len(set(items))
    for batch in found:
        for part in (batch.items, batch.targets):  # padding comes last
            assert ((part >= 0).int().diff(dim=1) <= 0).all()
        assert not (
            batch.targets[:, :, None] == batch.items[:, None].where(batch.items[:, None] >= 0, -2)
        ).any()
        assert batch.items.shape[1] <= max_items
        assert (batch.targets >= 0).sum() <= max(16, targets)
        for user, shown, spelt in zip(
            batch.users.tolist(),
            (batch.items >= 0).sum(1).tolist(),
            (batch.targets >= 0).sum(1).tolist(),
            strict=True,
        ):
            n = len(rows[user])
            assert 1 <= spelt <= min(targets, max(1, n // 2))
            assert shown == min(max_items, n - spelt)


def test_all_subsets_alike() -> None:
    batches = SetBatches(data(histories(list(range(6)))), 6, max_items=3)
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(3000):
        counts.update(
            items for _, items, target in examples(list(batches.epoch(generator(seed)))) if target == 2
        )
    assert set(counts) == set(combinations([0, 1, 3, 4, 5], 3))
    assert min(counts.values()) > 220 and max(counts.values()) < 380  # 300 each, within five deviations


def test_all_items_are_alike_beside_each_other_as_targets_and_as_what_is_shown() -> None:
    batches = SetBatches(data(histories(list(range(6)))), 6, max_items=2, targets=3)
    together: Counter[tuple[int, ...]] = Counter()
    shown: Counter[tuple[int, int]] = Counter()
    for seed in range(1000):
        (batch,) = batches.epoch(generator(seed))
        assert batch.targets.shape == (2, 3)  # two halves, each the target of two of the other
        together.update(tuple(sorted(row)) for row in batch.targets.tolist())
        shown.update(
            (items[place], target)
            for items, targets in zip(batch.items.tolist(), batch.targets.tolist(), strict=True)
            for target in targets
            for place in range(2)
        )
    assert set(together) == set(combinations(range(6), 3))
    assert min(together.values()) > 60 and max(together.values()) < 145  # 100 each
    assert len(shown) == 30
    assert min(shown.values()) > 320 and max(shown.values()) < 480  # 400 each


def test_order_is_that_of_the_generator_and_can_begin_anywhere() -> None:
    rng = np.random.default_rng(0)
    rows = histories(*(rng.permutation(60)[:12].tolist() for _ in range(9)))
    for targets, n_batches in ((1, 11), (4, 14)):
        batches = SetBatches(data(rows), 10, 5, targets)
        one, two, other = ([examples([b]) for b in batches.epoch(generator(seed))] for seed in (2, 2, 3))
        assert one == two != other
        assert len(one) == len(batches) == n_batches
        assert [examples([b]) for b in batches.epoch(generator(2), 4)] == one[4:]


def test_memory_grows_with_the_interactions_only() -> None:
    batches = SetBatches(data(histories(list(range(50_000))), 50_000), 64, max_items=32)
    batch = next(iter(batches.epoch(generator())))
    assert batch.items.shape == (64, 32)


def test_nothing_to_learn_from() -> None:
    with pytest.raises(DataError, match="mmrec data show"):
        SetBatches(data(Histories.empty(3)), 8)


def test_moves_to_a_device() -> None:
    batch = SetBatch(torch.tensor([0]), torch.tensor([[1, -1]]), torch.tensor([[2]])).to("meta")
    assert {t.device.type for t in (batch.users, batch.items, batch.targets)} == {"meta"}


class TestSomeItems:
    def test_all_of_those_who_have_few(self) -> None:
        found = some_items(SMALL, np.arange(4), 4)
        assert [sorted(item for item in row if item >= 0) for row in found.tolist()] == [
            [0, 1, 3, 5],
            [],
            [7],
            [2, 6],
        ]
        assert some_items(SMALL.select(np.array([1])), np.array([1]), 4).tolist() == [[-1]]

    def test_the_same_whatever_the_order_and_the_other_users(self) -> None:
        rng = np.random.default_rng(0)
        rows = [rng.permutation(60)[:40].tolist() for _ in range(5)]
        together = some_items(histories(*rows), np.arange(5), 32)
        alone = some_items(histories(rng.permutation(rows[3]).tolist()), np.array([3]), 32)
        assert together[3].tolist() == alone[0].tolist()

    def test_users_of_the_same_items_show_different_ones_and_all_items_alike(self) -> None:
        rows = [list(range(50))] * 4000
        found = some_items(histories(*rows), np.arange(4000), 10)
        assert len({tuple(row) for row in found.tolist()}) > 3900
        counts = np.bincount(found.flatten().numpy(), minlength=50)
        assert counts.min() > 650 and counts.max() < 950  # 800 each
