"""Linear subspaces of item features: principal components, and canonical correlations of two or more views."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrec.errors import ConfigError

Rows = NDArray[np.floating[Any]]
_RANK = 1e-10  # directions with a smaller share of the largest variance count as none


@dataclass(frozen=True, eq=False)
class PCA:
    """Principal components.

    Attributes:
        mean: ``(d,)``.
        directions: ``(d, k)`` orthonormal.
        shares: ``(k,)`` share of the variance along each, descending.
    """

    mean: Rows
    directions: Rows
    shares: Rows

    @classmethod
    def fit(cls, rows: Rows, size: float) -> PCA:
        """Fit to ``rows (n, d)``.

        Args:
            rows: Rows to learn from.
            size: Below 1 the share of the variance to keep, else the number of components.

        Raises:
            ConfigError: Nothing varies, or a size not above 0.
        """
        _check_size(size)
        mean = rows.mean(axis=0, dtype=np.float64)
        _, spread, directions = np.linalg.svd(rows - mean, full_matrices=False)
        variance = spread**2
        rank = int((variance > _RANK * variance[:1].sum()).sum())
        if not rank:
            raise ConfigError("rows that differ", f"{len(rows)} equal ones", "fit on more training items")
        shares = variance / variance.sum()
        wanted = int(np.searchsorted(np.cumsum(shares), size - 1e-12)) + 1 if size < 1 else int(size)
        k = min(wanted, rank)
        return cls(mean, _fix_signs(directions[:k].T), shares[:k])

    def transform(self, rows: Rows) -> Rows:
        """Coordinates ``(n, k)`` of ``rows (n, d)``."""
        return np.asarray((rows - self.mean) @ self.directions)


@dataclass(frozen=True, eq=False)
class CCA:
    """Canonical variates of two or more views.

    Views are whitened by their regularised covariances; the directions are the leading eigenvectors of the matrix of
    the whitened views' cross-covariances, without its diagonal blocks. That is MAXVAR: each component maximises the
    largest eigenvalue of the correlation matrix of the views' projections. For two views it is ordinary CCA.

    Attributes:
        means: One ``(d_m,)`` per view.
        directions: One ``(d_m, k)`` per view.
        correlations: ``(k,)`` eigenvalue / (number of views - 1), descending, in [0, 1]; with two views the canonical
            correlations.

    Sources: Hotelling, "Relations Between Two Sets of Variates", 1936; Kettenring, "Canonical Analysis of Several
    Sets of Variables", 1971.
    """

    means: list[Rows]
    directions: list[Rows]
    correlations: Rows

    @classmethod
    def fit(cls, views: Sequence[Rows], size: int | None = None, reg: float = 1e-3) -> CCA:
        """Fit to views ``(n, d_m)`` of the same n items.

        Args:
            views: At least two.
            size: Number of components; None: the smallest width.
            reg: Share of the mean variance added to each variance; 0 makes the correlations invariant to invertible
                linear maps of a view, and unreliable for wide views of few items.

        Raises:
            ConfigError: Fewer than two views, or fewer than two items with all of them.
        """
        if len(views) < 2 or len(views[0]) < 2:
            raise ConfigError(
                "two or more views, with two or more training items that have all of them",
                f"{len(views)} views, {len(views[0]) if views else 0} items",
                "name more features, or choose another method",
            )
        means = [view.mean(axis=0, dtype=np.float64) for view in views]
        centred = [view - mean for view, mean in zip(views, means, strict=True)]
        whiteners = [_whitener(view, reg) for view in centred]
        white = [view @ whitener for view, whitener in zip(centred, whiteners, strict=True)]
        ends = np.cumsum([0, *(view.shape[1] for view in white)])
        together = np.concatenate(white, axis=1)
        cross = together.T @ together / len(together)
        for start, end in itertools.pairwise(ends):
            cross[start:end, start:end] = 0
        values, vectors = np.linalg.eigh(cross)
        widest = min(view.shape[1] for view in white)
        k = min(size or widest, widest)
        vectors = _fix_signs(vectors[:, ::-1][:, :k]) * np.sqrt(len(views))
        correlations = np.clip(values[::-1][:k] / (len(views) - 1), 0, 1)
        parts = [vectors[start:end] for start, end in itertools.pairwise(ends)]
        return cls(
            means, [w @ part for w, part in zip(whiteners, parts, strict=True)], np.asarray(correlations)
        )

    def transform(self, views: Sequence[Rows]) -> list[Rows]:
        """Variates ``(n, k)`` of each view ``(n, d_m)``."""
        return [
            np.asarray((view - mean) @ direction)
            for view, mean, direction in zip(views, self.means, self.directions, strict=True)
        ]


def _whitener(centred: Rows, reg: float) -> Rows:
    covariance = centred.T @ centred / len(centred)
    values, vectors = np.linalg.eigh(covariance)
    keep = values > _RANK * max(values[-1], np.finfo(np.float64).tiny)
    if not keep.any():
        raise ConfigError("views that vary", "one with equal rows", "leave it out, or fit on more items")
    return np.asarray(vectors[:, keep] / np.sqrt(values[keep] + reg * values.mean()))


def _fix_signs(directions: Rows) -> Rows:
    """Make the largest entry of each column positive: a decomposition leaves the signs open."""
    largest = np.abs(directions).argmax(axis=0)
    return np.asarray(directions * np.sign(directions[largest, np.arange(directions.shape[1])]))


def _check_size(size: float) -> None:
    if not size > 0:
        raise ConfigError("dim above 0", repr(size), "give a share of the variance below 1, or a width")
