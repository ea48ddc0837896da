"""Exact search against sorting everything: ties, blocks, doubt, masks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mmrec.index.exact as exact
from mmrec.errors import DataError
from mmrec.index import build_index
from mmrec.index.exact import ExactIndex, score
from mmrec.index.items import make_items
from tests.index.backends import best, check_found, make_vectors


def sorted_scores(
    queries: np.ndarray, vectors: np.ndarray, permitted: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and float32 scores by a stable sort of sums in double precision."""
    scores = np.array(
        [[np.sum(v.astype(np.float64) * q) for v in vectors] for q in queries], dtype=np.float32
    )
    scores[:, ~permitted] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(scores, order, 1)
    return np.where(values == -np.inf, -1, order), values


@pytest.mark.parametrize("share", [0.02, 0.2, 0.9, 1.0])  # rows gathered, and all rows masked
@pytest.mark.parametrize("seed", [0, 1])
def test_many_ties_and_copies(share: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    different = draw.standard_normal((40, 7), dtype=np.float32)
    different[:5] = 0
    vectors = different[draw.integers(0, 40, 700)]  # each vector many times: ties everywhere
    queries = draw.standard_normal((9, 7), dtype=np.float32)
    queries[3] = 0
    permitted = draw.random(700) < share
    index = build_index("exact", vectors)
    for k in (1, 10, 60, 800):
        found = index.search(queries, k, allow=np.flatnonzero(permitted))
        ids, scores = sorted_scores(queries, vectors, permitted, k)
        np.testing.assert_array_equal(found.ids[:, : ids.shape[1]], ids)
        np.testing.assert_array_equal(found.scores[:, : ids.shape[1]], scores)
        assert (found.ids[:, ids.shape[1] :] == -1).all()


def test_rounding_of_the_fast_product_changes_nothing() -> None:
    """Many items whose scores differ by less than the error of a sum in single precision."""
    draw = np.random.default_rng(0)
    base = draw.standard_normal(256, dtype=np.float32)
    vectors = np.tile(base, (500, 1))
    vectors[:, 0] += np.float32(2**-19) * draw.integers(0, 60, 500).astype(np.float32)
    queries = base + draw.standard_normal((4, 256), dtype=np.float32)
    found = build_index("exact", vectors).search(queries, 20)
    ids, scores = sorted_scores(queries, vectors, np.ones(500, dtype=bool), 20)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(found.scores, scores)
    quick = queries @ vectors.T
    assert (
        np.argsort(-quick, axis=1, kind="stable")[:, :20] != ids
    ).any()  # the fast product alone would err


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = make_vectors(300), make_vectors(30, seed=1)
    deny = [np.arange(row, 300, 7) for row in range(30)]
    whole = build_index("exact", vectors).search(queries, 12, deny=deny)
    for block_bytes in (1, 4 * 300 * 7):
        monkeypatch.setattr(exact, "BLOCK_BYTES", block_bytes)
        parts = build_index("exact", vectors).search(queries, 12, deny=deny)
        np.testing.assert_array_equal(parts.ids, whole.ids)
        np.testing.assert_array_equal(parts.scores, whole.scores)


def test_scores_do_not_depend_on_company() -> None:
    vectors, queries = make_vectors(50), make_vectors(4, seed=1)
    whole = score(queries, np.broadcast_to(vectors, (4, 50, 8)))
    for row in range(4):
        for item in range(50):
            assert score(queries[[row]], vectors[None, [item]])[0, 0] == whole[row, item]


def test_masks_of_filters_follow_the_items() -> None:
    index = ExactIndex(make_items(make_vectors(10), pd.DataFrame({"price": range(10)})))
    query = make_vectors(1, seed=1)
    assert (index.search(query, 10, where="price < 3").ids >= 0).sum() == 3
    index.add(np.array([20]), make_vectors(1), pd.DataFrame({"price": [1]}))
    assert sorted(index.search(query, 4, where="price < 3").ids[0]) == [0, 1, 2, 20]
    index.delete(np.array([1]))
    assert sorted(index.search(query, 4, where="price < 3").ids[0]) == [-1, 0, 2, 20]
    for number in range(2 * exact.MASKS):  # more filters than are kept
        assert (index.search(query, 12, where=f"price < {number}").ids >= 0).sum() == sum(
            price < number for price in [0, 1, *range(2, 10)]
        )


def test_ids_in_any_order_and_with_gaps() -> None:
    draw = np.random.default_rng(0)
    vectors, queries = make_vectors(200), make_vectors(5, seed=1)
    ids = draw.choice(10**12, 200, replace=False)
    found = build_index("exact", vectors, ids=ids).search(queries, 9, deny=ids[:20], allow=ids[10:])
    permitted = np.arange(200) >= 20
    check_found(found, best(queries, vectors, ids, 9, permitted))


def test_no_items_at_all() -> None:
    index = build_index("exact", np.zeros((0, 3)))
    assert (
        index.search(np.ones((2, 3)), 2, allow=np.array([1]), deny=np.array([0])).ids.tolist()
        == [[-1, -1]] * 2
    )
    index.add(np.array([4]), np.ones((1, 3)))
    assert index.search(np.ones((1, 3)), 1).ids.tolist() == [[4]]


@pytest.mark.parametrize(
    ("vectors", "more", "words"),
    [
        (np.ones(3), {}, "of shape"),
        (np.ones((3, 0)), {}, "of shape"),
        ([["a"]], {}, "array of numbers"),
        (np.array([[1e300]]), {}, "infinity in row 0"),
        (np.ones((2, 2)), {"ids": [1.5, 2]}, "whole numbers"),
        (np.ones((2, 2)), {"attributes": pd.DataFrame({"a": [1]})}, "1 rows, 2 items"),
    ],
)
def test_bad_items_are_refused(vectors: np.ndarray, more: dict[str, object], words: str) -> None:
    with np.errstate(over="ignore"), pytest.raises(DataError, match=words):
        build_index("exact", vectors, **more)
