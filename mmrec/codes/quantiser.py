"""What turns vectors into codes: the shape every quantiser has, and how it is saved without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from mmrec.codes.table import Codes as Codes

Rows = NDArray[np.floating[Any]]
Tensors = dict[str, torch.Tensor]

BLOCK_ROWS = 8192  # rows quantised at once: their distances to a few hundred codes take some megabytes


class Settings(BaseModel):
    """What every method can be told: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    levels: int = Field(3, ge=1, le=256)
    size: int = Field(256, ge=2, le=65536)


class Quantiser(Protocol):
    """Codes of vectors, one vector at a time: what one item gets does not depend on the others.

    Attributes:
        kind: Name under which it is saved.
        sizes: How many codes each level has.
    """

    kind: ClassVar[str]

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many codes each level has."""
        ...

    def encode(self, vectors: Rows) -> Codes:
        """Codes ``(n, levels)`` of vectors ``(n, d)``."""
        ...

    def decode(self, codes: Codes) -> Rows:
        """Vectors ``(n, d)`` that codes ``(n, levels)`` stand for."""
        ...

    def last_costs(self, vectors: Rows, codes: Codes) -> Rows:
        """Squared residual ``(n, K)`` that each code of the last level would leave after the codes before it."""
        ...

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Tensors, and what else :meth:`restore` needs as JSON."""
        ...

    @classmethod
    def restore(cls, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> Self:
        """The quantiser that gave this state."""
        ...


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a method made of a catalogue.

    Attributes:
        quantiser: Gives codes to these and later vectors.
        vectors: ``(n_items, d)`` what is quantised.
        front: What makes such vectors of the inputs of a new item; None: the inputs are quantised as they are.
        arrays: More results, saved beside the codes as ``NAME.npy``.
        notes: Numbers of the training, for the health report.
    """

    quantiser: Quantiser
    vectors: Rows
    front: Any = None
    arrays: Mapping[str, Rows] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


def squared_distances(rows: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """``(n, K)`` squared distances of rows ``(n, d)`` to codes ``(K, d)``, not below 0."""
    products = torch.addmm(codebook.square().sum(1), rows, codebook.T, alpha=-2)
    return (products + rows.square().sum(1, keepdim=True)).clamp_(min=0)


def in_blocks(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The rows in blocks of :data:`BLOCK_ROWS`."""
    return torch.split(rows, BLOCK_ROWS)


def as_tensor(rows: Rows) -> torch.Tensor:
    """A float32 copy, so that nothing writes into a memory-mapped file."""
    return torch.from_numpy(np.array(rows, dtype=np.float32))


def child_seed(generator: torch.Generator) -> int:
    """A seed for a library that takes a number of 31 bits."""
    return int(torch.randint(2**31 - 1, (1,), generator=generator))
