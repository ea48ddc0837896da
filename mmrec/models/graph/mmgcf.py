"""MMGCF: LightGCN item vectors fused late with projected features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmrec import graph, losses
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.models.contracts import ModelConfig, Vectors
from mmrec.nn import embedding_tables, feature_projections, gather_batch, seen_items


class Config(ModelConfig):
    """Hyper-parameters of MMGCF."""

    dim: int = Field(64, ge=1, description="width of the embeddings")
    layers: int = Field(2, ge=0, description="layers over the user-item graph")
    reg: float = Field(1e-3, ge=0, description="weight of L2 on the batch's layer-0 embeddings")
    fusion: Literal["mean", "sum", "concat"] = Field(
        "mean", description="how vectors are joined; concat is followed by a linear map"
    )
    weighting: Literal["equal", "alpha", "normalized"] = Field(
        "equal", description="content as one half, a learned share of it, or vectors of equal length"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="share of user-item edges left out in each epoch")


class MMGCF(nn.Module):
    """``[Ū; Ī] = mean_{l=0..L} Ã^l [P; Q]``, ``s(u, i) = ū_u · fused(i)``, ``BPR + reg L2(p_u, q_i, q_j)``.

    With ``F_m = W_m x_i`` and fuse the mean, the sum, or a linear map of the vectors side by side, ``fused`` is

    - equal: ``fuse(ī, fuse(F_1, F_2, …))``;
    - alpha: ``fuse(a ī, (1 - a) F_1, (1 - a) F_2, …)`` with a learned scalar a in (0, 1);
    - normalized: ``fuse(M ī/|ī|, F_1/|F_1|, F_2/|F_2|, …)`` for M modalities; only here F_m has a bias, which the other
      two would add to every item alike.

    Training propagates over a graph with edges left out (as in FREEDOM), evaluation over the full one. A modality that an
    item lacks adds 0, so the collaborative part weighs the same in every item. An item without training interactions
    keeps only its content.

    Source: "Multimodal Graph Collaborative Filtering for Recommendation with Graph Convolutional Networks", UMAP 2026.
    Written from its published code, without the paper.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "pairs"
    modalities: ClassVar = "required"
    cold_items: ClassVar = True
    seen: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config = config
        self.n_users = data.n_users
        graph.check_modalities(data.features)
        self.embeddings = embedding_tables(data.n_users, data.n_items, config.dim)
        self.projections = feature_projections(data, config.dim, bias=config.weighting == "normalized")
        if config.weighting == "alpha":
            self.share = nn.Parameter(torch.zeros(()))
        if config.fusion == "concat":
            n = len(self.projections)
            joined = {"content": n, "item": 2} if config.weighting == "equal" else {"item": n + 1}
            self.joints = nn.ModuleDict(
                {
                    name: nn.Linear(parts * config.dim, config.dim, bias=False)
                    for name, parts in joined.items()
                }
            )
        self.edges = graph.edges(data.train)
        self.full_graph = graph.normalize_bipartite(*self.edges, data.n_users, data.n_items)
        self.training_graph = self.full_graph
        self.register_buffer("seen", seen_items(data), persistent=False)

    def on_epoch(self, generator: torch.Generator) -> None:
        """Prune the user-item graph anew; its degrees are those of the kept edges."""
        if self.config.dropout == 0:
            return
        n_items = len(self.seen)
        pruned = graph.pruned_bipartite(self.edges, self.config.dropout, generator, self.n_users, n_items)
        self.training_graph = pruned.to(self.embeddings.device)

    def _fuse(self, parts: Sequence[Tensor], joint: str) -> Tensor:
        if self.config.fusion == "concat":
            joined: Tensor = self.joints[joint](torch.cat(list(parts), dim=1))
            return joined
        total = torch.stack(list(parts)).sum(0)
        return total / len(parts) if self.config.fusion == "mean" else total

    def _content(self, projection: nn.Module, items: Tensor) -> Tensor:
        projected: Tensor = projection(items)
        if self.config.weighting == "normalized":
            projected = F.normalize(projected, dim=1)
        present: Tensor = projection.present  # type: ignore[assignment]
        return projected * present[items, None]

    def _fused(self, own: Tensor, items: Tensor) -> Tensor:
        """Fused vectors ``(b, dim)`` of items ``(b,)`` with propagated vectors ``own`` ``(b, dim)``."""
        content = [self._content(projection, items) for projection in self.projections.values()]
        if self.config.weighting == "equal":
            return self._fuse([own, self._fuse(content, "content")], "item")
        if self.config.weighting == "alpha":
            share = self.share.sigmoid()
            return self._fuse([share * own, *((1 - share) * part for part in content)], "item")
        return self._fuse([len(content) * F.normalize(own, dim=1), *content], "item")

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms of a batch; only its own items are projected."""
        propagated = graph.propagate_mean(self.training_graph, self.embeddings, self.config.layers)
        users, positives, negatives = gather_batch(propagated, batch, self.n_users)
        items = torch.cat([batch.positives, batch.negatives])
        positives, negatives = self._fused(torch.cat([positives, negatives]), items).chunk(2)
        penalty = losses.squared_penalty(*gather_batch(self.embeddings, batch, self.n_users))
        return {
            "bpr": losses.bpr((users * positives).sum(1), (users * negatives).sum(1)),
            "penalty": self.config.reg * penalty,
        }

    def vectors(self) -> Vectors:
        """Tables ``(n, dim)`` over the full graph."""
        propagated = graph.propagate_mean(self.full_graph, self.embeddings, self.config.layers)
        own = propagated[self.n_users :] * self.seen
        return Vectors.from_tables(
            propagated[: self.n_users], self._fused(own, torch.arange(len(own), device=own.device))
        )
