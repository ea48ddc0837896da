"""The encoded rows of a part on disk: written group by group, read whole or group by group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pyarrow import parquet

from mmrec.data.rows.table import Lists, RowBatch, RowTable
from mmrec.data.rows.values import is_list, whole

GROUP_ROWS = 1 << 16  # rows of a row group


class PartWriter:
    """Writes rows in groups of one size, however they come.

    Attributes:
        rows: Rows so far.
        positives: Rows with label 1 so far.
        bytes: What they take in memory.
    """

    def __init__(self, path: Path, kinds: Any) -> None:
        self._writer = parquet.ParquetWriter(path, kinds)
        self._kinds = kinds
        self._waiting: list[Any] = []
        self._n_waiting = 0
        self.rows = self.positives = self.bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._n_waiting:
            self._flush(self._n_waiting)
        self._writer.close()

    def write(self, columns: Mapping[str, Any]) -> None:
        """Take some rows."""
        chunk = pa.table(columns, schema=self._kinds)
        self.rows += len(chunk)
        self.positives += int(chunk["label"].to_numpy().sum())
        self.bytes += chunk.nbytes
        self._waiting.append(chunk)
        self._n_waiting += len(chunk)
        if self._n_waiting >= GROUP_ROWS:
            self._flush(self._n_waiting // GROUP_ROWS * GROUP_ROWS)

    def _flush(self, n: int) -> None:
        table = pa.concat_tables(self._waiting).combine_chunks()
        self._writer.write_table(table.slice(0, n), row_group_size=GROUP_ROWS)
        rest = table.slice(n)
        self._waiting, self._n_waiting = [rest], len(rest)


def to_rows(table: Any) -> RowTable:
    """Encoded rows of an Arrow table."""
    columns: dict[str, NDArray[np.generic] | Lists] = {}
    for name in table.column_names:
        column = whole(table[name])
        if is_list(column.type):
            offsets = column.offsets.to_numpy().astype(np.int64)
            columns[name] = Lists(column.values.to_numpy(), offsets)
        else:
            columns[name] = column.to_numpy()
    labels = columns.pop("label")
    groups = columns.pop("group", None)
    assert isinstance(labels, np.ndarray) and not isinstance(groups, Lists)
    return RowTable(
        columns, labels.astype(np.int8, copy=False), None if groups is None else groups.astype(np.int64)
    )


class ParquetRows:
    """Rows of a Parquet file; see :class:`mmrec.data.rows.table.Rows`.

    Where they fit the budget they are read once. Else several row groups at a time are: shuffled rows come from groups in
    shuffled order, mixed in a buffer of as many groups as the budget allows, so that rows that lie far apart in the file
    meet in a batch, if not every two rows with the same probability.

    Args:
        path: The file.
        n_bytes: What all rows take in memory.
        budget: Most bytes to use.
    """

    def __init__(self, path: Path, n_bytes: int, budget: int) -> None:
        self.path, self._bytes, self._budget = path, n_bytes, budget

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """Rows of each group."""
        found = parquet.read_metadata(self.path)
        return np.array([found.row_group(i).num_rows for i in range(found.num_row_groups)], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._sizes.sum())

    @cached_property
    def table(self) -> RowTable:
        """All rows in memory."""
        return to_rows(parquet.read_table(self.path))

    @cached_property
    def labels(self) -> NDArray[np.int8]:
        """``(n,)`` 0 or 1."""
        return np.asarray(whole(parquet.read_table(self.path, columns=["label"])["label"]).to_numpy())

    @cached_property
    def groups(self) -> NDArray[np.int64] | None:
        """``(n,)``, or None."""
        if "group" not in parquet.read_schema(self.path).names:
            return None
        return np.asarray(whole(parquet.read_table(self.path, columns=["group"])["group"]).to_numpy())

    def batches(
        self, batch_size: int, generator: torch.Generator | None = None, first: int = 0
    ) -> Iterator[RowBatch]:
        """See :class:`mmrec.data.rows.table.Rows`."""
        if self._bytes <= self._budget:
            return self.table.batches(batch_size, generator, first)
        return self._streamed(batch_size, generator, first)

    def _streamed(self, batch_size: int, generator: torch.Generator | None, first: int) -> Iterator[RowBatch]:
        buffers, seeds = self._plan(generator)
        passed = first * batch_size
        waiting: list[Any] = []  # rows that fill no batch yet
        file = parquet.ParquetFile(self.path)
        for groups, seed in zip(buffers, seeds, strict=True):
            n = int(self._sizes[groups].sum())
            if passed >= n:
                passed -= n
                continue
            table = file.read_row_groups(groups)
            order = np.arange(n) if seed is None else _permutation(n, seed)
            n_waiting = sum(len(one) for one in waiting)
            table = pa.concat_tables([*waiting, table]).combine_chunks()
            order = np.concatenate([np.arange(n_waiting), n_waiting + order[passed:]])
            passed = 0
            n_full = len(order) // batch_size * batch_size
            rows = to_rows(table)
            for start in range(0, n_full, batch_size):
                yield rows.take(order[start : start + batch_size])
            waiting = [table.take(pa.array(order[n_full:]))]
        rest = pa.concat_tables(waiting).combine_chunks() if waiting else None
        if rest is not None and len(rest):
            yield to_rows(rest).take(np.arange(len(rest)))

    def _plan(self, generator: torch.Generator | None) -> tuple[list[Sequence[int]], list[int | None]]:
        """Which groups are read together, and the seed of the order within; only sizes are needed to pass them over."""
        n = len(self._sizes)
        per_group = self._bytes / n
        together = (
            1 if generator is None else max(1, int(self._budget // (2 * per_group)))
        )  # the last buffer lives on while one is read
        order = list(range(n)) if generator is None else torch.randperm(n, generator=generator).tolist()
        buffers = [order[start : start + together] for start in range(0, n, together)]
        if generator is None:
            return list(buffers), [None] * len(buffers)
        seeds: list[int | None] = torch.randint(2**62, (len(buffers),), generator=generator).tolist()
        return list(buffers), seeds


def _permutation(n: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(n)
