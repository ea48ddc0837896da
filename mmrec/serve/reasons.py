"""Why an item is on a list: what of the history it is like, and in which modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mmrec.encode.features import FeatureTable

NEAREST = 3
Ids = NDArray[np.int64]


class Reasons:
    """Explains lists by cosines.

    Args:
        unit: ``(n_items, d)`` item vectors of length 1, or 0 where an item has none.
        features: Modality to features that the model reads; none where the bundle has none.
    """

    def __init__(self, unit: NDArray[np.float32], features: Mapping[str, FeatureTable]) -> None:
        self._unit = unit
        self._features = dict(features)

    def why(self, items: Ids, history: Ids) -> list[dict[str, Any]]:
        """For each item ``{"nearest", "modalities"?}``.

        ``nearest`` are the most similar items of the history by cosine, most similar first, the earlier item of equal
        ones. The share of modality m is ``max(0, c_m) / Σ_m' max(0, c_m')``, c_m being the mean cosine of the item's
        features with those of the nearest; left out where no modality has any likeness.

        Args:
            items: ``(n,)`` internal ids.
            history: ``(h,)`` internal ids.
        """
        known = np.unique(history)
        cosines = self._unit[items] @ self._unit[known].T
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :NEAREST]
        results = []
        for item, own, places in zip(items, cosines, order, strict=True):
            near = known[places]
            why: dict[str, Any] = {
                "nearest": [
                    {"item": int(one), "similarity": float(own[place])}
                    for one, place in zip(near, places, strict=True)
                ]
            }
            if shares := self._shares(int(item), near):
                why["modalities"] = shares
            results.append(why)
        return results

    def _shares(self, item: int, near: Ids) -> dict[str, float]:
        likeness = {name: _likeness(table, item, near) for name, table in self._features.items()}
        total = sum(likeness.values())
        return {name: value / total for name, value in likeness.items()} if total > 0 else {}


def _likeness(table: FeatureTable, item: int, near: Ids) -> float:
    """Mean cosine of the item's features with those of the others that have some, at least 0."""
    others = near[table.present[near]]
    if not table.present[item] or not len(others):
        return 0.0
    own, matrix = table.vectors[item].astype(np.float64), table.vectors[others].astype(np.float64)
    lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(own)
    products = np.divide(matrix @ own, lengths, out=np.zeros(len(others)), where=lengths > 0)
    return max(0.0, float(products.mean()))
