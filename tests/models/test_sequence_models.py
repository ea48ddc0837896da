"""SASRec, GRU4Rec and HSTU against naive loops over one history, and the property tests of their papers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec.data.batches import HistoryBatch, HistoryBatches, HistoryPairBatches
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.errors import DataError
from mmrec.models.contracts import Users
from mmrec.rank import rank
from tests.dense import assert_close
from tests.learning import all_scores, new_model, scoring, step

NAMES = ("gru4rec", "hstu", "sasrec")
N_ITEMS = 9
SMALL: dict[str, Any] = {"dim": 6, "max_length": 5, "dropout": 0.0}

each_model = pytest.mark.parametrize("name", NAMES)


def of(*rows: list[int], n_items: int = N_ITEMS) -> TrainingData:
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    items = np.array([item for row in rows for item in row], dtype=np.int64)
    return TrainingData(len(rows), n_items, Histories.from_pairs(users, items, len(rows)), {})


DATA = of([3, 0, 5, 1, 7, 8, 2], [], [7], [2, 6], [4, 3, 1])


def shaken(name: str, data: TrainingData = DATA, **params: Any) -> Any:
    """A model in evaluation mode whose parameters are far from their initial values."""
    model = new_model(name, data, **{**SMALL, **params}).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def only_batch(
    data: TrainingData, kind: type[HistoryBatches] = HistoryBatches, length: int = 5
) -> HistoryBatch:
    return next(iter(kind(data, 100, length).epoch(torch.Generator().manual_seed(0))))


# ---- what one history gives, item by item, in float64 --------------------------------------------------------


def linear(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return rows @ weight.T + bias


def layer_norm(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = rows - rows.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


def sasrec_twin(p: dict[str, Tensor], history: list[int], heads: int) -> Tensor:
    dim, length = p["items"].shape[1], len(p["encoder.positions"])
    x = p["items"][history] * dim**0.5 + p["encoder.positions"][length - len(history) :]
    for n in range(2):
        own = {key.removeprefix(f"encoder.blocks.{n}."): value for key, value in p.items()}

        def dense(name: str, rows: Tensor, own: dict[str, Tensor] = own) -> Tensor:
            return linear(rows, own[f"{name}.weight"], own[f"{name}.bias"])

        a = layer_norm(x, own["norm.weight"], own["norm.bias"])
        queries, (keys, values) = dense("query", a), dense("pair", x).split(dim, 1)
        rows = []
        for t in range(len(history)):
            parts = []
            for head in range(heads):
                cut = slice(head * dim // heads, (head + 1) * dim // heads)
                logits = keys[: t + 1, cut] @ queries[t, cut] / (dim / heads) ** 0.5
                parts.append(logits.softmax(0) @ values[: t + 1, cut])
            rows.append(torch.cat(parts))
        b = layer_norm(a + torch.stack(rows), own["norm_out.weight"], own["norm_out.bias"])
        x = b + dense("second", dense("first", b).clamp(min=0))
    return layer_norm(x, p["encoder.norm.weight"], p["encoder.norm.bias"])


def gru4rec_twin(p: dict[str, Tensor], history: list[int], _: int) -> Tensor:
    hidden, states = torch.zeros(p["gru.weight_hh_l0"].shape[1], dtype=torch.float64), []
    for item in history:
        into = (p["gru.weight_ih_l0"] @ p["items"][item] + p["gru.bias_ih_l0"]).chunk(3)
        back = (p["gru.weight_hh_l0"] @ hidden + p["gru.bias_hh_l0"]).chunk(3)
        r, z = (into[0] + back[0]).sigmoid(), (into[1] + back[1]).sigmoid()
        hidden = (1 - z) * (into[2] + r * back[2]).tanh() + z * hidden
        states.append(linear(hidden, p["out.weight"], p["out.bias"]))
    return torch.stack(states)


def hstu_twin(p: dict[str, Tensor], history: list[int], heads: int) -> Tensor:
    dim, length = p["items"].shape[1], len(p["positions"])
    x = p["items"][history] * dim**0.5 + p["positions"][: len(history)]
    for n in range(2):
        own = {key.removeprefix(f"units.{n}."): value for key, value in p.items()}
        projected = linear(
            layer_norm(x, own["norm.weight"], own["norm.bias"]), own["into.weight"], own["into.bias"]
        )
        u, v, q, k = (projected * projected.sigmoid()).split(dim, 1)
        attended = torch.zeros_like(x)
        for i in range(len(history)):
            for j in range(i + 1):
                for head in range(heads):
                    cut = slice(head * dim // heads, (head + 1) * dim // heads)
                    logit = q[i, cut] @ k[j, cut] + own["distance"][i - j, head]
                    attended[i, cut] += logit * logit.sigmoid() / length * v[j, cut]
        gated = layer_norm(attended, own["norm_inner.weight"], own["norm_inner.bias"]) * u
        x = x + linear(gated, own["out.weight"], own["out.bias"])
    return x / x.norm(dim=1, keepdim=True) / 0.05


TWINS = {"gru4rec": gru4rec_twin, "hstu": hstu_twin, "sasrec": sasrec_twin}


@pytest.mark.parametrize(
    ("name", "params"),
    [("gru4rec", {}), ("hstu", {}), ("hstu", {"heads": 3}), ("sasrec", {}), ("sasrec", {"heads": 2})],
)
class TestTwin:
    def test_states_and_scores(self, name: str, params: dict[str, Any]) -> None:
        model = shaken(name, **params)
        p = {key: value.detach().double() for key, value in model.named_parameters()}
        table = p["items"] / p["items"].norm(dim=1, keepdim=True) if name == "hstu" else p["items"]
        scores = all_scores(model, DATA)
        for user in range(DATA.n_users):
            history = DATA.train[user].tolist()[-5:]
            if not history:
                assert not scores[user].any()
                continue
            states = TWINS[name](p, history, params.get("heads", 1))
            assert_close(model._encode(torch.tensor([history]))[0], states, 1e-4)
            assert_close(scores[user], table @ states[-1], 1e-4)

    def test_loss_and_gradients(self, name: str, params: dict[str, Any]) -> None:
        model, batch = shaken(name, **params), only_batch(DATA)
        p = {key: value.detach().double().requires_grad_() for key, value in model.named_parameters()}
        table = p["items"] / p["items"].norm(dim=1, keepdim=True) if name == "hstu" else p["items"]
        terms = []
        for items, targets in zip(batch.items.tolist(), batch.targets.tolist(), strict=True):
            history = [item for item in items if item >= 0]
            logits = TWINS[name](p, history, params.get("heads", 1)) @ table.T
            for row, target in zip(logits, targets, strict=False):
                terms.append(-row.log_softmax(0)[target])
        expected = torch.stack(terms).mean()
        (loss,) = model.loss(batch).values()
        assert_close(loss, expected, 1e-4)
        loss.backward()
        expected.backward()
        for key, parameter in model.named_parameters():
            assert_close(parameter.grad, p[key].grad, 1e-3)


# ---- properties ----------------------------------------------------------------------------------------------


@each_model
class TestProperties:
    def test_1_later_items_do_not_change_earlier_states(self, name: str) -> None:
        model = shaken(name)
        one, two = torch.tensor([[3, 0, 5, 1, 7]]), torch.tensor([[3, 0, 5, 2, 8]])
        assert torch.equal(model._encode(one)[:, :3], model._encode(two)[:, :3])
        assert not torch.equal(model._encode(one)[:, 3], model._encode(two)[:, 3])

    def test_2_padding_changes_nothing(self, name: str) -> None:
        model = shaken(name)
        alone = model._encode(torch.tensor([[3, 0]]))
        padded = model._encode(torch.tensor([[3, 0, -1, -1], [1, 2, 4, 5]]))
        assert_close(padded[0, :2], alone[0], 1e-5)

    def test_3_losses_of_equal_scores(self, name: str) -> None:
        for loss, expected in (
            ("ce", math.log(N_ITEMS)),
            ("sampled", math.log(N_ITEMS)),
            ("bce", 2 * math.log(2)),
        ):
            model = new_model(name, DATA, **SMALL, loss=loss)
            with torch.no_grad():
                model.items.zero_()
            batch = only_batch(DATA, HistoryPairBatches)
            assert model.loss(batch)[loss].item() == pytest.approx(expected, rel=1e-5)

    def test_4_a_cycle_is_learnt_by_heart(self, name: str) -> None:
        cycle = [(place * 7) % 20 for place in range(20)]
        rows = [(cycle * 2)[start : start + 8] for start in range(20)]
        data = of(*rows, n_items=20)
        model = new_model(name, data, max_length=10, dropout=0.0)
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        model.train()
        for number in range(200):
            step(
                model,
                optimizer,
                next(iter(HistoryBatches(data, 32, 10).epoch(torch.Generator().manual_seed(number)))),
            )
        wanted = [(cycle * 2)[start + 8] for start in range(20)]
        assert all_scores(model, data).argmax(1).tolist() == wanted

    def test_4_noise_is_not_learnt(self, name: str) -> None:
        rng = np.random.default_rng(0)
        rows = [rng.permutation(20)[:9].tolist() for _ in range(200)]
        data = of(*[row[:8] for row in rows], n_items=20)
        model = new_model(name, data, dim=16, max_length=10)
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        model.train()
        for number in range(30):
            step(
                model,
                optimizer,
                next(iter(HistoryBatches(data, 200, 10).epoch(torch.Generator().manual_seed(number)))),
            )
        lists = rank(scoring(model, data.train), np.arange(200), 20, 1, exclude=data.train).items[:, 0]
        hits = np.mean([row[8] == first for row, first in zip(rows, lists, strict=True)])
        assert hits < 3 / 12  # chance is 1 in 12

    def test_6_sampled_softmax_of_all_items_is_the_full_one(self, name: str) -> None:
        batch = only_batch(DATA)
        full, sampled = (shaken(name, loss=loss, negatives=1000) for loss in ("ce", "sampled"))
        assert_close(sampled.loss(batch)["sampled"], full.loss(batch)["ce"], 1e-5)

    def test_only_the_last_items_are_read(self, name: str) -> None:
        model = shaken(name)
        long, short = of([1, 6, 3, 0, 5, 1, 7]), of([3, 0, 5, 1, 7])
        assert torch.equal(all_scores(model, long), all_scores(model, short))

    def test_histories_that_the_model_was_not_trained_on(self, name: str) -> None:
        """What serving and evaluation with validation items do."""
        model = shaken(name)
        longer = of([3, 0, 5, 1, 7, 8, 2, 4])
        with torch.no_grad():
            vector = model.vectors().users(Users.of(longer.train, np.array([0])))
        assert not torch.equal(vector @ model.vectors().items.T, all_scores(model, DATA)[:1])

    def test_no_order_of_time(self, name: str) -> None:
        def unknown() -> Histories:
            raise DataError("a timestamp", "none", "import times")

        with pytest.raises(DataError, match="timestamp"):
            new_model(name, TrainingData(5, N_ITEMS, DATA.train, {}, unknown))


def test_popular_items_are_drawn_more_often_and_corrected_for_it() -> None:
    data = of(*[[0, 1, 2] for _ in range(30)], [3, 4, 0])
    model = new_model("sasrec", data, **SMALL, loss="sampled", sampler="popularity", negatives=20_000)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn, log_q = model.next_item._draw(N_ITEMS)
    shares = torch.bincount(drawn, minlength=N_ITEMS) / len(drawn)
    counts = torch.bincount(torch.from_numpy(data.train.items), minlength=N_ITEMS)
    assert_close(shares, counts / counts.sum(), 0.01)
    assert_close(log_q.exp(), 20_000 * (counts / counts.sum())[drawn], 1e-3)


def test_bpr_max_leaves_the_target_out_of_its_negatives() -> None:
    model, batch = shaken("gru4rec", loss="bpr-max", negatives=N_ITEMS), only_batch(DATA)
    positive, negative, _ = model.next_item.sampled_scores(model._encode(batch.items), model.items, batch)
    assert ((negative == -torch.inf).sum(1) == 1).all()
    assert torch.isfinite(model.loss(batch)["bpr-max"])
    assert len(positive) == (batch.targets >= 0).sum()


class TestHistoryBatches:
    def test_each_item_predicts_the_next(self) -> None:
        batch = only_batch(DATA, length=4)
        rows = {
            user: (items, targets)
            for user, items, targets in zip(
                batch.users.tolist(), batch.items.tolist(), batch.targets.tolist(), strict=True
            )
        }
        assert rows == {
            0: ([5, 1, 7, 8], [1, 7, 8, 2]),
            3: ([2, -1, -1, -1], [6, -1, -1, -1]),
            4: ([4, 3, -1, -1], [3, 1, -1, -1]),
        }

    def test_an_epoch_has_every_user_once_and_can_begin_anywhere(self) -> None:
        rng = np.random.default_rng(0)
        data = of(*[rng.permutation(40)[: rng.integers(0, 15)].tolist() for _ in range(300)], n_items=40)
        for kind in (HistoryBatches, HistoryPairBatches):
            batches = kind(data, 16, 6)
            runs = [list(batches.epoch(torch.Generator().manual_seed(seed))) for seed in (1, 1, 2)]
            users = [[batch.users.tolist() for batch in run] for run in runs]
            assert users[0] == users[1] != users[2]
            assert (
                sorted(user for own in users[0] for user in own)
                == np.flatnonzero(data.train.counts > 1).tolist()
            )
            assert len(users[0]) == len(batches)
            later = list(batches.epoch(torch.Generator().manual_seed(1), 3))
            for one, two in zip(runs[0][3:], later, strict=True):
                for key in ("users", "items", "targets"):
                    assert torch.equal(getattr(one, key), getattr(two, key))
                if one.negatives is not None:
                    assert two.negatives is not None and torch.equal(one.negatives, two.negatives)

    def test_little_is_padded(self) -> None:
        rng = np.random.default_rng(0)
        data = of(*[rng.permutation(40)[: rng.integers(2, 40)].tolist() for _ in range(1000)], n_items=40)
        batches = list(HistoryBatches(data, 32, 40).epoch(torch.Generator().manual_seed(0)))
        assert sum(int((batch.items < 0).sum()) for batch in batches) < 0.1 * sum(
            batch.items.numel() for batch in batches
        )

    def test_negatives_are_no_items_of_the_user(self) -> None:
        for seed in range(5):
            for batch in HistoryPairBatches(DATA, 2, 5).epoch(torch.Generator().manual_seed(seed)):
                assert batch.negatives is not None
                assert ((batch.negatives >= 0) == (batch.targets >= 0)).all()
                for user, row in zip(batch.users.tolist(), batch.negatives.tolist(), strict=True):
                    assert not set(row) - {-1} & set(DATA.train[user].tolist())

    def test_nothing_to_predict(self) -> None:
        with pytest.raises(DataError, match="two or more training items"):
            HistoryBatches(of([1], [2]), 4)
