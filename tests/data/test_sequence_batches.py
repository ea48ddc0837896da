"""Batches of sequences, and the order of time that they are made from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmrec.data.batches import (
    SequenceBatch,
    SequenceBatches,
    SequencePairBatches,
    last_items,
    make_batches,
)
from mmrec.data.dataset import Dataset, TrainingData
from mmrec.data.histories import Histories
from mmrec.data.split_files import write_split
from mmrec.errors import DataError
from tests.worlds import write_dataset

Example = tuple[int, tuple[int, ...], int, int]


def histories(*rows: list[int]) -> Histories:
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return Histories.from_pairs(users, np.array([i for row in rows for i in row], dtype=np.int64), len(rows))


def data(train: Histories, n_items: int = 8) -> TrainingData:
    return TrainingData(train.n_users, n_items, train, {})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def examples(batches: list[SequenceBatch]) -> list[Example]:
    """User, padded items, length, target."""
    return [
        (user, tuple(items), length, target)
        for batch in batches
        for user, items, length, target in zip(
            batch.users.tolist(),
            batch.items.tolist(),
            batch.lengths.tolist(),
            batch.targets.tolist(),
            strict=True,
        )
    ]


SMALL = histories([3, 0, 5, 1], [], [7], [2, 6])


class TestSequenceBatches:
    def test_every_item_but_the_first_is_a_target_of_those_before(self) -> None:
        batches = SequenceBatches(data(SMALL), 3, max_length=4)
        assert len(batches) == 2
        assert sorted(examples(list(batches.epoch(generator())))) == [
            (0, (3, -1, -1, -1), 1, 0),
            (0, (3, 0, -1, -1), 2, 5),
            (0, (3, 0, 5, -1), 3, 1),
            (3, (2, -1, -1, -1), 1, 6),
        ]

    def test_only_the_last_items_are_shown(self) -> None:
        batches = SequenceBatches(data(SMALL), 9, max_length=2)
        assert sorted(examples(list(batches.epoch(generator())))) == [
            (0, (0, 5), 2, 1),
            (0, (3, -1), 1, 0),
            (0, (3, 0), 2, 5),
            (3, (2, -1), 1, 6),
        ]

    def test_order_is_that_of_the_generator_and_can_begin_anywhere(self) -> None:
        rng = np.random.default_rng(0)
        train = histories(*[rng.permutation(30)[: rng.integers(0, 9)].tolist() for _ in range(40)])
        for kind in (SequenceBatches, SequencePairBatches):
            batches = kind(data(train, 30), 16, 5)
            one, two, other = (examples(list(batches.epoch(generator(seed)))) for seed in (1, 1, 2))
            assert one == two
            assert one != other and sorted(one) == sorted(other)
            # cut by batches, not by examples: the short one may come anywhere
            assert examples(list(batches.epoch(generator(1), 2))) == examples(
                list(batches.epoch(generator(1)))[2:]
            )
            assert all(sum(item >= 0 for item in items) == length for _, items, length, _ in one)

    def test_negatives_are_no_items_of_the_user(self) -> None:
        batches = SequencePairBatches(data(SMALL), 2, 3)
        for seed in range(20):
            for batch in batches.epoch(generator(seed)):
                assert batch.negatives is not None
                for user, negative in zip(batch.users.tolist(), batch.negatives.tolist(), strict=True):
                    assert negative not in SMALL[user].tolist()
        batch = next(SequenceBatches(data(SMALL), 2, 3).epoch(generator()))
        assert batch.negatives is None

    def test_who_has_every_item_has_no_negative_but_is_learned_from(self) -> None:
        train = histories([0, 1, 2], [2, 0])
        assert len(SequenceBatches(data(train, 3), 1)) == 3
        assert [
            batch.users.tolist() for batch in SequencePairBatches(data(train, 3), 9).epoch(generator())
        ] == [[1]]

    def test_nothing_to_predict(self) -> None:
        with pytest.raises(DataError, match="two or more training items"):
            SequenceBatches(data(histories([1], [2])), 4)

    def test_moves_to_a_device(self) -> None:
        for kind in (SequenceBatches, SequencePairBatches):
            moved = next(kind(data(SMALL), 4).epoch(generator())).to("meta")
            parts = [part for part in vars(moved).values() if part is not None]
            assert {part.device.type for part in parts} == {"meta"}

    def test_the_model_says_how_far_back_they_look(self) -> None:
        model = SimpleNamespace(batches="sequence-pairs", max_length=2)
        batches = make_batches(model, data(SMALL), 4)
        assert isinstance(batches, SequencePairBatches) and batches.max_length == 2
        assert not hasattr(make_batches(SimpleNamespace(batches="pairs"), data(SMALL), 4), "max_length")


def test_last_items() -> None:
    items, lengths = last_items(SMALL.select(np.array([3, 0, 1])), 3)
    assert items.tolist() == [[2, 6, -1], [0, 5, 1], [-1, -1, -1]]
    assert lengths.tolist() == [2, 3, 0]
    assert last_items(Histories.empty(1), 2)[0].tolist() == [[-1, -1]]


class TestOrderOfTime:
    def made(self, folder: Path, **columns: list[float]) -> TrainingData:
        table = {"user": [0, 1, 0, 0, 1, 0], "item": [4, 0, 2, 1, 3, 0], **columns}
        dataset: Dataset = write_dataset(folder / "d", table)
        split = write_split(
            dataset, "default", np.array([0, 0, 0, 0, 0, 1]), protocol="given", options={}, seed=None
        )
        return dataset.training_data(split, {})

    def test_by_timestamp_and_equal_times_by_row(self, tmp_path: Path) -> None:
        training = self.made(tmp_path, timestamp=[30, 5, 20, 20, 1, 0], position=[1, 2, 3, 4, 5, 6])
        assert [training.train[user].tolist() for user in (0, 1)] == [[4, 2, 1], [0, 3]]
        assert [training.sequences[user].tolist() for user in (0, 1)] == [[2, 1, 4], [3, 0]]

    def test_by_position_where_times_are_incomplete(self, tmp_path: Path) -> None:
        training = self.made(tmp_path, timestamp=[30, 5, np.nan, 20, 1, 0], position=[2, 1, 1, 0, 0, 9])
        assert [training.sequences[user].tolist() for user in (0, 1)] == [[1, 2, 4], [3, 0]]

    def test_unknown(self, tmp_path: Path) -> None:
        training = self.made(tmp_path)
        with pytest.raises(DataError, match="a timestamp or a position"):
            SequenceBatches(training, 4)
