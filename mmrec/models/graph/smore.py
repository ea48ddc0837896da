"""SMORE: modalities denoised and fused by learned filters over the spectrum of their projected features."""

from __future__ import annotations

from functools import reduce
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmrec import graph, losses
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.models.contracts import ModelConfig, Vectors
from mmrec.nn import (
    batch_nodes,
    content_nodes,
    contrast_content,
    embedding_tables,
    feature_projections,
    gather,
)

FUSED = "all modalities"  # the view of all modalities together, beside one view for each


class Config(ModelConfig):
    """Hyper-parameters of SMORE."""

    dim: int = Field(64, ge=1, description="width of the embeddings")
    ui_layers: int = Field(4, ge=0, description="layers over the user-item graph")
    item_layers: int = Field(1, ge=0, description="layers over the item graphs")
    knn_k: int = Field(15, ge=1, description="neighbours of an item in an item graph, itself included")
    image_knn_k: int = Field(40, ge=1, description="the same for the graph of images")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of the gates' values left out in training")
    contrast_weight: float = Field(
        0.01, ge=0, description="weight of InfoNCE between content and collaborative part"
    )
    temperature: float = Field(0.2, gt=0, description="temperature of InfoNCE")
    reg: float = Field(1e-4, ge=0, description="weight of the L2 penalty on the batch's final vectors")
    train_features: bool = Field(
        False, description="train a copy of the features, as the published code does"
    )


class SMORE(nn.Module):
    """A collaborative part B plus a content part Z gated by it, from one view per modality and a fused one.

    1. ``F_m = W_m X_m + b_m``; filtered in the spectrum (orthonormal real FFT over the ``dim`` columns, shared complex
       filters k): ``c_m = irfft(rfft(F_m) ⊙ k_m)`` and fused ``c_f = irfft(Π_m rfft(F_m) ⊙ k_f)``, the product over
       the modalities that an item has.
    2. ``E_v = S_v^L (Q ⊙ sigmoid(A_v c_v + a_v))`` for each view v: the modalities and f. S_m is the kNN graph with
       cosine weights, S_f the entrywise maximum of all S_m. ``M_v = [R̂ E_v; E_v]`` with the user-item block R̂ of Â.
    3. ``Z = mean_v dropout(sigmoid(G_v B + g_v)) ⊙ P_v ⊙ M_v`` with ``B = mean_l Â^l [P; Q]``, ``P_f = 1`` and
       ``P_m = softmax(q_m(M_f))`` over the columns, ``q_m`` two linear maps with a tanh between.
    4. ``s(u, i) = (b + z)_u · (b + z)_i``; the loss is BPR, InfoNCE between Z and B of the batch's users and of its
       positives, and the L2 penalty on the batch's final vectors.

    The paper has image and text; the product and the maximum extend it to any number of modalities. An item without
    a modality has a zero row in its view; users and items without any content have ``Z = 0`` and are no part of
    InfoNCE. A user or item that comes twice in a batch is no negative of itself.

    Source: Ong and Khong, "Spectrum-based Modality Representation Fusion Graph Convolutional Network for Multimodal
    Recommendation", WSDM 2025.
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
        self.projections = feature_projections(data, config.dim, train_features=config.train_features)
        neighbours = {m: config.image_knn_k if m == "image" else config.knn_k for m in tables}
        graphs = {m: graph.modality_graph(table, neighbours[m], "cosine") for m, table in tables.items()}
        present = dict(zip(tables, content[:, data.n_users :], strict=True))
        graphs[FUSED], present[FUSED] = maximum(list(graphs.values())), content[:, data.n_users :].any(0)
        self.views = nn.ModuleDict({view: _View(config, graphs[view], present[view]) for view in graphs})
        self.gates = nn.ModuleDict({view: nn.Linear(config.dim, config.dim) for view in graphs})
        self.preferences = nn.ModuleDict({m: _preference(config.dim) for m in tables})
        self.graph = graph.normalize_bipartite(*graph.edges(data.train), data.n_users, data.n_items)
        self.histories = graph.user_item_block(self.graph, data.n_users)

    def _spectra(self) -> dict[str, Tensor]:
        """Spectrum ``(n_items, bins)`` of each view before its filter, complex."""
        spectra, factors = {}, []
        for (m, projection), content in zip(self.projections.items(), self.content, strict=True):
            projected = projection.catalogue()  # type: ignore[operator]
            spectra[m] = torch.fft.rfft(projected.float(), norm="ortho")  # there is none in bfloat16
            factors.append(spectra[m].masked_fill(~content[self.n_users :, None], 1))
        return {**spectra, FUSED: reduce(torch.mul, factors)}

    def _content_views(self) -> dict[str, Tensor]:
        """``M_v (n_users + n_items, dim)`` of each view."""
        own = self.embeddings[self.n_users :]
        items = {view: self.views[view](spectrum, own) for view, spectrum in self._spectra().items()}
        return {
            view: torch.cat([graph.propagate(self.histories, rows), rows]) for view, rows in items.items()
        }

    def _fuse(self, behaviour: Tensor, views: dict[str, Tensor]) -> Tensor:
        """Z ``(b, dim)`` from the same rows of B and of the views."""
        parts = []
        for view, rows in views.items():
            gate = torch.sigmoid(self.gates[view](behaviour))
            gate = F.dropout(gate, self.config.dropout, self.training)
            preferred = rows if view == FUSED else self.preferences[view](views[FUSED]).softmax(1) * rows
            parts.append(gate * preferred)
        return torch.stack(parts).mean(0)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms of a batch; gates and preferences are computed for its rows only."""
        behaviour = graph.propagate_mean(self.graph, self.embeddings, self.config.ui_layers)
        ids = batch_nodes(batch, self.n_users)
        own = gather(behaviour, ids)
        side = self._fuse(own, {view: gather(rows, ids) for view, rows in self._content_views().items()})
        users, positives, negatives = (own + side).chunk(3)
        content = self.content.any(0)
        parts = list(zip(side.chunk(3), own.chunk(3), ids.chunk(3), strict=True))
        contrast = [
            contrast_content(z, b, self.config.temperature, nodes, content[nodes])
            for z, b, nodes in parts[:2]  # users and positives
        ]
        return {
            "bpr": losses.bpr((users * positives).sum(1), (users * negatives).sum(1)),
            "contrast": self.config.contrast_weight * (contrast[0] + contrast[1]),
            "penalty": self.config.reg * losses.squared_penalty(users, positives, negatives),
        }

    def vectors(self) -> Vectors:
        """Final tables ``(n, dim)``."""
        behaviour = graph.propagate_mean(self.graph, self.embeddings, self.config.ui_layers)
        final = behaviour + self._fuse(behaviour, self._content_views())
        return Vectors.from_tables(final[: self.n_users], final[self.n_users :])


class _View(nn.Module):
    """From the spectrum of a view to its item rows ``E_v``."""

    present: Tensor

    def __init__(self, config: Config, item_graph: graph.SparseMatrix, present: Tensor) -> None:
        super().__init__()
        self.layers, self.item_graph = config.item_layers, item_graph
        self.filter = nn.Parameter(torch.randn(config.dim // 2 + 1, 2))  # real and imaginary parts
        self.purifier = nn.Linear(config.dim, config.dim)
        self.register_buffer("present", present[:, None], persistent=False)

    def forward(self, spectrum: Tensor, embeddings: Tensor) -> Tensor:
        """``S^L (Q ⊙ sigmoid(A c + a))``, ``(n_items, dim)``; items without this content have zero rows."""
        filtered = torch.fft.irfft(
            spectrum * torch.view_as_complex(self.filter), n=embeddings.shape[1], norm="ortho"
        )
        rows = embeddings * torch.sigmoid(self.purifier(filtered)) * self.present
        for _ in range(self.layers):
            rows = graph.propagate(self.item_graph, rows)
        return rows


def _preference(dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, dim, bias=False))


def maximum(graphs: list[graph.SparseMatrix]) -> graph.SparseMatrix:
    """The entrywise maximum of sparse matrices ``(n, n)`` with values >= 0, over all their entries."""
    width = graphs[0].shape[1]
    keys, place = torch.unique(
        torch.cat([part.rows * width + part.columns for part in graphs]), return_inverse=True
    )
    every = torch.cat([part.values for part in graphs])
    values = torch.zeros(len(keys)).scatter_reduce_(0, place, every, "amax")
    return graph.SparseMatrix.from_entries(keys // width, keys % width, values, graphs[0].shape)
