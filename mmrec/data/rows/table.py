"""What a ranker sees: fields of rows and of items, batches of encoded rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from mmrec.codes.table import CodeTable
    from mmrec.encode.features import FeatureTable

PADDING = 0  # the id of what is missing, in every field


@dataclass(frozen=True)
class RowField:
    """An encoded field.

    Attributes:
        name: Column name.
        kind: ``category``: one id; ``tags``: several ids; ``number``: a float.
        size: How many ids there are: 0 is :data:`PADDING`, the last one stands for all values outside the vocabulary.
            0 for a number.
    """

    name: str
    kind: Literal["category", "tags", "number"]
    size: int = 0


@dataclass(frozen=True)
class HistoryField:
    """A history: ids of the item field, oldest first.

    Attributes:
        name: Column name.
        length: Most ids of a row; the latest are kept.
    """

    name: str
    length: int


@dataclass(frozen=True)
class RowBatch:
    """Some rows.

    Attributes:
        values: By field: ids ``(b,)`` of a category, ids ``(b, t)`` of tags and of a history, padded at the end with
            :data:`PADDING`, values ``(b,)`` of a number. Ids are int64, numbers float32.
        labels: ``(b,)`` float32, 0 or 1.
    """

    values: Mapping[str, Tensor]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> RowBatch:
        """Copy to a device."""
        return RowBatch(
            {name: value.to(device) for name, value in self.values.items()}, self.labels.to(device)
        )


class Rows(Protocol):
    """A part of a row dataset, or a table in memory."""

    def __len__(self) -> int: ...

    def batches(
        self, batch_size: int, generator: torch.Generator | None = None, first: int = 0
    ) -> Iterator[RowBatch]:
        """All rows once, from batch number ``first`` on; the last batch may be short.

        Args:
            batch_size: Rows per batch.
            generator: Decides the order alone; the order of the table if None.
            first: Batches to pass over, which cost (nearly) nothing.
        """
        ...

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """``(n,)`` which group (user, session) a row belongs to; None where there are no groups."""
        ...

    @property
    def labels(self) -> NDArray[np.int8]:
        """``(n,)`` 0 or 1."""
        ...


@dataclass(frozen=True, eq=False)
class RowData:
    """All that a ranker may see: its fields, the items' side of them, and the training rows.

    Attributes:
        fields: Fields of a row, the item field (:attr:`item`) among them, without histories.
        item: Which field of kind ``category`` says what item the row is about; None where rows are about no item.
        histories: Histories of a row; they hold ids of the item field.
        item_fields: Fields of an item beside its id.
        item_values: By item field ``(size of the item field,)`` ids or numbers, or ``(size, t)`` ids of tags padded
            with :data:`PADDING`; row 0 (no item) and the last one (an unknown item) hold only padding. Gathered by id
            on the device, so that rows carry ids only.
        item_rows: ``(size of the item field,)`` the row of an item in features and codes; -1 where it has none.
        features: Frozen vectors of the items by modality.
        codes: Semantic IDs of the items by source: each level is one more category of the item.
        train: The training rows.
    """

    fields: tuple[RowField, ...]
    train: Rows
    item: str | None = None
    histories: tuple[HistoryField, ...] = ()
    item_fields: tuple[RowField, ...] = ()
    item_values: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    item_rows: NDArray[np.int64] | None = None
    features: Mapping[str, FeatureTable] = field(default_factory=dict)
    codes: Mapping[str, CodeTable] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Lists:
    """Lists of different lengths end to end.

    Attributes:
        values: All entries.
        offsets: ``(n + 1,)`` list j is ``values[offsets[j]:offsets[j + 1]]``.
    """

    values: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> Lists:
        """From Python's lists."""
        lengths = [len(one) for one in lists]
        values = np.fromiter((value for one in lists for value in one), dtype=np.int32, count=sum(lengths))
        return cls(values, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    def padded(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Some lists ``(len(rows), longest)``, padded at the end; at least one column wide."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        columns = np.arange(max(int(lengths.max(initial=0)), 1))
        inside = columns < lengths[:, None]
        block = np.full(inside.shape, PADDING, dtype=np.int64)
        block[inside] = self.values[(starts[:, None] + columns)[inside]]
        return block


@dataclass(frozen=True, eq=False)
class RowTable:
    """Encoded rows in memory.

    Attributes:
        columns: By field an array ``(n,)`` or lists.
        labels: ``(n,)`` 0 or 1.
        groups: ``(n,)``, or None.
    """

    columns: Mapping[str, NDArray[np.generic] | Lists]
    labels: NDArray[np.int8]
    groups: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> RowBatch:
        """Some rows as a batch."""
        values = {}
        for name, column in self.columns.items():
            block: NDArray[np.generic] = column.padded(rows) if isinstance(column, Lists) else column[rows]
            number = np.issubdtype(block.dtype, np.floating)
            values[name] = torch.from_numpy(block.astype(np.float32 if number else np.int64, copy=False))
        return RowBatch(values, torch.from_numpy(self.labels[rows].astype(np.float32)))

    def batches(
        self, batch_size: int, generator: torch.Generator | None = None, first: int = 0
    ) -> Iterator[RowBatch]:
        """See :class:`Rows`."""
        n = len(self)
        order = np.arange(n) if generator is None else torch.randperm(n, generator=generator).numpy()
        for start in range(first * batch_size, n, batch_size):
            yield self.take(order[start : start + batch_size])
