"""Metrics of predicted clicks: ranking (AUC, AUC within groups), likelihood (logloss) and calibration.

``y_i`` is 1 where row i was clicked, ``z_i`` its logit, ``p_i = 1 / (1 + exp(-z_i))``. Everything is float64 and
costs at most a sort of the rows. :mod:`mmrec.delong` says how sure an AUC is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from mmrec.errors import ConfigError, DataError
from mmrec.significance import NORMAL, Floats

CLICK_METRICS = ("auc", "gauc", "avgauc", "logloss", "ece", "bias")
SMALLER_IS_BETTER = ("logloss", "ece", "logloss_calibrated", "ece_calibrated")

BINS = 20
CLIP = 1e-15  # a probability given as 0 or 1 counts as this far from it

Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]


def click_metrics(
    labels: NDArray[Any], logits: NDArray[Any], groups: NDArray[Any] | None = None
) -> dict[str, float]:
    """All metrics of one model on the same rows.

    Args:
        labels: ``(n,)`` 0 or 1.
        logits: ``(n,)`` finite.
        groups: ``(n,)`` user or session of each row; without it there is no ``gauc`` and no ``avgauc``.

    Returns:
        ``{"auc", "gauc", "avgauc", "logloss", "ece", "bias"}``, see :func:`auc`, :func:`grouped_auc`,
        :func:`logloss`, :func:`calibration_error` and :func:`bias`.

    Raises:
        DataError: Lengths differ, a logit is not finite, a label is neither 0 nor 1, all rows have one label, or
            no group has both.
    """
    values = {"auc": auc(labels, logits)}
    if groups is not None:
        grouped = grouped_auc(labels, logits, groups)
        values |= {"gauc": grouped.gauc, "avgauc": grouped.avgauc}
    probabilities = expit(np.asarray(logits, dtype=np.float64))
    return values | {
        "logloss": logloss(labels, logits),
        "ece": calibration_error(labels, probabilities),
        "bias": bias(labels, probabilities),
    }


# --- ranking -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TieBlocks:
    """Rows in ascending order of their group, then of their score; the rows of one group and score are a block.

    Attributes:
        order: ``(n,)`` the rows in that order.
        sizes: ``(b,)`` rows of each block.
        clicked: ``(b,)`` clicked rows of each block.
        firsts: ``(g,)`` first block of each group; one group where none are given.
    """

    order: Counts
    sizes: Counts
    clicked: Counts
    firsts: Counts


def tie_blocks(labels: Bools, scores: Floats, groups: NDArray[Any] | None = None) -> TieBlocks:
    """Sort checked rows (:func:`check_rows`), which is all that an AUC needs."""
    order = np.argsort(scores)
    if groups is not None:  # twice as fast as lexsort, which cannot use the unstable sort for the scores
        order = order[np.argsort(groups[order], kind="stable")]
    ordered = scores[order]
    starts_block = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    firsts = np.zeros(1, dtype=np.int64)
    if groups is not None:
        members = groups[order]
        starts_group = np.concatenate([[True], members[1:] != members[:-1]])
        starts_block |= starts_group
        firsts = np.flatnonzero(starts_group[starts_block])
    starts = np.flatnonzero(starts_block)
    clicked = np.add.reduceat(labels[order], starts, dtype=np.int64)
    return TieBlocks(order, np.diff(starts, append=len(order)), clicked, firsts)


def auc(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """Share of the pairs of a clicked and another row that the scores order rightly; a tie is half a pair.

    ``AUC = (Σ_{y_i = 1} r_i - m (m + 1) / 2) / (m n)`` with the mid-ranks ``r_i`` among all rows, m clicked and n
    others: the Mann-Whitney statistic (Hanley and McNeil, "The meaning and use of the area under a ROC curve", 1982).
    Pairs are counted in integers, so an increasing function of the scores gives the same number to the last bit.

    Raises:
        DataError: See :func:`click_metrics`.
    """
    clicked, checked = check_rows(labels, scores)
    aucs, _, _ = _group_aucs(tie_blocks(clicked, checked))
    return float(aucs[0])


@dataclass(frozen=True, eq=False)
class GroupedAUC:
    """AUC within groups; groups whose rows all have one label have none, and no effect.

    Attributes:
        groups: ``(g,)`` groups with both labels, ascending.
        aucs: ``(g,)`` AUC of each.
        rows: ``(g,)`` rows (impressions) of each.
        n_groups: Number of groups, those with one label as well.
    """

    groups: NDArray[Any]
    aucs: Floats
    rows: Counts
    n_groups: int

    @property
    def gauc(self) -> float:
        """``Σ_g rows_g AUC_g / Σ_g rows_g`` (Zhou et al., "Deep interest network", 2018)."""
        return float(self.aucs @ self.rows / self.rows.sum())

    @property
    def avgauc(self) -> float:
        """``Σ_g AUC_g`` divided by the number of groups with both labels."""
        return float(self.aucs.mean())


def grouped_auc(labels: NDArray[Any], scores: NDArray[Any], groups: NDArray[Any]) -> GroupedAUC:
    """AUC within each group, all by one sort.

    Args:
        labels: ``(n,)`` 0 or 1.
        scores: ``(n,)`` finite.
        groups: ``(n,)`` user or session of each row.

    Raises:
        DataError: See :func:`click_metrics`.
    """
    clicked, checked = check_rows(labels, scores, groups)
    blocks = tie_blocks(clicked, checked, groups)
    aucs, rows, usable = _group_aucs(blocks)
    if not usable.any():
        raise DataError(
            "a group with clicked and other rows",
            f"one label in each of the {len(usable):,} groups",
            "measure without groups, or on more rows",
        )
    starts = np.cumsum(blocks.sizes) - blocks.sizes
    names = groups[blocks.order[starts[blocks.firsts]]]
    return GroupedAUC(names[usable], aucs[usable], rows[usable], len(usable))


def _group_aucs(blocks: TieBlocks) -> tuple[Floats, Counts, Bools]:
    """By group: AUC (0 where it has none), number of rows, and whether it has both labels."""
    others = blocks.sizes - blocks.clicked
    m, n = (np.add.reduceat(counts, blocks.firsts) for counts in (blocks.clicked, others))
    lower = np.cumsum(others) - others  # in the groups before as well, which is taken off again
    lower -= np.repeat(lower[blocks.firsts], np.diff(blocks.firsts, append=len(others)))
    twice = np.add.reduceat(blocks.clicked * (2 * lower + others), blocks.firsts)
    return twice / np.maximum(2 * m * n, 1), m + n, (m > 0) & (n > 0)


# --- likelihood --------------------------------------------------------------------------------------------------


def logloss(labels: NDArray[Any], logits: NDArray[Any]) -> float:
    """Mean of :func:`row_losses`, in nats.

    Raises:
        DataError: See :func:`click_metrics`.
    """
    return float(row_losses(labels, logits).mean())


def row_losses(labels: NDArray[Any], logits: NDArray[Any]) -> Floats:
    """``-log p_i`` of clicked rows and ``-log(1 - p_i)`` of others, from logits: ``log(1 + exp(∓z_i))``.

    Exact for logits of any size, so that nothing is clipped.

    Raises:
        DataError: See :func:`click_metrics`.
    """
    clicked, checked = check_rows(labels, logits)
    losses: Floats = np.logaddexp(0.0, np.where(clicked, -checked, checked))
    return losses


def probability_losses(labels: NDArray[Any], probabilities: NDArray[Any]) -> Floats:
    """The same as :func:`row_losses` where only probabilities are known.

    Probabilities are clipped to ``[1e-15, 1 - 1e-15]``. A float32 cannot come closer to 1 than ``2^-24``; a 1 then
    counts as ``1 - 2^-25``, the nearest that is rounded to 1, since 1e-15 would charge up to 17 nats too many.

    Raises:
        DataError: See :func:`click_metrics`, or a probability outside [0, 1].
    """
    top = np.finfo(probabilities.dtype).epsneg / 2 if probabilities.dtype.kind == "f" else 0.0
    clicked, checked = _check_probabilities(labels, probabilities)
    clipped = np.clip(checked, CLIP, 1.0 - max(CLIP, float(top)))
    losses: Floats = -np.log(np.where(clicked, clipped, 1.0 - clipped))
    return losses


# --- calibration -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reliability:
    """Predicted against observed shares of clicks, by bins of the prediction; no bin is empty.

    Attributes:
        predicted: ``(b,)`` mean prediction, ascending.
        observed: ``(b,)`` share of clicked rows.
        counts: ``(b,)`` rows.
        low: ``(b,)`` lower end of the 95 % interval of the observed share (Wilson, "Probable inference", 1927).
        high: ``(b,)`` its upper end.
    """

    predicted: Floats
    observed: Floats
    counts: Counts
    low: Floats
    high: Floats

    @property
    def error(self) -> float:
        """``Σ_b counts_b |predicted_b - observed_b| / Σ_b counts_b``."""
        return float(np.abs(self.predicted - self.observed) @ self.counts / self.counts.sum())


def reliability(
    labels: NDArray[Any],
    probabilities: NDArray[Any],
    bins: int = BINS,
    equal: Literal["count", "width"] = "count",
) -> Reliability:
    """Table of a reliability diagram.

    Args:
        labels: ``(n,)`` 0 or 1.
        probabilities: ``(n,)`` in [0, 1].
        bins: Most bins. Rows of one prediction stay together, so that there may be fewer.
        equal: Bins of as many rows (``count``), which suits the small shares of clicks, or of the same ``width``.

    Raises:
        ConfigError: Fewer than one bin.
        DataError: Lengths differ, no rows, or values out of range.
    """
    if bins < 1:
        raise ConfigError("at least 1 bin", str(bins), f"use the default, {BINS}")
    clicked, checked = _check_probabilities(labels, probabilities)
    order = np.argsort(checked)
    ordered, n = checked[order], len(order)
    edges = ordered[np.arange(bins) * n // bins] if equal == "count" else np.arange(bins) / bins
    starts = np.unique(np.searchsorted(ordered, edges))
    starts = starts[starts < n]
    counts = np.diff(starts, append=n)
    clicks = np.add.reduceat(clicked[order], starts, dtype=np.int64)
    centre = (clicks + NORMAL**2 / 2) / (counts + NORMAL**2)
    half = NORMAL / (counts + NORMAL**2) * np.sqrt(clicks * (counts - clicks) / counts + NORMAL**2 / 4)
    predicted = np.add.reduceat(ordered, starts) / counts
    return Reliability(predicted, clicks / counts, counts, np.maximum(centre - half, 0.0), centre + half)


def calibration_error(
    labels: NDArray[Any],
    probabilities: NDArray[Any],
    bins: int = BINS,
    equal: Literal["count", "width"] = "count",
) -> float:
    """Expected calibration error: mean distance of predicted and observed shares over bins, weighted by rows.

    Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", 2015; see :func:`reliability`.
    Even perfect predictions have about ``sqrt(2 bins p (1 - p) / (π n))`` of it by chance.
    """
    return reliability(labels, probabilities, bins, equal).error


def bias(labels: NDArray[Any], probabilities: NDArray[Any]) -> float:
    """Predicted divided by observed clicks, ``Σ p_i / Σ y_i``: above 1 the predictions are too high.

    He et al., "Practical lessons from predicting clicks on ads at Facebook", 2014.

    Raises:
        DataError: See :func:`click_metrics`, or a probability outside [0, 1].
    """
    clicked, checked = _check_probabilities(labels, probabilities)
    if not clicked.any():
        raise _one_label(clicked)
    return float(checked.sum() / clicked.sum())


# --- checks ------------------------------------------------------------------------------------------------------


def check_rows(
    labels: NDArray[Any], scores: NDArray[Any], groups: NDArray[Any] | None = None
) -> tuple[Bools, Floats]:
    """Which rows are clicked, and the scores as float64.

    Raises:
        DataError: See :func:`click_metrics`.
    """
    clicked, checked = _check_pairs(labels, scores)
    if groups is not None and groups.shape != clicked.shape:
        raise DataError(
            f"a group for each of {len(clicked):,} rows", f"{len(groups):,} groups", "give one group per row"
        )
    if clicked.all() or not clicked.any():
        raise _one_label(clicked)
    return clicked, checked


def _check_probabilities(labels: NDArray[Any], probabilities: NDArray[Any]) -> tuple[Bools, Floats]:
    clicked, checked = _check_pairs(labels, probabilities)
    if len(checked) == 0 or checked.min() < 0.0 or checked.max() > 1.0:
        found = f"values from {checked.min():g} to {checked.max():g}" if len(checked) else "no rows"
        raise DataError("probabilities from 0 to 1", found, "give probabilities, not logits")
    return clicked, checked


def _check_pairs(labels: NDArray[Any], scores: NDArray[Any]) -> tuple[Bools, Floats]:
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise DataError(
            "a label and a score for each row",
            f"labels {labels.shape} and scores {scores.shape}",
            "give two arrays (n,) of the same rows",
        )
    clicked = labels == 1
    if not (clicked | (labels == 0)).all():
        raise DataError("labels 0 and 1", f"{labels[~(clicked | (labels == 0))][0]}", "label clicks with 1")
    checked = np.asarray(scores, dtype=np.float64)
    finite = np.isfinite(checked)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise DataError(
            "finite scores",
            f"{checked[row]} in row {row:,}; {int((~finite).sum()):,} in all",
            "lower train.lr or set train.clip_norm: the model has diverged",
        )
    return clicked, checked


def _one_label(clicked: Bools) -> DataError:
    found = f"{int(clicked.sum()):,} clicked of {len(clicked):,} rows"
    return DataError("clicked and other rows", found, "measure on a part that has both")
