"""ItemKNN: the properties of the content sheet, with its stated departures (no self edges, one cosine per modality)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.encode.features import FeatureTable
from mmrec.errors import FeatureError
from mmrec.models.baseline import itemknn
from mmrec.rank import rank
from tests.dense import assert_close, cosines
from tests.learning import all_scores, new_model, scoring
from tests.small_data import likes_of

N_USERS, N_ITEMS = 10, 23


def random_data(seed: int = 0, *, signed: bool = False, missing: bool = False) -> TrainingData:
    """Random likes and features; the last user has no history."""
    rng = np.random.default_rng(seed)
    likes = rng.random((N_USERS, N_ITEMS)) < 0.25
    likes[-1], likes[:, 5] = False, False
    pairs = np.argwhere(likes)
    pairs = pairs[rng.permutation(len(pairs))]
    features = {}
    for modality, width, scale in (("text", 4, 1.0), ("image", 6, 50.0)):
        vectors = rng.normal(size=(N_ITEMS, width)) if signed else rng.random((N_ITEMS, width))
        present = np.ones(N_ITEMS, dtype=bool)
        if missing:
            present[rng.permutation(N_ITEMS)[:6]] = False
        vectors = np.where(present[:, None], vectors * scale, 0).astype(np.float32)
        features[modality] = FeatureTable(f"{modality}-test", modality, vectors, present)
    return TrainingData(N_USERS, N_ITEMS, Histories.from_pairs(pairs[:, 0], pairs[:, 1], N_USERS), features)


def fitted_scores(data: TrainingData, **params: Any) -> torch.Tensor:
    model = new_model("itemknn", data, **params)
    model.fit(data)
    return all_scores(model, data)


def shrunk_cosines(vectors: np.ndarray, shrink: float) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    scale = np.outer(norms, norms) + shrink
    product = vectors @ vectors.T
    return np.divide(product, scale, out=np.zeros_like(product), where=scale > 0)


def dense_scores(data: TrainingData, similarity: np.ndarray, k: int) -> np.ndarray:
    """``Σ_{i in N_u} s_ij [j among the k nearest of i]``; similarities that are not positive count nothing."""
    kept = np.zeros_like(similarity)
    for item, row in enumerate(similarity):
        others = [j for j in np.argsort(-row, kind="stable") if j != item][:k]
        kept[item, others] = np.maximum(row[others], 0)
    return likes_of(data) @ kept


def of_features(data: TrainingData, shrink: float, image_weight: float) -> np.ndarray:
    weights = {"text": 1 - image_weight, "image": image_weight}
    if len(data.features) == 1:
        weights = dict.fromkeys(data.features, 1.0)
    return sum(weights[m] * shrunk_cosines(t.vectors, shrink) for m, t in data.features.items())


class TestFromInteractions:
    @pytest.mark.parametrize(("k", "shrink"), [(3, 10.0), (3, 0.0), (100, 2.0)])
    def test_equals_the_formula(self, k: int, shrink: float) -> None:
        for seed in range(3):
            data = random_data(seed)
            # Equal similarities are common here: both sides must give the place to the lower id.
            similarity = shrunk_cosines(likes_of(data).T.astype(np.float32), shrink).astype(np.float32)
            expected = dense_scores(data, similarity, k)
            assert_close(fitted_scores(data, k=k, shrink=shrink), torch.from_numpy(expected))

    def test_hand_computed(self) -> None:
        # i0: u0 u1, i1: u0 u1, i2: u1; shrink 0: cosines 1, 1/√2, 1/√2
        train = Histories.from_pairs(np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 1, 2]), 3)
        data = TrainingData(3, 4, train, {})
        half = 2**-0.5
        expected = [[1, 1, 2 * half, 0], [1 + half, 1 + half, 2 * half, 0], [0, 0, 0, 0]]
        assert_close(fitted_scores(data, shrink=0.0), torch.tensor(expected), 1e-6)

    def test_shrinking_trusts_small_supports_less(self) -> None:
        # i1 shares its only user with i0 (cosine 1/√2); i3 shares 3 of its 4 users with i2 (3/√20)
        pairs = [
            (0, 0),
            (0, 1),
            (1, 2),
            (1, 3),
            (2, 2),
            (2, 3),
            (3, 2),
            (3, 3),
            (4, 2),
            (5, 3),
            (6, 0),
            (6, 2),
        ]
        users, items = np.array(pairs).T
        data = TrainingData(7, 4, Histories.from_pairs(users, items, 7), {})
        plain, shrunk = (fitted_scores(data, shrink=shrink)[6] for shrink in (0.0, 10.0))
        assert plain[1] > plain[3]
        assert shrunk[1] < shrunk[3]
        assert shrunk[3].item() == pytest.approx(3 / (20**0.5 + 10), rel=1e-6)

    def test_features_are_not_read(self) -> None:
        data = random_data()
        bare = TrainingData(N_USERS, N_ITEMS, data.train, {})
        assert torch.equal(fitted_scores(data), fitted_scores(bare))


class TestFromFeatures:
    @pytest.mark.parametrize("signed", [False, True])
    @pytest.mark.parametrize("missing", [False, True])
    @pytest.mark.parametrize(("k", "shrink"), [(4, 10.0), (1, 0.0), (100, 0.5)])
    def test_equals_the_formula(self, k: int, shrink: float, missing: bool, signed: bool) -> None:
        data = random_data(3, signed=signed, missing=missing)
        expected = dense_scores(data, of_features(data, shrink, 0.3), k)
        scores = fitted_scores(data, source="features", k=k, shrink=shrink, image_weight=0.3)
        assert_close(scores, torch.from_numpy(expected))

    def test_1_all_neighbours_without_shrinking_are_the_cosines(self) -> None:
        data = random_data()
        alone = TrainingData(N_USERS, N_ITEMS, data.train, {"text": data.features["text"]})
        expected = likes_of(data) @ (cosines(data.features["text"].vectors) - np.eye(N_ITEMS))
        scores = fitted_scores(alone, source="features", k=N_ITEMS, shrink=0.0)
        assert_close(scores, torch.from_numpy(expected))

    def test_2_a_copy_of_the_only_item_ranks_first(self) -> None:
        data = random_data()
        for table in data.features.values():
            table.vectors[20] = table.vectors[4]
        train = Histories.from_pairs(np.array([0]), np.array([4]), 1)
        lonely = TrainingData(1, N_ITEMS, train, data.features)
        model = new_model("itemknn", lonely, source="features", shrink=0.0)
        model.fit(lonely)
        lists = rank(scoring(model, train), np.array([0]), N_ITEMS, 3, exclude=train)
        assert lists.items[0, 0] == 20
        assert lists.scores[0, 0] == pytest.approx(1, abs=1e-6)

    def test_3_rotating_a_modality_changes_nothing(self) -> None:
        data, rng = random_data(signed=True), np.random.default_rng(9)
        rotated = {}
        for modality, table in data.features.items():
            rotation, _ = np.linalg.qr(rng.normal(size=(table.dim, table.dim)))
            vectors = (table.vectors @ rotation).astype(np.float32)
            rotated[modality] = FeatureTable(table.name, modality, vectors, table.present)
        turned = TrainingData(N_USERS, N_ITEMS, data.train, rotated)
        one, two = (fitted_scores(part, source="features", k=5) for part in (data, turned))
        assert_close(one, two)

    def test_scale_of_a_modality_does_not_matter_without_shrinking(self) -> None:
        data = random_data()
        scaled = {
            m: FeatureTable(t.name, m, t.vectors * (8 if m == "image" else 1), t.present)
            for m, t in data.features.items()
        }
        other = TrainingData(N_USERS, N_ITEMS, data.train, scaled)
        one, two = (fitted_scores(part, source="features", shrink=0.0) for part in (data, other))
        assert_close(one, two, 1e-6)

    @pytest.mark.parametrize("block", [1, 2, 7, 22])
    def test_4_blocks_change_nothing(self, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
        data = random_data(missing=True)
        for source in ("features", "interactions"):
            whole = fitted_scores(data, source=source, k=4)
            with monkeypatch.context() as patch:
                patch.setattr(itemknn, "BLOCK", block)
                assert_close(fitted_scores(data, source=source, k=4), whole, 1e-6)

    def test_5_a_user_without_history_scores_zero_in_the_order_of_ids(self) -> None:
        data = random_data()
        model = new_model("itemknn", data, source="features")
        model.fit(data)
        assert not all_scores(model, data)[-1].any()
        lists = rank(scoring(model, data.train), np.array([N_USERS - 1]), N_ITEMS, 6, exclude=data.train)
        assert lists.items.tolist() == [[0, 1, 2, 3, 4, 5]]

    def test_items_that_lack_a_modality_are_not_neighbours_by_it(self) -> None:
        data = random_data(missing=True)
        alone = TrainingData(N_USERS, N_ITEMS, data.train, {"image": data.features["image"]})
        scores = fitted_scores(alone, source="features", shrink=0.0)
        assert not scores[:, torch.from_numpy(~data.features["image"].present)].any()

    def test_an_item_nobody_has_is_recommended_by_its_content(self) -> None:
        data = random_data()
        assert (fitted_scores(data, source="features")[:-1, 5] > 0).any()
        assert not fitted_scores(data, source="interactions")[:, 5].any()

    def test_without_features(self) -> None:
        bare = TrainingData(N_USERS, N_ITEMS, random_data().train, {})
        with pytest.raises(FeatureError, match="mmrec encode"):
            new_model("itemknn", bare, source="features")


@given(st.integers(0, 500), st.integers(1, 6), st.sampled_from([0.0, 1.0, 10.0]))
@settings(max_examples=25, deadline=None)
def test_small_matrices(seed: int, k: int, shrink: float) -> None:
    rng = np.random.default_rng(seed)
    pairs = np.argwhere(rng.random((4, 6)) < 0.5)
    data = TrainingData(4, 6, Histories.from_pairs(pairs[:, 0], pairs[:, 1], 4), {})
    similarity = shrunk_cosines(likes_of(data).T, shrink).astype(np.float32)
    expected = torch.from_numpy(dense_scores(data, similarity, k))
    scores = fitted_scores(data, k=k, shrink=shrink)
    # Equal similarities may round differently: compare what each list is worth.
    assert_close(scores.sum(1), expected.sum(1))
