"""Who is near whom: exact neighbours of items by content and of users by common items, in blocks and cached."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmrec.cache import cached
from mmrec.data.histories import Histories
from mmrec.encode.features import FeatureTable
from mmrec.ragged import first_places
from mmrec.rank import top_items

BLOCK_BYTES = (
    64 * 2**20
)  # of one block of similarities: large enough for full speed, small beside the features


def nearest_neighbours(vectors: Tensor, k: int, *, block_bytes: int = BLOCK_BYTES) -> tuple[Tensor, Tensor]:
    """Exact cosine neighbours of each row in blocks: ids and cosines, each ``(n, min(k, n))``.

    The row itself is a neighbour (cosine 1). Ties go to the lower id. A zero vector has cosine 0 to everything and
    keeps only itself: its other entries are -1. Memory is ``O(n d + block_bytes)``, never ``O(n²)``.
    """
    unit = F.normalize(vectors.float(), dim=1)
    ids, cosines = _largest(unit, unit, k, block_bytes)
    empty = ~vectors.any(dim=1)
    ids[empty] = -1
    ids[empty, :1] = empty.nonzero()
    return ids, cosines


def neighbours_among(
    queries: Tensor, known: Tensor, k: int, *, block_bytes: int = BLOCK_BYTES
) -> tuple[Tensor, Tensor]:
    """Exact cosine neighbours of rows ``(m, d)`` among others ``(n, d)``: ids and cosines, each ``(m, min(k, n))``.

    Ties go to the lower id.
    """
    unit, others = F.normalize(queries.double(), dim=1), F.normalize(known.double(), dim=1)
    return _largest(unit, others, k, block_bytes)


def _largest(queries: Tensor, known: Tensor, k: int, block_bytes: int) -> tuple[Tensor, Tensor]:
    """Ids and inner products ``(m, min(k, n))`` of the ``known (n, d)`` that have the largest with each of ``queries (m, d)``."""
    m, n = len(queries), len(known)
    ids, products = known.new_empty(m, min(k, n), dtype=torch.int64), known.new_empty(m, min(k, n))
    # A product of the same rows can round differently from one column to another: copies take the column of the first.
    _, kinds = torch.unique(known, dim=0, return_inverse=True)
    first = first_places(kinds)[kinds]
    copies = (first != torch.arange(n, device=known.device)).nonzero().squeeze(1)
    rows_per_block = max(1, block_bytes // (known.element_size() * max(n, 1)))
    buffer = known.new_empty(min(m, rows_per_block), n)
    for start in range(0, m, rows_per_block):
        rows = slice(start, start + rows_per_block)
        block = torch.mm(queries[rows], known.T, out=buffer[: len(queries[rows])])
        block[:, copies] = block[:, first[copies]]
        ids[rows], products[rows] = top_items(block, k)
    return ids, products


def item_neighbours(table: FeatureTable, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of an item and one of its k nearest items, itself included: rows, columns and cosines ``(n_pairs,)``.

    Only items with the modality occur. A zero vector has only itself, with cosine 1. Computed once per machine for
    the features' content and k.
    """

    def make() -> dict[str, np.ndarray]:
        own = torch.from_numpy(np.flatnonzero(table.present))
        ids, cosines = nearest_neighbours(table.tensor()[own], k)
        valid = ids >= 0
        cosines[~valid[:, -1], 0] = 1.0
        rows = own.unsqueeze(1).expand_as(ids)[valid]
        return {"rows": rows.numpy(), "columns": own[ids[valid]].numpy(), "cosines": cosines[valid].numpy()}

    arrays = cached("item-neighbours-2", {"features": table.hash, "k": k}, make)
    return (
        torch.from_numpy(arrays["rows"]),
        torch.from_numpy(arrays["columns"]),
        torch.from_numpy(arrays["cosines"]),
    )


def co_users(train: Histories, n_items: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of a user and one of the k others with most items in common: rows, columns, counts ``(n_pairs,)``.

    Users with nothing in common are no pair; ties go to the lower id. Memory is ``O(n_users k + block)``, never
    ``O(n_users²)``. Computed once per machine for the histories' content and k.
    """

    def make() -> dict[str, np.ndarray]:
        matrix = train.matrix(n_items)
        transposed = matrix.T.tocsr()
        step = max(1, BLOCK_BYTES // (4 * max(train.n_users, 1)))
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for start in range(0, train.n_users, step):
            block = (matrix[start : start + step] @ transposed).toarray()
            own = np.arange(len(block))
            block[own, own + start] = 0
            ids, counts = (part.numpy() for part in top_items(torch.from_numpy(block), k))
            keep = counts > 0
            rows = np.repeat(own + start, keep.sum(axis=1))
            found.append((rows, ids[keep], counts[keep]))
        rows, columns, counts = (np.concatenate(part) for part in zip(*found, strict=True))
        return {"rows": rows, "columns": columns, "counts": counts}

    arrays = cached("co-users-1", {"train": train.hash, "n_items": n_items, "k": k}, make)
    return (
        torch.from_numpy(arrays["rows"]),
        torch.from_numpy(arrays["columns"]),
        torch.from_numpy(arrays["counts"]),
    )
