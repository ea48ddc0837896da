"""GUME: a user-item graph with edges between items that agree in all modalities, and enhanced user preferences."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from mmrec import graph, losses
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.encode.features import FeatureTable
from mmrec.models.contracts import ModelConfig, Vectors
from mmrec.neighbours import item_neighbours
from mmrec.nn import (
    batch_nodes,
    content_nodes,
    contrast_content,
    embedding_tables,
    feature_projections,
    gather,
    perturb,
)


class Config(ModelConfig):
    """Hyper-parameters of GUME."""

    dim: int = Field(64, ge=1, description="width of the embeddings")
    ui_layers: int = Field(3, ge=0, description="layers over the augmented user-item graph")
    item_layers: int = Field(1, ge=0, description="layers over the item graphs")
    knn_k: int = Field(10, ge=1, description="neighbours of an item in an item graph, itself included")
    behaviour_weight: float = Field(0.01, ge=0, description="InfoNCE between content and collaborative part")
    behaviour_temperature: float = Field(0.2, gt=0, description="temperature of that InfoNCE")
    user_weight: float = Field(0.01, ge=0, description="InfoNCE terms of the users' content")
    user_temperature: float = Field(0.1, gt=0, description="temperature of those InfoNCE terms")
    noise: float = Field(0.1, ge=0, description="length of the noise in the users' views")
    match_weight: float = Field(
        0.01, ge=0, description="distance of the modalities' mean and variance from each other"
    )
    reg: float = Field(1e-5, ge=0, description="weight of the L2 penalty on the batch's final vectors")
    extended_reg: float = Field(0.1, ge=0, description="the same on the positives' extended content vectors")
    train_features: bool = Field(
        False, description="train a copy of the features, as the published code does"
    )


class GUME(nn.Module):
    """A collaborative part B plus a content part Z, over a user-item graph augmented with agreeing items.

    1. Â normalises ``[[0, R], [R^T, J]]`` by its row sums on both sides; ``J_ij = 1`` where j is another of the k
       nearest items of i in every modality that i has. R̂ is its user-item block, ``conv(X) = mean_l Â^l X``.
    2. ``E_m = S_m^L (Q ⊙ sigmoid(A_m (W_m X_m + b_m) + a_m))`` over the kNN graph S_m with cosine weights;
       ``M_m = [R̂ E_m; E_m]``.
    3. ``B = conv([P; Q])``, and for training only the extended ``T = mean_m conv([P_m; E_m])`` with own users P_m.
    4. ``C = Σ_m β_m M_m``, ``β = softmax_m(w · tanh(V M_m + v))``; ``Z = mean(C, sigmoid(G_m B + g_m) ⊙ (M_m - C))``.
    5. ``s(u, i) = (b + z)_u · (b + z)_i``. The loss is BPR, the L2 penalty, the distances of mean and variance
       (scalars over all entries) of the M_m, InfoNCE(Z, B) over users and positives, InfoNCE(T, Z), of two noisy
       views of Z and of two of T over users, and the L2 penalty on T at the positives. A noisy view is
       ``x + noise sign(x) ⊙ norm(r)`` with uniform r.

    What lacks a modality (items, and users whose items all lack it) has a zero row in M_m and takes no part in β,
    in the mean of Z, in mean and variance, nor, without any modality, in InfoNCE. T is averaged before it is
    propagated, which is the same. Noise is drawn for the rows of a batch only.

    Source: Lin, Meng, Wang, Long, Zhou, Xiao, "GUME: Graphs and User Modalities Enhancement for Long-Tail Multimodal
    Recommendation", CIKM 2024.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "pairs"
    modalities: ClassVar = "required"
    cold_items: ClassVar = True
    content: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config = config
        self.n_users = data.n_users
        graph.check_modalities(data.features)
        tables = dict(sorted(data.features.items()))
        content = torch.stack([content_nodes(data, table) for table in tables.values()])
        self.register_buffer("content", content, persistent=False)
        self.embeddings = embedding_tables(data.n_users, data.n_items, config.dim)
        self.preferences = nn.ParameterDict(
            {m: nn.Parameter(nn.init.xavier_uniform_(torch.empty(data.n_users, config.dim))) for m in tables}
        )
        self.projections = feature_projections(data, config.dim, train_features=config.train_features)
        self.purifiers = nn.ModuleDict({m: nn.Linear(config.dim, config.dim) for m in tables})
        self.gates = nn.ModuleDict({m: nn.Linear(config.dim, config.dim) for m in tables})
        self.query = nn.Sequential(
            nn.Linear(config.dim, config.dim), nn.Tanh(), nn.Linear(config.dim, 1, bias=False)
        )
        self.item_graphs = nn.ModuleDict(
            {m: graph.modality_graph(table, config.knn_k, "cosine") for m, table in tables.items()}
        )
        agreeing = agreeing_items(tables, config.knn_k)
        self.graph = augmented_graph(*graph.edges(data.train), *agreeing, data)
        self.histories = graph.user_item_block(self.graph, data.n_users)

    def _views(self) -> Tensor:
        """``M_m (n_modalities, n_users + n_items, dim)``."""
        own, views = self.embeddings[self.n_users :], []
        for (m, projection), content in zip(self.projections.items(), self.content, strict=True):
            gate = torch.sigmoid(self.purifiers[m](projection.catalogue()))  # type: ignore[operator]
            items = own * gate * content[self.n_users :, None]
            for _ in range(self.config.item_layers):
                items = graph.propagate(self.item_graphs[m], items)  # type: ignore[arg-type]
            views.append(torch.cat([graph.propagate(self.histories, items), items]))
        return torch.stack(views)

    def _extended(self, views: Tensor) -> Tensor:
        """T ``(n_users + n_items, dim)``."""
        users = torch.stack(list(self.preferences.values())).mean(0)
        start = torch.cat([users, views[:, self.n_users :].mean(0)])
        return graph.propagate_mean(self.graph, start, self.config.ui_layers)

    def _fuse(self, behaviour: Tensor, views: Tensor, content: Tensor) -> Tensor:
        """Z ``(b, dim)`` from the same rows of B, of the views and of the mask ``(n_modalities, b)``."""
        attention = self.query(views).masked_fill(~content[..., None], -1e9)
        common = (attention.softmax(0) * views).sum(0)
        gates = torch.sigmoid(torch.stack([gate(behaviour) for gate in self.gates.values()]))
        specific = (gates * (views - common) * content[..., None]).sum(0)
        fused: Tensor = (specific + common) / (1 + content.sum(0))[:, None]
        return fused

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms of a batch; Z is computed for its rows only."""
        behaviour = graph.propagate_mean(self.graph, self.embeddings, self.config.ui_layers)
        views = self._views()
        ids = batch_nodes(batch, self.n_users)
        own = gather(behaviour, ids)
        content = self.content[:, ids]
        side = self._fuse(own, torch.stack([gather(view, ids) for view in views]), content)
        users, positives, negatives = (own + side).chunk(3)
        extended = gather(self._extended(views), ids[: 2 * len(batch.users)])
        return {
            "bpr": losses.bpr((users * positives).sum(1), (users * negatives).sum(1)),
            "penalty": self.config.reg * losses.squared_penalty(users, positives, negatives),
            "match": self.config.match_weight * self._match(views),
            **self._contrast(ids, own, side, extended, content.any(0)),
            "extended": self.config.extended_reg * losses.squared_penalty(extended.chunk(2)[1]),
        }

    def _contrast(
        self, ids: Tensor, own: Tensor, side: Tensor, extended: Tensor, content: Tensor
    ) -> dict[str, Tensor]:
        rows = len(ids) // 3
        users, items = slice(rows), slice(rows, 2 * rows)
        tau, noise = self.config.user_temperature, self.config.noise

        def between(one: Tensor, two: Tensor, kind: slice, temperature: float) -> Tensor:
            return contrast_content(one, two, temperature, ids[kind], content[kind])

        behaviour = [
            between(side[kind], own[kind], kind, self.config.behaviour_temperature) for kind in (users, items)
        ]
        preference = between(extended[users], side[users], users, tau)
        for own_view in (side[users], extended[users]):
            preference = preference + between(perturb(own_view, noise), perturb(own_view, noise), users, tau)
        return {
            "behaviour": self.config.behaviour_weight * (behaviour[0] + behaviour[1]),
            "users": self.config.user_weight * preference,
        }

    def _match(self, views: Tensor) -> Tensor:
        """Distances of the modalities' scalar means and variances, the mean over pairs; 0 for one modality."""
        rows = self.content.sum(1)
        n = (rows * views.shape[2]).clamp(min=2)
        means = views.sum((1, 2)) / n  # rows without content are zero
        deviations = (views - means[:, None, None]) * self.content[..., None]
        variances = deviations.pow(2).sum((1, 2)) / (n - 1)
        pairs = list(combinations(range(len(views)), 2))
        distances = [(means[a] - means[b]).abs() + (variances[a] - variances[b]).abs() for a, b in pairs]
        return torch.stack(distances).mean() if distances else views.sum() * 0

    def vectors(self) -> Vectors:
        """Final tables ``(n, dim)``."""
        behaviour = graph.propagate_mean(self.graph, self.embeddings, self.config.ui_layers)
        final = behaviour + self._fuse(behaviour, self._views(), self.content)
        return Vectors.from_tables(final[: self.n_users], final[self.n_users :])


def agreeing_items(features: Mapping[str, FeatureTable], k: int) -> tuple[Tensor, Tensor]:
    """Directed pairs of an item and another that is among its k nearest in every modality it has ``(n_pairs,)``."""
    tables = list(features.values())
    n_items = len(tables[0].present)
    found = [item_neighbours(table, k) for table in tables]
    keys, count = torch.unique(
        torch.cat([rows * n_items + columns for rows, columns, _ in found]), return_counts=True
    )
    rows, columns = keys // n_items, keys % n_items
    wanted = torch.stack([torch.from_numpy(np.array(table.present)) for table in tables]).sum(0)
    keep = (count == wanted[rows]) & (rows != columns)
    return rows[keep], columns[keep]


def augmented_graph(
    users: Tensor, items: Tensor, rows: Tensor, columns: Tensor, data: TrainingData
) -> graph.SparseMatrix:
    """Â of the edges ``(n_edges,)`` and item pairs ``(n_pairs,)``, see :class:`GUME`."""
    n = data.n_users + data.n_items
    nodes = items + data.n_users
    starts = torch.cat([users, nodes, rows + data.n_users])
    ends = torch.cat([nodes, users, columns + data.n_users])
    degrees = torch.bincount(starts, minlength=n).clamp(min=1).float()  # a pair may end in a node without any
    values = (degrees[starts] * degrees[ends]).rsqrt()
    return graph.SparseMatrix.from_entries(starts, ends, values, (n, n))
