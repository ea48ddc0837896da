"""Click metrics and DeLong's method against the definitions pair by pair, scikit-learn and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, ndtri
from sklearn.metrics import log_loss, roc_auc_score

from mmrec.click_metrics import (
    CLICK_METRICS,
    auc,
    bias,
    calibration_error,
    click_metrics,
    grouped_auc,
    logloss,
    probability_losses,
    reliability,
    row_losses,
)
from mmrec.delong import auc_components, delong_covariance, delong_interval, delong_test
from mmrec.errors import ConfigError, DataError
from mmrec.significance import paired_t_test


def world(seed: int, n: int = 400, users: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores with many ties, groups."""
    generator = np.random.default_rng(seed)
    scores = np.round(generator.normal(size=n), 1)
    labels = (generator.random(n) < expit(scores - 1)).astype(np.int8)
    return labels, scores, generator.integers(0, users, n) * 7


def wins(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """``(m, n)`` 1 where the clicked row is above the other one, 1/2 where they tie."""
    up, down = scores[labels == 1][:, None], scores[labels == 0][None, :]
    return (up > down) + 0.5 * (up == down)


# --- auc ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3)), min_size=2, max_size=40))
def test_auc_is_the_share_of_pairs(rows: list[tuple[int, int]]) -> None:
    labels, scores = np.array(rows).T
    if labels.min() == labels.max():
        with pytest.raises(DataError, match="clicked and other rows"):
            auc(labels, scores)
        return
    assert auc(labels, scores) == pytest.approx(wins(labels, scores).mean(), abs=1e-15)
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auc(labels, -scores) == pytest.approx(1 - auc(labels, scores), abs=1e-15)
    assert auc(labels, np.exp(scores.astype(float))) == auc(labels, scores)
    assert auc(labels, np.zeros(len(labels))) == 0.5


def test_gauc_against_a_loop_over_users() -> None:
    labels, scores, users = world(1)
    labels[users == 0] = 1  # no effect, but counted
    labels[users == 7] = 0
    each = {u: (labels[users == u], scores[users == u]) for u in np.unique(users)}
    expected = {u: roc_auc_score(*pair) for u, pair in each.items() if 0 < pair[0].mean() < 1}
    found = grouped_auc(labels, scores, users)
    assert found.groups.tolist() == list(expected)
    assert found.aucs == pytest.approx(list(expected.values()))
    assert found.rows.tolist() == [len(each[u][0]) for u in expected]
    assert found.gauc == pytest.approx(np.average(found.aucs, weights=found.rows))
    assert found.avgauc == pytest.approx(np.mean(list(expected.values())))
    assert found.n_groups == len(each) > len(expected)
    chosen = np.isin(users, found.groups)
    alone = grouped_auc(labels[chosen], scores[chosen], users[chosen])
    assert (alone.gauc, alone.avgauc) == (found.gauc, found.avgauc)


def test_gauc_of_one_user_is_the_auc() -> None:
    labels, scores, users = world(2)
    assert grouped_auc(labels, scores, np.full_like(users, -5)).gauc == auc(labels, scores)


@pytest.mark.parametrize("seed", range(5))
def test_gauc_keeps_under_increasing_functions_of_each_user_and_any_order(seed: int) -> None:
    labels, scores, users = world(seed, n=80, users=5)
    generator = np.random.default_rng(seed)
    shift, power = generator.normal(0, 10, 40), generator.integers(0, 2, 40) * 2 + 1
    moved = scores ** power[users] + shift[users]
    before, after = grouped_auc(labels, scores, users), grouped_auc(labels, moved, users)
    assert np.array_equal(before.aucs, after.aucs)
    assert auc(labels, moved) != auc(labels, scores)
    order = generator.permutation(len(labels))
    assert grouped_auc(labels[order], scores[order], users[order]).gauc == before.gauc


# --- logloss -----------------------------------------------------------------------------------------------------


def test_logloss_of_logits_and_of_probabilities() -> None:
    labels, logits, _ = world(3)
    assert logloss(labels, logits) == pytest.approx(log_loss(labels, expit(logits)), abs=1e-14)
    assert probability_losses(labels, expit(logits)) == pytest.approx(row_losses(labels, logits), abs=1e-13)
    # far out, where probabilities are 0 and 1
    assert row_losses(np.array([1, 0]), np.array([-800.0, 900.0])).tolist() == [800.0, 900.0]
    assert row_losses(np.array([1, 0]), np.array([800.0, -900.0])).tolist() == [0.0, 0.0]


def test_probabilities_are_clipped_as_documented() -> None:
    labels = np.array([0, 1, 1, 0])
    given_ones = np.array([1.0, 0.0, 1.0, 0.0])
    worst = -math.log(1e-15)
    assert probability_losses(labels, given_ones) == pytest.approx([worst, worst, 0, 0], abs=0.01)
    single = probability_losses(labels, given_ones.astype(np.float32))
    assert single == pytest.approx([25 * math.log(2), worst, 0, 0], abs=1e-7)
    # any logit is charged nearly what it was, until float32 runs out at 17
    logits = np.linspace(-16, 16, 200)
    coarse = probability_losses(np.arange(200) % 2, expit(logits).astype(np.float32))
    assert coarse == pytest.approx(row_losses(np.arange(200) % 2, logits), abs=0.3)


# --- calibration -------------------------------------------------------------------------------------------------


def test_reliability_by_hand() -> None:
    labels = np.array([0, 1, 0, 1, 1, 1])
    probabilities = np.array([0.1, 0.2, 0.2, 0.6, 0.9, 1.0])
    by_width = reliability(labels, probabilities, bins=2, equal="width")
    assert by_width.counts.tolist() == [3, 3]
    assert by_width.predicted == pytest.approx([0.5 / 3, 2.5 / 3])
    assert by_width.observed == pytest.approx([1 / 3, 1.0])
    assert by_width.error == pytest.approx(0.5 * (1 / 3 - 0.5 / 3) + 0.5 * (1 - 2.5 / 3))
    # Wilson's interval of 1 in 3 and of 3 in 3
    z = ndtri(0.975)
    root = z * math.sqrt(1 * 2 / 3 + z * z / 4)
    assert by_width.low[0] == pytest.approx((1 + z * z / 2 - root) / (3 + z * z))
    assert by_width.high.tolist() == pytest.approx([(1 + z * z / 2 + root) / (3 + z * z), 1.0])
    # by count: the bin that starts between the equal ones takes both
    assert reliability(labels, probabilities, bins=3).counts.tolist() == [1, 3, 2]
    assert reliability(labels, np.full(6, 0.5)).counts.tolist() == [6]
    empty_between = reliability(labels, probabilities, bins=10, equal="width")
    assert empty_between.counts.tolist() == [1, 2, 1, 2]


def test_bins_of_equal_width_against_a_loop() -> None:
    labels, logits, _ = world(4)
    p = expit(logits * 3)
    error = 0.0
    for b in range(15):
        inside = (p >= b / 15) & ((p < (b + 1) / 15) | (b == 14))
        if inside.any():
            error += inside.mean() * abs(p[inside].mean() - labels[inside].mean())
    assert calibration_error(labels, p, bins=15, equal="width") == pytest.approx(error)


def test_calibration_of_a_world_that_is_calibrated_and_of_one_that_is_not() -> None:
    generator = np.random.default_rng(0)
    p = generator.random(40_000)
    labels = generator.random(40_000) < p
    table = reliability(labels, p)
    assert (table.counts == 2000).all()
    assert ((table.low <= table.predicted) & (table.predicted <= table.high)).sum() >= 17
    by_chance = np.sqrt(2 * 20 / (np.pi * 40_000) * (table.predicted * (1 - table.predicted))).mean()
    assert table.error == pytest.approx(by_chance, rel=0.4)
    assert bias(labels, p) == pytest.approx(1.0, abs=0.02)
    assert calibration_error(labels, p / 2) == pytest.approx(0.25, abs=0.02)
    assert bias(labels, p / 2) == pytest.approx(0.5, abs=0.01)


def test_all_at_once() -> None:
    labels, logits, users = world(5)
    values = click_metrics(labels, logits.astype(np.float32), users)
    assert tuple(values) == CLICK_METRICS
    assert all(type(value) is float for value in values.values())
    assert values["gauc"] == grouped_auc(labels, logits, users).gauc
    assert values["ece"] == pytest.approx(calibration_error(labels, expit(logits)), abs=1e-7)
    assert set(click_metrics(labels, logits)) == set(CLICK_METRICS) - {"gauc", "avgauc"}


# --- refusals ----------------------------------------------------------------------------------------------------


def test_rows_that_cannot_be_measured() -> None:
    labels, scores, users = world(6, n=50)
    with pytest.raises(DataError, match=r"labels \(50,\) and scores \(49,\)"):
        auc(labels, scores[1:])
    with pytest.raises(DataError, match="49 groups"):
        grouped_auc(labels, scores, users[1:])
    with pytest.raises(DataError, match="nan in row 3; 1 in all"):
        click_metrics(labels, np.where(np.arange(50) == 3, np.nan, scores))
    with pytest.raises(DataError, match="inf in row 0; 50 in all"):
        logloss(labels, np.full(50, np.inf))
    with pytest.raises(DataError, match="labels 0 and 1\n   found: 2"):
        auc(labels + 1, scores)
    for measure in (auc, logloss, bias):
        with pytest.raises(DataError, match="0 clicked of 3 rows"):
            measure(np.zeros(3), np.ones(3))
    with pytest.raises(DataError, match="one label in each of the 50 groups"):
        grouped_auc(labels, scores, np.arange(50))
    with pytest.raises(DataError, match=r"values from -\d"):
        calibration_error(labels, scores)
    with pytest.raises(DataError, match="no rows"):
        reliability(np.zeros(0), np.zeros(0))
    with pytest.raises(ConfigError, match="at least 1 bin"):
        reliability(labels, expit(scores), bins=0)


# --- DeLong ------------------------------------------------------------------------------------------------------


def plain_delong(labels: np.ndarray, models: list[np.ndarray]) -> np.ndarray:
    """Covariance of the AUCs, from all pairs."""
    tables = [wins(labels, scores) for scores in models]
    up = np.array([table.mean(axis=1) for table in tables])
    down = np.array([table.mean(axis=0) for table in tables])
    return np.cov(up) / up.shape[1] + np.cov(down) / down.shape[1]


@pytest.mark.parametrize("seed", range(3))
def test_delong_against_all_pairs(seed: int) -> None:
    labels, first, _ = world(seed, n=90)
    second = np.round(first + np.random.default_rng(99 + seed).normal(size=90), 1)
    components = np.stack([auc_components(labels, first), auc_components(labels, second)], axis=1)
    for column, scores in zip(components.T, (first, second), strict=True):
        assert column[labels == 1] == pytest.approx(wins(labels, scores).mean(axis=1))
        assert column[labels == 0] == pytest.approx(wins(labels, scores).mean(axis=0))
        assert column[labels == 1].mean() == pytest.approx(roc_auc_score(labels, scores))
        assert column[labels == 0].mean() == pytest.approx(roc_auc_score(labels, scores))
    expected = plain_delong(labels, [first, second])
    assert delong_covariance(labels, components) == pytest.approx(expected)
    value, low, high = delong_interval(labels, components[:, 0])
    assert value == pytest.approx(auc(labels, first))
    assert (high - low) / 2 == pytest.approx(ndtri(0.975) * math.sqrt(expected[0, 0]))
    test = delong_test(labels, components[:, :1] - components[:, 1:])
    error = math.sqrt(np.array([1, -1]) @ expected @ np.array([1, -1]))
    assert test.mean[0] == pytest.approx(auc(labels, first) - auc(labels, second))
    assert test.p[0] == pytest.approx(math.erfc(abs(test.mean[0]) / error / math.sqrt(2)))
    assert (test.high - test.low)[0] / 2 == pytest.approx(ndtri(0.975) * error)


def test_rows_of_a_group_count_together() -> None:
    """Obuchowski's formula by loops, and against resampled groups."""
    labels, first, users = world(4, n=900, users=60)
    second = first + 0.7 * np.random.default_rng(5).normal(size=900)
    second += np.random.default_rng(6).normal(size=60)[users // 7]  # wrong about users as a whole
    groups = np.unique(users, return_inverse=True)[1]
    components = np.stack([auc_components(labels, first), auc_components(labels, second)], axis=1)
    found = delong_covariance(labels, components, groups)

    up, down = (components[labels == value].mean(axis=0) for value in (1, 0))
    m, n = labels.sum(), (1 - labels).sum()
    sums = np.array(
        [
            [(components[own & (labels == value)] - mean).sum(axis=0) for value, mean in ((1, up), (0, down))]
            for own in (groups == g for g in range(60))
        ]
    )  # (groups, which label, model)
    expected = np.zeros((2, 2))
    for label, size in ((1, m), (0, n)):
        there = len(np.unique(groups[labels == label]))
        own = sums[:, 1 - label]
        expected += there / (there - 1) * own.T @ own / size**2
    cross = 60 / 59 * sums[:, 0].T @ sums[:, 1] / (m * n)
    assert found == pytest.approx(expected + cross + cross.T)

    generator, rows = np.random.default_rng(0), [np.flatnonzero(groups == g) for g in range(60)]
    drawn = [np.concatenate([rows[g] for g in generator.integers(0, 60, 60)]) for _ in range(1500)]
    resampled = np.cov(
        [[auc(labels[d], scores[d]) for scores in (first, second)] for d in drawn], rowvar=False
    )
    assert np.sqrt(np.diag(found)) == pytest.approx(np.sqrt(np.diag(resampled)), rel=0.1)

    alone = np.random.default_rng(7).permutation(900)
    assert delong_covariance(labels, components, alone) == pytest.approx(
        delong_covariance(labels, components)
    )
    with pytest.raises(DataError, match="of 2 groups"):
        delong_covariance(labels, components, np.where(labels == 1, 0, groups))


def test_groups_keep_chance_findings_rare() -> None:
    """Two models err about whole users, each about others: neither is the better one."""
    groups = np.repeat(np.arange(40), 20)
    found, naive = 0, 0
    for seed in range(300):
        generator = np.random.default_rng(seed)
        labels = (generator.random(800) < 0.4).astype(np.int8)
        first, second = (
            labels + generator.normal(size=800) + generator.normal(size=40)[groups] for _ in range(2)
        )
        differences = (auc_components(labels, first) - auc_components(labels, second))[:, None]
        found += delong_test(labels, differences, groups).p[0] < 0.05
        losses = (row_losses(labels, first) - row_losses(labels, second))[:, None]
        naive += paired_t_test(losses).p[0] < 0.05
        found += paired_t_test(losses, groups).p[0] < 0.05
    assert 14 <= found <= 46  # 30 expected of 600
    assert naive > 45  # 15 were promised


def test_components_of_seeds_average_to_those_of_the_mean_auc() -> None:
    labels, scores, _ = world(0)
    seeds = [scores + np.random.default_rng(seed).normal(size=len(scores)) for seed in range(3)]
    mean = np.mean([auc_components(labels, one) for one in seeds], axis=0)
    assert delong_interval(labels, mean)[0] == pytest.approx(np.mean([auc(labels, one) for one in seeds]))
    # luck of a seed averages out: the mean AUC is surer than that of one
    _, low, high = delong_interval(labels, mean)
    _, own_low, own_high = delong_interval(labels, auc_components(labels, seeds[0]))
    assert high - low < own_high - own_low


def test_same_ranks_are_no_difference_and_perfect_ranks_have_no_spread() -> None:
    labels, scores, _ = world(7)
    same = auc_components(labels, scores) - auc_components(labels, np.exp(scores))
    # thirds do not add up exactly: an error of rounding alone may not make the difference significant
    rounding = same + np.where(np.arange(len(labels)) % 2, 1e-17, 0.0)
    test = delong_test(labels, np.stack([same, rounding], axis=1))
    assert test.p.tolist() == [1.0, 1.0]
    perfect = auc_components(labels, labels.astype(float))
    assert delong_interval(labels, perfect) == (1.0, 1.0, 1.0)
    assert delong_test(labels, (perfect - (1 - perfect))[:, None]).p[0] == 0.0
    with pytest.raises(DataError, match="at least 2 clicked"):
        delong_interval(np.array([1, 0, 0]), np.ones(3))


def test_intervals_cover_the_truth_and_chance_findings_are_as_rare_as_promised() -> None:
    """Clicked rows are one standard deviation higher: the AUC is Φ(1 / √2)."""
    truth, labels = 0.7602499389065233, np.arange(150) < 50
    covered, found = 0, 0
    for seed in range(400):
        generator = np.random.default_rng(seed)
        shared = generator.normal(size=150) * 0.8
        first, second = (labels + shared + 0.6 * generator.normal(size=150) for _ in range(2))
        components = auc_components(labels, first)
        _, low, high = delong_interval(labels, components)
        covered += low <= truth <= high
        found += delong_test(labels, (components - auc_components(labels, second))[:, None]).p[0] < 0.05
    assert 366 <= covered <= 393  # 380 expected, standard deviation 4.4
    assert 9 <= found <= 34  # 20 expected
