"""PGL: training on a principal part of the user-item graph, inference on all of it, no item ids."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds
from torch import Tensor, nn

from mmrec import graph, losses
from mmrec.cache import cached
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.models.contracts import ModelConfig, Vectors
from mmrec.nn import feature_projections, gather_batch, seen_items

BLOCK_BYTES = 64 * 2**20  # of one block of the principal part before small entries are left out


class Config(ModelConfig):
    """Hyper-parameters of PGL."""

    dim: int = Field(64, ge=1, description="width of the vectors of each modality")
    ui_layers: int = Field(2, ge=0, description="layers over the user-item graph")
    item_layers: int = Field(1, ge=0, description="layers over the item graph")
    knn_k: int = Field(10, ge=1, description="neighbours of an item in the item graph, itself included")
    image_weight: float = Field(
        0.1, ge=0, le=1, description="share of the image graph; other modalities share the rest"
    )
    principal: Literal["local", "global"] = Field(
        "local", description="train on edges drawn by degree in each epoch, or on singular directions"
    )
    keep: float = Field(0.3, gt=0, le=1, description="local: share of the user-item edges kept in each epoch")
    svd_rank: int = Field(32, ge=1, description="global: singular directions computed")
    svd_kept: int = Field(8, ge=1, description="global: largest of them that make up the graph")
    svd_threshold: float = Field(1e-3, gt=0, description="global: smaller entries are left out")
    dropout: float = Field(0.2, ge=0, lt=1, description="share of values left out in a view of InfoNCE")
    contrast_weight: float = Field(0.05, ge=0, description="weight of InfoNCE between two such views")
    temperature: float = Field(0.2, gt=0, description="temperature of InfoNCE")
    train_features: bool = Field(
        False, description="train a copy of the features, as the published code does"
    )


class PGL(nn.Module):
    """Users have ids, items only content: ``Q = [norm(W_m X_m + b_m)]_m`` side by side, ``P`` as wide.

    ``[Ū; Ī] = mean_{l=0..L} Ã^l [P; Q]`` with the principal part Ã in training and the full Â in evaluation;
    ``s(u, i) = ū_u · (ī_i + h_i)`` with ``H = G^L' Q`` over the frozen item graph (mean over the k nearest). The loss
    is BPR and ``λ/2`` times the sum over the batch's users and positives of InfoNCE between two dropout masks of the
    same vectors.

    ``local``: edges drawn without replacement with weights ``1 / sqrt(d_u d_i)``, normalised by their own degrees.
    ``global``: of the singular values ``s_1 >= … >= s_r`` and vectors of the user-item block of Â, the graph
    ``Σ_{j<=k} s_j s_{r-k+j} x_j y_j^T`` without entries below the threshold. That pairing of large with small
    singular values is the published code's. It decomposes Â, where each singular value comes twice, so its
    rank 64 and 16 directions are 32 and 8 here. A smaller matrix has all its directions computed.

    An item without a modality has a zero row there. The published configs set λ to 0; the logs of the published
    results do not.

    Source: Yu, Tan, Lu, Bao, "Mind Individual Information! Principal Graph Learning for Multimedia Recommendation",
    AAAI 2025.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "pairs"
    modalities: ClassVar = "required"
    cold_items: ClassVar = True

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config = config
        self.n_users, self.n_items = data.n_users, data.n_items
        weights = graph.modality_weights(list(data.features), config.image_weight)
        # saved, because nothing else in a checkpoint has the catalogue's size: another catalogue is then refused
        self.register_buffer("seen", seen_items(data))
        self.users = nn.ParameterDict(
            {
                m: nn.Parameter(nn.init.xavier_uniform_(torch.empty(data.n_users, config.dim)))
                for m in sorted(data.features)
            }
        )
        self.projections = feature_projections(data, config.dim, train_features=config.train_features)
        self.item_graph = graph.knn_item_graph(data.features, config.knn_k, weights, data.n_items)
        self.edges = graph.edges(data.train)
        self.full_graph = graph.normalize_bipartite(*self.edges, data.n_users, data.n_items)
        self.training_graph = self.full_graph
        if config.principal == "global":
            self.training_graph = principal_graph(
                data.train, data.n_items, config.svd_rank, config.svd_kept, config.svd_threshold
            )

    def on_epoch(self, generator: torch.Generator) -> None:
        """Draw the edges of the local principal part; the global one is fixed."""
        if self.config.principal == "global" or self.config.keep == 1:
            return
        left_out = 1 - self.config.keep
        drawn = graph.pruned_bipartite(self.edges, left_out, generator, self.n_users, self.n_items)
        self.training_graph = drawn.to(self.full_graph.values.device)

    def _tables(self, user_item_graph: graph.SparseMatrix) -> Tensor:
        """Final vectors of users, then items."""
        items = torch.cat(
            [F.normalize(p.catalogue(), dim=1) for p in self.projections.values()],  # type: ignore[operator]
            dim=1,
        )
        embeddings = torch.cat([torch.cat(list(self.users.values()), 1), items])
        propagated = graph.propagate_mean(user_item_graph, embeddings, self.config.ui_layers)
        for _ in range(self.config.item_layers):
            items = graph.propagate(self.item_graph, items)
        return propagated + F.pad(items, (0, 0, self.n_users, 0))

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms of a batch."""
        users, positives, negatives = gather_batch(self._tables(self.training_graph), batch, self.n_users)
        terms = {"bpr": losses.bpr((users * positives).sum(1), (users * negatives).sum(1))}
        if self.config.contrast_weight > 0:
            both = self._contrast(users, batch.users) + self._contrast(positives, batch.positives)
            terms["contrast"] = self.config.contrast_weight / 2 * both
        return terms

    def _contrast(self, rows: Tensor, ids: Tensor) -> Tensor:
        one, two = (F.dropout(rows, self.config.dropout, self.training) for _ in range(2))
        return losses.info_nce(one, two, self.config.temperature, ids)

    def vectors(self) -> Vectors:
        """Final tables ``(n, n_modalities dim)`` over the full graph."""
        tables = self._tables(self.full_graph)
        return Vectors.from_tables(tables[: self.n_users], tables[self.n_users :])


def principal_graph(
    train: Histories, n_items: int, rank: int, kept: int, threshold: float
) -> graph.SparseMatrix:
    """The global principal part ``(n_users + n_items, n_users + n_items)``, see :class:`PGL`.

    Made in blocks of users, never as a dense whole, and once per machine for the histories and settings.
    """

    def make() -> dict[str, NDArray[np.generic]]:
        users, values, items = _singular(train, n_items, rank)
        top = min(kept, len(values))
        users = users[:, :top] * (values[:top] * values[len(values) - top :])
        step = max(1, BLOCK_BYTES // (8 * n_items))
        found = []
        for start in range(0, train.n_users, step):
            block = users[start : start + step] @ items[:top]
            rows, columns = np.nonzero(block >= threshold)
            found.append((rows + start, columns, block[rows, columns].astype(np.float32)))
        rows, columns, entries = (np.concatenate(part) for part in zip(*found, strict=True))
        return {"rows": rows, "columns": columns, "values": entries}

    settings = {"rank": rank, "kept": kept, "threshold": threshold, "n_items": n_items}
    arrays = cached("principal-graph-1", {"train": train.hash, **settings}, make)
    users, items, values = (torch.from_numpy(arrays[key]) for key in ("rows", "columns", "values"))
    items = items + train.n_users
    n = train.n_users + n_items
    return graph.SparseMatrix.from_entries(
        torch.cat([users, items]), torch.cat([items, users]), values.repeat(2), (n, n), symmetric=True
    )


def _singular(
    train: Histories, n_items: int, rank: int
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """The largest singular values, descending, with their vectors ``(n_users, r)`` and ``(r, n_items)``."""
    degrees = train.counts[train.users] * np.bincount(train.items, minlength=n_items)[train.items]
    shape = (train.n_users, n_items)
    block = csr_array((degrees**-0.5, train.items, train.offsets), shape=shape)
    if rank < min(shape):
        users, values, items = svds(block, rank, v0=np.ones(min(shape)))
    else:
        users, values, items = np.linalg.svd(block.toarray(), full_matrices=False)
    order = np.argsort(-values)
    return users[:, order], values[order], items[order]
