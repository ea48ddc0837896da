from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mmrec.data.batches import NegativeSampler, PairBatch, PairBatches, UserBatch, UserBatches
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.errors import DataError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def histories(*rows: list[int]) -> Histories:
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return Histories.from_pairs(
        users, np.array([item for row in rows for item in row], dtype=np.int64), len(rows)
    )


def data(train: Histories, n_items: int) -> TrainingData:
    return TrainingData(train.n_users, n_items, train, {})


# Items 2 and 7 of 0..9 occur nowhere: candidates are 0 1 3 4 5 6 8 9.
SMALL = histories([3, 0, 9], [], [8, 1, 0, 6, 5, 4, 3], [4], [0, 1, 3, 4, 5, 6, 8, 9])
CANDIDATES = {0, 1, 3, 4, 5, 6, 8, 9}


def open_items(train: Histories, user: int) -> list[int]:
    return sorted(set(train.items.tolist()) - set(train[user].tolist()))


class TestNegativeSampler:
    @given(st.integers(0, 10_000), st.integers(1, 8), st.integers(2, 12), st.floats(0.05, 0.95))
    @settings(max_examples=80, deadline=None)
    def test_never_a_positive_only_training_items(
        self, seed: int, n_users: int, n_items: int, density: float
    ) -> None:
        rng = np.random.default_rng(seed)
        likes = np.argwhere(rng.random((n_users, n_items)) < density)
        likes = likes[rng.permutation(len(likes))]
        train = Histories.from_pairs(likes[:, 0], likes[:, 1], n_users)
        open_to = [open_items(train, user) for user in range(n_users)]
        if not any(open_to[user] for user in set(likes[:, 0].tolist())):
            with pytest.raises(DataError, match="users with some"):
                NegativeSampler(train, n_items)
            return
        sampler = NegativeSampler(train, n_items)
        everyone = torch.arange(n_users)
        assert sampler.has_negatives(everyone).tolist() == [bool(items) for items in open_to]
        users = torch.tensor([user for user in range(n_users) if open_to[user]]).repeat(60)
        drawn = sampler.sample(users, generator(seed))
        for user, item in zip(users.tolist(), drawn.tolist(), strict=True):
            assert item in open_to[user]

    @pytest.mark.parametrize("user", [0, 1, 2, 3])
    def test_uniform(self, user: int) -> None:
        sampler = NegativeSampler(SMALL, 10)
        drawn = sampler.sample(torch.full((40_000,), user), generator(user))
        expected = open_items(SMALL, user)
        counts = torch.bincount(drawn, minlength=10)
        assert counts.nonzero().squeeze(1).tolist() == expected
        if len(expected) > 1:
            assert stats.chisquare(counts[expected].numpy()).pvalue > 1e-3

    def test_users_in_one_batch_draw_independently(self) -> None:
        sampler = NegativeSampler(SMALL, 10)
        users = torch.tensor([3, 0]).repeat(20_000)
        drawn = sampler.sample(users, generator(9)).view(-1, 2)
        table = np.zeros((10, 10))
        np.add.at(table, (drawn[:, 0].numpy(), drawn[:, 1].numpy()), 1)
        table = table[open_items(SMALL, 3)][:, open_items(SMALL, 0)]
        assert table.sum() == 20_000
        assert stats.chi2_contingency(table).pvalue > 1e-3

    def test_who_lacks_a_single_item_gets_it(self) -> None:
        drawn = NegativeSampler(SMALL, 10).sample(torch.full((100,), 2), generator())
        assert set(drawn.tolist()) == {9}

    def test_who_has_everything_is_named(self) -> None:
        sampler = NegativeSampler(SMALL, 10)
        assert sampler.has_negatives(torch.arange(5)).tolist() == [True, True, True, True, False]

    def test_same_generator_same_draws(self) -> None:
        sampler, users = NegativeSampler(SMALL, 10), torch.tensor([0, 1, 3]).repeat(50)
        one = generator(1)
        first, second = sampler.sample(users, one), sampler.sample(users, one)
        assert torch.equal(first, sampler.sample(users, generator(1)))
        assert not torch.equal(first, second)

    def test_order_of_a_history_does_not_matter(self) -> None:
        reverse = histories(*[SMALL[user].tolist()[::-1] for user in range(5)])
        users = torch.tensor([0, 1, 2, 3]).repeat(50)
        draws = [NegativeSampler(train, 10).sample(users, generator(2)) for train in (SMALL, reverse)]
        assert torch.equal(*draws)

    def test_a_user_who_has_nearly_everything_costs_no_more(self) -> None:
        n = 20_000
        users = np.concatenate([np.zeros(n - 1, dtype=np.int64), [1]])
        train = Histories.from_pairs(users, np.append(np.arange(n - 1), n - 1), 2)
        sampler = NegativeSampler(train, n)
        started = time.perf_counter()
        drawn = sampler.sample(torch.zeros(50_000, dtype=torch.int64), generator())
        assert time.perf_counter() - started < 2  # rejection would need 20,000 rounds
        assert (drawn == n - 1).all()

    @pytest.mark.parametrize("train", [Histories.empty(3), histories([0, 1], [1, 0])])
    def test_nothing_to_learn_from(self, train: Histories) -> None:
        with pytest.raises(DataError, match="mmrec data show"):
            NegativeSampler(train, 4)


def world() -> TrainingData:
    rng = np.random.default_rng(0)
    likes = np.argwhere(rng.random((30, 20)) < 0.3)
    likes = likes[rng.permutation(len(likes))]
    return data(Histories.from_pairs(likes[:, 0], likes[:, 1], 30), 22)


def rows(batches: list[PairBatch]) -> list[tuple[int, int, int]]:
    return [
        row
        for b in batches
        for row in zip(b.users.tolist(), b.positives.tolist(), b.negatives.tolist(), strict=True)
    ]


class TestPairBatches:
    @pytest.mark.parametrize("batch_size", [1, 7, 64, 10_000])
    def test_every_training_pair_once_per_epoch(self, batch_size: int) -> None:
        training = world()
        batches = PairBatches(training, batch_size)
        n = len(training.train.items)
        sizes = [len(batch.users) for batch in batches.epoch(generator())]
        assert len(sizes) == len(batches) == -(-n // batch_size)
        assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
        assert sum(sizes) == n
        pairs = [(user, item) for user, item, _ in rows(list(batches.epoch(generator())))]
        expected = zip(training.train.users.tolist(), training.train.items.tolist(), strict=True)
        assert sorted(pairs) == sorted(expected)

    def test_negatives_are_no_positives(self) -> None:
        training = world()
        positives = set(zip(training.train.users.tolist(), training.train.items.tolist(), strict=True))
        for user, _, negative in rows(list(PairBatches(training, 50).epoch(generator(3)))):
            assert (user, negative) not in positives
            assert negative in training.train.items

    def test_same_generator_same_batches(self) -> None:
        batches = PairBatches(world(), 16)
        one = generator(4)
        first, second = rows(list(batches.epoch(one))), rows(list(batches.epoch(one)))
        assert first == rows(list(batches.epoch(generator(4))))
        assert first == rows(list(PairBatches(world(), 16).epoch(generator(4))))
        assert [row[:2] for row in first] != [row[:2] for row in second]  # another order
        assert {row[:2]: row[2] for row in first} != {row[:2]: row[2] for row in second}

    def test_batch_size_only_cuts(self) -> None:
        training = world()
        assert rows(list(PairBatches(training, 5).epoch(generator(6)))) == rows(
            list(PairBatches(training, 64).epoch(generator(6)))
        )

    @pytest.mark.parametrize("first", [0, 1, 3, 99])
    def test_a_resumed_epoch_is_the_tail_of_the_whole_one(self, first: int) -> None:
        batches = PairBatches(world(), 16)
        whole = list(batches.epoch(generator(5)))
        tail = list(batches.epoch(generator(5), first))
        assert len(tail) == max(0, len(whole) - first)
        assert rows(tail) == rows(whole[first:])

    def test_the_order_is_uniform(self) -> None:
        batches = PairBatches(data(histories([0], [1], [2]), 3), 3)
        one = generator(7)
        orders = [tuple(next(batches.epoch(one)).users.tolist()) for _ in range(1200)]
        counts = [orders.count(order) for order in set(orders)]
        assert len(counts) == 6
        assert stats.chisquare(counts).pvalue > 1e-3

    def test_pairs_of_a_user_who_has_everything_are_left_out(self) -> None:
        batches = PairBatches(data(SMALL, 10), 4)
        listed = [row[:2] for row in rows(list(batches.epoch(generator())))]
        assert len(listed) == 3 + 7 + 1
        assert {user for user, _ in listed} == {0, 2, 3}
        assert len(batches) == 3

    def test_global_generators_are_left_alone(self) -> None:
        torch.manual_seed(0)
        before = torch.get_rng_state()
        list(PairBatches(world(), 16).epoch(generator()))
        assert torch.equal(before, torch.get_rng_state())

    def test_moves_to_a_device(self) -> None:
        batch = next(PairBatches(world(), 4).epoch(generator()))
        moved = batch.to("meta")
        assert {t.device.type for t in (moved.users, moved.positives, moved.negatives)} == {"meta"}
        assert batch.users.dtype == batch.positives.dtype == batch.negatives.dtype == torch.int64


class TestUserBatches:
    def test_every_user_with_items_comes_once_with_the_whole_history(self) -> None:
        training = world()
        seen: dict[int, list[int]] = {}
        for batch in UserBatches(training, 7).epoch(generator(1)):
            for row, user in enumerate(batch.users.tolist()):
                assert user not in seen
                seen[user] = batch.items[batch.rows == row].tolist()
        assert seen == {
            user: training.train[user].tolist()
            for user in range(training.n_users)
            if len(training.train[user])
        }

    def test_order_is_that_of_the_generator_and_can_begin_anywhere(self) -> None:
        batches = UserBatches(world(), 4)
        one, two, other = (
            [batch.users.tolist() for batch in batches.epoch(generator(seed))] for seed in (2, 2, 3)
        )
        assert one == two
        assert one != other
        assert len(one) == len(batches)
        assert [batch.users.tolist() for batch in batches.epoch(generator(2), 2)] == one[2:]

    def test_matrix(self) -> None:
        batch = UserBatch(torch.tensor([5, 3]), torch.tensor([0, 1, 1]), torch.tensor([2, 0, 3]))
        assert batch.matrix(4).tolist() == [[0, 0, 1, 0], [1, 0, 0, 1]]
