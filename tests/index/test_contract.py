"""What every index does, tried on each of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mmrec.errors import ConfigError, DataError
from mmrec.index import Index, load_index, measure_recall
from tests.index.backends import (
    BACKENDS,
    DIM,
    Backend,
    N,
    best,
    check_found,
    make_attributes,
    make_vectors,
    permitted_by,
)

VECTORS, ATTRIBUTES, QUERIES = make_vectors(), make_attributes(), make_vectors(12, seed=1)
IDS = np.arange(N)
ALL = np.ones(N, dtype=bool)
OURS = ("exact", "faiss", "lancedb")  # whose scores are computed by mmrec


@pytest.fixture(scope="module", params=BACKENDS, ids=str)
def backend(request: pytest.FixtureRequest) -> Backend:
    chosen: Backend = request.param
    chosen.require()
    return chosen


@pytest.fixture(scope="module")
def index(backend: Backend) -> Iterator[Index]:
    """All items; tests leave it as it is."""
    yield backend.build(VECTORS, ATTRIBUTES)


def test_best_items_in_order(backend: Backend, index: Index) -> None:
    assert (len(index), index.dim, index.backend) == (N, DIM, backend.name)
    assert index.kinds == {
        "price": "number", "category": "string", "in_stock": "boolean", "colours": "strings",
        "Main Category": "string",
    }  # fmt: skip
    found = index.search(QUERIES, 10)
    check_found(found, best(QUERIES, VECTORS, IDS, 10, ALL), backend.recall)
    for query, ids, scores in zip(QUERIES, found.ids, found.scores, strict=True):
        np.testing.assert_allclose(scores, VECTORS[ids] @ query, rtol=1e-5, atol=1e-6)


def test_a_batch_is_its_queries_one_by_one(index: Index) -> None:
    whole = index.search(QUERIES, 10, where="price > 100")
    for row, query in enumerate(QUERIES):
        alone = index.search(query[None], 10, where="price > 100")
        np.testing.assert_array_equal(alone.ids[0], whole.ids[row])
        # a server may add up a batch in another order than a single query
        np.testing.assert_allclose(
            alone.scores[0], whole.scores[row], rtol=0 if index.backend in OURS else 1e-6
        )
    assert index.search(QUERIES[:0], 3).ids.shape == (0, 3)


@pytest.mark.parametrize(
    "where",
    [
        "price < 50 and category in ['toys', 'games'] and in_stock",
        "not (price < 300) and not in_stock",
        "category == 'it\\'s \"x\" or 1=1 --\\\\'",
        "category not in ['toys'] and 'red' not in colours",
        "'red' in colours and `Main Category` == 'group 5'",
        "colours is null and category is not null and price > 580",  # a handful of all items
        "price == 7 or price == 8",
        "price > 1e6",  # nothing
        "price < 1e6 or price is null",  # everything
    ],
)
def test_filters_give_full_lists_of_what_matches(backend: Backend, index: Index, where: str) -> None:
    permitted = permitted_by(where, ATTRIBUTES)
    expected = best(QUERIES, VECTORS, IDS, 10, permitted)
    found = index.search(QUERIES, 10, where=where)
    check_found(found, expected, backend.recall * 0.8 if backend.recall < 1 else 1.0)
    assert permitted[found.ids[found.ids >= 0]].all()


def test_order_of_strings(backend: Backend, index: Index) -> None:
    where = "category >= 'games' and `Main Category` < 'group 2'"
    if backend.name == "qdrant":
        with pytest.raises(ConfigError, match="Qdrant cannot order strings"):
            index.search(QUERIES, 10, where=where)
        return
    expected = best(QUERIES, VECTORS, IDS, 200, permitted_by(where, ATTRIBUTES))
    check_found(index.search(QUERIES, 200, where=where), expected)


def test_allow_and_deny(backend: Backend, index: Index) -> None:
    draw = np.random.default_rng(2)
    allow = draw.choice(N, 400, replace=False)
    shared = draw.choice(N, 50)
    own = [draw.choice(N, size) for size in range(0, 12 * 20, 20)]
    low = 0.9 * backend.recall if backend.recall < 1 else 1.0

    permitted = np.isin(IDS, allow) & ~np.isin(IDS, shared)
    found = index.search(QUERIES, 10, allow=np.append(allow, [N + 5, -3]), deny=np.append(shared, N + 9))
    check_found(found, best(QUERIES, VECTORS, IDS, 10, permitted), low)
    assert permitted[found.ids].all()

    in_stock = permitted_by("in_stock", ATTRIBUTES)
    found = index.search(QUERIES, 10, where="in_stock", allow=allow, deny=own)
    for row, denied in enumerate(own):
        permitted = in_stock & np.isin(IDS, allow) & ~np.isin(IDS, denied)
        expected = best(QUERIES[[row]], VECTORS, IDS, 10, permitted)
        check_found(
            type(found)(found.ids[[row]], found.scores[[row]]), expected, 0.5 * low if low < 1 else 1.0
        )
        assert permitted[found.ids[row]].all()


def test_few_permitted_items_are_all_found(index: Index) -> None:
    found = index.search(QUERIES, 5, allow=np.array([7, 599, 300]), deny=[np.array([300])] * 12)
    assert np.sort(found.ids, axis=1).tolist() == [[-1, -1, -1, 7, 599]] * 12
    assert (index.search(QUERIES, 3, allow=np.zeros(0, dtype=np.int64)).ids == -1).all()
    assert (index.search(QUERIES, 3, deny=IDS).ids == -1).all()


def test_k_beyond_the_number_of_items(index: Index) -> None:
    found = index.search(QUERIES[:2], N + 20)
    check_found(found, best(QUERIES[:2], VECTORS, IDS, N + 20, ALL))


def test_add_replace_delete_and_read(backend: Backend) -> None:
    ids = 3 * np.arange(300)  # with gaps
    index = backend.build(VECTORS[:300], ATTRIBUTES.iloc[:300], ids)
    index.recall = {"recall": 1.0}
    # 0..59 get new vectors and attributes, 1, 4, … are new, in no order
    new = np.concatenate([ids[:60], ids[:60] + 1])[::-1]
    index.add(new, VECTORS[300:420], ATTRIBUTES.iloc[300:420])
    gone = np.concatenate([ids[40:80], [10_000, 2]])
    index.delete(gone)
    assert index.recall is None
    vectors = {**dict(zip(ids, range(300), strict=True)), **dict(zip(new, range(300, 420), strict=True))}
    left = np.array(sorted(set(vectors) - set(gone.tolist())))
    rows = np.array([vectors[item] for item in left])
    assert len(index) == len(left)
    for where in ("price >= 0 or price is null", "price >= 300"):
        permitted = permitted_by(where, ATTRIBUTES.iloc[rows].reset_index(drop=True))
        expected = best(QUERIES, VECTORS[rows], left, 10, permitted)
        low = 0.9 * backend.recall if backend.recall < 1 else 1.0
        check_found(index.search(QUERIES, 10, where=where), expected, low)
    items = index.read()
    np.testing.assert_array_equal(items.ids, left)
    np.testing.assert_array_equal(items.vectors, VECTORS[rows])
    expected_cells = ATTRIBUTES["category"].iloc[rows].to_list()
    assert items.attributes.columns["category"].to_list() == [
        None if pd.isna(cell) else cell for cell in expected_cells
    ]
    index.delete(left)
    assert len(index) == 0
    assert (index.search(QUERIES, 2).ids == -1).all()


def test_save_and_load(backend: Backend, index: Index, tmp_path: Path) -> None:
    recall = measure_recall(index, QUERIES, 10, n_queries=8, seed=3)
    assert recall >= backend.recall
    index.save(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pkl", ".pickle", ".sqlite")]
    again = load_index(tmp_path)
    assert type(again) is type(index)
    assert again.kinds == index.kinds
    assert again.recall == {"k": 10, "recall": recall, "n_queries": 8, "seed": 3}
    low = 1.0 if backend.recall == 1 or backend.name == "faiss" else 0.9 * backend.recall
    check_found(again.search(QUERIES, 10), index.search(QUERIES, 10).ids, low)
    check_found(
        again.search(QUERIES, 10, where="in_stock"), index.search(QUERIES, 10, where="in_stock").ids, low
    )
    again.add(np.array([5000]), VECTORS[:1] * 9, ATTRIBUTES.iloc[:1])
    assert again.search(VECTORS[:1], 1).ids.tolist() == [[5000]]
    assert len(load_index(tmp_path)) == N  # what was saved stays as it was
    again.save(tmp_path)
    assert load_index(tmp_path).search(VECTORS[:1], 1).ids.tolist() == [[5000]]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def test_items_without_attributes(backend: Backend, tmp_path: Path) -> None:
    index = backend.build(VECTORS)
    index.add(np.array([N]), VECTORS[:1])
    with pytest.raises(ConfigError, match="there are no attributes"):
        index.search(QUERIES, 1, where="price < 5")
    index.save(tmp_path)
    assert len(load_index(tmp_path)) == N + 1


NAN = np.full((1, DIM), np.nan, dtype=np.float32)
BAD_ADDS: dict[str, tuple[list[int], Any, Any, str]] = {
    "wrong dimension": ([1], np.ones((1, DIM + 1)), ATTRIBUTES.iloc[:1], r"shape \(n, 8\)"),
    "NaN": ([1], NAN, ATTRIBUTES.iloc[:1], "NaN or infinity in row 0"),
    "an id twice": ([4, 4], np.ones((2, DIM)), ATTRIBUTES.iloc[:2], "4 twice"),
    "fewer ids": ([4], np.ones((2, DIM)), ATTRIBUTES.iloc[:2], "1 ids, 2 vectors"),
    "a negative id": ([-1], np.ones((1, DIM)), ATTRIBUTES.iloc[:1], "from 0"),
    "no attributes": ([4], np.ones((1, DIM)), None, "absent: price"),
    "another kind": ([4], np.ones((1, DIM)), ATTRIBUTES.iloc[:1].assign(price=["x"]), r"price \(string\)"),
    "an unknown attribute": (
        [4],
        np.ones((1, DIM)),
        ATTRIBUTES.iloc[:1].assign(size=[1]),
        r"size \(number\)",
    ),
}


@pytest.mark.parametrize("case", BAD_ADDS)
def test_bad_items_are_refused_and_nothing_changes(index: Index, case: str) -> None:
    ids, vectors, attributes, words = BAD_ADDS[case]
    with pytest.raises(DataError, match=words):
        index.add(np.array(ids), vectors, attributes)
    assert len(index) == N


def test_bad_searches_are_refused(index: Index) -> None:
    for k in (0, -1, True, 1.5):
        with pytest.raises(ConfigError, match="k >= 1"):
            index.search(QUERIES, k)  # type: ignore[arg-type]
    for queries in (QUERIES[:, :-1], QUERIES[0], NAN, "text"):
        with pytest.raises(DataError, match="queries"):
            index.search(queries, 1)  # type: ignore[arg-type]
    for deny in ([IDS] * 3, np.array([0.5]), np.array([[1]])):
        with pytest.raises(DataError, match="deny"):
            index.search(QUERIES, 1, deny=deny)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="did you mean 'price'"):
        index.search(QUERIES, 1, where="prize < 5")
