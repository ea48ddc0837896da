from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrec import losses
from mmrec.losses import (
    PENALTIES,
    alignment,
    binary_cross_entropy,
    bpr,
    bpr_max,
    direct_au,
    info_nce,
    log_partition,
    norm_penalty,
    sampled_softmax,
    softmax_cross_entropy,
    squared_penalty,
    uniformity,
)
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


def rows(n: int, dim: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64)


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True)


in_blocks = pytest.mark.parametrize("block", [2**26, 150])  # of bytes: one block, or of two rows each


class TestLogPartition:
    @in_blocks
    def test_equals_its_formula_with_its_gradients(self, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(losses, "CACHED_BYTES", block)
        excluded = torch.zeros(6, 4, dtype=torch.bool)
        excluded[0, 1] = excluded[3, :3] = excluded[5] = True  # of nine candidates
        for mask in (None, excluded, excluded & False):
            anchors, candidates = rows(6).requires_grad_(), rows(9, seed=1).requires_grad_()
            logits, pairs = anchors @ candidates.T, None
            if mask is not None:
                logits = torch.cat([logits[:, :4].masked_fill(mask, -torch.inf), logits[:, 4:]], 1)
                pairs = mask.nonzero(as_tuple=True)
            found, expected = log_partition(anchors, candidates, pairs), logits.logsumexp(1).sum()
            assert_close(found, expected, 1e-12)
            for one, two in zip(
                torch.autograd.grad(3 * found, (anchors, candidates)),
                torch.autograd.grad(3 * expected, (anchors, candidates)),
                strict=True,
            ):
                assert_close(one, two, 1e-12)

    def test_large_products_do_not_overflow(self) -> None:
        assert log_partition(torch.tensor([[1e4]]), torch.tensor([[1.0], [-1.0]])).item() == 1e4

    def test_under_autocast_it_computes_in_float32(self) -> None:
        anchors, candidates = rows(6).float(), rows(9, seed=1).float()
        with torch.autocast("cpu", torch.bfloat16):
            found = log_partition(anchors, candidates)
        assert torch.equal(found, log_partition(anchors, candidates))


def test_softmax_cross_entropy_is_that_of_the_logits() -> None:
    queries, table, targets = rows(6).requires_grad_(), rows(9, seed=1).requires_grad_(), torch.arange(6) // 2
    found = softmax_cross_entropy(queries, table, targets)
    expected = torch.nn.functional.cross_entropy(queries @ table.T, targets)
    assert_close(found, expected, 1e-12)
    for one, two in zip(
        torch.autograd.grad(found, (queries, table)),
        torch.autograd.grad(expected, (queries, table)),
        strict=True,
    ):
        assert_close(one, two, 1e-12)
    equal = softmax_cross_entropy(queries, torch.ones_like(table), targets)
    assert equal.item() == pytest.approx(math.log(9))


def test_binary_cross_entropy() -> None:
    zeros = torch.zeros(5)
    assert binary_cross_entropy(zeros, zeros).item() == pytest.approx(2 * math.log(2))
    positive, negative = rows(4)[0], rows(4)[1]
    expected = -(positive.sigmoid().log() + (1 - negative.sigmoid()).log()).mean()
    assert_close(binary_cross_entropy(positive, negative), expected, 1e-12)


def test_bpr_max() -> None:
    positive, negative = rows(4)[:, 0], rows(4, seed=1)
    expected = []
    for own, others in zip(positive, negative, strict=True):
        shares = others.exp() / others.exp().sum()
        expected.append(-(shares * (own - others).sigmoid()).sum().log() + 0.3 * (shares * others**2).sum())
    assert_close(bpr_max(positive, negative, 0.3), torch.stack(expected).mean(), 1e-12)
    left_out = torch.cat([negative, torch.full((4, 2), -torch.inf)], 1).requires_grad_()
    loss = bpr_max(positive, left_out, 0.3)
    assert_close(loss, torch.stack(expected).mean(), 1e-12)
    loss.backward()
    assert left_out.grad is not None
    assert torch.isfinite(left_out.grad).all()


class TestInfoNce:
    def test_equals_the_formula(self) -> None:
        anchors, targets = rows(9), rows(9, seed=1)
        cosine = unit(anchors) @ unit(targets).T / 0.2
        expected = (-cosine.diagonal() + cosine.exp().sum(1).log()).mean()
        assert_close(info_nce(anchors, targets, 0.2), expected, 1e-12)

    def test_small_temperatures_stay_finite(self) -> None:
        anchors = rows(5).float().requires_grad_()
        loss = info_nce(anchors, rows(5, seed=1).float(), 1e-3)
        loss.backward()
        assert torch.isfinite(loss)
        assert anchors.grad is not None
        assert torch.isfinite(anchors.grad).all()

    def test_rows_of_the_same_id_are_no_negatives_of_each_other(self) -> None:
        anchors, targets = rows(4), rows(4, seed=1)
        ids = torch.tensor([7, 3, 7, 7])
        cosine = unit(anchors) @ unit(targets).T / 0.5
        expected = []
        for row in range(4):
            others = [other for other in range(4) if other == row or ids[other] != ids[row]]
            expected.append(cosine[row, others].logsumexp(0) - cosine[row, row])
        assert_close(info_nce(anchors, targets, 0.5, ids), torch.stack(expected).mean(), 1e-12)

    def test_further_negatives(self) -> None:
        anchors, targets, negatives = rows(4), rows(4, seed=1), rows(3, seed=2)
        logits = unit(anchors) @ unit(torch.cat([targets, negatives])).T / 0.3
        expected = torch.nn.functional.cross_entropy(logits, torch.arange(4))
        assert_close(info_nce(anchors, targets, 0.3, negatives=negatives), expected, 1e-12)


class TestAlignmentAndUniformity:
    def test_alignment(self) -> None:
        users, items = rows(5), rows(5, seed=1)
        expected = (unit(users) - unit(items)).pow(2).sum(1).mean()
        assert_close(alignment(users, 3 * items), expected, 1e-12)

    @in_blocks
    def test_uniformity_equals_the_sum_over_pairs_with_its_gradient(
        self, block: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(losses, "CACHED_BYTES", block)
        fast, slow = rows(8).requires_grad_(), rows(8).requires_grad_()
        expected = (-2 * torch.pdist(unit(slow)).pow(2)).exp().mean().log()
        loss = uniformity(fast)
        assert_close(loss, expected, 1e-10)
        loss.backward()
        expected.backward()
        assert fast.grad is not None and slow.grad is not None
        assert_close(fast.grad, slow.grad, 1e-10)

    @in_blocks
    def test_calibrated_uniformity_equals_the_sum_over_pairs_with_its_gradients(
        self, block: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(losses, "CACHED_BYTES", block)
        similarity = torch.rand(8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        one, two = (((similarity + similarity.T) / 2).requires_grad_() for _ in range(2))
        fast, slow = rows(8).requires_grad_(), rows(8).requires_grad_()
        pairs = [(a, b) for a in range(8) for b in range(8) if a != b]
        terms = [-2 * ((unit(slow)[a] - unit(slow)[b]).pow(2).sum() - 2 + 2 * two[a, b]) for a, b in pairs]
        expected = torch.stack(terms).exp().mean().log()
        loss = uniformity(fast, one)
        assert_close(loss, expected, 1e-10)
        loss.backward()
        expected.backward()
        for mine, plain in ((fast, slow), (one, two)):
            assert mine.grad is not None and plain.grad is not None
            assert_close(mine.grad, plain.grad, 1e-10)

    def test_similarity_of_one_changes_nothing_and_of_zero_adds_four(self) -> None:
        ones = torch.ones(8, 8, dtype=torch.float64)
        assert_close(uniformity(rows(8), ones), uniformity(rows(8)), 1e-12)
        assert_close(uniformity(rows(8), 0 * ones), uniformity(rows(8)) + 4, 1e-12)

    def test_a_row_counted_twice_equals_its_pairs_with_the_others_counted_twice(self) -> None:
        x = unit(rows(3))
        potential = (4 * x @ x.T - 4).exp()
        expected = (2 * potential[0, 1] + 2 * potential[0, 2] + potential[1, 2]) / 5
        assert_close(uniformity(rows(3), counts=torch.tensor([2, 1, 1])), expected.log(), 1e-10)

    def test_a_single_row_has_nothing_to_be_far_from(self) -> None:
        row = rows(1).requires_grad_()
        uniformity(row).backward()
        assert row.grad is not None
        assert row.grad.abs().max() == 0

    def test_direct_au(self) -> None:
        users, items = rows(5), rows(5, seed=1)
        expected = alignment(users, items) + 0.7 * (uniformity(users) + uniformity(items)) / 2
        assert_close(direct_au(users, items, 0.7), expected, 1e-12)


class TestSampledSoftmax:
    def test_equals_the_formula(self) -> None:
        positive, negative = rows(1)[0], rows(6, 4, seed=1)
        log_q = torch.log(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64))
        own = torch.log(torch.linspace(0.1, 0.6, 6, dtype=torch.float64))
        total = (positive - own).exp() + (negative - log_q).exp().sum(1)
        expected = -((positive - own).exp() / total).log().mean()
        assert_close(sampled_softmax(positive, negative, own, log_q), expected, 1e-12)

    def test_the_correction_makes_popular_negatives_count_like_the_full_softmax(self) -> None:
        # One user, 50 items, negatives drawn with replacement in proportion to popularity: the corrected estimate
        # of the log of the sum is near that of all items, the uncorrected one is not.
        generator = torch.Generator().manual_seed(0)
        scores = torch.randn(50, generator=generator, dtype=torch.float64)
        popularity = torch.softmax(2 * scores, 0)  # popular items score high
        drawn = torch.multinomial(popularity, 20_000, replacement=True, generator=generator)
        log_q = (popularity.log() + math.log(20_000))[drawn]
        out = torch.full((1,), -torch.inf, dtype=torch.float64)
        full = scores.logsumexp(0)
        corrected = torch.cat([out, scores[drawn] - log_q]).logsumexp(0)
        assert_close(corrected, full, 0.02)
        plain = scores[drawn].logsumexp(0) - math.log(20_000 / 50)
        assert (plain - full).abs() > 0.3
        loss = sampled_softmax(scores[:1], scores[drawn][None], None, log_q)
        assert_close(loss, torch.logaddexp(scores[0], corrected) - scores[0], 1e-12)

    def test_a_negative_of_minus_infinity_is_left_out(self) -> None:
        positive, negative = torch.tensor([1.0]), torch.tensor([[0.5, -torch.inf]])
        assert_close(sampled_softmax(positive, negative), sampled_softmax(positive, negative[:, :1]), 1e-7)
