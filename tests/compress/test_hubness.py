"""Inverted softmax with banks against its formula read naively, and what it does to hubs."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mmrec.compress.hubness import DualIS, extend_queries, hub_skewness
from mmrec.errors import ConfigError, FeatureError

BETA1, BETA2 = 0.7, 1.3


def world(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = {"queries": 40, "items": 60, "query_bank": 25, "gallery_bank": 17}
    return {name: rng.normal(size=(n, 6)).astype(np.float32) * 0.6 for name, n in sizes.items()}


def correction(w: dict[str, np.ndarray], k: int = 1, **banks: np.ndarray | None) -> DualIS:
    own = {"query_bank": w["query_bank"], "gallery_bank": w["gallery_bank"], **banks}
    return DualIS.fit(w["items"], query_weight=BETA1, gallery_weight=BETA2, k=k, **own)  # type: ignore[arg-type]


def direct(scores: np.ndarray, of_queries: np.ndarray, of_gallery: np.ndarray) -> np.ndarray:
    """The product of both factors (b, n) of matrices of similarities, without logarithms."""
    first = np.exp(BETA1 * scores) / np.exp(BETA1 * of_queries).sum(axis=0)
    return np.asarray(first * np.exp(BETA2 * scores) / np.exp(BETA2 * of_gallery).sum(axis=0))


def matrices(w: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [w[name].astype(np.float64) @ w["items"].T for name in ("queries", "query_bank", "gallery_bank")]


class TestDualIS:
    def test_log_form_is_the_direct_form(self) -> None:
        w = world()
        scores, of_queries, of_gallery = matrices(w)
        expected = np.log(direct(scores, of_queries, of_gallery)) / (BETA1 + BETA2)
        assert_allclose(correction(w).correct(scores.astype(np.float32)), expected, atol=1e-5)

    def test_empty_banks_change_nothing_and_one_bank_is_one_factor(self) -> None:
        w = world()
        scores, of_queries, _ = matrices(w)
        for none in (None, np.empty((0, 6), dtype=np.float32)):
            empty = correction(w, query_bank=none, gallery_bank=none)
            assert_array_equal(empty.correct(scores), scores)
            assert_array_equal(empty.correct_where_active(scores), scores)
            alone = np.exp((BETA1 + BETA2) * scores) / np.exp(BETA1 * of_queries).sum(axis=0)
            one = correction(w, gallery_bank=none)
            assert_allclose(one.correct(scores), np.log(alone) / (BETA1 + BETA2), atol=1e-5)

    def test_adding_a_constant_to_an_item_s_similarities_changes_nothing(self) -> None:
        w = world()
        # a further dimension: everything that asks has a 1 there, item j the constant of its column
        shifts = np.random.default_rng(1).normal(size=(60, 1)).astype(np.float32)
        shifted = {name: extend_queries(rows) for name, rows in w.items()}
        shifted["items"] = np.concatenate([w["items"], shifts], axis=1)
        before, after = (correction(v).correct(v["queries"] @ v["items"].T) for v in (w, shifted))
        assert_allclose(after, before, atol=1e-5)
        plain = w["queries"] @ w["items"].T
        assert (plain.argmax(1) != (plain + shifts[:, 0]).argmax(1)).any()  # which is no matter of course

    def test_folds_into_inner_products(self) -> None:
        w = world()
        dual = correction(w)
        folded = extend_queries(w["queries"]) @ dual.extend_items(w["items"]).T
        assert_allclose(folded, dual.correct(w["queries"] @ w["items"].T), atol=1e-5)

    def test_large_scores_do_not_overflow(self) -> None:
        w = {name: 100 * rows for name, rows in world().items()}
        assert np.isfinite(correction(w).bias).all()

    def test_blocks_of_the_bank_are_as_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        w = world()
        whole = correction(w, k=3)
        monkeypatch.setattr("mmrec.compress.hubness.BLOCK_BYTES", 4 * 60 * 4)
        parts = correction(w, k=3)
        assert_allclose(parts.bias, whole.bias, rtol=1e-6)
        assert_array_equal(parts.active, whole.active)

    def test_planted_hubs_lose_their_place(self) -> None:
        rng = np.random.default_rng(0)
        items, queries, bank = (rng.normal(size=(n, 16)).astype(np.float32) for n in (300, 400, 400))
        for rows in (items, queries, bank):
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            rows[:, 0] += 0.5  # all that asks leans to one side,
        items[:5, 0] += 1  # and so do five items
        scores = queries @ items.T
        dual = DualIS.fit(items, query_bank=bank, gallery_bank=items, query_weight=20, gallery_weight=20)
        skewness = [
            hub_skewness(np.argsort(-s, axis=1)[:, :10], 300)
            for s in (scores, dual.correct_where_active(scores), dual.correct(scores))
        ]
        assert skewness[0] > 5 and max(skewness[1:]) < skewness[0] / 2

    def test_refuses_weights_without_sense_and_banks_of_other_widths(self) -> None:
        w = world()
        with pytest.raises(ConfigError, match="above 0"):
            DualIS.fit(w["items"], query_bank=w["query_bank"], query_weight=0)
        with pytest.raises(FeatureError, match="vectors"):
            DualIS.fit(w["items"], query_bank=w["query_bank"][:, :-1])


class TestDualDIS:
    @pytest.mark.parametrize("k", [1, 2])
    def test_corrects_where_the_best_item_is_active(self, k: int) -> None:
        w = world(3)
        scores, of_queries, of_gallery = matrices(w)
        dual = correction(w, k=k)
        active = {
            j
            for bank in (of_queries, of_gallery)
            for row in bank
            for j in sorted(range(60), key=lambda j: -row[j])[:k]
        }
        assert set(np.flatnonzero(dual.active)) == active
        logs = np.log(direct(scores, of_queries, of_gallery)) / (BETA1 + BETA2)
        expected = [logs[i] if scores[i].argmax() in active else scores[i] for i in range(40)]
        assert 0 < sum(scores[i].argmax() in active for i in range(40)) < 40
        assert_allclose(dual.correct_where_active(scores), expected, atol=1e-5)


def test_skewness_by_hand() -> None:
    assert hub_skewness(np.array([[0, 1], [2, 3]]), 4) == 0
    counts = np.array([3.0, 1.0, 0.0, 0.0])
    moments = [((counts - 1) ** p).mean() for p in (2, 3)]
    assert hub_skewness(np.array([[0, 1], [0, -1], [0, -1]]), 4) == pytest.approx(
        moments[1] / moments[0] ** 1.5
    )
