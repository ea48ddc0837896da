"""The reliability diagram shows the table, the same bytes each time, and does without matplotlib."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from mmrec.calibrate import Calibration
from mmrec.click_metrics import reliability
from mmrec.click_plots import reliability_plot
from mmrec.errors import ConfigError


def overconfident(n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    true = generator.normal(-1, 1, n)
    return generator.random(n) < expit(true), true * 3


def test_it_draws_the_table_with_intervals_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    labels, logits = overconfident()
    drawn: list[Any] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **o: (drawn.append(self), save(self, *a, **o)))
    assert reliability_plot(tmp_path / "r.png", labels, logits, Calibration("platt", 1 / 3), bins=10)
    above, below = drawn[0].axes
    for container, p in zip(above.containers, (expit(logits), expit(logits / 3)), strict=True):
        table = reliability(labels, p, 10)
        points, _, (bars,) = container.lines
        assert points.get_xydata() == pytest.approx(np.stack([table.predicted, table.observed], axis=1))
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        assert ends == pytest.approx(np.stack([table.low, table.high], axis=1))
        assert f"ECE {table.error:.4f}, 10 bins of 200 rows" in container.get_label()
    edges = np.linspace(0, expit(logits).max(), 51)  # the same for both, so that the heights compare
    for patch, p in zip(below.patches, (expit(logits), expit(logits / 3)), strict=True):
        counts = np.histogram(p, edges)[0]
        assert np.clip(patch.get_xy()[1:-1:2, 1], 0.5, None) == pytest.approx(np.maximum(counts, 0.5))


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_same_rows_same_bytes(tmp_path: Path, suffix: str) -> None:
    first, second = (tmp_path / f"{name}{suffix}" for name in "ab")
    for path in (first, second):
        assert reliability_plot(path, *overconfident(300), title="model") == path
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")


def test_without_matplotlib_and_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"name it r\.png"):
        reliability_plot(tmp_path / "r.pdf", *overconfident(50))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert reliability_plot(tmp_path / "r.png", *overconfident(50)) is None
    assert "pip install 'mmrec[plot]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
