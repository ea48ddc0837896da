from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.data.dataset import Dataset
from mmrec.data.importers import import_dataset
from mmrec.data.split import (
    leave_out_unknown_users,
    split,
    split_cold_item,
    split_given,
    split_leave_one_out,
    split_random,
    split_random_rows,
    split_temporal,
)
from mmrec.errors import ConfigError, DataError
from tests.shared import shared_data
from tests.worlds import write_dataset

# Eleven interactions: user 0 has five, user 1 three, user 2 two, user 3 one; user 1 has a tie at time 40.
USERS = np.array([0, 0, 1, 0, 2, 1, 0, 1, 2, 3, 0])
ITEMS = np.array([0, 1, 0, 2, 0, 1, 3, 2, 1, 0, 4])
TIMES = np.array([50, 10, 40, 30, 70, 20, 20, 40, 60, 80, 40])
LATER = np.array([90, 10, 40, 30, 70, 20, 20, 40, 66, 80, 65])  # user 0 stays, users 2 and 3 come late
LABELS = np.array([0, 0, 1, 0, 0, 0, 0, 2, 0, -1, 2])


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def table(tmp_path: Path, **columns: np.ndarray) -> Dataset:
    return write_dataset(tmp_path / "eleven", {"user": USERS, "item": ITEMS, **columns})


def stored_labels(dataset: Dataset, name: str = "default") -> np.ndarray:
    return pd.read_parquet(dataset.path / "splits" / f"{name}.parquet")["label"].to_numpy()


class TestElevenRows:
    def test_given(self) -> None:
        assert split_given(LABELS).tolist() == LABELS.tolist()
        with_gaps = np.where(LABELS == -1, np.nan, LABELS)
        assert split_given(with_gaps).tolist() == LABELS.tolist()

    def test_given_refuses_other_values(self) -> None:
        with pytest.raises(DataError, match=r"3 in row 2 .* 1 such rows"):
            split_given(np.array([0, 1, 3]))

    def test_leave_one_out_in_file_order_of_ties(self) -> None:
        # user 0 by time: rows 1, 6, 3, 10, 0; user 1: rows 5, 2, 7 (tie of 2 and 7: file order); 2 and 3 train only
        labels = split_leave_one_out(USERS, TIMES, generator(), ties="file")
        assert labels.tolist() == [2, 0, 1, 0, 0, 0, 0, 2, 0, 0, 1]

    def test_leave_one_out_shuffles_ties_only(self) -> None:
        seen = {tuple(split_leave_one_out(USERS, TIMES, generator(seed)).tolist()) for seed in range(20)}
        assert seen == {(2, 0, 1, 0, 0, 0, 0, 2, 0, 0, 1), (2, 0, 2, 0, 0, 0, 0, 1, 0, 0, 1)}

    def test_random_holds_out_one_and_one(self) -> None:
        labels = split_random(USERS, generator())
        for user, expected in {0: [3, 1, 1], 1: [1, 1, 1], 2: [2, 0, 0], 3: [1, 0, 0]}.items():
            assert np.bincount(labels[user == USERS], minlength=3).tolist() == expected

    def test_random_rows(self) -> None:
        labels = split_random_rows(1000, np.random.default_rng(0), 0.1, 0.25)
        assert np.bincount(labels).tolist() == [650, 100, 250]
        assert 10 < (labels[:100] == 2).sum() < 40  # anywhere
        assert (labels != split_random_rows(1000, np.random.default_rng(1), 0.1, 0.25)).any()

    def test_temporal(self) -> None:
        # sorted: 10 20 20 30 40 40 40 50 60 70 80; shares 0.2 and 0.2 cut nearest to 6.6 and 8.8 of 11
        labels = split_temporal(TIMES, 0.2, 0.2)
        assert labels.tolist() == [1, 0, 0, 0, 2, 0, 0, 0, 1, 2, 0]

    def test_temporal_never_leaves_a_part_empty(self) -> None:
        assert split_temporal(np.array([1, 2, 3]), 0.01, 0.01).tolist() == [0, 1, 2]
        assert (
            split_temporal(np.array([1, 1, 1, 1, 1, 2, 3, 3, 3]), 0.1, 0.8).tolist()
            == [0] * 5 + [1] + [2] * 3
        )

    def test_temporal_needs_three_moments(self) -> None:
        with pytest.raises(DataError, match="three distinct timestamps"):
            split_temporal(np.array([1, 1, 2]))

    def test_cold_item(self) -> None:
        labels = split_cold_item(ITEMS, generator(), 0.2, 0.4)  # five items: one to validation, two to test
        parts = [set(ITEMS[labels == part].tolist()) for part in range(3)]
        assert [len(part) for part in parts] == [2, 1, 2]
        assert set.union(*parts) == {0, 1, 2, 3, 4}

    def test_users_without_training_are_left_out(self) -> None:
        labels = np.array([0, 0, 0, 1, 2, 2, 0, 0, 1, 2, 2], dtype=np.int8)
        assert leave_out_unknown_users(labels, USERS).tolist() == [0, 0, 0, 1, -1, 2, 0, 0, -1, -1, 2]


@pytest.mark.parametrize(
    ("count", "valid", "test"),
    [(1, 0, 0), (2, 0, 0), (3, 1, 1), (9, 1, 1), (10, 1, 1), (14, 1, 1), (15, 1, 2), (20, 2, 2), (99, 9, 10)],
)
def test_rule_of_the_random_split(count: int, valid: int, test: int) -> None:
    labels = split_random(np.zeros(count, dtype=np.int64), generator())
    assert np.bincount(labels, minlength=3).tolist() == [count - valid - test, valid, test]


histories = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 12)), min_size=1, max_size=80)


class TestProperties:
    @given(histories, st.integers(0, 5))
    def test_random_is_a_function_of_the_seed(self, pairs: list[tuple[int, int]], seed: int) -> None:
        users = np.array(pairs)[:, 0]
        labels = split_random(users, generator(seed))
        assert labels.shape == users.shape
        assert np.isin(labels, (0, 1, 2)).all()
        assert np.array_equal(labels, split_random(users, generator(seed)))

    def test_other_seed_other_labels(self) -> None:
        users, items = np.repeat(np.arange(50), 12), np.tile(np.arange(12), 50)
        assert not np.array_equal(split_random(users, generator(1)), split_random(users, generator(2)))
        assert not np.array_equal(split_cold_item(items, generator(1)), split_cold_item(items, generator(3)))
        same_time = np.zeros(600)
        shuffled = [split_leave_one_out(users, same_time, generator(seed)) for seed in (1, 1, 2)]
        assert np.array_equal(shuffled[0], shuffled[1])
        assert not np.array_equal(shuffled[0], shuffled[2])

    @given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.randoms(use_true_random=False))
    def test_leave_one_out_ignores_the_order_of_rows(self, users_list: list[int], random: object) -> None:
        users = np.array(users_list)
        rng = generator(len(users))
        times, rows = rng.permutation(len(users)), rng.permutation(len(users))
        labels = split_leave_one_out(users, times, generator(1))
        assert np.array_equal(labels[rows], split_leave_one_out(users[rows], times[rows], generator(2)))

    @given(st.lists(st.integers(-5, 30), min_size=3, max_size=80), st.floats(0.05, 0.4), st.floats(0.05, 0.4))
    def test_temporal_parts_follow_each_other(self, moments: list[int], valid: float, test: float) -> None:
        times = np.array([*moments, 100, 101, 102])
        labels = split_temporal(times, valid, test)
        assert set(labels.tolist()) == {0, 1, 2}
        assert times[labels == 0].max() < times[labels == 1].min()
        assert times[labels == 1].max() < times[labels == 2].min()

    @settings(max_examples=50)
    @given(histories, st.integers(0, 5))
    def test_withheld_items_are_never_in_training(self, pairs: list[tuple[int, int]], seed: int) -> None:
        items = np.array([*(item for _, item in pairs), 20, 21, 22])
        labels = split_cold_item(items, generator(seed), 0.2, 0.2)
        parts = [set(items[labels == part].tolist()) for part in range(3)]
        assert all(parts)
        assert sum(len(part) for part in parts) == len(np.unique(items))

    def test_thirty_five_thousand_users_take_no_time(self) -> None:
        rng = generator()
        users, items = rng.integers(0, 35_598, 296_337), rng.integers(0, 18_357, 296_337)
        times = rng.integers(0, 5_000, 296_337)
        start = time.process_time()
        split_random(users, rng)
        split_leave_one_out(users, times, rng)
        split_temporal(times)
        split_cold_item(items, rng)
        assert time.process_time() - start < 2.0  # four protocols; a loop per user takes longer than that


class TestDataset:
    def test_random_is_written_and_read_back(self, tmp_path: Path) -> None:
        dataset = table(tmp_path)
        made = split(dataset, seed=3)
        assert made.manifest["protocol"] == "random"
        assert made.manifest["seed"] == 3
        assert made.manifest["counts"] == {"train": 7, "valid": 2, "test": 2, "out": 0}
        assert dataset.split().hash == made.hash == split(dataset, seed=3).hash

    def test_other_labels_replace_only_when_asked(self, tmp_path: Path) -> None:
        dataset = table(tmp_path, timestamp=LATER)
        split(dataset)
        with pytest.raises(DataError, match="with other labels"):
            split(dataset, "temporal", valid=0.3, test=0.2)
        made = split(dataset, "temporal", valid=0.3, test=0.2, overwrite=True)
        assert made.manifest["options"] == {"valid": 0.3, "test": 0.2}
        assert made.manifest["seed"] is None

    def test_given(self, tmp_path: Path) -> None:
        dataset = table(tmp_path, label=LABELS)
        split(dataset, "given")
        assert stored_labels(dataset).tolist() == LABELS.tolist()

    def test_given_needs_labels(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"column label.*\n.*user, item.*\n.*--protocol random"):
            split(table(tmp_path), "given")

    def test_leave_one_out_prefers_times_to_positions_to_rows(self, tmp_path: Path) -> None:
        backwards = np.arange(11)[::-1]
        for order, columns, expected in [
            ("timestamp", {"timestamp": TIMES, "position": backwards}, [2, 0, 1, 0, 0, 0, 0, 2, 0, 0, 1]),
            ("position", {"position": backwards}, [2, 1, 2, 0, 0, 1, 0, 0, 0, 0, 0]),
            ("file", {}, [0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 2]),
        ]:
            dataset = write_dataset(tmp_path / order, {"user": USERS, "item": ITEMS, **columns})
            made = split(dataset, "leave-one-out", ties="file")
            assert stored_labels(dataset).tolist() == expected
            assert made.manifest["options"]["order"] == order

    def test_order_known_in_part_is_refused(self, tmp_path: Path) -> None:
        times = np.where(TIMES == 40, np.nan, TIMES)
        with pytest.raises(DataError, match="3 of 11 interactions have none"):
            split(table(tmp_path, timestamp=times), "leave-one-out")

    def test_temporal_leaves_out_new_users(self, tmp_path: Path) -> None:
        dataset = table(tmp_path, timestamp=LATER)
        made = split(dataset, "temporal", valid=0.3, test=0.2)  # training ends at 40, validation at 70
        assert stored_labels(dataset).tolist() == [2, 0, 0, 0, -1, 0, 0, 0, -1, -1, 1]
        assert made.manifest["counts"] == {"train": 6, "valid": 1, "test": 1, "out": 3}

    @pytest.mark.parametrize("columns", [{}, {"timestamp": np.where(TIMES == 40, np.nan, TIMES)}])
    def test_temporal_needs_all_times(self, tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
        with pytest.raises(DataError, match=r"(11|3) of 11 interactions .*\n.*--protocol random"):
            split(table(tmp_path, **columns), "temporal")

    @pytest.mark.parametrize("protocol", ["random", "leave-one-out"])
    def test_cold_items_on_top(self, tmp_path: Path, protocol: str) -> None:
        rng = generator()
        pairs = rng.permutation(np.argwhere(rng.random((60, 30)) < 0.7))
        dataset = write_dataset(tmp_path / "shop", {"user": pairs[:, 0], "item": pairs[:, 1]})
        split(dataset, protocol, cold_items=0.2)
        labels = stored_labels(dataset)
        trained, checked, tested = (set(pairs[labels == part, 1].tolist()) for part in range(3))
        cold = set(pairs[:, 1].tolist()) - trained
        assert len(cold) == 6
        assert len(cold & checked) == len(cold & tested) == 3
        warm = ~np.isin(pairs[:, 1], list(cold))
        for user in range(60):  # the warm rows of each user follow the protocol as if they were all
            n = int((warm & (pairs[:, 0] == user)).sum())
            held_out = max(n // 5, 2) if protocol == "random" else 2
            assert np.isin(labels[warm & (pairs[:, 0] == user)], (1, 2)).sum() == held_out

    def test_cold_item_protocol(self, tmp_path: Path) -> None:
        dataset = write_dataset(
            tmp_path / "shop", {"user": np.repeat(np.arange(6), 5), "item": np.tile(np.arange(10), 3)}
        )
        made = split(dataset, "cold-item", valid=0.2, test=0.3)
        assert [len(np.unique(part.items)) for part in (made.train, made.valid, made.test)] == [5, 2, 3]

    def test_too_little_to_hold_out(self, tmp_path: Path) -> None:
        dataset = write_dataset(tmp_path / "few", {"user": [0, 0, 1], "item": [0, 1, 0]})
        with pytest.raises(DataError, match="3 train, 0 valid, 0 test"):
            split(dataset)

    @pytest.mark.parametrize(
        ("protocol", "options", "message"),
        [
            ("randomly", {}, "did you mean 'random'"),
            ("random", {"valid": 0.2}, r"valid = 0.2\n.*temporal or cold-item"),
            ("temporal", {"ties": "file"}, "leave-one-out"),
            ("leave-one-out", {"ties": "first"}, "'shuffle' or 'file'"),
            ("temporal", {"valid": 0.5, "test": 0.5}, "leave something for training"),
            ("random", {"cold_items": 1.0}, "cold_items"),
        ],
    )
    def test_unusable_options(
        self, tmp_path: Path, protocol: str, options: dict[str, object], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            split(table(tmp_path, timestamp=TIMES), protocol, **options)


class TestRealFiles:
    def test_random_rule_has_the_counts_of_the_published_split(self, tmp_path: Path) -> None:
        dataset = import_dataset(shared_data("amazon-baby"), tmp_path / "baby")
        published, made = dataset.split(), split(dataset, "random", name="random")
        assert made.manifest["counts"] == {"train": 118_551, "valid": 20_559, "test": 21_682, "out": 0}
        for part in ("train", "valid", "test"):  # the rule holds for every user, only the draws differ
            assert np.array_equal(getattr(made, part).counts, getattr(published, part).counts)
        assert made.hash != published.hash

    @pytest.mark.parametrize(("name", "n_users"), [("amazon-beauty", 22_363), ("amazon-scientific", 8_317)])
    def test_leave_one_out_gives_each_user_one_and_one(self, tmp_path: Path, name: str, n_users: int) -> None:
        dataset = import_dataset(shared_data(name), tmp_path / name)
        made = split(dataset, "leave-one-out")
        assert made.manifest["options"]["order"] == "position"
        assert made.hash == split(dataset, "leave-one-out", seed=1).hash  # positions have no ties to shuffle
        table = dataset.interactions.sort_values(["user", "position"])
        last_two = table.groupby("user")["item"].nth([-2, -1]).to_numpy().reshape(n_users, 2)
        assert np.array_equal(made.valid.items, last_two[:, 0])
        assert np.array_equal(made.test.items, last_two[:, 1])
        assert (made.valid.counts == 1).all()
        assert (made.test.counts == 1).all()

    def test_ties_in_seconds_change_few_targets(self, tmp_path: Path) -> None:
        dataset = import_dataset(shared_data("ml100k"), tmp_path / "ml100k")
        made = [
            split(dataset, "leave-one-out", name=f"{ties}{seed}", ties=ties, seed=seed)
            for ties, seed in (("file", 0), ("file", 1), ("shuffle", 0))
        ]
        assert made[0].hash == made[1].hash != made[2].hash
        newest = dataset.interactions.groupby("user")["timestamp"].max()
        for part in made:  # whatever the ties, the target is one of the user's newest
            pairs = pd.DataFrame({"user": np.arange(943), "item": part.test.items})
            times = pairs.merge(dataset.interactions, on=["user", "item"])["timestamp"].to_numpy()
            assert np.array_equal(times, newest.to_numpy())


def test_rows_of_users_unknown_to_training_may_be_kept(tmp_path: Path) -> None:
    users = np.array([0] * 12 + [1, 0, 1, 0])  # user 1 comes last
    columns = {"user": users, "item": np.arange(16), "timestamp": np.arange(16)}
    dataset = write_dataset(tmp_path / "late", columns)
    shares = {"valid": 0.125, "test": 0.125}
    split(dataset, "temporal", **shares)
    split(dataset, "temporal", name="all", unknown_users="keep", **shares)
    left, kept = stored_labels(dataset), stored_labels(dataset, "all")
    assert (kept >= 0).all() and (left == -1).any()
    assert (left[left >= 0] == kept[left >= 0]).all()
    assert dataset.split("all").manifest["options"]["unknown_users"] == "keep"
    assert "unknown_users" not in dataset.split().manifest["options"]
    with pytest.raises(ConfigError, match="temporal"):
        split(dataset, "leave-one-out", name="b", unknown_users="keep")
    with pytest.raises(ConfigError, match="'leave-out' or 'keep'"):
        split(dataset, "temporal", name="b", unknown_users="drop")
