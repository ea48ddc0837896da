"""Collisions: bijections, ranks by popularity, least-cost moves, room for new items."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from mmrec.codes import collisions
from mmrec.codes.collisions import append_index, append_popularity, reassign, resolve, resolve_new
from mmrec.codes.table import check_codes
from mmrec.errors import FeatureError


def random_codes(n: int = 60, sizes: tuple[int, ...] = (3, 2, 4), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(size, size=n) for size in sizes], axis=1).astype(np.int32)


def random_costs(n: int = 60, size: int = 4, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((n, size))


def test_index_by_hand() -> None:
    codes = np.array([[1, 0], [0, 0], [1, 0], [1, 1], [1, 0]], dtype=np.int32)
    found, sizes = append_index(codes, (2, 2))
    assert found.tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 1], [1, 1, 0], [1, 0, 2]]
    assert sizes == (2, 2, 4)
    assert append_index(codes, (8, 8))[1] == (8, 8, 8)


def test_popularity_is_a_permutation_that_never_rises() -> None:
    codes, popularity = random_codes(), np.random.default_rng(3).integers(5, size=60)
    found, _ = append_popularity(codes, (3, 2, 4), popularity)
    for prefix in np.unique(codes, axis=0):
        group = (codes == prefix).all(axis=1)
        ranks = found[group, -1]
        assert sorted(ranks) == list(range(group.sum()))
        assert (np.diff(popularity[group][np.argsort(ranks)]) <= 0).all()


@pytest.mark.parametrize("method", ["index", "popularity", "reassign"])
@pytest.mark.parametrize("n", [1, 10, 60, 200])
def test_always_a_bijection_that_starts_with_the_old_codes(method: collisions.Collisions, n: int) -> None:
    codes, costs = random_codes(n), random_costs(n)
    popularity = np.random.default_rng(2).integers(9, size=n)
    for _ in range(2):
        found, sizes = resolve(
            method, codes, (3, 2, 4), popularity=popularity, costs=lambda items: costs[items]
        )
        check_codes(found, sizes, n, source="test")
        kept = 2 if method == "reassign" else 3
        assert (found[:, :kept] == codes[:, :kept]).all()
        again, _ = resolve(method, codes, (3, 2, 4), popularity=popularity, costs=lambda items: costs[items])
        assert (again == found).all()


def test_reassign_leaves_items_alone_that_do_not_collide() -> None:
    for seed in range(20):
        codes, costs = random_codes(14, seed=seed), random_costs(14, seed=seed)
        found, sizes = reassign(codes, (3, 2, 4), lambda items, costs=costs: costs[items])
        alone = collisions.group_sizes(codes) == 1
        assert (found[alone, :3] == codes[alone]).all()
        check_codes(found, sizes, 14, source="test")


def test_reassign_costs_least() -> None:
    codes = np.array([[0, 1], [0, 1], [0, 1], [0, 3], [1, 1]], dtype=np.int32)
    costs = random_costs(5, 5)
    found, sizes = reassign(codes, (2, 5), lambda items: costs[items])
    assert sizes == (2, 5)
    own = costs[[0, 1, 2], found[:3, 1]].sum()
    best = min(costs[[0, 1, 2], list(chosen)].sum() for chosen in permutations([0, 1, 2, 4], 3))
    assert own == pytest.approx(best)
    assert found[3:].tolist() == [[0, 3], [1, 1]]


def test_a_level_is_added_only_where_a_prefix_is_overfull() -> None:
    codes = np.zeros((4, 2), dtype=np.int32)
    costs = np.zeros((4, 4))
    assert reassign(codes, (1, 4), lambda items: costs[items])[0].shape == (4, 2)
    found, sizes = reassign(codes, (1, 3), lambda items: costs[items][:, :3])
    assert found.shape == (4, 3)
    check_codes(found, sizes, 4, source="test")
    assert found[:, 2].max() == 1


def test_very_many_equal_items_are_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collisions, "MOST_ASSIGNED", 10)
    codes = np.zeros((50, 2), dtype=np.int32)
    found, sizes = reassign(codes, (1, 3), lambda items: np.zeros((len(items), 3)))
    check_codes(found, sizes, 50, source="test")


@pytest.mark.parametrize("method", ["index", "popularity", "reassign"])
def test_new_items_get_codes_that_nobody_has(method: collisions.Collisions) -> None:
    codes, costs = random_codes(12, (3, 2, 16)), random_costs(12, 16)
    table, sizes = resolve(
        method, codes, (3, 2, 16), popularity=np.zeros(12, dtype=np.int64), costs=lambda items: costs[items]
    )
    new = np.concatenate([codes[:5], codes[:5]])
    more = np.concatenate([costs[:5], costs[:5]])
    found = resolve_new(method, new, table, sizes, lambda items: more[items])
    check_codes(np.concatenate([table, found]), sizes, 22, source="test")
    assert (found[:, :2] == new[:, :2]).all()


def test_a_new_item_keeps_its_code_where_it_is_free_and_else_takes_the_nearest() -> None:
    table = np.array([[0, 1], [0, 2]], dtype=np.int32)
    costs = np.array([[0.1, 0.0, 0.2, 0.3], [0.9, 0.8, 0.1, 0.2]])
    new = np.array([[0, 1], [0, 3]], dtype=np.int32)
    found = resolve_new("reassign", new, table, (1, 4), lambda items: costs[items])
    assert found.tolist() == [[0, 0], [0, 3]]


def test_no_room_is_an_error() -> None:
    table = np.array([[0, 0], [0, 1]], dtype=np.int32)
    with pytest.raises(FeatureError, match="all taken"):
        resolve_new("reassign", table[:1], table, (1, 2), lambda items: np.zeros((1, 2)))
