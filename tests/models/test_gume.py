"""GUME against plain dense formulas in float64; its noise is drawn again from the same seed."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.encode.features import FeatureTable
from mmrec.losses import info_nce
from mmrec.models.graph.gume import agreeing_items
from mmrec.nn import perturb
from tests.dense import assert_close, history_matrix, layer_mean, negative_log_sigmoid, neighbour_lists
from tests.learning import all_scores, new_model
from tests.small_data import N_ITEMS, N_USERS, random_batch, small_data
from tests.twins import assert_same_step, content_of, cosine_graph, leaves, plain_info_nce, unit

N = N_USERS + N_ITEMS
SMALL = {"dim": 6, "knn_k": 6, "behaviour_weight": 0.3, "user_weight": 0.2, "match_weight": 0.5}
SMALL |= {"reg": 0.1, "extended_reg": 0.2}


def agreement(data: TrainingData, k: int) -> Tensor:
    """J: 1 where j is another of the k nearest of i in each modality that i has."""
    lists = {}
    for m, table in data.features.items():
        own = [i for i in range(N_ITEMS) if table.present[i]]
        for row, near in zip(own, neighbour_lists(table.vectors[own], k), strict=True):
            lists[m, row] = {own[column] for column in near}
    matrix = torch.zeros(N_ITEMS, N_ITEMS, dtype=torch.float64)
    for i in range(N_ITEMS):
        sets = [lists[m, i] for m in data.features if (m, i) in lists]
        for j in set.intersection(*sets) - {i} if sets else ():
            matrix[i, j] = 1
    return matrix


class Twin:
    """The sheet's algorithm with copies of a model's parameters."""

    def __init__(self, model: Any, data: TrainingData, **config: Any) -> None:
        fixed = {"ui_layers": 3, "item_layers": 1, "behaviour_temperature": 0.2, "user_temperature": 0.1}
        self.config = {**fixed, "noise": 0.1, **SMALL, **config}
        self.data, self.values, self.names = data, leaves(model), sorted(data.features)
        adjacency = torch.zeros(N, N, dtype=torch.float64)
        adjacency[:N_USERS, N_USERS:] = history_matrix(data.train, N_ITEMS)
        adjacency[N_USERS:, :N_USERS] = history_matrix(data.train, N_ITEMS).T
        adjacency[N_USERS:, N_USERS:] = agreement(data, self.config["knn_k"])
        scale = adjacency.sum(1).clamp(min=1).rsqrt()
        self.adjacency = scale[:, None] * adjacency * scale[None, :]
        self.content = torch.stack([content_of(data, m) for m in self.names])

    def linear(self, name: str, rows: Tensor) -> Tensor:
        return rows @ self.values[f"{name}.weight"].T + self.values[f"{name}.bias"]

    def propagate(self, start: Tensor) -> Tensor:
        return layer_mean(self.adjacency, start, self.config["ui_layers"])

    def views(self) -> list[Tensor]:
        views = []
        for m, content in zip(self.names, self.content, strict=True):
            table = self.data.features[m]
            features = self.values.get(f"projections.{m}.features")
            features = torch.from_numpy(table.vectors).double() if features is None else features
            gate = torch.sigmoid(self.linear(f"purifiers.{m}", self.linear(f"projections.{m}.map", features)))
            items = self.values["embeddings"][N_USERS:] * gate * content[N_USERS:, None]
            for _ in range(self.config["item_layers"]):
                items = cosine_graph(table, self.config["knn_k"]) @ items
            views.append(torch.cat([self.adjacency[:N_USERS, N_USERS:] @ items, items]))
        return views

    def side(self, behaviour: Tensor, views: list[Tensor]) -> Tensor:
        rows = []
        for node in range(N):
            own = [number for number in range(len(views)) if self.content[number, node]]
            if not own:
                rows.append(torch.zeros(self.config["dim"], dtype=torch.float64))
                continue
            hidden = [torch.tanh(self.linear("query.0", views[number][node])) for number in own]
            weights = torch.exp(torch.stack(hidden) @ self.values["query.2.weight"][0])
            weights = weights / weights.sum()
            common = sum(w * views[number][node] for w, number in zip(weights, own, strict=True))
            parts = [common]
            for number in own:
                gate = torch.sigmoid(self.linear(f"gates.{self.names[number]}", behaviour[node]))
                parts.append(gate * (views[number][node] - common))
            rows.append(sum(parts) / len(parts))
        return torch.stack(rows)

    def parts(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        behaviour, views = self.propagate(self.values["embeddings"]), self.views()
        return behaviour, self.side(behaviour, views), views

    def scores(self) -> Tensor:
        behaviour, side, _ = self.parts()
        return (behaviour + side)[:N_USERS] @ (behaviour + side)[N_USERS:].T

    def extended(self, views: list[Tensor]) -> Tensor:
        each = [
            self.propagate(torch.cat([self.values[f"preferences.{m}"], view[N_USERS:]]))
            for m, view in zip(self.names, views, strict=True)
        ]
        return sum(each) / len(each)

    def match(self, views: list[Tensor]) -> Tensor:
        shown = [view[content] for view, content in zip(views, self.content, strict=True)]
        pairs = list(combinations(shown, 2))
        distances = [(a.mean() - b.mean()).abs() + (a.var() - b.var()).abs() for a, b in pairs]
        return sum(distances) / len(pairs) if pairs else torch.zeros(()).double()

    def terms(self, batch: PairBatch, noise: list[Tensor]) -> dict[str, Tensor]:
        behaviour, side, views = self.parts()
        extended, final, size = self.extended(views), behaviour + side, len(batch.users)
        nodes = [batch.users, batch.positives + N_USERS, batch.negatives + N_USERS]
        users, positives, negatives = (final[ids] for ids in nodes)
        content, config = self.content.any(0), self.config

        def contrast(one: Tensor, two: Tensor, ids: Tensor, temperature: str) -> Tensor:
            kept = content[ids]
            return plain_info_nce(one[kept], two[kept], config[temperature], ids[kept])

        def noisy(rows: Tensor, draw: Tensor) -> Tensor:
            return rows + config["noise"] * torch.sign(rows) * unit(draw)

        first, tau = nodes[0], "user_temperature"
        preference = contrast(extended[first], side[first], first, tau)
        for table, draw in ((side, noise[:2]), (extended, noise[2:])):
            pair = [noisy(table[first], one) for one in draw]
            preference = preference + contrast(*pair, first, tau)
        behaviour_terms = [
            contrast(side[ids], behaviour[ids], ids, "behaviour_temperature") for ids in nodes[:2]
        ]
        squares = sum(part.pow(2).sum() for part in (users, positives, negatives))
        return {
            "bpr": negative_log_sigmoid((users * positives).sum(1), (users * negatives).sum(1)),
            "penalty": config["reg"] * squares / (2 * size),
            "match": config["match_weight"] * self.match(views),
            "behaviour": config["behaviour_weight"] * sum(behaviour_terms),
            "users": config["user_weight"] * preference,
            "extended": config["extended_reg"] * extended[nodes[1]].pow(2).sum() / (2 * size),
        }


CASES: list[tuple[tuple[str, ...], bool, dict[str, Any]]] = [
    (("text",), True, {}),
    (("image",), False, {"item_layers": 0}),
    (("text", "image"), False, {}),
    (("text", "image"), True, {"train_features": True, "item_layers": 2}),
    (("text", "image", "audio"), True, {"noise": 0.7}),
    (("text", "image"), True, {"ui_layers": 0, "behaviour_temperature": 0.4, "user_temperature": 0.3}),
]


@pytest.mark.parametrize(("modalities", "missing", "config"), CASES)
def test_dense_twin(modalities: tuple[str, ...], missing: bool, config: dict[str, Any]) -> None:
    data = small_data(*modalities, missing=missing)
    model = new_model("gume", data, **{**SMALL, **config})
    twin, batch = Twin(model, data, **config), random_batch(data)
    assert_close(all_scores(model, data), twin.scores())
    torch.manual_seed(7)
    actual = model.train().loss(batch)
    torch.manual_seed(7)
    noise = [torch.rand(40, 6).double() for _ in range(4)]
    assert_same_step(model, twin.values, actual, twin.terms(batch, noise))


def matrix_of(features: dict[str, FeatureTable], k: int) -> Tensor:
    rows, columns = agreeing_items(features, k)
    return torch.zeros(N_ITEMS, N_ITEMS).index_put_((rows, columns), torch.ones(len(rows)), accumulate=True)


class TestProperties:
    """The numbers are those of the sheet."""

    def test_1_identical_modalities_agree_on_every_neighbour_but_the_item_itself(self) -> None:
        text = small_data("text").features["text"]
        image = FeatureTable("image-copy", "image", text.vectors, text.present)
        agreeing = matrix_of({"text": text, "image": image}, 4)
        neighbours = (cosine_graph(text, 4) > 0).float().fill_diagonal_(0)
        expected = torch.zeros(N_ITEMS, N_ITEMS)
        for row, near in enumerate(neighbour_lists(text.vectors, 4)):
            expected[row, near] = 1
        assert torch.equal(agreeing, expected.fill_diagonal_(0))
        assert (agreeing >= neighbours).all()

    def test_1_an_item_follows_the_modalities_that_it_has(self) -> None:
        data = small_data("text", "image", missing=True)
        agreeing = matrix_of(dict(data.features), 6)
        assert torch.equal(agreeing.double(), agreement(data, 6))
        assert not agreeing[2].any()
        assert not agreeing[:, 2].any()  # without any modality
        assert agreeing[5].sum() == 5  # without text: its neighbours by image but itself
        assert not torch.equal(agreeing, agreeing.T)

    def test_2_without_agreement_the_graph_is_lightgcns(self) -> None:
        data = small_data("text", "image")
        model = new_model("gume", data, knn_k=1)
        lightgcn = new_model("lightgcn", data)
        assert torch.equal(model.graph.to_dense(), lightgcn.graph.to_dense())
        assert torch.equal(model.histories.to_dense(), lightgcn.graph.to_dense()[:N_USERS, N_USERS:])

    def test_3_without_the_weights_only_ranking_and_its_penalty_are_left(self) -> None:
        data = small_data("text", "image", missing=True)
        off = dict.fromkeys(("behaviour_weight", "user_weight", "match_weight", "extended_reg"), 0.0)
        model = new_model("gume", data, **{**SMALL, **off})
        terms = model.loss(random_batch(data))
        assert {name for name, term in terms.items() if term.item() != 0} == {"bpr", "penalty"}
        torch.stack(list(terms.values())).sum().backward()
        assert not any(table.grad.any() for table in model.preferences.values())

    def test_4_without_noise_the_views_are_the_rows(self) -> None:
        rows = torch.randn(5, 4)
        assert torch.equal(perturb(rows, 0.0), rows)
        noisy = perturb(rows, 0.3)
        assert_close((noisy - rows).norm(dim=1), torch.full((5,), 0.3))
        assert torch.equal(noisy.sign(), rows.sign())
        data = small_data("text")
        model = new_model("gume", data, **{**SMALL, "noise": 0.0})
        batch = random_batch(data)
        users = batch.users[content_of(data, "text")[batch.users]]
        side, extended = (table[users] for table in model_tables(model))
        expected = sum(
            info_nce(one, two, 0.1, users)
            for one, two in ((extended, side), (side, side), (extended, extended))
        )
        assert_close(model.loss(batch)["users"], 0.2 * expected)

    @pytest.mark.parametrize(
        ("term", "reached", "spared"),
        [
            ("bpr", r"embeddings query purifiers gates projections", "preferences"),
            ("penalty", "embeddings query purifiers gates projections", "preferences"),
            ("match", "embeddings purifiers projections", "preferences query gates"),
            ("behaviour", "embeddings query purifiers gates projections", "preferences"),
            ("users", "embeddings query purifiers gates projections preferences", ""),
            ("extended", "embeddings purifiers projections preferences", "query gates"),
        ],
    )
    def test_5_what_each_term_trains(self, term: str, reached: str, spared: str) -> None:
        data = small_data("text", "image")
        model = new_model("gume", data, **SMALL)
        model.loss(random_batch(data))[term].backward()
        trained = {
            key.split(".")[0]
            for key, parameter in model.named_parameters()
            if parameter.grad is not None and parameter.grad.any()
        }
        assert trained == set(reached.split())
        assert not trained & set(spared.split())


def model_tables(model: Any) -> tuple[Tensor, Tensor]:
    """Z and T of all nodes."""
    behaviour = layer_mean(model.graph.to_dense(), model.embeddings, 3)
    views = model._views()
    return model._fuse(behaviour, views, model.content), model._extended(views)


def test_an_item_without_any_modality_has_no_content_part() -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("gume", data, **SMALL).eval()
    own = layer_mean(model.graph.to_dense().double(), model.embeddings.detach().double(), 3)
    assert_close(model.vectors().items[2].detach(), own[N_USERS + 2])


def test_a_batch_of_items_without_content() -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("gume", data, **SMALL)
    terms = model.loss(PairBatch(torch.tensor([0, 1]), torch.tensor([2, 2]), torch.tensor([1, 3])))
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
