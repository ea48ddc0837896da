"""MENTOR against plain dense formulas in float64, written from the paper and its published code."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec import graph
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from tests.dense import assert_close, negative_log_sigmoid
from tests.learning import all_scores, new_model, train
from tests.models import test_dragon
from tests.models.test_dragon import encode, layer_sum
from tests.small_data import N_ITEMS, N_USERS, random_batch, small_data
from tests.twins import assert_same_step, unit

SMALL = {
    "dim": 6,
    "knn_k": 3,
    "reg": 0.3,
    "align_weight": 0.7,
    "mask_weight": 0.4,
    "contrast_weight": 0.6,
    "noise": 0.5,
    "temperature": 0.3,
}
TERMS = ["bpr", "penalty", "align", "mask", "contrast"]


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Every tensor that torch.rand_like gives from now on."""
    made: list[Tensor] = []
    original: Callable[[Tensor], Tensor] = torch.rand_like

    def record(like: Tensor) -> Tensor:
        made.append(original(like))
        return made[-1]

    monkeypatch.setattr(torch, "rand_like", record)
    return made


def contrast(one: Tensor, two: Tensor, temperature: float) -> Tensor:
    """``-mean_i log (exp(cos(a_i, b_i) / t) / sum_j exp(cos(a_i, b_j) / t))``."""
    exponentials = (unit(one) @ unit(two).T / temperature).exp()
    return -(exponentials.diagonal() / exponentials.sum(1)).log().mean()


class Twin(test_dragon.Twin):
    """The formulas on dense matrices, with the draws that a model made: masks first, then noise."""

    def __init__(self, model: Any, data: TrainingData, draws: list[Tensor], **config: Any) -> None:
        super().__init__(model, data, **{"mask_dropout": 0.5, **SMALL, **config})
        self.draws = draws

    def tables(self) -> tuple[Tensor, Tensor]:
        return self.joined([layer_sum(self.adjacency, rows, 2) for rows in self.encoded()])

    def terms(self, batch: PairBatch) -> dict[str, Tensor]:
        draws = [draw.double() for draw in self.draws]
        users, items = self.tables()
        scores = users @ items.T
        positive, negative = scores[batch.users, batch.positives], scores[batch.users, batch.negatives]
        masked = self.mask(users[batch.users], draws[0]) + self.mask(items[batch.positives], draws[1])
        return {
            "bpr": negative_log_sigmoid(positive, negative),
            "penalty": self.penalty(batch),
            "align": self.config["align_weight"] * self.align(users, items),
            "mask": self.config["mask_weight"] * masked,
            "contrast": self.config["contrast_weight"] * self.contrast(batch, draws[2:4], draws[4:6]),
        }

    def align(self, users: Tensor, items: Tensor) -> Tensor:
        def entries(rows: Tensor, present: np.ndarray) -> Tensor:
            kept = [self.smooth(rows[N_USERS:])[item] for item in range(N_ITEMS) if present[item]]
            return torch.cat([rows[:N_USERS].flatten(), *kept])

        masks = [self.data.features[m].present for m in self.names]
        ids = encode(self.parameters, "guide", self.parameters["guide.features"], np.ones(N_ITEMS))
        blocks = items.split(self.config["dim"], dim=1)
        joined = [
            block[item] for block, mask in zip(blocks, masks, strict=True) for item in mask.nonzero()[0]
        ]
        views = [
            torch.cat([users.flatten(), *joined]),
            entries(layer_sum(self.adjacency, ids, 2), np.ones(N_ITEMS)),
        ]
        for table, mask in zip(self.encoded(), masks, strict=True):
            views.append(entries(layer_sum(self.adjacency, table, 2), mask))
        pairs = combinations(views, 2)
        return sum(
            abs(a.mean() - b.mean()) + abs(a.var(correction=0) - b.var(correction=0)) for a, b in pairs
        )

    def mask(self, rows: Tensor, draw: Tensor) -> Tensor:
        predicted = rows @ self.parameters["predictor.weight"].T + self.parameters["predictor.bias"]
        target = torch.where(draw >= self.config["mask_dropout"], rows, 0.0).detach()
        lengths = predicted.norm(dim=1) * target.norm(dim=1).clamp(min=1e-8)
        return 1 - ((predicted * target).sum(1) / lengths).mean()

    def noisy(self, draws: list[Tensor]) -> tuple[Tensor, Tensor]:
        totals = []
        for number, rows in enumerate(self.encoded()):
            total, layer = rows, rows
            for draw in draws:
                layer = self.adjacency @ layer
                layer = layer + self.config["noise"] * layer.sign() * unit(draw[:, number])
                total = total + layer
            totals.append(total)
        return self.joined(totals)

    def contrast(self, batch: PairBatch, first: list[Tensor], second: list[Tensor]) -> Tensor:
        one, two = self.noisy(first), self.noisy(second)
        users, items = sorted(set(batch.users.tolist())), sorted(set(batch.positives.tolist()))
        temperature = self.config["temperature"]
        return contrast(one[0][users], two[0][users], temperature) + contrast(
            one[1][items], two[1][items], temperature
        )


CASES: list[tuple[tuple[str, ...], bool, dict[str, Any]]] = [
    (("text", "image"), False, {}),
    (("text", "image"), True, {}),
    (("image",), True, {}),
    (("text", "image", "audio"), True, {"image_weight": 0.4}),
    (("text", "image"), True, {"item_layers": 0, "noise": 0.0, "mask_dropout": 0.2}),
]


@pytest.mark.parametrize(("modalities", "missing", "config"), CASES)
class TestDenseTwin:
    def test_scores(self, modalities: tuple[str, ...], missing: bool, config: dict[str, Any]) -> None:
        data = small_data(*modalities, missing=missing)
        model = new_model("mentor", data, **{**SMALL, **config})
        assert_close(all_scores(model, data), Twin(model, data, [], **config).scores())

    def test_losses_and_gradients(
        self, modalities: tuple[str, ...], missing: bool, config: dict[str, Any], draws: list[Tensor]
    ) -> None:
        data, batch = small_data(*modalities, missing=missing), random_batch(small_data())
        model = new_model("mentor", data, **{**SMALL, **config})
        terms = model.loss(batch)
        twin = Twin(model, data, draws, **config)
        assert_same_step(model, twin.parameters, terms, twin.terms(batch))


def gradients(model: Any, batch: PairBatch, term: str) -> set[str]:
    """Which parameters a single term moves."""
    model.zero_grad()
    model.loss(batch)[term].backward()
    return {
        name.removesuffix(".weight").removesuffix(".bias")
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().max() > 1e-7
    }


class TestProperties:
    """The numbers are those of the sheet."""

    @pytest.mark.parametrize("term", TERMS)
    def test_1_each_term_trains_what_it_should(self, term: str) -> None:
        data = small_data("text", "image")
        model = new_model("mentor", data, **SMALL)
        tables = {f"encoders.{m}.users" for m in ("text", "image")}
        maps = {f"encoders.{m}.map.{layer}" for m in ("text", "image") for layer in (0, 2)}
        guide = {"guide.users", "guide.features", "guide.map.0", "guide.map.2"}
        expected = {
            "bpr": tables | maps | {"shares"},
            "penalty": tables | {"shares"},
            "align": tables | maps | guide | {"shares"},
            "mask": tables | maps | {"shares", "predictor"},
            "contrast": tables | maps | {"shares"},
        }
        assert gradients(model, random_batch(data), term) == expected[term]

    def test_2_without_noise_the_two_passes_are_the_pass(self) -> None:
        data = small_data("text", "image", missing=True)
        model = new_model("mentor", data, **{**SMALL, "noise": 0.0})
        rows = model._encode()
        plain = model._join(graph.propagate_sum(model.graph, rows, 2))
        for one, two, expected in zip(model._noisy(rows), model._noisy(rows), plain, strict=True):
            assert torch.equal(one, two)
            assert_close(one, expected, 1e-6)

    def test_2_noise_has_the_length_asked_for_and_keeps_signs(self) -> None:
        data = small_data("text", "image")
        model = new_model("mentor", data, **{**SMALL, "ui_layers": 1, "item_layers": 0, "noise": 0.5})
        with torch.no_grad():
            model.shares.fill_(1)
            rows = model._encode()
            layer = graph.propagate(model.graph, rows)
            noisy = torch.cat(model._noisy(rows)) - rows
        connected = layer.abs().sum(1) > 0  # noise goes where there is something
        lengths = (noisy - layer).unflatten(1, (2, 6)).norm(dim=2)
        assert_close(lengths, 0.5 * connected[:, None].expand(-1, 2).float(), 1e-5)
        assert (noisy * layer >= 0).all()

    def test_3_views_with_equal_moments_are_aligned(self) -> None:
        data = small_data("text")
        model = new_model("mentor", data, **SMALL)
        model.guide.map[0] = model.encoders["text"].map[0]
        model.guide.map[2] = model.encoders["text"].map[2]
        with torch.no_grad():
            model.shares.fill_(1)
            model.guide.features = torch.nn.Parameter(model.encoders["text"].features.clone())
            model.guide.users.copy_(model.encoders["text"].users)
            assert model.loss(random_batch(data))["align"] == 0
            model.guide.users.mul_(-1)
            assert model.loss(random_batch(data))["align"] > 1e-3

    def test_4_no_user_graph_is_needed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = small_data("text")
        expected = all_scores(new_model("mentor", data, **SMALL), data)
        monkeypatch.delattr(graph, "co_user_graph")
        assert torch.equal(all_scores(new_model("mentor", data, **SMALL), data), expected)


def test_a_wholly_masked_batch_gives_a_finite_loss() -> None:
    data = small_data("text")
    model = new_model("mentor", data, **{**SMALL, "mask_dropout": 0.99})
    terms = model.loss(random_batch(data))
    torch.stack(list(terms.values())).sum().backward()
    assert torch.isfinite(terms["mask"])
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_without_weight_the_noisy_passes_are_left_out(draws: list[Tensor]) -> None:
    data = small_data("text")
    terms = new_model("mentor", data, **{**SMALL, "contrast_weight": 0.0}).loss(random_batch(data))
    assert list(terms) == TERMS[:-1]
    assert len(draws) == 2


def test_an_item_without_a_modality_has_no_part_in_the_moments_of_its_view() -> None:
    data = small_data("text", missing=True)
    model = new_model("mentor", data, **SMALL)
    twin = Twin(model, data, [])
    expected = twin.align(*twin.tables())
    batch = random_batch(data)
    assert_close(model.loss(batch)["align"] / SMALL["align_weight"], expected)
    model.present.fill_(1)
    assert abs(model.loss(batch)["align"].item() / SMALL["align_weight"] - expected.item()) > 1e-5


def test_loss_falls_in_every_trained_term() -> None:
    data = small_data("text", "image", missing=True)
    model, batch = new_model("mentor", data, **SMALL), random_batch(data)
    torch.manual_seed(0)
    before = model.loss(batch)
    train(model, data, epochs=15, lr=0.03)
    after = model.loss(batch)
    for term in ("mask", "contrast"):
        assert after[term] < 0.9 * before[term], term
