"""Internal ids that a caller gives, checked before they become places in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmrec.data.histories import Histories, Ids
from mmrec.errors import DataError


def check_ids(ids: Sequence[int] | Ids, n: int, what: str) -> Ids:
    """Ids ``(m,)`` from 0 to below n.

    Raises:
        DataError: Others.
    """
    array = np.asarray(ids, dtype=np.int64)
    if array.ndim != 1 or (len(array) and (array.min() < 0 or array.max() >= n)):
        raise DataError(
            f"{what}, numbers from 0 to below {n:,}", f"{ids!r}"[:80], "look them up by their ids"
        )
    return array


def check_histories(histories: Sequence[Sequence[int]], n_items: int) -> Histories:
    """Internal item ids of strangers, who are rows 0, 1, ….

    Raises:
        DataError: No such internal id.
    """
    counts = [len(history) for history in histories]
    items = check_ids([item for history in histories for item in history], n_items, "items")
    return Histories(np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64), items)
