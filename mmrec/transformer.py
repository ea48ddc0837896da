"""Encoder and decoder of T5 for sequences of codes: the encoder reads a history once, all beams of a user share it.

Blocks of our own and not transformers': there each beam carries its own copy of the encoder's keys and values through
every step, and a training step with dropout takes a quarter to a half longer. tests/benchmarks/test_generation_speed.py
measures both on the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrec.nn import Dropout, dropout, gather


def relative_buckets(distances: Tensor, buckets: int, *, both_ways: bool, farthest: int = 128) -> Tensor:
    """Bucket of each distance (key's place minus query's): near ones apart, far ones together by their logarithm.

    Args:
        distances: Integers of any shape.
        buckets: Number of buckets; half of them for keys that come later, if ``both_ways``.
        both_ways: Tell later keys from earlier ones; else later ones share the bucket of distance 0.
        farthest: From this distance on there is one bucket.

    Source: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", 2020.
    """
    offset = torch.zeros_like(distances)
    if both_ways:
        buckets //= 2
        offset = (distances > 0) * buckets
        distances = distances.abs()
    else:
        distances = (-distances).clamp(min=0)
    exact = buckets // 2
    ratio = (distances.clamp(min=1) / exact).log() / math.log(farthest / exact)
    far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    return offset + torch.where(distances < exact, distances, far)


class RelativeBias(nn.Module):
    """A learned number for each head and bucket of relative positions.

    Args:
        heads: Attention heads.
        buckets: See :func:`relative_buckets`.
        both_ways: Of an encoder.
    """

    def __init__(self, heads: int, buckets: int = 32, *, both_ways: bool) -> None:
        super().__init__()
        self.buckets, self.both_ways = buckets, both_ways
        self.table = nn.Parameter(torch.randn(buckets, heads) * heads**-0.5)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """``(heads, q, k)`` for places of queries ``(q,)`` and keys ``(k,)``."""
        found = relative_buckets(keys[None, :] - queries[:, None], self.buckets, both_ways=self.both_ways)
        return gather(self.table, found).permute(2, 0, 1)


class Attention(nn.Module):
    """T5's attention: ``softmax(Q Kᵀ + bias) V``, not divided by the root of the width, without constants.

    The weights of the attention are not dropped out: the fused kernels have no dropout on the CPU.
    """

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.query = _linear(dim, inner, (dim * head_dim) ** -0.5)
        self.key, self.value = _linear(dim, inner, dim**-0.5), _linear(dim, inner, dim**-0.5)
        self.out = _linear(inner, dim, inner**-0.5)

    def split(self, rows: Tensor) -> Tensor:
        """``(b, t, heads * d)`` to ``(b, heads, t, d)``."""
        return rows.view(*rows.shape[:2], self.heads, -1).transpose(1, 2)

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values ``(b, heads, t, d)`` of states ``(b, t, dim)``."""
        return self.split(self.key(states)), self.split(self.value(states))

    def forward(self, states: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """``(b, q, dim)`` from queries' states ``(b, q, dim)``; the bias goes with ``(b, heads, q, k)``."""
        attended = F.scaled_dot_product_attention(
            self.split(self.query(states)), keys, values, attn_mask=bias, scale=1.0
        )
        result: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return result


class FeedForward(nn.Module):
    """``W_2 ReLU(W_1 x)``."""

    def __init__(self, dim: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = _linear(dim, inner, dim**-0.5), _linear(inner, dim, inner**-0.5)
        self.dropout = dropout

    def forward(self, states: Tensor) -> Tensor:
        """``(…, dim)`` to the same."""
        inner = dropout(F.relu(self.first(states), inplace=True), self.dropout, self.training)
        result: Tensor = self.second(inner)
        return result


def _linear(inputs: int, outputs: int, deviation: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=deviation)
    return layer


@dataclass(frozen=True)
class Shape:
    """Sizes of an encoder and a decoder.

    Attributes:
        dim: Width of the states.
        inner: Width inside the position-wise networks.
        heads: Attention heads.
        head_dim: Width of each; ``heads * head_dim`` may differ from ``dim``.
        layers: Blocks of each.
        dropout: Share of values left out in training, of inputs, branches and outputs.
    """

    dim: int
    inner: int
    heads: int
    head_dim: int
    layers: int
    dropout: float


class _EncoderLayer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm, self.norm_inner = _norm(shape), _norm(shape)
        self.attention = Attention(shape.dim, shape.heads, shape.head_dim)
        self.inner = FeedForward(shape.dim, shape.inner, shape.dropout)
        self.dropout = Dropout(shape.dropout)

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        normed = self.norm(states)
        states = states + self.dropout(self.attention(normed, *self.attention.keys_values(normed), bias))
        result: Tensor = states + self.dropout(self.inner(self.norm_inner(states)))
        return result


def _norm(shape: Shape) -> nn.RMSNorm:
    return nn.RMSNorm(shape.dim, eps=1e-6)


class Encoder(nn.Module):
    """Blocks of attention and position-wise networks over whole sequences, normalised at their inputs and the end."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_EncoderLayer(shape) for _ in range(shape.layers))
        self.norm, self.dropout = _norm(shape), Dropout(shape.dropout)

    def forward(self, rows: Tensor, bias: Tensor) -> Tensor:
        """States ``(b, t, dim)`` of rows ``(b, t, dim)``.

        Args:
            rows: Embeddings.
            bias: ``(b, heads, t, t)`` or what goes with it; -inf where a key is padding. Shared by all blocks.
        """
        states = self.dropout(rows)
        for layer in self.layers:
            states = layer(states, bias)
        result: Tensor = self.dropout(self.norm(states))
        return result


def hide_padding(bias: Tensor, present: Tensor) -> Tensor:
    """``(b, heads, q, k)``: the bias ``(heads, q, k)`` with -inf at keys that are not ``present (b, k)``."""
    return bias[None].masked_fill(~present[:, None, None, :], -torch.inf)


class _DecoderLayer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm, self.norm_memory, self.norm_inner = (_norm(shape) for _ in range(3))
        self.own = Attention(shape.dim, shape.heads, shape.head_dim)
        self.memory = Attention(shape.dim, shape.heads, shape.head_dim)
        self.inner = FeedForward(shape.dim, shape.inner, shape.dropout)
        self.dropout = Dropout(shape.dropout)

    def after_own(self, states: Tensor, attended: Tensor, memory: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The rest of the block once a state has attended to what it spelt: to the memory, then position-wise."""
        keys, values, hidden = memory
        states = states + self.dropout(attended)
        states = states + self.dropout(self.memory(self.norm_memory(states), keys, values, hidden))
        result: Tensor = states + self.dropout(self.inner(self.norm_inner(states)))
        return result


@dataclass
class Spelling:
    """What a decoder keeps between two codes of a batch of users with w beams each.

    Attributes:
        memory: Of each block keys and values ``(b, heads, t, d)`` of the user's history, and what hides its padding.
        own: Of each block keys and values ``(2, b, w, heads, n, d)`` of the n codes spelt so far.
        parents: ``(b, w)`` which of those beams go on; all, as they are, if None.
    """

    memory: list[tuple[Tensor, Tensor, Tensor]]
    own: list[Tensor] = field(default_factory=list)
    parents: Tensor | None = None

    def follow(self, parents: Tensor) -> None:
        """Keep of each user the beams ``parents (b, w')``, in this order, from the next step on."""
        self.parents = parents

    def extend(self, layer: int, rows: Tensor) -> Tensor:
        """What a block has kept of the beams that go on, and behind it ``rows (2, b, w, heads, 1, d)`` of the new codes.

        One copy of ``(2, b, w, heads, n + 1, d)`` in all: the parents' rows are written where they are to be read.
        """
        if layer == len(self.own):
            self.own.append(rows)
            return rows
        before = self.own[layer]
        _, b, w, heads, _, d = rows.shape
        n = before.shape[4]
        joined = rows.new_empty(2, b, w, heads, n + 1, d)
        if self.parents is None:
            joined[..., :n, :] = before
        else:
            users = torch.arange(b, device=rows.device)[:, None]
            joined[..., :n, :] = before[:, users, self.parents]
        joined[..., n:, :] = rows
        self.own[layer] = joined
        return joined

    def select(self, users: Tensor) -> Self:
        """The same, nothing spelt yet, of some users ``(n,)``."""
        return type(self)([tuple(part[users] for part in layer) for layer in self.memory])  # type: ignore[misc]


class Decoder(nn.Module):
    """Blocks over what is spelt so far and over an encoder's states."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_DecoderLayer(shape) for _ in range(shape.layers))
        self.bias = RelativeBias(shape.heads, both_ways=False)
        self.norm, self.dropout = _norm(shape), Dropout(shape.dropout)

    def read(self, memory: Tensor, present: Tensor) -> Spelling:
        """Keys and values of an encoder's states ``(b, t, dim)``, ``present (b, t)``: made once for each user."""
        hidden = hide_padding(memory.new_zeros(1, 1, memory.shape[1]), present)
        return Spelling([(*layer.memory.keys_values(memory), hidden) for layer in self._blocks()])

    def _blocks(self) -> Iterator[_DecoderLayer]:
        return iter(self.layers)  # type: ignore[arg-type]

    def forward(self, rows: Tensor, memory: Spelling) -> Tensor:
        """States ``(n, t, dim)`` of embeddings ``(n, t, dim)``, each from those up to it: for training.

        With n a multiple of the b users of the memory, the first n / b rows are of the first user, and so on: to the
        memory all rows of a user are one sequence.
        """
        places = torch.arange(rows.shape[1], device=rows.device)
        bias = self.bias(places, places).masked_fill(places[None, :] > places[:, None], -torch.inf)[None]
        states = self.dropout(rows).view(len(memory.memory[0][0]), -1, rows.shape[2])
        for layer, read in zip(self._blocks(), memory.memory, strict=True):
            normed = layer.norm(states).view(rows.shape)
            attended = layer.own(normed, *layer.own.keys_values(normed), bias)
            states = layer.after_own(states, attended.view(states.shape), read)
        result: Tensor = self.dropout(self.norm(states)).view(rows.shape)
        return result

    def step(self, rows: Tensor, spelling: Spelling) -> Tensor:
        """States ``(b, w, dim)`` of each beam's next embedding ``(b, w, dim)``; remembers it in ``spelling``.

        All beams of a user look at the same keys and values of the history, as if they were a sequence: nothing is
        copied for a beam but the few codes that it has spelt.
        """
        b, w, _ = rows.shape
        n = spelling.own[0].shape[4] if spelling.own else 0
        bias = self.bias(torch.tensor([n], device=rows.device), torch.arange(n + 1, device=rows.device))
        states = self.dropout(rows)
        for number, (layer, read) in enumerate(zip(self._blocks(), spelling.memory, strict=True)):
            normed = layer.norm(states)
            one = normed.view(b * w, 1, -1)
            new = torch.stack(layer.own.keys_values(one)).view(2, b, w, layer.own.heads, 1, -1)
            keys, values = spelling.extend(number, new).flatten(1, 2)
            attended = layer.own(one, keys, values, bias[None])
            states = layer.after_own(states, attended.view(b, w, -1), read)
        spelling.parents = None
        result: Tensor = self.dropout(self.norm(states))
        return result
