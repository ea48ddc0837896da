"""Several rankings of the same queries fused to one, by ranks or by scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from mmrec.compress.ranking import join_candidates, rank_candidates
from mmrec.encode.encoders import check_choice
from mmrec.errors import DataError
from mmrec.rank import Ranking

Scores = NDArray[np.floating[Any]]

RECIPROCAL_RANK_OFFSET = 60


def borda(scores: Scores) -> NDArray[np.float64]:
    """Borda count ``(…, n)`` of score lists ``(m, …, n)``: ``Σ_m (n - rank_m)``, best rank 1, ties share the mean.

    An item that a list does not hold (NaN) gets nothing from it, and one that no list holds does not count for n.
    """
    known = (~np.isnan(scores)).any(axis=0).sum(axis=-1, keepdims=True)
    return _sum_of_ranks(scores, lambda ranks: known - ranks)


def reciprocal_rank(scores: Scores, offset: float = RECIPROCAL_RANK_OFFSET) -> NDArray[np.float64]:
    """Reciprocal rank fusion ``(…, n)`` of score lists ``(m, …, n)``: ``Σ_m 1 / (offset + rank_m)``; NaN as in Borda.

    Source: Cormack, Clarke, Buettcher, "Reciprocal Rank Fusion", SIGIR 2009.
    """
    return _sum_of_ranks(scores, lambda ranks: 1 / (offset + ranks))


def _sum_of_ranks(scores: Scores, points: Callable[[Any], Any]) -> NDArray[np.float64]:
    held = ~np.isnan(scores)
    ranks = rankdata(np.where(held, -scores, np.inf), axis=-1)
    return _add(np.where(held, points(ranks), 0.0))


def z_scores(scores: Scores) -> NDArray[np.float64]:
    """Sum ``(…, n)`` of score lists ``(m, …, n)`` less their mean, by their standard deviation.

    An item that a list does not hold (NaN) counts as the last that it holds; a list of equal scores says nothing.
    """

    def scale(values: Scores, held: NDArray[np.bool_]) -> Scores:
        number = np.maximum(held.sum(axis=-1, keepdims=True), 1)
        centred = values - np.where(held, values, 0).sum(axis=-1, keepdims=True) / number
        spread = np.sqrt(np.where(held, centred**2, 0).sum(axis=-1, keepdims=True) / number)
        return _divide(centred, spread)

    return _sum_of_scores(scores, scale)


def min_max(scores: Scores) -> NDArray[np.float64]:
    """Sum ``(…, n)`` of score lists ``(m, …, n)`` scaled to 0 … 1; NaN and equal scores as in :func:`z_scores`.

    Source: Shaw and Fox, "Combination of Multiple Searches", TREC 1994 (CombSUM); Lee, SIGIR 1997.
    """

    def scale(values: Scores, held: NDArray[np.bool_]) -> Scores:
        low = np.where(held, values, np.inf).min(axis=-1, keepdims=True, initial=np.inf)
        high = np.where(held, values, -np.inf).max(axis=-1, keepdims=True, initial=-np.inf)
        return _divide(values - low, high - low)

    return _sum_of_scores(scores, scale)


def _sum_of_scores(
    scores: Scores, scale: Callable[[Scores, NDArray[np.bool_]], Scores]
) -> NDArray[np.float64]:
    wide = scores.astype(np.float64)
    held = ~np.isnan(wide)
    low = np.where(held, wide, np.inf).min(axis=-1, keepdims=True, initial=np.inf)
    filled = np.where(
        held, wide, np.where(np.isfinite(low), low, 0)
    )  # a list without items is one of equal scores
    return _add(scale(filled, held | ~held.any(axis=-1, keepdims=True)))


def _divide(values: Scores, by: Scores) -> Scores:
    return np.asarray(values / np.where(by > 0, by, 1))


def _add(points: Scores) -> NDArray[np.float64]:
    """Sum over the lists, to the last bit the same in whatever order they come."""
    return np.asarray(np.sort(points, axis=0).sum(axis=0))


METHODS: dict[str, Callable[[Scores], NDArray[np.float64]]] = {
    "reciprocal_rank": reciprocal_rank,
    "borda": borda,
    "z_scores": z_scores,
    "min_max": min_max,
}


def fuse_rankings(
    rankings: Sequence[Ranking], k: int | None = None, method: str = "reciprocal_rank"
) -> Ranking:
    """One ranking of several of the same queries; their order does not matter.

    Args:
        rankings: Each with items ``(b, k_m)``, none twice in a row, -1 where a list is shorter.
        k: Length of the lists made; None: all items that occur.
        method: ``reciprocal_rank``, ``borda``, ``z_scores`` or ``min_max``.

    Returns:
        Items by fused score, ties by id.

    Raises:
        ConfigError: Unknown method.
        DataError: No rankings, or of different numbers of queries.
    """
    check_choice("method", method, tuple(METHODS))
    if len({len(ranking.items) for ranking in rankings}) != 1:
        raise DataError(
            "rankings of the same queries",
            f"{[len(ranking.items) for ranking in rankings]} rows",
            "give one or more rankings with one row per query",
        )
    candidates, places = join_candidates([ranking.items for ranking in rankings])
    lists = np.full((len(rankings), *candidates.shape), np.nan)
    for own, where, ranking in zip(lists, places, rankings, strict=True):
        row, column = np.nonzero(ranking.items >= 0)
        own[row, where[row, column]] = ranking.scores[row, column]
    fused = np.where(candidates >= 0, METHODS[method](lists), -np.inf)
    return rank_candidates(candidates, torch.from_numpy(fused), k)


def fuse_lists(
    lists: Sequence[Sequence[tuple[str, float]]], k: int | None = None, method: str = "reciprocal_rank"
) -> list[tuple[str, float]]:
    """The same for one query and lists of (item id, score), for example of services with catalogues of their own.

    Ties by id in the order of its characters.

    Raises:
        ConfigError: Unknown method.
        DataError: No list, or one that names an item twice.
    """
    names = sorted({name for ranked in lists for name, _ in ranked})
    numbers = {name: number for number, name in enumerate(names)}
    rankings = []
    for ranked in lists:
        items = np.array([[numbers[name] for name, _ in ranked]], dtype=np.int64).reshape(1, -1)
        if len(np.unique(items)) < len(ranked):
            raise DataError(
                "each item once in a list", f"{len(ranked)} entries, some alike", "drop the repeats"
            )
        scores = np.array([[score for _, score in ranked]], dtype=np.float32).reshape(1, -1)
        rankings.append(Ranking(items, scores))
    fused = fuse_rankings(rankings, k, method)
    pairs = zip(fused.items[0].tolist(), fused.scores[0].tolist(), strict=True)
    return [(names[item], score) for item, score in pairs if item >= 0]
