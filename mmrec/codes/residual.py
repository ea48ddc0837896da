"""Residual quantisation: each level's codebook quantises what the levels before left over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mmrec.codes.kmeans import kmeans, means
from mmrec.codes.quantiser import (
    Codes,
    Fitted,
    Rows,
    Settings,
    Tensors,
    as_tensor,
    in_blocks,
    squared_distances,
)
from mmrec.codes.sinkhorn import balanced_assignment, potentials
from mmrec.progress import Progress

BALANCING_ROUNDS = 10


class ResidualKMeansSettings(Settings):
    """Settings of residual k-means."""

    normalise: bool = Field(True, description="scale residuals to length one before each level")
    sinkhorn: float = Field(0.0, ge=0, description="eps of balanced assignment; 0: the nearest code")


@dataclass(frozen=True, eq=False)
class ResidualQuantiser:
    """Codes of a vector x: with ``r_0 = x``, at level l

        ρ_l = r_l / |r_l|  (or r_l itself),  c_l = argmin_k |ρ_l - e^l_k|² - g^l_k,  r_{l+1} = ρ_l - e^l_{c_l}.

    A vector is put together again from the inside: ``x̂_l = s_l (e^l_{c_l} + x̂_{l+1})`` with the mean length s_l of the
    residuals that were learned from (1 where they are not scaled). The offsets g balance the codes (zero unless asked
    for, see :mod:`mmrec.codes.sinkhorn`).

    Attributes:
        codebooks: ``(K_l, d)`` for each level.
        offsets: ``(K_l,)`` for each level.
        scales: ``(levels,)`` mean lengths s; ones where residuals are not scaled.
        normalise: Whether residuals are scaled to length one.

    Sources: Rajput et al., NeurIPS 2023 (residual quantisation); Ju et al., "Generative Recommendation with Semantic
    IDs: A Practitioner's Handbook", CIKM 2025 (residual k-means on normalised residuals).
    """

    kind: ClassVar[str] = "residual"

    codebooks: tuple[Tensor, ...]
    offsets: tuple[Tensor, ...]
    scales: Tensor
    normalise: bool

    @classmethod
    def of(cls, codebooks: list[Tensor], offsets: list[Tensor] | None = None) -> ResidualQuantiser:
        """Plain residual quantisation with given codebooks."""
        zeros = [codebook.new_zeros(len(codebook)) for codebook in codebooks]
        return cls(tuple(codebooks), tuple(offsets or zeros), torch.ones(len(codebooks)), False)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many codes each level has."""
        return tuple(len(codebook) for codebook in self.codebooks)

    def quantise(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Codes ``(n, levels)`` and what is left over ``(n, d)`` of rows ``(n, d)``."""
        codes, residuals = [], []
        for block in in_blocks(rows):
            own = []
            for level in range(len(self.codebooks)):
                costs = self._costs(level, block)
                own.append((costs - self.offsets[level]).argmin(1))
                block = self._subtract(level, block, own[-1])
            codes.append(torch.stack(own, 1))
            residuals.append(block)
        return torch.cat(codes), torch.cat(residuals)

    def _costs(self, level: int, residuals: Tensor) -> Tensor:
        return squared_distances(self._scaled(residuals), self.codebooks[level])

    def _subtract(self, level: int, residuals: Tensor, own: Tensor) -> Tensor:
        return self._scaled(residuals) - self.codebooks[level][own]

    def _scaled(self, residuals: Tensor) -> Tensor:
        return unit(residuals) if self.normalise else residuals

    def encode(self, vectors: Rows) -> Codes:
        """Codes ``(n, levels)`` of vectors ``(n, d)``."""
        return self.quantise(as_tensor(vectors))[0].numpy().astype(np.int32)

    def decode(self, codes: Codes) -> Rows:
        """Vectors ``(n, d)`` that codes ``(n, levels)`` stand for."""
        own = torch.from_numpy(codes.astype(np.int64))
        rows = torch.zeros(len(codes), self.codebooks[0].shape[1])
        for level in reversed(range(len(self.codebooks))):
            rows = self.scales[level] * (self.codebooks[level][own[:, level]] + rows)
        return np.asarray(rows.numpy())

    def last_costs(self, vectors: Rows, codes: Codes) -> Rows:
        """Squared residual ``(n, K)`` that each code of the last level would leave after the codes before it."""
        residuals, own = as_tensor(vectors), torch.from_numpy(codes.astype(np.int64))
        for level in range(len(self.codebooks) - 1):
            residuals = self._subtract(level, residuals, own[:, level])
        return np.asarray(self._costs(len(self.codebooks) - 1, residuals).numpy())

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Tensors, and what else :meth:`restore` needs."""
        tensors = {f"codebook.{level}": codebook for level, codebook in enumerate(self.codebooks)}
        tensors |= {f"offsets.{level}": offsets for level, offsets in enumerate(self.offsets)}
        return {**tensors, "scales": self.scales}, {"normalise": self.normalise}

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Self:
        """The quantiser that gave this state."""
        levels = range(len(tensors["scales"]))
        return cls(
            tuple(tensors[f"codebook.{level}"] for level in levels),
            tuple(tensors[f"offsets.{level}"] for level in levels),
            tensors["scales"],
            bool(metadata["normalise"]),
        )


@torch.no_grad()
def begin_codebooks(codebooks: Iterable[Tensor], residuals: Tensor, generator: torch.Generator) -> None:
    """Fill codebooks ``(K, d)`` by k-means of the residuals ``(n, d)`` that each level is left with."""
    for codebook in codebooks:
        codebook.copy_(kmeans(residuals, len(codebook), generator))
        residuals = residuals - codebook[squared_distances(residuals, codebook).argmin(1)]


@torch.no_grad()
def restart_dead(
    codebooks: Iterable[Tensor], residuals: Tensor, counts: Tensor, generator: torch.Generator
) -> int:
    """Move the codes with ``counts (levels, K)`` of zero to random residuals of their level; how many these were.

    Args:
        codebooks: ``(K, d)`` for each level.
        residuals: ``(n, d)`` of the first level.
        counts: How often each code was chosen.
        generator: Draws the rows.
    """
    moved = 0
    for level, codebook in enumerate(codebooks):
        dead = (counts[level] == 0).nonzero().squeeze(1)
        drawn = torch.randint(len(residuals), (len(dead),), generator=generator)
        codebook[dead] = residuals[drawn]
        moved += len(dead)
        residuals = residuals - codebook[squared_distances(residuals, codebook).argmin(1)]
    return moved


def unit(rows: Tensor) -> Tensor:
    """Rows ``(n, d)`` scaled to length one; rows of zeros stay zero."""
    lengths = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(lengths > 0, lengths, 1)


def learn_codebooks(
    rows: Tensor,
    settings: ResidualKMeansSettings,
    generator: torch.Generator,
    *,
    show_progress: bool = True,
) -> ResidualQuantiser:
    """k-means of rows ``(n, d)`` and of their residuals, level by level."""
    codebooks: list[Tensor] = []
    offsets: list[Tensor] = []
    scales = []
    residuals = rows
    with Progress("residual k-means", settings.levels, unit="levels", show=show_progress) as progress:
        for _ in range(settings.levels):
            scales.append(residuals.norm(dim=1).mean() if settings.normalise else torch.tensor(1.0))
            residuals = unit(residuals) if settings.normalise else residuals
            codebook = kmeans(residuals, settings.size, generator)
            offset = torch.zeros(settings.size)
            if settings.sinkhorn:
                codebook, offset = _balance(residuals, codebook, settings.sinkhorn)
            own = (squared_distances(residuals, codebook) - offset).argmin(1)
            residuals = residuals - codebook[own]
            codebooks.append(codebook)
            offsets.append(offset)
            progress.advance()
    return ResidualQuantiser(tuple(codebooks), tuple(offsets), torch.stack(scales), settings.normalise)


def _balance(rows: Tensor, codebook: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Go on from k-means with balanced assignments; codebook and the offsets that balance it."""
    for _ in range(BALANCING_ROUNDS):
        own = balanced_assignment(squared_distances(rows, codebook), eps)
        codebook = means(rows, own, codebook)
    return codebook, potentials(squared_distances(rows, codebook), eps)[1]


def fit(
    vectors: Rows,
    fitted: np.ndarray[Any, np.dtype[np.bool_]],
    settings: ResidualKMeansSettings,
    generator: torch.Generator,
    *,
    show_progress: bool = True,
) -> Fitted:
    """Residual k-means of vectors ``(n_items, d)``, learned from the rows marked in ``fitted (n_items,)``."""
    rows = as_tensor(vectors[fitted])
    return Fitted(learn_codebooks(rows, settings, generator, show_progress=show_progress), vectors)
