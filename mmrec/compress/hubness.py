"""Items that are near to everything: a correction of scores by banks of queries and items, O(1) for each pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmrec.compress.codec import Rows, as_rows
from mmrec.data.histories import Ids
from mmrec.errors import ConfigError
from mmrec.rank import top_items

Vectors = NDArray[np.floating[Any]]

BLOCK_BYTES = 64 * 2**20  # of one block of similarities
QUERY_WEIGHT, GALLERY_WEIGHT = 1 / 1.99, 3.0  # the published defaults, for cosines


@dataclass(frozen=True, eq=False)
class DualIS:
    """Dual inverted softmax: scores are divided by what banks of queries and of items give to the same item,

        s'_ij = exp(β1 s_ij) / Σ_b exp(β1 <q_b, v_j>) · exp(β2 s_ij) / Σ_b exp(β2 <g_b, v_j>),

    in logarithms and in the units of the scores: ``s_ij - bias_j`` ranks alike with

        bias_j = (log Σ_b exp(β1 <q_b, v_j>) + log Σ_b exp(β2 <g_b, v_j>)) / (β1 + β2).

    A bank without rows corrects nothing. DualDIS, the dynamic variant, corrects a query's scores only where its best
    item is active, which is to say among the best k of some row of a bank.

    For items: the query bank are training users' vectors, the gallery bank is the items (or a sample). The weights are
    in units of 1 / score: the defaults are the paper's for cosines.

    Attributes:
        bias: ``(n,)`` float32, for each item.
        active: ``(n,)`` whether an item is among the best of some row of a bank.

    Source: Wang et al., "Balance Act: Mitigating Hubness in Cross-Modal Retrieval with Query and Gallery Banks",
    EMNLP 2023. The published snippet is not this formula: it takes both factors from the gallery bank in the place of
    the test similarities (shapes agree only where bank and test are of one size), overwrites an input, and uses a
    counter that it does not import.
    """

    bias: Rows
    active: NDArray[np.bool_]

    @classmethod
    def fit(
        cls,
        items: Vectors,
        *,
        query_bank: Vectors | None = None,
        gallery_bank: Vectors | None = None,
        query_weight: float = QUERY_WEIGHT,
        gallery_weight: float = GALLERY_WEIGHT,
        k: int = 1,
    ) -> DualIS:
        """The correction of items ``(n, d)``.

        Args:
            items: What is searched.
            query_bank: ``(m, d)`` queries seen before; None: that factor is left out.
            gallery_bank: ``(m, d)`` items; None likewise.
            query_weight: β1.
            gallery_weight: β2.
            k: How deep the lists of the banks' rows are that activate items.

        Raises:
            ConfigError: Weights that are not above 0, or k below 1.
            FeatureError: Other widths, or numbers that are not finite.
        """
        if min(query_weight, gallery_weight) <= 0 or k < 1:
            raise ConfigError(
                "weights above 0 and k of 1 or more",
                f"{query_weight}, {gallery_weight} and {k}",
                "leave a bank out to leave its factor out",
            )
        rows = torch.from_numpy(as_rows(items))
        total = torch.zeros(len(rows), dtype=torch.float64)
        active = torch.zeros(len(rows), dtype=torch.bool)
        for bank, weight in ((query_bank, query_weight), (gallery_bank, gallery_weight)):
            if bank is not None and len(bank):
                known = torch.from_numpy(as_rows(bank, rows.shape[1]))
                sums, activated = _read_bank(known, rows, weight, k)
                total += sums
                active |= activated
        return cls((total / (query_weight + gallery_weight)).float().numpy(), active.numpy())

    def correct(self, scores: Rows) -> Rows:
        """DualIS: scores ``(b, n)`` of all items less their bias."""
        return np.asarray(scores - self.bias)

    def correct_where_active(self, scores: Rows) -> Rows:
        """DualDIS: the same for queries whose best item (the lower id of several) is active, others as they are."""
        best = scores.argmax(axis=1)
        return np.asarray(scores - np.where(self.active[best][:, None], self.bias, np.float32(0)))

    def extend_items(self, items: Vectors) -> Rows:
        """Vectors ``(n, d + 1)`` whose inner products with :func:`extend_queries` are the scores of DualIS.

        An index of inner products then needs nothing else. DualDIS depends on the query and does not fold in.
        """
        return np.concatenate([as_rows(items), -self.bias[:, None]], axis=1)


def extend_queries(queries: Vectors) -> Rows:
    """Queries ``(b, d + 1)`` for items with a bias: a 1 is appended."""
    rows = as_rows(queries)
    return np.concatenate([rows, np.ones((len(rows), 1), dtype=np.float32)], axis=1)


def _read_bank(
    bank: torch.Tensor, items: torch.Tensor, weight: float, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """``log Σ_b exp(weight <bank_b, v_j>)`` of each item ``(n,)``, and whether it is among the best k of a row ``(n,)``.

    Goes through the bank in blocks of rows, so that each block's best items are known at once.
    """
    sums = torch.full((len(items),), -torch.inf, dtype=torch.float64)
    active = torch.zeros(len(items), dtype=torch.bool)
    step = max(1, BLOCK_BYTES // (4 * max(len(items), 1)))
    for block in torch.split(bank, step):
        similarity = block @ items.T
        active[top_items(similarity, k)[0].reshape(-1)] = True
        sums = torch.logaddexp(sums, (weight * similarity).logsumexp(0).double())
    return sums, active


def hub_skewness(ranked: Ids, n_items: int) -> float:
    """Skewness of N_k, how often each item occurs in lists ``(b, k)``: 0 for an even spread, large with hubs.

    ``E[(N_k - μ)³] / σ³``, 0 where all items occur equally often; -1 in a list is no item.

    Source: Radovanović, Nanopoulos, Ivanović, "Hubs in Space", JMLR 2010.
    """
    counts = np.bincount(ranked[ranked >= 0], minlength=n_items).astype(np.float64)
    centred = counts - counts.mean()
    spread = centred.std()
    return float((centred**3).mean() / spread**3) if spread > 0 else 0.0
