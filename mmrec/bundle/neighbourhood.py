"""A new item's vector from those of the known items whose content is nearest."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmrec.encode.features import FeatureTable
from mmrec.neighbours import neighbours_among

# The best on the validation items of a cold-item split (Amazon Scientific, FREEDOM).
NEIGHBOURS, TEMPERATURE = 10, 0.1


def mix_neighbours(
    new: Mapping[str, FeatureTable],
    known: Mapping[str, FeatureTable],
    vectors: NDArray[np.float32],
    usable: NDArray[np.bool_],
    *,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> NDArray[np.float32]:
    """Vectors ``(m, d)`` of new items, zeros for one without any content.

    For each modality m that item i has, its k nearest known items j with cosines c_ij get the weights
    ``w_ij = softmax_j(c_ij / τ)``; the modalities count alike: ``a_ij = mean_m w^m_ij``. Then
    ``v_i = n_i x / |x|`` with ``x = Σ_j a_ij v_j`` and ``n_i = Σ_j a_ij |v_j|``: the direction is the neighbours' mean,
    and the length what theirs is, for a mean of vectors is shorter than they are and would lose against all of them.

    Args:
        new: Features of the new items by modality.
        known: Features of the known items.
        vectors: ``(n, d)`` of the known items.
        usable: ``(n,)`` which of them may be neighbours: items that somebody had.
        k: Neighbours of each modality.
        temperature: τ.
    """
    m = len(next(iter(new.values())).present)
    table = torch.from_numpy(np.asarray(vectors))
    sums, norms, count = (torch.zeros(m, *width).double() for width in ((table.shape[1],), (), ()))
    for modality, others in known.items():
        rows = torch.from_numpy(np.flatnonzero(new[modality].present))
        candidates = torch.from_numpy(np.flatnonzero(others.present & usable))
        if not len(rows) or not len(candidates):
            continue
        ids, cosines = neighbours_among(_rows(new[modality], rows), _rows(others, candidates), k)
        weights, near = (cosines / temperature).softmax(dim=1), table[candidates[ids]].double()
        sums[rows] += (weights[:, :, None] * near).sum(1)
        norms[rows] += (weights * near.norm(dim=2)).sum(1)
        count[rows] += 1
    length = sums.norm(dim=1)
    scale = norms / (count.clamp(min=1) * length.where(length > 0, 1))
    mixed: NDArray[np.float32] = (sums * scale[:, None]).float().numpy()
    return mixed


def _rows(table: FeatureTable, rows: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(table.vectors, dtype=np.float32)[rows.numpy()])
