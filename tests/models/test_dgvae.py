"""DGVAE against plain dense formulas in float64, written from the paper."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec import mixture
from mmrec.data.batches import UserBatch
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.encode.features import FeatureTable
from mmrec.mixture import mixture_cross_entropy
from mmrec.models.contracts import Users, scoring
from mmrec.models.graph import dgvae
from tests.dense import assert_close, history_matrix, item_graph
from tests.learning import all_scores, batches, begin_epoch, new_model
from tests.small_data import N_ITEMS, N_USERS, shares, small_data

SMALL = {"dim": 5, "knn_k": 3, "dropout": 0.0, "noise": 0.3}
STEPS = 3000


def pattern(like: Tensor) -> Tensor:
    """Stands for random draws: uneven, positive, the same each time."""
    return (1.5 + torch.sin(torch.arange(like.numel()) * 1.7)).view(like.shape).to(like.dtype)


@pytest.fixture
def no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """All noise is :func:`pattern`."""
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self: self.copy_(pattern(self)))
    monkeypatch.setattr(torch, "randn_like", pattern)


def everybody(data: TrainingData, users: list[int] | None = None) -> UserBatch:
    ids = np.arange(data.n_users) if users is None else np.array(users)
    chosen = data.train.select(ids)
    return UserBatch(torch.from_numpy(ids), torch.from_numpy(chosen.users), torch.from_numpy(chosen.items))


def length_one(rows: Tensor) -> Tensor:
    norms = rows.pow(2).sum(1, keepdim=True).sqrt()
    return torch.where(norms > 0, rows / norms.clamp(min=1e-30), 0.0)


class Twin:
    """The algorithm on dense matrices with a copy of a model's parameters."""

    def __init__(self, model: Any, data: TrainingData, **config: Any) -> None:
        self.config = {"factors": 3, "image_weight": 0.04, "words_weight": 0.2, "mutual_weight": 0.4} | SMALL
        self.config |= config
        self.parameters = {
            name: value.detach().double().requires_grad_() for name, value in model.named_parameters()
        }
        tables = [torch.from_numpy(table.vectors).double() for _, table in sorted(data.features.items())]
        self.x = history_matrix(data.train, data.n_items)
        self.t = length_one(self.x @ torch.cat(tables, 1).clamp(min=0))
        graph = item_graph(data.features, self.config["knn_k"], shares(list(data.features), 0.04))
        lonely = graph.sum(1) == 0
        graph[lonely, lonely] = 1
        self.smoothing = (graph @ graph + torch.eye(data.n_items, dtype=torch.float64)) / 2

    def side(self, name: str, x: Tensor, training: bool) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
        """Embeddings, c, and per factor z and log-variance."""
        table, prototypes, encoder, bias = (
            self.parameters[f"{name}.{part}"] for part in ("table", "prototypes", "encoder", "bias")
        )
        e = length_one(table)
        logits = e @ length_one(prototypes).T / 0.1
        if training:
            logits = logits - torch.log(pattern(logits))
        c = torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True)
        means, spreads = [], []
        for k in range(self.config["factors"]):
            own = length_one(x * c[:, k])
            hidden = (own @ self.smoothing if name == "items" else own) @ encoder + bias
            means.append(length_one(hidden[:, : self.config["dim"]]))
            spreads.append(-hidden[:, self.config["dim"] :])
        if training:
            noise = self.config["noise"] * pattern(torch.stack(means, 1))
            means = [length_one(m + noise[:, k] * torch.exp(spreads[k] / 2)) for k, m in enumerate(means)]
        return e, c, means, spreads

    def attend(self, queries: list[Tensor], values: list[Tensor]) -> list[Tensor]:
        result = []
        for q in queries:
            near = torch.stack([-(q - v).abs().sum(1) for v in values], 1)
            gates = 1 / (1 + torch.exp(-(near - near.mean(1, keepdim=True))))
            result.append(
                sum((torch.tanh((q * v).sum(1)) * gates[:, j])[:, None] * v for j, v in enumerate(values))
            )
        return result

    def forward(self, users: list[int], training: bool) -> tuple[dict[str, Tensor], Tensor]:
        """Loss terms and the items' scores."""
        x, t = self.x[users], self.t[users]
        e_i, c_i, z_i, s_i = self.side("items", x, training)
        e_w, c_w, z_w, s_w = self.side("words", t, training)
        from_words, from_items = self.attend(z_i, z_w), self.attend(z_w, z_i)
        z = [a + b for a, b in zip(from_items, from_words, strict=True)]
        k = self.config["factors"]

        def probabilities(e: Tensor, c: Tensor) -> Tensor:
            return sum(c[:, j] * torch.exp(z[j] @ e.T / 0.1) for j in range(k))  # type: ignore[return-value]

        def cross_entropy(target: Tensor, p: Tensor) -> Tensor:
            p, best = p / p.sum(1, keepdim=True), target / target.sum(1, keepdim=True)
            own = target > 0
            return -(target[own] * (torch.log(p[own]) - torch.log(best[own]))).sum() / len(target)

        def divergence(spreads: list[Tensor]) -> Tensor:
            return sum(0.5 * (torch.exp(s) - 1 - s).sum(1).mean() for s in spreads)  # type: ignore[return-value]

        def softplus(a: Tensor, b: Tensor, sign: float) -> Tensor:
            return torch.log(1 + torch.exp(sign * (a * b).sum(1))).mean()

        mutual = 0.0
        for i in range(k):
            others = [softplus(from_items[i], from_words[j], 1.0) for j in range(k) if j != i]
            mutual += (sum(others) / max(len(others), 1) + softplus(from_items[i], from_words[i], -1.0)) / k
        anneal, words = min(0.2, STEPS / 20_000), self.config["words_weight"]
        p = probabilities(e_i, c_i)
        terms = {
            "mutual": self.config["mutual_weight"] * mutual,
            "items": cross_entropy(x, p),
            "divergence_items": anneal * divergence(s_i),
            "words": words * cross_entropy(t, probabilities(e_w, c_w)),
            "divergence_words": words * anneal * divergence(s_w),
        }
        return terms, torch.log(p)


CASES: list[tuple[tuple[str, ...], bool, dict[str, Any]]] = [
    (("text",), False, {}),
    (("image",), True, {}),
    (("text", "image"), True, {}),
    (("text", "image", "audio"), True, {"factors": 2}),
    (("text",), False, {"factors": 1}),
    (("text",), False, {"words_weight": 0.7, "mutual_weight": 0.0}),
]


@pytest.mark.usefixtures("no_chance")
@pytest.mark.parametrize(("modalities", "missing", "config"), CASES)
class TestDenseTwin:
    def test_scores(self, modalities: tuple[str, ...], missing: bool, config: dict[str, Any]) -> None:
        data = small_data(*modalities, missing=missing)
        model = new_model("dgvae", data, **{**SMALL, **config})
        _, expected = Twin(model, data, **config).forward(list(range(N_USERS)), training=False)
        assert_close(all_scores(model, data), expected.detach())

    def test_losses_and_gradients(
        self, modalities: tuple[str, ...], missing: bool, config: dict[str, Any]
    ) -> None:
        data = small_data(*modalities, missing=missing)
        model = new_model("dgvae", data, **{**SMALL, **config}).double()
        model.step.fill_(STEPS)
        users = [4, 0, 7, 2]
        twin = Twin(model, data, **config)
        terms, (expected, _) = model.loss(everybody(data, users)), twin.forward(users, training=True)
        assert terms.keys() == expected.keys()
        for name in expected:
            assert_close(terms[name], torch.as_tensor(expected[name]), 1e-6)
        torch.stack(list(terms.values())).sum().backward()
        sum(expected.values()).backward()
        for name, parameter in model.named_parameters():
            assert_close(parameter.grad, twin.parameters[name].grad)


class TestProperties:
    """The numbers are those of the sheet."""

    def test_1_factors_share_everything_out(self) -> None:
        model = new_model("dgvae", small_data("text"), **SMALL)
        for side, n in ((model.items, N_ITEMS), (model.words, 5)):
            for training in (True, False):
                shares_of = side.train(training).log_shares().exp()
                assert shares_of.shape == (n, 3)
                assert_close(shares_of.sum(1), torch.ones(n), 1e-6)

    def test_2_one_factor_has_everything(self) -> None:
        data = small_data("text")
        model = new_model("dgvae", data, factors=1, **SMALL)
        assert (model.items.log_shares() == 0).all()
        own = torch.rand(4, 1, 5)
        assert_close(dgvae.mutual(own, own), torch.log1p(torch.exp(-own.pow(2).sum(2))).mean())

    def test_3_without_neighbours_nothing_is_smoothed(self) -> None:
        model = new_model("dgvae", small_data("text", "image"), **{**SMALL, "knn_k": 1})
        assert torch.equal(model.smoothing.to_dense(), torch.eye(N_ITEMS))

    def test_4_without_their_own_terms_words_learn_through_the_shared_factors_only(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = small_data("text")

        def gradients_of_words() -> list[Tensor]:
            model = new_model("dgvae", data, words_weight=0.0, mutual_weight=0.0, **SMALL)
            torch.stack(list(model.loss(everybody(data)).values())).sum().backward()
            return [p.grad for p in model.words.parameters()]

        assert all(gradient.any() for gradient in gradients_of_words())
        monkeypatch.setattr(dgvae, "attend", lambda queries, values: values.detach())
        assert not any(gradient.any() for gradient in gradients_of_words())

    @pytest.mark.parametrize("block_bytes", [1, 2**20])
    def test_5_the_decoder_in_logarithms(self, block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mixture, "BLOCK_BYTES", block_bytes)
        generator = torch.Generator().manual_seed(0)
        z, e = (
            torch.rand(*shape, generator=generator, dtype=torch.float64).requires_grad_()
            for shape in ((4, 2, 3), (6, 3))
        )
        logits = torch.rand(6, 2, generator=generator, dtype=torch.float64).requires_grad_()
        x = torch.tensor([[1, 0, 0, 2, 0, 0], [0] * 6, [0, 0.5, 0, 0, 0, 0], [1] * 6]).double()
        rows, columns = x.nonzero(as_tuple=True)
        log_shares = logits.log_softmax(1)
        found = mixture_cross_entropy(z, e, log_shares, (rows, columns, x[rows, columns]), 0.5)
        p = sum(log_shares.exp()[:, k] * torch.exp(z[:, k] @ e.T / 0.5) for k in (0, 1))
        p = p / p.sum(1, keepdim=True)
        floor = sum(w * math.log(w / sum(row)) for row in x.tolist() for w in row if w)
        expected = (-(x * torch.log(p)).sum() + floor) / 4
        assert_close(found, expected, 1e-12)
        leaves = [z, e, logits]
        for one, two in zip(
            torch.autograd.grad(3 * found, leaves, retain_graph=True),
            torch.autograd.grad(3 * expected, leaves),
            strict=True,
        ):
            assert_close(one, two, 1e-12)

    def test_5_extreme_temperatures_stay_finite(self) -> None:
        data = small_data("text")
        model = new_model("dgvae", data, temperature=1e-3, factors=6, **SMALL)
        terms = model.loss(everybody(data))
        torch.stack(list(terms.values())).sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
        assert torch.isfinite(all_scores(model, data)).all()

    def test_6_evaluation_draws_nothing(self) -> None:
        data = small_data("text")
        model = new_model("dgvae", data, **{**SMALL, "dropout": 0.5})
        state = torch.get_rng_state()
        assert torch.equal(all_scores(model, data), all_scores(model, data))
        assert torch.equal(state, torch.get_rng_state())

    def test_7_the_order_of_a_history_does_not_matter(self) -> None:
        data = small_data("text")
        model = new_model("dgvae", data, **SMALL).eval()
        ids = np.arange(N_USERS)
        turned = Histories.from_pairs(data.train.users[::-1], data.train.items[::-1], N_USERS)
        assert not np.array_equal(turned.items, data.train.items)
        with torch.no_grad():
            one, two = (model.scores(Users(ids, train)) for train in (data.train, turned))
        assert torch.equal(one, two)


def test_a_new_user_needs_a_history_only() -> None:
    data = small_data("text")
    model = new_model("dgvae", data, **SMALL)
    scores = all_scores(model, data)
    stranger = Users(np.array([10**6]), data.train.select(np.array([3])))
    with torch.no_grad():
        assert_close(model.scores(stranger)[0], scores[3], 1e-6)


def test_dropout_leaves_out_its_share_of_the_smoothed_history(monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_data("text")
    model = new_model("dgvae", data, **{**SMALL, "dropout": 0.25})
    kept: list[Tensor] = []
    bag = torch.nn.functional.embedding_bag

    def watch(*arguments: Any, **options: Any) -> Tensor:
        kept.append(options["per_sample_weights"])
        return bag(*arguments, **options)

    monkeypatch.setattr("torch.nn.functional.embedding_bag", watch)
    torch.manual_seed(0)
    for _ in range(20):
        model.loss(everybody(data))
    assert (torch.cat(kept) == 0).double().mean().item() == pytest.approx(0.25, abs=0.02)
    kept.clear()
    all_scores(model, data)
    assert all((values != 0).all() for values in kept)


def test_an_item_without_any_modality_keeps_to_itself() -> None:
    data = small_data("text", "image", missing=True)
    smoothing = new_model("dgvae", data, **SMALL).smoothing.to_dense()
    alone = torch.zeros(N_ITEMS)
    alone[2] = 1
    assert torch.equal(smoothing[2], alone)
    assert torch.equal(smoothing[:, 2], alone)
    assert_close(smoothing.sum(1), torch.ones(N_ITEMS), 1e-6)


def test_words_come_from_the_features_that_have_some() -> None:
    data = small_data("text", "image")
    text = data.features["text"]
    named = FeatureTable(text.name, "text", text.vectors, text.present, {"vocabulary": list("abcde")})
    model = new_model(
        "dgvae", TrainingData(N_USERS, N_ITEMS, data.train, {**data.features, "text": named}), **SMALL
    )
    assert model.vocabulary == list("abcde")
    assert_close(model.words_of_items.to_dense(), torch.from_numpy(text.vectors).clamp(min=0))
    unnamed = new_model("dgvae", data, **SMALL)
    assert unnamed.vocabulary == []
    assert unnamed.words.n == 5 + 7


def test_the_divergence_grows_with_the_steps_of_training_and_ends_at_its_cap() -> None:
    data = small_data("text")
    model = new_model("dgvae", data, kl_cap=0.2, anneal_steps=10, **SMALL)
    begin_epoch(model, 0)
    batch = next(iter(batches(model, data, 64, 0)))
    weights = []
    for _ in range(4):
        torch.manual_seed(0)
        weights.append(model.loss(batch)["divergence_items"].item())
    assert weights[0] == 0
    assert weights[2] == pytest.approx(2 * weights[1], rel=1e-5)
    assert weights[3] == weights[2]  # 3 / 10 is above the cap
    assert model.state_dict()["step"] == 4
    model.eval()
    model.loss(batch)
    scoring(model, data.train)(np.arange(2))
    assert model.state_dict()["step"] == 4
