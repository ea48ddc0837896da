"""ItemKNN: recommend what is near the items a user has, by co-occurrence or by content."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from scipy import sparse
from torch import Tensor, nn

from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.graph import modality_weights
from mmrec.models.contracts import ModelConfig, Users
from mmrec.rank import top_items

BLOCK = 1024  # items whose similarities are held at once


class Config(ModelConfig):
    """Hyper-parameters of ItemKNN."""

    source: Literal["interactions", "features"] = Field(
        "interactions", description="what makes items similar"
    )
    k: int = Field(50, ge=1, description="neighbours kept per item, the item itself not counted")
    shrink: float = Field(
        10.0, ge=0, description="added to the product of the norms: trusts small supports less"
    )
    image_weight: float = Field(0.1, ge=0, le=1, description="share of images in content similarity")


class ItemKNN(nn.Module):
    """``s(u, j) = Σ_{i in N_u} s_ij [j among the k nearest of i]``, ``s_ij = x_i · x_j / (|x_i| |x_j| + shrink)``.

    With ``source: interactions`` x_i is the item's column of the training matrix; with ``source: features`` the
    similarity is the mean over modalities of the same formula on their vectors, so that no modality dominates by
    scale; a modality that either item lacks counts 0. (The toolboxes put all features side by side instead.)
    The item itself is left out: it is in the history already. Similarities below 0 count 0. Ties at 0 go to the
    lower item id.

    Source: Ferrari Dacrema, Cremonesi, Jannach, "Are We Really Making Much Progress?", RecSys 2019.
    """

    config_type: ClassVar = Config
    batches: ClassVar = None
    modalities: ClassVar = "optional"
    cold_items: ClassVar = True  # with source: features
    offsets: Tensor
    neighbours: Tensor
    similarities: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config = config
        self.n_items = data.n_items
        if config.source == "features":
            modality_weights(list(data.features), config.image_weight)  # raises where there are no features
        self.register_buffer("offsets", torch.zeros(data.n_items + 1, dtype=torch.int64))
        self.register_buffer("neighbours", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("similarities", torch.zeros(0))

    def fit(self, data: TrainingData) -> None:
        """Find the neighbours, a block of items at a time."""
        weighted = self._matrices(data)
        rows: list[sparse.csr_array] = []
        for start in range(0, data.n_items, BLOCK):
            stop = min(start + BLOCK, data.n_items)
            block = np.zeros((stop - start, data.n_items), dtype=np.float32)
            for weight, matrix, norms in weighted:
                products = matrix[start:stop] @ matrix.T
                dense = products if isinstance(products, np.ndarray) else products.toarray()
                scale = norms[start:stop, None] * norms[None, :] + np.float32(self.config.shrink)
                block += weight * np.divide(dense, scale, out=np.zeros_like(block), where=scale > 0)
            rows.append(self._nearest(block, start))
        similarity = sparse.vstack(rows, format="csr")
        self.offsets = torch.from_numpy(similarity.indptr.astype(np.int64))
        self.neighbours = torch.from_numpy(similarity.indices.astype(np.int64))
        self.similarities = torch.from_numpy(similarity.data.astype(np.float32))

    def _matrices(self, data: TrainingData) -> list[tuple[float, np.ndarray | sparse.csr_array, np.ndarray]]:
        """Weight, item vectors and their norms of every similarity that is mixed."""
        if self.config.source == "interactions":
            matrix = _interaction_matrix(data.train, data.n_items).T.tocsr()
            return [(1.0, matrix, np.sqrt(matrix.sum(axis=1)).astype(np.float32))]
        weights = modality_weights(list(data.features), self.config.image_weight)
        tables = {m: np.array(data.features[m].vectors, dtype=np.float32) for m in data.features}
        return [(weights[m], x, np.linalg.norm(x, axis=1).astype(np.float32)) for m, x in tables.items()]

    def _nearest(self, block: np.ndarray, start: int) -> sparse.csr_array:
        own = np.arange(len(block))
        block[own, own + start] = -np.inf
        ids, values = (part.numpy() for part in top_items(torch.from_numpy(block), self.config.k))
        keep = values > 0
        rows = np.repeat(own, keep.sum(axis=1))
        return sparse.csr_array((values[keep], (rows, ids[keep])), shape=block.shape)

    def scores(self, users: Users) -> Tensor:
        """Scores ``(b, n_items)``."""
        similarity = sparse.csr_array(
            (self.similarities.numpy(), self.neighbours.numpy(), self.offsets.numpy()),
            shape=(self.n_items, self.n_items),
        )
        history = _interaction_matrix(users.histories, self.n_items)
        return torch.from_numpy((history @ similarity).toarray())


def _interaction_matrix(histories: Histories, n_items: int) -> sparse.csr_array:
    ones = np.ones(len(histories.items), dtype=np.float32)
    return sparse.csr_array((ones, histories.items, histories.offsets), shape=(histories.n_users, n_items))
