"""LR: logistic regression."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mmrec.data.rows.table import RowBatch, RowData
from mmrec.losses import click_loss
from mmrec.models.contracts import ModelConfig
from mmrec.models.ctr.inputs import RowInputs


class Config(ModelConfig):
    """Logistic regression has nothing to choose; decay of the embeddings is the training's."""


class LR(nn.Module):
    """``s = w_0 + Σ_f w_f(x)``: a weight for each id, and for each number and each dimension of the features.

    Tags and histories count by the mean weight of their entries. No crosses: the baseline that any other ranker has to
    beat.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "rows"
    modalities: ClassVar = "optional"
    cold_items: ClassVar = True

    def __init__(self, config: Config, data: RowData) -> None:
        super().__init__()
        self.config = config
        self.inputs = RowInputs(data, 1)
        self.bias = nn.Parameter(torch.zeros(()))

    def loss(self, batch: RowBatch) -> dict[str, Tensor]:
        """Binary cross-entropy."""
        return {"bce": click_loss(self.score(batch), batch.labels)}

    def score(self, batch: RowBatch) -> Tensor:
        """Logits ``(b,)``."""
        logits: Tensor = self.inputs(batch).flat().sum(1) + self.bias
        return logits
