"""PGL against plain dense formulas in float64."""

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
from mmrec.graph import edges, prune_edges
from mmrec.models.graph import pgl
from tests.dense import (
    assert_close,
    history_matrix,
    interaction_matrix,
    item_graph,
    layer_mean,
    negative_log_sigmoid,
    normalized_adjacency,
)
from tests.learning import all_scores, begin_epoch, new_model
from tests.small_data import N_ITEMS, N_USERS, random_batch, shares, small_data
from tests.twins import assert_same_step, leaves, plain_info_nce, unit

SMALL = {"dim": 6, "knn_k": 3, "contrast_weight": 0.4, "dropout": 0.0}


class Twin:
    """The sheet's algorithm with copies of a model's parameters."""

    def __init__(self, model: Any, data: TrainingData, **config: Any) -> None:
        self.config = {"ui_layers": 2, "item_layers": 1, "image_weight": 0.1, "temperature": 0.2, **SMALL}
        self.config |= config
        self.data, self.values = data, leaves(model)
        weights = shares(list(data.features), self.config["image_weight"])
        self.items = item_graph(data.features, self.config["knn_k"], weights)
        self.full = normalized_adjacency(history_matrix(data.train, data.n_items))

    def tables(self, adjacency: Tensor) -> Tensor:
        users, items = [], []
        for m, table in sorted(self.data.features.items()):
            features = self.values.get(f"projections.{m}.features")
            features = torch.from_numpy(table.vectors).double() if features is None else features
            projected = features @ self.values[f"projections.{m}.map.weight"].T
            rows = unit(projected + self.values[f"projections.{m}.map.bias"])
            items.append(rows * torch.from_numpy(table.present)[:, None])
            users.append(self.values[f"users.{m}"])
        own = from_items = torch.cat(items, 1)
        for _ in range(self.config["item_layers"]):
            from_items = self.items @ from_items
        start = torch.cat([torch.cat(users, 1), own])
        propagated = layer_mean(adjacency, start, self.config["ui_layers"])
        return propagated + torch.cat([torch.zeros(N_USERS, own.shape[1]), from_items])

    def scores(self) -> Tensor:
        tables = self.tables(self.full)
        return tables[:N_USERS] @ tables[N_USERS:].T

    def terms(
        self, batch: PairBatch, adjacency: Tensor, masks: list[Tensor] | None = None
    ) -> dict[str, Tensor]:
        tables = self.tables(adjacency)
        users, positives = tables[batch.users], tables[batch.positives + N_USERS]
        negatives = tables[batch.negatives + N_USERS]
        one, two, three, four = masks or [torch.ones(1, 1, dtype=torch.float64)] * 4
        tau = self.config["temperature"]
        contrast = plain_info_nce(users * one, users * two, tau, batch.users)
        contrast = contrast + plain_info_nce(positives * three, positives * four, tau, batch.positives)
        return {
            "bpr": negative_log_sigmoid((users * positives).sum(1), (users * negatives).sum(1)),
            "contrast": self.config["contrast_weight"] * contrast / 2,
        }


CASES: list[tuple[tuple[str, ...], bool, dict[str, Any]]] = [
    (("text",), False, {}),
    (("image",), True, {}),
    (("text", "image"), False, {"ui_layers": 0, "item_layers": 0}),
    (("text", "image"), True, {"image_weight": 0.4}),
    (("text", "image"), True, {"train_features": True, "item_layers": 2}),
    (("text", "image", "audio"), True, {"temperature": 0.6, "ui_layers": 3}),
]


@pytest.mark.parametrize(("modalities", "missing", "config"), CASES)
def test_dense_twin(modalities: tuple[str, ...], missing: bool, config: dict[str, Any]) -> None:
    data = small_data(*modalities, missing=missing)
    model = new_model("pgl", data, **{**SMALL, **config, "keep": 0.5})
    twin, batch = Twin(model, data, **config), random_batch(data)
    begin_epoch(model, 3)
    users, items = edges(data.train)
    kept = prune_edges(users, items, 0.5, torch.Generator().manual_seed(3))
    assert 0 < len(kept) < len(users)
    left = normalized_adjacency(interaction_matrix(users[kept], items[kept], N_USERS, N_ITEMS))
    assert_same_step(model, twin.values, model.loss(batch), twin.terms(batch, left))
    assert_close(all_scores(model, data), twin.scores())  # the full graph


def test_dense_twin_with_dropout() -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("pgl", data, **{**SMALL, "dropout": 0.4})
    twin, batch = Twin(model, data), random_batch(data)
    torch.manual_seed(5)
    actual = model.train().loss(batch)
    torch.manual_seed(5)
    masks = [F.dropout(torch.ones(40, 12), 0.4).double() for _ in range(4)]
    assert_same_step(model, twin.values, actual, twin.terms(batch, twin.full, masks))


def principal_by_hand(data: TrainingData, rank: int, kept: int, threshold: float) -> Tensor:
    """The published formula on the whole symmetric matrix, dense, with twice the numbers."""
    adjacency = normalized_adjacency(history_matrix(data.train, data.n_items)).numpy()
    left, values, right = np.linalg.svd(adjacency)
    total = np.zeros_like(adjacency)
    for j in range(2 * kept):
        weight = values[j] * values[2 * rank - 2 * kept + j]
        total += weight * np.outer(left[:, j], right[j])
    total[total < threshold] = 0
    return torch.from_numpy(total)


class TestProperties:
    """The numbers are those of the sheet."""

    def test_1_keeping_everything_is_the_full_graph(self) -> None:
        model = new_model("pgl", small_data("text"), keep=1.0)
        model.on_epoch(torch.Generator())
        assert model.training_graph is model.full_graph

    def test_1_every_epoch_draws_its_own_share(self) -> None:
        data = small_data("text")
        model = new_model("pgl", data, keep=0.3)
        graphs = []
        for seed in range(2):
            model.on_epoch(torch.Generator().manual_seed(seed))
            graphs.append(model.training_graph.to_dense())
            assert int((graphs[-1] > 0).sum()) == 2 * int(0.3 * len(data.train.items))
        assert not torch.equal(*graphs)

    @pytest.mark.parametrize("principal", ["local", "global"])
    def test_2_evaluation_sees_the_full_graph(self, principal: str) -> None:
        data = small_data("text", "image")
        model = new_model("pgl", data, **SMALL, principal=principal, svd_rank=4, svd_kept=2)
        begin_epoch(model, 0)
        assert not torch.equal(model.training_graph.to_dense(), model.full_graph.to_dense())
        assert_close(all_scores(model, data), Twin(model, data).scores())

    def test_3_without_weight_there_is_no_contrast(self) -> None:
        data = small_data("text", "image")
        batch = random_batch(data)
        with_term, without = (
            new_model("pgl", data, **{**SMALL, "contrast_weight": weight}) for weight in (0.4, 0.0)
        )
        assert set(without.loss(batch)) == {"bpr"}
        assert torch.equal(without.loss(batch)["bpr"], with_term.loss(batch)["bpr"])

    def test_4_swapping_the_modalities_changes_nothing(self) -> None:
        data = small_data("text", "image")
        text, image = data.features["text"], data.features["image"]
        swapped = {
            "text": FeatureTable("text-new", "text", image.vectors, image.present),
            "image": FeatureTable("image-new", "image", text.vectors, text.present),
        }
        other = TrainingData(N_USERS, N_ITEMS, data.train, swapped)
        one, two = (new_model("pgl", d, **SMALL, image_weight=0.5) for d in (data, other))
        trade = {"text": "image", "image": "text"}
        state = one.state_dict()
        two.load_state_dict(
            {".".join(trade.get(part, part) for part in key.split(".")): state[key] for key in state}
        )
        assert_close(all_scores(one, data), all_scores(two, other))

    @pytest.mark.parametrize(("rank", "kept", "threshold"), [(5, 2, 1e-3), (4, 4, 0.05), (10, 3, 1e-3)])
    def test_5_blocks_equal_the_dense_formula(
        self, rank: int, kept: int, threshold: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
    ) -> None:
        monkeypatch.setenv("MMREC_CACHE", str(tmp_path))
        monkeypatch.setattr(pgl, "BLOCK_BYTES", 8 * N_ITEMS * 3)  # three users at a time
        data = small_data("text")
        fast = pgl.principal_graph(data.train, N_ITEMS, rank, kept, threshold).to_dense()
        expected = principal_by_hand(data, rank, kept, threshold)
        assert_close(fast, expected)
        assert 0 < int((fast > 0).sum()) < 2 * N_USERS * N_ITEMS

    def test_5_more_directions_than_there_are_means_all(self) -> None:
        data = small_data("text")
        everything = pgl.principal_graph(data.train, N_ITEMS, N_USERS, 3, 1e-3).to_dense()
        assert torch.equal(pgl.principal_graph(data.train, N_ITEMS, 50, 3, 1e-3).to_dense(), everything)


def test_an_item_without_any_modality_lives_from_its_users() -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("pgl", data, **SMALL).eval()
    own = model.vectors().items[2].detach()
    users = torch.cat([model.users[m] for m in ("image", "text")], 1).detach().double()
    block = normalized_adjacency(history_matrix(data.train, N_ITEMS))[:N_USERS, N_USERS:]
    items = unit_items(model)
    assert not items[2].any()
    assert_close(own, (block.T @ (users + block @ items))[2] / 3)


def unit_items(model: Any) -> Tensor:
    rows = [unit(model.projections[m].catalogue().detach().double()) for m in ("image", "text")]
    return torch.cat(rows, 1)
