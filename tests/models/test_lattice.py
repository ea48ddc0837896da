"""LATTICE against plain dense formulas in float64, written from the paper and its published code."""

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
from mmrec.models.graph.lattice import nearest_cosines, normalized, random_walk
from tests.dense import (
    assert_close,
    history_matrix,
    layer_mean,
    negative_log_sigmoid,
    neighbour_lists,
    normalized_adjacency,
)
from tests.learning import all_scores, begin_epoch, new_model
from tests.small_data import N_ITEMS, N_USERS, random_batch, small_data

SMALL = {"dim": 6, "knn_k": 3}


def dense_neighbours(rows: Tensor, present: np.ndarray, k: int) -> Tensor:
    """``(n, n)`` cosines of the k nearest present rows, negative ones as 0; differentiable."""
    own = np.flatnonzero(present)
    lists = neighbour_lists(rows.detach().numpy()[own], k)
    mask = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for row, nearest in zip(own, lists, strict=True):
        mask[row, own[nearest]] = 1
    unit = rows / rows.pow(2).sum(1, keepdim=True).sqrt()
    return torch.relu(unit @ unit.T) * mask


def symmetric(weights: Tensor) -> Tensor:
    """``D^-1/2 W D^-1/2`` with row sums D; rows of zeros stay."""
    sums = weights.sum(1)
    scale = torch.where(sums > 0, torch.where(sums > 0, sums, 1.0) ** -0.5, 0.0)
    return torch.diag(scale) @ weights @ torch.diag(scale)


class Twin:
    """The formulas on dense matrices with a copy of a model's parameters, all of them leaves."""

    def __init__(self, model: Any, data: TrainingData, **config: Any) -> None:
        defaults = {"ui_layers": 2, "item_layers": 1, "frozen_share": 0.9, "reg": 1e-5}
        self.config, self.data = {**defaults, **SMALL, **config}, data
        self.leaves = {k: v.detach().double().requires_grad_() for k, v in model.named_parameters()}
        likes = history_matrix(data.train, N_ITEMS)
        if self.config.get("normalization") == "row":
            looped = torch.eye(N_USERS + N_ITEMS, dtype=torch.float64)
            looped[:N_USERS, N_USERS:], looped[N_USERS:, :N_USERS] = likes, likes.T
            self.adjacency = looped / looped.sum(1, keepdim=True)
        else:
            self.adjacency = normalized_adjacency(likes)

    def item_graph(self) -> Tensor:
        """A ``(n_items, n_items)``."""
        k, mu = self.config["knn_k"], self.config["frozen_share"]
        modalities = sorted(self.data.features)
        learned, frozen = [], []
        for m in modalities:
            table = self.data.features[m]
            raw = torch.from_numpy(table.vectors).double()
            frozen.append(symmetric(torch.nan_to_num(dense_neighbours(raw, table.present, k))))
            rows = self.leaves.get(f"projections.{m}.features", raw)
            rows = (
                rows @ self.leaves[f"projections.{m}.map.weight"].T + self.leaves[f"projections.{m}.map.bias"]
            )
            learned.append(dense_neighbours(rows, table.present, k))
        weights = torch.exp(self.leaves["modality_logits"])
        has = torch.from_numpy(np.stack([self.data.features[m].present for m in modalities], 1)).double()
        totals = (has * weights).sum(1, keepdim=True)
        shares = has * weights / torch.where(totals > 0, totals, 1.0)
        mix = sum(shares[:, [j]] * graph for j, graph in enumerate(learned))
        raw_mix = sum(shares[:, [j]] * graph for j, graph in enumerate(frozen))
        return (1 - mu) * symmetric(mix) + mu * raw_mix

    def tables(self, item_graph: Tensor) -> tuple[Tensor, Tensor]:
        propagated = layer_mean(self.adjacency, self.leaves["embeddings"], self.config["ui_layers"])
        h = self.leaves["embeddings"][N_USERS:]
        for _ in range(self.config["item_layers"]):
            h = item_graph @ h
        norms = h.pow(2).sum(1, keepdim=True)
        unit = h / torch.where(norms > 0, norms, 1.0).sqrt()
        return propagated[:N_USERS], propagated[N_USERS:] + unit

    def scores(self) -> Tensor:
        users, items = self.tables(self.item_graph())
        return users @ items.T

    def terms(self, batch: PairBatch, item_graph: Tensor) -> dict[str, Tensor]:
        all_users, all_items = self.tables(item_graph)
        users, positives, negatives = (
            all_users[batch.users],
            all_items[batch.positives],
            all_items[batch.negatives],
        )
        squares = users.pow(2).sum() + positives.pow(2).sum() + negatives.pow(2).sum()
        return {
            "bpr": negative_log_sigmoid((users * positives).sum(1), (users * negatives).sum(1)),
            "penalty": self.config["reg"] * squares / (2 * len(batch.users)),
        }


def assert_same_training_step(model: Any, twin: Twin, batch: PairBatch, item_graph: Tensor) -> None:
    terms, expected = model.loss(batch), twin.terms(batch, item_graph)
    assert terms.keys() == expected.keys()
    for name in expected:
        assert_close(terms[name], expected[name])
    torch.stack(list(terms.values())).sum().backward()
    torch.stack(list(expected.values())).sum().backward()
    for name, parameter in model.named_parameters():
        wanted = twin.leaves[name].grad
        assert (parameter.grad is None) == (wanted is None), name
        if wanted is not None:
            assert_close(parameter.grad, wanted)


def scattered(model: Any) -> Any:
    """Unequal modalities, and embeddings of some size."""
    with torch.no_grad():
        model.modality_logits.copy_(torch.linspace(0.0, 0.8, len(model.modality_logits)))
        model.embeddings.mul_(2)
    return model


CASES: list[tuple[tuple[str, ...], bool, dict[str, Any]]] = [
    (("text",), False, {"frozen_share": 0.3}),
    (("image",), True, {"frozen_share": 0.3}),
    (("text", "image"), False, {}),
    (("text", "image"), True, {"frozen_share": 0.4, "reg": 0.5}),
    (("text", "image", "audio"), True, {"train_features": True, "frozen_share": 0.0}),
    (("text", "image"), False, {"normalization": "row", "frozen_share": 1.0}),
    (("text", "image"), True, {"ui_layers": 0, "item_layers": 2, "frozen_share": 0.5}),
    (("text", "image"), True, {"item_layers": 0}),
    (("text", "image"), True, {"ui_layers": 3, "knn_k": 50, "frozen_share": 0.5}),
]


@pytest.mark.parametrize(("modalities", "missing", "config"), CASES)
class TestDenseTwin:
    def test_scores(self, modalities: tuple[str, ...], missing: bool, config: dict[str, Any]) -> None:
        data = small_data(*modalities, missing=missing)
        model = scattered(new_model("lattice", data, **{**SMALL, **config}))
        assert_close(all_scores(model, data), Twin(model, data, **config).scores())

    def test_first_and_second_batch_of_an_epoch(
        self, modalities: tuple[str, ...], missing: bool, config: dict[str, Any]
    ) -> None:
        data = small_data(*modalities, missing=missing)
        model = scattered(new_model("lattice", data, **{**SMALL, **config}))
        begin_epoch(model, 1)
        twin = Twin(model, data, **config)
        learned = twin.item_graph()
        assert_same_training_step(model, twin, random_batch(data), learned)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        optimizer.step()
        optimizer.zero_grad()
        # The second batch has the new parameters everywhere but in the graph.
        after = Twin(model, data, **config)
        assert_same_training_step(model, after, random_batch(data, seed=1), learned.detach())
        optimizer.zero_grad()
        begin_epoch(model, 2)
        third = Twin(model, data, **config)
        assert_same_training_step(model, third, random_batch(data, seed=2), third.item_graph())


class TestProperties:
    """The numbers are those of the sheet."""

    def test_1_with_a_frozen_graph_alone_projections_do_not_matter(self) -> None:
        data = small_data("text", "image")
        model = new_model("lattice", data, **SMALL, frozen_share=1.0)
        before = all_scores(model, data)
        with torch.no_grad():
            for projection in model.projections.values():
                projection.map.weight.normal_(generator=torch.Generator().manual_seed(0))
        assert torch.equal(before, all_scores(model, data))
        begin_epoch(model, 0)
        torch.stack(list(model.loss(random_batch(data)).values())).sum().backward()
        assert not any(projection.map.weight.grad.any() for projection in model.projections.values())
        assert model.modality_logits.grad.any()

    def test_2_all_weight_on_text_is_the_model_of_text(self) -> None:
        both, text = small_data("text", "image"), small_data("text")
        model, alone = new_model("lattice", both, **SMALL), new_model("lattice", text, **SMALL)
        with torch.no_grad():
            model.modality_logits.copy_(torch.tensor([-torch.inf, 0.0]))  # image, text
            alone.embeddings.copy_(model.embeddings)
            alone.projections["text"].load_state_dict(model.projections["text"].state_dict())
        assert_close(all_scores(model, both), all_scores(alone, text), 1e-6)

    def test_3_sparse_equals_dense_on_200_items(self) -> None:
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(200, 16, generator=generator, dtype=torch.float64).requires_grad_()
        present = torch.rand(200, generator=generator) < 0.8
        columns, weights = nearest_cosines(rows.float(), present, 10)
        values = normalized(columns, weights)
        sparse = torch.zeros(200, 200).index_put_(
            (torch.arange(200)[:, None], columns), values, accumulate=True
        )
        dense = symmetric(dense_neighbours(rows, present.numpy(), 10))
        assert_close(sparse, dense)
        probe = torch.randn(200, 200, generator=generator, dtype=torch.float64)
        gradients = [torch.autograd.grad((graph * probe).sum(), rows)[0] for graph in (sparse, dense)]
        assert_close(*gradients)
        assert gradients[1].abs().max() > 0.01

    def test_4_the_item_branch_has_length_one(self) -> None:
        data = small_data("text", "image")
        model = new_model("lattice", data, **SMALL, ui_layers=0)
        own = model.eval().vectors().items - model.embeddings[N_USERS:]
        assert_close(own.norm(dim=1), torch.ones(N_ITEMS))

    def test_5_only_the_first_batch_of_an_epoch_learns_the_graph(self) -> None:
        data = small_data("text", "image")
        model = new_model("lattice", data, **SMALL)
        for epoch in range(2):
            begin_epoch(model, epoch)
            for number in range(3):
                model.zero_grad()
                torch.stack(list(model.loss(random_batch(data)).values())).sum().backward()
                learners = [model.modality_logits, *model.projections.parameters()]
                assert all((p.grad is not None and p.grad.any()) == (number == 0) for p in learners)
                assert model.embeddings.grad.any()

    def test_6_without_layers_and_learning_items_are_q_beside_their_neighbourhood(self) -> None:
        data = small_data("text")
        model = new_model("lattice", data, **SMALL, ui_layers=0, frozen_share=1.0)
        table = data.features["text"]
        raw = symmetric(dense_neighbours(torch.from_numpy(table.vectors).double(), table.present, 3))
        q = model.embeddings[N_USERS:].detach().double()
        h = raw @ q
        assert_close(model.eval().vectors().items.detach(), q + h / h.norm(dim=1, keepdim=True))


class TestResuming:
    def test_within_an_epoch_the_kept_graph_goes_on(self) -> None:
        data, results = small_data("text", "image", missing=True), []
        for interrupted in (False, True):
            model = new_model("lattice", data, **SMALL, frozen_share=0.3)
            begin_epoch(model, 5)
            one_step(model, random_batch(data))
            if interrupted:
                fresh = new_model("lattice", data, seed=1, **SMALL, frozen_share=0.3)
                fresh.load_state_dict(model.state_dict())
                model = fresh
                begin_epoch(model, 5)
            one_step(model, random_batch(data, seed=1))
            results.append(model.state_dict())
        assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])

    def test_between_epochs_the_graph_is_learned_anew(self) -> None:
        data = small_data("text", "image")
        model = new_model("lattice", data, **SMALL)
        begin_epoch(model, 5)
        one_step(model, random_batch(data))
        before = model.kept_values.clone()
        begin_epoch(model, 6)
        one_step(model, random_batch(data))
        assert not torch.equal(before, model.kept_values)


def one_step(model: Any, batch: PairBatch) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    optimizer.zero_grad()
    torch.stack(list(model.loss(batch).values())).sum().backward()
    optimizer.step()


def test_an_item_without_any_modality_lives_from_the_user_item_graph_alone() -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("lattice", data, **SMALL)
    own = layer_mean(
        normalized_adjacency(history_matrix(data.train, N_ITEMS)), model.embeddings.detach().double(), 2
    )
    assert_close(model.eval().vectors().items[2].detach(), own[N_USERS + 2])
    begin_epoch(model, 0)
    for _ in range(2):
        model.loss(random_batch(data))["bpr"].backward()
        assert torch.isfinite(model.embeddings.grad).all()


def test_absent_items_are_nobodys_neighbours() -> None:
    rows = torch.ones(5, 3)  # all alike, so that a wrong one would be chosen
    columns, weights = nearest_cosines(rows, torch.tensor([True, False, True, False, True]), 4)
    assert set(columns[weights > 0].tolist()) == {0, 2, 4}
    assert not weights[[1, 3]].any()
    assert weights[[0, 2, 4]].sum(1).tolist() == [3.0, 3.0, 3.0]


def test_opposite_and_zero_rows_keep_finite_weights() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    columns, weights = nearest_cosines(rows, torch.ones(3, dtype=torch.bool), 3)
    values = normalized(columns, weights)
    dense = torch.zeros(3, 3).index_put_((torch.arange(3)[:, None], columns), values, accumulate=True)
    assert torch.equal(dense, torch.eye(3))


def test_rows_of_the_published_user_item_graph_sum_to_one() -> None:
    graph = random_walk(torch.tensor([0, 0]), torch.tensor([0, 2]), 2, 3).to_dense()
    third, half = 1 / 3, 1 / 2
    expected = [[third, 0, third, 0, third], [0, 1, 0, 0, 0], [half, 0, half, 0, 0]]
    assert_close(graph[:3], torch.tensor(expected))
    assert_close(graph.sum(1), torch.ones(5))


def test_no_gradient_needs_a_matrix_of_items_by_items() -> None:
    n_items, sizes = 3000, []
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, (50, n_items), (4000, 2)), axis=0)
    vectors = rng.normal(size=(n_items, 8)).astype(np.float32)
    features = {"text": FeatureTable("text-test", "text", vectors, np.ones(n_items, dtype=bool))}
    data = TrainingData(50, n_items, Histories.from_pairs(pairs[:, 0], pairs[:, 1], 50), features)
    model = new_model("lattice", data, dim=8)

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        torch.stack(list(model.loss(random_batch(data)).values())).sum().backward()
    assert model.projections["text"].map.weight.grad.any()
    assert max(sizes) <= n_items * 10 * 8  # the neighbours' rows
