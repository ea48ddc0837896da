"""Blocks of dense twins that several models need, and the comparison of one training step with a twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmrec.encode.features import FeatureTable
from tests.dense import assert_close, cosines, neighbour_lists


def leaves(model: Any) -> dict[str, Tensor]:
    """A copy of each parameter in float64, with a gradient of its own."""
    return {key: value.detach().double().requires_grad_() for key, value in model.named_parameters()}


def assert_same_step(
    model: Any, copies: dict[str, Tensor], actual: dict[str, Tensor], expected: dict[str, Tensor]
) -> None:
    """Each loss term and the gradient of each parameter agree; the twin computed with ``copies``."""
    assert actual.keys() == expected.keys()
    for name in expected:
        assert_close(actual[name], expected[name])
    torch.stack(list(actual.values())).sum().backward()
    torch.stack(list(expected.values())).sum().backward()
    for key, parameter in model.named_parameters():
        wanted = copies[key].grad
        assert_close(parameter.grad, torch.zeros_like(copies[key]) if wanted is None else wanted)


def cosine_graph(table: FeatureTable, k: int) -> Tensor:
    """``S_ij / sqrt(r_i r_j)`` over the k nearest, negative cosines as 0; absent items have empty rows."""
    n_items = len(table.present)
    own = np.flatnonzero(table.present)
    similarity = cosines(table.vectors)
    graph = torch.zeros(n_items, n_items, dtype=torch.float64)
    for row, near in enumerate(neighbour_lists(table.vectors[own], k)):
        for column in near:
            graph[own[row], own[column]] = max(similarity[own[row], own[column]], 0)
    degree = graph.sum(1)
    scale = torch.where(degree > 0, degree.clamp(min=1e-12).rsqrt(), 0.0)
    return scale[:, None] * graph * scale[None, :]


def unit(rows: Tensor) -> Tensor:
    """Rows ``(…, d)`` of length 1; zero rows stay zero."""
    norm = rows.norm(dim=-1, keepdim=True)
    return rows / torch.where(norm > 0, norm, 1.0)


def plain_info_nce(anchors: Tensor, targets: Tensor, temperature: float, ids: Tensor) -> Tensor:
    """``mean_i -log(e_ii / Σ_j e_ij)`` with ``e = exp(cos / t)``, j over i itself and the rows of other ids."""
    similarity = torch.exp(unit(anchors) @ unit(targets).T / temperature)
    counted = (ids[:, None] != ids[None, :]) | torch.eye(len(ids), dtype=torch.bool)
    return -torch.log(similarity.diagonal() / (similarity * counted).sum(1)).mean()


def content_of(data: Any, modality: str) -> Tensor:
    """Mask ``(n_users + n_items,)``: items that have the modality, users with such an item."""
    present = data.features[modality].present
    users = [any(present[item] for item in data.train[user]) for user in range(data.n_users)]
    return torch.tensor([*users, *present.tolist()])
