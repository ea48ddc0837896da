"""FinalMLP: two networks on differently gated inputs, and a bilinear form of what they give."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mmrec.data.rows.table import RowBatch, RowData
from mmrec.losses import click_loss
from mmrec.models.ctr.inputs import RankerConfig, RowInputs
from mmrec.nn import MLP


class Config(RankerConfig):
    """Hyper-parameters of FinalMLP."""

    first: tuple[int, ...] = Field(
        (128, 64), min_length=1, description="widths of the first network's layers"
    )
    second: tuple[int, ...] = Field(
        (64, 64), min_length=1, description="widths of the second network's layers"
    )
    gates: Literal["learned", "fields", "none"] = Field(
        "learned",
        description="what gates the inputs of the networks: a constant, or the row's own fields for the first and the "
        "item's for the second",
    )
    gate_hidden: int = Field(32, ge=1, description="width of the hidden layer of a gate")
    heads: int = Field(2, ge=1, description="blocks of the bilinear form, a divisor of both last widths")
    batch_norm: bool = Field(False, description="normalise the networks' layers over the batch")

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.first[-1] % self.heads or self.second[-1] % self.heads:
            raise ValueError(
                f"heads must divide both last widths: {self.first[-1]} and {self.second[-1]} / {self.heads}"
            )
        return self


class Gate(nn.Module):
    """``2 σ(MLP(c))`` for the entries of a vector; 1 on average, and exactly 1 where the MLP gives 0.

    Args:
        inputs: Width of c; 0 for a learned constant in its place.
        hidden: Width of the MLP's hidden layer.
        width: How many entries to gate.
    """

    def __init__(self, inputs: int, hidden: int, width: int) -> None:
        super().__init__()
        self.constant = None if inputs else nn.Parameter(torch.zeros(1, width))
        self.network = MLP(inputs or width, (hidden,), outputs=width)

    def forward(self, condition: Tensor) -> Tensor:
        """``(b, width)``, or ``(1, width)``, of conditions ``(b, inputs)``."""
        logits: Tensor = self.network(condition if self.constant is None else self.constant)
        return 2 * logits.sigmoid()


class Bilinear(nn.Module):
    """``b + w_1 · o_1 + w_2 · o_2 + Σ_h o_1hᵀ W_h o_2h`` with the vectors cut into H parts.

    One head is the full bilinear form; more cost and hold a share of it.
    """

    def __init__(self, first: int, second: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.Linear(first, 1), nn.Linear(second, 1, bias=False)
        self.form = nn.Parameter(torch.empty(heads, first // heads, second // heads))
        for one in self.form:
            nn.init.xavier_normal_(one.data)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """``(b,)`` of vectors ``(b, first)`` and ``(b, second)``."""
        cut = (part.view(len(part), self.heads, -1) for part in (first, second))
        crossed = torch.einsum("bhi,hij,bhj->b", next(cut), self.form, next(cut))
        linear: Tensor = (self.first(first) + self.second(second))[:, 0]
        return linear + crossed


class FinalMLP(nn.Module):
    """``s = b + w_1 · o_1 + w_2 · o_2 + Σ_h o_1hᵀ W_h o_2h`` with ``o_k = MLP_k(x ⊙ 2 σ(gate_k))``.

    x is all fields side by side; tags and histories are fields of their mean vector. ``gates: fields`` gates the first
    network by the row's own fields and the second by the item's, with the vectors that x has too (the published code
    embeds the gates' fields a second time); where a row has no such fields, a learned constant gates.

    Source: Mao et al., "FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction", AAAI 2023.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "rows"
    modalities: ClassVar = "optional"
    cold_items: ClassVar = True

    def __init__(self, config: Config, data: RowData) -> None:
        super().__init__()
        self.config = config
        self.inputs = RowInputs(data, config.dim, config.init_std)
        width = self.inputs.n_fields * config.dim
        by_fields = (self.inputs.n_context * config.dim, self.inputs.n_item_fields * config.dim)
        self.gates = nn.ModuleList(
            Gate(own if config.gates == "fields" else 0, config.gate_hidden, width)
            for own in (by_fields if config.gates != "none" else ())
        )
        self.streams = nn.ModuleList(
            MLP(width, hidden, config.dropout, batch_norm=config.batch_norm)
            for hidden in (config.first, config.second)
        )
        self.fusion = Bilinear(config.first[-1], config.second[-1], config.heads)

    def loss(self, batch: RowBatch) -> dict[str, Tensor]:
        """Binary cross-entropy."""
        return {"bce": click_loss(self.score(batch), batch.labels)}

    def score(self, batch: RowBatch) -> Tensor:
        """Logits ``(b,)``."""
        embedded = self.inputs(batch)
        flat = embedded.flat()
        gated = [flat, flat]
        if self.gates:
            conditions = (embedded.context.flatten(1), embedded.target)
            gated = [flat * gate(by) for gate, by in zip(self.gates, conditions, strict=True)]
        logits: Tensor = self.fusion(
            *(stream(part) for stream, part in zip(self.streams, gated, strict=True))
        )
        return logits
