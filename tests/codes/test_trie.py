"""The trie against a dictionary of prefixes, and beam search against the scores of every item."""

from __future__ import annotations

from typing import Self

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec.beam import beam_search, generate, log_likelihood
from mmrec.codes.table import CodeTable
from mmrec.codes.trie import Trie

SIZES = (4, 5, 3)


def random_table(n_items: int = 30, seed: int = 0, sizes: tuple[int, ...] = SIZES) -> CodeTable:
    places = np.random.default_rng(seed).permutation(int(np.prod(sizes)))[:n_items]
    codes = np.stack(np.unravel_index(places, sizes), 1).astype(np.int32)
    return CodeTable("random", codes, sizes)


class Hashed:
    """Logits that depend on the user and on all codes spelt so far, from a table of random numbers."""

    def __init__(self, n_users: int, sizes: tuple[int, ...] = SIZES, users: Tensor | None = None) -> None:
        self.sizes, self.n_users = sizes, n_users
        self.users = torch.arange(n_users) if users is None else users
        self.noise = torch.randn(10_007, max(sizes), generator=torch.Generator().manual_seed(1))

    def start(self) -> Tensor:
        self.key = self.users[:, None] * 31 + 7
        return self.noise[self.key % 10_007, : self.sizes[0]]

    def step(self, level: int, parents: Tensor, codes: Tensor) -> Tensor:
        self.key = self.key.gather(1, parents) * 131 + codes + 1
        return self.noise[self.key % 10_007, : self.sizes[level]]

    def select(self, users: Tensor) -> Self:
        return type(self)(len(users), self.sizes, self.users[users])


def exact_scores(
    table: CodeTable, n_users: int, *, among_children: bool = False, sizes: tuple[int, ...] = SIZES
) -> Tensor:
    """Scores ``(n_users, n_items)``, item by item and code by code."""
    scores = torch.zeros(n_users, table.n_items)
    rows = [tuple(row) for row in table.codes.tolist()]
    for user in range(n_users):
        for item, row in enumerate(rows):
            speller = Hashed(1, sizes, torch.tensor([user]))
            logits = speller.start()[0, 0]
            for level, code in enumerate(row):
                own = torch.arange(sizes[level])
                if among_children:
                    own = torch.tensor(
                        sorted({other[level] for other in rows if other[:level] == row[:level]})
                    )
                scores[user, item] += logits[code] - logits[own].logsumexp(0)
                if level + 1 < len(row):
                    logits = speller.step(level + 1, torch.tensor([[0]]), torch.tensor([[code]]))[0, 0]
    return scores


def naive_beams(table: CodeTable, user: int, width: int, *, among_children: bool) -> list[tuple[int, float]]:
    """Beam search of one user with lists and no trie: items and scores, best first."""
    rows = [tuple(row) for row in table.codes.tolist()]
    beams: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    for level, size in enumerate(table.sizes):
        longer = []
        for prefix, score in beams:
            speller = Hashed(1, table.sizes, torch.tensor([user]))
            logits = speller.start()[0, 0]
            for depth, code in enumerate(prefix):
                logits = speller.step(depth + 1, torch.tensor([[0]]), torch.tensor([[code]]))[0, 0]
            children = sorted({row[level] for row in rows if row[:level] == prefix})
            own = torch.tensor(children if among_children else range(size))
            longer += [
                ((*prefix, code), score + float(logits[code] - logits[own].logsumexp(0))) for code in children
            ]
        beams = sorted(longer, key=lambda beam: -beam[1])[:width]
    return [(rows.index(prefix), score) for prefix, score in beams]


class TestTrie:
    def test_following_are_the_codes_that_a_dictionary_of_prefixes_holds(self) -> None:
        table = random_table()
        trie, rows = Trie(table), [tuple(row) for row in table.codes.tolist()]
        for depth in range(3):
            for item, row in enumerate(rows):
                wanted = sorted({other[depth] for other in rows if other[:depth] == row[:depth]})
                found = trie.following(depth, trie.paths[item, depth])
                assert found.codes[found.exist].tolist() == wanted
                child = wanted.index(row[depth])
                assert found.nodes[child] == trie.paths[item, depth + 1]

    def test_every_leaf_is_its_item(self) -> None:
        table = random_table()
        trie = Trie(table)
        assert sorted(trie.items.tolist()) == list(range(30))
        assert torch.equal(trie.items[trie.paths[:, -1]], torch.arange(30))
        assert trie.n_nodes[0] == 1
        assert trie.n_nodes[-1] == 30

    def test_the_order_of_the_items_changes_nothing_but_their_numbers(self) -> None:
        table, order = random_table(), np.random.default_rng(3).permutation(30)
        shuffled = CodeTable("shuffled", table.codes[order], SIZES)
        one, two = Trie(table), Trie(shuffled)
        assert torch.equal(one.items, torch.from_numpy(order)[two.items])

    def test_a_single_item(self) -> None:
        trie = Trie(CodeTable("one", np.array([[3, 0, 2]], dtype=np.int32), SIZES))
        found = beam_search(Hashed(2), trie, 5)
        assert found.items.tolist() == [[0], [0]]

    def test_alive_are_the_prefixes_of_permitted_items(self) -> None:
        table = random_table()
        trie, permitted = Trie(table), torch.arange(30) % 7 == 3
        alive = trie.alive(permitted)
        for depth in range(1, 4):
            wanted = set(trie.paths[permitted, depth].tolist())
            assert set(alive[depth - 1].nonzero().squeeze(1).tolist()) == wanted


class TestBeamSearch:
    @pytest.mark.parametrize("among_children", [False, True])
    def test_as_many_beams_as_items_give_the_exact_ranking(self, among_children: bool) -> None:
        table = random_table()
        exact = exact_scores(table, 6, among_children=among_children)
        found = beam_search(Hashed(6), Trie(table), 30, among_children=among_children)
        values, items = exact.sort(dim=1, descending=True)
        assert torch.allclose(found.scores, values, atol=1e-5)
        assert torch.equal(found.items, items)

    @pytest.mark.parametrize("width", [1, 2, 5, 29, 100])
    def test_beams_are_items_without_repeats_best_first_with_their_own_scores(self, width: int) -> None:
        table = random_table()
        exact, found = exact_scores(table, 6), beam_search(Hashed(6), Trie(table), width)
        assert found.items.shape[1] == min(width, 30) or (found.items[:, 30:] == -1).all()
        for user in range(6):
            items = found.items[user][found.items[user] >= 0]
            assert len(set(items.tolist())) == len(items) == min(width, 30)
            assert torch.allclose(found.scores[user][: len(items)], exact[user][items], atol=1e-5)
        assert (found.scores[:, 1:] <= found.scores[:, :-1]).all()

    @pytest.mark.parametrize("among_children", [False, True])
    @pytest.mark.parametrize("width", [1, 3, 7])
    @pytest.mark.parametrize(
        ("n_items", "sizes"), [(30, SIZES), (12, (4, 5, 3, 2)), (4, (6, 1, 3)), (5, (9,))]
    )
    def test_the_beams_are_those_of_a_search_without_a_trie(
        self, n_items: int, sizes: tuple[int, ...], width: int, among_children: bool
    ) -> None:
        table = random_table(n_items, sizes=sizes)
        found = beam_search(Hashed(6, sizes), Trie(table), width, among_children=among_children)
        for user in range(6):
            items, scores = zip(*naive_beams(table, user, width, among_children=among_children), strict=True)
            there = found.items[user] >= 0
            assert found.items[user][there].tolist() == list(items)
            assert torch.allclose(found.scores[user][there], torch.tensor(scores), atol=1e-5)

    @pytest.mark.parametrize("among_children", [False, True])
    def test_no_users_get_no_beams(self, among_children: bool) -> None:
        found = beam_search(Hashed(0), Trie(random_table()), 5, among_children=among_children)
        assert found.items.shape == (0, 5)

    def test_a_prefix_that_only_one_item_has_is_not_asked_about(self) -> None:
        asked: dict[int, int] = {}

        class Counted(Hashed):
            def step(self, level: int, parents: Tensor, codes: Tensor) -> Tensor:
                asked[level] = codes.shape[1]
                return super().step(level, parents, codes)

        rows = [(0, 0, 0, 0), (1, 0, 0, 0), (1, 1, 0, 0), (1, 1, 2, 1), (2, 0, 0, 0)]
        trie = Trie(CodeTable("few", np.array(rows, dtype=np.int32), (3, 2, 3, 2)))
        beam_search(Counted(2, (3, 2, 3, 2)), trie, 5)
        assert asked == {1: 3, 2: 5, 3: 5}
        asked.clear()
        beam_search(Counted(2, (3, 2, 3, 2)), trie, 5, among_children=True)
        assert asked == {1: 1, 2: 1}

    def test_one_beam_is_the_greedy_walk(self) -> None:
        table = random_table()
        rows = [tuple(row) for row in table.codes.tolist()]
        found = beam_search(Hashed(6), Trie(table), 1)
        for user in range(6):
            speller, prefix = Hashed(1, users=torch.tensor([user])), ()
            logits = speller.start()[0, 0]
            for level in range(3):
                possible = {row[level] for row in rows if row[:level] == prefix}
                code = max(possible, key=lambda c, logits=logits: float(logits[c]))  # type: ignore[misc]
                prefix = (*prefix, code)
                if level < 2:
                    logits = speller.step(level + 1, torch.tensor([[0]]), torch.tensor([[code]]))[0, 0]
            assert rows[int(found.items[user, 0])] == prefix

    def test_likelihood_of_given_items_is_exact(self) -> None:
        table = random_table()
        items = torch.tensor([[3, 29, 3], [0, 1, 2]])
        wanted = exact_scores(table, 2).gather(1, items)
        assert torch.allclose(log_likelihood(Hashed(2), Trie(table), items), wanted, atol=1e-5)

    def test_relabelling_the_codes_of_a_level_changes_no_score(self) -> None:
        table, order = random_table(), np.array([2, 0, 4, 1, 3])
        moved = table.codes.copy()
        moved[:, 1] = np.argsort(order)[moved[:, 1]]

        class Relabelled(Hashed):
            def step(self, level: int, parents: Tensor, codes: Tensor) -> Tensor:
                logits = super().step(level, parents, torch.from_numpy(order)[codes] if level == 2 else codes)
                return logits[..., torch.from_numpy(order)] if level == 1 else logits

        one = beam_search(Hashed(4), Trie(table), 10)
        two = beam_search(Relabelled(4), Trie(CodeTable("moved", moved, SIZES)), 10)
        assert torch.equal(one.items, two.items)
        assert torch.allclose(one.scores, two.scores)


class TestGenerate:
    def test_forbidden_items_are_passed_over_and_the_rest_keeps_its_order(self) -> None:
        table, rng = random_table(), np.random.default_rng(0)
        rows, items = (rng.integers(high, size=60) for high in (6, 30))
        exact = exact_scores(table, 6)
        exact[rows, items] = -torch.inf
        forbidden = torch.from_numpy(rows), torch.from_numpy(items)
        found = generate(Hashed(6), Trie(table), 30, beams=30, forbidden=forbidden)
        values, order = exact.sort(dim=1, descending=True)
        assert torch.equal(found.items, order.masked_fill(values == -torch.inf, -1))

    def test_beams_are_widened_until_there_are_k_items(self) -> None:
        table, trie = random_table(), Trie(random_table())
        best = beam_search(Hashed(3), trie, 8).items[1]
        forbidden = torch.ones(8, dtype=torch.int64), best
        assert (beam_search(Hashed(3), trie, 4, forbidden=forbidden).items[1] == -1).any()
        found = generate(Hashed(3), trie, 4, beams=4, forbidden=forbidden)
        assert (found.items >= 0).all()
        assert not set(found.items[1].tolist()) & set(best.tolist())
        exact = exact_scores(table, 3)
        assert torch.allclose(found.scores[1], exact[1][found.items[1]], atol=1e-5)

    def test_permitted_items_are_all_found_however_unlikely(self) -> None:
        table = random_table()
        worst = exact_scores(table, 1)[0].argsort()[:3]
        permitted = torch.zeros(30, dtype=torch.bool)
        permitted[worst] = True
        found = beam_search(Hashed(1), Trie(table), 3, permitted=permitted)
        assert found.items[0].tolist() == worst.flip(0).tolist()

    def test_nothing_permitted_gives_nothing(self) -> None:
        found = generate(
            Hashed(2), Trie(random_table()), 3, beams=3, permitted=torch.zeros(30, dtype=torch.bool)
        )
        assert (found.items == -1).all()
        assert (found.scores == -torch.inf).all()

    def test_fewer_items_than_asked_for(self) -> None:
        table = random_table(5)
        found = generate(Hashed(2), Trie(table), 20, beams=50)
        assert sorted(found.items[0].tolist()) == [0, 1, 2, 3, 4]
