"""MSCGRec: what is masked says nothing, biases are of two places, and only codes with alternatives count."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec.beam import log_likelihood
from mmrec.codes.table import CodeTable
from mmrec.data.batches import SequenceBatch, make_batches
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.errors import ConfigError
from mmrec.models.contracts import Users, scoring
from mmrec.models.generative.mscgrec import MSCGRec, target_source
from mmrec.rank import rank
from mmrec.transformer import relative_buckets
from tests.dense import assert_close
from tests.models import test_tiger as tiger
from tests.models.test_tiger import N_ITEMS, SMALL, chain, following

SOURCES = ("collaborative", "image", "text")


def codes(source: str, present: np.ndarray | None = None) -> CodeTable:
    table = tiger.codes(SOURCES.index(source))
    return CodeTable(source, table.codes, table.sizes, arrays={} if present is None else {"present": present})


def world(*sources: str, **present: np.ndarray) -> TrainingData:
    data = chain(shortest=3)
    tables = {source: codes(source, present.get(source)) for source in sources or SOURCES}
    return TrainingData(data.n_users, data.n_items, data.train, {}, codes=tables)


def new(data: TrainingData, **params: object) -> MSCGRec:
    torch.manual_seed(0)
    return MSCGRec(MSCGRec.config_type(**{**SMALL, **params}), data)


def one_batch(data: TrainingData, model: MSCGRec, size: int = 32) -> SequenceBatch:
    batch = next(iter(make_batches(model, data, size).epoch(torch.Generator().manual_seed(0))))
    assert isinstance(batch, SequenceBatch)
    return batch


def learn(model: MSCGRec, data: TrainingData, steps: int, size: int) -> list[float]:
    """The loss of each step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses: list[float] = []
    for epoch in range(steps):
        for batch in make_batches(model, data, size).epoch(torch.Generator().manual_seed(epoch)):
            if len(losses) == steps:
                return losses
            optimizer.zero_grad()
            total = torch.stack(list(model.loss(batch).values())).sum()
            total.backward()
            optimizer.step()
            losses.append(float(total.detach()))
    return losses


def test_a_chain_is_learnt() -> None:
    data = world()
    model = new(data, pool="item", max_length=4)
    learn(model, data, 160, 64)
    users = np.arange(200)
    lists = rank(scoring(model, data.train, k=1), users, N_ITEMS, 1).items
    assert (lists[:, 0] == following(data)[users]).mean() > 0.9


def test_loss_falls_where_every_code_is_read() -> None:
    data = world("collaborative", "text")
    losses = learn(new(data, max_length=3), data, 70, 64)
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:3])


class TestLoss:
    def among(self, softmax: str, change: Callable[[Tensor, int], Tensor] | None = None) -> dict[str, Tensor]:
        model = new(world(), softmax=softmax).eval()
        plain = model.ids.logits
        model.ids.logits = lambda states, level: (  # type: ignore[method-assign]
            plain(states, level) if change is None else change(plain(states, level), level)
        )
        memory = torch.randn(N_ITEMS, 3, 32, generator=torch.Generator().manual_seed(0))
        return model.ids.loss(memory, torch.ones(N_ITEMS, 3, dtype=torch.bool), torch.arange(N_ITEMS))

    def test_only_codes_that_can_follow_count(self) -> None:
        trie = new(world()).trie
        paths = trie.paths

        def change(logits: Tensor, level: int) -> Tensor:
            children = trie.following(level, paths[:, level])
            possible = torch.zeros_like(logits, dtype=torch.bool)
            possible.scatter_(1, children.codes, True)
            return torch.where(possible, logits, logits + 100)

        plain, changed = self.among("permitted"), self.among("permitted", change)
        assert all(torch.equal(plain[key], changed[key]) for key in plain)
        assert self.among("level", change)["code_2"] > self.among("level")["code_2"] + 10

    def test_never_above_that_among_all_and_equal_where_every_code_can_follow(self) -> None:
        permitted, level = self.among("permitted"), self.among("level")
        assert_close(permitted["code_0"], level["code_0"])  # every code begins some ID
        assert permitted["code_2"] < level["code_2"]

    def test_a_level_without_choice_is_no_part_of_the_mean(self) -> None:
        data = world()
        plain = codes("collaborative")
        longer = np.concatenate([plain.codes, np.zeros((N_ITEMS, 1), dtype=np.int32)], 1)
        losses = []
        for table in (plain, CodeTable("longer", longer, (*plain.sizes, 3))):
            own = TrainingData(data.n_users, N_ITEMS, data.train, {}, codes={"items": table})
            model = new(own)
            batch = one_batch(own, model)
            terms = model.loss(batch)
            raw = model.ids.loss(*model.encode(batch.items), batch.targets)
            losses.append((terms, raw, model.choices[batch.targets]))
        terms, raw, choices = losses[1]
        assert terms["code_3"] == 0
        assert torch.equal(choices, losses[0][2])
        # the sum of all terms over the number of codes with alternatives
        expected = torch.stack(list(raw.values())).sum() * len(choices) / choices.sum()
        assert_close(torch.stack(list(terms.values())).sum(), expected)

    def test_among_all_codes_every_level_counts(self) -> None:
        data = world()
        model = new(data, softmax="level")
        assert (model.choices == 3).all()


class TestMasking:
    def test_a_masked_source_is_as_if_the_items_had_none_of_it(self) -> None:
        data, nothing = world(), np.zeros(N_ITEMS, dtype=bool)
        lacking = world(image=nothing, text=nothing)
        model, other = new(data), new(lacking)
        other.load_state_dict({**model.state_dict(), "there": other.there})
        items = torch.tensor([[3, 9, 11], [7, -1, -1]])
        model.train()
        model._masked = lambda n: torch.tensor([[False, True, True]]).expand(n, 3)  # type: ignore[method-assign]
        masked, present = model.encode(items)
        expected, _ = other.eval().encode(items)
        assert torch.isfinite(masked).all()
        assert_close(masked[present], expected[present], 1e-5)

    def test_codes_of_a_masked_source_say_nothing(self) -> None:
        model = new(world(text=np.zeros(N_ITEMS, dtype=bool))).eval()
        items = torch.tensor([[3, 9, 11]])
        before = model.encode(items)[0]
        model.tokens[:, 6:] = model.tokens[:, 6:].roll(1, 0)
        assert torch.equal(model.encode(items)[0], before)
        model.tokens[:, 3:6] = model.tokens[:, 3:6].roll(1, 0)
        assert not torch.allclose(model.encode(items)[0], before)

    def test_one_source_always_stays_and_all_are_masked_alike(self) -> None:
        masked = new(world(), p_mask=0.9)._masked(20_000)
        assert (masked.sum(1) < 3).all()
        assert masked.float().mean(0).std() < 0.01
        light = new(world(), p_mask=0.1)._masked(20_000).float().mean(0)
        assert ((light > 0.08) & (light < 0.11)).all()

    def test_a_single_source_is_never_masked(self) -> None:
        model = new(world("text"), p_mask=0.9)
        assert not hasattr(model, "absent")
        assert not model._masked(100).any()

    def test_nothing_is_masked_in_evaluation(self) -> None:
        model = new(world(), p_mask=0.9).eval()
        items = torch.tensor([[3, 9, 11]])
        assert torch.equal(model.encode(items)[0], model.encode(items)[0])


class TestBias:
    def test_is_that_of_two_loops(self) -> None:
        model = new(world())
        n, slots = 5, 9
        bias = model.bias(n)
        for a in range(n * slots):
            for b in range(n * slots):
                distance = torch.tensor(b // slots - a // slots)
                bucket = relative_buckets(distance, 32, both_ways=True)
                expected = model.item_bias.table[bucket] + model.slot_bias[a % slots, b % slots]
                assert_close(bias[:, a, b], expected, 1e-6)

    def test_near_items_have_buckets_of_their_own(self) -> None:
        distances = torch.arange(-7, 8)
        assert len(set(relative_buckets(distances, 32, both_ways=True).tolist())) == 15
        assert math.isclose(float(relative_buckets(torch.tensor(500), 32, both_ways=True)), 31)

    def test_other_slots_change_the_slot_bias_alone_and_other_items_the_item_bias_alone(self) -> None:
        model = new(world())
        bias = model.bias(4).view(2, 4, 9, 4, 9)
        differences = bias - bias[:, :, :1, :, :1]  # between slots: the same for each pair of items
        assert_close(differences, differences[:, :1, :, :1].expand_as(differences), 1e-5)
        assert_close(bias[:, 1:, :, 1:], bias[:, :-1, :, :-1], 1e-6)  # a shift by one item changes nothing

    def test_pooled_items_have_one_row_each(self) -> None:
        model = new(world(), pool="item").eval()
        states, present = model.encode(torch.tensor([[3, 9, 11], [7, -1, -1]]))
        assert states.shape == (2, 3, 32)
        assert present.tolist() == [[True] * 3, [True, False, False]]


def test_other_codes_of_a_candidate_say_nothing_about_it() -> None:
    data = world()
    model = new(data).eval()
    users = Users(np.zeros(1, dtype=np.int64), Histories(np.array([0, 3]), np.array([3, 9, 11])))
    items = torch.arange(N_ITEMS)[None]
    with torch.no_grad():
        before = log_likelihood(model.speller(users), model.trie, items)
        model.tokens[20, 3:] = model.tokens[21, 3:]
        assert torch.equal(log_likelihood(model.speller(users), model.trie, items), before)
        model.tokens[9, 3:] = model.tokens[21, 3:]
        assert not torch.allclose(log_likelihood(model.speller(users), model.trie, items), before)


def test_a_block_of_users_is_each_of_them_alone_and_padding_says_nothing() -> None:
    model = new(world()).eval()
    items = torch.tensor([[3, 9, 11], [7, -1, -1], [-1, -1, -1]])
    together, present = model.encode(items)
    assert torch.isfinite(together).all()
    for row in range(3):
        alone, own = model.encode(items[row : row + 1])
        assert_close(together[row][present[row]], alone[0][own[0]], 1e-5)


@pytest.mark.parametrize(
    ("names", "wanted", "found"),
    [
        (("text", "collaborative"), None, "collaborative"),
        (("text", "collaborative"), "text", "text"),
        (("text",), None, "text"),
    ],
)
def test_target(names: tuple[str, ...], wanted: str | None, found: str) -> None:
    assert target_source({name: codes(name) for name in names}, wanted) == found
    assert new(world(*names), target=wanted).sources[0] == found


def test_a_target_that_is_not_there_or_not_said() -> None:
    with pytest.raises(ConfigError, match="did you mean 'text'"):
        new(world("text", "image"), target="txt")
    with pytest.raises(ConfigError, match="add target"):
        new(world("text", "image"))
