"""MMGRec reads a set, whatever its order and padding, and never the item that it is to find."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec.codes.table import CodeTable, write_codes
from mmrec.data.batches import SetBatch, make_batches
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.errors import FeatureError
from mmrec.files import sha256_file, write_array
from mmrec.models.contracts import reads_sequences, scoring
from mmrec.models.generative.graph_vectors import Config as NoConfig
from mmrec.models.generative.graph_vectors import GraphVectors
from mmrec.models.generative.mmgrec import Config, MMGRec, RelationAttention
from mmrec.rank import rank
from tests.dense import assert_close
from tests.worlds import block_codes, planted_blocks

SMALL = {"dim": 16, "inner": 32, "heads": 2, "head_dim": 8, "layers": 2, "dropout": 0.0}
USERS = torch.tensor([0, 1, 2])
ITEMS = torch.tensor([[3, 9, 11, 0], [7, -1, -1, -1], [5, 4, -1, -1]])


def new(data: TrainingData | None = None, **params: object) -> MMGRec:
    torch.manual_seed(0)
    return MMGRec(Config(**{**SMALL, **params}), data or planted_blocks().data).eval()


def logits(model: MMGRec, users: Tensor, items: Tensor) -> list[Tensor]:
    """Of each code of item 6, for each user."""
    memory, present = model.encode(users, items)
    states = model.ids.states(memory, present, torch.full((len(users),), 6))
    return [model.ids.logits(states[:, level], level) for level in range(model.trie.levels)]


class Ordered(MMGRec):
    """What MMGRec must not be: the same with sinusoidal positions."""

    def encode(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        dim = self.config.dim
        places = torch.arange(items.shape[1])[:, None]
        waves = places / 10_000 ** (torch.arange(0, dim, 2) / dim)
        positions = torch.stack([waves.sin(), waves.cos()], 2).flatten(1)
        hook = self.input.register_forward_hook(lambda module, inputs, output: output + positions)
        try:
            return super().encode(users, items)
        finally:
            hook.remove()


class TestOrder:
    order = torch.tensor([2, 0, 3, 1])

    def test_permuted_items_give_permuted_states_and_the_same_codes(self) -> None:
        model = new()
        states, _ = model.encode(USERS[:1], ITEMS[:1])
        permuted, _ = model.encode(USERS[:1], ITEMS[:1, self.order])
        assert_close(permuted, states[:, self.order], 1e-5)
        for one, two in zip(
            logits(model, USERS[:1], ITEMS[:1]), logits(model, USERS[:1], ITEMS[:1, self.order]), strict=True
        ):
            assert_close(one, two, 1e-5)

    def test_with_positions_they_would_not(self) -> None:
        torch.manual_seed(0)
        model = Ordered(Config(**SMALL), planted_blocks().data).eval()
        one, two = (logits(model, USERS[:1], items)[0] for items in (ITEMS[:1], ITEMS[:1, self.order]))
        assert (one - two).abs().max() > 1e-3

    def test_an_order_of_time_is_not_asked_for(self) -> None:
        assert not reads_sequences(new())

    def test_scores_do_not_depend_on_the_order_of_the_history(self) -> None:
        data = planted_blocks().data
        model = new(data, max_items=3)  # everybody has more
        backwards = Histories(
            data.train.offsets, np.concatenate([data.train[user][::-1] for user in range(data.n_users)])
        )
        ids = np.arange(data.n_users)
        assert_close(scoring(model, backwards)(ids), scoring(model, data.train)(ids), 1e-5)


class TestRelation:
    def twin(self, layer: RelationAttention, states: Tensor, user: Tensor, n: int) -> Tensor:
        """The formula for one user's n items, head by head."""
        d = layer.out.in_features // layer.heads
        states = states[:n]
        own = [weight @ states.T for weight in layer.own.weight.split(layer.heads * d)]
        shared = [weight @ states.T for weight in layer.shared.weight.split(d)]
        related = [network(user) * part for network, part in zip(layer.scalars, shared, strict=True)]
        heads = []
        for head in range(layer.heads):
            query, key, value = (part[head * d : (head + 1) * d] for part in own)
            scores = (query.T @ key + related[0].T @ related[1]) / math.sqrt(d)
            heads.append(scores.softmax(1) @ (value + related[2]).T)
        return torch.cat(heads, 1) @ layer.out.weight.T

    def test_is_the_formula(self) -> None:
        torch.manual_seed(0)
        layer = RelationAttention(Config(**SMALL), 8)
        states, users = torch.randn(3, 4, 16), torch.randn(3, 8)
        found = layer(states, users, ITEMS >= 0)
        for row, n in enumerate((4, 1, 2)):
            assert_close(found[row, :n], self.twin(layer, states[row], users[row], n), 1e-5)
        other = layer(states, -users, ITEMS >= 0)
        assert not torch.allclose(found, other)

    def test_without_it_this_is_multi_head_attention(self) -> None:
        torch.manual_seed(0)
        layer = RelationAttention(Config(**SMALL), 8)
        for network in layer.scalars:
            torch.nn.init.zeros_(network[2].weight)
        plain = RelationAttention(Config(**SMALL), 0)
        plain.load_state_dict(
            {key: value for key, value in layer.state_dict().items() if key in ("own.weight", "out.weight")}
        )
        theirs = torch.nn.MultiheadAttention(16, 2, bias=False, batch_first=True)
        theirs.in_proj_weight.data, theirs.out_proj.weight.data = layer.own.weight.data, layer.out.weight.data
        states, users, present = torch.randn(3, 4, 16), torch.randn(3, 8), ITEMS >= 0
        expected, _ = theirs(states, states, states, key_padding_mask=~present)
        assert_close(layer(states, users, present)[present], expected[present], 1e-5)
        assert_close(plain(states, users, present)[present], expected[present], 1e-5)

    def test_switched_off_the_user_says_nothing(self) -> None:
        with_relation, without = new(), new(relation=False)
        for model, same in ((with_relation, False), (without, True)):
            one, two = (model.encode(users, ITEMS[:1])[0] for users in (USERS[:1], USERS[1:2]))
            assert torch.allclose(one, two) is same


class TestPadding:
    def test_says_nothing(self) -> None:
        model = new()
        wider = torch.cat([ITEMS, torch.full((3, 5), -1)], 1)
        for one, two in zip(logits(model, USERS, ITEMS), logits(model, USERS, wider), strict=True):
            assert_close(one, two, 1e-5)

    @pytest.mark.parametrize("items", [[7, -1], [-1, -1]])
    def test_one_item_or_none(self, items: list[int]) -> None:
        model = new().train()
        batch = SetBatch(torch.tensor([1]), torch.tensor([items]), torch.tensor([[4]]))
        total = torch.stack(list(model.loss(batch).values())).sum()
        total.backward()
        assert torch.isfinite(total)
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_one_reading_serves_several_targets() -> None:
    """The loss, and what it asks of the weights, are those of a reading for each target."""
    model = new()
    together = SetBatch(USERS, ITEMS, torch.tensor([[6, 8, 1], [2, -1, -1], [12, 0, -1]]))
    rows, columns = torch.nonzero(together.targets >= 0, as_tuple=True)
    alone = SetBatch(USERS[rows], ITEMS[rows], together.targets[rows, columns][:, None])
    gradients = []
    for batch in (together, alone):
        model.zero_grad()
        torch.stack(list(model.loss(batch).values())).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, two in zip(*gradients, strict=True):
        assert_close(one, two, 1e-5)


def learn(model: MMGRec, data: TrainingData, steps: int, size: int = 128) -> list[float]:
    """The loss of each step."""
    optimizer = torch.optim.Adam(model.train().parameters(), lr=5e-3)
    losses: list[float] = []
    for epoch in range(steps):
        for batch in make_batches(model, data, size).epoch(torch.Generator().manual_seed(epoch)):
            if len(losses) == steps:
                model.eval()
                return losses
            assert (
                not (batch.items[:, None] == batch.targets[:, :, None])
                .logical_and(batch.items[:, None] >= 0)
                .any()
            )
            optimizer.zero_grad()
            total = torch.stack(list(model.loss(batch).values())).sum()
            total.backward()
            optimizer.step()
            losses.append(float(total.detach()))
    return losses


@pytest.mark.parametrize("targets", [1, 4])
def test_blocks_are_learnt_and_noise_is_not(targets: int) -> None:
    planted = planted_blocks(n_users=60, n_items=40)
    data, users = planted.data, np.arange(60)
    model = new(data, targets=targets)
    losses = learn(model, data, 60)
    assert losses[-1] < 0.8 * losses[0]
    lists = rank(scoring(model, data.train), users, 40, 1, exclude=data.train).items
    assert (lists[:, 0] == planted.withheld).mean() > 0.9
    # held out of random pairs, with vectors that know nothing of them either, items are found as often as by chance
    rng = np.random.default_rng(0)
    rows = np.stack([rng.permutation(40)[:9] for _ in range(400)])
    noise = Histories(np.arange(401) * 8, np.ascontiguousarray(rows[:, :8]).ravel())
    table = block_codes(40, 400)
    vectors = {name: rng.normal(size=array.shape).astype(np.float32) for name, array in table.arrays.items()}
    table = CodeTable("noise", table.codes, table.sizes, arrays=vectors)
    random = TrainingData(400, 40, noise, {}, codes={"items": table})
    model = new(random, targets=targets)
    learn(model, random, 50)
    lists = rank(scoring(model, noise, k=10, exclude=noise), np.arange(400), 40, 10, exclude=noise).items
    found = (lists == rows[:, 8:]).any(1).mean()
    assert abs(found - 10 / 32) < 0.1  # four deviations


def test_graph_vectors_are_the_inner_products() -> None:
    data = planted_blocks().data
    model = GraphVectors(NoConfig(), data)
    model.fit(data)
    vectors = data.codes["items"].arrays
    found = scoring(model, data.train)(np.array([3, 1]))
    assert_close(found, torch.from_numpy(vectors["user_vectors"][[3, 1]] @ vectors["item_vectors"].T), 1e-5)


class TestVectors:
    def test_of_another_tokeniser_or_other_users(self) -> None:
        data = planted_blocks().data
        table = data.codes["items"]
        for bad, words in (
            (CodeTable("kmeans", table.codes, table.sizes), "graph-rqvae"),
            (block_codes(data.n_items, data.n_users + 1), "vectors of 24 users"),
        ):
            with pytest.raises(FeatureError, match=words):
                new(TrainingData(data.n_users, data.n_items, data.train, {}, codes={"items": bad}))

    def test_are_read_from_the_folder_of_the_codes(self, tmp_path: Path) -> None:
        table, folder = block_codes(20, 24), tmp_path / "graph"
        files = {}
        for name, array in table.arrays.items():
            write_array(folder / f"{name}.npy", array)
            files[f"{name}.npy"] = {"sha256": sha256_file(folder / f"{name}.npy")}
        opened = write_codes(folder, table.codes, table.sizes, {"files": files})
        assert opened.array("present") is None
        for name, array in table.arrays.items():
            found = opened.array(name)
            assert found is not None
            assert (found == array).all()
        data = planted_blocks().data
        own = TrainingData(data.n_users, data.n_items, data.train, {}, codes={"graph": opened})
        assert torch.equal(new(own).item_vectors, new(data).item_vectors)
        write_array(folder / "item_vectors.npy", table.arrays["item_vectors"] + 1)
        with pytest.raises(FeatureError, match="tokenize again"):
            new(own)
