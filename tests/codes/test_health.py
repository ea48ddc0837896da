"""The health report by hand, and that a collapse is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmrec.codes.health import Health, check, measure, read_health
from mmrec.errors import FeatureError


def report(vectors: np.ndarray, codes: np.ndarray, rebuilt: np.ndarray, **changes: Any) -> Health:
    present = changes.pop("present", np.ones(len(vectors), dtype=bool))
    sizes = changes.pop("sizes", (4, 4))
    final = np.concatenate([codes, np.arange(len(codes))[:, None]], axis=1).astype(np.int32)
    return measure(
        vectors,
        present,
        codes,
        rebuilt,
        sizes,
        final,
        (*sizes, len(codes)),
        generator=torch.Generator().manual_seed(0),
    )


CODES = np.array([[0, 0], [0, 0], [1, 0], [1, 1], [2, 0], [2, 1], [3, 2], [3, 3]], dtype=np.int32)
VECTORS = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


def test_by_hand() -> None:
    health = report(VECTORS, CODES, VECTORS)
    first, second = health.levels
    assert (first.usage, first.prefixes, second.prefixes) == (1.0, 4, 7)
    assert first.perplexity == pytest.approx(4)
    assert first.balance == pytest.approx(1)
    shares = np.array([4, 2, 1, 1]) / 8
    assert second.perplexity == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert (health.largest_before, health.colliding) == (2, 0.25)
    assert health.reconstruction == pytest.approx(0)
    assert health.neighbourhood == pytest.approx(1)
    assert health.added_level == 8


def test_losing_everything() -> None:
    mean = np.broadcast_to(VECTORS.mean(0), VECTORS.shape)
    assert report(VECTORS, CODES, mean).reconstruction == pytest.approx(1, abs=1e-5)
    many = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    noise = np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32)
    codes = np.zeros((300, 2), dtype=np.int32)
    assert report(many, codes, noise).neighbourhood < 0.15


def test_items_without_content_do_not_count() -> None:
    present = np.arange(8) < 6
    vectors = np.where(present[:, None], VECTORS, 0)
    health = report(vectors, CODES, vectors, present=present)
    assert (health.absent, health.distinct) == (2, 6)
    assert health.levels[0].usage == 0.75
    assert health.levels[0].prefixes == 3


def test_collapse_is_refused_and_few_items_are_none() -> None:
    check(report(VECTORS, CODES, VECTORS))
    collapsed = CODES.copy()
    collapsed[:, 1] = 0
    with pytest.raises(FeatureError, match=r"25\.0% of 4 on level 2.*collapsed"):
        check(report(VECTORS, collapsed, VECTORS))
    check(report(VECTORS, CODES, VECTORS, sizes=(4, 4)))
    few = VECTORS[[0, 1] * 4]  # two distinct vectors cannot fill four codes
    check(report(few, np.array([[0, 1], [1, 0]] * 4, dtype=np.int32), few))


def test_written_and_read(tmp_path: Path) -> None:
    health = report(VECTORS, CODES, VECTORS)
    (tmp_path / "health.json").write_text(json.dumps(health.to_document()))
    assert read_health(tmp_path) == health
    assert "perplexity" in health.to_plain()
