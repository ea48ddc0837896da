"""MGCN: features purified by item ids, three graph views, and a fusion into shared and specific parts."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mmrec import graph, losses
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.encode.features import FeatureTable
from mmrec.models.contracts import ModelConfig, Vectors
from mmrec.nn import (
    FeatureProjection,
    batch_nodes,
    content_nodes,
    embedding_tables,
    frozen_linear,
    gather,
    product_rows,
)
from mmrec.ragged import first_places


class Config(ModelConfig):
    """Hyper-parameters of MGCN."""

    dim: int = Field(64, ge=1, description="width of the embeddings")
    ui_layers: int = Field(2, ge=0, description="layers over the user-item graph")
    item_layers: int = Field(1, ge=0, description="layers over each modality's item graph")
    knn_k: int = Field(10, ge=1, description="neighbours of an item in the item graphs, itself included")
    contrast_weight: float = Field(
        1e-2, ge=0, description="weight of the contrast between content and behaviour"
    )
    temperature: float = Field(0.2, gt=0, description="temperature of the contrast")
    reg: float = Field(1e-4, ge=0, description="weight of the L2 penalty on the batch's final vectors")
    train_features: bool = Field(
        False, description="train a copy of the features, as the published code does"
    )


class MGCN(nn.Module):
    """Content gates the item embeddings, travels over item graphs to the users, and joins the behaviour there.

    Purified ``E_m = S_m^L (Q ⊙ σ(A_m (W_m x + b_m) + a_m))`` with the frozen cosine graph ``S_m`` of modality m;
    ``M_m = [R̂ E_m; E_m]`` with the user-item block R̂ of Â; behaviour ``B = mean_{l=0..L_ui} Â^l [P; Q]``.
    Fusion per node: ``β = softmax_m(w · tanh(V M_m + v))``, shared ``C = Σ_m β_m M_m``, specific
    ``D_m = σ(G_m B + g_m) ⊙ (M_m - C)``, side ``Z = (C + Σ_m D_m) / (1 + number of modalities)``.
    ``s(u, i) = (b_u + z_u) · (b_i + z_i)``; the loss is ``BPR + λ_c [InfoNCE(Z_i, B_i) + InfoNCE(Z_u, B_u)]`` over
    the batch's distinct users and distinct positives (a node that comes twice is no negative of itself), plus L2 of
    the batch's final vectors.

    A modality that an item lacks (a user: in all training items) has no share in β and no specific part; nodes without
    any live from B alone.

    Source: Yu, Tan, Lu, Bao, "Multi-View Graph Convolutional Network for Multimedia Recommendation", ACM MM 2023.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "pairs"
    modalities: ClassVar = "required"
    cold_items: ClassVar = True
    present: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        graph.check_modalities(data.features)
        self.config = config
        self.n_users = data.n_users
        self.embeddings = embedding_tables(data.n_users, data.n_items, config.dim)
        self.views = nn.ModuleDict(
            {modality: View(table, config) for modality, table in sorted(data.features.items())}
        )
        self.query = nn.Linear(config.dim, config.dim)
        self.query_out = nn.Linear(config.dim, 1, bias=False)
        self.graph = graph.normalize_bipartite(*graph.edges(data.train), data.n_users, data.n_items)
        self.histories = graph.user_item_block(self.graph, data.n_users)  # rows do not sum to 1
        content = [content_nodes(data, table) for _, table in sorted(data.features.items())]
        self.register_buffer("present", torch.stack(content, 1), persistent=False)

    def _views(self) -> list[View]:
        return list(self.views.values())  # type: ignore[arg-type]

    def _modality_views(self) -> Tensor:
        """All ``M_m`` side by side, ``(n_users + n_items, n_modalities * dim)``."""
        items = torch.cat([view(self.embeddings[self.n_users :]) for view in self._views()], 1)
        return torch.cat([graph.propagate(self.histories, items), items])

    def _fuse(self, views: Tensor, behaviour: Tensor, present: Tensor) -> Tensor:
        """Z ``(b, dim)`` of nodes from their rows of ``M_m``, of B and of ``present``."""
        parts = views.view(len(views), len(self.views), -1)
        logits = self.query_out(torch.tanh(self.query(parts))).squeeze(2)
        # A finite low value, not -inf: a node without any modality must not become NaN.
        shares = logits.masked_fill(~present, torch.finfo(logits.dtype).min).softmax(1) * present
        shared = (shares.unsqueeze(2) * parts).sum(1)
        total = shared
        for number, view in enumerate(self._views()):
            specific = torch.sigmoid(view.behaviour(behaviour)) * (parts[:, number] - shared)
            total = total + specific * present[:, number, None]
        fused: Tensor = total / (1 + len(self.views))
        return fused

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms of a batch; only its own nodes are fused."""
        nodes = batch_nodes(batch, self.n_users)
        behaviour = gather(graph.propagate_mean(self.graph, self.embeddings, self.config.ui_layers), nodes)
        side = self._fuse(gather(self._modality_views(), nodes), behaviour, self.present[nodes])
        users, positives, negatives = (behaviour + side).chunk(3)
        terms = {
            "bpr": losses.bpr((users * positives).sum(1), (users * negatives).sum(1)),
            "penalty": self.config.reg * losses.squared_penalty(users, positives, negatives),
        }
        parts = zip(side.chunk(3), behaviour.chunk(3), nodes.chunk(3), strict=True)
        for name, part in zip(("users", "items"), parts, strict=False):  # not the negatives
            terms[f"contrast_{name}"] = self.config.contrast_weight * self._contrast(*part)
        return terms

    def _contrast(self, side: Tensor, behaviour: Tensor, nodes: Tensor) -> Tensor:
        """InfoNCE over the distinct ones among the nodes ``(b,)`` that have content."""
        places = first_places(nodes)
        places = places[self.present[nodes[places]].any(1)]
        if len(places) == 0:
            return side.sum() * 0  # keeps the gradients defined
        return losses.info_nce(gather(side, places), gather(behaviour, places), self.config.temperature)

    def vectors(self) -> Vectors:
        """Tables ``B + Z`` ``(n, dim)``."""
        behaviour = graph.propagate_mean(self.graph, self.embeddings, self.config.ui_layers)
        final = behaviour + self._fuse(self._modality_views(), behaviour, self.present)
        return Vectors.from_tables(final[: self.n_users], final[self.n_users :])


class View(nn.Module):
    """What one modality makes of the item embeddings: purified by its content, then sent over its item graph."""

    def __init__(self, table: FeatureTable, config: Config) -> None:
        super().__init__()
        self.layers = config.item_layers
        self.projection = FeatureProjection(table, config.dim, train_features=config.train_features)
        self.purifier = nn.Linear(config.dim, config.dim)
        self.behaviour = nn.Linear(config.dim, config.dim)  # the gate of the specific part
        self.graph = graph.modality_graph(table, config.knn_k, "cosine")

    def forward(self, ids: Tensor) -> Tensor:
        """``S^L (Q ⊙ σ(A (W x + b) + a))`` ``(n_items, dim)`` of the embeddings Q; absent items have zeros."""
        first = self.projection.map
        # Two affine maps in a row are one, with A W and A b + a: a single product over the catalogue.
        weight, bias = self.purifier.weight @ first.weight, self.purifier(first.bias)
        gate = torch.sigmoid(frozen_linear(product_rows(self.projection.features), weight, bias))
        items = ids * gate * self.projection.present.unsqueeze(1)
        for _ in range(self.layers):
            items = graph.propagate(self.graph, items)
        return items
