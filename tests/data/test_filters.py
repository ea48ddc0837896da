import numpy as np
import pytest

from mmrec.data.filters import compact, count_label_conflicts, k_core, keep_one_of_each


def test_keep_first_or_last_of_each_pair() -> None:
    users, items = np.array([0, 1, 0, 0, 1]), np.array([2, 2, 2, 1, 2])
    assert keep_one_of_each(users, items, 3, "first").tolist() == [True, True, False, True, False]
    assert keep_one_of_each(users, items, 3, "last").tolist() == [False, False, True, True, True]


def test_label_conflicts_are_counted_by_pair() -> None:
    users, items = np.array([0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 0])
    labels = np.array([0, 2, 1, 1, 0], dtype=np.int8)
    assert count_label_conflicts(users, items, 2, labels) == 1


def test_core_by_hand() -> None:
    # user 2 has one interaction; without it item 1 has one; without that user 1 has one; without that item 0 has one
    users, items = np.array([0, 0, 1, 1, 2]), np.array([2, 3, 0, 1, 1])
    assert not k_core(users, items, 2, 2).any()
    square_users, square_items = np.array([0, 0, 1, 1, 2, 0]), np.array([0, 1, 0, 1, 1, 2])
    assert k_core(square_users, square_items, 2, 2).tolist() == [True, True, True, True, False, False]
    assert k_core(square_users, square_items, 2, 0).tolist() == [True, True, True, True, False, True]
    assert k_core(square_users, square_items, 0, 2).tolist() == [True, True, True, True, True, False]


def brute_force_core(pairs: list[tuple[int, int]], k: int) -> set[tuple[int, int]]:
    left = set(pairs)
    while True:
        users = [u for u, _ in left]
        items = [i for _, i in left]
        weak = {(u, i) for u, i in left if users.count(u) < k or items.count(i) < k}
        if not weak:
            return left
        left -= {next(iter(weak))}


@pytest.mark.parametrize("seed", range(8))
def test_core_is_the_one_of_brute_force(seed: int) -> None:
    generator = np.random.default_rng(seed)
    pairs = sorted(set(map(tuple, generator.integers(0, 9, size=(40, 2)).tolist())))
    users, items = np.array(pairs).T
    keep = k_core(users, items, 3, 3)
    assert {pair for pair, kept in zip(pairs, keep, strict=True) if kept} == brute_force_core(pairs, 3)


def test_compact_keeps_the_order() -> None:
    new, old = compact(np.array([4, 1, 4]), np.array([False, True, False, False, True]))
    assert new.tolist() == [1, 0, 1] and old.tolist() == [1, 4]
