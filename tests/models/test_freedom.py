"""FREEDOM against plain dense formulas in float64, written from the paper and its published code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.graph import edges, knn_item_graph, prune_edges
from mmrec.models.contracts import Users
from tests.dense import (
    assert_close,
    history_matrix,
    interaction_matrix,
    item_graph,
    layer_mean,
    negative_log_sigmoid,
    normalized_adjacency,
)
from tests.learning import all_scores, new_model
from tests.small_data import N_ITEMS, N_USERS, random_batch, shares, small_data
from tests.worlds import planted_blocks

SMALL = {"dim": 6, "knn_k": 3, "modality_weight": 0.5, "dropout": 0.0}


class Twin:
    """The sheet's algorithm on dense matrices with a copy of a model's parameters."""

    def __init__(self, model: Any, data: TrainingData, **config: Any) -> None:
        self.config = {"ui_layers": 2, "item_layers": 1, "image_weight": 0.1, **SMALL, **config}
        self.data = data
        values = {key: value.detach().double() for key, value in model.named_parameters()}
        self.users = values["embeddings"][: data.n_users].clone().requires_grad_()
        self.items = values["embeddings"][data.n_users :].clone().requires_grad_()
        self.weight, self.bias, self.features = {}, {}, {}
        for m, table in data.features.items():
            self.weight[m] = values[f"projections.{m}.map.weight"].clone().requires_grad_()
            self.bias[m] = values[f"projections.{m}.map.bias"].clone().requires_grad_()
            self.features[m] = torch.from_numpy(table.vectors).double().requires_grad_()
        weights = shares(list(data.features), self.config["image_weight"])
        self.graph = item_graph(data.features, self.config["knn_k"], weights)
        self.full = normalized_adjacency(history_matrix(data.train, data.n_items))

    def tables(self, adjacency: Tensor) -> tuple[Tensor, Tensor]:
        from_items = self.items
        for _ in range(self.config["item_layers"]):
            from_items = self.graph @ from_items
        propagated = layer_mean(adjacency, torch.cat([self.users, self.items]), self.config["ui_layers"])
        return propagated[: self.data.n_users], propagated[self.data.n_users :] + from_items

    def scores(self) -> Tensor:
        users, items = self.tables(self.full)
        return users @ items.T

    def terms(self, batch: PairBatch, adjacency: Tensor) -> dict[str, Tensor]:
        users, items = self.tables(adjacency)

        def compare(table: Tensor, pairs: list[int]) -> Tensor:
            chosen = [(batch.users[p], batch.positives[p], batch.negatives[p]) for p in pairs]
            positive = torch.stack([users[u] @ table[i] for u, i, _ in chosen])
            negative = torch.stack([users[u] @ table[j] for u, _, j in chosen])
            return negative_log_sigmoid(positive, negative)

        everything = list(range(len(batch.users)))
        terms = {"bpr": compare(items, everything)}
        for m, table in self.data.features.items():
            projected = self.features[m] @ self.weight[m].T + self.bias[m]
            own = [p for p in everything if table.present[batch.positives[p]]]
            own = [p for p in own if table.present[batch.negatives[p]]]
            terms[f"bpr_{m}"] = self.config["modality_weight"] * compare(projected, own)
        return terms


def assert_same_training_step(model: Any, twin: Twin, batch: PairBatch, adjacency: Tensor) -> None:
    terms, expected = model.loss(batch), twin.terms(batch, adjacency)
    assert terms.keys() == expected.keys()
    for name in expected:
        assert_close(terms[name], expected[name])
    torch.stack(list(terms.values())).sum().backward()
    torch.stack(list(expected.values())).sum().backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    assert_close(gradients.pop("embeddings"), torch.cat([twin.users.grad, twin.items.grad]))
    for m in twin.data.features:
        assert_close(gradients.pop(f"projections.{m}.map.weight"), twin.weight[m].grad)
        assert_close(gradients.pop(f"projections.{m}.map.bias"), twin.bias[m].grad)
        if twin.config.get("train_features"):
            assert_close(gradients.pop(f"projections.{m}.features"), twin.features[m].grad)
    assert not gradients


CASES: list[tuple[tuple[str, ...], bool, dict[str, Any]]] = [
    (("text",), False, {}),
    (("image",), False, {}),
    (("text", "image"), False, {}),
    (("text", "image"), True, {}),
    (("text", "image", "audio"), True, {"image_weight": 0.4}),
    (("text", "image"), True, {"image_weight": 0.0}),
    (("text", "image"), False, {"image_weight": 1.0}),
    (("text", "image"), True, {"train_features": True}),
    (("text", "image"), False, {"ui_layers": 0, "item_layers": 0}),
    (("text", "image"), False, {"ui_layers": 3, "item_layers": 2}),
    (("text", "image"), False, {"knn_k": 1}),
    (("text", "image"), True, {"knn_k": 50}),
]


@pytest.mark.parametrize(("modalities", "missing", "config"), CASES)
class TestDenseTwin:
    def test_scores(self, modalities: tuple[str, ...], missing: bool, config: dict[str, Any]) -> None:
        data = small_data(*modalities, missing=missing)
        model = new_model("freedom", data, **{**SMALL, **config})
        assert_close(all_scores(model, data), Twin(model, data, **config).scores())

    def test_losses_and_gradients(
        self, modalities: tuple[str, ...], missing: bool, config: dict[str, Any]
    ) -> None:
        data = small_data(*modalities, missing=missing)
        model = new_model("freedom", data, **{**SMALL, **config})
        twin = Twin(model, data, **config)
        assert_same_training_step(model, twin, random_batch(data), twin.full)

    def test_losses_and_gradients_on_a_pruned_graph(
        self, modalities: tuple[str, ...], missing: bool, config: dict[str, Any]
    ) -> None:
        data = small_data(*modalities, missing=missing)
        model = new_model("freedom", data, **{**SMALL, **config, "dropout": 0.6})
        twin = Twin(model, data, **config)
        model.on_epoch(torch.Generator().manual_seed(3))
        users, items = edges(data.train)
        kept = prune_edges(users, items, 0.6, torch.Generator().manual_seed(3))
        assert 0 < len(kept) < len(users)
        left = interaction_matrix(users[kept], items[kept], N_USERS, N_ITEMS)
        assert_same_training_step(model, twin, random_batch(data), normalized_adjacency(left))
        assert_close(all_scores(model, data), twin.scores())  # the full graph


def test_several_steps_stay_together() -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("freedom", data, **{**SMALL, "train_features": True})
    twin = Twin(model, data, train_features=True)
    leaves = [twin.users, twin.items]
    for part in (twin.weight, twin.bias, twin.features):
        leaves += part.values()
    fast, slow = torch.optim.SGD(model.parameters(), lr=0.5), torch.optim.SGD(leaves, lr=0.5)
    for number in range(5):
        fast.zero_grad()
        slow.zero_grad()
        assert_same_training_step(model, twin, random_batch(data, seed=number), twin.full)
        fast.step()
        slow.step()
    assert_close(all_scores(model, data), twin.scores())


class TestProperties:
    """The numbers are those of the sheet."""

    def test_1_without_item_graph_and_pruning_it_is_lightgcn(self) -> None:
        data = small_data("text", "image")
        freedom = new_model("freedom", data, dim=6, dropout=0.0, modality_weight=0.0)
        lightgcn = new_model("lightgcn", data, dim=6, layers=2, reg=0.0)
        assert torch.equal(freedom.embeddings, lightgcn.embeddings)  # same seed, same initial values
        freedom.item_graph.values.zero_()
        freedom.item_graph.transpose.values.zero_()
        batch = random_batch(data)
        one, two = freedom.loss(batch), lightgcn.loss(batch)
        assert_close(one["bpr"], two["bpr"], 1e-7)
        one["bpr"].backward()
        two["bpr"].backward()
        assert_close(freedom.embeddings.grad, lightgcn.embeddings.grad, 1e-7)
        seen = np.unique(data.train.items)  # LightGCN scores an untrained item 0
        assert_close(all_scores(freedom, data)[:, seen], all_scores(lightgcn, data)[:, seen], 1e-7)

    @pytest.mark.parametrize(("image_weight", "alone"), [(0.0, "text"), (1.0, "image")])
    def test_2_all_weight_on_one_modality_is_its_knn_graph(self, image_weight: float, alone: str) -> None:
        data = small_data("text", "image")
        model = new_model("freedom", data, knn_k=4, image_weight=image_weight)
        single = knn_item_graph({alone: data.features[alone]}, 4, {alone: 1.0}, N_ITEMS)
        assert torch.equal(model.item_graph.to_dense(), single.to_dense())

    def test_3_rows_of_the_item_graph(self) -> None:
        graph = new_model("freedom", small_data("text", "image"), knn_k=4).item_graph.to_dense()
        assert_close(graph.sum(1), torch.ones(N_ITEMS), 1e-6)
        entries = (graph > 0).sum(1)
        assert entries.min() >= 4
        assert 4 < entries.max() <= 8
        assert (graph.diagonal() > 0).all()  # itself included

    def test_4_every_epoch_its_own_graph_but_evaluation_sees_the_full_one(self) -> None:
        data = small_data("text", "image")
        model = new_model("freedom", data, dropout=0.5)
        before, generator = all_scores(model, data), torch.Generator().manual_seed(0)
        graphs = []
        for _ in range(3):
            model.on_epoch(generator)
            graphs.append(model.training_graph.to_dense())
            assert torch.equal(before, all_scores(model, data))
        assert not torch.equal(graphs[0], graphs[1])
        assert not torch.equal(graphs[1], graphs[2])
        keep = len(data.train.items) // 2
        assert [int((graph > 0).sum()) for graph in graphs] == [2 * keep] * 3

    def test_4_without_dropout_the_hook_changes_nothing(self) -> None:
        data = small_data("text")
        model = new_model("freedom", data, dropout=0.0)
        model.on_epoch(torch.Generator())
        assert model.training_graph is model.full_graph

    def test_5_without_modality_weight_features_get_exactly_no_gradient(self) -> None:
        data = small_data("text", "image", missing=True)
        model = new_model("freedom", data, modality_weight=0.0, train_features=True)
        torch.stack(list(model.loss(random_batch(data)).values())).sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            assert parameter.grad.any() == (name == "embeddings")

    def test_6_without_one_modality_graph_and_loss_are_those_of_the_other(self) -> None:
        both, text = small_data("text", "image"), small_data("text")
        alone = new_model("freedom", text, image_weight=0.7)
        graph = knn_item_graph({"text": both.features["text"]}, 10, {"text": 1.0}, N_ITEMS)
        assert torch.equal(alone.item_graph.to_dense(), graph.to_dense())
        assert set(alone.loss(random_batch(text))) == {"bpr", "bpr_text"}

    def test_7_edges_of_hubs_are_kept_less_often(self) -> None:
        data = planted_with_hubs()
        model = new_model("freedom", data, dim=2, dropout=0.8)
        users, items = edges(data.train)
        weight = (torch.bincount(users)[users] * torch.bincount(items)[items]).double().rsqrt()
        kept, generator = torch.zeros(len(users)), torch.Generator().manual_seed(0)
        for _ in range(500):
            model.on_epoch(generator)
            kept += model.training_graph.to_dense()[users, items + data.n_users] > 0
        assert stats.spearmanr(kept, weight).statistic > 0.9


def planted_with_hubs() -> TrainingData:
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, 41)
    likes = np.argwhere(rng.random((40, 40)) < 1.5 * np.sqrt(np.outer(popularity, popularity)))
    features = planted_blocks(n_users=2, n_items=40).data.features
    return TrainingData(40, 40, Histories.from_pairs(likes[:, 0], likes[:, 1], 40), features)


def test_a_batch_without_any_pair_that_has_the_modality() -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("freedom", data, **SMALL)
    batch = PairBatch(torch.tensor([0, 1]), torch.tensor([5, 6]), torch.tensor([1, 3]))  # no text
    terms = model.loss(batch)
    assert terms["bpr_text"].item() == 0
    torch.stack(list(terms.values())).sum().backward()
    assert torch.isfinite(model.embeddings.grad).all()


def test_an_item_without_any_modality_lives_from_the_user_item_graph_alone() -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("freedom", data, **SMALL)
    own = layer_mean(
        normalized_adjacency(history_matrix(data.train, N_ITEMS)), model.embeddings.detach().double(), 2
    )
    vectors = model.eval().vectors()
    assert_close(vectors.items[2].detach(), own[N_USERS + 2])
    users = vectors.users(Users.of(data.train, np.array([4])))
    assert_close(users.detach(), own[[4]])


def test_a_user_without_edges_keeps_a_third_of_the_own_embedding() -> None:
    data = small_data("text")
    longer = TrainingData(
        N_USERS + 1,
        N_ITEMS,
        Histories(np.append(data.train.offsets, data.train.offsets[-1]), data.train.items),
        data.features,
    )
    model = new_model("freedom", longer, **SMALL)
    users = model.eval().vectors().users(Users.of(longer.train, np.array([N_USERS])))
    assert_close(users.detach()[0], model.embeddings.detach()[N_USERS] / 3, 1e-6)


def test_initial_values() -> None:
    data = planted_blocks(n_users=300, n_items=200).data
    model = new_model("freedom", data)
    for table, n in ((model.embeddings[:300], 300), (model.embeddings[300:], 200)):
        bound = np.sqrt(6 / (n + 64))  # xavier-uniform of each table alone
        assert table.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert table.std().item() == pytest.approx(bound / np.sqrt(3), rel=0.03)
