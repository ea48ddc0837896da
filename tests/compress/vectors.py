"""Vectors and codecs that the tests of compression share."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from mmrec.compress import bebr
from mmrec.compress.bebr import BEBR, BEBRSettings
from mmrec.compress.binary import Binary
from mmrec.compress.codec import Codec, Rows
from mmrec.compress.measure import clustered_vectors
from mmrec.compress.scalar import Floats, Int8

N, D = 1500, 20  # not a multiple of 8: the last byte of a plane is not full


@cache
def world() -> tuple[Rows, Rows]:
    """Items ``(1500, 20)`` and queries ``(100, 20)`` of the same clusters."""
    rows = clustered_vectors(N + 100, D, 15, np.random.default_rng(0))
    rows.setflags(write=False)
    return rows[:N], rows[N:]


@cache
def trained(residuals: int = 1, seed: int = 0, epochs: int = 2, teacher: float = 0.15) -> BEBR:
    settings = BEBRSettings(
        residuals=residuals, hidden=32, batch_size=256, queue=512, epochs=epochs, teacher=teacher
    )
    return bebr.fit(world()[0], settings, torch.Generator().manual_seed(seed), show_progress=False)


@cache
def codecs() -> dict[str, Codec]:
    items = world()[0]
    return {
        "float32": Floats(D, "float32"),
        "bfloat16": Floats(D),
        "int8 vector": Int8.fit(items),
        "int8 dimension": Int8.fit(items, "dimension"),
        "random 2": Binary.fit(items, np.random.default_rng(0), residuals=2, rotation="random"),
        **{f"binary {u}": Binary.fit(items, np.random.default_rng(0), residuals=u) for u in range(4)},
        "bebr 1": trained(),
    }


def cosines(one: Rows, two: Rows) -> Rows:
    return np.asarray((one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1))
