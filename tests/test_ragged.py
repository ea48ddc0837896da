"""Look-ups and sums over groups against plain indexing and loops."""

from __future__ import annotations

import torch
from torch import Tensor

from mmrec.ragged import Groups, Links, find_distinct, first_places
from tests.dense import assert_close

IDS = torch.tensor([7, 0, 7, 3, 9, 3, 7])
PADDED = torch.tensor([[2, 4, 2, 0], [0, 0, 0, 0], [1, 0, 0, 0], [4, 3, 1, 2]])


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def test_distinct_ids() -> None:
    distinct, groups = find_distinct(IDS)
    assert distinct.tolist() == [0, 3, 7, 9]
    assert distinct[groups.index].tolist() == IDS.tolist()
    assert groups.order.tolist() == [1, 3, 5, 0, 2, 6, 4]
    assert groups.order.tolist() == Groups(groups.index, 4).order.tolist()
    assert groups.starts.tolist() == [0, 1, 3, 6]


def test_pairs_of_a_group() -> None:
    ids = IDS.tolist()
    expected = [(a, b) for a in range(7) for b in range(7) if a != b and ids[a] == ids[b]]
    one, other = find_distinct(IDS)[1].pairs()
    assert (one.diff() >= 0).all()
    assert sorted(zip(one.tolist(), other.tolist(), strict=True)) == expected


def test_nothing_at_all() -> None:
    distinct, groups = find_distinct(IDS[:0])
    assert [len(part) for part in groups.pairs()] == [0, 0]
    assert len(distinct) == len(groups.take(random(0, 2))) == 0
    links = Links.of(PADDED[1:2], PADDED[1:2] > 0, 5)
    vectors = random(5, 3)
    assert not links.mean(vectors).any() and len(links.dots(random(1, 3), vectors)) == 0
    links.pool(random(0), vectors).sum().backward()
    assert vectors.grad is not None and not vectors.grad.any()


def test_take_has_the_gradient_of_indexing() -> None:
    _, groups = find_distinct(IDS)
    rows, weights = random(4, 3), random(7, 3, seed=1)
    (groups.take(rows) * weights).sum().backward()
    assert_close(groups.take(rows), rows[groups.index])
    twin = rows.detach().clone().requires_grad_()
    (twin[groups.index] * weights).sum().backward()
    assert rows.grad is not None and twin.grad is not None
    assert_close(rows.grad, twin.grad)


def test_links_are_a_sparse_matrix() -> None:
    present = PADDED > 0
    links = Links.of(PADDED, present, 5)
    vectors, queries, weights = random(5, 3), random(4, 3, seed=1), random(8, seed=2)
    dots = links.dots(queries, vectors)
    pooled = links.pool(weights * dots, vectors)
    place = 0
    expected = []
    for row in range(4):
        total = torch.zeros(3, dtype=torch.float64)
        for entry in PADDED[row][present[row]].tolist():
            dot = queries[row] @ vectors[entry]
            assert_close(dots[place], dot)
            total = total + weights[place] * dot * vectors[entry]
            place += 1
        expected.append(total)
    assert_close(pooled, torch.stack(expected))
    assert_close(links.mean(vectors)[3], vectors[PADDED[3]].mean(0))
    assert torch.autograd.gradcheck(
        lambda q, v, w: links.pool(w * links.dots(q, v), v), (queries, vectors, weights)
    )
    assert torch.autograd.gradcheck(links.mean, (vectors,))


def test_first_places() -> None:
    assert first_places(torch.tensor([5, 2, 5, 9, 2, 0])).tolist() == [5, 1, 0, 3]
