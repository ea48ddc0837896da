"""Cross-entropy of bags under a mixture of softmaxes over a whole catalogue, in blocks of rows."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK_BYTES = 4 * 2**20  # of one block of logits: small enough to stay in the processor's cache


def mixture_logits(rows: Tensor, things: Tensor, log_shares: Tensor, temperature: float) -> Tensor:
    """``log c_k(i) + z_k · e_i / t`` ``(b, K, n)`` of rows ``(b, K, d)``, things ``(n, d)``, log shares ``(n, K)``."""
    return (rows / temperature) @ things.T + log_shares.T


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx,
        rows: Tensor,
        things: Tensor,
        log_shares: Tensor,
        bags: tuple[Tensor, Tensor, Tensor],
        temperature: float,
    ) -> Tensor:
        total = rows.new_zeros(())
        gradients = [torch.zeros_like(part) for part in (rows, things, log_shares)]
        step = max(1, BLOCK_BYTES // (4 * rows.shape[1] * len(things)))
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            logits = mixture_logits(block, things, log_shares, temperature)
            wanted = _dense(bags, start, len(block), len(things))
            # logsumexp and its softmax from one exponential, in place
            peaks = logits.amax(1, keepdim=True)
            shares = logits.sub_(peaks).exp_()
            sums = shares.sum(1, keepdim=True)
            mixed = (peaks + sums.log()).squeeze(1)
            log_probability = mixed.log_softmax(1)
            total -= (wanted * log_probability).sum()
            slope = log_probability.exp() * wanted.sum(1, keepdim=True) - wanted
            slopes = shares.mul_(slope.unsqueeze(1) / sums)
            gradients[0][start : start + step] = slopes @ things / temperature
            gradients[1].addmm_(slopes.flatten(0, 1).T, block.flatten(0, 1), alpha=1 / temperature)
            gradients[2] += slopes.sum(0).T
        context.save_for_backward(*gradients)
        return total / len(rows)

    @staticmethod
    def backward(
        context: torch.autograd.function.FunctionCtx, *outer: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        rows, things, log_shares = context.saved_tensors  # type: ignore[attr-defined]
        scale = outer[0] / len(rows)
        return rows * scale, things * scale, log_shares * scale, None, None


def _dense(bags: tuple[Tensor, Tensor, Tensor], start: int, size: int, n: int) -> Tensor:
    rows, columns, weights = bags
    first, last = torch.searchsorted(rows, torch.tensor([start, start + size], device=rows.device)).tolist()
    dense = weights.new_zeros(size, n)
    dense[rows[first:last] - start, columns[first:last]] = weights[first:last]
    return dense


def mixture_cross_entropy(
    rows: Tensor,
    things: Tensor,
    log_shares: Tensor,
    bags: tuple[Tensor, Tensor, Tensor],
    temperature: float,
) -> Tensor:
    """``-mean_u Σ_i x_ui log (p_u(i) / Σ_j p_u(j))`` with ``p_u(i) = Σ_k c_k(i) exp(z_uk · e_i / t)``, less its floor.

    The floor is the value of the best p, which is x itself; it has no gradient, and without it a perfect model would
    seem to have a loss. Everything in logarithms, so that no temperature overflows. The gradients are made beside the value, a block at a
    time: ``(b, K, n)`` logits are never kept.

    Args:
        rows: ``z (b, K, d)``.
        things: ``e (n, d)``.
        log_shares: ``log c (n, K)``.
        bags: Rows (ascending), columns and weights ``(nnz,)``, above 0, of x ``(b, n)``, no place twice.
        temperature: t.
    """
    exact = [part.to(torch.promote_types(part.dtype, torch.float32)) for part in (rows, things, log_shares)]
    with torch.autocast(rows.device.type, enabled=False):
        result: Tensor = _CrossEntropy.apply(*exact, bags, temperature)  # type: ignore[no-untyped-call]
    bag_rows, _, weights = bags
    sums = weights.new_zeros(len(rows)).index_add(0, bag_rows, weights)
    return result + (weights * (weights / sums[bag_rows]).log()).sum() / len(rows)
