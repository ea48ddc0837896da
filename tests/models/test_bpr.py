from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.rank import rank
from tests.dense import assert_close, negative_log_sigmoid
from tests.learning import all_scores, new_model, scoring, train


def data_of(pairs: list[tuple[int, int]], n_users: int, n_items: int) -> TrainingData:
    users, items = (np.array(side, dtype=np.int64) for side in zip(*pairs, strict=True))
    return TrainingData(n_users, n_items, Histories.from_pairs(users, items, n_users), {})


def batch_of(*triples: tuple[int, int, int]) -> PairBatch:
    return PairBatch(*torch.tensor(triples).T)


def test_1_gradient_of_one_user_and_two_items_in_closed_form() -> None:
    model = new_model("bpr", data_of([(0, 0)], 1, 2), dim=1, reg=0.0)
    user, first, second = 0.7, -0.4, 1.1
    with torch.no_grad():
        model.embeddings.copy_(torch.tensor([[user], [first], [second]]))
    model.loss(batch_of((0, 0, 1)))["bpr"].backward()
    wrong = 1 / (1 + math.exp(user * first - user * second))  # sigmoid(-(s_p - s_n))
    expected = [-wrong * (first - second), -wrong * user, wrong * user]
    assert model.embeddings.grad.squeeze(1).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("penalty", ["norm", "squared"])
def test_losses_and_gradients_equal_the_formula(penalty: str) -> None:
    rng = np.random.default_rng(0)
    data = data_of([(u, i) for u in range(5) for i in range(7) if rng.random() < 0.5], 5, 7)
    model = new_model("bpr", data, dim=3, reg=0.4, penalty=penalty)
    triples = np.stack([rng.integers(0, high, 30) for high in (5, 7, 7)], 1)
    leaf = model.embeddings.detach().double().requires_grad_()
    users, positives, negatives = leaf[triples[:, 0]], leaf[5 + triples[:, 1]], leaf[5 + triples[:, 2]]
    parts = (users, positives, negatives)
    if penalty == "norm":
        size = sum(rows.pow(2).sum().sqrt() for rows in parts) / 30
    else:
        size = sum(rows.pow(2).sum() for rows in parts) / 60
    bpr = negative_log_sigmoid((users * positives).sum(1), (users * negatives).sum(1))
    terms = model.loss(batch_of(*map(tuple, triples.tolist())))
    assert_close(terms["bpr"], bpr)
    assert_close(terms["penalty"], 0.4 * size)
    (terms["bpr"] + terms["penalty"]).backward()
    (bpr + 0.4 * size).backward()
    assert_close(model.embeddings.grad, leaf.grad)


def test_2_norms_of_half_batches_only_combine_in_quadrature() -> None:
    data = data_of([(u, u) for u in range(8)], 8, 8)
    model = new_model("bpr", data, dim=4, reg=1.0)
    triples = [(u, u, (u + 1) % 8) for u in range(8)]
    whole = model.loss(batch_of(*triples))["penalty"].item() * 8
    first, second = (model.loss(batch_of(*half))["penalty"].item() * 4 for half in (triples[:4], triples[4:]))
    assert first + second > 1.2 * whole
    users, items = model.embeddings[:8], model.embeddings[8:]
    expected = users.norm() + 2 * items.norm()  # each item is once a positive and once a negative
    assert whole == pytest.approx(expected.item(), rel=1e-6)


def test_3_overfits_a_block_diagonal_matrix() -> None:
    pairs = [(u, i) for u in range(20) for i in range(20) if u // 5 == i // 5]
    data = data_of(pairs, 20, 20)
    model = train(new_model("bpr", data, dim=16, reg=0.0), data, epochs=25, lr=0.03).model
    top = rank(scoring(model, data.train), np.arange(20), 20, 5).items
    assert np.sort(top, axis=1).tolist() == [list(range(u // 5 * 5, u // 5 * 5 + 5)) for u in range(20)]


def test_scores_are_inner_products_and_zero_for_untrained_items() -> None:
    data = data_of([(0, 0), (1, 2), (2, 0)], 3, 4)
    model = new_model("bpr", data, dim=5)
    expected = model.embeddings[:3] @ model.embeddings[3:].T
    expected[:, [1, 3]] = 0
    assert_close(all_scores(model, data), expected.detach(), 1e-7)


def test_very_wrong_pairs_still_learn() -> None:
    model = new_model("bpr", data_of([(0, 0)], 1, 2), dim=1, reg=0.0)
    with torch.no_grad():
        model.embeddings.copy_(torch.tensor([[100.0], [-100.0], [100.0]]))
    loss = model.loss(batch_of((0, 0, 1)))["bpr"]
    loss.backward()
    assert loss.item() == 20_000
    assert model.embeddings.grad.squeeze(1).tolist() == [200, -100, 100]
