"""Blocks that several models share."""

from __future__ import annotations

import pytest
import torch

from mmrec.nn import Dropout


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
