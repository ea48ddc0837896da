"""The paired bootstrap against the plain one, its error rate, the t-test, and Holm's correction by hand."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats

from mmrec.significance import bootstrap_means, holm, paired_bootstrap, paired_t_test


def plain_bootstrap(differences: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Draw n users, take the mean, again and again."""
    n = len(differences)
    return np.array([differences[generator.integers(0, n, n)].mean(axis=0) for _ in range(resamples)])


def sparse_differences(n: int, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    """As of recall: most users 0, a few ±1, ±1/2, ±1/3; the second column is another metric of the same users."""
    generator = np.random.default_rng(seed)
    values = generator.choice([-1, -1 / 2, -1 / 3, 1 / 3, 1 / 2, 1], n) * (generator.random(n) < 0.2)
    return np.stack([values + shift * (generator.random(n) < 0.05), values * generator.random(n)], axis=1)


def test_same_distribution_as_the_plain_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmrec.significance._CELLS", 2000)  # several blocks, the last one smaller
    differences = sparse_differences(150)
    fast = bootstrap_means(differences, 6000, np.random.default_rng(1))
    plain = plain_bootstrap(differences, 6000, np.random.default_rng(2))
    spread = plain.std(axis=0)
    assert fast.mean(axis=0) == pytest.approx(plain.mean(axis=0), abs=0.06 * spread.min())
    assert fast.std(axis=0) == pytest.approx(spread, rel=0.04)
    for q in (0.025, 0.25, 0.75, 0.975):
        assert np.quantile(fast, q, axis=0) == pytest.approx(
            np.quantile(plain, q, axis=0), abs=0.15 * spread.max()
        )
    # the columns are resampled together, so their means keep their correlation
    assert np.corrcoef(fast.T)[0, 1] == pytest.approx(np.corrcoef(plain.T)[0, 1], abs=0.03)


def test_users_without_difference_count() -> None:
    """Zeros shrink mean and spread: 25 ones among 100 users have the spread of a binomial share."""
    differences = np.zeros((100, 1))
    differences[:25] = 1.0
    means = bootstrap_means(differences, 20_000, np.random.default_rng(0))
    assert means.mean() == pytest.approx(0.25, abs=0.002)
    assert means.std() == pytest.approx(np.sqrt(0.25 * 0.75 / 100), rel=0.03)


def test_every_user_differs() -> None:
    test = paired_bootstrap(np.full((40, 1), 0.5), 100, np.random.default_rng(0))
    assert (test.mean, test.low, test.high) == (0.5, 0.5, 0.5)
    assert test.p == pytest.approx(2 / 101)  # as small as 100 resamples can show


def test_no_difference_at_all() -> None:
    test = paired_bootstrap(np.zeros((40, 2)), 100, np.random.default_rng(0))
    assert test.p.tolist() == [1.0, 1.0]
    assert test.low.tolist() == test.high.tolist() == [0.0, 0.0]


def test_sums_that_cancel_are_zero_despite_rounding() -> None:
    thirds = np.array([1 / 3, -1 / 3, 0.1, -0.1, 0.2, -0.2])[:, None]
    means = bootstrap_means(thirds, 2000, np.random.default_rng(0))
    assert not ((np.abs(means) < 1e-12) & (means != 0)).any()
    assert (means == 0).any()


def test_p_value_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    means = np.array([[-0.1, 0.0], [0.2, 0.0], [0.3, 0.1], [0.4, 0.1]])
    monkeypatch.setattr("mmrec.significance.bootstrap_means", lambda *_: means)
    test = paired_bootstrap(np.ones((3, 2)), 4, np.random.default_rng(0))
    # column 0: one of four at or below 0, three at or above; column 1: two at or below, all four at or above
    assert test.p == pytest.approx([2 * (1 + 1) / 5, min(1.0, 2 * (1 + 2) / 5)])


def test_planted_difference_is_found_and_its_interval_covers_it() -> None:
    differences = sparse_differences(3000, shift=1.0)
    test = paired_bootstrap(differences, 2000, np.random.default_rng(0))
    assert test.p[0] < 0.002
    assert test.p[1] > 0.05
    assert test.low[0] < 0.05 < test.high[0]
    half_width = 1.96 * differences[:, 0].std() / np.sqrt(3000)
    assert (test.high[0] - test.low[0]) / 2 == pytest.approx(half_width, rel=0.1)


def test_weighted_means_against_the_plain_bootstrap() -> None:
    generator = np.random.default_rng(0)
    weights = generator.integers(1, 30, 120)
    differences = generator.normal(0.1, 1, (120, 2)) / np.sqrt(weights)[:, None]
    test = paired_bootstrap(differences, 6000, np.random.default_rng(1), weights)
    draws = [generator.integers(0, 120, 120) for _ in range(6000)]
    plain = np.array([np.average(differences[draw], axis=0, weights=weights[draw]) for draw in draws])
    assert test.mean == pytest.approx(np.average(differences, axis=0, weights=weights))
    assert test.low == pytest.approx(np.quantile(plain, 0.025, axis=0), abs=0.1 * plain.std())
    assert test.high == pytest.approx(np.quantile(plain, 0.975, axis=0), abs=0.1 * plain.std())
    share = (plain <= 0).mean(axis=0)
    assert test.p == pytest.approx(2 * np.minimum(share, 1 - share), abs=0.03)
    equal = paired_bootstrap(differences, 500, np.random.default_rng(2), np.full(120, 7))
    assert equal.mean == pytest.approx(differences.mean(axis=0))


def test_t_test_against_scipy_and_the_bootstrap() -> None:
    generator = np.random.default_rng(3)
    differences = generator.exponential(1, (400, 2)) - [0.95, 1.02]
    test = paired_t_test(differences)
    mean, error = differences.mean(axis=0), stats.sem(differences)
    assert test.p == pytest.approx(2 * stats.t.sf(np.abs(mean) / error, 399))
    low, high = stats.t.interval(0.95, 399, mean, error)
    assert test.low == pytest.approx(low)
    assert test.high == pytest.approx(high)
    assert test.p == pytest.approx(paired_bootstrap(differences, 4000, generator).p, abs=0.05)
    constant = paired_t_test(np.stack([np.zeros(5), np.full(5, 0.5), np.full(5, 1e-18)], axis=1))
    assert constant.p.tolist() == [1.0, 0.0, 1.0]


def test_chance_findings_are_as_rare_as_promised() -> None:
    """1,000 comparisons of models without any true difference: about 5 % below 0.05."""
    found = 0
    for world in range(500):
        generator = np.random.default_rng(world)
        differences = sparse_differences(300, seed=1000 + world)
        found += int((paired_bootstrap(differences, 400, generator).p < 0.05).sum())
    assert 20 <= found <= 85  # 50 expected; the two columns of a world are dependent


def test_same_seed_same_test() -> None:
    differences = sparse_differences(200)
    first, second = (paired_bootstrap(differences, 300, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first.p, second.p)
    assert np.array_equal(first.low, second.low)


def test_holm_by_hand() -> None:
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04; the last may not fall below 0.06
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.6, 0.7])) == pytest.approx([1.0, 1.0])
    assert holm(np.array([0.04])) == pytest.approx([0.04])
    assert len(holm(np.zeros(0))) == 0


def test_large_tables_take_seconds() -> None:
    """A tenth of the draws for 35,598 users, 10 rows, 4 metrics and 10,000 resamples: 0.3 s, here with wide slack."""
    generator = np.random.default_rng(0)
    differences = generator.normal(size=(35_598, 36)) * (generator.random((35_598, 1)) < 0.3)
    start = time.perf_counter()
    paired_bootstrap(differences, 1000, generator)
    assert time.perf_counter() - start < 3
