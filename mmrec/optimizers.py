"""The optimisers of a training as one: Adam for dense parameters, lazy Adam for tables with sparse gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from mmrec.config import TrainConfig
from mmrec.lazy_adam import LazyAdam, clip_norm
from mmrec.models.ctr.inputs import RowInputs


class Optimizers:
    """What a training steps with.

    Args:
        model: Its ``nn.Embedding`` tables with ``sparse=True`` go to :class:`mmrec.lazy_adam.LazyAdam`, which decays
            them by ``embedding_decay``; all else goes to Adam.
        settings: Optimiser, learning rate and decays.
    """

    def __init__(self, model: nn.Module, settings: TrainConfig) -> None:
        tables = [
            module.weight for module in model.modules() if isinstance(module, nn.Embedding) and module.sparse
        ]
        sparse = {id(table) for table in tables}
        dense = [parameter for parameter in model.parameters() if id(parameter) not in sparse]
        self._parts: dict[str, torch.optim.Optimizer] = {}
        if dense:
            kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
            self._parts["optimizer"] = kind(
                dense, lr=settings.lr, weight_decay=settings.weight_decay, fused=True
            )
        if tables:
            lazy = LazyAdam(tables, lr=settings.lr, weight_decay=settings.embedding_decay)
            self._parts["tables"] = lazy
            if settings.embedding_decay:
                for module in model.modules():
                    if isinstance(module, RowInputs):  # rows are decayed before a batch reads them
                        module.before_lookup = partial(lazy.catch_up, module.table.weight)

    def set_learning_rate(self, lr: float) -> None:
        """Use another learning rate from now on."""
        for part in self._parts.values():
            for group in part.param_groups:
                group["lr"] = lr

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self._parts.values():
            part.zero_grad(set_to_none=True)

    def clip(self, norm: float) -> None:
        """Scale all gradients so that the norm of all together is at most ``norm``."""
        groups = (group for part in self._parts.values() for group in part.param_groups)
        clip_norm((parameter for group in groups for parameter in group["params"]), norm)

    def step(self) -> None:
        """Move the parameters."""
        for part in self._parts.values():
            part.step()

    def settle(self) -> None:
        """Bring tables up to date whose decay is applied only when a row is used; before any evaluation or saving."""
        for part in self._parts.values():
            if isinstance(part, LazyAdam):
                part.settle()

    def tensors(self) -> dict[str, Tensor]:
        """The state, by names that :meth:`load` knows."""
        return {
            f"{name}.{number}.{slot}": tensor
            for name, part in self._parts.items()
            for number, slots in part.state_dict()["state"].items()
            for slot, tensor in slots.items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a state; tensors of other names do not matter."""
        for name, part in self._parts.items():
            slots: dict[int, dict[str, Tensor]] = {}
            for key, tensor in tensors.items():
                if key.startswith(f"{name}."):
                    _, number, slot = key.split(".")
                    slots.setdefault(int(number), {})[slot] = tensor
            part.load_state_dict({"state": slots, "param_groups": part.state_dict()["param_groups"]})


def learning_rate(settings: TrainConfig, epoch: int, reductions: int = 0) -> float:
    """Learning rate of an epoch under the schedule, after linear warm-up.

    Args:
        settings: The schedule.
        epoch: Counted from 0.
        reductions: Validations so far that were no better than the best one before.
    """
    warm = min(1.0, (epoch + 1) / settings.warmup_epochs) if settings.warmup_epochs else 1.0
    factor = 1.0
    if settings.schedule == "exponential":
        factor = settings.lr_decay ** (epoch / 50)
    elif settings.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))
    elif settings.schedule == "plateau":
        factor = settings.lr_decay**reductions
    return settings.lr * warm * factor
