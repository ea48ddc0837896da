"""LR, FM and DeepFM against double sums."""

from __future__ import annotations

import torch

from mmrec.models.ctr.deepfm import DeepFM
from mmrec.models.ctr.fm import FM, pair_products
from mmrec.models.ctr.lr import LR
from tests.dense import assert_close
from tests.rows import area, build, fit, planted_rows, shaken, whole_batch

DATA = planted_rows(30)
BATCH = whole_batch(DATA)


def test_pairs_are_the_double_sum() -> None:
    vectors = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(4)
    for first in range(6):
        for second in range(first + 1, 6):
            expected += (vectors[:, first] * vectors[:, second]).sum(1)
    assert_close(pair_products(vectors), expected)


def test_lr_is_a_sum_of_weights() -> None:
    model = shaken(LR, DATA)
    assert_close(model.score(BATCH), model.inputs(BATCH).fields().squeeze(2).sum(1) + model.bias)


def test_lr_does_not_see_what_a_history_has_to_do_with_the_target() -> None:
    data = planted_rows(600)
    model = build(LR, data)
    fit(model, data)
    assert area(model, data) < 0.7  # where models that compare the two reach 0.95


def test_fm_and_deepfm() -> None:
    for kind, params in ((FM, {}), (DeepFM, {"hidden": (5, 4)})):
        model = shaken(kind, DATA, dim=3, **params)
        scores = model.score(BATCH)
        for row, fields in enumerate(model.inputs(BATCH).fields()):
            expected = model.bias + fields[:, 3].sum()
            for first in range(len(fields)):
                for second in range(first + 1, len(fields)):
                    expected = expected + fields[first, :3] @ fields[second, :3]
            if kind is DeepFM:
                state = torch.cat([field[:3] for field in fields])
                for layer in (0, 3, 6):
                    state = model.network[layer].weight @ state + model.network[layer].bias
                    state = state.clamp(min=0) if layer < 6 else state
                expected = expected + state[0]
            assert_close(scores[row], expected, 1e-4)
