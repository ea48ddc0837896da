"""Exact top-k with a stated tie rule, in blocks of users over the full catalogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmrec.data.histories import Histories, Ids
from mmrec.errors import NotFittedError

GROUP = 32  # columns that share one maximum in the first pass of top_items
BLOCK_BYTES = 32 * 2**20  # of one block of scores


@dataclass(frozen=True, eq=False)
class Ranking:
    """The best items of each user.

    Attributes:
        items: ``(n_users, k)`` internal item ids, best first; -1 where fewer than k items are permitted.
        scores: ``(n_users, k)`` float32; -inf where there is no item.
    """

    items: Ids
    scores: np.ndarray[tuple[int, int], np.dtype[np.float32]]


def top_items(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Ids and scores ``(b, k)`` of the best columns of ``scores (b, n)``; ties go to the lower column.

    A first pass takes the maximum of every group of columns: the k best columns lie in the k best groups, so the
    costly selection sees few numbers. Rows with a tie at the border (found by looking one place further) are
    selected again by a key that holds score and column, which no two columns share.

    Raises:
        NotFittedError: A score is NaN.
    """
    n = scores.shape[1]
    k = min(k, n)
    columns, values, unsafe = _select_grouped(scores, k) if n >= 3 * GROUP * (k + 1) else _select(scores, k)
    if torch.isnan(values).any():
        raise NotFittedError("finite scores", "NaN", "train again: look for the first NaN in metrics.jsonl")
    rows = unsafe.nonzero().squeeze(1)
    if len(rows):
        columns[rows] = _select_by_key(scores[rows], k)
        values[rows] = scores[rows].gather(1, columns[rows])
    return columns, values


def _select(scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Best k by plain topk; a row is unsafe when neighbours in the list, or the first one outside, tie."""
    values, columns = scores.topk(min(k + 1, scores.shape[1]))
    unsafe = (values[:, 1:] == values[:, :-1]).any(1)
    return columns[:, :k].contiguous(), values[:, :k].contiguous(), unsafe


def _select_grouped(scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Best k among the columns of the k best groups (and the remainder that fills no group)."""
    b, n = scores.shape
    whole = n // GROUP * GROUP
    groups = scores[:, :whole].view(b, -1, GROUP)
    maxima, best = groups.amax(2).topk(k + 1)
    candidates = torch.cat(
        [groups.gather(1, best[:, :k, None].expand(-1, -1, GROUP)).view(b, -1), scores[:, whole:]], 1
    )
    places, values, unsafe = _select(candidates, k)
    in_group = places < k * GROUP
    group = best[:, :k].gather(1, (places // GROUP).clamp(max=k - 1))
    columns = torch.where(in_group, group * GROUP + places % GROUP, places - k * GROUP + whole)
    # The best group left out bounds all that was not looked at.
    return columns, values, unsafe | (values[:, -1] <= maxima[:, k])


def _select_by_key(scores: Tensor, k: int) -> Tensor:
    """Best k columns by (score descending, column ascending), exact for any ties."""
    if scores.dtype == torch.float64:  # too wide to share an integer key with the column
        return scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    bits = scores.float().contiguous().view(torch.int32).long()
    ordered = torch.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))  # float order as integer order; -0 equals +0
    n = scores.shape[1]
    keys = ordered * n + torch.arange(n - 1, -1, -1, device=scores.device)
    return keys.topk(k).indices


def rank(
    score: Callable[[Ids], Tensor],
    users: Ids,
    n_items: int,
    k: int,
    *,
    exclude: Histories | None = None,
    allow: Ids | None = None,
    deny: Ids | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Ranking:
    """Rank the full catalogue for each user, a block of users at a time.

    Args:
        score: Gives the scores ``(b, n_items)`` of a block of user ids; the block may be overwritten.
        users: ``(n,)`` internal user ids.
        n_items: Size of the catalogue.
        k: Length of the lists.
        exclude: Per internal user id the items that may not appear (those seen in training).
        allow: Item ids that may appear; all if None.
        deny: Item ids that may not appear.
        block_bytes: Memory of one block of scores.
    """
    k = min(k, n_items)
    items = np.empty((len(users), k), dtype=np.int64)
    values = np.empty((len(users), k), dtype=np.float32)
    permitted = permitted_items(n_items, allow, deny)
    closed = None if permitted is None else ~permitted
    size = max(1, block_bytes // (4 * n_items))
    for start in range(0, len(users), size):
        block = users[start : start + size]
        scores = score(block)
        if exclude is not None:
            seen = exclude.select(block)
            scores[torch.from_numpy(seen.users), torch.from_numpy(seen.items)] = -torch.inf
        if closed is not None:
            scores[:, closed] = -torch.inf
        best, best_scores = top_items(scores, k)
        best = torch.where(best_scores == -torch.inf, -1, best)
        items[start : start + size], values[start : start + size] = (
            best.cpu().numpy(),
            best_scores.float().cpu().numpy(),
        )
    return Ranking(items, values)


def permitted_items(n_items: int, allow: Ids | None, deny: Ids | None) -> Tensor | None:
    """Mask ``(n_items,)`` of the items that may appear; None where all may."""
    if allow is None and deny is None:
        return None
    permitted = torch.ones(n_items, dtype=torch.bool)
    if allow is not None:
        permitted[:] = False
        permitted[torch.from_numpy(np.asarray(allow, dtype=np.int64))] = True
    if deny is not None:
        permitted[torch.from_numpy(np.asarray(deny, dtype=np.int64))] = False
    return permitted


def rescore(
    score: Callable[[Ids], Tensor],
    second: Callable[[Ids, Ids], Tensor],
    candidates: int,
    *,
    exclude: Histories | None = None,
    permitted: Tensor | None = None,
) -> Callable[[Ids], Tensor]:
    """The scores of two stages: those of the second for each user's first candidates, -inf for all other items.

    Args:
        score: The first stage: scores ``(b, n_items)`` of a block of users, which may be overwritten.
        second: Scores ``(m,)`` of pairs of users and items.
        candidates: How many items of each user are scored again.
        exclude: Per internal user id items that are no candidates.
        permitted: Mask ``(n_items,)`` of the items that may be; all if None.
    """

    def rescored(users: Ids) -> Tensor:
        scores = score(users)
        if exclude is not None:
            seen = exclude.select(users)
            scores[torch.from_numpy(seen.users), torch.from_numpy(seen.items)] = -torch.inf
        if permitted is not None:
            scores[:, ~permitted] = -torch.inf
        items, values = top_items(scores, candidates)
        places, columns = (values > -torch.inf).nonzero(as_tuple=True)
        found = items[places, columns]
        again = second(users[places.cpu().numpy()], found.cpu().numpy())
        result = torch.full_like(scores, -torch.inf)
        result[places, found] = again.to(result)
        return result

    return rescored
