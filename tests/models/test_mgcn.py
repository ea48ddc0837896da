"""MGCN against plain dense formulas in float64, written from the paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from tests.dense import (
    assert_close,
    cosines,
    history_matrix,
    layer_mean,
    negative_log_sigmoid,
    neighbour_lists,
    normalized_adjacency,
)
from tests.learning import all_scores, new_model
from tests.small_data import N_ITEMS, N_USERS, random_batch, small_data

SMALL = {"dim": 6, "knn_k": 3}
WEIGHTS = {"contrast_weight": 0.5, "reg": 0.3}  # large enough to be seen in the gradients


def cosine_graph(data: TrainingData, modality: str, k: int) -> Tensor:
    """``W_ij / sqrt(r_i r_j)`` of the cosines of the k nearest items, negative ones as 0."""
    table = data.features[modality]
    own = np.flatnonzero(table.present)
    vectors = table.vectors[own]
    weights = torch.zeros(N_ITEMS, N_ITEMS, dtype=torch.float64)
    for row, nearest in enumerate(neighbour_lists(vectors, k)):
        for column in nearest:
            weights[own[row], own[column]] = max(0.0, cosines(vectors)[row, column])
    sums = weights.sum(1)
    return torch.nan_to_num(weights / (sums[:, None] * sums[None, :]).sqrt())


def contrast(anchors: Tensor, targets: Tensor, ids: list[int], temperature: float) -> Tensor:
    """InfoNCE as it is written, over each id once."""
    rows = {
        i: (a / (a @ a).sqrt(), t / (t @ t).sqrt()) for i, a, t in zip(ids, anchors, targets, strict=True)
    }
    total = torch.zeros((), dtype=torch.float64)
    for anchor, target in rows.values():
        all_targets = torch.stack([other for _, other in rows.values()])
        total = total - torch.log(
            torch.exp(anchor @ target / temperature) / torch.exp(all_targets @ anchor / temperature).sum()
        )
    return total / len(rows)


class Twin:
    """The formulas on dense matrices with a copy of a model's parameters, all of them leaves."""

    def __init__(self, model: Any, data: TrainingData, **config: Any) -> None:
        defaults = {"ui_layers": 2, "item_layers": 1, "temperature": 0.2, **WEIGHTS}
        self.config, self.data = {**defaults, **SMALL, **config}, data
        self.leaves = {k: v.detach().double().requires_grad_() for k, v in model.named_parameters()}
        self.adjacency = normalized_adjacency(history_matrix(data.train, N_ITEMS))
        self.content = {}
        for m, table in sorted(data.features.items()):
            present = torch.from_numpy(table.present)
            self.content[m] = torch.cat([(history_matrix(data.train, N_ITEMS) * present).any(1), present])

    def affine(self, name: str, rows: Tensor) -> Tensor:
        return rows @ self.leaves[f"{name}.weight"].T + self.leaves[f"{name}.bias"]

    def behaviour(self) -> Tensor:
        return layer_mean(self.adjacency, self.leaves["embeddings"], self.config["ui_layers"])

    def view(self, m: str) -> Tensor:
        """M_m ``(n_users + n_items, dim)``."""
        features = torch.from_numpy(self.data.features[m].vectors).double()
        features = self.leaves.get(f"views.{m}.projection.features", features)
        projected = self.affine(f"views.{m}.projection.map", features)
        gate = 1 / (1 + torch.exp(-self.affine(f"views.{m}.purifier", projected)))
        items = self.leaves["embeddings"][N_USERS:] * gate * self.content[m][N_USERS:, None]
        for _ in range(self.config["item_layers"]):
            items = cosine_graph(self.data, m, self.config["knn_k"]) @ items
        return torch.cat([self.adjacency[:N_USERS, N_USERS:] @ items, items])

    def side(self) -> Tensor:
        """Z, node by node."""
        views, behaviour = {m: self.view(m) for m in self.content}, self.behaviour()
        rows = []
        for node in range(N_USERS + N_ITEMS):
            own = {m: view[node] for m, view in views.items() if self.content[m][node]}
            logits = {
                m: self.leaves["query_out.weight"][0] @ torch.tanh(self.affine("query", row))
                for m, row in own.items()
            }
            total = sum((torch.exp(logit) for logit in logits.values()), torch.zeros(()))
            shared = torch.zeros(behaviour.shape[1], dtype=torch.float64)
            for m, row in own.items():
                shared = shared + torch.exp(logits[m]) / total * row
            fused = shared
            for m, row in own.items():
                gate = torch.sigmoid(self.affine(f"views.{m}.behaviour", behaviour[node]))
                fused = fused + gate * (row - shared)
            rows.append(fused / (len(views) + 1))
        return torch.stack(rows)

    def scores(self) -> Tensor:
        final = self.behaviour() + self.side()
        return final[:N_USERS] @ final[N_USERS:].T

    def terms(self, batch: PairBatch) -> dict[str, Tensor]:
        behaviour, side = self.behaviour(), self.side()
        final = behaviour + side
        users, positives, negatives = (
            final[ids] for ids in (batch.users, batch.positives + N_USERS, batch.negatives + N_USERS)
        )
        has_content = torch.stack(list(self.content.values())).any(0)
        terms = {
            "bpr": negative_log_sigmoid((users * positives).sum(1), (users * negatives).sum(1)),
            "penalty": self.config["reg"]
            * (users.pow(2).sum() + positives.pow(2).sum() + negatives.pow(2).sum())
            / (2 * len(users)),
        }
        for name, nodes in (("users", batch.users), ("items", batch.positives + N_USERS)):
            own = [node for node in nodes.tolist() if has_content[node]]
            value = contrast(side[own], behaviour[own], own, self.config["temperature"])
            terms[f"contrast_{name}"] = self.config["contrast_weight"] * value
        return terms


CASES: list[tuple[tuple[str, ...], bool, dict[str, Any]]] = [
    (("text",), False, {}),
    (("image",), True, {}),
    (("text", "image"), False, {}),
    (("text", "image"), True, {"temperature": 0.7, "reg": 0.1}),
    (("text", "image", "audio"), True, {"train_features": True}),
    (("text", "image"), True, {"ui_layers": 0, "item_layers": 0}),
    (("text", "image"), False, {"ui_layers": 3, "item_layers": 2, "knn_k": 50}),
]


@pytest.mark.parametrize(("modalities", "missing", "config"), CASES)
class TestDenseTwin:
    def test_scores(self, modalities: tuple[str, ...], missing: bool, config: dict[str, Any]) -> None:
        data = small_data(*modalities, missing=missing)
        model = spread(new_model("mgcn", data, **{**SMALL, **config}))
        assert_close(all_scores(model, data), Twin(model, data, **config).scores())

    def test_losses_and_gradients(
        self, modalities: tuple[str, ...], missing: bool, config: dict[str, Any]
    ) -> None:
        data = small_data(*modalities, missing=missing)
        model = spread(new_model("mgcn", data, **{**SMALL, **WEIGHTS, **config}))
        twin, batch = Twin(model, data, **config), random_batch(data)
        terms, expected = model.loss(batch), twin.terms(batch)
        assert terms.keys() == expected.keys()
        for name in expected:
            assert_close(terms[name], expected[name])
        torch.stack(list(terms.values())).sum().backward()
        torch.stack(list(expected.values())).sum().backward()
        for name, parameter in model.named_parameters():
            assert_close(parameter.grad, twin.leaves[name].grad)
        if len(modalities) > 1:
            assert model.query.weight.grad.abs().max() > 1e-3  # not compared at zero


def spread(model: Any) -> Any:
    """Move a new model away from gates of 1/2, where the shares do not matter."""
    with torch.no_grad():
        model.embeddings.mul_(3)
        for view in model.views.values():
            view.behaviour.bias.add_(1.5)
    return model


class TestProperties:
    """The numbers are those of the sheet."""

    def test_1_even_shares_and_closed_gates_leave_a_third_of_the_shared_part(self) -> None:
        model = new_model("mgcn", small_data("text", "image"), **SMALL)
        with torch.no_grad():
            model.query_out.weight.zero_()
            for view in model.views.values():
                view.behaviour.weight.zero_()
                view.behaviour.bias.fill_(-100.0)
        views, behaviour = model._modality_views(), model.embeddings
        image, text = views.chunk(2, 1)
        assert_close(model._fuse(views, behaviour, model.present), (image + text) / 2 / 3, 1e-6)

    def test_2_modalities_that_agree_have_nothing_specific(self) -> None:
        model = new_model("mgcn", small_data("text", "image"), **SMALL)
        one = torch.randn(N_USERS + N_ITEMS, 6, generator=torch.Generator().manual_seed(0))
        content = model.present.all(1)  # not a user without history
        for behaviour in (torch.zeros_like(one), torch.ones_like(one)):  # whatever the gates
            fused = model._fuse(torch.cat([one, one], 1), behaviour, model.present)
            assert_close(fused[content], one[content] / 3, 1e-6)

    def test_3_without_contrast_and_penalty_it_is_bpr(self) -> None:
        data = small_data("text", "image")
        model = new_model("mgcn", data, **SMALL, contrast_weight=0.0, reg=0.0)
        terms = model.loss(random_batch(data))
        assert [terms[name].item() for name in ("contrast_users", "contrast_items", "penalty")] == [0, 0, 0]
        parameters = list(model.parameters())
        one = torch.autograd.grad(terms["bpr"], parameters, retain_graph=True)
        two = torch.autograd.grad(torch.stack(list(terms.values())).sum(), parameters)
        for left, right in zip(one, two, strict=True):
            assert torch.equal(left, right)
            assert left.any()

    def test_4_without_item_layers_the_views_are_the_purified_embeddings(self) -> None:
        model = new_model("mgcn", small_data("text", missing=True), **SMALL, item_layers=0)
        view = model.views["text"]
        gate = torch.sigmoid(view.purifier(view.projection(torch.arange(N_ITEMS))))
        purified = model.embeddings[N_USERS:] * gate
        purified[[2, 5, 6]] = 0  # they have no text
        assert_close(model._modality_views()[N_USERS:], purified, 1e-6)

    def test_5_names_of_the_modalities_do_not_matter(self) -> None:
        data = small_data("text", "image", missing=True)
        names = {"text": "image", "image": "text"}
        swapped = {names[m]: table for m, table in data.features.items()}
        model = new_model("mgcn", data, **SMALL)
        other = new_model("mgcn", TrainingData(N_USERS, N_ITEMS, data.train, swapped), **SMALL)
        state = {
            ".".join(names.get(part, part) for part in key.split(".")): value
            for key, value in model.state_dict().items()
        }
        other.load_state_dict(state)
        assert_close(all_scores(model, data), all_scores(other, data), 1e-6)
        batch = random_batch(data)
        one, two = model.loss(batch), other.loss(batch)
        for name in one:
            assert_close(one[name], two[name], 1e-6)

    def test_6_contrast_is_the_cross_entropy_of_the_distinct_rows(self) -> None:
        model = new_model("mgcn", small_data("text"), **SMALL)
        side, behaviour = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
        nodes = N_USERS + torch.tensor([4, 0, 9, 7])
        unit_side, unit_behaviour = (rows / rows.norm(dim=1, keepdim=True) for rows in (side, behaviour))
        logits = unit_side @ unit_behaviour.T / 0.2
        expected = torch.nn.functional.cross_entropy(logits, torch.arange(4))
        assert_close(model._contrast(side, behaviour, nodes), expected)
        twice = [torch.cat([rows, rows[[1, 3]]]) for rows in (side, behaviour, nodes)]
        assert_close(model._contrast(*twice), expected)


def test_nodes_without_content_live_from_behaviour_alone() -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("mgcn", data, **SMALL)
    behaviour = layer_mean(
        normalized_adjacency(history_matrix(data.train, N_ITEMS)), model.embeddings.detach().double(), 2
    )
    vectors = model.eval().vectors()
    assert_close(vectors.items[2].detach(), behaviour[N_USERS + 2])
    assert not torch.allclose(vectors.items[5].detach().double(), behaviour[N_USERS + 5])  # it has an image


def test_a_batch_without_content_has_no_contrast() -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("mgcn", data, **SMALL)
    terms = model.loss(PairBatch(torch.tensor([0, 1]), torch.tensor([2, 2]), torch.tensor([1, 3])))
    assert terms["contrast_items"].item() == 0
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_content_of_absent_items_is_not_read() -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("mgcn", data, **SMALL, item_layers=0)
    before = all_scores(model, data)
    for view in model.views.values():
        view.projection.features[~view.projection.present] = 9.0
    assert torch.equal(before, all_scores(model, data))
