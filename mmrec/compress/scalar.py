"""Each number for itself: float32 as the measure, bfloat16, and 8-bit integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from mmrec.compress.codec import Codes, Rows, Tensors, as_rows, check_codes, encode_blocks, products
from mmrec.encode.encoders import check_choice

Precision = Literal["float32", "bfloat16"]
Scale = Literal["vector", "dimension"]

LARGEST = 127  # of a level; -128 is left out, so that levels are symmetric


@dataclass(frozen=True)
class Floats:
    """Vectors as they are (``float32``, 4 d bytes) or rounded to 8 significant bits (``bfloat16``, 2 d bytes).

    Attributes:
        dim: Width of the vectors.
        precision: ``float32`` or ``bfloat16``.
    """

    kind: ClassVar[str] = "floats"

    dim: int
    precision: Precision = "bfloat16"

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, get_args(Precision))

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float32 if self.precision == "float32" else torch.bfloat16

    @property
    def bytes_per_item(self) -> int:
        """Width of the codes."""
        return self._dtype.itemsize * self.dim

    def encode(self, vectors: NDArray[np.floating[Any]]) -> Codes:
        """Codes ``(n, bytes_per_item)`` of vectors ``(n, d)``, rounded to nearest, ties to even."""
        rows = torch.tensor(as_rows(vectors, self.dim))
        return np.asarray(rows.to(self._dtype).view(torch.uint8).numpy())

    def decode(self, codes: Codes) -> Rows:
        """Vectors ``(n, d)``."""
        whole = np.ascontiguousarray(check_codes(codes, self.bytes_per_item))
        if self.precision == "float32":
            return whole.view(np.float32)
        # by hand, as torch would warn of memory-mapped codes: a bfloat16 is the upper half of a float32
        return np.asarray((whole.view(np.uint16).astype(np.uint32) << 16).view(np.float32))

    def scores(self, queries: NDArray[np.floating[Any]], codes: Codes) -> Rows:
        """Scores ``(b, n)`` of codes for float queries ``(b, d)``."""
        check_codes(codes, self.bytes_per_item)
        return products(as_rows(queries, self.dim), codes, self.decode)

    def symmetric_scores(self, queries: Codes, codes: Codes) -> Rows:
        """Scores ``(b, n)`` of codes for queries that are codes."""
        return self.scores(self.decode(queries), codes)

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Tensors, and what else :meth:`restore` needs."""
        return {}, {"dim": self.dim, "precision": self.precision}

    @classmethod
    def restore(cls, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> Self:
        """The codec that gave this state."""
        return cls(metadata["dim"], metadata["precision"])


@dataclass(frozen=True, eq=False)
class Int8:
    """Integers ``round(127 x / m)`` in -127 … 127.

    m is the largest absolute number of the vector itself, kept beside it (d + 4 bytes), or of each dimension over the
    vectors that the codec was fitted to (d bytes; larger numbers of later vectors are cut off).

    Attributes:
        scales: ``(d,)`` value of the level 1 in each dimension, or None: each vector has its own.
        dim: Width of the vectors.
    """

    kind: ClassVar[str] = "int8"

    dim: int
    scales: Rows | None = None

    @classmethod
    def fit(cls, vectors: NDArray[np.floating[Any]], scale: Scale = "vector") -> Int8:
        """A codec for vectors such as ``(n, d)``.

        Args:
            vectors: What the scales of the dimensions are learned from.
            scale: ``vector`` or ``dimension``.

        Raises:
            ConfigError: Another scale.
        """
        check_choice("scale", scale, get_args(Scale))
        rows = as_rows(vectors)
        if scale == "vector":
            return cls(rows.shape[1])
        return cls(rows.shape[1], np.abs(rows).max(axis=0, initial=0) / np.float32(LARGEST))

    @property
    def bytes_per_item(self) -> int:
        """Width of the codes."""
        return self.dim + 4 * (self.scales is None)

    def encode(self, vectors: NDArray[np.floating[Any]]) -> Codes:
        """Codes ``(n, bytes_per_item)`` of vectors ``(n, d)``."""
        return encode_blocks(as_rows(vectors, self.dim), self.bytes_per_item, self._encode)

    def _encode(self, rows: Rows) -> Codes:
        own = np.abs(rows).max(axis=1, initial=0) / np.float32(LARGEST)
        scales = own[:, None] if self.scales is None else self.scales
        levels = np.rint(rows / np.where(scales > 0, scales, 1)).clip(-LARGEST, LARGEST).astype(np.int8)
        if self.scales is not None:
            return levels.view(np.uint8)
        return np.concatenate([levels.view(np.uint8), own[:, None].view(np.uint8)], axis=1)

    def decode(self, codes: Codes) -> Rows:
        """Vectors ``(n, d)``."""
        check_codes(codes, self.bytes_per_item)
        scales = codes[:, self.dim :].copy().view(np.float32) if self.scales is None else self.scales
        return np.asarray(codes[:, : self.dim].view(np.int8) * scales)

    def scores(self, queries: NDArray[np.floating[Any]], codes: Codes) -> Rows:
        """Scores ``(b, n)`` of codes for float queries ``(b, d)``."""
        check_codes(codes, self.bytes_per_item)
        return products(as_rows(queries, self.dim), codes, self.decode)

    def symmetric_scores(self, queries: Codes, codes: Codes) -> Rows:
        """Scores ``(b, n)`` of codes for queries that are codes."""
        return self.scores(self.decode(queries), codes)

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Tensors, and what else :meth:`restore` needs."""
        return {} if self.scales is None else {"scales": torch.from_numpy(self.scales)}, {"dim": self.dim}

    @classmethod
    def restore(cls, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> Self:
        """The codec that gave this state."""
        scales = tensors.get("scales")
        return cls(metadata["dim"], None if scales is None else scales.numpy())
