"""EASE against its dense formula and against the conditions of its optimum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.encode.features import FeatureTable
from mmrec.errors import ConfigError
from mmrec.models.baseline import ease
from tests.dense import assert_close, history_matrix
from tests.learning import all_scores, area_under_curve, new_model
from tests.small_data import data_of
from tests.worlds import planted_blocks

N_USERS, N_ITEMS = 12, 17
WEIGHT = {"text": 2.0, "image": 0.5, "audio": 3.0}


def small_data(*modalities: str, missing: bool = False) -> TrainingData:
    """Random likes, none of the last item and none by the last user; with ``missing`` item 2 lacks everything."""
    rng = np.random.default_rng(0)
    likes = rng.random((N_USERS, N_ITEMS)) < 0.35
    likes[:, -1], likes[-1] = False, False
    absent = {"text": [2, 5], "image": [2, 7], "audio": [2, 9]}
    features = {}
    for modality, dim, scale in (("text", 5, 1.0), ("image", 7, 40.0), ("audio", 4, 0.1)):
        vectors = (rng.normal(size=(N_ITEMS, dim)) * scale).astype(np.float32)
        present = np.ones(N_ITEMS, dtype=bool)
        if missing:
            present[absent[modality]] = False
            vectors[~present] = 0
        if modality in modalities:
            features[modality] = FeatureTable(f"{modality}-test", modality, vectors, present)
    return data_of(likes, features)


def fitted(data: TrainingData, **params: Any) -> Any:
    model = new_model("ease", data, **params)
    model.fit(data)
    return model


def dense_gram(data: TrainingData, weight: dict[str, float]) -> np.ndarray:
    """``Y^T Y`` of the histories with one more row for each feature, ``sqrt(w_m)`` times the unit vectors."""
    rows = [history_matrix(data.train, data.n_items).numpy()]
    for modality, table in data.features.items():
        unit = np.zeros((data.n_items, table.dim))
        for item in np.flatnonzero(table.present):
            vector = table.vectors[item].astype(np.float64)
            unit[item] = vector / np.sqrt(vector @ vector)
        rows.append(np.sqrt(weight[modality]) * unit.T)
    stacked = np.vstack(rows)
    return stacked.T @ stacked


def dense_weights(gram: np.ndarray, l2: float) -> np.ndarray:
    inverse = np.linalg.inv(gram + l2 * np.eye(len(gram)))
    return np.eye(len(gram)) - inverse @ np.diag(1 / np.diag(inverse))


CASES = [
    ((), False),
    (("text",), False),
    (("image",), True),
    (("text", "image"), True),
    (("text", "image", "audio"), True),
]


@pytest.mark.parametrize(("modalities", "missing"), CASES)
@pytest.mark.parametrize("l2", [0.5, 20.0])
class TestOptimum:
    def test_equals_the_dense_formula(self, modalities: tuple[str, ...], missing: bool, l2: float) -> None:
        data = small_data(*modalities, missing=missing)
        weight = {m: WEIGHT[m] for m in modalities}
        model = fitted(data, l2=l2, feature_weight=weight)
        expected = torch.from_numpy(dense_weights(dense_gram(data, weight), l2))
        assert_close(model.weights, expected)
        assert_close(all_scores(model, data), history_matrix(data.train, N_ITEMS) @ expected)

    def test_conditions_of_the_optimum(self, modalities: tuple[str, ...], missing: bool, l2: float) -> None:
        """The gradient ``G (B - I) + l2 B`` vanishes wherever B is free, and B is 0 where it is not."""
        data = small_data(*modalities, missing=missing)
        weight = {m: WEIGHT[m] for m in modalities}
        weights = fitted(data, l2=l2, feature_weight=weight).weights.double().numpy()
        gradient = dense_gram(data, weight) @ (weights - np.eye(N_ITEMS)) + l2 * weights
        assert not np.diag(weights).any()
        assert np.abs(gradient - np.diag(np.diag(gradient))).max() < 1e-4


@pytest.mark.parametrize("block", [1, 3, 16, 17])
def test_blocks_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_data("text", "image", missing=True)
    whole = fitted(data).weights
    monkeypatch.setattr(ease, "BLOCK", block)
    assert_close(fitted(data).weights, whole)


def test_a_single_weight_is_that_of_every_modality() -> None:
    data = small_data("text", "image")
    by_name = fitted(data, feature_weight={"text": 4.0, "image": 4.0}).weights
    assert torch.equal(fitted(data, feature_weight=4.0).weights, by_name)


def test_weight_zero_is_without_the_modality() -> None:
    both, text = small_data("text", "image", missing=True), small_data("text", missing=True)
    one = fitted(both, feature_weight={"text": 4.0, "image": 0.0})
    assert torch.equal(one.weights, fitted(text, feature_weight=4.0).weights)
    assert torch.equal(fitted(both, feature_weight=0.0).weights, fitted(small_data()).weights)


def test_the_scale_of_features_does_not_matter() -> None:
    data = small_data("image")
    table = data.features["image"]
    louder = FeatureTable(table.name, "image", table.vectors * 64, table.present)
    other = TrainingData(N_USERS, N_ITEMS, data.train, {"image": louder})
    assert_close(fitted(data).weights, fitted(other).weights)


@pytest.mark.parametrize("weight", [{"text": 1.0}, {"text": 1.0, "image": 1.0, "audio": 1.0}, {"txt": 1.0}])
def test_weights_of_other_modalities_are_refused(weight: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="image, text"):
        new_model("ease", small_data("text", "image"), feature_weight=weight)


def test_an_item_without_content_and_users_is_never_recommended() -> None:
    data = small_data("text", missing=True)
    table = data.features["text"]
    table.present[-1], table.vectors[-1] = False, 0
    weights = fitted(data, feature_weight=5.0).weights
    assert not weights[-1].any()
    assert not weights[:, -1].any()


def test_content_of_an_absent_item_is_not_read() -> None:
    data = small_data("text", missing=True)
    before = fitted(data).weights
    data.features["text"].vectors[2] = 7.0  # present says no
    assert torch.equal(fitted(data).weights, before)


def test_items_nobody_has_are_found_by_content() -> None:
    world = planted_blocks(n_items=28, cold_items=8)
    wanted = torch.arange(world.data.n_users)[:, None] % 2 == torch.from_numpy(world.cold) % 2
    scores = all_scores(fitted(world.data), world.data)
    assert area_under_curve(scores[:, world.cold], wanted) > 0.95
    assert not all_scores(fitted(world.data, feature_weight=0.0), world.data)[:, world.cold].any()


def test_a_catalogue_that_is_too_large_is_refused_with_the_numbers() -> None:
    data = TrainingData(2, 100_000, Histories.empty(2), {})
    with pytest.raises(ConfigError) as raised:
        new_model("ease", data)
    message = str(raised.value)
    assert "100,000 items" in message
    assert "111.8 GiB" in message
    assert "26,754 items" in message
    assert "rp3beta" in message
    new_model("ease", data, memory_gib=112)


def test_a_matrix_that_is_singular_in_float32() -> None:
    pairs = np.array([(user, item) for user in range(3000) for item in range(2)])
    data = TrainingData(3000, 2, Histories.from_pairs(pairs[:, 0], pairs[:, 1], 3000), {})
    with pytest.raises(ConfigError, match="l2"):
        fitted(data, l2=1e-9)
