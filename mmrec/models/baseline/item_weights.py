"""Sparse item-to-item weights: what ItemKNN, RP3beta and SLIM have in common."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from mmrec.models.contracts import Users
from mmrec.rank import top_items


class ItemWeights(nn.Module):
    """``s(u, j) = Σ_{i in N_u} w_ij`` with sparse weights in compressed rows, kept in buffers.

    Args:
        n_items: Size of the catalogue.
    """

    offsets: Tensor
    neighbours: Tensor
    similarities: Tensor

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.n_items = n_items
        self.register_buffer("offsets", torch.zeros(n_items + 1, dtype=torch.int64))
        self.register_buffer("neighbours", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("similarities", torch.zeros(0))

    def keep(self, weights: sparse.csr_array) -> None:
        """Store fitted weights ``(n_items, n_items)``."""
        self.offsets = torch.from_numpy(weights.indptr.astype(np.int64))
        self.neighbours = torch.from_numpy(weights.indices.astype(np.int64))
        self.similarities = torch.from_numpy(weights.data.astype(np.float32))

    def scores(self, users: Users) -> Tensor:
        """Scores ``(b, n_items)``."""
        weights = sparse.csr_array(
            (self.similarities.numpy(), self.neighbours.numpy(), self.offsets.numpy()),
            shape=(self.n_items, self.n_items),
        )
        return torch.from_numpy((users.histories.matrix(self.n_items) @ weights).toarray())


def strongest(block: np.ndarray, k: int, start: int) -> sparse.csr_array:
    """The k largest positive entries of each row, the item itself left out; ties go to the lower item.

    Args:
        block: Weights ``(b, n_items)`` of the items ``start, start + 1, …``; overwritten.
        k: Entries kept per row.
        start: The item of the first row.
    """
    own = np.arange(len(block))
    block[own, own + start] = -np.inf
    ids, values = (part.numpy() for part in top_items(torch.from_numpy(block), k))
    keep = values > 0
    rows = np.repeat(own, keep.sum(axis=1))
    return sparse.csr_array((values[keep], (rows, ids[keep])), shape=block.shape)
