"""Is a difference between models more than chance: paired bootstrap and t-test, and Holm's correction."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

ALPHA = 0.05  # level of the tests, and 1 - coverage of the intervals
NORMAL = NormalDist().inv_cdf(1 - ALPHA / 2)  # half the width of an interval, in standard errors

_CELLS = 1_000_000  # counts held at once: 8 MB
_NOISE = 1e-9  # sums of differences below this are rounding of an exact 0


@dataclass(frozen=True, eq=False)
class PairedTest:
    """Result of a paired test, one entry per column.

    Attributes:
        mean: ``(m,)`` mean difference.
        low: ``(m,)`` lower end of the 95 % interval of the mean.
        high: ``(m,)`` its upper end.
        p: ``(m,)`` two-sided p-value of a mean difference of 0.
    """

    mean: Floats
    low: Floats
    high: Floats
    p: Floats

    def column(self, place: int) -> PairedTest:
        """One column alone."""
        chosen = slice(place, place + 1)
        return PairedTest(self.mean[chosen], self.low[chosen], self.high[chosen], self.p[chosen])


def bootstrap_means(differences: Floats, resamples: int, generator: np.random.Generator) -> Floats:
    """Means of ``resamples`` samples of n rows drawn with replacement.

    The mean of a resample depends only on how often each distinct row is drawn, and those counts are multinomial.
    Most users have the same row, zeros (no model has a hit, or all have the same), which adds nothing: how many
    of the n draws fall on the other m users is binomial, and only those draws are made. This is the same
    distribution as n draws, for a fraction of them. The columns share the draws, so that one product with the
    count matrix serves all.

    Args:
        differences: ``(n, c)`` one row per user.
        resamples: Number of resamples B.
        generator: Source of the draws.

    Returns:
        ``(B, c)`` means.
    """
    n_users = len(differences)
    rows = differences[differences.any(axis=1)]
    n_rows, sums = len(rows), np.zeros((resamples, differences.shape[1]))
    if n_rows == 0:
        return sums
    step = max(1, _CELLS // n_rows)
    for start in range(0, resamples, step):
        block = min(step, resamples - start)
        sizes = generator.binomial(n_users, n_rows / n_users, size=block)
        draws = generator.integers(0, n_rows, size=int(sizes.sum()))
        draws += np.repeat(np.arange(block, dtype=np.int64) * n_rows, sizes)
        counts = np.bincount(draws, minlength=block * n_rows).reshape(block, n_rows)
        sums[start : start + block] = counts.astype(np.float64) @ rows
    sums[np.abs(sums) < _NOISE] = 0.0
    return sums / n_users


def paired_bootstrap(
    differences: Floats,
    resamples: int,
    generator: np.random.Generator,
    weights: NDArray[np.integer[Any]] | None = None,
) -> PairedTest:
    """Test the mean of paired differences against 0 by resampling users (Efron and Tibshirani, 1993).

    ``p = min(1, 2 · min((1 + #{m* ≤ 0}) / (B + 1), (1 + #{m* ≥ 0}) / (B + 1)))`` over the resampled means m*. The
    added one counts the observed sample, so that p is never 0: B resamples cannot show less than 2 / (B + 1). The
    interval is that of the percentiles.

    Args:
        differences: ``(n, m)`` metric of one model minus that of another, one row per user, no row without a pair.
        resamples: Number of resamples B.
        generator: Source of the draws.
        weights: ``(n,)`` above 0, for weighted means; a user is drawn with its weight, so that the sum of the
            weights varies too.
    """
    if weights is None:
        means = bootstrap_means(differences, resamples, generator)
    else:
        shares = (weights / weights.mean())[:, None]
        sums = bootstrap_means(np.hstack([differences * shares, shares]), resamples, generator)
        means = sums[:, :-1] / sums[:, -1:]
    below = (1 + (means <= 0).sum(axis=0)) / (resamples + 1)
    above = (1 + (means >= 0).sum(axis=0)) / (resamples + 1)
    low, high = np.quantile(means, [ALPHA / 2, 1 - ALPHA / 2], axis=0)
    mean = np.average(differences, axis=0, weights=weights)
    return PairedTest(mean, low, high, np.minimum(1.0, 2 * np.minimum(below, above)))


def group_sums(values: Floats, groups: Ids, n_groups: int) -> Floats:
    """``(n_groups, m)`` sums of the rows ``(n, m)`` of each group ``(n,)``."""
    columns = [np.bincount(groups, weights=column, minlength=n_groups) for column in values.T]
    return np.stack(columns, axis=1)


def paired_t_test(differences: Floats, groups: Ids | None = None) -> PairedTest:
    """Test the mean of paired differences against 0 by its standard error (Student, 1908).

    For very many rows: there the mean is normal whatever the differences are, and a bootstrap finds the same. With
    groups the error is ``sqrt(G/(G-1) Σ_g (Σ_{i ∈ g} (d_i - d̄))²) / n`` (Liang and Zeger, 1986), with G - 1 degrees of
    freedom.

    Args:
        differences: ``(n, m)`` at least 2 rows.
        groups: ``(n,)`` numbers from 0 on, none left out; rows of one group may depend on each other. All rows are
            independent if None.
    """
    from scipy.special import stdtr, stdtrit

    n, mean = len(differences), differences.mean(axis=0)
    own = np.arange(n) if groups is None else groups
    count = int(own.max()) + 1
    sums = group_sums(differences - mean, own, count)
    error = np.sqrt(count / (count - 1) * (sums**2).sum(axis=0)) / n
    half = stdtrit(count - 1, 1 - ALPHA / 2) * error
    return PairedTest(mean, mean - half, mean + half, 2 * stdtr(count - 1, -standardize(mean, error)))


def standardize(mean: Floats, error: Floats) -> Floats:
    """``|mean| / error``; 0 where the mean is 0 but for rounding, which an error of rounding alone may not enlarge."""
    size = np.where(np.abs(mean) < _NOISE, 0.0, np.abs(mean))
    return np.divide(size, error, out=np.where(size > 0, np.inf, 0.0), where=error > 0)


def holm(p_values: Floats) -> Floats:
    """Adjust p-values for testing all of them (Holm, "A simple sequentially rejective procedure", 1979).

    The i-th smallest of m is multiplied by ``m - i + 1``, made no smaller than the one before, and cut at 1. The
    chance of one false finding or more in the family stays below the level, however the tests depend on each other.
    """
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return adjusted
