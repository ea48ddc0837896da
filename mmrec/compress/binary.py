"""Recurrent binarisation without training: signs of a rotated vector, then signs of what they leave over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from mmrec.compress.bits import MAX_RESIDUALS, Grid
from mmrec.compress.codec import Codes, Rows, Tensors, as_rows, encode_blocks
from mmrec.encode.encoders import check_choice, unit_rows
from mmrec.errors import ConfigError

Rotation = Literal["itq", "random"]

FITTED_ROWS = 65_536  # a rotation of some hundred dimensions is learned well from fewer
ITQ_ROUNDS = 30


@dataclass(frozen=True, eq=False)
class Binary:
    """Grid points of a rotated unit vector ``y = R f / |f|`` of d dimensions:

        b_0 = sign(y),  b_{t+1} = b_t + 2^-(t+1) sign(y - b_t / |b_t|)  for t = 0 … u - 1.

    An item takes d (u + 1) bits and the scale ``|f| / |b_u|``, so that its length is kept. Scores of float queries
    are ``s_i <R q, b_i>``; those of packed queries are counted on the bits, see :mod:`mmrec.compress.bits`.

    Attributes:
        rotation: ``(d, d)`` R, orthogonal.
        residuals: u; 0 keeps signs alone.

    Sources: the recurrence is that of Gan et al., "Binary Embedding-based Retrieval at Tencent", KDD 2023, with the
    identity in the place of its networks (:mod:`mmrec.compress.bebr` has those); the rotation is Gong and Lazebnik,
    "Iterative Quantization", CVPR 2011.
    """

    kind: ClassVar[str] = "binary"

    rotation: Rows
    residuals: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.residuals <= MAX_RESIDUALS:
            raise ConfigError(
                f"residuals: 0 to {MAX_RESIDUALS}", str(self.residuals), "choose another number"
            )

    @classmethod
    def fit(
        cls,
        vectors: NDArray[np.floating[Any]],
        generator: np.random.Generator,
        *,
        residuals: int = 3,
        rotation: Rotation = "itq",
    ) -> Binary:
        """A codec for vectors such as ``(n, d)``.

        Args:
            vectors: What the rotation is learned from.
            generator: Draws a random rotation, which ITQ begins with, and the rows it learns from where there are many.
            residuals: u.
            rotation: ``itq``: learned so that signs lose least; ``random``.

        Raises:
            ConfigError: Another rotation, or a number of residual steps outside 0 … 7.
        """
        check_choice("rotation", rotation, get_args(Rotation))
        rows = as_rows(vectors)
        matrix = np.linalg.qr(generator.standard_normal((rows.shape[1], rows.shape[1])))[0]
        if rotation == "itq":
            if len(rows) > FITTED_ROWS:
                rows = rows[np.sort(generator.choice(len(rows), FITTED_ROWS, replace=False))]
            matrix = learn_rotation(unit_rows(rows), matrix)
        return cls(matrix.astype(np.float32), residuals)

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return len(self.rotation)

    @property
    def grid(self) -> Grid:
        """How the codes are packed."""
        return Grid(self.dim, self.residuals)

    @property
    def bytes_per_item(self) -> int:
        """Width of the codes."""
        return self.grid.bytes_per_item

    def encode(self, vectors: NDArray[np.floating[Any]]) -> Codes:
        """Codes ``(n, bytes_per_item)`` of vectors ``(n, d)``."""
        return encode_blocks(as_rows(vectors, self.dim), self.bytes_per_item, self._encode)

    def _encode(self, rows: Rows) -> Codes:
        points = binarise(unit_rows(rows) @ self.rotation.T, self.residuals)
        return self.grid.pack(points, np.linalg.norm(rows, axis=1))

    def decode(self, codes: Codes) -> Rows:
        """Vectors ``(n, d)``."""
        points = self.grid.points(codes) * self.grid.scales(codes)[:, None]
        return np.asarray(points @ self.rotation)

    def scores(self, queries: NDArray[np.floating[Any]], codes: Codes) -> Rows:
        """Scores ``(b, n)`` of codes for float queries ``(b, d)``."""
        return self.grid.scores(as_rows(queries, self.dim) @ self.rotation.T, codes)

    def symmetric_scores(self, queries: Codes, codes: Codes) -> Rows:
        """Scores ``(b, n)`` of codes for queries that are codes."""
        return self.grid.symmetric_scores(queries, codes)

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Tensors, and what else :meth:`restore` needs."""
        return {"rotation": torch.from_numpy(self.rotation)}, {"residuals": self.residuals}

    @classmethod
    def restore(cls, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> Self:
        """The codec that gave this state."""
        return cls(tensors["rotation"].numpy(), metadata["residuals"])


def binarise(rows: Rows, residuals: int) -> Rows:
    """Grid points ``(n, d)`` of unit vectors ``(n, d)``; see :class:`Binary`."""
    points = _signs(rows)
    for t in range(residuals):
        lengths = np.linalg.norm(points, axis=1, keepdims=True)
        points += np.float32(0.5 ** (t + 1)) * _signs(rows - points / lengths)
    return points


def _signs(rows: Rows) -> Rows:
    """1 where not below 0, else -1: a sign of 0 would leave the grid."""
    return np.where(rows >= 0, np.float32(1), np.float32(-1))


def learn_rotation(rows: Rows, start: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Rotation ``(d, d)`` of vectors ``(n, d)`` that gains ``Σ |R f|_1``, what their signs keep, from ``start (d, d)`` on.

    Alternates the signs ``B = sign(F Rᵀ)`` and the best rotation for them, ``R = U Vᵀ`` of ``Bᵀ F = U S Vᵀ``.
    """
    rotation = start.astype(np.float32)
    for _ in range(ITQ_ROUNDS):
        left, _, right = np.linalg.svd(_signs(rows @ rotation.T).T @ rows)
        rotation = (left @ right).astype(np.float32)
    return rotation
