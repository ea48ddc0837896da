"""What are histories worth? The same rows with those of other rows, or without any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mmrec.data.rows.table import HistoryField, RowBatch, Rows
from mmrec.errors import ConfigError, did_you_mean

HistoryMode = Literal["true", "shuffled", "none"]


def with_histories(
    rows: Rows, histories: Sequence[HistoryField], mode: HistoryMode, *, seed: int = 0
) -> Rows:
    """Rows whose histories are the ``true`` ones, ``shuffled`` among all rows, or empty (``none``).

    Args:
        rows: The rows.
        histories: Their histories.
        mode: Which.
        seed: Of the shuffle.

    Raises:
        ConfigError: Another mode.
    """
    if mode not in ("true", "shuffled", "none"):
        raise ConfigError(
            "histories true, shuffled or none", repr(mode), did_you_mean(mode, ["true", "shuffled", "none"])
        )
    names = tuple(history.name for history in histories)
    if mode == "true" or not names:
        return rows
    return EmptyHistories(rows, names) if mode == "none" else ShuffledHistories(rows, names, seed)


@dataclass(frozen=True, eq=False)
class EmptyHistories:
    """Rows without their histories: the fields remain, so that every model runs, and hold padding."""

    rows: Rows
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def batches(
        self, batch_size: int, generator: torch.Generator | None = None, first: int = 0
    ) -> Iterator[RowBatch]:
        """See :class:`mmrec.data.rows.table.Rows`."""
        for batch in self.rows.batches(batch_size, generator, first):
            empty = {name: torch.zeros(len(batch), 1, dtype=torch.int64) for name in self.names}
            yield RowBatch({**batch.values, **empty}, batch.labels)

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """``(n,)``, or None."""
        return self.rows.groups

    @property
    def labels(self) -> NDArray[np.int8]:
        """``(n,)`` 0 or 1."""
        return self.rows.labels


@dataclass(frozen=True, eq=False)
class ShuffledHistories:
    """Rows with the histories of other rows: those of a second pass in an order of its own.

    Every row's histories go to one row in each pass, all histories of a row together. Which row that is, is drawn
    from the seed and the order of the first pass.
    """

    rows: Rows
    names: tuple[str, ...]
    seed: int

    def __len__(self) -> int:
        return len(self.rows)

    def batches(
        self, batch_size: int, generator: torch.Generator | None = None, first: int = 0
    ) -> Iterator[RowBatch]:
        """See :class:`mmrec.data.rows.table.Rows`."""
        others = torch.Generator().manual_seed(self.seed)
        pairs = zip(
            self.rows.batches(batch_size, generator, first),
            self.rows.batches(batch_size, others, first),
            strict=True,
        )
        for batch, other in pairs:
            strange = {name: other.values[name] for name in self.names}
            yield RowBatch({**batch.values, **strange}, batch.labels)

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """``(n,)``, or None."""
        return self.rows.groups

    @property
    def labels(self) -> NDArray[np.int8]:
        """``(n,)`` 0 or 1."""
        return self.rows.labels
