"""QIN: sparse attention to the target without softmax, and quadratic layers."""

from __future__ import annotations

import copy
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmrec.data.rows.table import RowBatch, RowData
from mmrec.losses import click_loss
from mmrec.models.ctr.inputs import History, RankerConfig, RowInputs
from mmrec.nn import BatchNorm


class Config(RankerConfig):
    """Hyper-parameters of QIN."""

    layers: int = Field(4, ge=1, description="quadratic layers")
    rows: Literal["sum", "gated"] = Field(
        "sum", description="a layer's rows: full matrices, or gates of low rank"
    )
    n_rows: int = Field(4, ge=1, description="rows R of a layer")
    rank: int = Field(16, ge=1, description="rank of the matrices of rows: gated")
    expansion: int = Field(2, ge=1, description="width of the attention, in widths of the item vector")


class SparseAttention(nn.Module):
    """``h = W_o Σ_j w_j W_v s_j + t`` with ``w_j = ReLU(W_q t · W_k s_j / √a)`` and attention width a.

    Weights are exact zeros for what has nothing to do with the target, and not normalised: how many items speak for it
    stays visible. A row without history has ``h = t``.

    There is one head, so both products with s_j are moved out of the sums: ``W_q t · W_k s_j = (W_kᵀ W_q t) · s_j`` and
    ``Σ_j w_j W_v s_j = W_v Σ_j w_j s_j``. Neither keys nor values exist; the cost of a history does not depend on a.
    """

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        inner = expansion * width
        self.query, self.key, self.value = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(inner, width, bias=False)

    def weights(self, target: Tensor, items: Tensor, history: History) -> Tensor:
        """``(m,)``: one for each item of each history."""
        query = self.query(target) @ self.key.weight / self.key.out_features**0.5
        return F.relu(history.links.dots(query, items))

    def forward(self, target: Tensor, items: Tensor, history: History) -> Tensor:
        """``(b, width)`` of targets ``(b, width)`` and a history of items ``(u, width)``."""
        pooled = history.links.pool(self.weights(target, items, history), items)
        result: Tensor = self.out(self.value(pooled)) + target
        return result


class SumRows(nn.Module):
    """``Σ_r dropout(W_r x + b_r)``: R full matrices, which without dropout are their sum.

    The rows add nothing that one matrix could not say: dropout draws anew in each, and the start is larger. In evaluation
    one product with the sum is computed.
    """

    def __init__(self, width: int, rows: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        linear = [nn.Linear(width, width) for _ in range(rows)]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in linear]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in linear]))

    def forward(self, states: Tensor) -> Tensor:
        """``(b, width)`` to the same."""
        if not self.training or not self.dropout:
            return F.linear(states, self.weight.sum(0), self.bias.sum(0))
        each = F.linear(states, self.weight.flatten(0, 1), self.bias.flatten())
        return F.dropout(each, self.dropout).view(len(states), *self.bias.shape).sum(1)

    @torch.no_grad()
    def merge(self) -> None:
        """Put the sum in the place of the rows."""
        self.weight = nn.Parameter(self.weight.sum(0, keepdim=True))
        self.bias = nn.Parameter(self.bias.sum(0, keepdim=True))


class GatedRows(nn.Module):
    """``Σ_r dropout(A_r x) ⊙ (B_r x + b_r)`` with matrices ``A_r = A''_r A'_r`` of low rank, B_r likewise.

    A form of rank R in each unit, which no single matrix can replace.
    """

    def __init__(self, width: int, rows: int, rank: int, dropout: float) -> None:
        super().__init__()
        self.rows, self.dropout = rows, dropout
        self.down = nn.Linear(width, 2 * rows * rank, bias=False)
        self.up = nn.Parameter(torch.randn(2 * rows, rank, width) * rank**-0.5)
        self.bias = nn.Parameter(torch.ones(rows, 1, width))

    def forward(self, states: Tensor) -> Tensor:
        """``(b, width)`` to the same."""
        inner = self.down(states).view(len(states), 2 * self.rows, -1).transpose(0, 1)
        gates, values = torch.bmm(inner, self.up).chunk(2)  # (rows, b, width)
        return (F.dropout(gates, self.dropout, self.training) * (values + self.bias)).sum(0)


class QuadraticLayer(nn.Module):
    """``x + dropout(PReLU(norm(x ⊙ f(x))))`` with the rows f: doubles the degree in x."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.rows: SumRows | GatedRows
        if config.rows == "sum":
            self.rows = SumRows(width, config.n_rows, config.dropout)
        else:
            self.rows = GatedRows(width, config.n_rows, config.rank, config.dropout)
        self.norm, self.activation = BatchNorm(width), nn.PReLU()
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: Tensor) -> Tensor:
        """``(b, width)`` to the same."""
        result: Tensor = states + self.dropout(self.activation(self.norm(states * self.rows(states))))
        return result


class QIN(nn.Module):
    """``s = w · x_L + b`` with ``x_0 = [context ; t ; h]``, h the history as the target sees it (:class:`SparseAttention`).

    Quadratic layers ``x <- x + dropout(PReLU(norm(x ⊙ Σ_r dropout(W_r x + b_r))))`` stand in the place of a network; L of
    them reach degree ``2^L``. ``rows: gated`` has ``Σ_r A_r x ⊙ B_r x`` instead (:class:`GatedRows`). Several histories give
    an h each. :meth:`merged` is the same function with one matrix in a layer, for export. Its probabilities were found
    badly calibrated at the best AUC.

    Source: Li et al., "Quadratic Interest Network for Multimodal Click-Through Rate Prediction", 2025.
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
        self.attentions = nn.ModuleList(
            SparseAttention(width, config.expansion) for _ in self.inputs.histories
        )
        total = self.inputs.n_fields * config.dim
        self.layers = nn.Sequential(*(QuadraticLayer(total, config) for _ in range(config.layers)))
        self.out = nn.Linear(total, 1)

    def loss(self, batch: RowBatch) -> dict[str, Tensor]:
        """Binary cross-entropy."""
        return {"bce": click_loss(self.score(batch), batch.labels)}

    def score(self, batch: RowBatch) -> Tensor:
        """Logits ``(b,)``."""
        embedded = self.inputs(batch)
        flat = embedded.beside(embedded.attended(self.attentions))
        logits: Tensor = self.out(self.layers(flat))[:, 0]
        return logits

    def merged(self) -> QIN:
        """The same function in evaluation mode with one matrix in each layer; itself for gated rows."""
        if self.config.rows == "gated":
            return self
        single = copy.deepcopy(self)
        single.config = self.config.model_copy(update={"n_rows": 1})
        for layer in single.layers:
            layer.rows.merge()  # type: ignore[union-attr, operator]
        return single
