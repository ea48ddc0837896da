"""Guided query refinement: its gradient, its fixed points, and what a second retriever is worth."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor

from mmrec.compress.measure import overlap
from mmrec.compress.ranking import rank_blocks
from mmrec.compress.refine import RefineSettings, Retriever, consensus, refine_queries, refine_ranking
from mmrec.errors import DataError


def problem(seed: int = 0) -> dict[str, Tensor]:
    """Four queries with up to eleven candidates."""
    generator = torch.Generator().manual_seed(seed)
    held = torch.ones(4, 11, dtype=torch.bool)
    held[1, 7:] = held[3, 1:] = False
    return {
        "queries": torch.randn(4, 5, generator=generator),
        "vectors": torch.randn(4, 11, 5, generator=generator),
        "guide": torch.randn(4, 11, generator=generator),
        "held": held,
    }


def divergence(p: dict[str, Tensor], z: Tensor, settings: RefineSettings) -> list[Tensor]:
    """KL of the consensus and the shares of z, for each query on its own candidates."""
    result = []
    for row in range(len(z)):
        held = p["held"][row]
        vectors, guide = p["vectors"][row, held], p["guide"][row, held]
        own = (vectors @ p["queries"][row] / settings.temperature).softmax(0)
        target = (1 - settings.alpha) * own + settings.alpha * (guide / settings.guide_temperature).softmax(0)
        logs = (vectors @ z[row] / settings.temperature).log_softmax(0)
        result.append((target * (target.log() - logs)).sum())
    return result


def refine_slowly(p: dict[str, Tensor], settings: RefineSettings) -> Tensor:
    """The same descent by automatic differentiation."""
    z = p["queries"].clone().requires_grad_()
    optimizer = torch.optim.Adam([z], lr=settings.lr)
    for _ in range(settings.steps):
        optimizer.zero_grad()
        torch.stack(divergence(p, z, settings)).sum().backward()
        optimizer.step()
    return z.detach()


def settings_of(**changes: Any) -> RefineSettings:
    return RefineSettings(
        **{"temperature": 0.7, "guide_temperature": 0.4, "steps": 12, "lr": 0.05, **changes}
    )


class TestRefineQueries:
    def test_closed_gradient_is_that_of_autograd(self) -> None:
        # one candidate alone has no gradient but rounding, which Adam would blow up: the last row is left out
        p = {name: part[:3] for name, part in problem().items()}
        settings = settings_of()
        torch.testing.assert_close(
            refine_queries(**p, settings=settings), refine_slowly(p, settings), rtol=1e-3, atol=1e-4
        )

    @pytest.mark.parametrize("changes", [{"alpha": 0.0}, {"steps": 0}])
    def test_without_weight_or_steps_queries_stay_to_the_last_bit(self, changes: dict[str, float]) -> None:
        p = problem()
        assert torch.equal(refine_queries(**p, settings=settings_of(**changes)), p["queries"])

    def test_divergence_falls_and_inputs_are_left_alone(self) -> None:
        p, kept = problem(), problem()
        falls = [
            torch.stack(divergence(p, refine_queries(**p, settings=settings_of(steps=n)), settings_of()))
            for n in (0, 5, 20, 80)
        ]
        for before, after in pairwise(falls):
            assert (after[:3] < before[:3]).all()
        assert all(torch.equal(p[name], kept[name]) for name in p)

    def test_each_query_moves_for_itself(self) -> None:
        p = problem()
        together = refine_queries(**p, settings=settings_of())
        for row in range(3):
            alone = {name: part[row : row + 1] for name, part in p.items()}
            width = int(alone["held"].sum())
            alone |= {name: alone[name][:, :width] for name in ("vectors", "guide", "held")}
            torch.testing.assert_close(
                refine_queries(**alone, settings=settings_of())[0], together[row], rtol=1e-4, atol=1e-5
            )

    def test_consensus_is_a_distribution_over_what_is_held(self) -> None:
        p = problem()
        target = consensus(p["guide"] + 1, p["guide"], p["held"], settings_of(alpha=0.3))
        torch.testing.assert_close(target.sum(1), torch.ones(4))
        assert not target[~p["held"]].any()


def two_retrievers() -> tuple[Retriever, Retriever, np.ndarray]:
    """Noisy views of the same queries, with noise of their own, in spaces of their own; and the truth."""
    rng = np.random.default_rng(0)
    items, queries = (rng.normal(size=(n, 16)).astype(np.float32) for n in (400, 60))
    truth = rank_blocks(lambda rows: queries @ items[rows].T, 400, 60, 10).items
    views = []
    for width in (16, 24):
        turn = np.linalg.qr(rng.normal(size=(width, width)))[0][:, :16].T.astype(np.float32)
        noisy = items + 0.5 * rng.normal(size=items.shape).astype(np.float32)
        asked = queries + 0.7 * rng.normal(size=queries.shape).astype(np.float32)
        views.append(Retriever(asked @ turn, noisy @ turn))
    return views[0], views[1], truth


class TestRefineRanking:
    def test_no_step_is_the_ranking_of_the_primary(self) -> None:
        primary, guide, _ = two_retrievers()
        found = refine_ranking(primary, guide, 10, RefineSettings(steps=0, depth=30))
        assert_array_equal(found.items, primary.best(10))
        assert_allclose(found.scores[:, 0], (primary.queries @ primary.items.T).max(1), rtol=1e-5)

    def test_a_second_opinion_with_noise_of_its_own_helps(self) -> None:
        primary, guide, truth = two_retrievers()
        settings = RefineSettings(depth=50, temperature=3, guide_temperature=3, steps=30, lr=0.05)
        alone = [overlap(part.best(10), truth) for part in (primary, guide)]
        assert overlap(refine_ranking(primary, guide, 10, settings).items, truth) > max(alone) + 0.03

    def test_blocks_of_queries_are_as_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        primary, guide, _ = two_retrievers()
        whole = refine_ranking(primary, guide, 10)
        monkeypatch.setattr("mmrec.compress.refine.BLOCK_BYTES", 4 * 7 * 200 * 16)
        parts = refine_ranking(primary, guide, 10)
        assert (whole.items == parts.items).mean() > 0.99
        assert_allclose(parts.scores, whole.scores, rtol=1e-3, atol=1e-3)

    def test_candidates_fewer_than_asked_for_and_no_queries(self) -> None:
        primary, guide, _ = two_retrievers()
        found = refine_ranking(primary, guide, 100, RefineSettings(depth=2))
        assert 2 <= found.items.shape[1] <= 4
        assert ((found.items >= 0) == np.isfinite(found.scores)).all()
        none = [Retriever(part.queries[:0], part.items) for part in (primary, guide)]
        assert len(refine_ranking(none[0], none[1], 10).items) == 0

    def test_refuses_retrievers_of_different_things(self) -> None:
        primary, guide, _ = two_retrievers()
        with pytest.raises(DataError, match="same queries and items"):
            refine_ranking(primary, Retriever(guide.queries, guide.items[1:]), 10)
