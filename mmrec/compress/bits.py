"""Vectors on a binary grid: how their bits are packed, unpacked, and multiplied without unpacking.

A grid point of u residual steps is ``b = Σ_{t=0..u} 2^-t x_t`` with signs ``x_t ∈ {-1, 1}^d``: in each dimension one of
the 2^(u+1) odd multiples of 2^-u below 2. A packed row holds the u + 1 planes of signs, one bit each, and the float32
by which the point is multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmrec.compress.codec import BLOCK_ROWS, Codes, Rows, check_codes, products

MAX_RESIDUALS = 7  # with more the levels need more than 8 bits
_SCALE_BYTES = 4


@dataclass(frozen=True)
class Grid:
    """Packed grid points.

    Attributes:
        dim: Number of dimensions d.
        residuals: Number of residual steps u.
    """

    dim: int
    residuals: int

    @property
    def bytes_per_item(self) -> int:
        """``(u + 1) ceil(d / 8) + 4``."""
        return (self.residuals + 1) * self._plane_bytes + _SCALE_BYTES

    @property
    def _plane_bytes(self) -> int:
        return -(-self.dim // 8)

    def pack(self, points: Rows, lengths: Rows) -> Codes:
        """Codes ``(n, bytes_per_item)`` that stand for vectors of lengths ``(n,)`` along grid points ``(n, d)``."""
        levels = np.rint((points * 2**self.residuals + (2 ** (self.residuals + 1) - 1)) / 2).astype(np.uint8)
        planes = [
            np.packbits((levels >> (self.residuals - t)) & 1, axis=1) for t in range(self.residuals + 1)
        ]
        scales = (lengths / np.linalg.norm(points, axis=1)).astype(np.float32)
        return np.concatenate([*planes, scales[:, None].view(np.uint8)], axis=1)

    def points(self, codes: Codes) -> Rows:
        """Grid points ``(n, d)``."""
        planes = self._planes(check_codes(codes, self.bytes_per_item))
        levels = np.zeros((len(codes), self.dim), dtype=np.uint8)
        for t in range(self.residuals + 1):
            levels <<= 1
            levels |= np.unpackbits(planes[:, t], axis=1, count=self.dim)
        middle = np.float32(2**self.residuals - 0.5)
        return np.asarray((levels - middle) * np.float32(2.0 ** (1 - self.residuals)))

    def scales(self, codes: Codes) -> Rows:
        """Factors ``(n,)`` of the points: lengths of the vectors times the points' inverse norms."""
        return codes[:, -_SCALE_BYTES:].copy().view(np.float32)[:, 0]

    def _planes(self, codes: Codes) -> Codes:
        """``(n, u + 1, bytes)``."""
        planes = codes[:, :-_SCALE_BYTES].reshape(len(codes), self.residuals + 1, self._plane_bytes)
        return np.ascontiguousarray(planes)

    def scores(self, queries: Rows, codes: Codes) -> Rows:
        """Inner products ``(b, n)`` of float queries ``(b, d)`` with scaled points."""
        return products(queries, codes, self.points) * self.scales(check_codes(codes, self.bytes_per_item))

    def symmetric_scores(self, queries: Codes, codes: Codes) -> Rows:
        """Inner products ``(b, n)`` of scaled points, counted on the packed bits.

        ``<b_q, b_i> = Σ_{s,t} 2^-(s+t) (d - 2 popcount(q_s xor i_t))``, an integer divided by 4^u: up to 2^24 it is
        the float product of the unpacked points to the last bit.
        """
        for part in (queries, codes):
            check_codes(part, self.bytes_per_item)
        result = np.empty((len(queries), len(codes)), dtype=np.float32)
        ours = self._words(queries)
        step = max(1, BLOCK_ROWS // max(len(queries), 1) * 8)
        for start in range(0, len(codes), step):
            rows = slice(start, start + step)
            result[:, rows] = self._count(ours, self._words(codes[rows]))
        return np.asarray(result * self.scales(queries)[:, None] * self.scales(codes))

    def _count(self, queries: np.ndarray, items: np.ndarray) -> Rows:
        """Inner products ``(b, n)`` of points whose planes are words ``(…, u + 1, words)``."""
        differing = np.zeros((len(queries), len(items)), dtype=np.int32)
        for s in range(self.residuals + 1):
            for t in range(self.residuals + 1):
                weight = 2 * self.residuals - s - t
                for word in range(queries.shape[2]):
                    unequal = np.bitwise_count(queries[:, None, s, word] ^ items[:, t, word])
                    differing += unequal.astype(np.int32) << weight
        total = self.dim * (2 ** (self.residuals + 1) - 1) ** 2
        inner: Rows = ((total - 2 * differing) / 4**self.residuals).astype(np.float32)
        return inner

    def _words(self, codes: Codes) -> np.ndarray:
        """Planes ``(n, u + 1, words)`` in the widest words that divide them."""
        width = next(size for size in (8, 4, 2, 1) if self._plane_bytes % size == 0)
        return self._planes(codes).view(f"u{width}")
