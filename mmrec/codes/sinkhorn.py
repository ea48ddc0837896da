"""Balanced assignment: every code gets the same share of the rows, at the least cost (entropic optimal transport)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TOLERANCE = 1e-6


def potentials(costs: Tensor, eps: float, iterations: int = 50) -> tuple[Tensor, Tensor]:
    """Potentials f ``(n,)`` and g ``(K,)`` of the balanced transport plan ``exp((f_i + g_j - c_ij) / ε) / (n K)``.

    Its rows sum to 1/n and, at convergence, its columns to 1/K. Costs ``(n, K)`` are taken as they are, and f and g are
    in their unit; ``ε`` counts in half the range of the costs, that is, as if they were scaled to [-1, 1]. The updates
    are in the log domain, so that small ``ε`` and equal rows do no harm.

    ``argmax_j`` of a row of the plan is ``argmin_j (c_ij - g_j)``: with g kept, balanced codes can be given to rows
    that were not there when g was found.

    Sources: Cuturi, "Sinkhorn Distances", NeurIPS 2013; scaling of ε: Wang et al., "Learnable Item Tokenization for
    Generative Recommendation", CIKM 2024.
    """
    unit = (costs.max() - costs.min()).item() / 2
    if unit == 0:
        return costs[:, 0].clone(), costs.new_zeros(costs.shape[1])
    scaled = -(costs - costs.min()) / (unit * eps)
    g = costs.new_zeros(costs.shape[1])
    n, k = costs.shape
    for _ in range(iterations):
        f = math.log(k) - torch.logsumexp(scaled + g, 1)
        step = math.log(n) - torch.logsumexp(scaled + f[:, None], 0)
        moved = (step - g).abs().max()
        g = step
        if moved < TOLERANCE:
            break
    f = math.log(k) - torch.logsumexp(scaled + g, 1)
    return f * (unit * eps) + costs.min(), g * (unit * eps)


def plan(costs: Tensor, eps: float, iterations: int = 50) -> Tensor:
    """The transport plan ``(n, K)`` of :func:`potentials`; it sums to 1."""
    f, g = potentials(costs, eps, iterations)
    unit = (costs.max() - costs.min()).item() / 2 * eps or 1.0
    return torch.exp((f[:, None] + g - costs) / unit) / costs.numel()


def balanced_assignment(costs: Tensor, eps: float, iterations: int = 50) -> Tensor:
    """Codes ``(n,)``: the largest entry of each row of the plan, ``argmin_j (c_ij - g_j)``."""
    return (costs - potentials(costs, eps, iterations)[1]).argmin(1)
