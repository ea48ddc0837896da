"""Negative sampling against a Python loop; an epoch with frozen features against one with trained ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from mmrec.data.batches import NegativeSampler, PairBatches
from mmrec.data.dataset import TrainingData, unique_pairs
from mmrec.data.histories import Histories
from mmrec.devices import computes_bfloat16
from mmrec.encode.features import FeatureTable
from mmrec.graph import edges, normalize_bipartite, prune_edges
from mmrec.memory import keep_freed_memory
from mmrec.models.graph import cm3 as cm3_module
from mmrec.models.graph import freedom as freedom_module
from mmrec.models.graph.cm3 import CM3
from mmrec.models.graph.freedom import FREEDOM
from tests.benchmarks.plain import PlainCM3, PlainFREEDOM
from tests.benchmarks.timing import compare_times

pytestmark = pytest.mark.bench

N_USERS, N_ITEMS, N_PAIRS = 19_445, 7_050, 118_551


@pytest.fixture(scope="module")
def data() -> TrainingData:
    """Random pairs and features of the size of Amazon Baby; memory is kept, as the training loop does."""
    keep_freed_memory()
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


def epoch_of(
    data: TrainingData, model: Any, *, steps: int, on_epoch: Callable[[], None]
) -> Callable[[], None]:
    """A function that runs the first steps of an epoch of batches of 2,048."""
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    batches = PairBatches(data, 2048)

    def run() -> None:
        on_epoch()
        for batch in islice(batches.epoch(torch.Generator().manual_seed(1)), steps):
            optimizer.zero_grad(set_to_none=True)
            loss = model.loss(batch)
            (loss if isinstance(loss, torch.Tensor) else torch.stack(list(loss.values())).sum()).backward()
            optimizer.step()

    return run


def freedom(data: TrainingData, **params: Any) -> Callable[[], None]:
    model = FREEDOM(freedom_module.Config(**params), data)
    return epoch_of(data, model, steps=58, on_epoch=lambda: model.on_epoch(torch.Generator().manual_seed(0)))


def test_frozen_features_make_a_freedom_epoch_several_times_faster(data: TrainingData) -> None:
    frozen, trained = freedom(data), freedom(data, train_features=True)
    ratio = compare_times(frozen, trained, rounds=3)
    print(f"an epoch with trainable feature tables takes {ratio:.1f} times as long")
    assert ratio > 1.5


def in_precision(precision: str, run: Callable[[], None]) -> Callable[[], None]:
    """The same under autocast, skipped where bfloat16 would only be emulated."""
    if precision == "bfloat16" and not computes_bfloat16(torch.device("cpu")):
        pytest.skip("this processor has no bfloat16 products")

    def autocast() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            run()

    return autocast


# Most of a step is two products with the wide features, of images above all: in float32 they bound the ratio.
each_precision = pytest.mark.parametrize(("precision", "ratio"), [("float32", 2), ("bfloat16", 5)])


@each_precision
def test_a_freedom_epoch_is_several_times_as_fast_as_its_plain_form(
    data: TrainingData, precision: str, ratio: int
) -> None:
    ours, plain = in_precision(precision, freedom(data)), PlainFREEDOM(data)

    def prune() -> None:
        users, items = edges(data.train)
        kept = prune_edges(users, items, 0.8, torch.Generator().manual_seed(0))
        plain.on_epoch(normalize_bipartite(users[kept], items[kept], N_USERS, N_ITEMS))

    assert compare_times(ours, epoch_of(data, plain, steps=58, on_epoch=prune), rounds=3) >= ratio


@each_precision
def test_a_cm3_epoch_is_several_times_as_fast_as_its_plain_form(
    data: TrainingData, precision: str, ratio: int
) -> None:
    # Every step costs the same, so a part of an epoch (58 steps) stands for all of it.
    model = CM3(cm3_module.Config(), data)
    ours = in_precision(precision, epoch_of(data, model, steps=10, on_epoch=lambda: None))
    plain = epoch_of(data, PlainCM3(data), steps=10, on_epoch=lambda: None)
    assert compare_times(ours, plain, rounds=3) >= (6 if precision == "bfloat16" else ratio)
