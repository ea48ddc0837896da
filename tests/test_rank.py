from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from mmrec.data.histories import Histories, Ids
from mmrec.errors import NotFittedError
from mmrec.rank import GROUP, rank, top_items

INF = float("inf")


def stable_sort(scores: Tensor, k: int) -> Tensor:
    """Columns by score descending, then by column, one row after the other in plain Python."""
    rows = scores.tolist()
    return torch.tensor([sorted(range(len(row)), key=lambda c, row=row: (-row[c], c))[:k] for row in rows])


def check(scores: Tensor, k: int) -> None:
    before = scores.clone()
    columns, values = top_items(scores, k)
    k = min(k, scores.shape[1])
    assert columns.shape == values.shape == (len(scores), k)
    assert torch.equal(columns, stable_sort(scores, k))
    assert torch.equal(values, scores.gather(1, columns))
    assert torch.equal(scores, before)


# Wide enough for the pass over groups with k = 1 and 3, with and without a remainder, and too narrow for it.
WIDTHS = (1, 5, GROUP, 200, 3 * GROUP * 4, 3 * GROUP * 4 + 17, 1000)


class TestTopItems:
    @pytest.mark.parametrize("n", WIDTHS)
    @pytest.mark.parametrize("k", [1, 2, 3, 10, 2000])
    def test_random(self, n: int, k: int) -> None:
        check(torch.from_numpy(np.random.default_rng(n).normal(size=(7, n)).astype(np.float32)), k)

    @pytest.mark.parametrize("n", WIDTHS)
    @pytest.mark.parametrize("k", [1, 3, 10, 2000])
    @pytest.mark.parametrize("levels", [1, 2, 5, 50])
    def test_heavy_ties(self, n: int, k: int, levels: int) -> None:
        rng = np.random.default_rng(n + levels)
        check(torch.from_numpy(rng.integers(-levels, levels, size=(9, n)).astype(np.float32) / 7), k)

    @pytest.mark.parametrize("n", WIDTHS)
    @pytest.mark.parametrize("k", [1, 3, 10])
    def test_rows_of_infinities(self, n: int, k: int) -> None:
        rng = np.random.default_rng(n)
        scores = torch.from_numpy(rng.normal(size=(6, n)).astype(np.float32))
        scores[0] = -INF
        scores[1, rng.random(n) < 0.9] = -INF
        scores[2, n // 2 :] = -INF
        scores[3, : n // 2] = -INF
        scores[4, rng.random(n) < 0.1] = INF
        scores[5] = INF
        check(scores, k)

    @pytest.mark.parametrize("n", [6, 500])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_minus_zero_ties_with_zero(self, n: int, dtype: torch.dtype) -> None:
        scores = torch.full((2, n), -1.0, dtype=dtype)
        scores[0, 1], scores[0, 3], scores[0, 5] = -0.0, 0.0, -0.0
        scores[1, 2], scores[1, 4] = 0.0, -0.0
        columns, _ = top_items(scores, 4)
        assert columns.tolist() == [[1, 3, 5, 0], [2, 4, 0, 1]]

    @pytest.mark.parametrize("n", [40, 700])
    def test_neighbouring_floats_are_told_apart(self, n: int) -> None:
        # A tie at the border sends the row through the integer keys, which must keep every last bit.
        scores = torch.full((4, n), 0.0)
        for row, value in enumerate((1.0, -1.0, 1e-45, 3e38)):
            middle = torch.tensor(value)
            scores[row] = torch.nextafter(middle, torch.tensor(-INF))
            scores[row, n - 1] = torch.nextafter(middle, torch.tensor(INF))
            scores[row, n - 2] = middle
        check(scores, 4)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
    def test_other_types(self, dtype: torch.dtype) -> None:
        scores = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 700))).to(dtype)
        check(scores, 3)
        ranking = rank(table_score(scores), np.arange(5), 700, 3)
        assert np.array_equal(ranking.items, stable_sort(scores, 3).numpy())
        assert ranking.scores.dtype == np.float32

    def test_double_scores_closer_than_single_precision(self) -> None:
        scores = torch.zeros(2, 8, dtype=torch.float64)
        scores[:, 5], scores[:, 6] = 1 + 1e-12, 1 + 2e-12
        scores[1, 2] = 1 + 2e-12  # ties with column 6
        check(scores, 3)

    def test_transposed_memory(self) -> None:
        rng = np.random.default_rng(1)
        check(torch.from_numpy(rng.integers(0, 4, size=(500, 5)).astype(np.float32)).T, 3)

    @given(
        arrays(np.int8, st.tuples(st.integers(1, 4), st.integers(1, 230)), elements=st.integers(-2, 2)),
        st.integers(1, 6),
    )
    @settings(max_examples=150, deadline=None)
    def test_small_integers(self, scores: np.ndarray, k: int) -> None:
        check(torch.from_numpy(scores.astype(np.float32)), k)

    @given(arrays(np.float32, (3, 400), elements=st.floats(width=32, allow_nan=False)), st.integers(1, 3))
    @settings(max_examples=60, deadline=None)
    def test_any_floats(self, scores: np.ndarray, k: int) -> None:
        check(torch.from_numpy(scores), k)

    @pytest.mark.parametrize("n", [6, 97, 1000])
    @pytest.mark.parametrize("column", [0, -1])
    def test_nan_is_an_error(self, n: int, column: int) -> None:
        scores = torch.zeros(3, n)
        scores[1, column] = torch.nan
        with pytest.raises(NotFittedError, match="NaN"):
            top_items(scores, 2)

    def test_no_rows(self) -> None:
        columns, values = top_items(torch.zeros(0, 9), 3)
        assert columns.shape == values.shape == (0, 3)


def table_score(table: Tensor) -> Callable[[Ids], Tensor]:
    """Scores looked up in a table; each block is a copy that may be overwritten."""
    return lambda ids: table[torch.from_numpy(ids)]


def brute_force(
    table: Tensor,
    users: Ids,
    k: int,
    exclude: Histories | None,
    allow: Ids | None,
    deny: Ids | None,
) -> list[list[int]]:
    lists = []
    for user in users.tolist():
        permitted = set(range(table.shape[1])) if allow is None else set(allow.tolist())
        permitted -= set() if deny is None else set(deny.tolist())
        permitted -= set() if exclude is None else set(exclude[user].tolist())
        best = sorted(permitted, key=lambda item, user=user: (-table[user, item].item(), item))[:k]
        lists.append(best + [-1] * (min(k, table.shape[1]) - len(best)))
    return lists


N_USERS, N_ITEMS = 12, 15


def random_case(seed: int) -> tuple[Tensor, Histories]:
    rng = np.random.default_rng(seed)
    table = torch.from_numpy(rng.integers(0, 6, size=(N_USERS, N_ITEMS)).astype(np.float32))
    likes = np.argwhere(rng.random((N_USERS, N_ITEMS)) < rng.random((N_USERS, 1)))
    return table, Histories.from_pairs(likes[:, 0], likes[:, 1], N_USERS)


@given(
    st.integers(0, 30),
    st.integers(1, 20),
    st.booleans(),
    st.none() | st.sets(st.integers(0, N_ITEMS - 1)),
    st.none() | st.sets(st.integers(0, N_ITEMS - 1)),
    st.lists(st.integers(0, N_USERS - 1)),
    st.integers(1, 5),
)
@settings(max_examples=120, deadline=None)
def test_rank_equals_brute_force(
    seed: int,
    k: int,
    masked: bool,
    allow: set[int] | None,
    deny: set[int] | None,
    users: list[int],
    rows: int,
) -> None:
    table, seen = random_case(seed)
    exclude = seen if masked else None
    sides = [None if side is None else np.array(sorted(side), dtype=np.int64) for side in (allow, deny)]
    ids = np.array(users, dtype=np.int64)
    ranking = rank(
        table_score(table),
        ids,
        N_ITEMS,
        k,
        exclude=exclude,
        allow=sides[0],
        deny=sides[1],
        block_bytes=4 * N_ITEMS * rows,
    )
    expected = brute_force(table, ids, k, exclude, *sides)
    assert ranking.items.tolist() == expected
    assert ranking.items.dtype == np.int64
    for user, items, values in zip(users, ranking.items, ranking.scores, strict=True):
        wanted = [table[user, item].item() if item >= 0 else -INF for item in items]
        assert values.tolist() == wanted


def test_blocks_do_not_change_a_thing() -> None:
    rng = np.random.default_rng(3)
    table = torch.from_numpy(rng.integers(0, 40, size=(57, 700)).astype(np.float32))
    likes = np.argwhere(rng.random((57, 700)) < 0.05)
    exclude = Histories.from_pairs(likes[:, 0], likes[:, 1], 57)
    users = rng.permutation(57)
    whole = rank(table_score(table), users, 700, 10, exclude=exclude)
    sizes = []
    for block_bytes in (1, 4 * 700 * 2, 4 * 700 * 19, 4 * 700 * 56):

        def counted(ids: Ids) -> Tensor:
            sizes.append(len(ids))
            return table_score(table)(ids)

        blocked = rank(counted, users, 700, 10, exclude=exclude, block_bytes=block_bytes)
        assert np.array_equal(blocked.items, whole.items)
        assert np.array_equal(blocked.scores, whole.scores)
    assert set(sizes) == {1, 2, 19, 56}


def test_the_block_of_scores_may_be_one_buffer() -> None:
    table, seen = random_case(1)
    buffer = torch.empty(3, N_ITEMS)

    def reused(ids: Ids) -> Tensor:
        return torch.index_select(table, 0, torch.from_numpy(ids), out=buffer)

    users = np.arange(N_USERS)
    ranking = rank(reused, users, N_ITEMS, 4, exclude=seen, block_bytes=4 * N_ITEMS * 3)
    assert np.array_equal(ranking.items, rank(table_score(table), users, N_ITEMS, 4, exclude=seen).items)


class TestProtocol:
    """The evaluator's properties (00-protocol, section 9) as far as they concern lists."""

    users = np.arange(N_USERS)

    def test_a_training_item_never_appears_whatever_its_score(self) -> None:
        table, seen = random_case(2)
        table[torch.from_numpy(seen.users), torch.from_numpy(seen.items)] = INF
        ranking = rank(table_score(table), self.users, N_ITEMS, N_ITEMS, exclude=seen)
        for user in self.users:
            listed = ranking.items[user][ranking.items[user] >= 0]
            assert not set(listed.tolist()) & set(seen[user].tolist())
            assert len(listed) == N_ITEMS - len(seen[user])

    def test_another_item_with_the_highest_score_comes_first(self) -> None:
        table, seen = random_case(2)
        heldout = [next((i for i in range(N_ITEMS) if i not in seen[u]), None) for u in range(N_USERS)]
        for user, item in enumerate(heldout):
            if item is not None:
                table[user, item] = INF
        ranking = rank(table_score(table), self.users, N_ITEMS, 1, exclude=seen)
        assert ranking.items[:, 0].tolist() == [-1 if item is None else item for item in heldout]

    def test_nan_of_a_training_item_is_masked_but_any_other_is_an_error(self) -> None:
        table, _ = random_case(2)
        seen = Histories.from_pairs(self.users, np.full(N_USERS, 4), N_USERS)
        table[:, 4] = torch.nan
        assert 4 not in rank(table_score(table), self.users, N_ITEMS, 5, exclude=seen).items
        with pytest.raises(NotFittedError, match="NaN"):
            rank(table_score(table), self.users, N_ITEMS, 5)

    def test_shift_and_positive_scale_per_user_change_no_list(self) -> None:
        table, seen = random_case(4)
        shift = torch.arange(N_USERS)[:, None] * 8.0
        scale = 2.0 ** torch.arange(N_USERS)[:, None]
        before = rank(table_score(table), self.users, N_ITEMS, 6, exclude=seen)
        after = rank(table_score(table * scale + shift), self.users, N_ITEMS, 6, exclude=seen)
        assert np.array_equal(before.items, after.items)

    def test_renaming_items_renames_lists_only(self) -> None:
        rng = np.random.default_rng(0)
        table = torch.from_numpy(rng.permutation(N_USERS * N_ITEMS).reshape(N_USERS, N_ITEMS)).float()
        _, seen = random_case(4)
        names = rng.permutation(N_ITEMS)
        renamed_table = torch.empty_like(table)
        renamed_table[:, torch.from_numpy(names)] = table
        renamed_seen = Histories(seen.offsets, names[seen.items])
        before = rank(table_score(table), self.users, N_ITEMS, 5, exclude=seen).items
        after = rank(table_score(renamed_table), self.users, N_ITEMS, 5, exclude=renamed_seen).items
        assert np.array_equal(np.where(before >= 0, names[before], -1), after)

    def test_fewer_items_than_asked_for_leave_empty_places(self) -> None:
        seen = Histories.from_pairs(np.zeros(4, dtype=np.int64), np.array([0, 1, 2, 4]), 2)
        ranking = rank(lambda ids: torch.zeros(len(ids), 5), np.array([0, 1]), 5, 3, exclude=seen)
        assert ranking.items.tolist() == [[3, -1, -1], [0, 1, 2]]
        assert ranking.scores.tolist() == [[0, -INF, -INF], [0, 0, 0]]


@pytest.mark.gpu
def test_cuda_lists_equal_the_cpu_ones() -> None:
    rng = np.random.default_rng(5)
    table = torch.from_numpy(rng.integers(0, 9, size=(40, 3000)).astype(np.float32))
    likes = np.argwhere(rng.random((40, 3000)) < 0.02)
    exclude = Histories.from_pairs(likes[:, 0], likes[:, 1], 40)
    users, deny = np.arange(40), np.arange(0, 3000, 7)
    on_cpu = rank(table_score(table), users, 3000, 20, exclude=exclude, deny=deny)
    table = table.cuda()
    on_cuda = rank(
        lambda ids: table[torch.from_numpy(ids).cuda()], users, 3000, 20, exclude=exclude, deny=deny
    )
    assert np.array_equal(on_cpu.items, on_cuda.items)
