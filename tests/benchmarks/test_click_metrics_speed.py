"""AUC within all groups by one sort against scikit-learn's AUC group by group."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mmrec.click_metrics import GroupedAUC, grouped_auc

pytestmark = pytest.mark.bench

N_ROWS, N_USERS = 1_000_000, 50_000


def test_gauc_is_fifty_times_as_fast_as_a_loop_over_users() -> None:
    generator = np.random.default_rng(0)
    users = generator.integers(0, N_USERS, N_ROWS)
    scores = generator.normal(size=N_ROWS).round(3)  # ties, too
    labels = generator.random(N_ROWS) < 0.3
    order = np.argsort(users, kind="stable")  # so that the loop does not have to search for a user's rows
    ends = np.cumsum(np.bincount(users))

    def ours() -> GroupedAUC:
        return grouped_auc(labels, scores, users)

    def loop() -> tuple[float, float]:
        aucs, rows = [], []
        for own in np.split(order, ends[:-1]):
            clicked = labels[own]
            if 0 < clicked.sum() < len(own):
                aucs.append(roc_auc_score(clicked, scores[own]))
                rows.append(len(own))
        return float(np.average(aucs, weights=rows)), float(np.mean(aucs))

    times = []
    for _ in range(5):  # the loop takes minutes, which is measurement enough
        start = time.perf_counter()
        found = ours()
        times.append(time.perf_counter() - start)
    start = time.perf_counter()
    gauc, avgauc = loop()
    theirs = time.perf_counter() - start
    ratio = theirs / float(np.median(times))
    print(f"ours {np.median(times) * 1e3:.0f} ms, other {theirs * 1e3:.0f} ms, ratio {ratio:.0f}")
    assert found.gauc == pytest.approx(gauc)
    assert found.avgauc == pytest.approx(avgauc)
    assert ratio >= 50
