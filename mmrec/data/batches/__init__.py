"""Training batches, of pairs, of whole users, of sequences, of sets or of rows: vectorised, a function of seed and epoch."""

from __future__ import annotations

from typing import Any

from mmrec.data.batches.pairs import NegativeSampler, PairBatch, PairBatches
from mmrec.data.batches.rows import RowBatches
from mmrec.data.batches.sequences import (
    HistoryBatch,
    HistoryBatches,
    HistoryPairBatches,
    SequenceBatch,
    SequenceBatches,
    SequencePairBatches,
    last_items,
)
from mmrec.data.batches.sets import SetBatch, SetBatches, some_items
from mmrec.data.batches.users import UserBatch, UserBatches

__all__ = [
    "BATCHES",
    "Batches",
    "HistoryBatch",
    "HistoryBatches",
    "HistoryPairBatches",
    "NegativeSampler",
    "PairBatch",
    "PairBatches",
    "RowBatches",
    "SequenceBatch",
    "SequenceBatches",
    "SequencePairBatches",
    "SetBatch",
    "SetBatches",
    "UserBatch",
    "UserBatches",
    "last_items",
    "make_batches",
    "some_items",
]

Batches = RowBatches | PairBatches | UserBatches | SequenceBatches | HistoryBatches | SetBatches
BATCHES: dict[str, type[Batches]] = {
    "pairs": PairBatches,
    "users": UserBatches,
    "sequences": SequenceBatches,
    "sequence-pairs": SequencePairBatches,
    "histories": HistoryBatches,
    "history-pairs": HistoryPairBatches,
    "sets": SetBatches,
    "rows": RowBatches,
}


def make_batches(model: Any, data: Any, batch_size: int) -> Batches:
    """The batches that a model asks for by ``model.batches``.

    Those of sequences end at ``model.max_length``; those of sets show ``model.max_items`` for ``model.targets``.
    """
    kind = BATCHES[model.batches]
    if issubclass(kind, SetBatches):
        return kind(data, batch_size, model.max_items, model.targets)
    if issubclass(kind, SequenceBatches | HistoryBatches):
        return kind(data, batch_size, model.max_length)
    return kind(data, batch_size)
