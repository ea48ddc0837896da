"""How sure an AUC is, and whether two AUCs on the same rows differ.

DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
characteristic curves", 1988, in the ``O(n log n)`` form of Sun and Xu, "Fast implementation of DeLong's algorithm",
2014. Rows are independent of each other, or at least those of different groups (users, sessions): Obuchowski,
"Nonparametric analysis of clustered ROC curve data", 1997.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrec.click_metrics import Bools, check_rows, tie_blocks
from mmrec.errors import DataError
from mmrec.significance import NORMAL, Floats, Ids, PairedTest, group_sums, standardize


def auc_components(labels: NDArray[Any], scores: NDArray[Any]) -> Floats:
    """Part of each row in the AUC: the share of the rows of the other label that it is rightly ordered with.

    ``V_i = (#{j: y_j = 0, s_j < s_i} + #{j: y_j = 0, s_j = s_i} / 2) / n`` of a clicked row and
    ``V_j = (#{i: y_i = 1, s_i > s_j} + #{i: y_i = 1, s_i = s_j} / 2) / m`` of another one, m clicked and n others.
    The AUC is their mean over the clicked rows, and over the others too. Components of several models (seeds) may
    be averaged: they are then those of the mean AUC.

    Returns:
        ``(rows,)``.

    Raises:
        DataError: See :func:`mmrec.click_metrics.click_metrics`.
    """
    clicked, checked = check_rows(labels, scores)
    blocks = tie_blocks(clicked, checked)
    others = blocks.sizes - blocks.clicked
    lower = (np.cumsum(others) - others / 2) / others.sum()
    higher = 1.0 - (np.cumsum(blocks.clicked) - blocks.clicked / 2) / blocks.clicked.sum()
    components = np.empty(len(clicked))
    components[blocks.order] = np.where(
        clicked[blocks.order], np.repeat(lower, blocks.sizes), np.repeat(higher, blocks.sizes)
    )
    return components


def delong_covariance(labels: NDArray[Any], components: Floats, groups: Ids | None = None) -> Floats:
    """Covariance ``(k, k)`` of AUCs measured on the same rows: ``S₁₀ / m + S₀₁ / n``, m clicked rows and n others.

    S₁₀ and S₀₁ are the sample covariances of the components over the clicked and over the other rows. With groups
    they are those of the groups' sums (Obuchowski, 1997): with ``d_g`` and ``e_g`` the sums of a group's components,
    less their mean, over its clicked and its other rows, and G groups, of which ``G₁`` and ``G₀`` have such rows,

        ``G₁/(G₁-1) Σ_g d_g d_gᵀ / m² + G₀/(G₀-1) Σ_g e_g e_gᵀ / n² + G/(G-1) Σ_g (d_g e_gᵀ + e_g d_gᵀ) / (m n)``.

    Args:
        labels: ``(rows,)`` 0 or 1.
        components: ``(rows, k)`` of :func:`auc_components`, or differences of such: then the covariance of the
            differences of AUCs.
        groups: ``(rows,)`` numbers from 0 on, none left out; rows of one group may depend on each other.

    Raises:
        DataError: Fewer than two clicked or two other rows, or groups with such.
    """
    clicked: Bools = labels == 1
    own = np.arange(len(labels)) if groups is None else groups
    sums, total = [], np.zeros((components.shape[1], components.shape[1]))
    for chosen, name in ((clicked, "clicked"), (~clicked, "other")):
        count = len(np.unique(own[chosen]))
        if count < 2:
            raise DataError(
                f"at least 2 {name} rows{'' if groups is None else ', of 2 groups'}",
                f"{int(chosen.sum()):,} of {len(labels):,}{'' if groups is None else f', of {count:,} groups'}",
                "compare on a part with more rows: one row, or group, has no variance",
            )
        centred = components[chosen] - components[chosen].mean(axis=0)
        sums.append(group_sums(centred, own[chosen], own.max() + 1) / chosen.sum())
        total += count / (count - 1) * sums[-1].T @ sums[-1]
    if groups is None:  # no group has both
        return total
    both = sums[0].T @ sums[1] * len(sums[0]) / (len(sums[0]) - 1)
    total += both + both.T
    return total


def delong_interval(
    labels: NDArray[Any], components: Floats, groups: Ids | None = None
) -> tuple[float, float, float]:
    """An AUC and its 95 % interval, cut at 0 and 1.

    Args:
        labels: ``(rows,)`` 0 or 1.
        components: ``(rows,)`` of :func:`auc_components`.
        groups: See :func:`delong_covariance`.

    Raises:
        DataError: See :func:`delong_covariance`.
    """
    value = float(components[labels == 1].mean())
    variance = float(delong_covariance(labels, components[:, None], groups)[0, 0])
    half = NORMAL * float(np.sqrt(max(variance, 0.0)))
    return value, max(value - half, 0.0), min(value + half, 1.0)


def delong_test(labels: NDArray[Any], differences: Floats, groups: Ids | None = None) -> PairedTest:
    """Test differences of AUCs on the same rows against 0.

    Args:
        labels: ``(rows,)`` 0 or 1.
        differences: ``(rows, m)`` components of one model minus those of another.
        groups: See :func:`delong_covariance`.

    Raises:
        DataError: See :func:`delong_covariance`.
    """
    from scipy.special import ndtr

    error = np.sqrt(np.maximum(np.diag(delong_covariance(labels, differences, groups)), 0.0))
    mean = differences[labels == 1].mean(axis=0)
    return PairedTest(mean, mean - NORMAL * error, mean + NORMAL * error, 2 * ndtr(-standardize(mean, error)))
