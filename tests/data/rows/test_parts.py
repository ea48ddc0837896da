"""Rows from disk: the same as in memory, each once, whatever is passed over; and histories for comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mmrec.data.rows import parts
from mmrec.data.rows.histories import with_histories
from mmrec.data.rows.parts import ParquetRows, PartWriter
from mmrec.data.rows.table import HistoryField, RowBatch, Rows
from mmrec.errors import ConfigError

N = 203


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Row i holds the number i, and the history i + 1 a few times; written in uneven chunks of eleven groups and a bit."""
    monkeypatch.setattr(parts, "GROUP_ROWS", 18)
    kinds = pa.schema(
        {"x": pa.float32(), "history": pa.list_(pa.int32()), "label": pa.int8(), "group": pa.int64()}
    )
    with PartWriter(tmp_path / "x.parquet", kinds) as writer:
        for rows in np.split(np.arange(N), [1, 7, 90, 91, 140]):
            writer.write(
                {
                    "x": pa.array(rows, pa.float32()),
                    "history": pa.array(
                        [[int(row) + 1] * int(row % 3) for row in rows], pa.list_(pa.int32())
                    ),
                    "label": pa.array(rows % 2, pa.int8()),
                    "group": pa.array(rows // 10, pa.int64()),
                }
            )
    assert (writer.rows, writer.positives) == (N, N // 2)
    return tmp_path / "x.parquet"


def same(one: RowBatch, other: RowBatch) -> bool:
    return torch.equal(one.labels, other.labels) and all(
        torch.equal(one.values[name], other.values[name]) for name in one.values
    )


def check_rows(batches: list[RowBatch], size: int) -> list[int]:
    """The numbers of the rows, after looking at every row."""
    assert [len(batch) for batch in batches] == [size] * (N // size) + [N % size] * (N % size > 0)
    numbers = torch.cat([batch.values["x"] for batch in batches]).long().tolist()
    assert sorted(numbers) == list(range(N))
    for batch in batches:
        assert torch.equal(batch.labels, batch.values["x"] % 2)
        histories = batch.values["history"].tolist()
        for number, history in zip(batch.values["x"].long().tolist(), histories, strict=True):
            assert [one for one in history if one] == [number + 1] * (number % 3)
    return [int(number) for number in numbers]


@pytest.mark.parametrize("budget", [10**9, 4000, 1])  # all at once, some groups together, one group at a time
@pytest.mark.parametrize("size", [1, 16, 50, 500])
def test_every_row_once_and_passing_over_changes_nothing(file: Path, budget: int, size: int) -> None:
    rows = ParquetRows(file, n_bytes=8000, budget=budget)
    assert check_rows(list(rows.batches(size)), size) == list(range(N))

    def shuffled(seed: int, first: int = 0) -> list[RowBatch]:
        return list(rows.batches(size, torch.Generator().manual_seed(seed), first))

    whole = shuffled(0)
    order = check_rows(whole, size)
    assert order != list(range(N)) and check_rows(shuffled(1), size) != order
    for first in {0, 1, len(whole) // 2, len(whole) - 1, len(whole), len(whole) + 3}:
        later = shuffled(0, first)
        assert len(later) == max(len(whole) - first, 0)
        assert all(same(a, b) for a, b in zip(whole[first:], later, strict=True))
        plain = list(rows.batches(size, None, first))
        assert sum(map(len, plain)) == max(N - first * size, 0)


def test_streamed_rows_are_mixed_over_several_groups(file: Path) -> None:
    """In a buffer of five groups, a batch has rows of more than two of them."""
    rows = ParquetRows(file, n_bytes=8000, budget=8000 * 10 // 12)
    batch = next(rows.batches(16, torch.Generator().manual_seed(0)))
    assert len({int(x) // 18 for x in batch.values["x"]}) > 2


def test_few_groups_are_read_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = parts.parquet.ParquetFile.read_row_groups

    def spy(self: Any, groups: list[int], *args: Any, **kwargs: Any) -> Any:
        read.append(len(groups))
        return original(self, groups, *args, **kwargs)

    monkeypatch.setattr(parts.parquet.ParquetFile, "read_row_groups", spy)
    rows = ParquetRows(file, n_bytes=8000, budget=4000)
    list(rows.batches(16, torch.Generator().manual_seed(0)))
    assert read == [3, 3, 3, 3]  # half the budget, as the last buffer lives on while the next one is read
    read.clear()
    list(rows.batches(16, torch.Generator().manual_seed(0), first=11))
    assert read == [3]  # what is passed over is not read


def test_labels_and_groups_read_their_column_alone(file: Path) -> None:
    rows = ParquetRows(file, n_bytes=8000, budget=1)
    assert len(rows) == N
    assert rows.labels.tolist() == [row % 2 for row in range(N)] and rows.labels.dtype == np.int8
    assert rows.groups is not None and rows.groups.tolist() == [row // 10 for row in range(N)]
    assert "table" not in vars(rows)


@pytest.mark.parametrize("budget", [10**9, 4000])
def test_shuffled_and_empty_histories(file: Path, budget: int) -> None:
    rows: Rows = ParquetRows(file, n_bytes=8000, budget=budget)
    fields = [HistoryField("history", 5)]
    assert with_histories(rows, fields, "real") is rows
    empty = with_histories(rows, fields, "none")
    assert all(not batch.values["history"].any() for batch in empty.batches(50))
    shuffled = with_histories(rows, fields, "shuffled", seed=3)
    owners, moved = [], 0
    for batch in shuffled.batches(50):
        for number, history in zip(batch.values["x"].long(), batch.values["history"], strict=True):
            real = [int(one) for one in history if one]
            owners += real[:1]
            moved += bool(real) and real[0] != int(number) + 1
    assert sorted(owners) == [row + 1 for row in range(N) if row % 3]  # each history goes to one row
    assert moved > 100
    whole = list(shuffled.batches(30, torch.Generator().manual_seed(0)))
    later = list(shuffled.batches(30, torch.Generator().manual_seed(0), first=3))
    assert all(same(a, b) for a, b in zip(whole[3:], later, strict=True))
    assert np.array_equal(shuffled.labels, rows.labels) and len(shuffled) == len(empty) == N
    with pytest.raises(ConfigError, match="did you mean 'shuffled'"):
        with_histories(rows, fields, "shufled")
