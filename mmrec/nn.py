"""Small blocks that several models share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mmrec.data.dataset import TrainingData
from mmrec.encode.features import FeatureTable


def seen_items(data: TrainingData) -> Tensor:
    """``(n_items, 1)`` float: 1 for items with a training interaction, 0 for the others."""
    return torch.from_numpy((np.bincount(data.train.items, minlength=data.n_items) > 0).astype(np.float32))[
        :, None
    ]


class FeatureProjection(nn.Module):
    """Affine map of item features, ``t(i) = W x_i + b``, of the rows asked for only.

    Projecting a batch's rows instead of the catalogue is what makes a training step cheap.

    Args:
        table: Features ``(n_items, d_in)``.
        dim: Width of the result.
        train_features: Treat the features as parameters (the published code of several models does); they then cost
            three times their size more (gradient and optimiser state).
    """

    features: Tensor
    present: Tensor

    def __init__(self, table: FeatureTable, dim: int, *, train_features: bool = False) -> None:
        super().__init__()
        self.map = nn.Linear(table.dim, dim)
        if train_features:
            self.features = nn.Parameter(table.tensor())
        else:
            self.register_buffer("features", table.tensor(), persistent=False)
        self.register_buffer("present", torch.from_numpy(np.array(table.present)), persistent=False)

    def forward(self, items: Tensor) -> Tensor:
        """Projected features ``(b, dim)`` of items ``(b,)``; absent items have zero features, see ``present``."""
        projected: Tensor = self.map(self.features[items])
        return projected
