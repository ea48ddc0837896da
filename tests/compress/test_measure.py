"""Recall and bytes of codecs, and rankings in blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from mmrec.compress.measure import clustered_vectors, compare_codecs, overlap
from mmrec.compress.ranking import join_candidates, rank_blocks
from mmrec.errors import ConfigError
from mmrec.rank import top_items
from tests.compress.vectors import codecs, world


class TestCompareCodecs:
    def test_recall_is_counted_against_exact_scores_and_falls_with_the_bytes(self) -> None:
        items, queries = world()
        names = ["float32", "bfloat16", "int8 vector", "binary 3", "binary 2", "binary 1", "binary 0"]
        table = compare_codecs({name: codecs()[name] for name in names}, items, queries, k=10).set_index(
            "codec"
        )
        for recall in (table.recall, table.symmetric_recall):
            assert recall["float32"] == 1
            assert recall[["bfloat16", "int8 vector"]].between(0.98, 0.999).all()
            assert (np.diff(recall[names[2:]]) < 0).all()
        assert (table.recall > table.symmetric_recall)[names[3:]].all()
        codec = codecs()["binary 1"]
        found = np.argsort(-codec.scores(queries, codec.encode(items)), axis=1)[:, :10]
        exact = np.argsort(-(queries @ items.T), axis=1)[:, :10]
        naive = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)])
        assert table.recall["binary 1"] == pytest.approx(naive)

    def test_refuses_nothing_to_compare(self) -> None:
        with pytest.raises(ConfigError, match="k of 1 or more"):
            compare_codecs({}, *world(), k=0)


class TestRankBlocks:
    @pytest.mark.parametrize("block", [1, 7, 50, 1000])
    def test_as_in_one_piece_with_ties(self, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
        scores = np.random.default_rng(0).integers(0, 4, size=(9, 120)).astype(np.float32)
        monkeypatch.setattr("mmrec.compress.ranking.BLOCK_BYTES", 4 * 9 * block)
        made = rank_blocks(lambda rows: scores[:, rows], 120, 9, 8)
        best, values = top_items(torch.from_numpy(scores), 8)
        assert_array_equal(made.items, best)
        assert_array_equal(made.scores, values)

    def test_longer_than_the_catalogue(self) -> None:
        scores = np.array([[1.0, 3.0, 2.0]], dtype=np.float32)
        assert rank_blocks(lambda rows: scores[:, rows], 3, 1, 10).items.tolist() == [[1, 2, 0]]


def test_candidates_are_the_union_each_once() -> None:
    lists = [np.array([[5, 2, -1], [-1, -1, -1]]), np.array([[2, 9], [7, -1]])]
    candidates, places = join_candidates(lists)
    assert candidates.tolist() == [[2, 5, 9], [7, -1, -1]]
    for own, where in zip(lists, places, strict=True):
        row, column = np.nonzero(own >= 0)
        assert_array_equal(candidates[row, where[row, column]], own[row, column])


def test_overlap_leaves_out_places_without_items() -> None:
    assert overlap(np.array([[1, -1]]), np.array([[1, -1]])) == 1
    assert overlap(np.array([[1, 2], [3, 4]]), np.array([[2, 5], [3, 4]])) == 0.75


def test_clustered_vectors_are_clustered_and_follow_the_generator() -> None:
    one, again, other = (clustered_vectors(2000, 16, 8, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert_array_equal(one, again)
    assert (one != other).all()
    loose = clustered_vectors(2000, 16, 2000, np.random.default_rng(0))
    nearest = [np.sort(rows @ rows[:50].T, axis=0)[-2].mean() for rows in (one, loose)]
    assert nearest[0] > 0
    assert_allclose(one.std(axis=0)[0] / one.std(axis=0)[15], 4, rtol=0.7)
