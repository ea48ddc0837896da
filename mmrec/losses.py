"""Training losses, each with its formula."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Bayesian personalised ranking: ``mean softplus(-(s_pos - s_neg))`` over score pairs ``(b,)``.

    Equal to ``-mean log sigmoid(s_pos - s_neg)`` but never saturates: very wrong pairs keep their gradient.

    Source: Rendle et al., "BPR", UAI 2009.
    """
    return F.softplus(negative - positive).mean()


def norm_penalty(*rows: Tensor) -> Tensor:
    """Sum of the Frobenius norms (not squared) of the matrices ``(b, d)``, divided by b.

    The regulariser of the field's toolboxes ("EmbLoss"). Its gradient ``E / (b ||E||)`` does not grow with E, so its
    weights cannot be compared with those of :func:`squared_penalty`.
    """
    return sum((row.norm() for row in rows), rows[0].new_zeros(())) / len(rows[0])


def squared_penalty(*rows: Tensor) -> Tensor:
    """Half the sum of squared entries of the matrices ``(b, d)``, divided by b: the papers' L2 term."""
    return sum((row.pow(2).sum() for row in rows), rows[0].new_zeros(())) / (2 * len(rows[0]))


PENALTIES = {"norm": norm_penalty, "squared": squared_penalty}
