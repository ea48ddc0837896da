"""CM3 against plain dense formulas in float64, and the properties its equations promise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec import losses
from mmrec.data.dataset import TrainingData
from mmrec.errors import ConfigError
from tests.dense import assert_close, history_matrix, item_graph, normalized_adjacency
from tests.learning import all_scores, new_model
from tests.small_data import N_ITEMS, N_USERS, random_batch, shares, small_data
from tests.twins import unit

SMALL: dict[str, Any] = {"dim": 4, "hidden": 5, "knn_k": 3}


def between(one: Tensor, two: Tensor, share: Tensor) -> Tensor:
    """``sin(λθ)/sin θ a + sin((1-λ)θ)/sin θ b``, as it is written."""
    angle = torch.arccos((one * two).sum())
    return (
        torch.sin(share * angle) / torch.sin(angle) * one
        + torch.sin((1 - share) * angle) / torch.sin(angle) * two
    )


class Twin:
    """The formulas on dense matrices with a copy of a model's parameters."""

    def __init__(self, model: Any, data: TrainingData, **config: Any) -> None:
        defaults = {
            "ui_layers": 3,
            "item_layers": 1,
            "image_weight": 0.1,
            "gamma": 0.5,
            "max_similarity": 1.0,
        }
        self.config = {"min_similarity": 0.0, "uniform_items": "negatives", "scoring": "inner", **defaults}
        self.config |= {"detach_similarity": True, **SMALL, **config}
        self.data = data
        self.p = {k: v.detach().double().requires_grad_() for k, v in model.named_parameters()}
        self.names = sorted(data.features)
        weights = shares(list(data.features), self.config["image_weight"])
        self.graph = item_graph(data.features, self.config["knn_k"], weights)
        self.full = normalized_adjacency(history_matrix(data.train, data.n_items))

    def fused(self, draws: list[Tensor]) -> list[Tensor]:
        rows = []
        for item in range(N_ITEMS):
            point = None
            for number, m in enumerate(self.names):
                if not self.data.features[m].present[item]:
                    continue
                x = torch.from_numpy(self.data.features[m].vectors[item]).double()
                own = unit(
                    self.p[f"encoders.{m}.direction.weight"] @ x + self.p[f"encoders.{m}.direction.bias"]
                )
                point = own if point is None else between(point, own, draws[number - 1][item].double())
            rows.append(torch.zeros(self.config["dim"], dtype=torch.float64) if point is None else point)
        return rows

    def tables(self, draws: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        fused = torch.stack(self.fused(draws))
        blocks = []
        for m in self.names:
            x = torch.from_numpy(self.data.features[m].vectors).double()
            hidden = x @ self.p[f"encoders.{m}.first.weight"].T + self.p[f"encoders.{m}.first.bias"]
            hidden = torch.where(hidden > 0, hidden, 0.01 * hidden)
            own = unit(hidden @ self.p[f"encoders.{m}.second.weight"].T)
            blocks.append(own * torch.from_numpy(self.data.features[m].present)[:, None])
        blocks.append(fused)
        outputs = []
        for j, block in enumerate(blocks):
            layer = torch.cat([unit(self.p["users"][j]), block])
            total = layer
            for _ in range(self.config["ui_layers"]):
                layer = self.full @ layer
                total = total + layer
            outputs.append(total)
        mixing = torch.exp(self.p["mixing"]) / torch.exp(self.p["mixing"]).sum(1, keepdim=True)
        users = torch.cat([mixing[:, j : j + 1] * out[:N_USERS] for j, out in enumerate(outputs)], 1)
        items = torch.cat([out[N_USERS:] for out in outputs], 1)
        smoothed = torch.linalg.matrix_power(self.graph, self.config["item_layers"]) @ items
        return users, items + smoothed, fused

    def scores(self) -> Tensor:
        users, items, _ = self.tables([torch.full((N_ITEMS,), 0.5)] * (len(self.names) - 1))
        return unit(users) @ unit(items).T if self.config["scoring"] == "cosine" else users @ items.T

    def terms(self, batch: Any, draws: list[Tensor]) -> dict[str, Tensor]:
        users, items, fused = self.tables(draws)
        users, items = unit(users), unit(items)
        anything = np.any([table.present for table in self.data.features.values()], axis=0)

        def potential(rows: Tensor, ids: list[int], calibrated: bool) -> Tensor:
            values = []
            for a in ids:
                for b in ids:
                    if a == b:
                        continue
                    s = torch.ones((), dtype=torch.float64)
                    if calibrated and anything[a] and anything[b]:
                        s = (fused[a] @ fused[b]).clamp(
                            self.config["min_similarity"], self.config["max_similarity"]
                        )
                        s = s.detach() if self.config["detach_similarity"] else s
                    values.append(torch.exp(-2 * ((rows[a] - rows[b]).pow(2).sum() - 2 + 2 * s)))
            return torch.log(torch.stack(values).mean())

        half = self.config["gamma"] / 2
        spread = getattr(batch, self.config["uniform_items"])
        return {
            "alignment": (users[batch.users] - items[batch.positives]).pow(2).sum(1).mean(),
            "uniformity_users": half * potential(users, batch.users.tolist(), False),
            "uniformity_items": half * potential(items, spread.tolist(), True),
        }


def final_tables(model: Any) -> tuple[Tensor, Tensor]:
    vectors = model.vectors()
    return vectors.table.detach(), vectors.items.detach()


def fixed_draws(n: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(N_ITEMS, generator=generator) for _ in range(n)]


CASES: list[tuple[tuple[str, ...], bool, dict[str, Any]]] = [
    (("text",), True, {}),
    (("image",), False, {}),
    (("text", "image"), False, {}),
    (("text", "image"), True, {}),
    (("text", "image", "audio"), True, {"image_weight": 0.4, "ui_layers": 1}),
    (("text", "image"), False, {"detach_similarity": False, "max_similarity": 0.8, "min_similarity": 0.1}),
    (("text", "image"), True, {"uniform_items": "positives", "scoring": "cosine", "gamma": 0.9}),
    (("text", "image"), False, {"ui_layers": 0, "item_layers": 2}),
]


@pytest.mark.parametrize(("modalities", "missing", "config"), CASES)
class TestDenseTwin:
    def test_scores(self, modalities: tuple[str, ...], missing: bool, config: dict[str, Any]) -> None:
        data = small_data(*modalities, missing=missing)
        model = new_model("cm3", data, **{**SMALL, **config})
        assert_close(all_scores(model, data), Twin(model, data, **config).scores().detach())

    def test_losses_and_gradients(
        self, modalities: tuple[str, ...], missing: bool, config: dict[str, Any], monkeypatch: Any
    ) -> None:
        data = small_data(*modalities, missing=missing)
        model = new_model("cm3", data, **{**SMALL, **config})
        twin, batch = Twin(model, data, **config), random_batch(data, size=20)
        draws = fixed_draws(len(modalities) - 1)
        monkeypatch.setattr(model, "_draw_shares", lambda: draws)
        terms, expected = model.loss(batch), twin.terms(batch, draws)
        assert terms.keys() == expected.keys()
        for name in expected:
            assert_close(terms[name].detach(), expected[name].detach())
        torch.stack(list(terms.values())).sum().backward()
        torch.stack(list(expected.values())).sum().backward()
        for name, parameter in model.named_parameters():
            assert_close(parameter.grad, twin.p[name].grad)


class TestProperties:
    """The numbers are those of the list of properties; 1 is in tests/encode/test_fusion.py."""

    def test_2_calibration_of_one_is_plain_and_of_zero_shifts_by_four(self) -> None:
        rows = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        plain = losses.uniformity(rows)
        assert_close(losses.uniformity(rows, torch.ones(9, 9, dtype=torch.float64)), plain, 1e-12)
        assert_close(losses.uniformity(rows, torch.zeros(9, 9, dtype=torch.float64)), plain + 4, 1e-12)
        distances = torch.pdist(torch.nn.functional.normalize(rows, dim=1))
        assert_close(plain, torch.exp(-2 * distances**2).mean().log(), 1e-12)

    def test_2_gradients_of_uniformity(self) -> None:
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
        similarity = torch.rand(5, 5, generator=generator, dtype=torch.float64, requires_grad=True)
        counts = torch.tensor([1, 3, 1, 2, 1])
        assert torch.autograd.gradcheck(
            lambda x, s: losses.uniformity(x, (s + s.T) / 2, counts), (rows, similarity)
        )

    def test_2_a_counted_row_is_a_repeated_row_without_its_own_pairs(self) -> None:
        rows = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x = torch.nn.functional.normalize(rows, dim=1)
        values = [
            torch.exp(-2 * (x[a] - x[b]).pow(2).sum()) for a in (0, 0, 1, 2) for b in (0, 0, 1, 2) if a != b
        ]
        counted = losses.uniformity(rows, counts=torch.tensor([2, 1, 1]))
        assert_close(counted, torch.stack(values).mean().log(), 1e-12)

    def test_3_swapping_two_modalities_and_their_shares(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = small_data("text", "image")
        model = new_model("cm3", data, **SMALL)
        draws = fixed_draws(1)
        one = model._encode(draws)[-1]
        model.encoders = torch.nn.ModuleDict(dict(reversed(list(model.encoders.items()))))
        two = model._encode([1 - draws[0]])[-1]
        assert_close(one, two, 1e-5)

    def test_4_cosine_ranks_by_the_angle_and_inner_by_length_too(self) -> None:
        data = small_data("text", "image")
        inner = new_model("cm3", data, **SMALL)
        cosine = new_model("cm3", data, **SMALL, scoring="cosine")
        cosine.load_state_dict(inner.state_dict())
        users, items = final_tables(inner)
        angles = torch.nn.functional.cosine_similarity(users[:, None], items[None], dim=2)
        assert torch.equal(all_scores(cosine, data).argsort(1), angles.argsort(1))
        assert not torch.equal(all_scores(inner, data).argsort(1), angles.argsort(1))

    def test_5_without_layers_items_are_their_inputs(self) -> None:
        data = small_data("text", "image")
        model = new_model("cm3", data, **SMALL, ui_layers=0, item_layers=0)
        items = torch.cat(model._encode(None), 1)
        assert torch.equal(final_tables(model)[1], items)
        assert_close(items.view(N_ITEMS, 3, 4).norm(dim=2), torch.ones(N_ITEMS, 3))

    def test_6_mixing_of_a_user_sums_to_one(self) -> None:
        data = small_data("text", "image")
        model = new_model("cm3", data, **SMALL, ui_layers=0)
        lengths = final_tables(model)[0].view(N_USERS, 3, 4).norm(dim=2)  # of unit blocks, so the weights
        assert_close(lengths.sum(1), torch.ones(N_USERS))
        assert lengths.std(1).min() > 0
        torch.nn.init.constant_(model.mixing, 2.0)
        assert_close(final_tables(model)[0].view(N_USERS, 3, 4).norm(dim=2), torch.full((N_USERS, 3), 1 / 3))

    @pytest.mark.parametrize("detach", [True, False])
    def test_7_gradient_through_the_similarity(self, detach: bool) -> None:
        data = small_data("text", "image")
        model = new_model("cm3", data, **SMALL, detach_similarity=detach)
        blocks = model._encode(fixed_draws(1))
        similarity = model._similarity(blocks[-1], torch.arange(N_ITEMS))
        assert similarity.requires_grad != detach


def test_evaluation_does_not_depend_on_what_was_drawn_before() -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("cm3", data, **SMALL)
    before = all_scores(model, data)
    model.train()
    one = model.loss(random_batch(data))["alignment"]
    assert model.loss(random_batch(data))["alignment"] != one  # other draws
    assert torch.equal(before, all_scores(model, data))


def test_shares_follow_the_beta_distribution() -> None:
    model = new_model("cm3", small_data("text", "image", "audio"), **SMALL, beta=0.3)
    torch.manual_seed(0)
    drawn = torch.cat([torch.stack(model._draw_shares()) for _ in range(400)])
    assert drawn.shape == (800, N_ITEMS)
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.02)
    assert drawn.var().item() == pytest.approx(1 / (4 * (2 * 0.3 + 1)), rel=0.05)


def test_similarity_range_must_be_one() -> None:
    with pytest.raises(ConfigError, match="max_similarity"):
        new_model("cm3", small_data("text"), min_similarity=0.9, max_similarity=0.8)


def test_initial_values() -> None:
    data = small_data("text", "image")
    model = new_model("cm3", data, **{**SMALL, "dim": 400})
    assert model.users.std().item() == pytest.approx(math.sqrt(2 / (N_USERS + 400)), rel=0.05)
    weight = model.encoders["text"].direction.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (5 + 400)), rel=0.1)
