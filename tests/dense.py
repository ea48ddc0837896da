"""Plain dense formulas in float64, written from the papers: the twins that the fast code is compared with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mmrec.data.histories import Histories, Ids
from mmrec.encode.features import FeatureTable


def interaction_matrix(users: Ids | Tensor, items: Ids | Tensor, n_users: int, n_items: int) -> Tensor:
    """R ``(n_users, n_items)`` of zeros and ones."""
    matrix = torch.zeros(n_users, n_items, dtype=torch.float64)
    matrix[torch.as_tensor(users), torch.as_tensor(items)] = 1
    return matrix


def history_matrix(train: Histories, n_items: int) -> Tensor:
    """R of training histories."""
    return interaction_matrix(train.users, train.items, train.n_users, n_items)


def normalized_adjacency(interactions: Tensor) -> Tensor:
    """``D^-1/2 [[0, R], [R^T, 0]] D^-1/2``; isolated nodes have zero rows."""
    n_users, n_items = interactions.shape
    adjacency = torch.zeros(n_users + n_items, n_users + n_items, dtype=torch.float64)
    adjacency[:n_users, n_users:] = interactions
    adjacency[n_users:, :n_users] = interactions.T
    degree = adjacency.sum(1)
    scale = torch.where(degree > 0, degree.clamp(min=1).rsqrt(), 0.0)
    return scale[:, None] * adjacency * scale[None, :]


def layer_mean(adjacency: Tensor, embeddings: Tensor, layers: int) -> Tensor:
    """``mean_{l=0..L} A^l E``, layer by layer."""
    outputs = [embeddings]
    for _ in range(layers):
        outputs.append(adjacency @ outputs[-1])
    return torch.stack(outputs).mean(0)


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosine of each pair of rows; 0 where a row is zero."""
    vectors = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    product = vectors @ vectors.T
    scale = np.outer(norms, norms)
    return np.divide(product, scale, out=np.zeros_like(product), where=scale > 0)


def neighbour_lists(vectors: np.ndarray, k: int) -> list[list[int]]:
    """The k most similar rows of each row, ties to the lower id; a zero row has itself alone."""
    similarity = cosines(vectors)
    return [
        np.argsort(-similarity[row], kind="stable")[:k].tolist() if vectors[row].any() else [row]
        for row in range(len(vectors))
    ]


def item_graph(features: Mapping[str, FeatureTable], k: int, weights: Mapping[str, float]) -> Tensor:
    """``G_ij = Σ_m a_m(i) [j among the k nearest of i in m] / k``, ``a_m(i)`` shared out over what i has."""
    n_items = len(next(iter(features.values())).present)
    graph = torch.zeros(n_items, n_items, dtype=torch.float64)
    for item in range(n_items):
        share = sum(weights[m] for m, table in features.items() if table.present[item])
        for modality, table in features.items():
            if not table.present[item] or weights[modality] == 0:
                continue
            own = np.flatnonzero(table.present)
            lists = neighbour_lists(table.vectors[own], k)
            nearest = own[lists[own.tolist().index(item)]]
            graph[item, nearest] += weights[modality] / share / len(nearest)
    return graph


def negative_log_sigmoid(positive: Tensor, negative: Tensor) -> Tensor:
    """``-mean log(1 / (1 + exp(-(s_pos - s_neg))))`` as it is written, for moderate scores."""
    return -torch.log(1 / (1 + torch.exp(-(positive - negative)))).mean()


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to ``tolerance``, whatever the two types."""
    torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance, atol=tolerance)
