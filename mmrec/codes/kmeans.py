"""k-means for codebooks: scikit-learn's, with a seed, and a balanced one for groups of like size."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from mmrec.codes.quantiser import child_seed, squared_distances
from mmrec.codes.sinkhorn import balanced_assignment

BALANCED_EPS = 0.01


def kmeans(rows: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Centroids ``(size, d)`` of rows ``(n, d)``: k-means++ and Lloyd's algorithm.

    Fewer distinct rows than ``size`` give centroids that come twice, of which the later ones are never the nearest.

    Source: Arthur and Vassilvitskii, "k-means++", SODA 2007.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # that they come twice shows in the health report
        fit = KMeans(size, n_init=1, random_state=child_seed(generator)).fit(rows.numpy())
    return torch.from_numpy(np.asarray(fit.cluster_centers_, dtype=np.float32))


def balanced_groups(rows: Tensor, groups: int, generator: torch.Generator, rounds: int = 10) -> Tensor:
    """Groups ``(n,)`` of rows ``(n, d)``, near one another and of about the same size.

    k-means whose assignments are balanced by Sinkhorn's algorithm.
    """
    centroids = kmeans(rows, groups, generator)
    own = rows.new_zeros(len(rows), dtype=torch.int64)
    for _ in range(rounds):
        before = own
        own = balanced_assignment(squared_distances(rows, centroids), BALANCED_EPS)
        if torch.equal(own, before):
            break
        centroids = means(rows, own, centroids)
    return own


def means(rows: Tensor, own: Tensor, centroids: Tensor) -> Tensor:
    """Mean ``(K, d)`` of the rows of each cluster; an empty cluster keeps its centroid."""
    counts = torch.bincount(own, minlength=len(centroids))
    sums = torch.zeros_like(centroids).index_add_(0, own, rows)
    return torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centroids)
