"""LIGER: content is read and matched as the formulas say, and items that nobody has yet get into the lists."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec.beam import log_likelihood
from mmrec.data.batches import make_batches
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.encode.features import FeatureTable
from mmrec.models.contracts import Users, scoring
from mmrec.models.generative.liger import LIGER, Config, Content
from mmrec.rank import rank
from tests.dense import assert_close
from tests.models.test_tiger import N_ITEMS, SMALL, codes

N_COLD, N_USERS = 6, 600
ITEMS = torch.tensor([[3, 9, 11], [7, -1, -1]])


def features(modality: str, dim: int, absent: list[int]) -> FeatureTable:
    """Items lie on a circle, and their neighbours on it are much alike."""
    rng = np.random.default_rng(dim)
    angles = 2 * np.pi * np.arange(N_ITEMS) / N_ITEMS
    circle = np.stack([wave(turn * angles) for turn in (1, 2, 3) for wave in (np.sin, np.cos)], 1)
    vectors = (circle @ rng.normal(size=(6, dim))).astype(np.float32)
    present = np.ones(N_ITEMS, dtype=bool)
    present[absent] = False
    vectors[absent] = 0
    return FeatureTable(modality, modality, vectors, present)


def world(*, absent: bool = False) -> TrainingData:
    """Users walk along the circle, and nobody has been at the last items, which lie evenly on it."""
    rng = np.random.default_rng(0)
    cold = cold_items()
    warm = np.setdiff1d(np.arange(N_ITEMS), cold)
    starts, lengths = rng.integers(len(warm), size=N_USERS), rng.integers(2, 6, size=N_USERS)
    rows = [warm[(s + np.arange(n)) % len(warm)] for s, n in zip(starts, lengths, strict=True)]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tables = {
        "text": features("text", 8, [2, 9] if absent else []),
        "image": features("image", 12, [9, 11] if absent else []),
    }
    return TrainingData(
        N_USERS, N_ITEMS, Histories(offsets, np.concatenate(rows)), tables, codes={"items": codes()}
    )


def cold_items() -> np.ndarray:
    return np.arange(3, N_ITEMS, N_ITEMS // N_COLD)[:N_COLD]


def new(data: TrainingData, **params: object) -> LIGER:
    torch.manual_seed(0)
    return LIGER(Config(**{**SMALL, "content_inner": 32, "content_dropout": 0.0, **params}), data).eval()


@cache
def learned() -> dict[str, Tensor]:
    """The state of a trained model."""
    data = world()
    model = new(data).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for epoch in range(6):
        for batch in make_batches(model, data, 128).epoch(torch.Generator().manual_seed(epoch)):
            optimizer.zero_grad()
            terms = model.loss(batch)
            torch.stack(list(terms.values())).sum().backward()
            optimizer.step()
            losses.append(float(terms["dense"].detach()))
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    return model.state_dict()


def trained(**params: object) -> LIGER:
    model = new(world(), **params)
    model.load_state_dict(learned())
    return model


def scores(model: LIGER, n: int = 50, k: int | None = None, **masks: Histories) -> Tensor:
    return scoring(model, world().train, k=k, **masks)(np.arange(n)).clone()


class TestContent:
    def test_is_the_mean_of_what_an_item_has(self) -> None:
        tables = world(absent=True).features
        content = Content(tables, 16, 32, 0.0)
        found = content(torch.tensor([[2, 11], [9, 0]]))
        own = {}
        for network, modality in zip(content.networks, ("image", "text"), strict=True):
            rows = torch.from_numpy(tables[modality].vectors)
            own[modality] = network(rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12))
        assert_close(found[0, 0], own["image"][2])
        assert_close(found[0, 1], own["text"][11])
        assert_close(found[1, 0], content.absent)
        assert_close(found[1, 1], (own["image"][0] + own["text"][0]) / 2)

    def test_nothing_stands_for_absent_content_where_none_is(self) -> None:
        assert not hasattr(Content(world().features, 16, 32, 0.0), "absent")


class TestLoss:
    def test_is_that_of_a_loop(self) -> None:
        data = world()
        model = new(data, dense_temperature=0.2, dense_weight=0.7)
        batch = next(iter(make_batches(model, data, 5).epoch(torch.Generator().manual_seed(0))))
        terms = model.loss(batch)
        warm = [item for item in range(N_ITEMS) if item not in cold_items()]
        losses = []
        for row in range(5):
            memory = model.encode(batch.items[row : row + 1])
            state = model.ids.states(*memory, batch.targets[row : row + 1])[0, 0]
            query = model.dense(state)
            cosines = torch.stack(
                [torch.cosine_similarity(query, model.content(torch.tensor(item)), 0) for item in warm]
            )
            target = warm.index(int(batch.targets[row]))
            losses.append(-torch.log_softmax(cosines / 0.2, 0)[target])
        assert_close(terms["dense"], 0.7 * torch.stack(losses).mean(), 1e-5)

    def test_codes_are_those_of_spelling(self) -> None:
        data = world()
        model = new(data)
        batch = next(iter(make_batches(model, data, 5).epoch(torch.Generator().manual_seed(0))))
        terms = model.loss(batch)
        expected = model.ids.loss(*model.encode(batch.items), batch.targets)
        for key, value in expected.items():
            assert_close(terms[key], value)
        histories = Histories(
            np.concatenate([[0], batch.lengths.cumsum(0).numpy()]), batch.items[batch.items >= 0].numpy()
        )
        speller = model.speller(Users(batch.users.numpy(), histories))
        exact = log_likelihood(speller, model.trie, batch.targets[:, None])
        assert_close(torch.stack(list(expected.values())).sum(), -exact.mean(), 1e-4)


def test_reads_each_code_with_its_items_content_added() -> None:
    model = new(world())
    rows: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda module, inputs: rows.append(inputs[0]))
    model.encode(ITEMS)
    (read,) = rows
    levels = model.trie.levels
    for user, items in enumerate(ITEMS.tolist()):
        assert_close(read[user, 0], model.front)
        for place, item in enumerate(items):
            for level in range(levels):
                expected = torch.zeros(32)
                if item >= 0:
                    code = model.ids.offsets[level] + model.ids.codes[item, level]
                    expected = model.ids.embedding()[code] + model.content(torch.tensor(item))
                assert_close(read[user, 1 + place * levels + level], expected)


class TestScoring:
    def test_dense_scores_are_cosines(self) -> None:
        model = trained(scoring="dense")
        users = Users.of(world().train, np.arange(3))
        found = scores(model, 3)
        for row in range(3):
            memory, present = model.encode(torch.from_numpy(users.histories[row])[None])
            begin = model.ids.begin[None, None]
            query = model.dense(model.ids.decoder(begin, model.ids.decoder.read(memory, present))[0, 0])
            for item in range(N_ITEMS):
                cosine = torch.cosine_similarity(query, model.content(torch.tensor(item)), 0)
                assert_close(found[row, item], cosine / 0.07, 1e-4)

    def test_generative_scores_are_those_of_spelling(self) -> None:
        model = trained(scoring="generative")
        users = Users.of(world().train, np.arange(50))
        with torch.no_grad():
            exact = log_likelihood(
                model.speller(users), model.trie, torch.arange(N_ITEMS).expand(50, N_ITEMS)
            )
        assert_close(scores(model), exact, 1e-4)

    def test_with_as_many_candidates_as_items_rescored_is_dense(self) -> None:
        dense = scores(trained(scoring="dense"))
        assert torch.equal(scores(trained(beams=N_ITEMS), k=5), dense)
        assert torch.equal(scores(trained(beams=4)), dense)  # all are asked for

    def test_candidates_are_what_was_spelt_and_what_nobody_has(self) -> None:
        train = world().train
        dense, generative = scores(trained(scoring="dense")), scores(trained(scoring="generative"))
        found = scores(trained(beams=8), k=5, exclude=train)
        for user in range(50):
            permitted = generative[user].clone()
            permitted[torch.from_numpy(train[user])] = -torch.inf
            candidates = set((found[user] > -torch.inf).nonzero().squeeze(1).tolist())
            spelt = candidates - set(cold_items().tolist())
            assert set(cold_items().tolist()) <= candidates
            assert 8 - N_COLD <= len(spelt) <= 8
            assert not candidates & set(train[user].tolist())
            assert int(permitted.argmax()) in candidates  # beams do find the best one here
            own = sorted(candidates)
            assert torch.equal(found[user, own], dense[user, own])

    def test_cold_items_get_into_the_lists(self) -> None:
        """A walk ends just before a cold item: whoever goes by content goes there, who spells does not."""
        cold = cold_items()
        walks = [np.arange(item - 3, item) % N_ITEMS for item in cold]
        histories = Histories(np.arange(len(cold) + 1) * 3, np.concatenate(walks))
        ids = np.arange(len(cold))
        ranks = {}
        for how in ("rescored", "generative"):
            score = scoring(trained(scoring=how, beams=4), histories, k=4, exclude=histories)
            lists = rank(score, ids, N_ITEMS, 4, exclude=histories).items
            ranks[how] = sum(int(item) in row for item, row in zip(cold, lists.tolist(), strict=True))
        assert ranks["rescored"] >= N_COLD - 1
        assert ranks["generative"] < ranks["rescored"]

    @pytest.mark.parametrize("how", ["rescored", "dense", "generative"])
    def test_a_block_of_users_is_each_of_them_alone(self, how: str) -> None:
        model = trained(scoring=how)
        together = scores(model, 5, k=3)
        score = scoring(model, world().train, k=3)
        for user in range(5):
            assert_close(score(np.array([user]))[0], together[user], 1e-5)
