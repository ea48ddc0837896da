"""SLIM: item-to-item regression with few, non-negative weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field
from scipy import sparse

from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Ids
from mmrec.errors import ConfigError
from mmrec.models.baseline.item_weights import ItemWeights
from mmrec.models.contracts import ModelConfig

BLOCK_ENTRIES = 2**22  # of the products of candidates that are held at once: 32 MiB
TOLERANCE = 1e-5  # largest change of a weight in the last sweep
SWEEPS = 2000


class Config(ModelConfig):
    """Hyper-parameters of SLIM."""

    l1: float = Field(1.0, ge=0, description="weight of the sum of weights: higher keeps fewer of them")
    l2: float = Field(5.0, gt=0, description="weight of the squared weights")


class SLIM(ItemWeights):
    """``s(u) = x_u W`` with ``W = argmin ½ |X - X W|² + l2/2 |W|² + l1 Σ W``, ``W >= 0``, ``diag W = 0``.

    Each column is an elastic net, solved by coordinate descent: ``w_i <- max(0, g_ij - Σ_{l≠i} g_il w_l - l1) /
    (g_ii + l2)`` with ``G = X^T X``. Because G and W are not negative, only items with ``g_ij > l1`` can ever get a
    weight: the others are left out from the start, exactly, and no matrix of n_items² is built. Columns with about as
    many candidates are solved together. The cost is the sum of the squared numbers of candidates, so a catalogue
    where nearly all pairs of items occur together is slow.

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
        """Solve for W, a block of columns at a time.

        Raises:
            ConfigError: The weights do not settle.
        """
        likes = data.train.matrix(data.n_items).astype(np.float64)
        gram = (likes.T @ likes).tocsr()
        candidates = _candidates(gram, self.config.l1)
        solved = [np.zeros(len(items)) for items in candidates]
        for block in _blocks(np.array([len(items) for items in candidates])):
            weights = solve(*_problems(gram, candidates, block), self.config.l1, self.config.l2)
            for column, row in zip(block, weights, strict=True):
                solved[column] = row[: len(candidates[column])]
        ends = np.cumsum([0, *(len(items) for items in candidates)])
        entries = (np.concatenate(solved), np.concatenate(candidates), ends)
        weights_by_column = sparse.csc_array(entries, shape=gram.shape)
        weights_by_column.eliminate_zeros()
        self.keep(weights_by_column.tocsr())


def _candidates(gram: sparse.csr_array, l1: float) -> list[Ids]:
    """Per column the items that occur with it more than ``l1`` times."""
    pairs = gram.tocoo()
    row, column = pairs.coords
    possible = (pairs.data > l1) & (row != column)
    order = np.argsort(column[possible], kind="stable")
    ends = np.cumsum(np.bincount(column[possible], minlength=gram.shape[0]))
    return np.split(row[possible][order].astype(np.int64), ends[:-1])


def _blocks(sizes: np.ndarray) -> Iterator[Ids]:
    """Columns with candidates, those with about as many together, within the memory of a block."""
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    start = 0
    while start < len(order):
        together = max(1, BLOCK_ENTRIES // int(sizes[order[start]]) ** 2)
        yield order[start : start + together]
        start += together


def _problems(gram: sparse.csr_array, candidates: list[Ids], block: Ids) -> tuple[np.ndarray, np.ndarray]:
    """Products ``(c, b, c)`` of the candidates of each column and their products ``(b, c)`` with the column.

    Columns with fewer candidates than the largest are filled up with ones on the diagonal and zero targets.
    """
    size = max(len(candidates[column]) for column in block)
    products = np.zeros((size, len(block), size))
    targets = np.zeros((len(block), size))
    products[np.arange(size), :, np.arange(size)] = 1.0
    for place, column in enumerate(block):
        own = candidates[column]
        rows = gram[own]
        products[: len(own), place, : len(own)] = rows[:, own].toarray()
        targets[place, : len(own)] = rows[:, [column]].toarray()[:, 0]
    return products, targets


def solve(products: np.ndarray, targets: np.ndarray, l1: float, l2: float) -> np.ndarray:
    """Minimise ``½ w^T G w - t·w + l2/2 |w|² + l1 Σ w`` over ``w >= 0``, for b problems at once.

    Between two sweeps over all coordinates only those with a weight are swept, which is where the time goes.

    Args:
        products: G as ``(c, b, c)``: row i of every problem, then problem, then column.
        targets: t ``(b, c)``.
        l1: At least 0.
        l2: Above 0.

    Returns:
        Weights ``(b, c)``.

    Raises:
        ConfigError: The weights still change after many sweeps.
    """
    size = len(products)
    weights, residuals = np.zeros_like(targets), targets.copy()
    everything: Sequence[int] = range(size)
    coordinates = everything
    for _ in range(SWEEPS):
        largest = 0.0
        for i in coordinates:
            own = products[i, :, i]
            new = np.maximum(residuals[:, i] + own * weights[:, i] - l1, 0) / (own + l2)
            step = new - weights[:, i]
            change = np.abs(step).max()
            if change > 0:
                residuals -= step[:, None] * products[i]
                weights[:, i] = new
                largest = max(largest, change)
        if largest >= TOLERANCE:
            coordinates = np.flatnonzero(weights.any(axis=0)).tolist()
        elif coordinates is everything:
            return weights
        else:
            coordinates = everything
    raise ConfigError("weights that settle", f"changes after {SWEEPS:,} sweeps", "raise params.l2")
