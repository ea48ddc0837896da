"""UniSRec: sequences of content vectors, pre-trained by contrast."""

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
from mmrec.nn import EpochCounter, gather, seen_items


class Config(SequenceConfig):
    """Hyper-parameters of UniSRec."""

    blocks: int = Field(2, ge=1, description="attention blocks")
    heads: int = Field(2, ge=1, description="attention heads, a divisor of dim")
    experts: int = Field(8, ge=1, description="experts of the adaptor")
    temperature: float = Field(0.07, gt=0, description="scores are cosines divided by it")
    item_ids: bool = Field(False, description="add a vector for each item to its content (transductive)")
    pretrain_epochs: int = Field(0, ge=0, description="first epochs that train by contrast within the batch")
    view_weight: float = Field(
        1e-3, ge=0, description="there: weight of the contrast of two views of a history"
    )
    drop: float = Field(
        0.2, ge=0, lt=1, description="there: share of a history's items that a view leaves out"
    )

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.dim % self.heads:
            raise ValueError(f"heads must divide dim: {self.dim} / {self.heads}")
        return self


class UniSRec(nn.Module):
    """``s(u, i) = cos(f_t, v_i) / τ`` with content vectors v and the state f_t of a causal encoder that reads them.

    v comes from frozen features through :class:`mmrec.models.sequence.adaptor.Adaptor`, so items that nobody had in
    training are scored as well; ``item_ids`` adds a learned vector to those that somebody had. The first
    ``pretrain_epochs`` lower ``InfoNCE(f_t, v_next) + view_weight InfoNCE(f, f')`` instead, with the batch's other items
    and users as negatives and f' the last state of the history without some of its items. Pre-training on other
    catalogues is the same with more data, and no part of this class.

    Rows that stand for one item are no negatives of each other (the published code leaves exp(0) for them).

    Source: Hou, Mu, Zhao, Li, Ding, Wen, "Towards Universal Sequence Representation Learning for Recommender Systems",
    KDD 2022. The encoder is :class:`mmrec.attention.CausalEncoder`; every item of a history predicts the next one.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "histories"
    modalities: ClassVar = "required"
    cold_items: ClassVar = True
    grows: ClassVar = True
    seen: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config, self.max_length, self.batches = config, config.max_length, batch_kind(config)  # type: ignore[misc]
        self.pretraining = {
            "epochs": config.pretrain_epochs,
            "weight": config.view_weight,
            "drop": config.drop,
        }
        self.adaptor = Adaptor(data.features, config.dim, config.experts)
        if config.item_ids:
            self.ids = nn.Parameter(torch.randn(data.n_items, config.dim) * 0.02)
        self.encoder = CausalEncoder(
            config.dim, config.blocks, config.heads, config.max_length, config.dropout
        )
        counts = np.bincount(data.sequences.items, minlength=data.n_items)
        self.next_item = NextItemLoss(config, torch.from_numpy(counts))
        self.epochs = EpochCounter()
        # saved, because nothing else in a checkpoint has the catalogue's size: another catalogue is then refused
        self.register_buffer("seen", seen_items(data))

    def on_epoch(self, generator: torch.Generator) -> None:
        """Count the epochs."""
        self.epochs.begin(generator)

    def _items(self) -> Tensor:
        content: Tensor = self.adaptor()
        return content + self.ids * self.seen if self.config.item_ids else content

    def _encode(self, table: Tensor, items: Tensor) -> Tensor:
        states: Tensor = self.encoder(item_rows(table, items), items)
        return states

    def loss(self, batch: HistoryBatch) -> dict[str, Tensor]:
        """Loss terms of a batch: those of pre-training in its epochs, else that of the next items."""
        table = self._items()
        states = self._encode(table, batch.items)
        if self.epochs.number <= self.pretraining["epochs"]:
            return self._contrast(table, states, batch)
        queries = F.normalize(states, dim=2) / self.config.temperature
        return {self.config.loss: self.next_item(queries, F.normalize(table, dim=1), batch)}

    def _contrast(self, table: Tensor, states: Tensor, batch: HistoryBatch) -> dict[str, Tensor]:
        inside, temperature = batch.targets >= 0, self.config.temperature
        targets = batch.targets[inside]
        view = drop_items(batch.items, self.pretraining["drop"])
        last = last_states(self._encode(table, view), view)
        return {
            "next": losses.info_nce(states[inside], gather(table, targets), temperature, targets),
            "views": self.pretraining["weight"]
            * losses.info_nce(last_states(states, batch.items), last, temperature),
        }

    def extend(self, features: Mapping[str, FeatureTable]) -> Tensor:
        """Vectors ``(m, dim)`` of new items."""
        return F.normalize(self.adaptor.extend(features), dim=1)

    def vectors(self) -> Vectors:
        """Item vectors ``(n_items, dim)`` of length 1, and the states after the last item."""
        table = self._items()
        return sequence_vectors(
            lambda items: F.normalize(self._encode(table, items), dim=2) / self.config.temperature,
            F.normalize(table, dim=1),
            self.max_length,
        )


def drop_items(items: Tensor, share: float) -> Tensor:
    """Histories ``(b, t)`` without a random share of their items, which close up; the last item always stays."""
    lengths = (items >= 0).sum(1, keepdim=True)
    places = torch.arange(items.shape[1], device=items.device)
    left_out = (torch.rand(items.shape, device=items.device) < share) & (places != lengths - 1) | (items < 0)
    order = left_out.to(torch.int8).argsort(dim=1, stable=True)
    return items.masked_fill(left_out, -1).gather(1, order)
