"""Negative sampling against a Python loop; an epoch with frozen features against one with trained ones."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from mmrec.data.batches import NegativeSampler, PairBatches
from mmrec.data.dataset import TrainingData, unique_pairs
from mmrec.data.histories import Histories
from mmrec.encode.features import FeatureTable
from mmrec.models.graph.freedom import FREEDOM, Config
from tests.benchmarks.timing import compare_times

pytestmark = pytest.mark.bench

N_USERS, N_ITEMS, N_PAIRS = 19_445, 7_050, 118_551


@pytest.fixture(scope="module")
def data() -> TrainingData:
    """Random pairs and features of the size of Amazon Baby."""
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, N_USERS, 2 * N_PAIRS), rng.integers(0, N_ITEMS, 2 * N_PAIRS)
    keep = np.flatnonzero(unique_pairs(users, items, N_ITEMS))[:N_PAIRS]
    features = {
        modality: FeatureTable(
            modality,
            modality,
            rng.standard_normal((N_ITEMS, dim), dtype=np.float32),
            np.ones(N_ITEMS, dtype=bool),
        )
        for modality, dim in (("image", 4096), ("text", 384))
    }
    return TrainingData(N_USERS, N_ITEMS, Histories.from_pairs(users[keep], items[keep], N_USERS), features)


def test_negative_sampling_is_fifty_times_as_fast_as_a_rejection_loop(data: TrainingData) -> None:
    sampler = NegativeSampler(data.train, N_ITEMS)
    users = torch.from_numpy(data.train.users)
    generator = torch.Generator().manual_seed(0)
    sets = [set(data.train[user].tolist()) for user in range(N_USERS)]
    candidates = np.unique(data.train.items).tolist()
    loop_users = users.tolist()
    draw = random.Random(0)

    def loop() -> list[int]:  # as the field's toolboxes write it
        negatives = []
        for user in loop_users:
            item = draw.sample(candidates, 1)[0]
            while item in sets[user]:
                item = draw.sample(candidates, 1)[0]
            negatives.append(item)
        return negatives

    assert compare_times(lambda: sampler.sample(users, generator), loop, rounds=5) >= 50


def test_frozen_features_make_a_freedom_epoch_several_times_faster(data: TrainingData) -> None:
    batches = PairBatches(data, 2048)

    def epoch(*, train_features: bool) -> None:
        torch.manual_seed(0)
        model = models[train_features]
        optimizer = optimizers[train_features]
        model.on_epoch(torch.Generator().manual_seed(0))
        for batch in batches.epoch(torch.Generator().manual_seed(1)):
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(model.loss(batch).values())).sum().backward()
            optimizer.step()

    models = {flag: FREEDOM(Config(train_features=flag), data) for flag in (False, True)}
    optimizers = {flag: torch.optim.Adam(model.parameters(), fused=True) for flag, model in models.items()}
    ratio = compare_times(lambda: epoch(train_features=False), lambda: epoch(train_features=True), rounds=3)
    print(f"an epoch with trainable feature tables takes {ratio:.1f} times as long")
    assert ratio > 1.5
