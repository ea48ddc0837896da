"""Product codes: the vector is cut into parts, each quantised for itself; optionally after a learned rotation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from mmrec.codes.quantiser import (
    Codes,
    Fitted,
    Rows,
    Settings,
    Tensors,
    as_tensor,
    child_seed,
    in_blocks,
    squared_distances,
)
from mmrec.encode.subspaces import PCA
from mmrec.errors import ConfigError
from mmrec.progress import note


class ProductSettings(Settings):
    """Settings of product quantisation; a level is a part of the vector."""

    levels: int = Field(16, ge=1, le=256)
    pca: int = Field(512, ge=1, description="principal components kept of wider vectors")


@dataclass(frozen=True, eq=False)
class ProductQuantiser:
    """Codes of a vector x: ``y = A (x - m)`` is cut into parts of one width, and code l is the centroid nearest to part l.

    Attributes:
        mean: ``(d,)`` m.
        matrix: ``(levels * width, d)`` A, with orthonormal columns or rows.
        centroids: ``(levels, K, width)``.

    Sources: Jégou, Douze, Schmid, "Product Quantization for Nearest Neighbor Search", TPAMI 2011; Ge et al.,
    "Optimized Product Quantization", CVPR 2013; as semantic IDs: Hou et al., "Generating Long Semantic IDs in Parallel
    for Recommendation", KDD 2025.
    """

    kind: ClassVar[str] = "product"

    mean: Tensor
    matrix: Tensor
    centroids: Tensor

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many codes each level has."""
        return (self.centroids.shape[1],) * len(self.centroids)

    def _parts(self, vectors: Rows) -> Tensor:
        """``(levels, n, width)``."""
        rows = (as_tensor(vectors) - self.mean) @ self.matrix.T
        levels, _, width = self.centroids.shape
        return rows.view(len(rows), levels, width).transpose(0, 1)

    def encode(self, vectors: Rows) -> Codes:
        """Codes ``(n, levels)`` of vectors ``(n, d)``."""
        codes = [
            torch.cat([squared_distances(block, book).argmin(1) for block in in_blocks(part)])
            for part, book in zip(self._parts(vectors), self.centroids, strict=True)
        ]
        return torch.stack(codes, 1).numpy().astype(np.int32)

    def decode(self, codes: Codes) -> Rows:
        """Vectors ``(n, d)`` that codes ``(n, levels)`` stand for."""
        own = torch.from_numpy(codes.astype(np.int64))
        parts = [book[own[:, level]] for level, book in enumerate(self.centroids)]
        return np.asarray((torch.cat(parts, 1) @ self.matrix + self.mean).numpy())

    def last_costs(self, vectors: Rows, codes: Codes) -> Rows:
        """Squared distance ``(n, K)`` of the last part to its centroids."""
        return np.asarray(squared_distances(self._parts(vectors)[-1], self.centroids[-1]).numpy())

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Tensors, and what else :meth:`restore` needs."""
        return {"mean": self.mean, "matrix": self.matrix, "centroids": self.centroids}, {}

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Self:
        """The quantiser that gave this state."""
        return cls(tensors["mean"], tensors["matrix"], tensors["centroids"])


def fit(
    vectors: Rows,
    fitted: NDArray[np.bool_],
    settings: ProductSettings,
    generator: torch.Generator,
    *,
    rotate: bool,
    show_progress: bool = True,
) -> Fitted:
    """Product codes of vectors ``(n_items, d)``, learned from the rows marked in ``fitted (n_items,)``.

    Args:
        vectors: What is tokenised.
        fitted: Rows to learn from.
        settings: Settings.
        generator: Seeds k-means.
        rotate: Learn a rotation that makes the parts lose least (OPQ).
        show_progress: Say that FAISS is at work, which shows nothing itself (minutes for OPQ of a few thousand items).

    Raises:
        ConfigError: Codes per level are no power of two, or there are more levels than columns.
    """
    import faiss

    if show_progress:
        note(f"{'opq' if rotate else 'pq'}: FAISS learns from {int(fitted.sum()):,} items")
    size, levels = settings.size, settings.levels
    if size & (size - 1):
        raise ConfigError(
            "size: a power of two for product codes", str(size), "choose --size 256, for example"
        )
    rows = np.asarray(vectors[fitted], dtype=np.float32)
    mean, matrix = rows.mean(0), np.eye(rows.shape[1], dtype=np.float32)
    if rows.shape[1] > settings.pca:
        matrix = PCA.fit(rows, settings.pca).directions.T.astype(np.float32)
    if levels > len(matrix):
        raise ConfigError(
            f"levels: at most {len(matrix)}, the width of the vectors", str(levels), "choose fewer --levels"
        )
    missing = -len(matrix) % levels  # the parts have one width: zeros make up for what is missing
    matrix = np.pad(matrix, ((0, missing), (0, 0)))
    parts = np.ascontiguousarray((rows - mean) @ matrix.T)
    width = parts.shape[1]
    seed = child_seed(generator)
    if rotate:
        rotation = faiss.OPQMatrix(width, levels)
        quantiser = _quantiser(faiss, width, levels, size, seed)
        rotation.pq = quantiser
        rotation.train(parts)
        matrix = faiss.vector_to_array(rotation.A).reshape(width, width) @ matrix
        parts = np.ascontiguousarray((rows - mean) @ matrix.T)
    quantiser = _quantiser(faiss, width, levels, size, seed)
    quantiser.train(parts)
    centroids = faiss.vector_to_array(quantiser.centroids).reshape(levels, size, width // levels)
    made = ProductQuantiser(*(torch.from_numpy(part.copy()) for part in (mean, matrix, centroids)))
    return Fitted(made, vectors)


def _quantiser(faiss: Any, width: int, levels: int, size: int, seed: int) -> Any:
    quantiser = faiss.ProductQuantizer(width, levels, size.bit_length() - 1)
    quantiser.cp.seed = seed
    # small catalogues have fewer than FAISS wants, and the health report shows what came of it
    quantiser.cp.min_points_per_centroid = 1
    return quantiser
