"""FREEDOM and CM3 as their formulas read, without care for speed: what the library's models are timed against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.graph import SparseMatrix, edges, knn_item_graph, modality_weights, normalize_bipartite


def coordinates(matrix: SparseMatrix) -> Tensor:
    """The same matrix as torch's COO."""
    indices = torch.stack([matrix.rows, matrix.columns.long()])
    return torch.sparse_coo_tensor(indices, matrix.values, matrix.shape, check_invariants=True).coalesce()


class _Plain(nn.Module):
    def __init__(self, data: TrainingData, dim: int) -> None:
        super().__init__()
        self.n_users = data.n_users
        weights = modality_weights(list(data.features), 0.1)
        self.item_graph = coordinates(knn_item_graph(data.features, 10, weights, data.n_items))
        full = normalize_bipartite(*edges(data.train), data.n_users, data.n_items)
        self.full_graph = coordinates(full)
        self.tables = nn.ParameterDict({m: nn.Parameter(t.tensor()) for m, t in data.features.items()})
        self.dim = dim


class PlainFREEDOM(_Plain):
    """Trainable feature tables, all items projected for each batch, torch's sparse products."""

    def __init__(self, data: TrainingData, dim: int = 64) -> None:
        super().__init__(data, dim)
        self.users, self.items = nn.Embedding(data.n_users, dim), nn.Embedding(data.n_items, dim)
        self.maps = nn.ModuleDict({m: nn.Linear(t.dim, dim) for m, t in data.features.items()})
        self.training_graph = self.full_graph

    def on_epoch(self, pruned: SparseMatrix) -> None:
        self.training_graph = coordinates(pruned)

    def loss(self, batch: PairBatch) -> Tensor:
        from_items = torch.sparse.mm(self.item_graph, self.items.weight)
        layers = [torch.cat([self.users.weight, self.items.weight])]
        for _ in range(2):
            layers.append(torch.sparse.mm(self.training_graph, layers[-1]))
        users, items = torch.stack(layers, 1).mean(1).split([self.n_users, len(from_items)])
        users, items = users[batch.users], items + from_items

        def bpr(table: Tensor) -> Tensor:
            positive = (users * table[batch.positives]).sum(1)
            return -F.logsigmoid(positive - (users * table[batch.negatives]).sum(1)).mean()

        content = sum(bpr(self.maps[m](table)) for m, table in self.tables.items())
        return bpr(items) + 1e-4 * content


class PlainCM3(_Plain):
    """All items projected in float32 for each batch, and uniformity over an explicit list of pairs."""

    def __init__(self, data: TrainingData, dim: int = 64, layers: int = 3) -> None:
        super().__init__(data, dim)
        self.tables.requires_grad_(False)
        self.layers = layers
        blocks = [*data.features, "fused"]
        self.users = nn.ParameterDict(
            {block: nn.init.xavier_normal_(torch.empty(data.n_users, dim)) for block in blocks}
        )
        self.mixing = nn.Parameter(nn.init.xavier_normal_(torch.empty(data.n_users, len(blocks))))
        self.own = nn.ModuleDict(
            {
                m: nn.Sequential(nn.Linear(t.dim, 256), nn.LeakyReLU(), nn.Linear(256, dim, bias=False))
                for m, t in data.features.items()
            }
        )
        self.direction = nn.ModuleDict({m: nn.Linear(t.dim, dim) for m, t in data.features.items()})

    def loss(self, batch: PairBatch) -> Tensor:
        unit = {m: F.normalize(self.direction[m](table)) for m, table in self.tables.items()}
        one, two = unit.values()
        angle = (one * two).sum(1, keepdim=True).clamp(-1 + 1e-6, 1 - 1e-6).arccos()
        share = torch.distributions.Beta(0.5, 0.5).sample((len(one), 1))
        fused = (torch.sin((1 - share) * angle) * one + torch.sin(share * angle) * two) / torch.sin(angle)
        items = {m: self.own[m](table) for m, table in self.tables.items()} | {"fused": fused}
        node = torch.cat(
            [torch.cat([F.normalize(self.users[b]), F.normalize(items[b])]) for b in self.users], 1
        )
        total, layer = node, node
        for _ in range(self.layers):
            layer = torch.sparse.mm(self.full_graph, layer)
            total = total + layer
        users, rest = total.split([self.n_users, len(one)])
        users = (users.view(self.n_users, -1, self.dim) * self.mixing.softmax(1)[:, :, None]).flatten(1)
        final = F.normalize(rest + torch.sparse.mm(self.item_graph, rest))
        users = F.normalize(users)
        aligned = (users[batch.users] - final[batch.positives]).pow(2).sum(1).mean()

        def uniformity(rows: Tensor, similarity: Tensor | float) -> Tensor:
            return (-2 * (torch.pdist(rows).pow(2) - 2 + 2 * similarity)).exp().mean().log()

        first, second = torch.triu_indices(len(batch.users), len(batch.users), 1)
        chosen = fused[batch.positives].detach()
        similarity = (chosen[first] * chosen[second]).sum(1).clamp(0, 1)
        return aligned + 0.25 * (
            uniformity(users[batch.users], 1.0) + uniformity(final[batch.positives], similarity)
        )
