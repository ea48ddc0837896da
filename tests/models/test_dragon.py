"""DRAGON against plain dense formulas in float64, written from the paper and its published code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.encode.features import FeatureTable
from mmrec.models.contracts import Users
from tests.dense import assert_close, history_matrix, item_graph, negative_log_sigmoid, normalized_adjacency
from tests.learning import all_scores, new_model, train
from tests.small_data import N_ITEMS, N_USERS, random_batch, shares, small_data
from tests.twins import assert_same_step, unit

SMALL = {"dim": 6, "knn_k": 3, "user_k": 4, "reg": 0.3}


def encode(parameters: dict[str, Tensor], prefix: str, features: Tensor, present: np.ndarray) -> Tensor:
    """``[P; MLP(X)]`` in rows of length 1; the row of an absent item is 0."""
    hidden = features @ parameters[f"{prefix}.map.0.weight"].T + parameters[f"{prefix}.map.0.bias"]
    hidden = torch.where(hidden > 0, hidden, 0.01 * hidden)
    items = unit(hidden @ parameters[f"{prefix}.map.2.weight"].T + parameters[f"{prefix}.map.2.bias"])
    items = torch.stack([row if here else row * 0 for row, here in zip(items, present, strict=True)])
    return torch.cat([unit(parameters[f"{prefix}.users"]), items])


def layer_sum(adjacency: Tensor, rows: Tensor, layers: int) -> Tensor:
    """``X + AX + A²X + …``."""
    return sum((torch.matrix_power(adjacency, n) @ rows for n in range(layers + 1)), rows * 0)


def user_graph(train: Histories, k: int) -> Tensor:
    """Softmax of the numbers of common items over the k users with most, ties to the lower id."""
    matrix = torch.zeros(train.n_users, train.n_users, dtype=torch.float64)
    sets = [set(train[user].tolist()) for user in range(train.n_users)]
    for user in range(train.n_users):
        counts = {v: len(sets[user] & sets[v]) for v in range(train.n_users) if v != user}
        near = sorted((v for v in counts if counts[v] > 0), key=lambda v: (-counts[v], v))[:k]
        if near:
            matrix[user, near] = torch.tensor([float(counts[v]) for v in near]).double().softmax(0)
    return matrix


class Twin:
    """The formulas on dense matrices with a copy of a model's parameters."""

    def __init__(self, model: Any, data: TrainingData, **config: Any) -> None:
        self.config = {"ui_layers": 2, "item_layers": 1, "image_weight": 0.1, **SMALL, **config}
        self.data = data
        self.names = sorted(data.features)
        self.parameters = {
            key: value.detach().double().requires_grad_() for key, value in model.named_parameters()
        }
        weights = shares(self.names, self.config["image_weight"])
        self.item_graph = item_graph(data.features, self.config["knn_k"], weights)
        self.user_graph = user_graph(data.train, self.config.get("user_k", 1))
        self.adjacency = normalized_adjacency(history_matrix(data.train, data.n_items))

    def encoded(self) -> list[Tensor]:
        """One table per modality, before propagation."""
        tables = [self.data.features[m] for m in self.names]
        return [
            encode(self.parameters, f"encoders.{m}", torch.from_numpy(t.vectors).double(), t.present)
            for m, t in zip(self.names, tables, strict=True)
        ]

    def smooth(self, items: Tensor) -> Tensor:
        """``z + G^L z``."""
        if self.config["item_layers"] == 0:
            return items
        return items + torch.matrix_power(self.item_graph, self.config["item_layers"]) @ items

    def joined(self, rows: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Weighted users and smoothed items of propagated tables."""
        n = self.data.n_users
        users = [self.parameters["shares"][:, [m]] * table[:n] for m, table in enumerate(rows)]
        return torch.cat(users, 1), torch.cat([self.smooth(table[n:]) for table in rows], 1)

    def tables(self) -> tuple[Tensor, Tensor]:
        rows = [layer_sum(self.adjacency, table, self.config["ui_layers"]) for table in self.encoded()]
        users, items = self.joined(rows)
        return users + self.user_graph @ users, items

    def scores(self) -> Tensor:
        users, items = self.tables()
        return users @ items.T

    def penalty(self, batch: PairBatch) -> Tensor:
        parts = [(self.parameters[f"encoders.{m}.users"][batch.users] ** 2).mean() for m in self.names]
        return self.config["reg"] * (sum(parts) + (self.parameters["shares"] ** 2).mean())

    def terms(self, batch: PairBatch) -> dict[str, Tensor]:
        scores = self.scores()
        positive, negative = scores[batch.users, batch.positives], scores[batch.users, batch.negatives]
        return {"bpr": negative_log_sigmoid(positive, negative), "penalty": self.penalty(batch)}


CASES: list[tuple[tuple[str, ...], bool, dict[str, Any]]] = [
    (("text",), False, {}),
    (("image",), True, {}),
    (("text", "image"), False, {}),
    (("text", "image"), True, {}),
    (("text", "image", "audio"), True, {"image_weight": 0.4}),
    (("text", "image"), True, {"ui_layers": 0, "item_layers": 0}),
    (("text", "image"), True, {"ui_layers": 3, "item_layers": 2, "user_k": 1}),
    (("text", "image"), False, {"user_k": 50, "knn_k": 50}),
]


@pytest.mark.parametrize(("modalities", "missing", "config"), CASES)
class TestDenseTwin:
    def test_scores(self, modalities: tuple[str, ...], missing: bool, config: dict[str, Any]) -> None:
        data = small_data(*modalities, missing=missing)
        model = new_model("dragon", data, **{**SMALL, **config})
        assert_close(all_scores(model, data), Twin(model, data, **config).scores())

    def test_losses_and_gradients(
        self, modalities: tuple[str, ...], missing: bool, config: dict[str, Any]
    ) -> None:
        data, batch = small_data(*modalities, missing=missing), random_batch(small_data())
        model = new_model("dragon", data, **{**SMALL, **config})
        twin = Twin(model, data, **config)
        assert_same_step(model, twin.parameters, model.loss(batch), twin.terms(batch))


def loner(data: TrainingData) -> TrainingData:
    """The same data with one more user, who has nothing."""
    offsets = np.append(data.train.offsets, data.train.offsets[-1])
    return TrainingData(data.n_users + 1, data.n_items, Histories(offsets, data.train.items), data.features)


class TestProperties:
    """The numbers are those of the sheet."""

    def test_1_without_graphs_of_users_and_items_vectors_are_those_of_the_user_item_graph(self) -> None:
        data = small_data("text", "image")
        model = new_model("dragon", data, **SMALL)
        for matrix in (model.item_graph, model.user_graph):
            matrix.values.zero_()
        twin = Twin(model, data)
        rows = torch.cat([layer_sum(twin.adjacency, table, 2) for table in twin.encoded()], 1)
        weights = model.shares.detach().double().repeat_interleave(6, dim=1)
        assert_close(all_scores(model, data), (weights * rows[:N_USERS]) @ rows[N_USERS:].T)

    def test_2_identical_modalities_with_equal_weights_give_equal_blocks(self) -> None:
        text = small_data("text").features["text"]
        other = FeatureTable("audio-test", "audio", text.vectors, text.present)
        data = small_data("text")
        data = TrainingData(N_USERS, N_ITEMS, data.train, {"text": text, "audio": other})
        model = new_model("dragon", data, **SMALL)
        model.encoders["audio"].load_state_dict(model.encoders["text"].state_dict())
        with torch.no_grad():
            model.shares.fill_(1)
        vectors = model.eval().vectors()
        for table in (vectors.items, vectors.users(Users.of(data.train, np.arange(N_USERS)))):
            assert torch.equal(table[:, :6], table[:, 6:])

    def test_3_rows_of_the_user_graph_sum_to_1_or_to_0_for_the_isolated(self) -> None:
        data = loner(small_data("text"))
        rows = new_model("dragon", data, **SMALL).user_graph.to_dense()
        likes = history_matrix(data.train, N_ITEMS)
        connected = ((likes @ likes.T).fill_diagonal_(0) > 0).any(1)
        assert not connected[N_USERS]
        assert connected.sum() >= N_USERS - 1
        assert_close(rows.sum(1), connected.float(), 1e-6)
        assert not rows.diagonal().any()

    def test_4_the_batch_is_left_as_it_is(self) -> None:
        data = small_data("text", "image")
        batch, same = random_batch(data), random_batch(data)
        new_model("dragon", data, **SMALL).loss(batch)
        for field in ("users", "positives", "negatives"):
            assert torch.equal(getattr(batch, field), getattr(same, field))

    def test_5_no_randomness_from_epoch_to_epoch(self) -> None:
        data, batch = small_data("text"), random_batch(small_data())
        model = new_model("dragon", data, **{**SMALL, "user_k": 50})  # more than there are
        assert not hasattr(model, "on_epoch")
        before = torch.get_rng_state()
        one, two = model.loss(batch), model.loss(batch)
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert torch.equal(before, torch.get_rng_state())


def test_an_item_without_any_modality_consists_of_what_its_users_bring() -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("dragon", data, **SMALL)
    twin = Twin(model, data)
    users = [torch.cat([table[:N_USERS], 0 * table[N_USERS:]]) for table in twin.encoded()]
    even = twin.adjacency @ torch.cat(users, 1)  # item 2 hears of other items only by way of users
    odd = twin.adjacency @ twin.adjacency @ torch.cat(twin.encoded(), 1)
    item = model.eval().vectors().items[2].detach()
    assert item.abs().max() > 0.01
    assert_close(item, (even + odd)[N_USERS + 2])


def test_an_item_that_nobody_knows_anything_about_scores_0() -> None:
    data = small_data("text", "image", missing=True)
    features = {}
    for modality, table in data.features.items():
        vectors, present = table.vectors.copy(), table.present.copy()
        vectors[-1], present[-1] = 0, False  # nor does anybody like it
        features[modality] = FeatureTable(table.name, modality, vectors, present)
    data = TrainingData(N_USERS, N_ITEMS, data.train, features)
    assert not all_scores(new_model("dragon", data, **SMALL), data)[:, -1].any()


def test_a_user_without_history_keeps_the_own_preferences() -> None:
    data = loner(small_data("text"))
    model = new_model("dragon", data, **SMALL)
    user = model.eval().vectors().users(Users.of(data.train, np.array([N_USERS]))).detach()[0]
    assert_close(user, unit(model.encoders["text"].users.detach())[N_USERS], 1e-6)


def test_initial_weights_of_a_user_sum_to_1() -> None:
    model = new_model("dragon", small_data("text", "image", "audio"), **SMALL)
    assert_close(model.shares.detach().sum(1), torch.ones(N_USERS), 1e-6)
    assert model.shares.std() > 0


def test_loss_falls() -> None:
    """On data without blocks, which propagation alone would separate."""
    data = small_data("text", "image", missing=True)
    learned = train(new_model("dragon", data, **SMALL), data, epochs=20, lr=0.03)
    assert np.mean(learned.losses[-3:]) < 0.7 * learned.losses[0]
