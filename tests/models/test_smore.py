"""SMORE against plain dense formulas in float64: the Fourier transform as a matrix, every node, every view."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.models.graph.smore import FUSED
from tests.dense import assert_close, history_matrix, layer_mean, negative_log_sigmoid, normalized_adjacency
from tests.learning import all_scores, new_model
from tests.small_data import N_ITEMS, N_USERS, random_batch, small_data
from tests.twins import assert_same_step, content_of, cosine_graph, leaves, plain_info_nce

SMALL = {"dim": 6, "knn_k": 3, "image_knn_k": 4, "reg": 0.1, "contrast_weight": 0.3, "dropout": 0.0}


def transform(rows: Tensor) -> Tensor:
    """The first ``d // 2 + 1`` coefficients of the orthonormal Fourier transform, by its definition."""
    d = rows.shape[-1]
    angle = 2 * math.pi * torch.arange(d, dtype=torch.float64)[:, None] * torch.arange(d // 2 + 1) / d
    return rows.to(torch.complex128) @ torch.complex(angle.cos(), -angle.sin()) / math.sqrt(d)


def inverse(spectrum: Tensor, d: int) -> Tensor:
    """The real rows of width d whose transform is the spectrum; coefficients of the other half are conjugates."""
    angle = 2 * math.pi * torch.arange(d // 2 + 1, dtype=torch.float64)[:, None] * torch.arange(d) / d
    twice = torch.full((d // 2 + 1, 1), 2.0, dtype=torch.float64)
    twice[0] = 1
    if d % 2 == 0:
        twice[-1] = 1
    return (spectrum @ (twice * torch.complex(angle.cos(), angle.sin()))).real / math.sqrt(d)


class Twin:
    """The sheet's algorithm with copies of a model's parameters."""

    def __init__(self, model: Any, data: TrainingData, **config: Any) -> None:
        self.config = {"ui_layers": 4, "item_layers": 1, "temperature": 0.2, **SMALL, **config}
        self.data, self.values = data, leaves(model)
        self.adjacency = normalized_adjacency(history_matrix(data.train, data.n_items))
        self.content = {m: content_of(data, m) for m in data.features}
        self.content[FUSED] = torch.stack(list(self.content.values())).any(0)

    def linear(self, name: str, rows: Tensor) -> Tensor:
        return rows @ self.values[f"{name}.weight"].T + self.values[f"{name}.bias"]

    def features(self, m: str) -> Tensor:
        trained = self.values.get(f"projections.{m}.features")
        return torch.from_numpy(self.data.features[m].vectors).double() if trained is None else trained

    def behaviour(self) -> Tensor:
        return layer_mean(self.adjacency, self.values["embeddings"], self.config["ui_layers"])

    def views(self) -> dict[str, Tensor]:
        dim = self.config["dim"]
        spectra = {
            m: transform(self.linear(f"projections.{m}.map", self.features(m))) for m in self.data.features
        }
        fused = []
        for item in range(N_ITEMS):
            product = torch.ones(dim // 2 + 1, dtype=torch.complex128)
            for m, table in self.data.features.items():
                product = product * spectra[m][item] if table.present[item] else product
            fused.append(product)
        graphs = {
            m: cosine_graph(table, self.config["image_knn_k" if m == "image" else "knn_k"])
            for m, table in self.data.features.items()
        }
        graphs[FUSED] = torch.stack(list(graphs.values())).amax(0)
        views = {}
        for view, spectrum in {**spectra, FUSED: torch.stack(fused)}.items():
            filtered = inverse(spectrum * torch.view_as_complex(self.values[f"views.{view}.filter"]), dim)
            gate = torch.sigmoid(self.linear(f"views.{view}.purifier", filtered))
            items = self.values["embeddings"][N_USERS:] * gate * self.content[view][N_USERS:, None]
            for _ in range(self.config["item_layers"]):
                items = graphs[view] @ items
            views[view] = torch.cat([self.adjacency[:N_USERS, N_USERS:] @ items, items])
        return views

    def side(self, nodes: Tensor, masks: dict[str, Tensor]) -> Tensor:
        views, behaviour = self.views(), self.behaviour()
        parts = []
        for view, rows in views.items():
            gate = torch.sigmoid(self.linear(f"gates.{view}", behaviour[nodes])) * masks.get(view, 1.0)
            if view == FUSED:
                parts.append(gate * rows[nodes])
                continue
            hidden = torch.tanh(self.linear(f"preferences.{view}.0", views[FUSED][nodes]))
            logits = hidden @ self.values[f"preferences.{view}.2.weight"].T
            parts.append(gate * (logits.exp() / logits.exp().sum(1, keepdim=True)) * rows[nodes])
        return sum(parts) / len(parts)

    def scores(self) -> Tensor:
        final = self.behaviour() + self.side(torch.arange(N_USERS + N_ITEMS), {})
        return final[:N_USERS] @ final[N_USERS:].T

    def terms(self, batch: PairBatch, masks: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        nodes = torch.cat([batch.users, batch.positives + N_USERS, batch.negatives + N_USERS])
        own, side = self.behaviour()[nodes], self.side(nodes, masks or {})
        users, positives, negatives = (own + side).chunk(3)
        contrast = 0
        for z, b, ids in list(zip(side.chunk(3), own.chunk(3), nodes.chunk(3), strict=True))[:2]:
            kept = self.content[FUSED][ids]
            contrast = contrast + plain_info_nce(z[kept], b[kept], self.config["temperature"], ids[kept])
        squares = sum(part.pow(2).sum() for part in (users, positives, negatives))
        return {
            "bpr": negative_log_sigmoid((users * positives).sum(1), (users * negatives).sum(1)),
            "contrast": self.config["contrast_weight"] * contrast,
            "penalty": self.config["reg"] * squares / (2 * len(batch.users)),
        }


CASES: list[tuple[tuple[str, ...], bool, dict[str, Any]]] = [
    (("text",), False, {}),
    (("image",), True, {}),
    (("text", "image"), False, {}),
    (("text", "image"), True, {"train_features": True}),
    (("text", "image", "audio"), True, {}),
    (("text", "image"), True, {"dim": 5, "ui_layers": 1}),
    (("text", "image"), True, {"item_layers": 0, "ui_layers": 0}),
    (("text", "image"), True, {"item_layers": 2, "temperature": 0.5}),
]


@pytest.mark.parametrize(("modalities", "missing", "config"), CASES)
def test_dense_twin(modalities: tuple[str, ...], missing: bool, config: dict[str, Any]) -> None:
    data = small_data(*modalities, missing=missing)
    model = new_model("smore", data, **{**SMALL, **config})
    twin, batch = Twin(model, data, **config), random_batch(data)
    assert_close(all_scores(model, data), twin.scores())
    model.train()
    assert_same_step(model, twin.values, model.loss(batch), twin.terms(batch))


def test_dense_twin_with_dropout_in_the_gates() -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("smore", data, **{**SMALL, "dropout": 0.4})
    twin, batch = Twin(model, data), random_batch(data)
    torch.manual_seed(5)
    actual = model.train().loss(batch)
    torch.manual_seed(5)
    masks = {view: F.dropout(torch.ones(120, 6), 0.4).double() for view in ("image", "text", FUSED)}
    assert_same_step(model, twin.values, actual, twin.terms(batch, masks))
    assert_close(all_scores(model, data), twin.scores())  # none in evaluation


def filtered(model: Any) -> dict[str, Tensor]:
    """What each view's purifier reads: its content after the filter."""
    found: dict[str, Tensor] = {}
    for name, view in model.views.items():
        view.purifier.register_forward_pre_hook(
            lambda _, inputs, name=name: found.update({name: inputs[0].detach()})
        )
    model.eval().vectors()
    return found


def with_flat_filters(data: TrainingData, **config: Any) -> Any:
    model = new_model("smore", data, **{**SMALL, **config})
    for view in model.views.values():
        view.filter.data = torch.tensor([1.0, 0.0]).expand_as(view.filter).clone()
    return model


class TestProperties:
    """The numbers are those of the sheet."""

    @pytest.mark.parametrize("dim", [6, 7])
    def test_1_flat_filters_change_nothing_and_fuse_by_circular_convolution(self, dim: int) -> None:
        model = with_flat_filters(small_data("text", "image"), dim=dim)
        contents = filtered(model)
        one, two = (model.projections[m].catalogue().detach() for m in ("text", "image"))
        assert_close(contents["text"], one, 1e-6)
        assert_close(contents["image"], two, 1e-6)
        convolved = torch.stack(
            [sum(one[:, a] * two[:, (n - a) % dim] for a in range(dim)) for n in range(dim)], dim=1
        )
        assert_close(contents[FUSED] * math.sqrt(dim), convolved, 1e-6)

    def test_2_a_unit_impulse_fuses_to_a_scaled_copy(self) -> None:
        model = with_flat_filters(small_data("text", "image"))
        model.projections["image"].map.weight.data.zero_()
        model.projections["image"].map.bias.data = torch.eye(6)[0]
        text = model.projections["text"].catalogue().detach()
        assert_close(filtered(model)[FUSED], text / math.sqrt(6), 1e-6)

    def test_3_the_fused_graph_is_the_entrywise_maximum(self) -> None:
        model = new_model("smore", small_data("text", "image", missing=True), knn_k=3, image_knn_k=5)
        text, image, fused = (model.views[view].item_graph.to_dense() for view in ("text", "image", FUSED))
        assert torch.equal(fused, torch.maximum(text, image))
        assert not torch.equal(fused, text)
        assert (fused > 0).sum() <= N_ITEMS * (3 + 5 - 1)

    def test_4_preferences_sum_to_1_over_the_columns(self) -> None:
        model = new_model("smore", small_data("text", "image"), **SMALL)
        seen: list[Tensor] = []
        for module in model.preferences.values():
            module.register_forward_hook(lambda _, __, output: seen.append(output.detach()))
        views = model.eval()._content_views()
        ones = {view: torch.ones_like(rows) if view != FUSED else rows for view, rows in views.items()}
        for gate in model.gates.values():
            gate.weight.data.zero_()
            gate.bias.data.fill_(100.0)  # open
        parts = 3 * model._fuse(torch.zeros_like(views[FUSED]), ones) - views[FUSED]
        assert len(seen) == 2
        assert_close(parts.sum(1), torch.full((N_USERS + N_ITEMS,), 2.0))

    def test_5_without_dropout_a_step_is_deterministic(self) -> None:
        data = small_data("text", "image")
        batch = random_batch(data)
        still, noisy = (new_model("smore", data, **{**SMALL, "dropout": p}).train() for p in (0.0, 0.5))
        assert torch.equal(still.loss(batch)["bpr"], still.loss(batch)["bpr"])
        assert not torch.equal(noisy.loss(batch)["bpr"], noisy.loss(batch)["bpr"])

    def test_6_with_closed_gates_it_is_lightgcn(self) -> None:
        data = small_data("text", "image")
        model = new_model("smore", data, dim=6, ui_layers=2, contrast_weight=0.0)
        lightgcn = new_model("lightgcn", data, dim=6, layers=2)
        model.embeddings.data = lightgcn.embeddings.data.clone()
        for gate in model.gates.values():
            gate.bias.data.fill_(-1e4)
        seen = data.train.items
        assert_close(all_scores(model, data)[:, seen], all_scores(lightgcn, data)[:, seen], 1e-7)
        batch = random_batch(data)
        assert_close(model.loss(batch)["bpr"], lightgcn.loss(batch)["bpr"], 1e-7)


def test_an_item_without_any_modality_has_no_content_part() -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("smore", data, **SMALL).eval()
    for rows in model._content_views().values():
        assert not rows[N_USERS + 2].any()
    behaviour = layer_mean(
        normalized_adjacency(history_matrix(data.train, N_ITEMS)), model.embeddings.detach().double(), 4
    )
    assert_close(model.vectors().items[2].detach(), behaviour[N_USERS + 2])


def test_a_batch_of_items_without_content() -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("smore", data, **SMALL)
    terms = model.loss(PairBatch(torch.tensor([0, 1]), torch.tensor([2, 2]), torch.tensor([1, 3])))
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
