"""Fused rankings: by hand, whatever the order of the lists, and lists of strings."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mmrec.compress.fuse import METHODS, borda, fuse_lists, fuse_rankings, min_max, reciprocal_rank, z_scores
from mmrec.errors import ConfigError, DataError
from mmrec.rank import Ranking

NAN = float("nan")


def rankings(seed: int = 0, sizes: tuple[int, ...] = (6, 9, 4)) -> list[Ranking]:
    """Lists of three retrievers for five queries over 20 items, some of them short."""
    rng = np.random.default_rng(seed)
    made = []
    for k in sizes:
        items = np.stack([rng.permutation(20)[:k] for _ in range(5)])
        scores = -np.sort(-rng.normal(size=(5, k)).astype(np.float32), axis=1)
        items[1, k // 2 :], scores[1, k // 2 :] = -1, -np.inf
        made.append(Ranking(items, scores))
    return made


def fuse_slowly(parts: list[Ranking], row: int, method: str) -> list[tuple[int, float]]:
    """Items of a row by fused score, with dictionaries."""
    lists = [
        {int(i): float(s) for i, s in zip(part.items[row], part.scores[row], strict=True) if i >= 0}
        for part in parts
    ]
    union = sorted(set().union(*lists))
    total = dict.fromkeys(union, 0.0)
    for own in lists:
        ordered, values = sorted(own, key=lambda i: -own[i]), list(own.values())
        for item in union:
            if method in ("reciprocal_rank", "borda"):
                if item in own:
                    rank = ordered.index(item) + 1
                    total[item] += 1 / (60 + rank) if method == "reciprocal_rank" else len(union) - rank
            else:
                value = own.get(item, min(values))
                low = np.mean(values) if method == "z_scores" else min(values)
                spread = np.std(values) if method == "z_scores" else max(values) - min(values)
                total[item] += float((value - low) / (spread or 1))
    return sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))


class TestRanks:
    def test_by_hand(self) -> None:
        lists = np.array([[0.9, 0.5, 0.1], [3.0, 1.0, 2.0]])
        assert borda(lists).tolist() == [4.0, 1.0, 1.0]
        assert_allclose(reciprocal_rank(lists), [2 / 61, 1 / 62 + 1 / 63, 1 / 63 + 1 / 62])

    @pytest.mark.parametrize("rule", [borda, reciprocal_rank])
    def test_invariant_to_monotone_maps(self, rule: Any) -> None:
        lists = np.random.default_rng(0).normal(size=(3, 4, 20))
        mapped = np.stack([np.exp(lists[0]), 5 * lists[1] - 3, lists[2] ** 3])
        assert_allclose(rule(mapped), rule(lists))

    def test_ties_share_and_unknown_items_get_nothing(self) -> None:
        assert borda(np.array([[1.0, 1.0, 0.0]])).tolist() == [1.5, 1.5, 0.0]
        assert borda(np.array([[np.nan, 1.0, 0.0], [2.0, 1.0, np.nan]])).tolist() == [2.0, 3.0, 1.0]


class TestScores:
    @pytest.mark.parametrize("rule", [z_scores, min_max])
    def test_invariant_to_affine_maps(self, rule: Any) -> None:
        lists = np.random.default_rng(0).normal(size=(3, 4, 20))
        lists[0, 1, 5:] = NAN
        mapped = np.stack([3 * lists[0] + 1, 0.5 * lists[1] - 3, lists[2]])
        assert_allclose(rule(mapped), rule(lists), atol=1e-12)

    def test_by_hand(self) -> None:
        lists = np.array([[4.0, 2.0, NAN, 0.0], [NAN, NAN, 1.0, 3.0]])
        assert min_max(lists).tolist() == [1.0, 0.5, 0.0, 1.0]
        assert_allclose(z_scores(lists), [1.5**0.5 - 1, -1, -(1.5**0.5) - 1, -(1.5**0.5) + 1])

    @pytest.mark.parametrize("rule", [z_scores, min_max])
    def test_equal_scores_and_empty_lists_say_nothing(self, rule: Any) -> None:
        one = np.array([[3.0, 1.0, 2.0]])
        for silent in ([5.0, 5.0, NAN], [NAN, NAN, NAN]):
            assert_allclose(rule(np.concatenate([one, [silent]])), rule(one))


@pytest.mark.parametrize("method", METHODS)
class TestFuseRankings:
    def test_as_with_dictionaries(self, method: str) -> None:
        parts = rankings()
        fused = fuse_rankings(parts, method=method)
        for row in range(5):
            naive = fuse_slowly(parts, row, method)
            n = len(naive)
            assert fused.items[row, :n].tolist() == [item for item, _ in naive]
            assert_allclose(fused.scores[row, :n], [score for _, score in naive], rtol=1e-5, atol=1e-6)
            assert (fused.items[row, n:] == -1).all() and (fused.scores[row, n:] == -np.inf).all()

    def test_the_order_of_the_lists_does_not_matter(self, method: str) -> None:
        parts = rankings(1)
        first = fuse_rankings(parts, 7, method)
        for order in permutations(parts):
            other = fuse_rankings(order, 7, method)
            assert_array_equal(other.items, first.items)
            assert_array_equal(other.scores, first.scores)

    def test_a_query_s_list_does_not_depend_on_the_others(self, method: str) -> None:
        parts = rankings(2)
        together = fuse_rankings(parts, 5, method)
        for row in range(5):
            rows = slice(row, row + 1)
            alone = fuse_rankings([Ranking(p.items[rows], p.scores[rows]) for p in parts], 5, method)
            width = alone.items.shape[1]
            assert_array_equal(alone.items[0], together.items[row, :width])
            assert_array_equal(alone.scores[0], together.scores[row, :width])

    def test_one_list_keeps_its_order(self, method: str) -> None:
        part = rankings(3)[1]
        assert_array_equal(fuse_rankings([part], method=method).items, part.items)

    def test_no_queries_and_no_items(self, method: str) -> None:
        none = Ranking(np.empty((0, 3), dtype=np.int64), np.empty((0, 3), dtype=np.float32))
        assert fuse_rankings([none, none], method=method).items.shape == (0, 0)
        assert fuse_lists([[], []], method=method) == []

    def test_strings_are_as_numbers(self, method: str) -> None:
        parts = rankings(4)
        fused = fuse_rankings(parts, 6, method)
        named = [
            [(f"item-{i:02}", float(s)) for i, s in zip(p.items[1], p.scores[1], strict=True) if i >= 0]
            for p in parts
        ]
        made = fuse_lists(named, 6, method)
        assert [name for name, _ in made] == [f"item-{i:02}" for i in fused.items[1] if i >= 0]
        assert_allclose([score for _, score in made], fused.scores[1, : len(made)])


def test_refuses_what_it_cannot_fuse() -> None:
    with pytest.raises(ConfigError, match="method"):
        fuse_rankings(rankings(), method="mean")
    with pytest.raises(DataError, match="same queries"):
        fuse_rankings([])
    short = Ranking(rankings()[0].items[:2], rankings()[0].scores[:2])
    with pytest.raises(DataError, match="same queries"):
        fuse_rankings([short, rankings()[1]])
    with pytest.raises(DataError, match="each item once"):
        fuse_lists([[("a", 1.0), ("a", 0.5)]])
