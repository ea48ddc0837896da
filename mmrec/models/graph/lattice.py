"""LATTICE: an item graph learned from projected features, mixed with the graph of the raw ones."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmrec import graph, losses
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.models.contracts import ModelConfig, Vectors
from mmrec.neighbours import nearest_neighbours
from mmrec.nn import embedding_tables, feature_projections, gather, gather_batch, product_rows


class Config(ModelConfig):
    """Hyper-parameters of LATTICE."""

    dim: int = Field(64, ge=1, description="width of the embeddings and of the projected features")
    ui_layers: int = Field(2, ge=0, description="layers over the user-item graph; 0 is the MF backbone")
    item_layers: int = Field(1, ge=0, description="layers over the item graph")
    knn_k: int = Field(10, ge=1, description="neighbours of an item in the item graphs, itself included")
    frozen_share: float = Field(0.9, ge=0, le=1, description="share of the raw features' graph")
    reg: float = Field(1e-5, ge=0, description="weight of the L2 penalty on the batch's final vectors")
    normalization: Literal["symmetric", "row"] = Field(
        "symmetric", description="of the user-item graph; row, with self-loops, is the published code's"
    )
    train_features: bool = Field(
        False, description="train a copy of the features, as the published code does"
    )


class LATTICE(nn.Module):
    """``A = (1 - μ) norm(Σ_m w_m K_m) + μ Σ_m w_m S_m``: a learned and a frozen item graph.

    ``K_m`` holds the cosines of the k nearest items by projected features ``W_m x + b_m``, ``S_m`` the normalised ones
    by raw features, ``w = softmax`` of learned weights, ``norm(L) = D^-1/2 L D^-1/2`` with row sums D, and negative
    cosines count as 0. ``h = A^L_ii Q``, ``[Ū; Ī] = mean_{l=0..L_ui} Â^l [P; Q]``,
    ``s(u, i) = ū_u · (ī_i + h_i / ||h_i||)``; the loss is BPR and L2 of the batch's final vectors.

    Only the first batch of an epoch learns the graph, with gradients through the kept cosines to ``W_m`` and w; the
    others of the epoch use what it found, without gradients. Evaluation finds neighbours anew. Everything is sparse:
    ``O(n_items k)`` numbers, neighbours in blocks. w is shared out over the modalities that an item has; an item
    without any has ``h = 0`` and lives from the user-item graph alone.

    Source: Zhang, Zhu, Liu, Wu, Wang, Wang, "Mining Latent Structures for Multimedia Recommendation", ACM MM 2021.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "pairs"
    modalities: ClassVar = "required"
    cold_items: ClassVar = True
    present: Tensor
    kept_columns: Tensor
    kept_values: Tensor
    kept_shares: Tensor
    kept_seed: Tensor
    fixed_graph: graph.SparseMatrix | None

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        graph.check_modalities(data.features)
        self.config, self.n_users = config, data.n_users
        self.embeddings = embedding_tables(data.n_users, data.n_items, config.dim)
        self.modality_logits = nn.Parameter(torch.zeros(len(data.features)))
        self.projections = feature_projections(data, config.dim, train_features=config.train_features)
        self.frozen_graphs = nn.ModuleDict(
            {m: graph.modality_graph(data.features[m], config.knn_k, "cosine") for m in self.projections}
        )
        edges = graph.edges(data.train)
        normalize = graph.normalize_bipartite if config.normalization == "symmetric" else random_walk
        self.graph = normalize(*edges, data.n_users, data.n_items)
        present = torch.stack([torch.from_numpy(data.features[m].present) for m in self.projections], 1)
        self.register_buffer("present", present.float(), persistent=False)
        # The epoch's learned graph is saved, so that a run interrupted within the epoch goes on with it.
        width = config.knn_k * len(data.features)
        self.register_buffer("kept_columns", torch.zeros(data.n_items, width, dtype=torch.int64))
        self.register_buffer("kept_values", torch.zeros(data.n_items, width))
        self.register_buffer("kept_shares", torch.zeros(data.n_items, len(data.features)))
        self.register_buffer("kept_seed", torch.tensor(-1))
        self.epoch_seed, self.due = -1, True
        self.fixed_graph = None

    def on_epoch(self, generator: torch.Generator) -> None:
        """Let the next batch learn the graph, unless the one kept is this epoch's (a run resumed within it)."""
        self.epoch_seed = generator.initial_seed()
        self.due = self.epoch_seed != int(self.kept_seed)
        self.fixed_graph = None

    def _shares(self) -> Tensor:
        """``(n_items, n_modalities)``: w shared out over what an item has; zeros where it has nothing."""
        weights = self.modality_logits.softmax(0) * self.present
        return weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)

    def _learn(self) -> tuple[Tensor, Tensor, Tensor]:
        """The learned graph's columns and values ``(n_items, n_modalities * k)``, and the shares."""
        shares = self._shares()
        columns, weights = [], []
        for number, projection in enumerate(self.projections.values()):
            projected = projection.map(product_rows(projection.features)).float()  # type: ignore[operator, arg-type]
            found, cosines = nearest_cosines(projected, projection.present, self.config.knn_k)  # type: ignore[arg-type]
            columns.append(found)
            weights.append(cosines * shares[:, number, None])
        return torch.cat(columns, 1), normalized(torch.cat(columns, 1), torch.cat(weights, 1)), shares

    def _keep(self, columns: Tensor, values: Tensor, shares: Tensor) -> None:
        self.kept_columns.copy_(columns)
        self.kept_values.copy_(values.detach())
        self.kept_shares.copy_(shares.detach())
        self.kept_seed.fill_(self.epoch_seed)
        self.due, self.fixed_graph = False, None

    def _kept_graph(self) -> graph.SparseMatrix:
        """A of the epoch as one matrix without gradients."""
        n_items, width = self.kept_columns.shape
        mu = self.config.frozen_share
        rows = [torch.arange(n_items, device=self.kept_columns.device).repeat_interleave(width)]
        columns, values = [self.kept_columns.flatten()], [(1 - mu) * self.kept_values.flatten()]
        for number, frozen in enumerate(self.frozen_graphs.values()):
            rows.append(frozen.rows)  # type: ignore[arg-type]
            columns.append(frozen.columns.long())  # type: ignore[operator]
            values.append(mu * self.kept_shares[frozen.rows, number] * frozen.values)  # type: ignore[index,operator]
        entries = torch.cat(values)
        used = entries != 0  # padding, and clamped cosines
        return graph.SparseMatrix.from_entries(
            torch.cat(rows)[used], torch.cat(columns)[used], entries[used], (n_items, n_items)
        )

    def _propagate(self, columns: Tensor, values: Tensor, shares: Tensor) -> Tensor:
        """h ``(n_items, dim)``, differentiable in everything."""
        mu, h = self.config.frozen_share, self.embeddings[self.n_users :]
        for _ in range(self.config.item_layers):
            learned = F.embedding_bag(columns, h, mode="sum", per_sample_weights=values)
            frozen = [graph.propagate(matrix, h) for matrix in self.frozen_graphs.values()]  # type: ignore[arg-type]
            h = (1 - mu) * learned + mu * (shares.unsqueeze(2) * torch.stack(frozen, 1)).sum(1)
        return h

    def _item_branch(self) -> Tensor:
        """h of a training step."""
        if self.due:
            learned = self._learn()
            self._keep(*learned)
            return self._propagate(*learned)
        if self.fixed_graph is None:
            self.fixed_graph = self._kept_graph()
        h = self.embeddings[self.n_users :]
        for _ in range(self.config.item_layers):
            h = graph.propagate(self.fixed_graph, h)
        return h

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms of a batch."""
        propagated = graph.propagate_mean(self.graph, self.embeddings, self.config.ui_layers)
        users, positives, negatives = gather_batch(propagated, batch, self.n_users)
        from_items = gather(self._item_branch(), torch.cat([batch.positives, batch.negatives]))
        own_positives, own_negatives = F.normalize(from_items, dim=1).chunk(2)
        positives, negatives = positives + own_positives, negatives + own_negatives
        return {
            "bpr": losses.bpr((users * positives).sum(1), (users * negatives).sum(1)),
            "penalty": self.config.reg * losses.squared_penalty(users, positives, negatives),
        }

    def vectors(self) -> Vectors:
        """Tables ``(n, dim)`` over the graph of the present parameters."""
        propagated = graph.propagate_mean(self.graph, self.embeddings, self.config.ui_layers)
        from_items = F.normalize(self._propagate(*self._learn()), dim=1)
        return Vectors.from_tables(propagated[: self.n_users], propagated[self.n_users :] + from_items)


def nearest_cosines(rows: Tensor, present: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Columns and cosines ``(n, k)`` of the k nearest present rows of each present row ``(n, d)``, itself included.

    The cosines are differentiable, the choice is not. Negative cosines are 0, an item's own is exactly 1. Places
    without a neighbour hold the row itself with 0.
    """
    own = present.nonzero().squeeze(1)
    itself = torch.arange(len(rows), device=rows.device).unsqueeze(1)
    columns, found = itself.repeat(1, k), torch.zeros(len(rows), k, dtype=torch.bool, device=rows.device)
    nearest, _ = nearest_neighbours(rows.detach()[own], k)
    width = nearest.shape[1]
    found[own, :width] = nearest >= 0
    columns[own, :width] = torch.where(nearest >= 0, own[nearest.clamp(min=0)], own.unsqueeze(1))
    unit = F.normalize(rows, dim=1)
    cosines = torch.bmm(gather(unit, columns), unit.unsqueeze(2)).squeeze(2).clamp(min=0)
    return columns, torch.where(columns == itself, 1.0, cosines) * found


def normalized(columns: Tensor, values: Tensor) -> Tensor:
    """``v_ij / sqrt(r_i r_j)`` of a sparse matrix ``(n, n)`` with n entries per row ``(n, width)``, row sums r."""
    degree = values.sum(1, keepdim=True)
    scale = torch.where(degree > 0, degree, 1.0).rsqrt()
    return values * scale * gather(scale, columns).squeeze(2)


def random_walk(users: Tensor, items: Tensor, n_users: int, n_items: int) -> graph.SparseMatrix:
    """User-item graph ``(D + I)^-1 (A + I)``: every row, self-loop included, sums to 1."""
    n = n_users + n_items
    nodes, columns = torch.arange(n), items + n_users
    rows = torch.cat([users, columns, nodes])
    values = 1.0 / torch.bincount(rows, minlength=n)[rows]
    return graph.SparseMatrix.from_entries(rows, torch.cat([columns, users, nodes]), values, (n, n))
