"""SLIM: item-to-item regression with few, non-negative weights."""

from __future__ import annotations

import warnings
from typing import ClassVar

import numpy as np
from pydantic import Field
from scipy import sparse

from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Ids
from mmrec.errors import ConfigError
from mmrec.models.baseline.item_weights import ItemWeights
from mmrec.models.contracts import ModelConfig

TOLERANCE = 1e-8  # duality gap at which a column is solved, in shares of the squared length of its likes
SWEEPS = 10_000
LEAST_L1 = 1e-6  # scikit-learn's duality gap is none without it; the weights are moved by less than that


class Config(ModelConfig):
    """Hyper-parameters of SLIM."""

    l1: float = Field(1.0, ge=0, description="weight of the sum of weights: higher keeps fewer of them")
    l2: float = Field(5.0, gt=0, description="weight of the squared weights")


class SLIM(ItemWeights):
    """``s(u) = x_u W`` with ``W = argmin ½ |X - X W|² + l2/2 |W|² + l1 Σ W``, ``W >= 0``, ``diag W = 0``.

    Each column is an elastic net, solved by scikit-learn's coordinate descent. With ``G = X^T X`` only items with
    ``g_ij > l1`` can ever get a weight in column j, because G and W are not negative: the others are left out from the
    start, exactly, and no matrix of n_items² is built.

    Source: Ning and Karypis, "SLIM: Sparse Linear Methods for Top-N Recommender Systems", ICDM 2011.
    """

    config_type: ClassVar = Config
    batches: ClassVar = None
    modalities: ClassVar = "none"
    cold_items: ClassVar = False

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__(data.n_items)
        self.config = config

    def fit(self, data: TrainingData) -> None:
        """Solve for W, column by column.

        Raises:
            ConfigError: The weights do not settle.
        """
        likes = _likes(data)
        candidates = _candidates((likes.T @ likes).tocoo(), self.config.l1)
        solved = [self._solve(likes, item, own) for item, own in enumerate(candidates)]
        ends = np.cumsum([0, *(len(own) for own in candidates)])
        entries = (np.concatenate(solved), np.concatenate(candidates), ends)
        weights = sparse.csc_array(entries, shape=(data.n_items, data.n_items))
        weights.eliminate_zeros()
        self.keep(weights.tocsr())

    def _solve(self, likes: sparse.csc_array, item: int, candidates: Ids) -> np.ndarray:
        """Weights ``(c,)`` of the candidates of a column ``(c,)``."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import ElasticNet

        if not len(candidates):
            return np.zeros(0)
        l1 = max(self.config.l1, LEAST_L1)
        penalty = l1 + self.config.l2
        net = ElasticNet(
            penalty / likes.shape[0],  # scikit-learn's squared error is a mean over users
            l1_ratio=l1 / penalty,
            fit_intercept=False,
            positive=True,
            tol=TOLERANCE,
            max_iter=SWEEPS,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                net.fit(likes[:, candidates], likes[:, [item]].toarray()[:, 0])
            except ConvergenceWarning:
                raise ConfigError(
                    "weights that settle", f"changes after {SWEEPS:,} sweeps", "raise params.l2"
                ) from None
        return np.asarray(net.coef_)


def _likes(data: TrainingData) -> sparse.csc_array:
    """X ``(n_users, n_items)``; scikit-learn reads no wider indices than 32 bits."""
    likes = data.train.matrix(data.n_items).astype(np.float64).tocsc()
    return sparse.csc_array(
        (likes.data, likes.indices.astype(np.int32), likes.indptr.astype(np.int32)), shape=likes.shape
    )


def _candidates(gram: sparse.coo_array, l1: float) -> list[Ids]:
    """Per column the items that occur with it more than ``l1`` times."""
    row, column = gram.coords
    possible = (gram.data > l1) & (row != column)
    order = np.argsort(column[possible], kind="stable")
    ends = np.cumsum(np.bincount(column[possible], minlength=gram.shape[0]))
    return np.split(row[possible][order].astype(np.int32), ends[:-1])
