"""MMGCF against plain dense formulas in float64, written from its published code."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.encode.features import FeatureTable
from mmrec.graph import edges, prune_edges
from tests.dense import (
    assert_close,
    history_matrix,
    interaction_matrix,
    layer_mean,
    negative_log_sigmoid,
    normalized_adjacency,
)
from tests.learning import all_scores, new_model
from tests.small_data import N_ITEMS, N_USERS, random_batch, small_data
from tests.twins import assert_same_step, unit

SMALL = {"dim": 6, "reg": 0.3, "dropout": 0.0}
COMBINATIONS = list(product(("mean", "sum", "concat"), ("equal", "alpha", "normalized")))


class Twin:
    """The formulas on dense matrices with a copy of a model's parameters."""

    def __init__(self, model: Any, data: TrainingData, fusion: str, weighting: str, layers: int = 2) -> None:
        self.data, self.fusion, self.weighting, self.layers = data, fusion, weighting, layers
        self.parameters = {
            key: value.detach().double().requires_grad_() for key, value in model.named_parameters()
        }
        self.adjacency = normalized_adjacency(history_matrix(data.train, data.n_items))

    def fuse(self, parts: list[Tensor], joint: str) -> Tensor:
        if self.fusion == "concat":
            return torch.cat(parts, 1) @ self.parameters[f"joints.{joint}.weight"].T
        return sum(parts, 0 * parts[0]) / (len(parts) if self.fusion == "mean" else 1)

    def content(self, modality: str) -> Tensor:
        table = self.data.features[modality]
        rows = (
            torch.from_numpy(table.vectors).double() @ self.parameters[f"projections.{modality}.map.weight"].T
        )
        if self.weighting == "normalized":
            rows = unit(rows + self.parameters[f"projections.{modality}.map.bias"])
        return torch.stack([row if here else 0 * row for row, here in zip(rows, table.present, strict=True)])

    def fused(self, own: Tensor) -> Tensor:
        parts = [self.content(modality) for modality in sorted(self.data.features)]
        if self.weighting == "equal":
            return self.fuse([own, self.fuse(parts, "content")], "item")
        if self.weighting == "alpha":
            share = 1 / (1 + torch.exp(-self.parameters["share"]))
            return self.fuse([share * own, *((1 - share) * part for part in parts)], "item")
        lengths = own.norm(dim=1, keepdim=True)
        return self.fuse([len(parts) * torch.where(lengths > 0, own / lengths, 0.0), *parts], "item")

    def scores(self, *, evaluation: bool) -> Tensor:
        rows = layer_mean(self.adjacency, self.parameters["embeddings"], self.layers)
        own = rows[N_USERS:]
        if evaluation:  # an item that nobody likes has an untrained embedding
            own = own * (history_matrix(self.data.train, N_ITEMS).sum(0) > 0)[:, None]
        return rows[:N_USERS] @ self.fused(own).T

    def terms(self, batch: PairBatch) -> dict[str, Tensor]:
        scores = self.scores(evaluation=False)
        positive, negative = scores[batch.users, batch.positives], scores[batch.users, batch.negatives]
        table = self.parameters["embeddings"]
        rows = (table[batch.users], table[N_USERS + batch.positives], table[N_USERS + batch.negatives])
        penalty = sum((part**2).sum() for part in rows) / (2 * len(batch.users))
        return {"bpr": negative_log_sigmoid(positive, negative), "penalty": 0.3 * penalty}


MODALITIES = [(("text",), True), (("text", "image"), False), (("text", "image", "audio"), True)]


@pytest.mark.parametrize(("fusion", "weighting"), COMBINATIONS)
@pytest.mark.parametrize(("modalities", "missing"), MODALITIES)
class TestDenseTwin:
    def test_scores(self, modalities: tuple[str, ...], missing: bool, fusion: str, weighting: str) -> None:
        data = small_data(*modalities, missing=missing)
        model = new_model("mmgcf", data, **SMALL, fusion=fusion, weighting=weighting)
        assert_close(all_scores(model, data), Twin(model, data, fusion, weighting).scores(evaluation=True))

    def test_losses_and_gradients(
        self, modalities: tuple[str, ...], missing: bool, fusion: str, weighting: str
    ) -> None:
        data, batch = small_data(*modalities, missing=missing), random_batch(small_data())
        model = new_model("mmgcf", data, **SMALL, fusion=fusion, weighting=weighting)
        twin = Twin(model, data, fusion, weighting)
        assert_same_step(model, twin.parameters, model.loss(batch), twin.terms(batch))


@pytest.mark.parametrize("layers", [0, 3])
def test_training_sees_the_pruned_graph_and_evaluation_the_full_one(layers: int) -> None:
    data, batch = small_data("text", "image", missing=True), random_batch(small_data())
    model = new_model("mmgcf", data, **{**SMALL, "dropout": 0.6}, layers=layers)
    twin = Twin(model, data, "mean", "equal", layers)
    model.on_epoch(torch.Generator().manual_seed(3))
    assert_close(all_scores(model, data), twin.scores(evaluation=True))
    users, items = edges(data.train)
    kept = prune_edges(users, items, 0.6, torch.Generator().manual_seed(3))
    assert 0 < len(kept) < len(users)
    twin.adjacency = normalized_adjacency(interaction_matrix(users[kept], items[kept], N_USERS, N_ITEMS))
    assert_same_step(model, twin.parameters, model.loss(batch), twin.terms(batch))


class TestProperties:
    """The numbers are those of the sheet."""

    def test_1_the_sum_with_empty_content_is_lightgcn(self) -> None:
        data, batch = small_data("text", "image"), random_batch(small_data())
        model = new_model("mmgcf", data, **SMALL, fusion="sum")
        lightgcn = new_model("lightgcn", data, dim=6, layers=2, reg=0.3, penalty="squared")
        assert torch.equal(model.embeddings, lightgcn.embeddings)  # same seed, same initial values
        for projection in model.projections.values():
            projection.features.zero_()
        one, two = model.loss(batch), lightgcn.loss(batch)
        for key in ("bpr", "penalty"):
            assert_close(one[key], two[key], 1e-7)
        assert_close(all_scores(model, data), all_scores(lightgcn, data), 1e-7)

    def test_2_with_the_share_near_1_it_is_lightgcn_scaled(self) -> None:
        data = small_data("text", "image")
        model = new_model("mmgcf", data, **SMALL, fusion="mean", weighting="alpha")
        lightgcn = new_model("lightgcn", data, dim=6, layers=2)
        with torch.no_grad():
            model.share.fill_(40.0)
        assert_close(all_scores(model, data), all_scores(lightgcn, data) / 3, 1e-6)

    def test_3_without_dropout_the_hook_leaves_the_full_graph(self) -> None:
        model = new_model("mmgcf", small_data("text"), **SMALL)
        model.on_epoch(torch.Generator())
        assert model.training_graph is model.full_graph

    @pytest.mark.parametrize("fusion", ["mean", "sum", "concat"])
    def test_4_normalized_does_not_see_the_scale_of_features(self, fusion: str) -> None:
        scores = []
        for scale in (1.0, 37.0):
            data = small_data("text", "image", missing=True)
            features = {
                m: FeatureTable(t.name, m, (scale * t.vectors).astype(np.float32), t.present)
                for m, t in data.features.items()
            }
            data = TrainingData(N_USERS, N_ITEMS, data.train, features)
            model = new_model("mmgcf", data, **SMALL, fusion=fusion, weighting="normalized")
            with torch.no_grad():
                for projection in model.projections.values():
                    projection.map.bias.zero_()
            scores.append(all_scores(model, data))
        assert_close(scores[0], scores[1], 1e-6)
        assert scores[0].std() > 0.001


@pytest.mark.parametrize("weighting", ["equal", "alpha", "normalized"])
def test_an_item_without_any_modality_is_its_collaborative_part(weighting: str) -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("mmgcf", data, **SMALL, fusion="sum", weighting=weighting)
    own = layer_mean(Twin(model, data, "sum", weighting).adjacency, model.embeddings.detach().double(), 2)
    item = own[[N_USERS + 2]]
    expected = {"equal": item, "alpha": item / 2, "normalized": 2 * unit(item)}
    assert_close(model.eval().vectors().items[[2]].detach(), expected[weighting])
