"""What a search asks for, checked once for all indexes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrec.errors import ConfigError, DataError
from mmrec.index.items import check_ids, check_vectors
from mmrec.index.protocol import Deny, Found, Ids, Vectors
from mmrec.where import Filter, parse


@dataclass(frozen=True, eq=False)
class Request:
    """A checked search.

    Attributes:
        queries: ``(b, dim)`` float32.
        k: Length of the lists.
        where: A filter that fits the attributes.
        allow: Different ids that may appear; all if None.
        deny: Ids that may not appear for any query.
        own_deny: For each query the ids that may not appear for it; None where queries have none of their own.
    """

    queries: Vectors
    k: int
    where: Filter | None
    allow: Ids | None
    deny: Ids
    own_deny: tuple[Ids, ...] | None


def check_request(
    queries: NDArray[Any],
    k: int,
    where: str | Filter | None,
    allow: Ids | None,
    deny: Deny | None,
    *,
    dim: int,
    kinds: Mapping[str, str],
) -> Request:
    """Check the arguments of a search.

    Raises:
        ConfigError: k is below 1, or a filter that does not fit.
        DataError: Queries or ids that cannot be used.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ConfigError("k >= 1", repr(k), "ask for at least one item")
    matrix = check_vectors(queries, "queries", dim)
    condition = parse(where) if isinstance(where, str) else where
    if condition is not None:
        condition.check(kinds)
    allowed = None if allow is None else np.unique(check_ids(allow, "ids to allow"))
    shared, own = np.zeros(0, dtype=np.int64), None
    if isinstance(deny, np.ndarray):
        shared = np.unique(check_ids(deny, "ids to deny"))
    elif deny is not None:
        own = tuple(check_ids(one, "ids to deny for each query") for one in deny)
        if len(own) != len(matrix):
            raise DataError(
                "one array to deny for all queries, or a list of one per query",
                f"{len(own)} for {len(matrix)} queries",
                "give an empty array where nothing is denied",
            )
    return Request(matrix, int(k), condition, allowed, shared, own)


def sort_found(ids: Ids, scores: Vectors, k: int) -> Found:
    """Lists ``(b, k)`` of candidates ``(b, m)`` in the order of :class:`Found`; -inf marks what is no candidate."""
    ids = np.where(scores == -np.inf, -1, ids)
    order = np.lexsort((ids, -scores))[:, :k]
    best, values = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
    padding = ((0, 0), (0, k - best.shape[1]))
    return Found(np.pad(best, padding, constant_values=-1), np.pad(values, padding, constant_values=-np.inf))
