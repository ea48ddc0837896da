"""Small conversions that the engine needs: vectors to unit length, lists without padding, values for JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mmrec.index import Found
    from mmrec.index.exact import ExactIndex
    from mmrec.where import Attributes

Floats = NDArray[np.float32]


def unit(vectors: Floats) -> Floats:
    """Vectors ``(n, d)`` of length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Floats = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return scaled


def index_of_cosines(vectors: Floats, attributes: Attributes) -> ExactIndex:
    """Exact search for the vectors ``(n, d)`` with the largest cosine."""
    from mmrec.index.exact import ExactIndex
    from mmrec.index.items import Items

    return ExactIndex(Items(np.arange(len(vectors)), unit(vectors), attributes))


def without_padding(found: Found) -> list[tuple[NDArray[np.int64], Floats]]:
    """Ids and scores of each list."""
    return [(ids[ids >= 0], scores[ids >= 0]) for ids, scores in zip(found.ids, found.scores, strict=True)]


def to_json(value: Any) -> Any:
    """A cell of a table as JSON knows it; None for what is missing or no finite number."""
    import pandas as pd

    if isinstance(value, np.ndarray | list | tuple):
        return [to_json(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | bool | int):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
