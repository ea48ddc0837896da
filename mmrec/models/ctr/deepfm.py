"""DeepFM: a factorisation machine and a network on the same vectors."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mmrec.data.rows.table import RowBatch, RowData
from mmrec.losses import click_loss
from mmrec.models.ctr.fm import pair_products, with_weights
from mmrec.models.ctr.inputs import RankerConfig, RowInputs
from mmrec.nn import MLP


class Config(RankerConfig):
    """Hyper-parameters of DeepFM."""

    hidden: tuple[int, ...] = Field((128, 64), description="widths of the network's layers")
    batch_norm: bool = Field(False, description="normalise the network's layers over the batch")


class DeepFM(nn.Module):
    """``s = w_0 + Σ_f w_f + Σ_{f<g} ⟨v_f, v_g⟩ + MLP([v_1; …; v_F])``.

    Tags and histories are fields of their mean vector.

    Source: Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI 2017.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "rows"
    modalities: ClassVar = "optional"
    cold_items: ClassVar = True

    def __init__(self, config: Config, data: RowData) -> None:
        super().__init__()
        self.config = config
        self.inputs = RowInputs(data, config.dim + 1, config.init_std)
        self.bias = nn.Parameter(torch.zeros(()))
        width = self.inputs.n_fields * config.dim
        self.network = MLP(width, config.hidden, config.dropout, batch_norm=config.batch_norm, outputs=1)

    def loss(self, batch: RowBatch) -> dict[str, Tensor]:
        """Binary cross-entropy."""
        return {"bce": click_loss(self.score(batch), batch.labels)}

    def score(self, batch: RowBatch) -> Tensor:
        """Logits ``(b,)``."""
        vectors, weights = with_weights(self.inputs(batch).fields())
        deep: Tensor = self.network(vectors.flatten(1))[:, 0]
        return self.bias + weights.sum(1) + pair_products(vectors) + deep
