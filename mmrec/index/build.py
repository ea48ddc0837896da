"""Make, open and judge indexes by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmrec.config import validate
from mmrec.errors import ConfigError, did_you_mean
from mmrec.index.folder import read_manifest
from mmrec.index.items import check_vectors, make_items
from mmrec.index.protocol import Index
from mmrec.registry import load_class

if TYPE_CHECKING:
    import pandas as pd

BACKENDS = {
    "exact": "mmrec.index.exact:ExactIndex",
    "faiss": "mmrec.index.faiss:FaissIndex",
    "lancedb": "mmrec.index.lancedb:LanceIndex",
    "milvus": "mmrec.index.milvus:MilvusIndex",
    "qdrant": "mmrec.index.qdrant:QdrantIndex",
}


def build_index(
    backend: str,
    vectors: NDArray[Any],
    attributes: pd.DataFrame | None = None,
    ids: NDArray[Any] | None = None,
    **options: Any,
) -> Index:
    """Make an index.

    Args:
        backend: ``exact``, ``faiss``, ``lancedb``, ``qdrant`` or ``milvus``.
        vectors: ``(n, dim)`` item vectors.
        attributes: One row per item, for filters.
        ids: ``(n,)`` internal item ids; row numbers if None.
        options: Of the backend; its module's ``Options`` lists them.

    Raises:
        ConfigError: Unknown backend or option, or its package is not installed.
        DataError: Vectors, ids or attributes that cannot be used.
    """
    kind = _index_class(backend)
    settings = validate(kind.options_type, options, f"the options of {backend}")
    index: Index = kind.build(make_items(vectors, attributes, ids), settings)
    return index


def load_index(folder: str | Path, **options: Any) -> Index:
    """Open a saved index.

    Args:
        folder: What :meth:`Index.save` was given.
        options: Over the saved ones, for example ``api_key``, which is never saved.

    Raises:
        ConfigError: Unknown option, or the backend's package is not installed.
        DataError: No index there, or its files are damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    kind = _index_class(manifest["backend"])
    settings = validate(
        kind.options_type, manifest["options"] | options, f"the options of {manifest['backend']}"
    )
    index: Index = kind.load(folder / (manifest["data"] or "."), manifest, settings)
    index.recall = manifest["recall"]
    return index


def _index_class(backend: str) -> Any:
    if backend not in BACKENDS:
        raise ConfigError("the name of an index", repr(backend), did_you_mean(backend, list(BACKENDS)))
    return load_class(BACKENDS[backend])


def measure_recall(
    index: Index, queries: NDArray[Any], k: int, *, n_queries: int = 1000, seed: int = 0
) -> float:
    """Share of the true k best items that the index finds, mean over queries; kept as ``index.recall``.

    ``recall@k = |found ∩ true| / min(k, n)``, where exact search over all vectors of the index says what is true.

    Args:
        index: Its vectors are read once.
        queries: ``(b, dim)``, such as user vectors.
        k: Length of the lists.
        n_queries: Draw so many of them where there are more.
        seed: Of the draw.

    Raises:
        ConfigError: k is below 1.
        DataError: No queries, or no items.
    """
    from mmrec.errors import DataError
    from mmrec.index.exact import ExactIndex

    matrix = check_vectors(queries, "queries", index.dim)
    if not len(matrix) or not len(index):
        raise DataError("queries and items", f"{len(matrix)} and {len(index)}", "give at least one of each")
    if len(matrix) > n_queries:
        matrix = matrix[np.random.default_rng(seed).choice(len(matrix), n_queries, replace=False)]
    found = index.search(matrix, k).ids
    true = ExactIndex(index.read()).search(matrix, k).ids
    hits = sum(len(np.intersect1d(a[a >= 0], b[b >= 0])) for a, b in zip(found, true, strict=True))
    recall = hits / int((true >= 0).sum())
    index.recall = {"k": k, "recall": recall, "n_queries": len(matrix), "seed": seed}
    return recall
