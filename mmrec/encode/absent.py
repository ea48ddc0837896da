"""What stands for a modality that an item lacks, before modalities are fused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrec.encode.encoders import check_choice, unit_rows

Rows = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
POLICIES = ("zero", "mean", "neighbours")  # a learned vector needs training: mmrec.encode.gated
NEIGHBOURS = 10
_BLOCK = 1024


def fill_absent(views: Sequence[Rows], present: Sequence[Mask], policy: str, fitted: Mask) -> list[Rows]:
    """Fill the rows of absent items.

    ``zero`` leaves zeros. ``mean`` puts the mean of the present rows. ``neighbours`` puts the mean of the ten nearest
    items that have the modality, by the mean cosine over the modalities that both have; an item with no modality in
    common with any gets the mean. Only items marked in ``fitted`` are averaged.

    Args:
        views: One ``(n_items, d_m)`` per modality.
        present: One ``(n_items,)`` per modality.
        policy: One of ``POLICIES``.
        fitted: ``(n_items,)`` items to learn from.

    Returns:
        Copies of the views, filled; items without any modality stay zero.

    Raises:
        ConfigError: Unknown policy.
    """
    check_choice("absent", policy, POLICIES)
    fill: Callable[[int], Rows] = {
        "zero": lambda m: np.zeros_like(views[m]),
        "mean": lambda m: np.broadcast_to(_mean(views[m], present[m] & fitted), views[m].shape),
        "neighbours": lambda m: _from_neighbours(m, views, present, fitted),
    }[policy]
    anything = np.any(present, axis=0)
    filled = []
    for m, view in enumerate(views):
        rows = np.where(present[m][:, None], view, fill(m))
        rows[~anything] = 0
        filled.append(rows)
    return filled


def _mean(view: Rows, chosen: Mask) -> Rows:
    return np.asarray(view[chosen].mean(axis=0) if chosen.any() else np.zeros(view.shape[1], view.dtype))


def _from_neighbours(m: int, views: Sequence[Rows], present: Sequence[Mask], fitted: Mask) -> Rows:
    donors = np.flatnonzero(present[m] & fitted)
    result = np.zeros_like(views[m])
    result[:] = _mean(views[m], present[m] & fitted)
    others = [other for other in range(len(views)) if other != m]
    unit = {other: unit_rows(views[other]) for other in others}
    lacking = np.flatnonzero(~present[m] & np.any(present, axis=0))
    for start in range(0, len(lacking) if len(donors) else 0, _BLOCK):
        rows = lacking[start : start + _BLOCK]
        total = np.zeros((len(rows), len(donors)), dtype=np.float32)
        shared = np.zeros_like(total)
        for other in others:
            both = present[other][rows][:, None] & present[other][donors]
            total += np.where(both, unit[other][rows] @ unit[other][donors].T, 0)
            shared += both
        cosine = np.where(shared > 0, total / np.maximum(shared, 1), -np.inf)
        nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :NEIGHBOURS]
        usable = np.isfinite(np.take_along_axis(cosine, nearest, axis=1))
        for row, near, good in zip(rows, nearest, usable, strict=True):
            if good.any():
                result[row] = views[m][donors[near[good]]].mean(axis=0)
    return result
