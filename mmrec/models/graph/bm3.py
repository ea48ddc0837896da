"""BM3: self-supervision without negatives, by aligning views of users, items and item features."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmrec import graph
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.models.contracts import ModelConfig, Vectors
from mmrec.nn import embedding_tables, feature_projections, gather, seen_items


class Config(ModelConfig):
    """Hyper-parameters of BM3."""

    dim: int = Field(64, ge=1, description="width of the embeddings")
    layers: int = Field(1, ge=0, description="layers over the user-item graph")
    dropout: float = Field(0.5, ge=0, lt=1, description="share of a target's entries set to 0")
    modality_weight: float = Field(2.0, ge=0, description="weight of the terms on projected features")
    reg: float = Field(0.1, ge=0, description="weight of the norms of the propagated tables")
    train_features: bool = Field(
        False, description="train a copy of the features, as the published code does"
    )


class BM3(nn.Module):
    """Each view of a liked item, and of the user who liked it, predicts a perturbed copy of another view.

    ``[Ū; Ī] = mean_{l=0..L} Â^l [P; Q]``, ``H = Ī + Q``, ``t_m(i) = W_m x_i + b_m``, one predictor ``f(x) = W x + b``
    for all views, and targets ``x' = dropout(x)`` that pass no gradient. With ``C(a, b) = 1 - mean cos(a, b)`` over
    the pairs (u, i) of a batch the loss is ``C(f(ū_u), h'_i) + C(f(h_i), ū'_u)
    + w Σ_m [C(f(t_m(i)), h'_i) + C(f(t_m(i)), t'_m(i))] + λ (||Ū||_F + ||H||_F) / n_items``, with norms that are not
    squared; ``s(u, i) = f(ū_u) · f(h_i)``, no cosine.

    Sampled negatives are not read. A term of modality m is the mean over the pairs whose item has m. Masks are drawn
    for the rows of a batch, so an item that comes twice has two masks where the published code draws one per step:
    each row's distribution is the same. Items without training interactions score 0: nothing trains their embeddings.

    Source: Zhou, Zhou, Liu, Zeng, Miao, Wang, You, Jiang, "Bootstrap Latent Representations for Multi-modal
    Recommendation", WWW 2023.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "pairs"
    modalities: ClassVar = "optional"
    cold_items: ClassVar = False
    seen: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config = config
        self.n_users, self.n_items = data.n_users, data.n_items
        self.embeddings = embedding_tables(data.n_users, data.n_items, config.dim)
        self.projections = feature_projections(data, config.dim, train_features=config.train_features)
        for projection in self.projections.values():
            nn.init.xavier_normal_(projection.map.weight)  # type: ignore[union-attr,arg-type]
        self.predictor = nn.Linear(config.dim, config.dim)
        nn.init.xavier_normal_(self.predictor.weight)
        self.graph = graph.normalize_bipartite(*graph.edges(data.train), data.n_users, data.n_items)
        self.register_buffer("seen", seen_items(data), persistent=False)

    def _tables(self) -> tuple[Tensor, Tensor]:
        """Ū ``(n_users, dim)`` and H ``(n_items, dim)``."""
        propagated = graph.propagate_mean(self.graph, self.embeddings, self.config.layers)
        return propagated[: self.n_users], propagated[self.n_users :] + self.embeddings[self.n_users :]

    def _target(self, rows: Tensor) -> Tensor:
        return F.dropout(rows.detach(), self.config.dropout)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms of a batch; only its own items are projected."""
        all_users, all_items = self._tables()
        users, items = gather(all_users, batch.users), gather(all_items, batch.positives)
        user_targets, item_targets = self._target(users), self._target(items)
        terms = {
            "user_to_item": distance(self.predictor(users), item_targets),
            "item_to_user": distance(self.predictor(items), user_targets),
        }
        for modality, projection in self.projections.items():
            own = projection.present[batch.positives]  # type: ignore[index]
            projected = projection(batch.positives[own])
            predicted, targets = self.predictor(projected), self._target(projected)
            weight = self.config.modality_weight
            terms[f"{modality}_to_item"] = weight * distance(predicted, item_targets[own])
            terms[f"{modality}_to_itself"] = weight * distance(predicted, targets)
        terms["penalty"] = self.config.reg * (all_users.norm() + all_items.norm()) / self.n_items
        return terms

    def vectors(self) -> Vectors:
        """Predicted tables ``(n, dim)`` over the full graph."""
        users, items = self._tables()
        return Vectors.from_tables(self.predictor(users), self.predictor(items) * self.seen)


def distance(rows: Tensor, targets: Tensor) -> Tensor:
    """``1 - mean cos`` of pairs ``(b, d)``, in [0, 2]; 0 for no pairs."""
    if len(rows) == 0:
        return rows.sum()  # 0, and keeps the gradients defined
    return 1 - torch.cosine_similarity(rows, targets, dim=1).mean()
