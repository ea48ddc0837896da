"""FM: factorisation machine, the inner products of all pairs of fields."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mmrec.data.rows.table import RowBatch, RowData
from mmrec.losses import click_loss
from mmrec.models.ctr.inputs import RankerConfig, RowInputs


class Config(RankerConfig):
    """Hyper-parameters of FM."""


class FM(nn.Module):
    """``s = w_0 + Σ_f w_f + Σ_{f<g} ⟨v_f, v_g⟩``, the pairs in linear time: ``(|Σ v|² - Σ |v|²) / 2``.

    Dropout is on the vectors. Tags and histories are fields of their mean vector; an item's content is one more field.

    Source: Rendle, "Factorization Machines", ICDM 2010.
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
        self.dropout = nn.Dropout(config.dropout)

    def loss(self, batch: RowBatch) -> dict[str, Tensor]:
        """Binary cross-entropy."""
        return {"bce": click_loss(self.score(batch), batch.labels)}

    def score(self, batch: RowBatch) -> Tensor:
        """Logits ``(b,)``."""
        vectors, weights = with_weights(self.inputs(batch).fields())
        return self.bias + weights.sum(1) + pair_products(self.dropout(vectors))


def with_weights(fields: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors ``(b, f, dim)`` and weights ``(b, f)`` of fields ``(b, f, dim + 1)``: the weight is one more column."""
    return fields[:, :, :-1], fields[:, :, -1]


def pair_products(vectors: Tensor) -> Tensor:
    """``Σ_{f<g} ⟨v_f, v_g⟩ (b,)`` of vectors ``(b, f, dim)``."""
    return (vectors.sum(1).pow(2).sum(1) - vectors.pow(2).sum((1, 2))) / 2
