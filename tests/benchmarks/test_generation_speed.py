"""Spelling items against transformers' ``generate`` with a dictionary of prefixes, on the same weights; and how it grows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec.beam import generate
from mmrec.codes.table import CodeTable
from mmrec.codes.trie import Trie
from mmrec.data.batches import SequenceBatch
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.memory import keep_freed_memory, peak_memory
from mmrec.models.contracts import Users
from mmrec.models.generative.spelling import shape_of
from mmrec.models.generative.tiger import TIGER, Config
from tests.benchmarks.timing import compare_times
from tests.t5 import t5_of

pytestmark = pytest.mark.bench

N_ITEMS, LEVELS, SIZE, WIDTH, BATCH, LENGTH = 12_101, 4, 256, 20, 32, 20
FIRST = 2  # rows of the other's table before the codes: what an ID begins with, and the user


def random_codes(n_items: int, levels: int = LEVELS) -> CodeTable:
    """Unique random tuples, with as many prefixes as items from the third level on."""
    rng = np.random.default_rng(0)
    codes = np.unique(rng.integers(0, SIZE, (2 * n_items + 100, levels), dtype=np.int32), axis=0)
    return CodeTable("random", rng.permutation(codes)[:n_items], (SIZE,) * levels)


def world(table: CodeTable) -> tuple[TrainingData, Users]:
    """A batch of users with full histories."""
    rng = np.random.default_rng(1)
    histories = Histories(np.arange(BATCH + 1) * LENGTH, rng.integers(0, table.n_items, BATCH * LENGTH))
    data = TrainingData(BATCH, table.n_items, histories, {}, codes={"items": table})
    return data, Users(np.arange(BATCH), histories)


def build(table: CodeTable, **params: Any) -> tuple[TIGER, Users]:
    keep_freed_memory()
    data, users = world(table)
    torch.manual_seed(0)
    model = TIGER(Config(dim=128, inner=1024, heads=6, head_dim=64, layers=4, **params), data)
    return model.eval(), users


def as_t5(model: TIGER) -> Any:
    """transformers' T5 with the same weights, codes behind the beginning and the user in one table."""
    t5 = t5_of(
        model.encoder, model.bias, model.ids.decoder, shape_of(model.config), rows=FIRST + LEVELS * SIZE
    )
    with torch.no_grad():
        t5.shared.weight[0], t5.shared.weight[1] = model.ids.begin, model.users()[0]
        t5.shared.weight[FIRST:] = model.ids.embedding()
    return t5


def prefixes(table: CodeTable) -> Callable[[int, Tensor], list[int]]:
    """Which tokens may follow, from a dictionary of prefixes: how the field's repositories do it."""
    following: dict[tuple[int, ...], set[int]] = {}
    for row in table.codes.tolist():
        tokens = [FIRST + level * SIZE + code for level, code in enumerate(row)]
        for level in range(LEVELS):
            following.setdefault(tuple(tokens[:level]), set()).add(tokens[level])
    lists = {prefix: sorted(tokens) for prefix, tokens in following.items()}
    return lambda _, spelt: lists[tuple(spelt.tolist()[1:])]


def test_spelling_is_several_times_as_fast_as_transformers_generate() -> None:
    table = random_codes(N_ITEMS)
    model, users = build(table, normalize="permitted")
    t5, allowed = as_t5(model), prefixes(table)
    items = torch.from_numpy(users.histories.items).view(BATCH, LENGTH)
    offsets = FIRST + torch.arange(LEVELS) * SIZE
    tokens = (torch.from_numpy(table.codes).long()[items] + offsets).flatten(1)
    tokens = torch.cat([torch.ones(BATCH, 1, dtype=torch.int64), tokens], 1)

    def ours() -> Tensor:
        with torch.inference_mode():
            return generate(model.speller(users), model.trie, WIDTH, beams=WIDTH, among_children=True).items

    def theirs() -> Tensor:
        with torch.inference_mode():
            found: Tensor = t5.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                num_beams=WIDTH,
                num_return_sequences=WIDTH,
                max_new_tokens=LEVELS,
                do_sample=False,
                length_penalty=0.0,
                prefix_allowed_tokens_fn=allowed,
                renormalize_logits=True,
            )
        return found.view(BATCH, WIDTH, -1)[:, :, 1:] - offsets

    codes = torch.from_numpy(table.codes).long()
    assert (codes[ours()] == theirs()).all(2).float().mean() > 0.99  # but for rounding, the same lists

    def encoder() -> None:  # both have to run it: what bounds the ratio
        with torch.inference_mode():
            model.speller(users)

    print(f"ours takes {compare_times(encoder, ours, rounds=3):.1f} times as long as the encoder alone")
    assert compare_times(ours, theirs, rounds=3) >= 5


@pytest.mark.parametrize(("dropout", "least"), [(0.1, 1.0), (0.0, 0.9)])
def test_a_training_step_is_not_slower_than_that_of_transformers(dropout: float, least: float) -> None:
    """As it is trained, and without dropout: then both sides do the same products and hardly anything else."""
    table = random_codes(N_ITEMS)
    model, users = build(table, dropout=dropout)
    t5 = as_t5(model)
    for module in (model, t5):
        module.train()
    items = torch.from_numpy(users.histories.items).view(BATCH, LENGTH)
    targets = torch.arange(BATCH)
    offsets = FIRST + torch.arange(LEVELS) * SIZE
    codes = torch.from_numpy(table.codes).long()
    tokens = torch.cat([torch.ones(BATCH, 1, dtype=torch.int64), (codes[items] + offsets).flatten(1)], 1)
    batch = SequenceBatch(torch.arange(BATCH), items, torch.full((BATCH,), LENGTH), targets)

    def ours() -> None:
        model.zero_grad()
        torch.stack(list(model.loss(batch).values())).sum().backward()

    def theirs() -> None:
        t5.zero_grad()
        t5(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=codes[targets] + offsets
        ).loss.backward()

    assert compare_times(ours, theirs, rounds=5) >= least


def test_latency_against_beams_and_catalogue() -> None:
    print("\n| items | trie s | trie MiB | beams | ms for a batch of 32 |\n| --: | --: | --: | --: | --: |")
    slowest = {}
    for n_items in (1_000, 10_000, 100_000, 1_000_000):
        table = random_codes(n_items)
        before = peak_memory()
        begin = time.perf_counter()
        trie = Trie(table)
        built = time.perf_counter() - begin
        size = sum(part.numel() * part.element_size() for part in trie.buffers()) / 2**20
        peak = (peak_memory() - before) / 2**20
        assert size < 1024
        assert peak < 1024
        assert built < 10
        model, users = build(table)
        for width in (10, 20, 50, 100):
            speller = model.speller(users)
            times = []
            for _ in range(4):
                begin = time.perf_counter()
                with torch.inference_mode():
                    generate(speller, model.trie, 10, beams=width)
                times.append(time.perf_counter() - begin)
            slowest[n_items, width] = min(times)
            print(f"| {n_items:,} | {built:.2f} | {size:.1f} | {width} | {min(times) * 1e3:.0f} |")
    assert slowest[1_000_000, 20] < 5 * slowest[1_000, 20]
