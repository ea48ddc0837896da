"""Batches of the rows of a row dataset."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mmrec.data.rows.table import RowBatch, RowData


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
