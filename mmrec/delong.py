"""How sure an AUC is, and whether two AUCs on the same rows differ.

DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
characteristic curves", 1988, in the ``O(n log n)`` form of Sun and Xu, "Fast implementation of DeLong's algorithm",
2014. Rows are taken as independent of each other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrec.click_metrics import Bools, check_rows, tie_blocks
from mmrec.errors import DataError
from mmrec.significance import NORMAL, Floats, PairedTest, standardize


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


def delong_covariance(labels: NDArray[Any], components: Floats) -> Floats:
    """Covariance ``(k, k)`` of AUCs measured on the same rows: ``S₁₀ / m + S₀₁ / n``.

    S₁₀ and S₀₁ are the sample covariances of the components over the clicked and over the other rows.

    Args:
        labels: ``(rows,)`` 0 or 1.
        components: ``(rows, k)`` of :func:`auc_components`, or differences of such: then the covariance of the
            differences of AUCs.

    Raises:
        DataError: Fewer than two clicked or two other rows.
    """
    clicked = _check_both(labels)
    total = np.zeros((components.shape[1], components.shape[1]))
    for chosen in (clicked, ~clicked):
        total += np.atleast_2d(np.cov(components[chosen], rowvar=False)) / chosen.sum()
    return total


def delong_interval(labels: NDArray[Any], components: Floats) -> tuple[float, float, float]:
    """An AUC and its 95 % interval, cut at 0 and 1.

    Args:
        labels: ``(rows,)`` 0 or 1.
        components: ``(rows,)`` of :func:`auc_components`.

    Raises:
        DataError: Fewer than two clicked or two other rows.
    """
    value = float(components[labels == 1].mean())
    half = NORMAL * float(np.sqrt(delong_covariance(labels, components[:, None])[0, 0]))
    return value, max(value - half, 0.0), min(value + half, 1.0)


def delong_test(labels: NDArray[Any], differences: Floats) -> PairedTest:
    """Test differences of AUCs on the same rows against 0.

    Args:
        labels: ``(rows,)`` 0 or 1.
        differences: ``(rows, m)`` components of one model minus those of another.

    Raises:
        DataError: Fewer than two clicked or two other rows.
    """
    from scipy.special import ndtr

    error = np.sqrt(np.diag(delong_covariance(labels, differences)))
    mean = differences[labels == 1].mean(axis=0)
    return PairedTest(mean, mean - NORMAL * error, mean + NORMAL * error, 2 * ndtr(-standardize(mean, error)))


def _check_both(labels: NDArray[Any]) -> Bools:
    clicked: Bools = labels == 1
    fewest = min(int(clicked.sum()), int((~clicked).sum()))
    if fewest < 2:
        raise DataError(
            "at least 2 clicked and 2 other rows",
            f"{int(clicked.sum()):,} clicked of {len(clicked):,}",
            "compare on a part with more rows: one row has no variance",
        )
    return clicked
