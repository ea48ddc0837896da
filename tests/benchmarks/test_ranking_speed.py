"""Ranking with everything around it against the bare product and topk."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmrec.data.histories import Histories
from mmrec.evaluate import rank_and_measure
from mmrec.models.contracts import Vectors, scoring
from tests.benchmarks.timing import compare_times

pytestmark = pytest.mark.bench

N_USERS, N_ITEMS, DIM, KS = 19_445, 7_050, 64, (10, 20, 50)


class _Tables(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.users = torch.randn(N_USERS, DIM, generator=generator)
        self.items = torch.randn(N_ITEMS, DIM, generator=generator)

    def vectors(self) -> Vectors:
        return Vectors.from_tables(self.users, self.items)


def test_full_evaluation_takes_at_most_half_more_than_the_bare_product_and_topk() -> None:
    rng = np.random.default_rng(0)
    model = _Tables()
    train = Histories.from_pairs(
        np.concatenate([np.arange(N_USERS), rng.integers(0, N_USERS, 99_106)]),
        rng.integers(0, N_ITEMS, 118_551),
        N_USERS,
    )
    held = Histories.from_pairs(np.arange(N_USERS), rng.integers(0, N_ITEMS, N_USERS), N_USERS)
    slices = {"cold": rng.random(N_ITEMS) < 0.05, "without image": rng.random(N_ITEMS) < 0.2}
    groups = {"few": train.counts < 5, "many": train.counts >= 5}

    def ours() -> None:
        score = scoring(model, train)
        rank_and_measure(score, train, held, N_ITEMS, KS, item_slices=slices, user_slices=groups)

    def bare() -> None:
        for start in range(0, N_USERS, 1024):
            (model.users[start : start + 1024] @ model.items.T).topk(max(KS))

    ratio = compare_times(ours, bare)
    assert ratio >= 1 / 1.5
