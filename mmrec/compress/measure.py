"""What compression costs in recall: codecs against exact inner products on vectors in clusters."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrec.compress.codec import Codec, Codes, Rows
from mmrec.compress.ranking import rank_blocks
from mmrec.data.histories import Ids
from mmrec.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd


def clustered_vectors(
    n: int, d: int, clusters: int, generator: np.random.Generator, *, spread: float = 0.7
) -> Rows:
    """Vectors ``(n, d)`` in clusters, like those of a trained model: uneven directions and lengths.

    A vector is its cluster's centre plus ``spread`` times Gaussian noise, dimension j scaled by ``1 / sqrt(j + 1)``, the
    whole by ``exp(0.2 z)``. Clusters are as large as chance makes them. Queries are drawn from the same clusters by
    making both at once and cutting them apart.
    """
    centres = generator.standard_normal((clusters, d), dtype=np.float32)
    rows = centres[generator.integers(clusters, size=n)]
    rows += np.float32(spread) * generator.standard_normal((n, d), dtype=np.float32)
    rows *= 1 / np.sqrt(np.arange(1, d + 1, dtype=np.float32))
    rows *= np.exp(np.float32(0.2) * generator.standard_normal((n, 1), dtype=np.float32))
    return rows


def overlap(found: Ids, exact: Ids) -> float:
    """Share of the items of lists ``(b, k)`` that lists ``(b, k)`` of the same queries hold too: recall@k."""
    hits = (found[:, :, None] == exact[:, None, :]) & (exact[:, None, :] >= 0)
    return float(hits.sum() / max(int((exact >= 0).sum()), 1))


def compare_codecs(codecs: Mapping[str, Codec], vectors: Rows, queries: Rows, k: int = 20) -> pd.DataFrame:
    """How many of the k best items of each query codecs find, and what they take.

    Memory is that of the vectors, one set of codes and a block of scores.

    Args:
        codecs: By the name that the table gives them.
        vectors: ``(n, d)`` of the items.
        queries: ``(b, d)``.
        k: Length of the lists.

    Returns:
        A row per codec: ``codec``, ``bytes_per_item``, ``recall`` of float queries and ``symmetric_recall`` of
        encoded ones, both against exact float32; ``encode_seconds`` of all items and ``score_seconds`` of all
        queries with their top-k.

    Raises:
        ConfigError: k below 1, or no items or queries.
    """
    import pandas as pd

    if k < 1 or not len(vectors) or not len(queries):
        raise ConfigError(
            "k of 1 or more, items and queries",
            f"k {k}, {len(vectors)} items, {len(queries)} queries",
            "give some",
        )
    n, b = len(vectors), len(queries)
    exact = rank_blocks(lambda rows: queries @ vectors[rows].T, n, b, k).items
    table = []
    for name, codec in codecs.items():
        start = time.perf_counter()
        codes = codec.encode(vectors)
        encoded = time.perf_counter()
        found = rank_blocks(partial(_score, codec.scores, queries, codes), n, b, k)
        scored = time.perf_counter()
        symmetric = rank_blocks(
            partial(_score, codec.symmetric_scores, codec.encode(queries), codes), n, b, k
        )
        table.append(
            {
                "codec": name,
                "bytes_per_item": codec.bytes_per_item,
                "recall": overlap(found.items, exact),
                "symmetric_recall": overlap(symmetric.items, exact),
                "encode_seconds": encoded - start,
                "score_seconds": scored - encoded,
            }
        )
    return pd.DataFrame(table)


def _score(score: Callable[[Any, Codes], Rows], queries: Any, codes: Codes, rows: slice) -> Rows:
    return score(queries, codes[rows])
