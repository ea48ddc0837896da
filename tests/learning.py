"""A tiny training loop of its own, so that models are tested without the training command."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmrec.config import load_config
from mmrec.data.batches import make_batches
from mmrec.data.dataset import TrainingData
from mmrec.models.contracts import scoring, training_histories
from mmrec.registry import model_class
from mmrec.runs import build_model

# The published transformers are made for thousands of items; the worlds here have twenty.
SMALL = {"dim": 32, "inner": 64, "heads": 2, "head_dim": 16, "layers": 1}


@dataclass
class Learned:
    """A trained model, and the mean loss of each epoch (none for closed forms)."""

    model: Any
    losses: list[float]


def new_model(name: str, data: TrainingData, *, seed: int = 0, **params: Any) -> Any:
    """An untrained model of a short name."""
    small = SMALL if "head_dim" in model_class(name).config_type.model_fields else {}
    config = {"model": name, "data": "unused", "params": {**small, **params}, "train": {"seed": seed}}
    return build_model(load_config(config), data)


def batches(model: Any, data: TrainingData, batch_size: int, seed: int) -> Iterable[Any]:
    """The batches of one epoch."""
    return make_batches(model, data, batch_size).epoch(torch.Generator().manual_seed(seed))


def step(model: Any, optimizer: torch.optim.Optimizer, batch: Any) -> float:
    """One step down the gradient; gives the loss before it."""
    optimizer.zero_grad()
    total = torch.stack(list(model.loss(batch).values())).sum()
    total.backward()
    optimizer.step()
    return float(total.detach())


def begin_epoch(model: Any, seed: int) -> None:
    """What the training loop does before an epoch."""
    model.train()
    torch.manual_seed(seed)
    if hasattr(model, "on_epoch"):
        model.on_epoch(torch.Generator().manual_seed(seed))


def train(model: Any, data: TrainingData, *, epochs: int = 12, lr: float = 0.01, seed: int = 0) -> Learned:
    """Train in place; closed forms are fitted.

    In a planted world more epochs make it worse: the withheld item is then learned by heart as a negative.
    """
    if model.batches is None:
        model.fit(data)
        return Learned(model, [])
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    losses = []
    with torch.random.fork_rng():
        for epoch in range(epochs):
            begin_epoch(model, 1000 * seed + epoch)
            own = [step(model, optimizer, batch) for batch in batches(model, data, 64, 1000 * seed + epoch)]
            losses.append(float(np.mean(own)))
    return Learned(model, losses)


def all_scores(model: Any, data: TrainingData) -> Tensor:
    """Scores ``(n_users, n_items)`` in evaluation mode."""
    return scoring(model, training_histories(model, data))(np.arange(data.n_users)).clone()


def area_under_curve(scores: Tensor, wanted: Tensor) -> float:
    """Share of the pairs (wanted, unwanted) within a row that are ordered rightly; a tie counts half."""
    shares = []
    for row, good in zip(scores, wanted, strict=True):
        difference = row[good][:, None] - row[~good][None, :]
        shares.append((difference > 0).double().mean() + (difference == 0).double().mean() / 2)
    return float(torch.stack(shares).mean())
