"""Calibration of a ranker: its logits scaled and shifted so that predicted clicks agree with observed ones.

An increasing function of the logits, so that it changes no order and no AUC. It is fitted on validation rows; the
test rows only show whether it holds.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from mmrec.click_metrics import Bools, check_rows
from mmrec.errors import ConfigError, DataError, did_you_mean
from mmrec.files import read_json, write_json
from mmrec.significance import Floats

FILE = "calibration.json"

Kind = Literal["none", "temperature", "platt"]

_PRECISE = 1e-15  # nats: how much of the mean logloss is left to gain when the fit ends


@dataclass(frozen=True)
class Calibration:
    """Calibrated logits ``scale · z + offset``.

    Attributes:
        kind: ``none``; ``temperature``: no offset, ``1 / scale`` is the temperature; ``platt``: both.
        scale: Above 0.
        offset: Added last.
    """

    kind: Kind = "none"
    scale: float = 1.0
    offset: float = 0.0

    def apply(self, logits: NDArray[Any]) -> Floats:
        """Calibrated logits ``(n,)``, float64."""
        calibrated: Floats = self.scale * np.asarray(logits, dtype=np.float64) + self.offset
        return calibrated

    def probabilities(self, logits: NDArray[Any]) -> Floats:
        """Calibrated probabilities ``(n,)``, float64."""
        found: Floats = expit(self.apply(logits))
        return found

    def save(self, folder: Path) -> None:
        """Write ``calibration.json`` into a run folder."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> Calibration:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: The file is missing or damaged.
        """
        return cls.parse(read_json(folder / FILE), folder / FILE)

    @classmethod
    def parse(cls, document: Any, where: Path | str) -> Calibration:
        """From the content of ``calibration.json``.

        Raises:
            DataError: It is none.
        """
        try:
            read = cls(document["kind"], float(document["scale"]), float(document["offset"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            read = cls(scale=math.nan)
        if read.kind not in get_args(Kind) or not (0 < read.scale < math.inf and math.isfinite(read.offset)):
            raise DataError(
                f"kind, a scale above 0 and an offset in {where}",
                f"{document}"[:200],
                "evaluate the run again",
            )
        return read


def fit_calibration(labels: NDArray[Any], logits: NDArray[Any], kind: Kind = "platt") -> Calibration:
    """Scale, or scale and offset, that minimise the logloss of these rows.

    ``temperature`` is that of Guo et al., "On calibration of modern neural networks", 2017, ``platt`` that of Platt,
    "Probabilistic outputs for support vector machines", 1999, without his smoothing of the labels. The logloss is
    convex in both numbers; Newton's method with a line search finds the minimum, which cannot be above the loss of
    the logits as they are. Where all logits are equal, ``platt`` keeps the scale of 1 and fits the offset; where
    all are 0, ``temperature`` changes nothing.

    Args:
        labels: ``(n,)`` 0 or 1, of validation rows.
        logits: ``(n,)`` of the model.
        kind: What is fitted; ``none`` for the logits as they are.

    Raises:
        ConfigError: Unknown kind.
        DataError: There is no best scale above 0: clicks do not go up with the logits, or the logits separate
            clicked from other rows, so that the best scale is infinite. Or see
            :func:`mmrec.click_metrics.click_metrics`.
    """
    if kind not in get_args(Kind):
        kinds = list(get_args(Kind))
        raise ConfigError(f"a calibration among {', '.join(kinds)}", repr(kind), did_you_mean(kind, kinds))
    clicked, checked = check_rows(labels, logits)
    if kind == "none":
        return Calibration()
    if kind == "temperature":
        if not checked.any():
            return Calibration("temperature")
        _check_bounded(clicked, checked, threshold=0.0)
        size = float(np.abs(checked).max())
        scale = float(_minimise(clicked, (checked / size)[:, None], np.zeros(1))[0]) / size
        return Calibration("temperature", _check_scale(scale), 0.0)
    centre, size = float(checked.mean()), float(checked.std())
    if size <= 1e-12 * abs(centre) or size == 0.0:  # all equal but for rounding
        return Calibration("platt", 1.0, float(logit(clicked.mean())) - centre)
    _check_bounded(clicked, checked)
    columns = np.stack([(checked - centre) / size, np.ones(len(checked))], axis=1)
    slope, level = _minimise(clicked, columns, np.array([0.0, logit(clicked.mean())])).tolist()
    scale = _check_scale(slope / size)
    return Calibration("platt", scale, level - scale * centre)


def _minimise(clicked: Bools, columns: Floats, start: Floats) -> Floats:
    """Weights ``(c,)`` of ``columns (n, c)`` with the least mean logloss, by Newton's method from ``start``."""
    weights, n = start, len(clicked)
    loss = _loss(clicked, columns @ weights)
    while True:
        p = expit(columns @ weights)
        gradient = columns.T @ (p - clicked) / n
        hessian = (columns * (p * (1.0 - p))[:, None]).T @ columns / n
        step = np.linalg.lstsq(hessian, -gradient, rcond=None)[0]
        gain, length = float(-gradient @ step) / 2, 1.0
        if gain < _PRECISE:
            return weights
        while True:  # halve the step until it keeps a part of the gain that it promised
            tried = weights + length * step
            lower = _loss(clicked, columns @ tried)
            if lower < loss - 0.1 * length * gain:
                break
            length /= 2
            if length < 1e-10:  # nothing left to gain in floating point
                return weights
        weights, loss = tried, lower


def _loss(clicked: Bools, logits: Floats) -> float:
    return float(np.logaddexp(0.0, np.where(clicked, -logits, logits)).mean())


def _check_bounded(clicked: Bools, logits: Floats, threshold: float | None = None) -> None:
    """Refuse logits that a threshold (any, or this one) splits into clicked and others: more scale is always better."""
    highest, lowest = float(logits[~clicked].max()), float(logits[clicked].min())
    if highest <= lowest and (threshold is None or highest <= threshold <= lowest):
        raise DataError(
            "clicked and other rows whose logits overlap",
            f"others up to {highest:g}, clicked from {lowest:g}: the best scale is infinite",
            "fit on more rows, or leave these logits uncalibrated (none)",
        )


def _check_scale(scale: float) -> float:
    if not scale > 0:
        raise DataError(
            "logits that go up with the clicks",
            f"a best scale of {scale:g}, which would turn the order around",
            "train a model that beats chance first, or leave these logits uncalibrated (none)",
        )
    return scale
