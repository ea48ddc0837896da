"""MMGRec: spells an item's ID from a set of items, whose relations depend on the user."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmrec.codes.trie import Trie
from mmrec.data.batches import SetBatch, some_items
from mmrec.data.dataset import TrainingData
from mmrec.models.contracts import Users
from mmrec.models.generative.graph_vectors import graph_vectors
from mmrec.models.generative.spelling import SemanticIDs, Speller, SpellingConfig
from mmrec.nn import Dropout, gather
from mmrec.transformer import hide_padding


class Config(SpellingConfig):
    """Hyper-parameters of MMGRec."""

    dim: int = Field(64, ge=1, description="width of the states")
    inner: int = Field(64, ge=1, description="width inside the position-wise networks")
    heads: int = Field(4, ge=1, description="attention heads")
    layers: int = Field(2, ge=1, description="blocks of the encoder, and of the decoder")
    dropout: float = Field(0.2, ge=0, lt=1, description="share of values left out in training")
    max_items: int = Field(32, ge=1, description="how many of a user's items are read")
    targets: int = Field(
        1,
        ge=1,
        description="how many of a user's items are spelt from one reading of others in training: more take less time",
    )
    relation: bool = Field(
        True, description="attention also weighs pairs of items by what the user's vector says"
    )
    relation_inner: int = Field(32, ge=1, description="width inside the networks of the user's scalars")


class RelationAttention(nn.Module):
    """``softmax((Q Kᵀ + P_Q P_Kᵀ) / √d) (V + P_V)`` of each head, with ``P_Q = s_Q(u) x U_Q``, ``P_K`` and ``P_V`` likewise.

    ``s_Q(u) = w ReLU(W h_u)`` is a number for each user; U maps to the width d of a head, and all heads share it. So a
    user turns up or down a second bilinear form between items, whatever their order. This is the published code's form;
    the paper writes ``P_Q = x MLP_Q(h_u) W_Q``, which does not say what shape the network's output has.

    Args:
        config: Sizes.
        user_dim: Width of the users' vectors; 0: plain attention.
    """

    def __init__(self, config: Config, user_dim: int) -> None:
        super().__init__()
        self.heads, self.user_dim = config.heads, user_dim
        inner = config.heads * config.head_dim
        self.own = nn.Linear(config.dim, 3 * inner, bias=False)
        self.out = nn.Linear(inner, config.dim, bias=False)
        if user_dim:
            self.shared = nn.Linear(config.dim, 3 * config.head_dim, bias=False)
            self.scalars = nn.ModuleList(
                nn.Sequential(
                    nn.Linear(user_dim, config.relation_inner, bias=False),
                    nn.ReLU(),
                    nn.Linear(config.relation_inner, 1, bias=False),
                )
                for _ in range(3)
            )

    def forward(self, states: Tensor, users: Tensor, present: Tensor) -> Tensor:
        """``(b, t, dim)`` from states ``(b, t, dim)``, vectors of users ``(b, user_dim)`` and which rows are there."""
        b, t, _ = states.shape
        query, key, value = (  # three products: the gradient of one is a copy of all three
            F.linear(states, weight).view(b, t, self.heads, -1).transpose(1, 2)
            for weight in self.own.weight.chunk(3)
        )
        scale = query.shape[-1] ** -0.5
        bias = hide_padding(query.new_zeros(1, 1, t), present)
        if self.user_dim:
            scalars = torch.cat([network(users) for network in self.scalars], 1)
            related = self.shared(states).view(b, t, 3, -1) * scalars[:, None, :, None]
            of_query, of_key, of_value = related.permute(2, 0, 1, 3)
            bias = bias + (of_query @ of_key.transpose(1, 2) * scale)[:, None]
            value = value + of_value[:, None]
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)
        result: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return result


class _Layer(nn.Module):
    """Attention and a position-wise network, normalised after each."""

    def __init__(self, config: Config, user_dim: int) -> None:
        super().__init__()
        self.attention = RelationAttention(config, user_dim)
        self.inner = nn.Sequential(
            nn.Linear(config.dim, config.inner),
            nn.ReLU(),
            Dropout(config.dropout),
            nn.Linear(config.inner, config.dim),
        )
        self.norm, self.norm_inner = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, states: Tensor, users: Tensor, present: Tensor) -> Tensor:
        states = self.norm(states + self.dropout(self.attention(states, users, present)))
        result: Tensor = self.norm_inner(states + self.dropout(self.inner(states)))
        return result


class MMGRec(nn.Module):
    """``p(i | u) = Π_l p(c_l | c_<l, {h_j: j ∈ N_u}, h_u)``: the codes of an item, from the set of the user's items.

    h are the frozen vectors of the graph network that the codes were made with (``mmrec tokenize --method graph-rqvae``).
    The encoder reads ``W h_j`` of the items without any positions, through :class:`RelationAttention`; the decoder
    spells the ID. Every training item of a user is once an epoch the target of up to ``max_items`` others, which are read
    once for ``targets`` such items.

    The graph network was trained on the pairs that are spelt here, so in training the frozen vectors tell more of the target
    than they will of an item to come: the user's own above all, which only the relation term reads, and the more so, the
    fewer interactions there are. ``relation=False`` can be better by far.

    Source: Liu et al., "MMGRec: Multimodal Generative Recommendation with Transformer Model", 2024, and its code, whose
    sizes are the defaults. Other than there, the target is not among the items that are read, the norms have learned
    weights, W need not be the identity, each level of codes has its own embeddings, beams never leave the trie, and IDs
    need no end mark, as all are of one length. The decoder is the one that all models here share
    (:class:`mmrec.models.generative.spelling.SemanticIDs`: T5's, with relative instead of sinusoidal positions).
    """

    config_type: ClassVar = Config
    batches: ClassVar = "sets"
    modalities: ClassVar = "none"
    codes: ClassVar = "one"
    cold_items: ClassVar = True
    knows_users: ClassVar = True
    user_vectors: Tensor
    item_vectors: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config, self.max_items, self.targets = config, config.max_items, config.targets
        users, items = graph_vectors(data)
        self.register_buffer("user_vectors", users)  # both saved: weights are of these vectors
        self.register_buffer("item_vectors", items)
        (table,) = data.codes.values()
        self.ids = SemanticIDs(table, config)
        self.input = nn.Linear(items.shape[1], config.dim, bias=False)
        user_dim = users.shape[1] if config.relation else 0
        self.layers = nn.ModuleList(_Layer(config, user_dim) for _ in range(config.layers))
        self.dropout = Dropout(config.dropout)

    @property
    def trie(self) -> Trie:
        """The IDs that there are."""
        return self.ids.trie

    def encode(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """States ``(b, t, dim)`` of users ``(b,)`` and items ``(b, t)``, -1 is padding; and which are there."""
        present = items >= 0
        rows = self.input(gather(self.item_vectors, items.clamp(min=0))) * present[..., None]
        # who has no items is read as a row of zeros
        present = torch.cat([present[:, :1] | ~present.any(1, keepdim=True), present[:, 1:]], 1)
        states, own = self.dropout(rows), gather(self.user_vectors, users)
        for layer in self.layers:
            states = layer(states, own, present)
        return states, present

    def loss(self, batch: SetBatch) -> dict[str, Tensor]:
        """Cross-entropy of the codes of each level."""
        targets = batch.targets.flatten()
        there = targets >= 0
        states = self.ids.states(*self.encode(batch.users, batch.items), targets.clamp(min=0))
        return self.ids.code_losses(states[there], targets[there])

    def speller(self, users: Users) -> Speller:
        """What spells the items of a block of users."""
        device = self.item_vectors.device
        items = some_items(users.histories, users.ids, self.max_items).to(device)
        return self.ids.speller(*self.encode(torch.from_numpy(users.ids).to(device), items))
