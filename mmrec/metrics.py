"""Metrics of ranked lists: accuracy per user, and what the lists make of the catalogue.

The hits of all lists are found once; every metric at every cut-off follows from the positions of the hits, of
which there are far fewer than positions. A list is ``r_1 … r_K``, best first; ``T_u`` are the held-out items of
user u and ``h_j = 1[r_j in T_u]``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrec.data.histories import Histories, Ids
from mmrec.errors import ConfigError, did_you_mean

USER_METRICS = ("recall", "ndcg", "hit", "mrr", "map", "precision")
CATALOGUE_METRICS = ("coverage", "gini", "novelty", "popularity")
METRICS = USER_METRICS + CATALOGUE_METRICS

_CELLS = 1 << 18  # list positions compared at once: 2 MiB of ids, which stay in the processor's cache


def parse_metric(metric: str, known: Sequence[str] = METRICS) -> tuple[str, int]:
    """Split ``recall@20`` into ``("recall", 20)``.

    Args:
        metric: Name and cut-off.
        known: Names to accept, for example :data:`USER_METRICS` where a larger value has to be better.

    Raises:
        ConfigError: Unknown name, or no cut-off of 1 or more.
    """
    match = re.fullmatch(r"([a-z]+)@([1-9][0-9]*)", metric)
    if match and match[1] in known:
        return match[1], int(match[2])
    cut_off = re.search(r"[1-9][0-9]*$", metric)
    choices = [f"{name}@{cut_off[0] if cut_off else 20}" for name in known]
    raise ConfigError(
        "a metric and its cut-off, such as recall@20", repr(metric), did_you_mean(metric.lower(), choices)
    )


def find_hits(ranked: Ids, held: Histories) -> NDArray[np.bool_]:
    """Mark the held-out items in ranked lists.

    Args:
        ranked: ``(n, K)`` item ids, best first; -1 where a list is shorter than K.
        held: Held-out items of the n users, no pair twice.

    Returns:
        ``(n, K)`` True where the item is held out for the user of the row.
    """
    n_users, depth = ranked.shape
    if held.n_users != n_users:
        raise ValueError(f"{n_users} lists but {held.n_users} rows of held-out items")
    hits = np.zeros((n_users, depth), dtype=bool)
    users, step = held.users, max(1, _CELLS // max(depth, 1))
    # Users have few held-out items, so comparing each one with its user's list beats searching for every position.
    for start in range(0, len(users), step):
        rows = users[start : start + step]
        equal = ranked[rows] == held.items[start : start + step, None]
        entry, rank = np.divmod(np.flatnonzero(equal), depth)
        hits[rows[entry], rank] = True
    return hits


def user_metrics(
    hits: NDArray[np.bool_], n_held: NDArray[np.integer[Any]], ks: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """Accuracy of each user's list at several cut-offs.

    For cut-off K, with ``m = min(K, |T_u|)``:

    - ``recall@K = (Σ_{j≤K} h_j) / |T_u|``; the denominator is not m, so a user with more than K held-out items
      cannot reach 1.
    - ``precision@K = (Σ_{j≤K} h_j) / K``
    - ``hit@K = 1`` if any of the first K is a hit, else 0
    - ``mrr@K = 1 / (rank of the first hit)``, 0 without a hit in the first K
    - ``map@K = (Σ_{j≤K} h_j · precision@j) / m``
    - ``ndcg@K = (Σ_{j≤K} h_j / log2(j + 1)) / (Σ_{j≤m} 1 / log2(j + 1))``, the binary form of Järvelin and
      Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002.

    Args:
        hits: ``(n, depth)`` as given by :func:`find_hits`.
        n_held: ``(n,)`` number of held-out items ``|T_u|``, at least 1.
        ks: Cut-offs, none deeper than the lists.

    Returns:
        ``{"recall@10": (n,), …}`` for each name of :data:`USER_METRICS` and each cut-off.

    Raises:
        ConfigError: A cut-off is below 1 or deeper than the lists.
    """
    n_users, depth = hits.shape
    _check_cut_offs(ks, depth)
    if len(n_held) != n_users or (n_held < 1).any():
        raise ValueError("every evaluated user needs at least one held-out item")
    rows, ranks = np.divmod(np.flatnonzero(hits), depth)  # by user, then by rank counted from 0
    per_user = np.bincount(rows, minlength=n_users)
    nth = np.arange(1, len(rows) + 1) - (np.cumsum(per_user) - per_user)[rows]  # 1 = the user's first hit
    gains = 1.0 / np.log2(ranks + 2)
    ideal = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(depth) + 2))])

    def per_user_sum(values: NDArray[np.float64], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        sums = np.bincount(rows[chosen], values[chosen], minlength=n_users)
        return sums.astype(np.float64, copy=False)  # already float64; the type checker cannot tell

    result: dict[str, NDArray[np.float64]] = {}
    for k in ks:
        inside = ranks < k
        first = inside & (nth == 1)
        best = np.minimum(n_held, k)
        found = per_user_sum(np.ones(len(rows)), inside)
        result[f"recall@{k}"] = found / n_held
        result[f"ndcg@{k}"] = per_user_sum(gains, inside) / ideal[best]
        result[f"hit@{k}"] = (found > 0).astype(np.float64)
        result[f"mrr@{k}"] = per_user_sum(1.0 / (ranks + 1), first)
        result[f"map@{k}"] = per_user_sum(nth / (ranks + 1), inside) / best
        result[f"precision@{k}"] = found / k
    return result


def catalogue_metrics(
    ranked: Ids, train_counts: NDArray[np.integer[Any]], n_users_train: int, ks: Sequence[int]
) -> dict[str, float]:
    """How lists spread over the catalogue, at several cut-offs.

    ``c_i`` is how often item i stands among the first K of all lists, ``C = Σ_i c_i``, ``t_i`` its number of
    training users:

    - ``coverage@K``: share of all items with ``c_i > 0`` (Ge et al., "Beyond accuracy", 2010).
    - ``gini@K = Σ_i (2 i - n - 1) c_(i) / (n C)`` with ``c_(1) ≤ … ≤ c_(n)`` over all n items: 0 where all are
      recommended equally often, near 1 where a few take everything (Adomavicius and Kwon, "Improving aggregate
      recommendation diversity", 2012).
    - ``novelty@K = Σ_i c_i · -log2(p_i) / C``, bits, ``p_i`` the share of training users who have the item (Zhou et
      al., "Solving the apparent diversity-accuracy dilemma", 2010). An item without training user counts as if it
      had one: the largest finite value, ``log2(n_users_train)``.
    - ``popularity@K = Σ_i c_i t_i / C``: mean number of training users of a recommended item, the popularity bias
      (Yin et al., "Challenging the long tail recommendation", 2012).

    Empty positions (-1) do not count. Where nothing is recommended at all, every value is 0.

    Args:
        ranked: ``(n, depth)`` item ids, best first; -1 where a list is shorter.
        train_counts: ``(n_items,)`` training users of each item.
        n_users_train: Number of users with a training interaction.
        ks: Cut-offs, none deeper than the lists.

    Raises:
        ConfigError: A cut-off is below 1 or deeper than the lists.
    """
    _check_cut_offs(ks, ranked.shape[1])
    if n_users_train < 1:
        raise ValueError("novelty needs at least one training user")
    n_items, sizes = len(train_counts), train_counts.astype(np.float64)
    information = -np.log2(np.maximum(sizes, 1.0) / n_users_train)
    balance = 2.0 * np.arange(1, n_items + 1) - n_items - 1
    counts, start = np.zeros(n_items), 0
    result: dict[str, float] = {}
    for k in sorted(set(ks)):  # each cut-off adds its columns to the counts of the one before
        added = ranked[:, start:k].ravel() + 1
        counts, start = counts + np.bincount(added, minlength=n_items + 1)[1:], k
        total = max(float(counts.sum()), 1.0)
        result[f"coverage@{k}"] = float((counts > 0).mean())
        result[f"gini@{k}"] = float(balance @ np.sort(counts)) / (n_items * total)
        result[f"novelty@{k}"] = float(counts @ information) / total
        result[f"popularity@{k}"] = float(counts @ sizes) / total
    return result


def _check_cut_offs(ks: Sequence[int], depth: int) -> None:
    wrong = [k for k in ks if not 1 <= k <= depth]
    if wrong or not ks:
        raise ConfigError(
            f"cut-offs between 1 and {depth}, the length of the ranked lists",
            f"ks {list(ks)}",
            "change evaluate.ks, or rank more items",
        )
