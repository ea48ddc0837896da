"""SLIM against a descent over dense columns, and against the conditions of its optimum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mmrec.data.dataset import TrainingData
from mmrec.errors import ConfigError
from mmrec.models.baseline import slim
from tests.dense import assert_close, history_matrix
from tests.learning import all_scores, new_model
from tests.small_data import data_of

N_USERS, N_ITEMS = 40, 15
PENALTIES = [(0.0, 3.0), (0.5, 1.0), (2.0, 0.1), (1.0, 20.0)]


def random_data(seed: int = 0) -> TrainingData:
    """Random likes around a few tastes; the last user has no history, nobody has item 4."""
    rng = np.random.default_rng(seed)
    tastes = rng.random((3, N_ITEMS)) ** 2
    likes = rng.random((N_USERS, N_ITEMS)) < tastes[rng.integers(0, 3, N_USERS)]
    likes[-1], likes[:, 4] = False, False
    return data_of(likes)


def fitted(data: TrainingData, **params: Any) -> Any:
    model = new_model("slim", data, **params)
    model.fit(data)
    return model


def weights_of(model: Any) -> np.ndarray:
    dense = np.zeros((N_ITEMS, N_ITEMS))
    rows = torch.repeat_interleave(model.offsets.diff())
    dense[rows, model.neighbours] = model.similarities
    return dense


def by_descent(likes: np.ndarray, l1: float, l2: float) -> np.ndarray:
    """One weight after the other, each at its best while the others stay: ``max(0, x_i·rest - l1) / (|x_i|² + l2)``."""
    weights, others = np.zeros((N_ITEMS, N_ITEMS)), 1 - np.eye(N_ITEMS)
    for _ in range(1000):
        for item, own in enumerate(likes.T):
            rest = likes - likes @ weights + np.outer(own, weights[item])
            weights[item] = np.maximum(0, own @ rest - l1) / (own @ own + l2) * others[item]
    return weights


@pytest.mark.parametrize(("l1", "l2"), PENALTIES)
def test_equals_a_descent_over_dense_columns(l1: float, l2: float) -> None:
    data = random_data()
    model = fitted(data, l1=l1, l2=l2)
    likes = history_matrix(data.train, N_ITEMS)
    expected = torch.from_numpy(by_descent(likes.numpy(), l1, l2))
    assert_close(torch.from_numpy(weights_of(model)), expected, 1e-4)
    assert_close(all_scores(model, data), likes @ expected, 1e-3)


@pytest.mark.parametrize(("l1", "l2"), PENALTIES)
def test_conditions_of_the_optimum(l1: float, l2: float) -> None:
    """The gradient is 0 where a weight is positive, not negative where it is 0, and the diagonal is empty."""
    data = random_data()
    weights = weights_of(fitted(data, l1=l1, l2=l2))
    likes = history_matrix(data.train, N_ITEMS).numpy()
    gradient = likes.T @ (likes @ weights - likes) + l2 * weights + l1
    free = ~np.eye(N_ITEMS, dtype=bool)
    assert (weights >= 0).all()
    assert not np.diag(weights).any()
    assert (weights > 0).any()
    assert np.abs(gradient[weights > 0]).max() < 1e-3
    assert gradient[free].min() > -1e-3


def test_a_higher_l1_keeps_fewer_weights() -> None:
    counts = [len(fitted(random_data(), l1=l1).similarities) for l1 in (0.0, 1.0, 3.0, 1000.0)]
    assert counts == sorted(set(counts), reverse=True)
    assert counts[-1] == 0


def test_items_and_users_without_edges() -> None:
    scores = all_scores(fitted(random_data()), random_data())
    assert not scores[-1].any()
    assert not scores[:, 4].any()


def test_weights_that_do_not_settle_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slim, "SWEEPS", 2)
    with pytest.raises(ConfigError, match="l2"):
        fitted(random_data())
