"""TIGER learns what can be learnt, spells only items that exist, and reads histories as it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec.beam import generate, log_likelihood
from mmrec.codes.table import CodeTable
from mmrec.data.batches import make_batches
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.models.contracts import Users, scoring
from mmrec.models.generative.spelling import SemanticIDs
from mmrec.models.generative.tiger import TIGER, Config
from mmrec.rank import rank

pytestmark = pytest.mark.xdist_group("tiger")  # they share a trained model

N_ITEMS, N_USERS = 40, 600
SMALL = {"dim": 32, "inner": 64, "heads": 2, "head_dim": 16, "layers": 1, "dropout": 0.0}


def codes(seed: int = 0) -> CodeTable:
    places = np.random.default_rng(seed).permutation(64)[:N_ITEMS]
    return CodeTable("random", np.stack(np.unravel_index(places, (4, 4, 4)), 1).astype(np.int32), (4, 4, 4))


def chain(seed: int = 0, *, shortest: int = 1, shuffled: bool = False) -> TrainingData:
    """Users walk along one cycle of all items, from anywhere; shuffled, they walk nowhere in particular."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(N_ITEMS)
    starts, lengths = rng.integers(N_ITEMS, size=N_USERS), rng.integers(shortest, 9, size=N_USERS)
    rows = [
        order[(start + np.arange(length)) % N_ITEMS] for start, length in zip(starts, lengths, strict=True)
    ]
    if shuffled:
        rows = [rng.permutation(N_ITEMS)[: len(row)] for row in rows]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return TrainingData(
        N_USERS, N_ITEMS, Histories(offsets, np.concatenate(rows)), {}, codes={"items": codes()}
    )


def trained(data: TrainingData, epochs: int = 8, **params: object) -> TIGER:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TIGER(Config(**{**SMALL, "max_length": 3, **params}), data)
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        batches = make_batches(model, data, 64)
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, epochs)
        for epoch in range(epochs):
            for batch in batches.epoch(torch.Generator().manual_seed(epoch)):
                optimizer.zero_grad()
                torch.stack(list(model.loss(batch).values())).sum().backward()
                optimizer.step()
            decay.step()
    return model.eval()


@pytest.fixture(scope="module")
def learned() -> tuple[TIGER, TrainingData]:
    data = chain()
    return trained(data), data


def everyone(data: TrainingData) -> Users:
    return Users.of(data.train, np.arange(data.n_users))


def following(data: TrainingData) -> np.ndarray:
    """The item that follows each user's last one in the cycle."""
    order = np.random.default_rng(0).permutation(N_ITEMS)
    last = data.train.items[data.train.offsets[1:] - 1]
    return order[(np.argsort(order)[last] + 1) % N_ITEMS]


def test_a_chain_is_learnt(learned: tuple[TIGER, TrainingData]) -> None:
    model, data = learned
    lists = rank(scoring(model, data.train, k=1), np.arange(N_USERS), N_ITEMS, 1).items
    assert (lists[:, 0] == following(data)).mean() > 0.95


def test_noise_is_not() -> None:
    data = chain(shuffled=True)
    model = trained(data, epochs=2)
    lists = rank(scoring(model, data.train, k=1), np.arange(N_USERS), N_ITEMS, 1, exclude=data.train).items
    wanted = np.random.default_rng(9).integers(N_ITEMS, size=N_USERS)
    assert (lists[:, 0] == wanted).mean() < 0.12


@pytest.mark.parametrize("normalize", ["level", "permitted"])
def test_as_many_beams_as_items_are_the_exact_scores(normalize: str) -> None:
    data = chain()
    model = trained(data, epochs=1, normalize=normalize)
    among = normalize == "permitted"
    with torch.no_grad():
        users = Users.of(data.train, np.arange(50))
        items = torch.arange(N_ITEMS).expand(50, -1)
        exact = log_likelihood(model.speller(users), model.trie, items, among_children=among)
        found = generate(model.speller(users), model.trie, N_ITEMS, beams=N_ITEMS, among_children=among)
    assert torch.allclose(found.scores, exact.gather(1, found.items), atol=1e-4)
    assert torch.allclose(found.scores, exact.sort(dim=1, descending=True).values, atol=1e-4)
    if among:  # among the codes that can follow nothing is lost on IDs that no item has
        assert torch.allclose(exact.exp().sum(1), torch.ones(50), atol=1e-4)


def test_scores_are_the_training_loss_of_the_item(learned: tuple[TIGER, TrainingData]) -> None:
    model, data = learned
    batch = next(iter(make_batches(model, data, 16).epoch(torch.Generator().manual_seed(0))))
    histories = Histories(
        np.concatenate([[0], batch.lengths.cumsum(0).numpy()]), batch.items[batch.items >= 0].numpy()
    )
    with torch.no_grad():
        loss = sum(model.loss(batch).values())
        speller = model.speller(Users(batch.users.numpy(), histories))
        scores = log_likelihood(speller, model.trie, batch.targets[:, None])
    assert float(loss) == pytest.approx(-float(scores.mean()), rel=1e-4)


@pytest.mark.parametrize("k", [1, 7, N_ITEMS, N_ITEMS + 5])
def test_only_items_that_exist_once_each_and_none_that_was_seen(
    learned: tuple[TIGER, TrainingData], k: int
) -> None:
    model, data = learned
    lists = rank(
        scoring(model, data.train, k=k, exclude=data.train),
        np.arange(N_USERS),
        N_ITEMS,
        k,
        exclude=data.train,
    )
    for user, row in enumerate(lists.items):
        own = row[row >= 0]
        assert len(own) == min(k, N_ITEMS - data.train.counts[user])
        assert len(set(own.tolist())) == len(own)
        assert not set(own.tolist()) & set(data.train[user].tolist())


def test_a_user_without_items_and_one_with_more_than_the_window(learned: tuple[TIGER, TrainingData]) -> None:
    model, _ = learned
    long = np.random.default_rng(0).integers(N_ITEMS, size=70)
    users = Users(np.array([0, 1, 2]), Histories(np.array([0, 0, 70, 73]), np.concatenate([long, long[-3:]])))
    with torch.no_grad():
        found = generate(model.speller(users), model.trie, 5, beams=5)
    assert torch.isfinite(found.scores).all()
    assert torch.equal(found.items[1], found.items[2])  # only the last 3 are read


def test_a_block_of_users_is_each_of_them_alone(learned: tuple[TIGER, TrainingData]) -> None:
    model, data = learned
    ids = np.arange(6)
    with torch.no_grad():
        together = generate(model.speller(Users.of(data.train, ids)), model.trie, 5, beams=8)
        for user in ids:
            alone = generate(
                model.speller(Users.of(data.train, ids[user : user + 1])), model.trie, 5, beams=8
            )
            assert torch.allclose(alone.scores[0], together.scores[user], atol=1e-4)


class TestLoss:
    def spelling(self, softmax: str, temperature: float = 1.0) -> tuple[SemanticIDs, Tensor, Tensor, Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            ids = SemanticIDs(codes(), Config(**SMALL, softmax=softmax, temperature=temperature))
            memory = torch.randn(6, 5, 32)
        return ids, memory, torch.ones(6, 5, dtype=torch.bool), torch.arange(6)

    def test_among_permitted_codes_is_never_above_that_among_all(self) -> None:
        full, permitted = (
            ids.loss(*rest) for ids, *rest in (self.spelling("level"), self.spelling("permitted"))
        )
        assert full.keys() == permitted.keys()
        assert all(permitted[key] <= full[key] + 1e-6 for key in full)

    def test_a_level_with_one_child_costs_nothing_and_moves_nothing(self) -> None:
        table = CodeTable("path", np.array([[0, 3], [1, 2], [2, 2]], dtype=np.int32), (4, 4))
        ids = SemanticIDs(table, Config(**SMALL, softmax="permitted"))
        terms = ids.loss(torch.randn(3, 4, 32), torch.ones(3, 4, dtype=torch.bool), torch.arange(3))
        assert terms["code_1"] == 0
        terms["code_1"].backward()
        assert all(p.grad is None or (p.grad == 0).all() for p in ids.parameters())

    def test_a_temperature_of_one_is_cross_entropy_and_a_low_one_looks_at_the_hardest_code(self) -> None:
        logits = torch.tensor([[1.0, 0.9, -2.0, -3.0]], requires_grad=True)
        shares = []
        for temperature in (1.0, 0.05):
            (gradient,) = torch.autograd.grad(
                torch.nn.functional.cross_entropy(logits / temperature, torch.tensor([0])), logits
            )
            shares.append(float(gradient[0, 1] / gradient[0, 1:].sum()))
        assert shares[0] < 0.96 < 0.999 < shares[1]
        plain, hot = (ids.loss(*rest) for ids, *rest in (self.spelling("level"), self.spelling("level", 0.5)))
        assert not torch.allclose(plain["code_0"], hot["code_0"])
