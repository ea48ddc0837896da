"""FREEDOM: a frozen item-item graph from features beside a denoised user-item graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mmrec import graph, losses
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.encode.features import FeatureTable
from mmrec.models.contracts import ModelConfig, Vectors
from mmrec.nn import embedding_tables, feature_projections, gather, gather_batch


class Config(ModelConfig):
    """Hyper-parameters of FREEDOM."""

    dim: int = Field(64, ge=1, description="width of the embeddings")
    ui_layers: int = Field(2, ge=0, description="layers over the user-item graph")
    item_layers: int = Field(1, ge=0, description="layers over the item graph")
    knn_k: int = Field(10, ge=1, description="neighbours of an item in the item graph, itself included")
    image_weight: float = Field(
        0.1, ge=0, le=1, description="share of the image graph; other modalities share the rest"
    )
    dropout: float = Field(0.8, ge=0, lt=1, description="share of user-item edges left out in each epoch")
    modality_weight: float = Field(1e-4, ge=0, description="weight of the losses on projected features")
    train_features: bool = Field(
        False, description="train a copy of the features, as the published code does"
    )


class FREEDOM(nn.Module):
    """Two graphs: one frozen over items, one pruned anew in every epoch over users and items.

    ``H = G^L_ii Q`` with the frozen item graph G (mean over the k nearest items of each modality, mixed);
    ``[Ū; Ī] = mean_{l=0..L_ui} Ã^l [P; Q]`` with the pruned graph Ã in training and the full Â in evaluation;
    ``s(u, i) = ū_u · (ī_i + h_i)``; the loss is ``BPR(s) + λ Σ_m BPR(ū_u · t_m(i))`` with ``t_m(i) = W_m x_i + b_m``.

    A pair counts for the term of modality m only if both items have it. An item without any modality has an empty
    row in G and lives from the user-item graph alone. The paper writes a symmetric normalisation of G; its code, and
    this one, take the mean over neighbours.

    Source: Zhou and Shen, "A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal
    Recommendation", ACM MM 2023.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "pairs"
    modalities: ClassVar = "required"
    cold_items: ClassVar = True

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config = config
        self.n_users = data.n_users
        self.embeddings = embedding_tables(data.n_users, data.n_items, config.dim)
        self.projections = feature_projections(data, config.dim, train_features=config.train_features)
        self.tables = data.features
        self.weights = graph.modality_weights(list(data.features), config.image_weight)
        self.item_graph = graph.knn_item_graph(data.features, config.knn_k, self.weights, data.n_items)
        self.edges = graph.edges(data.train)
        self.full_graph = graph.normalize_bipartite(*self.edges, data.n_users, data.n_items)
        self.training_graph = self.full_graph

    def on_epoch(self, generator: torch.Generator) -> None:
        """Prune the user-item graph anew; its degrees are those of the kept edges."""
        if self.config.dropout == 0:
            return
        n_items = len(self.embeddings) - self.n_users
        pruned = graph.pruned_bipartite(self.edges, self.config.dropout, generator, self.n_users, n_items)
        self.training_graph = pruned.to(self.embeddings.device)

    def _item_branch(self) -> Tensor:
        from_items = self.embeddings[self.n_users :]
        for _ in range(self.config.item_layers):
            from_items = graph.propagate(self.item_graph, from_items)
        return from_items

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms of a batch."""
        propagated = graph.propagate_mean(self.training_graph, self.embeddings, self.config.ui_layers)
        users, positives, negatives = gather_batch(propagated, batch, self.n_users)
        from_items = gather(self._item_branch(), torch.cat([batch.positives, batch.negatives]))
        own_positives, own_negatives = from_items.chunk(2)
        positives, negatives = positives + own_positives, negatives + own_negatives
        terms = {"bpr": losses.bpr((users * positives).sum(1), (users * negatives).sum(1))}
        for modality, projection in self.projections.items():
            terms[f"bpr_{modality}"] = self.config.modality_weight * self._modality_loss(
                projection, users, batch
            )
        return terms

    def _modality_loss(self, projection: nn.Module, users: Tensor, batch: PairBatch) -> Tensor:
        present: Tensor = projection.present  # type: ignore[assignment]
        both = (present[batch.positives] & present[batch.negatives]).nonzero().flatten()
        if len(both) == 0:
            return users.sum() * 0  # keeps the gradients defined when no pair of the batch has this modality
        items = torch.stack([batch.positives, batch.negatives])
        if len(both) < len(users):
            users, items = gather(users, both), items[:, both]
        # one gather for both: its backward pass writes a gradient as large as the feature table
        projected = projection(items.flatten())
        positives, negatives = projected.chunk(2)
        return losses.bpr((users * positives).sum(1), (users * negatives).sum(1))

    def vectors(self) -> Vectors:
        """Tables ``(n, dim)`` over the full graph."""
        propagated = graph.propagate_mean(self.full_graph, self.embeddings, self.config.ui_layers)
        return Vectors.from_tables(
            propagated[: self.n_users], propagated[self.n_users :] + self._item_branch()
        )

    def extend(self, features: Mapping[str, FeatureTable]) -> Tensor:
        """Vectors ``(m, dim)`` of new items: what the item graph gives them.

        Without an embedding of their own and without edges to users, ``ī = 0`` and ``h = G^L_ii Q`` with their rows of G,
        in which they are their own neighbour with a zero embedding. The known items' rows stay as they are.
        """
        links, own = graph.links_to_known(features, self.tables, self.config.knn_k, self.weights)
        links = links.to(self.embeddings.device)
        known = self.embeddings[self.n_users :]
        new = known.new_zeros(len(own), known.shape[1])
        for _ in range(self.config.item_layers):
            new = graph.propagate(links, known) + own.to(new)[:, None] * new
            known = graph.propagate(self.item_graph, known)
        return new
