"""LGMRec: local graphs of behaviour and of content beside a global hypergraph with learned hyperedges."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmrec import graph, losses
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.encode.features import FeatureTable
from mmrec.models.contracts import ModelConfig, Vectors
from mmrec.nn import batch_nodes, content_nodes, embedding_tables, gather, product_rows


class Config(ModelConfig):
    """Hyper-parameters of LGMRec."""

    dim: int = Field(64, ge=1, description="width of the embeddings")
    ui_layers: int = Field(2, ge=0, description="layers of the embeddings over the user-item graph")
    content_layers: int = Field(2, ge=0, description="layers of the projected features over the same graph")
    hyperedges: int = Field(4, ge=1, description="learned hyperedges of each modality")
    hyper_layers: int = Field(1, ge=1, description="layers over the hypergraph")
    keep_rate: float = Field(0.5, gt=0, le=1, description="share of the hypergraph's entries kept in a step")
    alpha: float = Field(0.3, ge=0, description="weight of the hypergraph's part")
    gumbel_temperature: float = Field(0.2, gt=0, description="temperature of the shares in hyperedges")
    contrast_weight: float = Field(
        1e-4, ge=0, description="weight of InfoNCE between modalities, a sum over the batch"
    )
    temperature: float = Field(0.2, gt=0, description="temperature of InfoNCE")
    candidates: Literal["all", "batch"] = Field(
        "all",
        description="InfoNCE's negatives: every user or item (the paper), or the batch's (large catalogues)",
    )
    reg: float = Field(1e-6, ge=0, description="weight of the penalty on the batch's final vectors")


class LGMRec(nn.Module):
    """Local plus global: ``e = c + Σ_m norm(M_m) + α norm(Σ_m G_m)``, ``s(u, i) = e_u · e_i``.

    Local: ``C = mean_{l=0..L} Â^l [P; Q]``; ``M_m = Â^L' [Ū_m; X_m Θ_m]`` with the mean Ū_m over a user's items.

    Global: each item has shares ``h = softmax((X_m H_m + gumbel noise) / t)`` in A hyperedges, and each user shares
    from the sum of ``X_m H_m`` over the history. Starting with the items of C, a layer is ``z = h_I^T Q'``,
    ``Q' <- h_I z``, ``U' <- h_U z``; ``G_m = [U'; Q']`` of the last layer. Training drops entries of h, one draw per
    step; evaluation has neither noise nor dropout, so it is deterministic (the published code draws noise there too).

    The loss is BPR, ``λ1 Σ`` InfoNCE between the modalities' G for the batch's users and for its positives, and the
    norm penalty on the batch's e. InfoNCE is a sum over the batch as published: λ1 depends on the batch size. With
    more than two modalities it is the mean over their pairs, with one it is absent.

    An item without a modality, and a user whose items all lack it, has neither projection nor shares there and is
    no part of its InfoNCE.

    Source: Guo, Li, Li, Wang, Shi, Ruan, "LGMRec: Local and Global Graph Learning for Multimodal Recommendation",
    AAAI 2024. Until July 2024 the published code gave the shares of users from text to the images; not here.
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
        self.embeddings = embedding_tables(data.n_users, data.n_items, config.dim)
        users, items = graph.edges(data.train)
        self.graph = graph.normalize_bipartite(users, items, data.n_users, data.n_items)
        self.histories = graph.SparseMatrix.from_entries(
            users, items, torch.ones(len(users)), (data.n_users, data.n_items)
        )
        branches = [_Modality(config, table, data) for _, table in sorted(data.features.items())]
        self.branches = nn.ModuleList(branches)
        content = torch.stack([branch.content for branch in branches])
        self.register_buffer("content", content, persistent=False)
        self.pairs = list(combinations(range(len(data.features)), 2))

    def _tables(self) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """C, the M_m and the G_m, each ``(n_users + n_items, dim)``."""
        collaborative = graph.propagate_mean(self.graph, self.embeddings, self.config.ui_layers)
        local, hyper = [], []
        for modality in self.branches:
            projected, shares = modality(self.histories)
            for _ in range(self.config.content_layers):
                projected = graph.propagate(self.graph, projected)
            local.append(projected)
            hyper.append(self._through_hyperedges(shares, collaborative[self.n_users :]))
        return collaborative, local, hyper

    def _through_hyperedges(self, shares: Tensor, items: Tensor) -> Tensor:
        shares = F.dropout(shares, 1 - self.config.keep_rate, self.training)
        for _ in range(self.config.hyper_layers):
            every = shares @ (shares[self.n_users :].T @ items)
            items = every[self.n_users :]
        return every

    def _combine(self, collaborative: Tensor, local: Sequence[Tensor], hyper: Sequence[Tensor]) -> Tensor:
        for part in local:
            collaborative = collaborative + F.normalize(part, dim=1)
        return collaborative + self.config.alpha * F.normalize(torch.stack(list(hyper)).sum(0), dim=1)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms of a batch."""
        collaborative, local, hyper = self._tables()
        ids = batch_nodes(batch, self.n_users)
        final = self._combine(
            gather(collaborative, ids),
            [gather(part, ids) for part in local],
            [gather(part, ids) for part in hyper],
        )
        users, positives, negatives = final.chunk(3)
        terms = {
            "bpr": losses.bpr((users * positives).sum(1), (users * negatives).sum(1)),
            "penalty": self.config.reg * losses.norm_penalty(users, positives, negatives),
        }
        if self.pairs:
            contrast = [self._contrast(hyper, one, two, batch) for one, two in self.pairs]
            terms["contrast"] = self.config.contrast_weight * torch.stack(contrast).mean()
        return terms

    def _contrast(self, hyper: Sequence[Tensor], one: int, two: int, batch: PairBatch) -> Tensor:
        """InfoNCE of two modalities, users among users plus items among items."""
        both = self.content[one] & self.content[two]
        contrast = contrast_all if self.config.candidates == "all" else contrast_batch
        users, items = slice(self.n_users), slice(self.n_users, None)
        terms = [
            contrast(hyper[one][kind], hyper[two][kind], self.config.temperature, ids, both[kind])
            for kind, ids in ((users, batch.users), (items, batch.positives))
        ]
        return terms[0] + terms[1]

    def vectors(self) -> Vectors:
        """Final tables ``(n, dim)``."""
        final = self._combine(*self._tables())
        return Vectors.from_tables(final[: self.n_users], final[self.n_users :])


class _Modality(nn.Module):
    """One modality's frozen features with their projection and their hyperedges."""

    features: Tensor
    content: Tensor
    scale: Tensor

    def __init__(self, config: Config, table: FeatureTable, data: TrainingData) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("features", table.tensor(), persistent=False)
        self.projection = nn.Parameter(nn.init.xavier_uniform_(torch.empty(table.dim, config.dim)))
        self.hyperedges = nn.Parameter(nn.init.xavier_uniform_(torch.empty(table.dim, config.hyperedges)))
        self.register_buffer("content", content_nodes(data, table), persistent=False)
        users, items = graph.edges(data.train)
        count = torch.bincount(users[self.content[data.n_users :][items]], minlength=data.n_users)
        self.register_buffer("scale", 1.0 / count.clamp(min=1)[:, None], persistent=False)

    def forward(self, histories: graph.SparseMatrix) -> tuple[Tensor, Tensor]:
        """``[Ū; X Θ] (n_users + n_items, dim)`` and shares in hyperedges ``(n_users + n_items, hyperedges)``."""
        own = product_rows(self.features) @ torch.cat([self.projection, self.hyperedges], 1)
        summed = graph.propagate(histories, own)  # absent items add zeros
        dim = self.config.dim
        logits = torch.cat([summed[:, dim:], own[:, dim:]])
        if self.training:
            shares = F.gumbel_softmax(logits, self.config.gumbel_temperature, dim=1)
        else:
            shares = (logits / self.config.gumbel_temperature).softmax(1)
        return torch.cat([summed[:, :dim] * self.scale, own[:, :dim]]), shares * self.content[:, None]


def contrast_all(
    anchors: Tensor, targets: Tensor, temperature: float, ids: Tensor, content: Tensor
) -> Tensor:
    """Sum over ``ids (b,)`` of InfoNCE of rows of the tables ``(n, d)`` against all rows with content."""
    ids = ids[content[ids]]
    own, targets = F.normalize(gather(anchors, ids), dim=1) / temperature, F.normalize(targets, dim=1)
    candidates = gather(targets, content.nonzero().flatten())
    return losses.log_partition(own, candidates) - (own * gather(targets, ids)).sum()


def contrast_batch(
    anchors: Tensor, targets: Tensor, temperature: float, ids: Tensor, content: Tensor
) -> Tensor:
    """The same against the rows of the batch only."""
    ids = ids[content[ids]]
    if not len(ids):
        return anchors.sum() * 0
    return len(ids) * losses.info_nce(gather(anchors, ids), gather(targets, ids), temperature, ids)
