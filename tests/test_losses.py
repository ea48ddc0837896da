from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrec.losses import PENALTIES, bpr, norm_penalty, squared_penalty
from tests.dense import assert_close, negative_log_sigmoid


class TestBpr:
    def test_hand_values(self) -> None:
        # differences 0 and log 3: sigmoid 1/2 and 3/4
        loss = bpr(torch.tensor([1.0, math.log(3)]), torch.tensor([1.0, 0.0]))
        assert loss.item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2, rel=1e-6)

    def test_equals_the_formula_with_its_gradient(self) -> None:
        generator = torch.Generator().manual_seed(0)
        scores = torch.randn(2, 500, generator=generator, dtype=torch.float64) * 3
        fast, slow = scores.clone().requires_grad_(), scores.clone().requires_grad_()
        bpr(*fast).backward()
        negative_log_sigmoid(*slow).backward()
        assert_close(bpr(*fast), negative_log_sigmoid(*slow), 1e-12)
        assert fast.grad is not None and slow.grad is not None
        assert_close(fast.grad, slow.grad, 1e-12)
        assert_close(bpr(*scores), -torch.nn.functional.logsigmoid(scores[0] - scores[1]).mean(), 1e-12)

    @given(st.floats(-20, 20), st.floats(-20, 20))
    def test_gradient_is_minus_the_probability_of_the_wrong_order(self, one: float, two: float) -> None:
        positive = torch.tensor([one], dtype=torch.float64, requires_grad=True)
        negative = torch.tensor([two], dtype=torch.float64, requires_grad=True)
        bpr(positive, negative).backward()
        wrong = 1 / (1 + math.exp(one - two))
        assert positive.grad is not None and negative.grad is not None
        assert positive.grad.item() == pytest.approx(
            -wrong, abs=3e-9
        )  # torch is linear beyond a difference of 20
        assert negative.grad.item() == pytest.approx(wrong, abs=3e-9)

    def test_very_wrong_pairs_keep_their_gradient(self) -> None:
        positive = torch.tensor([-1e4], requires_grad=True)
        loss = bpr(positive, torch.zeros(1))
        loss.backward()
        assert loss.item() == 1e4
        assert positive.grad is not None
        assert positive.grad.item() == -1

    def test_very_right_pairs_cost_nothing_and_stay_finite(self) -> None:
        positive = torch.tensor([1e4], requires_grad=True)
        loss = bpr(positive, torch.zeros(1))
        loss.backward()
        assert loss.item() == 0
        assert positive.grad is not None
        assert positive.grad.item() == 0


class TestPenalties:
    one = torch.tensor([[3.0, 0.0], [0.0, 4.0]])  # norm 5
    two = torch.tensor([[6.0, 8.0], [0.0, 0.0]])  # norm 10

    def test_norms_are_not_squared(self) -> None:
        assert norm_penalty(self.one).item() == pytest.approx(5 / 2)
        assert norm_penalty(self.one, self.two).item() == pytest.approx(15 / 2)

    def test_squared(self) -> None:
        assert squared_penalty(self.one).item() == pytest.approx(25 / 4)
        assert squared_penalty(self.one, self.two).item() == pytest.approx(125 / 4)

    def test_gradients(self) -> None:
        for penalty, expected in (
            (norm_penalty, self.one / (2 * 5)),  # E / (b |E|): does not grow with E
            (squared_penalty, self.one / 2),  # E / b
        ):
            rows = self.one.clone().requires_grad_()
            penalty(rows, self.two).backward()
            assert rows.grad is not None
            assert_close(rows.grad, expected, 1e-6)

    def test_sheet_example(self) -> None:
        # B = 2048, d = 64, standard deviation 0.05: 0.027 squared against 0.241 by norms, summed over three
        generator = torch.Generator().manual_seed(0)
        rows = [torch.randn(2048, 64, generator=generator) * 0.05 for _ in range(3)]
        assert squared_penalty(*rows).item() == pytest.approx(3 * 64 * 0.05**2 / 2, rel=0.02)
        assert norm_penalty(*rows).item() == pytest.approx(3 * math.sqrt(2048 * 64) * 0.05 / 2048, rel=0.02)

    def test_half_batches_add_up_for_squares_but_only_in_quadrature_for_norms(self) -> None:
        rows = torch.randn(10, 4, generator=torch.Generator().manual_seed(1))
        halves = rows.chunk(2)
        squared = [squared_penalty(half).item() for half in halves]
        assert sum(squared) / 2 == pytest.approx(squared_penalty(rows).item(), rel=1e-6)
        norms = [norm_penalty(half).item() * 5 for half in halves]
        assert math.hypot(*norms) / 10 == pytest.approx(norm_penalty(rows).item(), rel=1e-6)
        assert sum(norms) / 10 > norm_penalty(rows).item() * 1.2

    def test_names(self) -> None:
        assert {"norm": norm_penalty, "squared": squared_penalty} == PENALTIES

    def test_all_zero_rows_have_a_finite_gradient(self) -> None:
        for penalty in PENALTIES.values():
            rows = torch.zeros(3, 2, requires_grad=True)
            penalty(rows).backward()
            assert rows.grad is not None
            assert not rows.grad.any()
