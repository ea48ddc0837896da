"""From frozen item features to the item vectors of a sequence model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrec.encode.features import FeatureTable
from mmrec.graph import modality_weights


class Adaptor(nn.Module):
    """``v_i = Σ_k g_k(x_i) (x_i - b_k) W_k`` with shares ``g = softmax(x W_g + ε softplus(x W_n))``, ε ~ N(0, 1) in training.

    Each expert shifts and rotates the features, which parametric whitening needs no more for; x has all modalities side
    by side, each at length 1, absent ones as zeros. An item without any modality has a zero vector.

    Source: Hou et al., "Towards Universal Sequence Representation Learning for Recommender Systems", KDD 2022.

    Args:
        features: Tables by modality, at least one.
        dim: Width of the result.
        experts: Number of experts k.

    Raises:
        FeatureError: No features.
    """

    features: Tensor
    present: Tensor

    def __init__(self, features: Mapping[str, FeatureTable], dim: int, experts: int) -> None:
        super().__init__()
        modality_weights(list(features), 0)  # raises where there are no features
        rows, present = _side_by_side(features)
        self.register_buffer("features", rows, persistent=False)
        self.register_buffer("present", present, persistent=False)
        width = rows.shape[1]
        self.shift = nn.Parameter(torch.zeros(experts, width))
        self.map = nn.Parameter(torch.randn(experts, width, dim) * 0.02)
        self.gate, self.noise = (nn.Parameter(torch.zeros(width, experts)) for _ in range(2))

    def shares(self, rows: Tensor) -> Tensor:
        """``(n, experts)`` for rows ``(n, width)``, each summing to 1."""
        logits = rows @ self.gate
        if self.training:
            logits = logits + torch.randn_like(logits) * F.softplus(rows @ self.noise)
        return logits.softmax(1)

    def forward(self) -> Tensor:
        """``(n_items, dim)``."""
        return self._adapt(self.features, self.present)

    def extend(self, features: Mapping[str, FeatureTable]) -> Tensor:
        """``(m, dim)`` of new items, given as the same tables."""
        rows, present = _side_by_side(features)
        return self._adapt(rows.to(self.features), present.to(self.present.device))

    def _adapt(self, rows: Tensor, present: Tensor) -> Tensor:
        experts, width, dim = self.map.shape
        mapped = (rows @ self.map.transpose(0, 1).reshape(width, experts * dim)).view(-1, experts, dim)
        mapped = mapped - torch.einsum("kw,kwd->kd", self.shift, self.map)
        mixed: Tensor = (self.shares(rows)[:, :, None] * mapped).sum(1)
        return mixed * present[:, None]


def _side_by_side(features: Mapping[str, FeatureTable]) -> tuple[Tensor, Tensor]:
    """The modalities' rows, each at length 1, joined to ``(n, width)``, and ``(n,)`` which items have any."""
    tables = [table for _, table in sorted(features.items())]
    rows = torch.cat([F.normalize(table.tensor(), dim=1) for table in tables], 1)
    return rows, torch.from_numpy(np.any([table.present for table in tables], axis=0))
