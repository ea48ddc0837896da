"""Attention over histories ``(b, t)`` of item ids, oldest first, then -1.

Padding comes last, so a causal model never sees it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrec.nn import dropout, gather


def item_rows(table: Tensor, items: Tensor) -> Tensor:
    """Rows ``(b, t, d)`` of a table ``(n_items, d)``; zeros at padding."""
    return gather(table, items.clamp(min=0)) * (items >= 0)[..., None]


def trim_padding(items: Tensor) -> Tensor:
    """Histories ``(b, t)`` without the columns in which all are padding; at least one column is left."""
    return items[:, : max(int((items >= 0).sum(1).max()), 1)]


def last_states(states: Tensor, items: Tensor) -> Tensor:
    """States ``(b, d)`` at the last item of each history; zeros for an empty one."""
    lengths = (items >= 0).sum(1)
    places = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, states.shape[2])
    return states.gather(1, places).squeeze(1) * (lengths > 0)[:, None]


class CausalEncoder(nn.Module):
    """SASRec's stack: self-attention over what came before, then a position-wise network, ``blocks`` times.

    One block: ``a = LN(x); x <- a + Attention(a W_Q, x W_K, x W_V); b = LN(x); x <- b + W_2 ReLU(W_1 b)``, as in the
    published code, where queries alone are normalised and the residual is the normalised input. The input is the rows
    plus a learned position, counted from the end: the last item of a history always has the same.

    Source: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018.

    Args:
        dim: Width d.
        blocks: Number of blocks.
        heads: Attention heads; a divisor of dim.
        max_length: Longest history.
        dropout: Share of values left out of input, attention and position-wise network in training.
    """

    def __init__(self, dim: int, blocks: int, heads: int, max_length: int, dropout: float) -> None:
        super().__init__()
        self.positions = nn.Parameter(nn.init.xavier_normal_(torch.empty(max_length, dim)))
        self.dropout = dropout
        self.blocks = nn.ModuleList(_Block(dim, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim)

    def forward(self, rows: Tensor, items: Tensor) -> Tensor:
        """States ``(b, t, d)`` of item rows ``(b, t, d)``; those at padding mean nothing."""
        lengths = (items >= 0).sum(1, keepdim=True)
        from_end = lengths - 1 - torch.arange(items.shape[1], device=items.device)
        places = (len(self.positions) - 1 - from_end).clamp(max=len(self.positions) - 1)
        states = dropout(rows + gather(self.positions, places), self.dropout, self.training)
        for block in self.blocks:
            states = block(states)
        normed: Tensor = self.norm(states)
        return normed


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm, self.norm_out = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.pair = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.first, self.second = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, states: Tensor) -> Tensor:
        """``(b, t, d)`` to the same."""
        b, t, dim = states.shape
        normed = self.norm(states)
        keys, values = self.pair(states).chunk(2, dim=2)
        query, keys, values = (
            part.view(b, t, self.heads, -1).transpose(1, 2) for part in (self.query(normed), keys, values)
        )
        attended = F.scaled_dot_product_attention(
            query, keys, values, is_causal=True, dropout_p=self.dropout if self.training else 0.0
        )
        states = self.norm_out(normed + attended.transpose(1, 2).reshape(b, t, dim))
        inner = dropout(F.relu(self.first(states), inplace=True), self.dropout, self.training)
        return states + dropout(self.second(inner), self.dropout, self.training)
