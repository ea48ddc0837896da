"""ItemKNN: recommend what is near the items a user has, by co-occurrence or by content."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy import sparse

from mmrec.data.dataset import TrainingData
from mmrec.graph import modality_weights
from mmrec.models.baseline.item_weights import ItemWeights, strongest
from mmrec.models.contracts import ModelConfig

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


class ItemKNN(ItemWeights):
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

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__(data.n_items)
        self.config = config
        if config.source == "features":
            modality_weights(list(data.features), config.image_weight)  # raises where there are no features

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
            rows.append(strongest(block, self.config.k, start))
        self.keep(sparse.vstack(rows, format="csr"))

    def _matrices(self, data: TrainingData) -> list[tuple[float, np.ndarray | sparse.csr_array, np.ndarray]]:
        """Weight, item vectors and their norms of every similarity that is mixed."""
        if self.config.source == "interactions":
            matrix = data.train.matrix(data.n_items).T.tocsr()
            return [(1.0, matrix, np.sqrt(matrix.sum(axis=1)).astype(np.float32))]
        weights = modality_weights(list(data.features), self.config.image_weight)
        tables = {m: np.array(data.features[m].vectors, dtype=np.float32) for m in data.features}
        return [(weights[m], x, np.linalg.norm(x, axis=1).astype(np.float32)) for m, x in tables.items()]
