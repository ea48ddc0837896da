"""Blocks that several models share."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F

from mmrec import nn as blocks
from mmrec.nn import Dropout, FeatureProjection, ScaledEmbedding, frozen_linear, product_rows
from tests.small_data import small_data


class TestDropout:
    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    def test_leaves_out_a_share_of_values_independently_and_keeps_the_mean(self, share: float) -> None:
        torch.manual_seed(0)
        values = torch.ones(999, 1001, requires_grad=True)
        dropped = Dropout(share)(values)
        gone = (dropped == 0).double()
        assert dropped.unique().numel() == 2
        assert gone.mean().item() == pytest.approx(share, abs=0.003)
        assert dropped.double().mean().item() == pytest.approx(1, abs=0.01)
        for distance in (1, 2, 3, 4):  # values that share a draw, and those that do not
            both = (gone.flatten()[:-distance] * gone.flatten()[distance:]).mean()
            assert both.item() == pytest.approx(share**2, abs=0.003)
        dropped.sum().backward()
        assert values.grad is not None and torch.equal(values.grad, dropped.detach())

    def test_draws_from_the_seed_and_does_nothing_in_evaluation(self) -> None:
        values, layer = torch.randn(7, 3), Dropout(0.5)

        def draw() -> torch.Tensor:
            found: torch.Tensor = layer(values)
            return found

        torch.manual_seed(1)
        first, second = draw(), draw()
        torch.manual_seed(1)
        assert torch.equal(draw(), first)
        assert not torch.equal(first, second)
        assert torch.equal(layer.eval()(values), values)

    @pytest.mark.parametrize("share", [0.0, 1e-9, 1.0])
    def test_takes_shares_at_the_borders(self, share: float) -> None:
        found = Dropout(share)(torch.ones(100))
        assert torch.equal(found, torch.full((100,), float(share < 1)))

    def test_keeps_the_type_and_takes_nothing(self) -> None:
        assert Dropout(0.5)(torch.ones(5, dtype=torch.bfloat16)).dtype == torch.bfloat16
        assert Dropout(0.5)(torch.ones(0, 4)).shape == (0, 4)


class TestProductRows:
    def test_rows_are_rounded_only_under_autocast_and_only_once(self) -> None:
        rows = torch.randn(5, 3)
        assert product_rows(rows) is rows
        with torch.autocast("cpu", torch.bfloat16):
            rounded = product_rows(rows)
            assert rounded.dtype == torch.bfloat16 and torch.equal(rounded, rows.bfloat16())
            assert product_rows(rows) is rounded
        assert product_rows(rows) is rows

    def test_rows_that_changed_are_rounded_again(self) -> None:
        rows = torch.randn(5, 3)
        with torch.autocast("cpu", torch.bfloat16):
            product_rows(rows)
            rows.zero_()
            assert not product_rows(rows).any()

    def test_trained_rows_are_left_to_autocast(self) -> None:
        rows = torch.randn(5, 3, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            assert product_rows(rows) is rows

    def test_the_copy_goes_with_the_rows(self) -> None:
        gc.collect()
        before = len(blocks._ROUNDED)
        rows = torch.randn(5, 3)
        with torch.autocast("cpu", torch.bfloat16):
            product_rows(rows)
        assert len(blocks._ROUNDED) == before + 1
        del rows
        assert len(blocks._ROUNDED) == before


class TestFrozenLinear:
    @pytest.mark.parametrize("bias", [True, False])
    def test_value_and_gradients_are_those_of_a_linear_layer(self, bias: bool) -> None:
        rows = torch.randn(6, 4, dtype=torch.float64)
        parameters = [torch.randn(3, 4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)][: 1 + bias]
        for parameter in parameters:
            parameter.requires_grad_()
        torch.testing.assert_close(frozen_linear(rows, *parameters), F.linear(rows, *parameters))
        assert torch.autograd.gradcheck(lambda *given: frozen_linear(rows, *given), parameters)

    def test_under_autocast_it_is_as_close_as_a_linear_layer_and_its_gradients_are_float32(self) -> None:
        rows, target = torch.randn(40, 30), torch.randn(40, 8)
        gradients = []
        for own in (True, False):
            torch.manual_seed(0)
            layer = torch.nn.Linear(30, 8)
            with torch.autocast("cpu", torch.bfloat16):
                result = frozen_linear(product_rows(rows), layer.weight, layer.bias) if own else layer(rows)
            assert result.dtype == torch.bfloat16
            (result.float() * target).sum().backward()
            assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32
            gradients.append(layer.weight.grad)
        torch.testing.assert_close(*gradients)

    def test_trained_rows_get_their_gradient(self) -> None:
        rows = torch.randn(6, 4, requires_grad=True)
        frozen_linear(rows, torch.randn(3, 4)).sum().backward()
        assert rows.grad is not None and rows.grad.any()


def test_scaled_embeddings_are_of_variance_1_and_learned_as_the_root_of_their_width_as_fast() -> None:
    torch.manual_seed(0)
    rows = ScaledEmbedding(500, 64)
    before = rows().detach()
    assert before.var().item() == pytest.approx(1, abs=0.02)
    optimizer = torch.optim.Adam(rows.parameters(), lr=1e-3)
    rows().sum().backward()
    optimizer.step()
    torch.testing.assert_close(before - rows().detach(), torch.full_like(before, 8e-3), atol=1e-5, rtol=0)


def test_a_projection_of_repeated_items_is_that_of_each() -> None:
    projection = FeatureProjection(small_data("text").features["text"], 3)
    items = torch.tensor([4, 1, 4, 4, 0, 1])
    weights = torch.randn(6, 3)
    found, expected = projection(items), projection.map(projection.features[items])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad((found * weights).sum(), projection.map.weight),
        torch.autograd.grad((expected * weights).sum(), projection.map.weight),
    )
