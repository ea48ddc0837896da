"""HSTU: sequential transduction units, pointwise attention without softmax."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from mmrec.attention import item_rows
from mmrec.data.batches import HistoryBatch
from mmrec.data.dataset import TrainingData
from mmrec.models.contracts import Vectors
from mmrec.models.sequence.next_item import NextItemLoss, SequenceConfig, batch_kind, sequence_vectors
from mmrec.nn import dropout, gather


class Config(SequenceConfig):
    """Hyper-parameters of HSTU."""

    blocks: int = Field(2, ge=1, description="transduction units")
    heads: int = Field(1, ge=1, description="attention heads, a divisor of dim")
    temperature: float = Field(0.05, gt=0, description="scores are cosines divided by it")

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.dim % self.heads:
            raise ValueError(f"heads must divide dim: {self.dim} / {self.heads}")
        return self


class HSTU(nn.Module):
    """``s(u, i) = cos(f_t, m_i) / τ`` with the state f_t after a user's last item.

    One unit, on ``a = LN(x)``: ``U, V, Q, K = SiLU(a W + b)``; ``A_ij = SiLU(q_i · k_j + r_{i-j}) / n`` for j up to i and 0
    else, n the longest history; ``x <- x + W' (LN(A V) ⊙ U) + b'``. The weights A are not normalised: how many items
    speak for something stays visible. r is a learned number for each distance and head. The input is the item vectors
    plus a learned position from the start. A user without items has a zero vector.

    The paper's bias also depends on the time between two interactions; here histories carry no times, only order.

    Source: Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
    Recommendations", ICML 2024. Written from the paper's equations; the cosine with temperature is that of its
    experiments on public data.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "histories"
    modalities: ClassVar = "none"
    cold_items: ClassVar = False

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config, self.max_length, self.batches = config, config.max_length, batch_kind(config)  # type: ignore[misc]
        self.items = nn.Parameter(torch.randn(data.n_items, config.dim) * 0.02)
        self.positions = nn.Parameter(torch.randn(config.max_length, config.dim) * 0.02)
        self.units = nn.ModuleList(_Unit(config) for _ in range(config.blocks))
        counts = np.bincount(data.sequences.items, minlength=data.n_items)
        self.next_item = NextItemLoss(config, torch.from_numpy(counts))

    def _encode(self, items: Tensor) -> Tensor:
        rows = item_rows(self.items, items) * self.config.dim**0.5 + self.positions[: items.shape[1]]
        states = dropout(rows, self.config.dropout, self.training)
        for unit in self.units:
            states = unit(states)
        return F.normalize(states, dim=2) / self.config.temperature

    def loss(self, batch: HistoryBatch) -> dict[str, Tensor]:
        """The loss over all next items of a batch."""
        table = F.normalize(self.items, dim=1)
        return {self.config.loss: self.next_item(self._encode(batch.items), table, batch)}

    def vectors(self) -> Vectors:
        """Item vectors ``(n_items, dim)`` of length 1, and the states after the last item."""
        return sequence_vectors(self._encode, F.normalize(self.items, dim=1), self.max_length)


class _Unit(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.length, self.dropout = config.heads, config.max_length, config.dropout
        self.norm, self.norm_inner = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.into, self.out = nn.Linear(config.dim, 4 * config.dim), nn.Linear(config.dim, config.dim)
        self.distance = nn.Parameter(torch.zeros(config.max_length, config.heads))

    def forward(self, states: Tensor) -> Tensor:
        """``(b, t, d)`` to the same."""
        b, t, dim = states.shape
        gates, values, queries, keys = F.silu(self.into(self.norm(states))).chunk(4, dim=2)
        values, queries, keys = (
            part.reshape(b, t, self.heads, -1).transpose(1, 2) for part in (values, queries, keys)
        )
        places = torch.arange(t, device=states.device)
        back = places[:, None] - places[None, :]
        bias = gather(self.distance, back.clamp(min=0)).permute(2, 0, 1)  # (heads, t, t)
        weights = F.silu(queries @ keys.transpose(2, 3) + bias) * (back >= 0) / self.length
        attended = self.norm_inner((weights @ values).transpose(1, 2).reshape(b, t, dim))
        inner = dropout(attended * gates, self.dropout, self.training)
        result: Tensor = states + self.out(inner)
        return result
