"""Adam for embedding tables of which a batch touches few rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from mmrec.ragged import find_distinct

PRECISE = (
    "log_decay",
    "mark",
)  # slots of more precision than the parameter, which the base class would round


class LazyAdam(torch.optim.Optimizer):
    """Adam whose step costs as much as the rows that a sparse gradient touches, with exact decay of all others.

    Rows that a gradient touches: ``m <- β1 m + (1 - β1) g``, ``v <- β2 v + (1 - β2) g²``,
    ``w <- (1 - η λ) w - η m̂ / (√v̂ + ε)`` with ``m̂ = m / (1 - β1^t)``, ``v̂ = v / (1 - β2^t)``, t the number of steps of
    the optimiser (not of the row). Moments of the other rows rest, so a row that is touched for the first time late
    moves by up to ``(1 - β1) / √(1 - β2)``, 3.2, times η.

    Decoupled decay reaches every row at every step, but is carried out when a row is needed: a row that rested over the
    steps s+1..t is multiplied by ``∏ (1 - η_k λ)`` first, whatever η was in each. That happens at the step that touches
    it, in :meth:`catch_up` if a model asks before it reads rows (its gradient then is that of the decayed row, exactly as
    if all rows were decayed at every step), and for all rows in :meth:`settle`, which has to come before tables are
    evaluated or saved for good.

    Source: Kingma and Ba, "Adam", ICLR 2015; Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Args:
        params: Tables ``(n, d)`` whose gradients are sparse; or groups of them.
        lr: Step size η.
        betas: β1 and β2.
        eps: ε.
        weight_decay: λ; ``lr * weight_decay`` stays below 1.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; every state advances, whether its table has a gradient or not."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            for table in group["params"]:
                state = self._state(table)
                state["step"] += 1
                state["log_decay"] += math.log1p(-group["lr"] * group["weight_decay"])
                if table.grad is not None:
                    self._move(table, state, group)
        return value

    def _state(self, table: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[table]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.int64)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
            # the sum of log(1 - lr decay) over all steps, and what it was when a row was last brought up to date
            state["log_decay"] = torch.zeros((), dtype=torch.float64)
            state["mark"] = torch.zeros(len(table), dtype=torch.float64, device=table.device)
        return state

    def _move(self, table: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        assert table.grad is not None
        rows, gradient = touched_rows(table.grad)
        (beta1, beta2), t = group["betas"], int(state["step"])
        self._decay(table, state, rows)
        first = state["exp_avg"].index_select(0, rows).lerp_(gradient, 1 - beta1)
        state["exp_avg"].index_copy_(0, rows, first)
        second = state["exp_avg_sq"].index_select(0, rows).mul_(beta2)
        second.addcmul_(gradient, gradient, value=1 - beta2)
        state["exp_avg_sq"].index_copy_(0, rows, second)
        root = second.div_(1 - beta2**t).sqrt_().add_(group["eps"])
        change = first.div_(root).mul_(-group["lr"] / (1 - beta1**t))
        table.index_copy_(0, rows, table.index_select(0, rows).add_(change))

    def _decay(self, table: Tensor, state: dict[str, Tensor], rows: Tensor) -> None:
        now = float(state["log_decay"])
        if now == 0:  # no decay at all
            return
        missed = (now - state["mark"].index_select(0, rows)).exp_().to(table.dtype)
        table.index_copy_(0, rows, table.index_select(0, rows).mul_(missed[:, None]))
        state["mark"].index_fill_(0, rows, now)

    @torch.no_grad()
    def catch_up(self, table: Tensor, rows: Tensor) -> None:
        """Carry out the decay that rows ``(n,)``, each named once, of a table have missed."""
        if table in self.state:
            self._decay(table, self.state[table], rows)

    @torch.no_grad()
    def settle(self) -> None:
        """Carry out the decay that any row has missed."""
        for table, state in self.state.items():
            if state["log_decay"] == 0:
                continue
            table.mul_((state["log_decay"] - state["mark"]).exp_().to(table.dtype)[:, None])
            state["mark"].zero_()
            state["log_decay"].zero_()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave, with all its digits."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        tables = [table for group in self.param_groups for table in group["params"]]
        for number, table in zip(numbers, tables, strict=True):
            for slot in PRECISE:
                if number in state_dict["state"]:
                    device = table.device if slot == "mark" else "cpu"
                    self.state[table][slot] = state_dict["state"][number][slot].to(device, copy=True)


def touched_rows(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``(u,)`` of a sparse gradient, ascending and each once, and their gradients ``(u, d)``.

    Raises:
        RuntimeError: The gradient is dense.
    """
    if not gradient.is_sparse:
        raise RuntimeError("LazyAdam is for tables with sparse gradients")
    rows, values = gradient._indices()[0], gradient._values()
    if (rows[1:] > rows[:-1]).all():  # a look-up of distinct rows comes so, and needs no sorting
        return rows, values
    distinct, groups = find_distinct(rows)
    return distinct, groups.sum(values)


@torch.no_grad()
def clip_norm(parameters: Iterable[Tensor], largest: float) -> Tensor:
    """Scale all gradients so that their norm together is at most ``largest``; gives the norm before.

    As :func:`torch.nn.utils.clip_grad_norm_`, which takes no sparse gradients.
    """
    values = []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is not None and gradient.is_sparse:
            rows, summed = touched_rows(gradient)
            values.append(summed)
            parameter.grad = torch.sparse_coo_tensor(
                rows[None], summed, gradient.shape, check_invariants=False
            )
        elif gradient is not None:
            values.append(gradient)
    norm: Tensor = torch.stack([value.norm() for value in values]).norm()
    scale = (largest / (norm + 1e-6)).clamp(max=1)
    for value in values:
        value.mul_(scale)
    return norm
