"""Molar: a content tower that is brought into line with an ID tower once that one is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from mmrec import losses
from mmrec.attention import CausalEncoder, item_rows, last_states
from mmrec.data.batches import HistoryBatch
from mmrec.data.dataset import TrainingData
from mmrec.encode.features import FeatureTable
from mmrec.models.contracts import Vectors
from mmrec.models.sequence.adaptor import Adaptor
from mmrec.models.sequence.next_item import NextItemLoss, SequenceConfig, batch_kind, sequence_vectors
from mmrec.nn import EpochCounter


class Config(SequenceConfig):
    """Hyper-parameters of Molar."""

    blocks: int = Field(2, ge=1, description="attention blocks of each tower")
    heads: int = Field(1, ge=1, description="attention heads, a divisor of dim")
    experts: int = Field(8, ge=1, description="experts of the adaptor")
    temperature: float = Field(0.07, gt=0, description="the content tower's scores are cosines divided by it")
    align_after: int = Field(5, ge=0, description="epochs before the ID tower rests and the alignment begins")
    align_weight: float = Field(0.1, ge=0, description="weight of the alignment")
    align_temperature: float = Field(0.1, gt=0, description="temperature of the alignment")

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.dim % self.heads:
            raise ValueError(f"heads must divide dim: {self.dim} / {self.heads}")
        return self


class Molar(nn.Module):
    """``s(u, i) = cos(c_u, v_i) / τ`` with the content tower's user vector, trained beside an ID tower's.

    Both towers are causal encoders. One reads content vectors v, made from frozen features by
    :class:`mmrec.models.sequence.adaptor.Adaptor`; the other reads learned item vectors, as SASRec does. For
    ``align_after`` epochs each lowers its own loss of next items; then the ID tower stays as it is, and the content tower
    lowers ``L + λ (InfoNCE(c_u, d_u) + InfoNCE(d_u, c_u)) / 2`` over the batch's users, d_u being the ID tower's vector.
    Only the content tower recommends: collaborative signal reaches it through the alignment, ids do not, and items that
    nobody had in training are scored as well.

    In the paper a multimodal language model makes the item vectors and another reads them; here precomputed features
    and a small encoder take their places. How long the ID tower trains, and every default, are ours.

    Source: Luo et al., "Molar: Multimodal LLMs with Collaborative Filtering Alignment for Enhanced Sequential
    Recommendation", arXiv 2412.18176, 2024. Known from descriptions, not from its tables or code.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "histories"
    modalities: ClassVar = "required"
    cold_items: ClassVar = True
    grows: ClassVar = True

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config, self.max_length, self.batches = config, config.max_length, batch_kind(config)  # type: ignore[misc]
        self.alignment = {
            "after": config.align_after,
            "weight": config.align_weight,
            "t": config.align_temperature,
        }
        self.adaptor = Adaptor(data.features, config.dim, config.experts)
        self.ids = nn.Parameter(nn.init.xavier_normal_(torch.empty(data.n_items, config.dim)))
        self.content_tower, self.id_tower = (
            CausalEncoder(config.dim, config.blocks, config.heads, config.max_length, config.dropout)
            for _ in range(2)
        )
        counts = np.bincount(data.sequences.items, minlength=data.n_items)
        self.next_item = NextItemLoss(config, torch.from_numpy(counts))
        self.epochs = EpochCounter()

    def on_epoch(self, generator: torch.Generator) -> None:
        """Count the epochs; the ID tower trains in the first ones only."""
        self.epochs.begin(generator)
        self.id_tower.train(self.epochs.number <= self.alignment["after"])

    def _read_content(self, table: Tensor, items: Tensor) -> Tensor:
        states = self.content_tower(item_rows(table, items), items)
        return F.normalize(states, dim=2) / self.config.temperature

    def _read_ids(self, items: Tensor) -> Tensor:
        states: Tensor = self.id_tower(item_rows(self.ids, items) * self.config.dim**0.5, items)
        return states

    def loss(self, batch: HistoryBatch) -> dict[str, Tensor]:
        """Loss terms of a batch."""
        table = self.adaptor()
        states = self._read_content(table, batch.items)
        terms = {"content": self.next_item(states, F.normalize(table, dim=1), batch)}
        if self.epochs.number <= self.alignment["after"]:
            return terms | {"ids": self.next_item(self._read_ids(batch.items), self.ids, batch)}
        with torch.no_grad():
            own = last_states(self._read_ids(batch.items), batch.items)
        content, temperature = last_states(states, batch.items), self.alignment["t"]
        both = losses.info_nce(content, own, temperature) + losses.info_nce(own, content, temperature)
        return terms | {"align": self.alignment["weight"] * both / 2}

    def extend(self, features: Mapping[str, FeatureTable]) -> Tensor:
        """Vectors ``(m, dim)`` of new items."""
        return F.normalize(self.adaptor.extend(features), dim=1)

    def vectors(self) -> Vectors:
        """Content vectors ``(n_items, dim)`` of length 1, and the content tower's states after the last item."""
        table = self.adaptor()
        return sequence_vectors(
            lambda items: self._read_content(table, items), F.normalize(table, dim=1), self.max_length
        )
