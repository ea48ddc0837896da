"""SASRec: self-attention over the items of a history."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mmrec.attention import CausalEncoder, item_rows
from mmrec.data.batches import HistoryBatch
from mmrec.data.dataset import TrainingData
from mmrec.models.contracts import Vectors
from mmrec.models.sequence.next_item import NextItemLoss, SequenceConfig, batch_kind, sequence_vectors


class Config(SequenceConfig):
    """Hyper-parameters of SASRec."""

    blocks: int = Field(2, ge=1, description="attention blocks")
    heads: int = Field(1, ge=1, description="attention heads, a divisor of dim")

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.dim % self.heads:
            raise ValueError(f"heads must divide dim: {self.dim} / {self.heads}")
        return self


class SASRec(nn.Module):
    """``s(u, i) = f_t · m_i`` with the state f_t after a user's last item and the item vectors M that it read.

    The input is ``sqrt(d) m_i`` plus a position counted from the end, through the blocks of
    :class:`mmrec.attention.CausalEncoder`. Every item of a history predicts the next one in one pass. The published
    loss is ``bce``; ``ce`` over the whole catalogue is the better one by far and the default
    (:class:`mmrec.models.sequence.next_item.NextItemLoss`).

    A user without items has a zero vector: all scores are equal.

    Source: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "histories"
    modalities: ClassVar = "none"
    cold_items: ClassVar = False

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config, self.max_length, self.batches = config, config.max_length, batch_kind(config)  # type: ignore[misc]
        self.items = nn.Parameter(nn.init.xavier_normal_(torch.empty(data.n_items, config.dim)))
        self.encoder = CausalEncoder(
            config.dim, config.blocks, config.heads, config.max_length, config.dropout
        )
        counts = np.bincount(data.sequences.items, minlength=data.n_items)
        self.next_item = NextItemLoss(config, torch.from_numpy(counts))

    def _encode(self, items: Tensor) -> Tensor:
        rows = item_rows(self.items, items) * self.config.dim**0.5
        states: Tensor = self.encoder(rows, items)
        return states

    def loss(self, batch: HistoryBatch) -> dict[str, Tensor]:
        """The loss over all next items of a batch."""
        return {self.config.loss: self.next_item(self._encode(batch.items), self.items, batch)}

    def vectors(self) -> Vectors:
        """Item vectors ``(n_items, dim)``, and the states after the last item."""
        return sequence_vectors(self._encode, self.items, self.max_length)
