from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmrec import neighbours
from mmrec.data.histories import Histories
from mmrec.encode.features import FeatureTable
from mmrec.neighbours import co_users, item_neighbours, nearest_neighbours, neighbours_among
from tests.dense import assert_close, cosines, neighbour_lists


# Rows of -1, 0 and 1 with 1, 4 or 16 non-zeros have exact norms and cosines, so that ties are ties in any precision.
def exact_vectors(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = np.zeros((n, 16), dtype=np.float32)
    for row in range(n):
        places = rng.permutation(16)[: rng.choice([0, 1, 4, 16], p=[0.1, 0.4, 0.4, 0.1])]
        vectors[row, places] = rng.choice([-1, 1], size=len(places))
    return vectors


class TestNearestNeighbours:
    @pytest.mark.parametrize("rows", [1, 2, 7, 30, 31, 64])
    def test_blocks_equal_dense_with_ties_and_zero_vectors(self, rows: int) -> None:
        n = 61
        vectors = exact_vectors(0, n)
        assert not vectors.any(1).all()
        ids, values = nearest_neighbours(torch.from_numpy(vectors), 9, block_bytes=4 * n * rows)
        similarity = cosines(vectors)
        for row, expected in enumerate(neighbour_lists(vectors, 9)):
            assert ids[row].tolist() == expected + [-1] * (9 - len(expected))
            assert values[row, : len(expected)].tolist() == similarity[row, expected].tolist()

    @given(arrays(np.int8, (11, 2), elements=st.sampled_from([-1, 0, 1])), st.integers(1, 13))
    @settings(max_examples=60, deadline=None)
    def test_lists_of_axes_and_zeros(self, signs: np.ndarray, k: int) -> None:
        signs[:, 1] *= signs[:, 0] == 0  # at most one non-zero: all cosines are -1, 0 or 1
        vectors = signs.astype(np.float32) * 3
        ids, _ = nearest_neighbours(torch.from_numpy(vectors), k, block_bytes=4 * 11 * 3)
        assert ids.shape == (11, min(k, 11))
        for row, expected in enumerate(neighbour_lists(vectors, k)):
            assert ids[row][ids[row] >= 0].tolist() == expected

    @pytest.mark.parametrize("dim", [7, 384])
    def test_random_vectors(self, dim: int) -> None:
        vectors = np.random.default_rng(1).normal(size=(203, dim)).astype(np.float32)
        ids, values = nearest_neighbours(torch.from_numpy(vectors), 10, block_bytes=4 * 203 * 50)
        assert ids.tolist() == neighbour_lists(vectors, 10)
        assert ids[:, 0].tolist() == list(range(203))  # the item itself is the nearest
        assert_close(values[:, 0], torch.ones(203), 1e-6)

    @pytest.mark.parametrize("rows", [1, 2, 100, 300])
    def test_copies_of_a_vector_tie_whatever_the_block(self, rows: int) -> None:
        # Items without a picture of their own often share one vector. Columns of a product round differently on some
        # processors (the last of 301, say), and so do rows of a block of another size.
        rng = np.random.default_rng(2)
        kinds = rng.integers(0, 30, 301)
        vectors = torch.from_numpy(rng.normal(size=(30, 100)).astype(np.float32)[kinds])
        ids, _ = nearest_neighbours(vectors, 14, block_bytes=4 * 301 * rows)
        for row in range(301):
            same = np.flatnonzero(kinds == kinds[row])
            assert ids[row, : len(same)].tolist() == same[:14].tolist()
        unblocked, _ = nearest_neighbours(vectors, 14)
        assert torch.equal(ids, unblocked)
        among, _ = neighbours_among(vectors, vectors, 14, block_bytes=8 * 301 * rows)
        assert torch.equal(ids, among)

    @pytest.mark.parametrize(("m", "n"), [(0, 4), (2, 0), (0, 0)])
    def test_nobody_is_near_nobody(self, m: int, n: int) -> None:
        ids, cosines = neighbours_among(torch.ones(m, 3), torch.ones(n, 3), 2)
        assert ids.shape == cosines.shape == (m, min(2, n))
        assert nearest_neighbours(torch.ones(m, 3), 5)[0].shape == (m, m)

    def test_scale_of_a_vector_does_not_matter(self) -> None:
        vectors = torch.randn(40, 6)
        ids, _ = nearest_neighbours(vectors, 5)
        scaled, _ = nearest_neighbours(vectors * torch.logspace(-6, 6, 40)[:, None], 5)
        assert torch.equal(ids, scaled)

    def test_half_precision_input_and_k_beyond_n(self) -> None:
        vectors = torch.eye(4, dtype=torch.float16)
        ids, _ = nearest_neighbours(vectors, 10)
        assert ids.tolist() == [[0, 1, 2, 3], [1, 0, 2, 3], [2, 0, 1, 3], [3, 0, 1, 2]]


def table_of(vectors: np.ndarray, present: list[bool] | None = None) -> FeatureTable:
    mask = np.ones(len(vectors), dtype=bool) if present is None else np.array(present)
    return FeatureTable("text-test", "text", vectors.astype(np.float32), mask)


class TestItemNeighbours:
    def test_absent_items_take_no_part_and_zero_vectors_keep_themselves(self) -> None:
        vectors = np.array([[1, 0], [0, 0], [0, 0], [1, 0.1], [0, 1]])
        rows, columns, values = item_neighbours(table_of(vectors, [True, False, True, True, True]), 2)
        pairs = dict(zip(zip(rows.tolist(), columns.tolist(), strict=True), values.tolist(), strict=True))
        assert {pair for pair in pairs if pair[0] == 0} == {(0, 0), (0, 3)}
        assert {pair for pair in pairs if 1 in pair} == set()
        assert {pair for pair in pairs if pair[0] == 2} == {(2, 2)}
        assert pairs[2, 2] == 1
        assert pairs[0, 3] == pytest.approx(1 / np.sqrt(1.01))

    def test_is_computed_once_for_the_same_content(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []
        compute = neighbours.nearest_neighbours

        def counted(*arguments: Any) -> Any:
            calls.append(arguments)
            return compute(*arguments)

        monkeypatch.setattr(neighbours, "nearest_neighbours", counted)
        vectors = np.random.default_rng(7).normal(size=(30, 4))
        first = item_neighbours(table_of(vectors), 3)
        again = item_neighbours(table_of(vectors.copy()), 3)
        assert len(calls) == 1
        assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
        item_neighbours(table_of(vectors), 4)
        item_neighbours(table_of(vectors + 1e-3), 3)
        item_neighbours(table_of(vectors, [False] + [True] * 29), 3)
        assert len(calls) == 4


class TestCoUsers:
    @pytest.mark.parametrize("block_bytes", [1, 4 * 40 * 7, 2**20])
    def test_equals_counting_whatever_the_block(
        self, block_bytes: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("MMREC_CACHE", str(tmp_path))
        monkeypatch.setattr(neighbours, "BLOCK_BYTES", block_bytes)
        rng = np.random.default_rng(1)
        likes = rng.random((40, 15)) < 0.2
        pairs = np.argwhere(likes)
        train = Histories.from_pairs(pairs[:, 0], pairs[:, 1], 40)
        rows, columns, counts = (part.numpy() for part in co_users(train, 15, 6))
        common = likes.astype(int) @ likes.T.astype(int)
        np.fill_diagonal(common, 0)
        for user in range(40):
            expected = [o for o in np.argsort(-common[user], kind="stable")[:6] if common[user, o] > 0]
            assert columns[rows == user].tolist() == expected
            assert counts[rows == user].tolist() == common[user, expected].tolist()
