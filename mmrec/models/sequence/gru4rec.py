"""GRU4Rec: a recurrent network over the items of a history."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from mmrec import losses
from mmrec.attention import item_rows
from mmrec.data.batches import HistoryBatch
from mmrec.data.dataset import TrainingData
from mmrec.models.contracts import Vectors
from mmrec.models.sequence.next_item import NextItemLoss, SequenceConfig, batch_kind, sequence_vectors
from mmrec.nn import dropout


class Config(SequenceConfig):
    """Hyper-parameters of GRU4Rec."""

    dropout: float = Field(0.3, ge=0, lt=1, description="share of values of the input left out in training")
    hidden: int = Field(128, ge=1, description="width of the recurrent state")
    layers: int = Field(1, ge=1, description="recurrent layers")
    loss: Literal["ce", "sampled", "bce", "bpr-max"] = Field(  # type: ignore[assignment]
        "ce", description="as in other models of next items, or BPR-max over sampled items"
    )
    score_reg: float = Field(1.0, ge=0, description="weight of the score regularisation of bpr-max")


class GRU4Rec(nn.Module):
    """``h_t = GRU(m_t, h_{t-1})``, ``s(u, i) = (W h_t + b) · m_i`` with tied item vectors M.

    ``z = σ(W_z m + U_z h)``, ``r = σ(W_r m + U_r h)``, ``n = tanh(W_n m + r ⊙ U_n h)``, ``h <- (1 - z) n + z h``. Every
    item of a history predicts the next one. A user without items has a zero vector.

    Departs from the paper in whole histories instead of session-parallel batches, as its later users do, and in the
    loss, by default cross-entropy over the catalogue (:class:`mmrec.models.sequence.next_item.NextItemLoss`);
    ``bpr-max`` is that of the second paper over ``negatives`` sampled items.

    Source: Hidasi, Karatzoglou, Baltrunas, Tikk, "Session-based Recommendations with Recurrent Neural Networks", ICLR
    2016; Hidasi and Karatzoglou, "Recurrent Neural Networks with Top-k Gains", CIKM 2018.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "histories"
    modalities: ClassVar = "none"
    cold_items: ClassVar = False

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config, self.max_length, self.batches = config, config.max_length, batch_kind(config)  # type: ignore[misc]
        self.items = nn.Parameter(nn.init.xavier_normal_(torch.empty(data.n_items, config.dim)))
        self.gru = nn.GRU(config.dim, config.hidden, config.layers, batch_first=True)
        self.out = nn.Linear(config.hidden, config.dim)
        counts = np.bincount(data.sequences.items, minlength=data.n_items)
        self.next_item = NextItemLoss(config, torch.from_numpy(counts))

    def _encode(self, items: Tensor) -> Tensor:
        rows = dropout(item_rows(self.items, items), self.config.dropout, self.training)
        states: Tensor = self.out(self.gru(rows)[0])
        return states

    def loss(self, batch: HistoryBatch) -> dict[str, Tensor]:
        """The loss over all next items of a batch."""
        states = self._encode(batch.items)
        if self.config.loss == "bpr-max":
            positive, negative, _ = self.next_item.sampled_scores(states, self.items, batch)
            return {"bpr-max": losses.bpr_max(positive, negative, self.config.score_reg)}
        return {self.config.loss: self.next_item(states, self.items, batch)}

    def vectors(self) -> Vectors:
        """Item vectors ``(n_items, dim)``, and the mapped states after the last item."""
        return sequence_vectors(self._encode, self.items, self.max_length)
