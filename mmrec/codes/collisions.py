"""Items that got the same codes: told apart by one more code, or moved to codes that are free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmrec.codes.quantiser import Codes, Rows
from mmrec.errors import FeatureError

Collisions = Literal["index", "popularity", "reassign"]
Costs = Callable[[NDArray[np.int64]], Rows]
Ids = NDArray[np.int64]

MOST_ASSIGNED = 4096  # colliding items of one prefix assigned together: the matrix of costs is square


def group_ids(codes: Codes) -> Ids:
    """``(n,)``: the same number for equal rows of ``(n, levels)``."""
    return np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def group_sizes(codes: Codes) -> Ids:
    """``(n,)``: how many rows are equal to each row of ``(n, levels)``, itself included."""
    groups = group_ids(codes)
    return np.asarray(np.bincount(groups)[groups])


def ranks_in_groups(groups: Ids, order: Ids) -> Ids:
    """``(n,)``: how many of a row's group come before it in ``order``, a permutation of the rows."""
    rows = order[np.argsort(groups[order], kind="stable")]
    starts = np.r_[0, np.cumsum(np.bincount(groups))[:-1]]
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[rows] = np.arange(len(groups)) - starts[groups[rows]]
    return ranks


def append_index(codes: Codes, sizes: tuple[int, ...]) -> tuple[Codes, tuple[int, ...]]:
    """One more code: 0, 1, 2, … in the order of the items with the same codes ``(n, levels)``; 0 for an item alone.

    The new level has as many codes as the one before it, or an eighth more than the largest group needs: new items
    need room as well.

    Source: Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023.
    """
    return _append(codes, sizes, np.arange(len(codes)))


def append_popularity(codes: Codes, sizes: tuple[int, ...], popularity: Ids) -> tuple[Codes, tuple[int, ...]]:
    """One more code: the rank by ``popularity (n,)`` among the items with the same codes ``(n, levels)``, 0 the first.

    Equally popular items follow their order.

    Source: Liu et al., "MMGRec: Multimodal Generative Recommendation with Transformer Model", 2024.
    """
    return _append(codes, sizes, np.argsort(-popularity, kind="stable"))


def _append(codes: Codes, sizes: tuple[int, ...], order: Ids) -> tuple[Codes, tuple[int, ...]]:
    ranks = ranks_in_groups(group_ids(codes), order)
    size = with_room(sizes[-1], int(ranks.max(initial=0)) + 1)
    return np.concatenate([codes, ranks[:, None].astype(np.int32)], axis=1), (*sizes, size)


def with_room(size: int, largest: int) -> int:
    """Codes of an added level, where the level before has ``size`` and the largest group ``largest`` items."""
    return max(size, largest + largest // 8 + 1)


def reassign(codes: Codes, sizes: tuple[int, ...], costs: Costs) -> tuple[Codes, tuple[int, ...]]:
    """Spread the items that collide over the codes of the last level that no other item of their prefix has.

    Within a prefix (all codes but the last) the colliding items are assigned to those codes so that the sum of their
    squared residuals is least. Items that do not collide keep their codes. Only where a prefix has more items than
    the last level has codes, a level is added that numbers the items with the same codes.

    Args:
        codes: ``(n, levels)``.
        sizes: Of the levels.
        costs: Gives the squared residuals ``(m, K)`` of items ``(m,)`` with each code of the last level.

    Source: the assignment is that of Kuhn, "The Hungarian Method", 1955.
    """
    moved, level = codes.copy(), np.zeros(len(codes), dtype=np.int32)
    colliding = group_sizes(codes) > 1
    prefixes = group_ids(codes[:, :-1]) if codes.shape[1] > 1 else np.zeros(len(codes), dtype=np.int64)
    affected = np.flatnonzero(np.isin(prefixes, prefixes[colliding]))
    for members in _split(affected, prefixes[affected]):
        items = members[colliding[members]]
        free = np.setdiff1d(np.arange(sizes[-1]), codes[members[~colliding[members]], -1])
        moved[items, -1], level[items] = _spread(items, codes[items, -1], free, costs)
    if not level.any():
        return moved, sizes
    ranks = ranks_in_groups(group_ids(moved), np.argsort(level, kind="stable"))
    size = with_room(sizes[-1], int(ranks.max()) + 1)
    return np.concatenate([moved, ranks[:, None].astype(np.int32)], axis=1), (*sizes, size)


def _split(rows: Ids, groups: Ids) -> list[Ids]:
    """The rows of each group, ascending."""
    order = np.argsort(groups, kind="stable")
    cuts = np.flatnonzero(np.diff(groups[order])) + 1
    return [part for part in np.split(rows[order], cuts) if len(part)]


def _spread(items: Ids, own: Codes, free: Ids, costs: Costs) -> tuple[Any, Any]:
    """Last codes and numbers of the additional level for the colliding items of one prefix."""
    from scipy.optimize import linear_sum_assignment

    copies = -(-len(items) // len(free))  # each free code that often, where there are more items than codes
    if len(items) > MOST_ASSIGNED:  # as many items without content are: nothing tells them apart anyway
        return own, ranks_in_groups(np.unique(own, return_inverse=True)[1].reshape(-1), np.arange(len(items)))
    table = np.tile(np.asarray(costs(items), dtype=np.float64)[:, free], copies)
    chosen = linear_sum_assignment(table)[1]
    return free[chosen % len(free)], chosen // len(free)


def resolve(
    method: Collisions, codes: Codes, sizes: tuple[int, ...], *, popularity: Ids, costs: Costs
) -> tuple[Codes, tuple[int, ...]]:
    """Codes of which no two rows are equal, and the sizes of their levels.

    Args:
        method: ``index``, ``popularity`` or ``reassign``.
        codes: ``(n, levels)``.
        sizes: Of the levels.
        popularity: ``(n,)`` training interactions.
        costs: As in :func:`reassign`.
    """
    if method == "index":
        return append_index(codes, sizes)
    if method == "popularity":
        return append_popularity(codes, sizes, popularity)
    return reassign(codes, sizes, costs)


def resolve_new(
    method: Collisions, codes: Codes, taken: Codes, sizes: tuple[int, ...], costs: Costs
) -> Codes:
    """Codes of new items that no item has yet; those in ``taken`` do not change.

    Args:
        method: How the table's collisions were resolved.
        codes: ``(m, levels)`` of the new items, as quantised.
        taken: ``(n, levels or levels + 1)`` the whole table.
        sizes: Of the table's levels.
        costs: As in :func:`reassign`, of the new items.

    Returns:
        ``(m, levels of the table)``.

    Raises:
        FeatureError: No code is free for an item.
    """
    levels = codes.shape[1]
    known = {tuple(row) for row in taken.tolist()}
    extended = taken.shape[1] > levels
    found = np.zeros((len(codes), taken.shape[1]), dtype=np.int32)
    for row, own in enumerate(codes.tolist()):
        lasts = [own[-1]]
        if method == "reassign":
            cost = np.asarray(costs(np.array([row], dtype=np.int64)))[0]
            lasts = [own[-1], *(code for code in np.argsort(cost, kind="stable").tolist() if code != own[-1])]
        tails = range(sizes[-1]) if extended else [None]
        free = (
            (*own[:-1], last) if tail is None else (*own[:-1], last, tail) for tail in tails for last in lasts
        )
        chosen = next((candidate for candidate in free if candidate not in known), None)
        if chosen is None:
            raise FeatureError(
                f"a free code after {own[:-1]} for new item {row}",
                "all taken",
                "tokenize the catalogue again with these items, with more levels or --collisions index",
            )
        known.add(chosen)
        found[row] = chosen
    return found
