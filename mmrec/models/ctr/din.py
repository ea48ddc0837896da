"""DIN: a history weighted by how much each of its items has to do with the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmrec.data.rows.table import RowBatch, RowData
from mmrec.losses import click_loss
from mmrec.models.ctr.inputs import History, RankerConfig, RowInputs
from mmrec.nn import MLP, BatchNorm, Dropout

Activation = Literal["dice", "relu"]


class DINConfig(RankerConfig):
    """Hyper-parameters of an activation unit and of the network behind it."""

    attention: tuple[int, ...] = Field((64, 32), min_length=1, description="widths of the activation unit")
    activation: Activation = Field("dice", description="activation inside the activation unit")
    softmax: bool = Field(False, description="normalise the weights over the history")
    hidden: tuple[int, ...] = Field((128, 64), description="widths of the network's layers")
    batch_norm: bool = Field(False, description="normalise the network's layers over the batch")


class Config(DINConfig):
    """Hyper-parameters of DIN."""


class Dice(nn.Module):
    """``p s + (1 - p) α s`` with ``p = σ((s - E s) / √(Var s + ε))`` and α learned for each unit, 0 at the start.

    Mean and variance are those of the batch in training and running ones otherwise; ReLU moved to where the data is.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = BatchNorm(width, eps=1e-8, affine=False)
        self.alpha = nn.Parameter(torch.zeros(width))

    def forward(self, values: Tensor) -> Tensor:
        """``(m, width)`` to the same."""
        gates: Tensor = self.norm(values).sigmoid()
        return values * (self.alpha + (1 - self.alpha) * gates)


class ActivationUnit(nn.Module):
    """``v = Σ_j a_j s_j`` over a history, ``a_j = MLP([t ; s_j ; t - s_j ; t ⊙ s_j])`` for the target t.

    The weights are not normalised unless asked for, so how much of a history speaks for the target stays visible. A row
    without history has ``v = 0``. Only items that are there are computed with, in the statistics of Dice too.

    The first layer ``[W_1 W_2 W_3 W_4]`` is never fed with the four parts side by side:
    ``(W_1 + W_3) t + (W_2 - W_3) s + W_4 (t ⊙ s)``, the first once for each row, the second once for each item of the batch.

    Args:
        width: Width of target and items.
        hidden: Widths of the MLP.
        dropout: Share of its values left out in training.
        activation: Inside the MLP.
        softmax: Normalise the weights over the history.
    """

    def __init__(
        self, width: int, hidden: Sequence[int], dropout: float, activation: Activation, *, softmax: bool
    ) -> None:
        super().__init__()
        self.softmax = softmax
        self.first = nn.Linear(4 * width, hidden[0])
        make = Dice if activation == "dice" else lambda width: nn.ReLU()
        self.start = nn.Sequential(make(hidden[0]), Dropout(dropout))
        self.rest = MLP(hidden[0], hidden[1:], dropout, activation=make, outputs=1)

    def forward(self, target: Tensor, items: Tensor, history: History) -> Tensor:
        """``(b, width)`` of targets ``(b, width)`` and a history of items ``(u, width)``."""
        weights = self._weights(target, items, history)
        if self.softmax:
            weights = _softmax(weights, history.present)
        return history.links.pool(weights, items)

    def _weights(self, target: Tensor, items: Tensor, history: History) -> Tensor:
        """``(m,)``: one for each item of each history."""
        rows, entries = history.links.rows, history.links.entries
        of_target, of_item, of_difference, of_product = self.first.weight.chunk(4, 1)
        by_row = F.linear(target, of_target + of_difference, self.first.bias)
        by_item = F.linear(items, of_item - of_difference)
        product = F.linear(rows.take(target) * entries.take(items), of_product)
        weights: Tensor = self.rest(self.start(rows.take(by_row) + entries.take(by_item) + product))[:, 0]
        return weights


def _softmax(values: Tensor, present: Tensor) -> Tensor:
    """Softmax over each row's places, of values ``(m,)`` in the order of the places ``present (b, n)``."""
    lowest = torch.finfo(values.dtype).min  # not -inf: a row without places would give NaN
    padded = torch.full(present.shape, lowest, dtype=values.dtype, device=values.device)
    return padded.masked_scatter(present, values).softmax(1)[present]


class DIN(nn.Module):
    """``s = MLP([context ; t ; v])`` with ``v = Σ_j a(t, s_j) s_j`` over the history (:class:`ActivationUnit`).

    t and s_j are all fields of an item side by side, from the same tables; several histories give a v each. The published
    activation unit reads the outer product of t and s_j; difference and product are what all implementations read.

    Source: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "rows"
    modalities: ClassVar = "optional"
    cold_items: ClassVar = True

    def __init__(self, config: Config, data: RowData) -> None:
        super().__init__()
        self.config = config
        self.inputs = RowInputs(data, config.dim, config.init_std)
        width = self.inputs.n_item_fields * config.dim
        self.units = nn.ModuleList(
            ActivationUnit(width, config.attention, config.dropout, config.activation, softmax=config.softmax)
            for _ in self.inputs.histories
        )
        self.network = MLP(
            self.inputs.n_fields * config.dim,
            config.hidden,
            config.dropout,
            batch_norm=config.batch_norm,
            outputs=1,
        )

    def loss(self, batch: RowBatch) -> dict[str, Tensor]:
        """Binary cross-entropy."""
        return {"bce": click_loss(self.score(batch), batch.labels)}

    def score(self, batch: RowBatch) -> Tensor:
        """Logits ``(b,)``."""
        embedded = self.inputs(batch)
        logits: Tensor = self.network(embedded.beside(embedded.attended(self.units)))[:, 0]
        return logits
