"""LIRDRec against plain dense formulas in float64, its weight copying, and a run that is torn and resumed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec import train as train_module
from mmrec.data.dataset import Dataset, TrainingData
from mmrec.data.histories import Histories
from mmrec.encode.features import FeatureTable
from mmrec.models.graph.lirdrec import cosine_transform
from mmrec.runs import BEST, LAST, load_tensors, restore, save_tensors
from mmrec.train import train
from tests.dense import (
    assert_close,
    history_matrix,
    item_graph,
    negative_log_sigmoid,
    normalized_adjacency,
)
from tests.learning import all_scores, begin_epoch, new_model, step
from tests.models.test_cm3 import unit
from tests.small_data import N_ITEMS, N_USERS, random_batch, shares, small_data
from tests.small_shop import config_of, make_small_shop

SMALL: dict[str, Any] = {"dim": 4, "hidden": 5, "attention_hidden": 3, "knn_k": 3, "reg": 0.1}


def dct_matrix(n: int) -> Tensor:
    """Orthonormal DCT-II: ``C_kj = sqrt(2/n) cos(pi (j + 1/2) k / n)``, the first row over sqrt 2."""
    matrix = torch.tensor(
        [[math.cos(math.pi * (j + 0.5) * k / n) for j in range(n)] for k in range(n)], dtype=torch.float64
    )
    matrix[0] /= math.sqrt(2)
    return matrix * math.sqrt(2 / n)


class Twin:
    """The formulas on dense matrices with a copy of a model's parameters."""

    def __init__(self, model: Any, data: TrainingData, **config: Any) -> None:
        self.config = {"ui_layers": 2, "item_layers": 1, "image_weight": 0.1, **SMALL, **config}
        self.data = data
        self.p = {k: v.detach().double().requires_grad_() for k, v in model.named_parameters()}
        weights = shares(list(data.features), self.config["image_weight"])
        self.graph = item_graph(data.features, self.config["knn_k"], weights)
        self.full = normalized_adjacency(history_matrix(data.train, data.n_items))
        names = sorted(data.features)
        self.inputs = {m: torch.from_numpy(data.features[m].vectors).double() for m in names}
        self.inputs["all"] = torch.cat([x @ dct_matrix(x.shape[1]).T for x in self.inputs.values()], 1)
        self.present = {m: torch.from_numpy(data.features[m].present) for m in names}
        self.present["all"] = torch.stack(list(self.present.values())).any(0)

    def leaky(self, name: str, rows: Tensor) -> Tensor:
        hidden = rows @ self.p[f"{name}.0.weight"].T + self.p[f"{name}.0.bias"]
        return torch.where(hidden > 0, hidden, 0.01 * hidden) @ self.p[f"{name}.2.weight"].T

    def tables(self, share: float) -> tuple[Tensor, Tensor]:
        outputs, logits = [], []
        for j, (m, x) in enumerate(self.inputs.items()):
            own = unit(self.leaky(f"encoders.{m}.layers", x)) * self.present[m][:, None]
            layer = torch.cat([unit(self.p["users"][j]), own])
            total = layer
            for _ in range(self.config["ui_layers"]):
                layer = self.full @ layer
                total = total + layer
            outputs.append(total)
            score = self.leaky(f"scorers.{j}", total[:N_USERS]) + self.p[f"scorers.{j}.2.bias"]
            logits.append(share * score[:, 0] + (1 - share) * self.p["mixing"][:, j])
        odds = torch.exp(torch.stack(logits, 1))
        self.attention = odds / odds.sum(1, keepdim=True)
        users = torch.cat([self.attention[:, [j]] * out[:N_USERS] for j, out in enumerate(outputs)], 1)
        items = torch.cat([out[N_USERS:] for out in outputs], 1)
        return users, items + self.graph @ items

    def terms(self, batch: Any, share: float) -> dict[str, Tensor]:
        users, items = self.tables(share)
        positive = (users[batch.users] * items[batch.positives]).sum(1)
        negative = (users[batch.users] * items[batch.negatives]).sum(1)
        penalty = (users**2).mean() + (items**2).mean()
        return {"bpr": negative_log_sigmoid(positive, negative), "penalty": self.config["reg"] * penalty}


CASES: list[tuple[tuple[str, ...], bool, dict[str, Any]]] = [
    (("text",), True, {}),
    (("image",), False, {}),
    (("text", "image"), False, {}),
    (("text", "image"), True, {"ui_layers": 3}),
    (("text", "image", "audio"), True, {"image_weight": 0.4}),
    (("text", "image"), False, {"ui_layers": 0, "image_weight": 1.0}),
]


@pytest.mark.parametrize(("modalities", "missing", "config"), CASES)
def test_scores_losses_and_gradients_of_the_dense_twin(
    modalities: tuple[str, ...], missing: bool, config: dict[str, Any]
) -> None:
    data = small_data(*modalities, missing=missing)
    model = new_model("lirdrec", data, **{**SMALL, **config})
    twin, batch = Twin(model, data, **config), random_batch(data)
    users, items = twin.tables(0.9)
    assert_close(all_scores(model, data), (users @ items.T).detach())
    model.on_epoch(torch.Generator().manual_seed(1))
    share = 0.81 / 0.91  # 0.9 * 0.9 beside 0.1
    terms, expected = model.loss(batch), twin.terms(batch, share)
    for name in expected:
        assert_close(terms[name].detach(), expected[name].detach())
    assert_close(model.attention, twin.attention.detach())
    torch.stack(list(terms.values())).sum().backward()
    torch.stack(list(expected.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, twin.p[name].grad)


def an_epoch(model: Any, data: TrainingData, number: int) -> None:
    begin_epoch(model, number)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step(model, optimizer, random_batch(data, seed=number))


class TestProperties:
    """The numbers are those of the list of properties."""

    def test_1_the_transform_keeps_norms_and_inner_products(self) -> None:
        rows = torch.randn(6, 11, generator=torch.Generator().manual_seed(0))
        turned = cosine_transform(rows)
        assert_close(turned @ turned.T, rows @ rows.T)
        assert_close(turned, rows.double() @ dct_matrix(11).T)

    @pytest.mark.parametrize(
        ("start", "published"), [(0.9, [0.89, 0.87, 0.83, 0.76, 0.65, 0.50, 0.32, 0.17, 0.07, 0.03])]
    )
    def test_2_attention_sums_to_one_and_the_computed_share_falls(
        self, start: float, published: list[float]
    ) -> None:
        data = small_data("text", "image")
        model = new_model("lirdrec", data, **SMALL, start_weight=start)
        found = []
        for epoch in range(10):
            an_epoch(model, data, epoch)
            assert_close(model.attention.sum(1), torch.ones(N_USERS))
            found.append(float(model._computed_share()))
        assert (np.diff(found) < 0).all()
        np.testing.assert_allclose(found, published, atol=0.006)

    def test_3_all_computed_ignores_the_copied_weights(self) -> None:
        data = small_data("text", "image")
        model = new_model("lirdrec", data, **SMALL, start_weight=1.0)
        model.epoch.fill_(150)
        assert float(model._computed_share()) == 1
        before = all_scores(model, data)
        torch.nn.init.normal_(model.mixing)
        assert torch.equal(before, all_scores(model, data))

    def test_3_all_copied_gives_the_scorers_no_gradient(self) -> None:
        data = small_data("text", "image")
        model = new_model("lirdrec", data, **SMALL, start_weight=0.0)
        torch.stack(list(model.loss(random_batch(data)).values())).sum().backward()
        assert all(not parameter.grad.any() for parameter in model.scorers.parameters())
        assert model.mixing.grad.any()

    def test_4_permuting_items_permutes_scores_cold_ones_too(self) -> None:
        data = small_data("text", "image")
        order = np.random.default_rng(0).permutation(N_ITEMS)
        place = np.argsort(order)
        features = {
            m: FeatureTable("other", m, t.vectors[order], t.present[order]) for m, t in data.features.items()
        }
        users = data.train.users
        moved = TrainingData(
            N_USERS, N_ITEMS, Histories.from_pairs(users, place[data.train.items], N_USERS), features
        )
        one, two = new_model("lirdrec", data, **SMALL), new_model("lirdrec", moved, **SMALL)
        scores = all_scores(one, data)
        assert_close(all_scores(two, moved), scores[:, torch.from_numpy(order)])
        assert scores[:, -1].std() > 0  # never liked: a score from features alone

    def test_5_no_weight_on_pictures_is_the_text_graph(self) -> None:
        both, text = small_data("text", "image"), small_data("text")
        one = new_model("lirdrec", both, **SMALL, image_weight=0.0).item_graph.to_dense()
        assert torch.equal(one, new_model("lirdrec", text, **SMALL).item_graph.to_dense())

    def test_6_saved_in_the_middle_the_next_epoch_has_the_same_attention(self, tmp_path: Path) -> None:
        data = small_data("text", "image")
        model = new_model("lirdrec", data, **SMALL)
        for epoch in range(3):
            an_epoch(model, data, epoch)
        save_tensors(tmp_path / "x", model.state_dict(), {})
        other = new_model("lirdrec", data, seed=1, **SMALL)
        restore(other, load_tensors(tmp_path / "x")[0], tmp_path / "x")
        begin_epoch(other, 2)  # the epoch under way begins again, and nothing happens
        for one in (model, other):
            an_epoch(one, data, 3)
        assert torch.equal(model.attention, other.attention)
        assert torch.equal(model.mixing, other.mixing)

    def test_7_evaluated_twice_with_the_same_bits(self) -> None:
        data = small_data("text", "image", missing=True)
        model = new_model("lirdrec", data, **SMALL)
        an_epoch(model, data, 0)
        assert torch.equal(all_scores(model, data), all_scores(model, data))


def test_each_epoch_begins_with_the_attention_of_the_last_step() -> None:
    data = small_data("text", "image")
    model = new_model("lirdrec", data, **SMALL)
    initial = model.mixing.detach().clone()
    begin_epoch(model, 0)
    model.loss(random_batch(data))
    assert torch.equal(model.mixing, initial)  # nothing to copy yet
    attention = model.attention.clone()
    begin_epoch(model, 1)
    assert torch.equal(model.mixing, initial)  # not before the first step
    for _ in range(2):
        model.loss(random_batch(data))
        assert torch.equal(model.mixing, attention)  # once in an epoch
    assert not torch.equal(model.mixing, initial)


def test_an_item_without_any_modality_lives_from_its_users() -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("lirdrec", data, **SMALL)
    scores = all_scores(model, data)
    assert scores[:, 2].std() > 0
    with torch.no_grad():
        for encoder in model.encoders.values():
            assert not encoder()[2].any()


class Crash(Exception):
    """Stands for anything that ends a process."""


def test_torn_after_every_step_and_resumed_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop: Dataset = make_small_shop(tmp_path / "shop")
    features = {"features": {"text": "text-small", "image": "image-small"}}
    document = config_of(shop, "lirdrec", **features, epochs=2, checkpoint_seconds=0)
    whole = train(document, run=tmp_path / "whole", show_progress=False)
    run_step, lives = train_module._Training._step, 0

    def one_step_per_life(self: Any, batch: Any) -> Any:
        if self.lived:
            raise Crash
        self.lived = True
        return run_step(self, batch)

    monkeypatch.setattr(train_module._Training, "lived", False, raising=False)
    monkeypatch.setattr(train_module._Training, "_step", one_step_per_life)
    while True:
        lives += 1
        assert lives < 20
        try:
            torn = train(document, run=tmp_path / "torn", resume=True, show_progress=False)
            break
        except Crash:
            continue
    assert lives > 4
    for file in (BEST, LAST):
        one, two = (load_tensors(run.path / file)[0] for run in (whole, torn))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
