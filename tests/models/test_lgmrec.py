"""LGMRec against plain dense formulas in float64; its draws are made again from the same seed."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.encode.features import FeatureTable
from tests.dense import assert_close, history_matrix, layer_mean, negative_log_sigmoid, normalized_adjacency
from tests.learning import all_scores, new_model, train
from tests.small_data import N_ITEMS, N_USERS, random_batch, small_data
from tests.twins import assert_same_step, content_of, leaves, plain_info_nce, unit
from tests.worlds import planted_blocks

N = N_USERS + N_ITEMS
SMALL = {"dim": 6, "hyperedges": 3, "alpha": 0.7, "contrast_weight": 0.01, "reg": 0.1}
SMALL |= {"keep_rate": 0.6, "gumbel_temperature": 1.0}
Draws = list[tuple[Tensor, Tensor]]


def draws(seed: int, config: dict[str, Any], n_modalities: int) -> Draws:
    """Gumbel noise and dropout mask of each modality, in the model's order."""
    torch.manual_seed(seed)
    found = []
    for _ in range(n_modalities):
        noise = -torch.empty(N, config["hyperedges"]).exponential_().log()
        mask = F.dropout(torch.ones(N, config["hyperedges"]), 1 - config["keep_rate"])
        found.append((noise.double(), mask.double()))
    return found


class Twin:
    """The sheet's algorithm with copies of a model's parameters."""

    def __init__(self, model: Any, data: TrainingData, **config: Any) -> None:
        fixed = {"ui_layers": 2, "content_layers": 2, "hyper_layers": 1, "temperature": 0.2}
        self.config = {**fixed, "candidates": "all", **SMALL, **config}
        self.data, self.values = data, leaves(model)
        self.names = sorted(data.features)
        self.likes = history_matrix(data.train, data.n_items)
        self.adjacency = normalized_adjacency(self.likes)
        self.content = {m: content_of(data, m) for m in self.names}

    def tables(self, noise: Draws | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Final vectors of all nodes, and each modality's hypergraph part."""
        own = layer_mean(self.adjacency, self.values["embeddings"], self.config["ui_layers"])
        final, hyper = own, {}
        for number, m in enumerate(self.names):
            features = torch.from_numpy(self.data.features[m].vectors).double()
            projected = features @ self.values[f"branches.{number}.projection"]
            users = []
            for user in range(N_USERS):
                chosen = [i for i in self.data.train[user] if self.data.features[m].present[i]]
                users.append(
                    projected[chosen].mean(0) if chosen else torch.zeros(projected.shape[1]).double()
                )
            nodes = torch.cat([torch.stack(users), projected])
            for _ in range(self.config["content_layers"]):
                nodes = self.adjacency @ nodes
            final = final + unit(nodes)
            hyper[m] = self.through(m, features, own[N_USERS:], noise[number] if noise else None)
        return final + self.config["alpha"] * unit(sum(hyper.values())), hyper

    def through(self, m: str, features: Tensor, items: Tensor, noise: tuple[Tensor, Tensor] | None) -> Tensor:
        logits = features @ self.values[f"branches.{self.names.index(m)}.hyperedges"]
        logits = torch.cat([self.likes @ logits, logits])
        if noise is not None:
            logits = logits + noise[0]
        powers = torch.exp(logits / self.config["gumbel_temperature"])
        shares = powers / powers.sum(1, keepdim=True) * self.content[m][:, None]
        shares = shares if noise is None else shares * noise[1]
        for _ in range(self.config["hyper_layers"]):
            edges = shares[N_USERS:].T @ items
            items, users = shares[N_USERS:] @ edges, shares[:N_USERS] @ edges
        return torch.cat([users, items])

    def scores(self) -> Tensor:
        final, _ = self.tables(None)
        return final[:N_USERS] @ final[N_USERS:].T

    def contrast(self, one: Tensor, two: Tensor, ids: Tensor, both: Tensor) -> Tensor:
        ids, tau = ids[both[ids]], self.config["temperature"]
        if self.config["candidates"] == "batch":
            return len(ids) * plain_info_nce(one[ids], two[ids], tau, ids)
        similarity = torch.exp(unit(one) @ unit(two).T / tau)
        shown = [similarity[i, i] / similarity[i][both].sum() for i in ids.tolist()]
        return -torch.log(torch.stack(shown)).sum()

    def terms(self, batch: PairBatch, noise: Draws) -> dict[str, Tensor]:
        final, hyper = self.tables(noise)
        users, positives = final[batch.users], final[batch.positives + N_USERS]
        negatives = final[batch.negatives + N_USERS]
        norms = sum(torch.sqrt(part.pow(2).sum()) for part in (users, positives, negatives))
        terms = {
            "bpr": negative_log_sigmoid((users * positives).sum(1), (users * negatives).sum(1)),
            "penalty": self.config["reg"] * norms / len(batch.users),
        }
        pairs = list(combinations(self.names, 2))
        contrast = []
        for a, b in pairs:
            both = self.content[a] & self.content[b]
            of_users = self.contrast(hyper[a][:N_USERS], hyper[b][:N_USERS], batch.users, both[:N_USERS])
            items = hyper[a][N_USERS:], hyper[b][N_USERS:]
            contrast.append(of_users + self.contrast(*items, batch.positives, both[N_USERS:]))
        if pairs:
            terms["contrast"] = self.config["contrast_weight"] * sum(contrast) / len(pairs)
        return terms


CASES: list[tuple[tuple[str, ...], bool, dict[str, Any]]] = [
    (("text",), False, {}),
    (("image",), True, {}),
    (("text", "image"), False, {}),
    (("text", "image"), True, {"candidates": "batch"}),
    (("text", "image", "audio"), True, {"temperature": 0.5}),
    (("text", "image"), True, {"ui_layers": 0, "content_layers": 0, "hyperedges": 5}),
    (("text", "image"), True, {"hyper_layers": 3, "ui_layers": 1, "keep_rate": 1.0}),
]


@pytest.mark.parametrize(("modalities", "missing", "config"), CASES)
def test_dense_twin(modalities: tuple[str, ...], missing: bool, config: dict[str, Any]) -> None:
    data = small_data(*modalities, missing=missing)
    model = new_model("lgmrec", data, **{**SMALL, **config})
    twin, batch = Twin(model, data, **config), random_batch(data)
    assert_close(all_scores(model, data), twin.scores())
    torch.manual_seed(7)
    actual = model.train().loss(batch)
    assert_same_step(model, twin.values, actual, twin.terms(batch, draws(7, twin.config, len(modalities))))


class TestProperties:
    """The numbers are those of the sheet."""

    def test_1_without_content_and_hypergraph_it_is_lightgcn(self) -> None:
        data = small_data("text", "image")
        model = new_model("lgmrec", data, dim=6, alpha=0.0)
        lightgcn = new_model("lightgcn", data, dim=6, layers=2)
        model.embeddings.data = lightgcn.embeddings.data.clone()
        for branch in model.branches:
            branch.projection.data.zero_()
        seen = np.unique(data.train.items)
        assert_close(all_scores(model, data)[:, seen], all_scores(lightgcn, data)[:, seen], 1e-7)

    def test_2_evaluation_is_deterministic_and_training_is_not(self) -> None:
        data = small_data("text", "image")
        model, batch = new_model("lgmrec", data, **SMALL), random_batch(data)
        assert torch.equal(all_scores(model, data), all_scores(model, data))
        model.train()
        assert not torch.equal(model.loss(batch)["bpr"], model.loss(batch)["bpr"])

    def test_3_without_noise_and_temperature_each_node_has_one_hyperedge(self) -> None:
        data = small_data("text")
        model = new_model("lgmrec", data, **{**SMALL, "gumbel_temperature": 1e-6, "ui_layers": 0}).eval()
        _, shares = model.branches[0](model.histories)
        shares = shares.detach()
        own = content_of(data, "text")  # all but the users without a history
        assert torch.equal(
            shares[own].sort(1).values, torch.tensor([0.0, 0.0, 1.0]).expand(int(own.sum()), 3)
        )
        assert len(shares[own].argmax(1).unique()) > 1
        *_, [hyper] = model._tables()
        items = model.embeddings.detach()[N_USERS:]
        for node in own.nonzero()[:, 0]:
            members = shares[N_USERS:].argmax(1) == shares[node].argmax()
            assert_close(hyper[node].detach(), items[members].sum(0))

    def test_4_keeping_everything_means_no_dropout(self) -> None:
        data = small_data("text")
        items, shares = torch.randn(N_ITEMS, 6), torch.rand(N, 3)
        for keep_rate, same in ((1.0, True), (0.5, False)):
            model = new_model("lgmrec", data, **{**SMALL, "keep_rate": keep_rate})
            outputs = [model.train(mode)._through_hyperedges(shares, items) for mode in (True, False)]
            assert torch.equal(*outputs) == same

    @pytest.mark.parametrize("training", [True, False])
    def test_5_shares_sum_to_1_where_there_is_content(self, training: bool) -> None:
        data = small_data("text", "image", missing=True)
        model = new_model("lgmrec", data, **SMALL).train(training)
        for name, branch in zip(("image", "text"), model.branches, strict=True):
            _, shares = branch(model.histories)
            assert_close(shares.sum(1).detach(), content_of(data, name).double())

    def test_6_users_start_at_the_mean_of_their_items(self) -> None:
        data = small_data("text")
        model = new_model("lgmrec", data, **SMALL, content_layers=0)
        _, [nodes], _ = model._tables()
        for user in np.flatnonzero(data.train.counts):
            own = nodes[N_USERS:][torch.from_numpy(data.train[user])]
            assert_close(nodes[user], own.mean(0), 1e-6)


def test_an_item_without_any_modality_lives_from_the_user_item_graph_alone() -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("lgmrec", data, **SMALL, content_layers=0).eval()
    own = layer_mean(
        normalized_adjacency(history_matrix(data.train, N_ITEMS)), model.embeddings.detach().double(), 2
    )
    assert_close(model.vectors().items[2].detach(), own[N_USERS + 2])


@pytest.mark.parametrize("candidates", ["all", "batch"])
def test_a_batch_without_any_content(candidates: str) -> None:
    data = small_data("text", "image", missing=True)
    nobody = np.zeros(N_ITEMS, dtype=bool)
    features = {m: FeatureTable(m, m, 0 * t.vectors, nobody) for m, t in data.features.items()}
    bare = TrainingData(N_USERS, N_ITEMS, data.train, features)
    model = new_model("lgmrec", bare, **SMALL, candidates=candidates)
    terms = model.loss(random_batch(bare))
    assert terms["contrast"].item() == 0
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_the_loss_falls_where_content_says_nothing() -> None:
    data = planted_blocks().data  # whose content alone puts the loss at its floor from the start
    rng = np.random.default_rng(0)
    noise = {
        m: FeatureTable(m, m, rng.normal(size=t.vectors.shape).astype(np.float32), t.present)
        for m, t in data.features.items()
    }
    blind = TrainingData(data.n_users, data.n_items, data.train, noise)
    losses = train(new_model("lgmrec", blind), blind).losses
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
