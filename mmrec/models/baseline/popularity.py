"""Popularity: the floor every model has to beat."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mmrec.data.dataset import TrainingData
from mmrec.models.contracts import ModelConfig, Users


class Config(ModelConfig):
    """Popularity has nothing to set."""


class Popularity(nn.Module):
    """Scores an item by its number of training interactions, the same for every user."""

    config_type: ClassVar = Config
    batches: ClassVar = None
    modalities: ClassVar = "none"
    cold_items: ClassVar = False
    counts: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(data.n_items))

    def fit(self, data: TrainingData) -> None:
        """Count."""
        self.counts = torch.bincount(torch.from_numpy(data.train.items), minlength=data.n_items).float()

    def scores(self, users: Users) -> Tensor:
        """Scores ``(b, n_items)``."""
        return self.counts.repeat(len(users.ids), 1)
