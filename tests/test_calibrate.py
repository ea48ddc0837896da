"""Planted miscalibration is recovered, nothing gets worse, no order changes; what has no best scale is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from mmrec.calibrate import Calibration, Kind, fit_calibration
from mmrec.click_metrics import auc, bias, calibration_error, logloss
from mmrec.errors import ConfigError, DataError


def planted(scale: float, offset: float, n: int = 20_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and logits that need this scale and offset."""
    generator = np.random.default_rng(seed)
    true = generator.normal(-1.0, 1.5, n)
    return generator.random(n) < expit(true), (true - offset) / scale


@pytest.mark.parametrize(("scale", "offset"), [(0.25, -0.8), (4.0, 1.5), (1.0, 0.0), (1e-3, 0.0)])
def test_planted_miscalibration_is_recovered(scale: float, offset: float) -> None:
    labels, logits = planted(scale, offset)
    found = fit_calibration(labels, logits, "platt")
    assert found.scale == pytest.approx(scale, rel=0.06)
    assert found.apply(logits) == pytest.approx(scale * logits + offset, abs=0.3)
    assert bias(labels, found.probabilities(logits)) == pytest.approx(1.0, abs=1e-6)
    assert auc(labels, found.apply(logits)) == auc(labels, logits)
    # and it holds on other rows
    fresh, raw = planted(scale, offset, seed=1)
    assert calibration_error(fresh, found.probabilities(raw)) < 0.012
    only_scaled = fit_calibration(labels, planted(scale, 0.0)[1], "temperature")
    assert only_scaled.scale == pytest.approx(scale, rel=0.06)
    assert only_scaled.offset == 0.0


def test_against_logistic_regression() -> None:
    labels, logits = planted(0.3, 2.0, n=3000)
    found = fit_calibration(labels, logits, "platt")
    plain = LogisticRegression(C=np.inf, tol=1e-10).fit(logits[:, None], labels)
    assert found.scale == pytest.approx(plain.coef_[0, 0], rel=1e-5)
    assert found.offset == pytest.approx(plain.intercept_[0], rel=1e-5)
    one = fit_calibration(labels, logits, "temperature")
    grid = one.scale * np.linspace(0.9, 1.1, 41)
    assert one.scale == pytest.approx(grid[np.argmin([logloss(labels, s * logits) for s in grid])])


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(-6, 6)), min_size=4, max_size=30),
    st.sampled_from([1e-6, 1.0, 300.0]),
    st.sampled_from(["temperature", "platt"]),
)
def test_never_worse_on_the_rows_it_was_fitted_on(
    rows: list[tuple[bool, int]], size: float, kind: Kind
) -> None:
    labels, logits = np.array([row[0] for row in rows]), np.array([row[1] for row in rows]) * size
    try:
        found = fit_calibration(labels, logits, kind)
    except DataError:  # what is refused is tested below
        return
    assert logloss(labels, found.apply(logits)) <= logloss(labels, logits) + 1e-12
    assert auc(labels, found.apply(logits)) == auc(labels, logits)
    if kind == "platt":  # at the minimum the mean prediction is the observed share
        assert expit(found.apply(logits)).mean() == pytest.approx(labels.mean(), abs=1e-6)


def test_saturated_logits_do_no_harm() -> None:
    labels, logits = planted(1.0, 0.0, n=2000)
    found = fit_calibration(labels, logits * 1e5, "platt")
    assert found.scale == pytest.approx(1e-5, rel=0.1)


@pytest.mark.parametrize("kind", ["temperature", "platt"])
def test_what_has_no_best_scale_is_refused(kind: Kind) -> None:
    labels = np.array([0, 0, 1, 1])
    with pytest.raises(DataError, match="the best scale is infinite"):
        fit_calibration(labels, np.array([-2.0, -1.0, 1.0, 2.0]), kind)
    with pytest.raises(DataError, match="the best scale is infinite"):  # all but the rows of one value
        fit_calibration(labels, np.array([-2.0, 0.0, 0.0, 2.0]), kind)
    for reverse in ([2.0, 1.0, -1.0, -2.0], [2.0, -1.0, 1.0, -2.0]):
        with pytest.raises(DataError, match="would turn the order around"):
            fit_calibration(labels, np.array(reverse), kind)
    with pytest.raises(DataError, match="clicked and other rows"):
        fit_calibration(np.zeros(4), np.arange(4.0), kind)


def test_separated_by_another_threshold_than_zero_has_a_temperature() -> None:
    labels, logits = np.array([0, 0, 1, 1]), np.array([-1.0, 1.0, 2.0, 3.0])
    assert fit_calibration(labels, logits, "temperature").scale > 0
    with pytest.raises(DataError, match="others up to 1, clicked from 2"):
        fit_calibration(labels, logits, "platt")


def test_logits_that_are_all_equal() -> None:
    labels = np.array([1, 0, 0, 0])
    shifted = fit_calibration(labels, np.full(4, 0.1), "platt")
    assert shifted.scale == 1.0
    assert shifted.probabilities(np.full(4, 0.1)) == pytest.approx(np.full(4, 0.25))
    assert fit_calibration(labels, np.zeros(4), "temperature") == Calibration("temperature")


def test_none_is_the_logits_as_they_are() -> None:
    labels, logits = planted(2.0, 1.0, n=50)
    found = fit_calibration(labels, logits, "none")
    assert found == Calibration()
    assert np.array_equal(found.apply(logits), logits)
    with pytest.raises(ConfigError, match="did you mean 'platt'"):
        fit_calibration(labels, logits, "plat")  # type: ignore[arg-type]


def test_saved_and_read_back(tmp_path: Path) -> None:
    calibration = Calibration("platt", 0.1 + 0.2, -1 / 3)
    calibration.save(tmp_path)
    assert Calibration.load(tmp_path) == calibration
    for damaged in ('{"kind": "platt"}', "[]", '{"kind": "x", "scale": 1, "offset": 0}',
                    '{"kind": "platt", "scale": -1, "offset": 0}', '{"kind": "platt", "scale": null, "offset": 0}'):  # fmt: skip
        (tmp_path / "calibration.json").write_text(damaged)
        with pytest.raises(DataError, match="a scale above 0"):
            Calibration.load(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        Calibration.load(tmp_path / "nowhere")
