"""BM3 against plain dense formulas in float64, written from the paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.encode.features import FeatureTable
from tests.dense import assert_close, history_matrix, layer_mean, normalized_adjacency
from tests.learning import all_scores, new_model
from tests.small_data import N_ITEMS, N_USERS, random_batch, small_data

SMALL = {"dim": 6}


class Masks:
    """Stands in for dropout: scaled random masks, which it remembers."""

    def __init__(self) -> None:
        self.drawn: list[Tensor] = []
        self.inputs: list[Tensor] = []

    def __call__(self, rows: Tensor, p: float) -> Tensor:
        rng = np.random.default_rng(len(self.drawn))
        mask = torch.from_numpy((rng.random(rows.shape) >= p) / (1 - p)).float()
        self.drawn.append(mask.double())
        self.inputs.append(rows)
        return rows * mask


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> Masks:
    drawn = Masks()
    monkeypatch.setattr(F, "dropout", drawn)
    return drawn


def mean_distance(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """``1 - mean a·b / (|a| |b|)``."""
    cosine = [a @ b / (a @ a).sqrt() / (b @ b).sqrt() for a, b in zip(left, right, strict=True) if b.any()]
    return 1 - torch.stack(cosine).sum() / len(left)


class Twin:
    """The formulas on dense matrices with a copy of a model's parameters, all of them leaves."""

    def __init__(self, model: Any, data: TrainingData, **config: Any) -> None:
        defaults = {"layers": 1, "modality_weight": 2.0, "reg": 0.1}
        self.config, self.data = {**defaults, **config}, data
        self.leaves = {k: v.detach().double().requires_grad_() for k, v in model.named_parameters()}
        self.adjacency = normalized_adjacency(history_matrix(data.train, N_ITEMS))

    def tables(self) -> tuple[Tensor, Tensor]:
        own = self.leaves["embeddings"]
        propagated = layer_mean(self.adjacency, own, self.config["layers"])
        return propagated[:N_USERS], propagated[N_USERS:] + own[N_USERS:]

    def predict(self, rows: Tensor) -> Tensor:
        return rows @ self.leaves["predictor.weight"].T + self.leaves["predictor.bias"]

    def projected(self, m: str) -> Tensor:
        vectors = torch.from_numpy(self.data.features[m].vectors).double()
        vectors = self.leaves.get(f"projections.{m}.features", vectors)
        return (
            vectors @ self.leaves[f"projections.{m}.map.weight"].T + self.leaves[f"projections.{m}.map.bias"]
        )

    def scores(self) -> Tensor:
        users, items = self.tables()
        liked = history_matrix(self.data.train, N_ITEMS).any(0)
        return self.predict(users) @ self.predict(items).T * liked

    def terms(self, batch: PairBatch, masks: list[Tensor]) -> dict[str, Tensor]:
        all_users, all_items = self.tables()
        pairs = list(zip(batch.users.tolist(), batch.positives.tolist(), strict=True))
        users, items = (
            torch.stack([all_users[u] for u, _ in pairs]),
            torch.stack([all_items[i] for _, i in pairs]),
        )
        drawn = iter(masks)
        user_targets, item_targets = users.detach() * next(drawn), items.detach() * next(drawn)
        terms = {
            "user_to_item": mean_distance(list(self.predict(users)), list(item_targets)),
            "item_to_user": mean_distance(list(self.predict(items)), list(user_targets)),
            "penalty": self.config["reg"]
            * (all_users.pow(2).sum().sqrt() + all_items.pow(2).sum().sqrt())
            / N_ITEMS,
        }
        for m, table in sorted(self.data.features.items()):
            places = [p for p, (_, item) in enumerate(pairs) if table.present[item]]
            rows = torch.stack([self.projected(m)[pairs[p][1]] for p in places])
            predicted, weight = list(self.predict(rows)), self.config["modality_weight"]
            own = list(rows.detach() * next(drawn))
            terms[f"{m}_to_item"] = weight * mean_distance(predicted, [item_targets[p] for p in places])
            terms[f"{m}_to_itself"] = weight * mean_distance(predicted, own)
        return terms


CASES: list[tuple[tuple[str, ...], bool, dict[str, Any]]] = [
    ((), False, {}),
    (("text",), False, {"layers": 2, "dropout": 0.3}),
    (("image",), True, {"dropout": 0.0}),
    (("text", "image"), False, {}),
    (("text", "image"), True, {"modality_weight": 0.7, "reg": 3.0}),
    (("text", "image", "audio"), True, {"train_features": True}),
    (("text", "image"), False, {"layers": 0}),
]


@pytest.mark.parametrize(("modalities", "missing", "config"), CASES)
class TestDenseTwin:
    def test_scores(self, modalities: tuple[str, ...], missing: bool, config: dict[str, Any]) -> None:
        data = small_data(*modalities, missing=missing)
        model = new_model("bm3", data, **SMALL, **config)
        assert_close(all_scores(model, data), Twin(model, data, **config).scores())

    def test_losses_and_gradients(
        self, modalities: tuple[str, ...], missing: bool, config: dict[str, Any], masks: Masks
    ) -> None:
        data = small_data(*modalities, missing=missing)
        model = new_model("bm3", data, **SMALL, **config)
        twin, batch = Twin(model, data, **config), random_batch(data)
        terms = model.loss(batch)
        expected = twin.terms(batch, masks.drawn)
        assert terms.keys() == expected.keys()
        for name in expected:
            assert_close(terms[name], expected[name])
        torch.stack(list(terms.values())).sum().backward()
        torch.stack(list(expected.values())).sum().backward()
        for name, parameter in model.named_parameters():
            assert_close(parameter.grad, twin.leaves[name].grad)


class TestProperties:
    """The numbers are those of the sheet."""

    def test_1_no_gradient_reaches_the_targets(self, masks: Masks) -> None:
        data = small_data("text", "image")
        new_model("bm3", data, **SMALL).loss(random_batch(data))
        assert len(masks.inputs) == 4
        assert not any(rows.requires_grad for rows in masks.inputs)

    def test_2_without_dropout_and_predictor_a_view_agrees_with_itself(self) -> None:
        data = small_data("text", "image")
        model = new_model("bm3", data, **SMALL, dropout=0.0)
        torch.nn.init.eye_(model.predictor.weight)
        torch.nn.init.zeros_(model.predictor.bias)
        batch = random_batch(data)
        terms, (users, items) = model.loss(batch), Twin(model, data).tables()
        cosine = F.cosine_similarity(users[batch.users], items[batch.positives], dim=1).mean()
        assert_close(terms["user_to_item"], 1 - cosine)
        assert_close(terms["item_to_user"], 1 - cosine)
        for modality in ("text", "image"):
            assert terms[f"{modality}_to_itself"].item() == pytest.approx(0, abs=1e-6)
            assert terms[f"{modality}_to_item"].item() > 0.1

    @pytest.mark.parametrize("sign", [1, -1])
    def test_3_each_distance_is_between_0_and_2(self, sign: int) -> None:
        model = new_model("bm3", small_data("text"), **SMALL, dropout=0.0, modality_weight=1.0)
        with torch.no_grad():  # all views alike: the predictor turns them, or leaves them
            model.embeddings.fill_(1.0)
            model.projections["text"].map.weight.zero_()
            model.projections["text"].map.bias.fill_(1.0)
            model.predictor.weight.copy_(sign * torch.eye(6))
            model.predictor.bias.zero_()
        liked = torch.from_numpy(np.stack([model.graph.rows[:5], model.graph.columns[:5] - N_USERS]))
        terms = model.loss(PairBatch(liked[0], liked[1], liked[1]))
        penalty = terms.pop("penalty")
        assert penalty > 0
        for distance in terms.values():
            assert distance.item() == pytest.approx(1 - sign, abs=1e-6)

    def test_4_projecting_the_batch_equals_projecting_the_catalogue(self) -> None:
        data = small_data("text", "image")
        model = new_model("bm3", data, **SMALL)
        items = random_batch(data).positives
        for projection in model.projections.values():
            assert_close(projection(items), projection(torch.arange(N_ITEMS))[items], 1e-6)

    def test_5_negatives_are_not_read(self, masks: Masks) -> None:
        data = small_data("text")
        model, batch = new_model("bm3", data, **SMALL), random_batch(data)
        others = PairBatch(batch.users, batch.positives, (batch.negatives + 1) % N_ITEMS)
        one = model.loss(batch)
        masks.drawn.clear()  # the same masks again
        two = model.loss(others)
        assert all(torch.equal(one[name], two[name]) for name in one)

    def test_6_without_layers_items_are_doubled(self) -> None:
        model = new_model("bm3", small_data("text"), **SMALL, layers=0)
        users, items = model._tables()
        assert torch.equal(users, model.embeddings[:N_USERS])
        assert torch.equal(items, 2 * model.embeddings[N_USERS:])


def test_targets_are_perturbed_in_training_only_and_anew_in_every_step() -> None:
    data = small_data("text")
    batch = random_batch(data)
    model = new_model("bm3", data, **SMALL)
    with torch.random.fork_rng():
        one, two = model.loss(batch), model.loss(batch)
    assert one["user_to_item"] != two["user_to_item"]
    assert torch.equal(all_scores(model, data), all_scores(model, data))


def test_a_batch_without_content() -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("bm3", data, **SMALL)
    terms = model.loss(PairBatch(torch.tensor([0, 1]), torch.tensor([2, 2]), torch.tensor([1, 1])))
    assert [terms[f"{m}_to_{view}"].item() for m in ("text", "image") for view in ("item", "itself")] == [
        0
    ] * 4
    torch.stack(list(terms.values())).sum().backward()
    assert torch.isfinite(model.embeddings.grad).all()
    assert not model.projections["text"].map.weight.grad.any()


def test_content_of_absent_items_is_not_read() -> None:
    data = small_data("text", missing=True)
    batch = random_batch(data)
    model = new_model("bm3", data, **SMALL, dropout=0.0)
    before = model.loss(batch)
    with torch.no_grad():
        model.projections["text"].features[~model.projections["text"].present] = 9.0
    after = model.loss(batch)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_item_that_nobody_liked_scores_0() -> None:
    data = small_data("text")
    scores = all_scores(new_model("bm3", data, **SMALL), data)
    assert not scores[:, -1].any()
    assert scores[:, :-1].any(0).sum() == len(np.unique(data.train.items))


def test_initial_values() -> None:
    table = FeatureTable(
        "text-test", "text", np.ones((N_ITEMS, 300), dtype=np.float32), np.ones(N_ITEMS, dtype=bool)
    )
    data = small_data()
    model = new_model("bm3", TrainingData(N_USERS, N_ITEMS, data.train, {"text": table}), dim=200)
    for weight, width in ((model.predictor.weight, 200), (model.projections["text"].map.weight, 300)):
        assert weight.std().item() == pytest.approx(np.sqrt(2 / (200 + width)), rel=0.02)  # xavier-normal
