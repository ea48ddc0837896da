"""Rows of a dataset: histories hold the past alone, negatives are items that a user does not know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from mmrec.data.dataset import PARTS, Dataset
from mmrec.data.histories import Histories
from mmrec.data.importers.frames import from_frames
from mmrec.data.rows.candidates import CandidateRows
from mmrec.data.rows.catalogue import rows_from_dataset
from mmrec.data.rows.dataset import RowDataset
from mmrec.data.rows.examples import FreeItems
from mmrec.data.rows.table import Lists
from mmrec.data.split_files import write_split
from mmrec.encode.features import write_features
from mmrec.errors import ConfigError, DataError

N_USERS, N_ITEMS = 7, 12


def make_dataset(folder: Path, seed: int, *, timed: bool = True) -> Dataset:
    """Random ratings with many equal times, pairs that repeat, and a split that obeys no time."""
    rng = np.random.default_rng(seed)
    n = 150
    table = pd.DataFrame(
        {
            "user_id": [f"u{user}" for user in rng.integers(0, N_USERS, n)],
            "item_id": [f"i{item}" for item in rng.integers(0, N_ITEMS - 1, n)],
            "rating": rng.integers(1, 6, n),
            "timestamp": rng.integers(0, 12, n),
        }
    ).drop_duplicates(["user_id", "item_id"])
    items = pd.DataFrame(
        {
            "item_id": [f"i{item}" for item in range(N_ITEMS)],
            "genres": [", ".join(["A", "B", "C"][: 1 + item % 3]) for item in range(N_ITEMS)],
            "year": [1990 + item for item in range(N_ITEMS)],
            "title": [f"the {item}th of so many long titles" for item in range(N_ITEMS)],
        }
    )
    users = pd.DataFrame({"user_id": [f"u{u}" for u in range(N_USERS)], "city": list("xyxzxyz")})
    table = table if timed else table.drop(columns="timestamp")
    dataset = from_frames(table, items, users, to=folder)
    labels = rng.choice([0, 0, 0, 1, 2, -1], dataset.n_interactions)
    labels[:3] = [0, 1, 2]
    write_split(dataset, "default", labels, protocol="test", options={}, seed=None)
    return dataset


def ids_of(rows: RowDataset, part: str, name: str) -> list[list[int]]:
    column = rows.rows(part).table.columns[name]
    assert isinstance(column, Lists)
    return [column.values[a:b].tolist() for a, b in zip(column.offsets[:-1], column.offsets[1:], strict=True)]


def column_of(rows: RowDataset, part: str, name: str) -> NDArray[np.generic]:
    column = rows.rows(part).table.columns[name]
    assert isinstance(column, np.ndarray)
    return column


def naive_history(dataset: Dataset, row: int, code: int, length: int, *, positives: bool) -> list[int]:
    """What the user liked before, by looking at every interaction."""
    table, labels = dataset.interactions, dataset.split_labels()
    now = table.iloc[row]
    before = [
        (other.timestamp, place, other.item + 1)
        for place, other in enumerate(table.itertuples())
        if other.user == now["user"]
        and other.timestamp < now["timestamp"]
        and 0 <= labels[place] <= code
        and (other.rating >= 4 or not positives)
    ]
    return [int(item) for _, _, item in sorted(before)][-length:]


@pytest.mark.parametrize("history_of", ["positives", "all"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_history_is_what_came_strictly_before(tmp_path: Path, seed: int, history_of: str) -> None:
    dataset = make_dataset(tmp_path / "d", seed)
    rows = rows_from_dataset(
        dataset, tmp_path / "rows", label="rating >= 4", history=4, history_of=history_of, show_progress=False
    )
    lengths = set()
    for code, part in enumerate(PARTS):
        places = np.flatnonzero(dataset.split_labels() == code)
        table = dataset.interactions.iloc[places]
        found = ids_of(rows, part, "history")
        for row, history in zip(places, found, strict=True):
            assert history == naive_history(dataset, int(row), code, 4, positives=history_of == "positives")
        lengths |= set(map(len, found))
        assert rows.rows(part).labels.tolist() == (table["rating"] >= 4).astype(int).tolist()
        assert column_of(rows, part, "item_id").tolist() == (table["item"] + 1).tolist()
        groups = rows.rows(part).groups
        assert groups is not None and groups.tolist() == table["user"].tolist()
    assert {0, 4} <= lengths  # the first rows of a user have none, and some are cut


def test_the_future_gives_nothing_away(tmp_path: Path) -> None:
    """What a user did at the moment of the last row, or after it, would give all the user's labels away."""
    steps = [
        {"user_id": user, "item_id": f"i{step}", "rating": 5 * (user % 2), "timestamp": step}
        for user in range(20)
        for step in range(5)
    ]
    answers = [
        {"user_id": user, "item_id": f"answer{user % 2}", "rating": 5, "timestamp": 4 + user // 10}
        for user in range(20)
    ]
    dataset = from_frames(pd.DataFrame(steps + answers), to=tmp_path / "d")
    labels = np.arange(dataset.n_interactions) % 3
    write_split(dataset, "default", labels, protocol="test", options={}, seed=None)
    rows = rows_from_dataset(
        dataset, tmp_path / "rows", label="rating>=4", history_of="all", show_progress=False
    )
    giveaways = {dataset.item(f"answer{k}") + 1 for k in range(2)}
    histories = [history for part in PARTS for history in ids_of(rows, part, "history")]
    assert any(histories) and not any(giveaways & set(history) for history in histories)


def test_negatives_are_unknown_to_their_user_and_uniform(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d", 0)
    rows = rows_from_dataset(dataset, tmp_path / "rows", negatives=3, history=4, show_progress=False)
    known = set(zip(dataset.interactions["user"], dataset.interactions["item"] + 1, strict=True))
    for part in PARTS:
        one = rows.rows(part)
        assert one.labels.tolist() == [1, 0, 0, 0] * (len(one) // 4)
        assert one.groups is not None
        pairs = list(zip(one.groups.tolist(), column_of(rows, part, "item_id").tolist(), strict=True))
        for label, pair in zip(one.labels, pairs, strict=True):
            assert (pair in known) == bool(label)
        histories = ids_of(rows, part, "history")
        assert all(histories[row] == histories[row // 4 * 4] for row in range(len(histories)))


def test_free_items_are_drawn_with_one_probability() -> None:
    taken = FreeItems.of(np.array([0, 0, 0, 2]), np.array([0, 3, 3, 5]), n_users=3, n_items=6)
    drawn = taken.draw(np.repeat([0, 1, 2], 6000), np.random.default_rng(0)).reshape(3, -1)
    for user, free in enumerate(([1, 2, 4, 5], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4])):
        values, counts = np.unique(drawn[user], return_counts=True)
        assert values.tolist() == free
        expected = 6000 / len(free)
        assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()
    with pytest.raises(DataError, match="all 1 items"):
        FreeItems.of(np.array([0]), np.array([0]), 1, 1).draw(np.array([0]), np.random.default_rng(0))


def test_items_carry_their_attributes_and_the_catalogues_features(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d", 0)
    vectors = np.random.default_rng(0).normal(size=(N_ITEMS, 3)).astype(np.float32)
    write_features(dataset.path / "features" / "given", "text", vectors, np.ones(N_ITEMS, dtype=bool), {})
    rows = rows_from_dataset(dataset, tmp_path / "rows", label=("rating", ">=", 4), show_progress=False)
    data = rows.training_data(rows.split(), {"text": "given"})
    assert [field.name for field in data.fields] == ["user_id", "city", "item_id"]
    assert {field.name: field.kind for field in data.item_fields} == {"genres": "tags", "year": "category"}
    assert data.item == "item_id" and [one.name for one in data.histories] == ["history"]
    size = data.fields[2].size
    assert size == N_ITEMS + 2 and data.item_rows is not None
    assert data.item_rows.tolist() == [-1, *range(N_ITEMS), -1]
    assert np.array_equal(data.features["text"].vectors, vectors) and rows.feature_names() == ["given"]
    genres = data.item_values["genres"]
    assert (genres != 0).sum(1).tolist() == [0, *(1 + item % 3 for item in range(N_ITEMS)), 0]
    (tmp_path / "d").rename(tmp_path / "old")
    from_frames(pd.DataFrame({"user_id": [1], "item_id": [2]}), to=tmp_path / "d")
    with pytest.raises(DataError, match="another one in"):
        _ = RowDataset(tmp_path / "rows").catalogue


def test_candidates_are_encoded_as_rows_were(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d", 3)
    rows = rows_from_dataset(dataset, tmp_path / "rows", label="rating>=4", history=3, show_progress=False)
    part = rows.rows("test").table
    assert part.groups is not None
    users, items = part.groups, column_of(rows, "test", "item_id").astype(np.int64) - 1
    liked = Histories.from_pairs(np.repeat(np.arange(N_USERS), 5), np.tile(np.arange(5), N_USERS), N_USERS)
    candidates = CandidateRows.of(rows)
    made = candidates.rows(users, items, liked)
    assert list(made.columns) == list(part.columns) and made.groups is not None
    assert np.array_equal(made.groups, users)
    for name, column in part.columns.items():
        other = made.columns[name]
        if isinstance(column, np.ndarray):
            assert np.array_equal(column, other)
        else:
            assert isinstance(other, Lists)
            assert other.padded(np.arange(len(made))).tolist() == [[3, 4, 5]] * len(
                made
            )  # the latest, as ids
    assert made.take(np.arange(2)).values["history"].tolist() == [[3, 4, 5]] * 2
    later = candidates.rows(users[:2], np.array([N_ITEMS - 1, N_ITEMS + 5]), liked).columns["item_id"]
    assert isinstance(later, np.ndarray) and later.tolist() == [N_ITEMS, N_ITEMS + 1]  # the unknown item
    with pytest.raises(DataError, match="a history for each of the 7 users"):
        candidates.rows(users, items)


def test_what_cannot_be_made(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d", 0, timed=False)
    with pytest.raises(DataError, match="--history 0"):
        rows_from_dataset(dataset, tmp_path / "rows", label="rating>=4")
    for options in ({}, {"label": "rating>=4", "negatives": 2}):
        with pytest.raises(ConfigError, match="either a label or a number of negatives"):
            rows_from_dataset(dataset, tmp_path / "rows", history=0, **options)
    with pytest.raises(ConfigError, match="of kind text"):
        rows_from_dataset(dataset, tmp_path / "rows", label="rating>=4", history=0, item_fields=["title"])
    with pytest.raises(DataError, match="did you mean 'rating'"):
        rows_from_dataset(dataset, tmp_path / "rows", label="ratin>=4", history=0)
    assert not (tmp_path / "rows").exists()
    rows = rows_from_dataset(dataset, tmp_path / "rows", label="rating>=4", history=0, show_progress=False)
    assert rows.histories == ()
