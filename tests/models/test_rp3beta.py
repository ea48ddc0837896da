"""RP3beta against products of dense transition matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mmrec.data.dataset import TrainingData
from mmrec.models.baseline import rp3beta
from tests.dense import assert_close
from tests.learning import all_scores, new_model
from tests.small_data import data_of, likes_of

N_USERS, N_ITEMS = 10, 19


def random_data(seed: int = 0) -> TrainingData:
    """Random likes; the last user has no history, nobody has item 5."""
    rng = np.random.default_rng(seed)
    likes = rng.random((N_USERS, N_ITEMS)) < 0.3
    likes[-1], likes[:, 5] = False, False
    return data_of(likes)


def transitions(edges: np.ndarray, alpha: float) -> np.ndarray:
    """Probabilities to leave each row along one of its edges, to the power of alpha."""
    degree = edges.sum(1, keepdims=True)
    probability = np.divide(edges, degree, out=np.zeros_like(edges), where=degree > 0)
    return np.where(edges > 0, probability**alpha, 0)


def dense_weights(data: TrainingData, alpha: float, beta: float, k: int) -> np.ndarray:
    likes = likes_of(data)
    weights = transitions(likes.T, alpha) @ transitions(likes, alpha)
    popularity = likes.sum(0)
    weights = weights / np.where(popularity > 0, popularity, 1) ** beta
    # Equal weights must tie as they do in float32, so that both sides give the place to the lower id.
    rounded = weights.astype(np.float32).astype(np.float64).round(7)
    kept = np.zeros_like(weights)
    for item, row in enumerate(rounded):
        nearest = [j for j in np.argsort(-row, kind="stable") if j != item][:k]
        kept[item, nearest] = weights[item, nearest]
    return kept


def fitted_scores(data: TrainingData, **params: Any) -> torch.Tensor:
    model = new_model("rp3beta", data, **params)
    model.fit(data)
    return all_scores(model, data)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.6), (0.4, 0.0), (1.7, 1.0), (0.0, 0.3)])
def test_equals_the_dense_products(alpha: float, beta: float) -> None:
    for seed in range(3):
        data = random_data(seed)
        expected = likes_of(data) @ dense_weights(data, alpha, beta, N_ITEMS)
        assert_close(fitted_scores(data, alpha=alpha, beta=beta), torch.from_numpy(expected))


@pytest.mark.parametrize("k", [1, 4])
def test_only_the_largest_weights_are_kept(k: int) -> None:
    for seed in range(3):
        data = random_data(seed)
        model = new_model("rp3beta", data, k=k)
        model.fit(data)
        expected = dense_weights(data, 1.0, 0.6, k)
        assert (model.offsets.diff() <= k).all()
        # Ties in exact arithmetic may fall either way in float32: compare what each row keeps.
        sums = torch.zeros(N_ITEMS).index_add_(
            0, torch.repeat_interleave(model.offsets.diff()), model.similarities
        )
        assert_close(sums, torch.from_numpy(expected.sum(1)))


def test_three_steps_of_a_random_walk() -> None:
    """With alpha 1 and beta 0 the score is the probability of the walk times the user's degree."""
    data = random_data()
    likes = likes_of(data)
    to_items, to_users = transitions(likes, 1.0), transitions(likes.T, 1.0)
    own = np.diag(np.diag(to_users @ to_items))  # walks that come back to the item are left out
    walk = to_items @ (to_users @ to_items - own)
    expected = likes.sum(1, keepdims=True) * walk
    assert_close(fitted_scores(data, alpha=1.0, beta=0.0), torch.from_numpy(expected))


def test_beta_marks_popular_items_down() -> None:
    plain, marked = (fitted_scores(random_data(), beta=beta) for beta in (0.0, 1.0))
    degree = torch.from_numpy(likes_of(random_data()).sum(0))
    assert_close(marked * degree, plain.double())


@pytest.mark.parametrize("block", [1, 4, 18])
def test_blocks_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted_scores(random_data())
    monkeypatch.setattr(rp3beta, "BLOCK", block)
    assert_close(fitted_scores(random_data()), whole, 1e-6)


def test_items_and_users_without_edges() -> None:
    scores = fitted_scores(random_data())
    assert not scores[-1].any()
    assert not scores[:, 5].any()
    assert (scores[:-1].sum(1) > 0).all()
