"""The indexes that the contract holds for, the items they are tried on, and what has to come out."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from mmrec.index import Found, Index, build_index
from mmrec.where import parse

DIM = 8
N = 600


@dataclass(frozen=True)
class Backend:
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    recall: float = 1.0  # at 10, on the items below

    def __str__(self) -> str:
        return "-".join([self.name, *(str(value) for value in self.options.values())])

    def require(self) -> None:
        for module in self.needs:
            if importlib.util.find_spec(module) is None:
                pytest.skip(f"the package {module} is not installed")

    def build(self, *arguments: Any, **more: Any) -> Index:
        self.require()
        return build_index(self.name, *arguments, **more, **self.options)


BACKENDS = [
    Backend("exact"),
    Backend("faiss", {"kind": "flat"}),
    Backend("faiss", {"kind": "hnsw"}, recall=0.99),
    Backend("faiss", {"kind": "ivfpq", "nprobe": 8}, recall=0.8),
    Backend("lancedb", {"kind": "flat"}, ("lancedb",)),
    Backend("lancedb", {"kind": "ivfpq", "pieces": 4, "nprobe": 2}, ("lancedb",), recall=0.7),
    Backend("qdrant", {}, ("qdrant_client",)),
    Backend("milvus", {"kind": "flat"}, ("pymilvus", "milvus_lite")),
    Backend("milvus", {"kind": "hnsw"}, ("pymilvus", "milvus_lite"), recall=0.99),
]


def make_vectors(n: int = N, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, DIM), dtype=np.float32)


def make_attributes(n: int = N) -> pd.DataFrame:
    """Attributes of which every filter below can be predicted from the row number."""
    rows = np.arange(n)
    return pd.DataFrame(
        {
            "price": np.where(rows % 5 == 0, np.nan, rows.astype(float)),
            "category": [("toys", "games", 'it\'s "x" or 1=1 --\\', None)[row % 4] for row in rows],
            "in_stock": pd.array([(True, False, None)[row % 3] for row in rows], dtype="boolean"),
            "colours": [(["red", "blue"], ["green"], [], None)[row % 4] for row in rows],
            "Main Category": [f"group {row // 100}" for row in rows],
        }
    )


def best(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    ids: NDArray[np.int64],
    k: int,
    permitted: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Ids by sorting everything, one query at a time."""
    lists = np.full((len(queries), k), -1, dtype=np.int64)
    for row, query in enumerate(queries):
        scores = vectors.astype(np.float64) @ query
        own = sorted(np.flatnonzero(permitted), key=lambda item: (-scores[item], ids[item]))[:k]
        lists[row, : len(own)] = ids[own]
    return lists


def check_found(found: Found, expected: NDArray[np.int64], recall: float = 1.0) -> None:
    """Same ids where recall is 1; else enough of them, never a shorter list, never one that is not permitted."""
    assert found.ids.dtype == np.int64
    assert found.scores.dtype == np.float32
    assert found.ids.shape == found.scores.shape == expected.shape
    np.testing.assert_array_equal((found.ids >= 0).sum(1), (expected >= 0).sum(1))
    np.testing.assert_array_equal(found.ids < 0, found.scores == -np.inf)
    assert (np.diff(np.where(found.ids < 0, -1e30, found.scores), axis=1) <= 0).all()
    if recall == 1.0:
        np.testing.assert_array_equal(found.ids, expected)
        return
    hits = sum(len(np.intersect1d(a[a >= 0], b[b >= 0])) for a, b in zip(found.ids, expected, strict=True))
    assert hits >= recall * (expected >= 0).sum()


def permitted_by(text: str, attributes: pd.DataFrame) -> NDArray[np.bool_]:
    return parse(text).mask(attributes)
