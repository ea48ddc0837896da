"""LIGER: TIGER that also reads content, and scores the items it spelt, and those nobody has yet, by a dense vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmrec.attention import trim_padding
from mmrec.beam import Beams
from mmrec.codes.trie import Trie
from mmrec.data.batches import SequenceBatch, last_items
from mmrec.data.dataset import TrainingData
from mmrec.encode.features import FeatureTable
from mmrec.graph import modality_weights
from mmrec.models.contracts import Users, by_item
from mmrec.models.generative.spelling import SemanticIDs, Speller, SpellingConfig, shape_of
from mmrec.nn import Dropout, gather, seen_items
from mmrec.transformer import Encoder, RelativeBias, Spelling, hide_padding


class Config(SpellingConfig):
    """Hyper-parameters of LIGER."""

    layers: int = Field(6, ge=1, description="blocks of the encoder, and of the decoder")
    dropout: float = Field(0.2, ge=0, lt=1, description="share of values left out in training")
    max_length: int = Field(20, ge=1, description="how many of a user's last items are read")
    content_inner: int = Field(512, ge=1, description="width inside the network that projects features")
    content_dropout: float = Field(0.2, ge=0, lt=1, description="there: share of values left out in training")
    dense_temperature: float = Field(0.07, gt=0, description="dense scores are cosines divided by it")
    dense_weight: float = Field(1.0, gt=0, description="weight of the dense loss beside that of the codes")
    scoring: Literal["rescored", "dense", "generative"] = Field(
        "rescored",
        description="dense scores of the items spelt (as many as beams) and of all that nobody has in training,"
        " dense scores of all items, or those of spelling",
    )


class Content(nn.Module):
    """``v_i``: the mean over an item's modalities of ``W_2 ReLU(W_1 x_i)``, x of length 1; a learned row where it has none.

    Args:
        features: Tables by modality, at least one.
        dim: Width of the result.
        inner: Width inside the networks.
        dropout: Share of values left out in training.

    Raises:
        FeatureError: No features.
    """

    present: Tensor

    def __init__(self, features: Mapping[str, FeatureTable], dim: int, inner: int, dropout: float) -> None:
        super().__init__()
        modality_weights(list(features), 0)  # raises where there are no features
        tables = [table for _, table in sorted(features.items())]
        for number, table in enumerate(tables):
            self.register_buffer(f"rows_{number}", F.normalize(table.tensor(), dim=1), persistent=False)
        present = torch.from_numpy(np.stack([table.present for table in tables], 1))
        self.register_buffer("present", present, persistent=False)
        self.networks = nn.ModuleList(
            nn.Sequential(nn.Linear(table.dim, inner), nn.ReLU(), Dropout(dropout), nn.Linear(inner, dim))
            for table in tables
        )
        if not bool(present.any(1).all()):
            self.absent = nn.Parameter(torch.randn(dim))

    def forward(self, items: Tensor) -> Tensor:
        """``(…, dim)`` of items of any shape ``(…)``."""
        present = self.present[items]
        parts = [
            network(gather(getattr(self, f"rows_{number}"), items))
            for number, network in enumerate(self.networks)
        ]
        shares = present / present.sum(-1, keepdim=True).clamp(min=1)
        found: Tensor = (torch.stack(parts, -1) * shares[..., None, :]).sum(-1)
        return (
            torch.where(present.any(-1, keepdim=True), found, self.absent)
            if hasattr(self, "absent")
            else found
        )


class DenseSpeller(Speller):
    """A :class:`Speller` with a dense vector ``query (b, dim)`` of each user."""

    def __init__(self, ids: SemanticIDs, spelling: Spelling, n_users: int, query: Tensor) -> None:
        super().__init__(ids, spelling, n_users)
        self.query = query

    def select(self, users: Tensor) -> Self:
        """The same for some users."""
        return type(self)(self.ids, self.spelling.select(users), len(users), self.query[users])


class LIGER(nn.Module):
    """``L = Σ_l CE(c_l) - dense_weight log softmax_j(cos(W s_0, v_j) / τ)_i`` over the items j that somebody had.

    The encoder reads the codes of the history, each with its item's projected content v added; the decoder spells the
    next item's codes, and its state s_0 before the first code is the user's dense vector. Items without training
    interactions can never be the answer in training, so they are no negatives there either.

    To recommend, ``beams`` items are spelt, all items without training interactions join them, and dense scores rank
    these; every other item has -inf. With as many beams as items that is ``scoring: dense``.

    Source: Yang et al., "Unifying Generative and Dense Retrieval for Sequential Recommendation", 2024. The sizes of the
    projection are its code's; which state gives the dense vector, the mean over modalities, and that the same projection
    is read and matched, are ours.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "sequences"
    modalities: ClassVar = "required"
    codes: ClassVar = "one"
    cold_items: ClassVar = True
    seen: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config, self.max_length = config, config.max_length
        self.content = Content(data.features, config.dim, config.content_inner, config.content_dropout)
        (table,) = data.codes.values()
        self.ids = SemanticIDs(table, config)
        self.front = nn.Parameter(torch.randn(config.dim))
        self.bias = RelativeBias(config.heads, both_ways=True)
        self.encoder = Encoder(shape_of(config))
        self.dense = nn.Linear(config.dim, config.dim)
        self.register_buffer("seen", seen_items(data).squeeze(1) > 0, persistent=False)

    @property
    def trie(self) -> Trie:
        """The IDs that there are."""
        return self.ids.trie

    def encode(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """States ``(b, 1 + t * levels, dim)`` of histories ``(b, t)``, oldest first, then -1; and which are there."""
        items = trim_padding(items)
        rows, present = self.ids.rows(items)
        content = self.content(items.clamp(min=0)).repeat_interleave(self.trie.levels, 1)
        rows = rows + content * present[..., None]
        rows = torch.cat([self.front.expand(len(items), 1, -1), rows], 1)
        present = torch.cat([present.new_ones(len(items), 1), present], 1)
        places = torch.arange(rows.shape[1], device=rows.device)
        states: Tensor = self.encoder(rows, hide_padding(self.bias(places, places), present))
        return states, present

    def query(self, states: Tensor) -> Tensor:
        """Dense vectors ``(b, dim)``, of length 1 / τ, from the decoder's states ``(b, dim)`` before the first code."""
        return F.normalize(self.dense(states).float(), dim=1) / self.config.dense_temperature

    def targets(self) -> Tensor:
        """``(n_items, dim)`` projected content at length 1."""
        items = torch.arange(len(self.seen), device=self.seen.device)
        return F.normalize(self.content(items).float(), dim=1)

    def loss(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Cross-entropy of the codes of each level, and that of the dense scores."""
        states = self.ids.states(*self.encode(batch.items), batch.targets)
        scores = (self.query(states[:, 0]) @ self.targets().T).masked_fill(~self.seen, -torch.inf)
        dense = F.cross_entropy(scores.float(), batch.targets)
        return {**self.ids.code_losses(states, batch.targets), "dense": self.config.dense_weight * dense}

    def speller(self, users: Users) -> DenseSpeller:
        """What spells the next items of a block of users, and their dense vectors."""
        items, _ = last_items(users.histories, self.max_length)
        spelling = self.ids.decoder.read(*self.encode(items.to(self.seen.device)))
        begin = self.ids.begin.expand(len(items), 1, -1)
        return DenseSpeller(
            self.ids, spelling, len(items), self.query(self.ids.decoder(begin, spelling)[:, 0])
        )

    def rescore(self, speller: DenseSpeller, spell: Callable[[], Beams]) -> Tensor:
        """Scores ``(b, n_items)``; -inf where an item is no candidate.

        Args:
            speller: Of these users.
            spell: Gives the candidates.
        """
        if self.config.scoring == "generative":
            return by_item(spell(), len(self.seen))
        scores = speller.query @ self.targets().T
        if self.config.scoring == "dense":
            return scores
        spelt = by_item(spell(), len(self.seen)) > -torch.inf
        return scores.masked_fill(~spelt & self.seen, -torch.inf)
