"""RP3beta: random walks of three steps, with popular items marked down."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field
from scipy import sparse

from mmrec.data.dataset import TrainingData
from mmrec.models.baseline.item_weights import ItemWeights, strongest
from mmrec.models.contracts import ModelConfig

BLOCK = 1024  # items whose weights are held at once


class Config(ModelConfig):
    """Hyper-parameters of RP3beta."""

    k: int = Field(100, ge=1, description="weights kept per item")
    alpha: float = Field(1.0, ge=0, description="exponent of the transition probabilities")
    beta: float = Field(0.6, ge=0, description="exponent of the popularity that divides a score")


class RP3Beta(ItemWeights):
    """``s(u, j) = Σ_{i in N_u} w_ij``, ``w_ij = d_j^-beta Σ_{v has i and j} (d_i d_v)^-alpha``.

    With alpha = 1 and every weight kept this is ``d_u d_j^-beta`` times the probability that a random walk of three
    steps user, item, user, item goes from u to j; d are degrees in the training graph. The factor of the user does
    not change a ranking and is left out. Only the k largest weights of each item i are kept, the item itself not
    counted, so memory stays linear in the items.

    Sources: Paudel, Christoffel, Newell, Bernstein, "Updatable, Accurate, Diverse, and Scalable Recommendations for
    Interactive Applications", TiiS 2016; the exponent alpha of P3alpha: Cooper et al., "Random Walks in Recommender
    Systems", WWW 2014; both together and the k: Ferrari Dacrema, Cremonesi, Jannach, RecSys 2019.
    """

    config_type: ClassVar = Config
    batches: ClassVar = None
    modalities: ClassVar = "none"
    cold_items: ClassVar = False

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__(data.n_items)
        self.config = config

    def fit(self, data: TrainingData) -> None:
        """Multiply the transition matrices, a block of items at a time."""
        alpha, beta = self.config.alpha, self.config.beta
        likes = data.train.matrix(data.n_items)
        item_degree = np.bincount(data.train.items, minlength=data.n_items)
        from_users = _scale_rows(likes, _power(data.train.counts, -alpha))
        from_items = _scale_rows(likes.T.tocsr(), _power(item_degree, -alpha))
        discount = _power(item_degree, -beta)
        rows = []
        for start in range(0, data.n_items, BLOCK):
            block = (from_items[start : start + BLOCK] @ from_users).toarray() * discount
            rows.append(strongest(block, self.config.k, start))
        self.keep(sparse.vstack(rows, format="csr"))


def _power(degree: np.ndarray, exponent: float) -> np.ndarray:
    """``degree ** exponent`` in float32; nodes without edges have no row that it could scale."""
    powers: np.ndarray = np.maximum(degree, 1.0) ** exponent
    return powers.astype(np.float32)


def _scale_rows(matrix: sparse.csr_array, factors: np.ndarray) -> sparse.csr_array:
    scaled = matrix.data * np.repeat(factors, np.diff(matrix.indptr))
    return sparse.csr_array((scaled, matrix.indices, matrix.indptr), shape=matrix.shape)
