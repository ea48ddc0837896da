"""Quantisers: the identities of residual codes, gradients that go where they should, saving, balance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from mmrec.codes import letter, product, residual, rqvae
from mmrec.codes.kmeans import balanced_groups, kmeans
from mmrec.codes.quantiser import Fitted, squared_distances
from mmrec.codes.residual import ResidualKMeansSettings, ResidualQuantiser, learn_codebooks, unit
from mmrec.codes.rqvae import RQVAE, RQVAESettings
from mmrec.codes.sinkhorn import balanced_assignment, plan, potentials
from mmrec.errors import ConfigError

EVERYTHING = np.ones(200, dtype=bool)
SMALL: dict[str, Any] = {"size": 8, "hidden": (16,), "latent": 6, "epochs": 8, "batch_size": 64}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(n: int = 200, d: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def fitted(method: str, seed: int = 0, **changes: Any) -> Fitted:
    quiet: dict[str, Any] = {"show_progress": False}
    if method == "residual":
        settings = ResidualKMeansSettings(size=8, **changes)
        return residual.fit(rows(), EVERYTHING, settings, generator(seed), **quiet)
    if method == "rqvae":
        return rqvae.fit(rows(), EVERYTHING, RQVAESettings(**SMALL, **changes), generator(seed), **quiet)
    if method == "letter":
        own = letter.LetterSettings(**{**SMALL, "levels": 3, **changes})
        targets = (rows(d=4, seed=3), EVERYTHING) if own.alpha else None
        return letter.fit(rows(), EVERYTHING, own, generator(seed), targets=targets, **quiet)
    settings_of = product.ProductSettings(levels=4, size=8, **changes)
    return product.fit(rows(), EVERYTHING, settings_of, generator(seed), rotate=method == "opq", **quiet)


METHODS = ("residual", "rqvae", "letter", "pq", "opq")


class TestEveryQuantiser:
    @pytest.mark.parametrize("method", METHODS)
    def test_codes_are_in_range_and_do_not_depend_on_the_other_items(self, method: str) -> None:
        quantiser = fitted(method).quantiser
        codes = quantiser.encode(rows())
        assert codes.dtype == np.int32
        assert codes.shape == (200, len(quantiser.sizes))
        assert (codes >= 0).all() and (codes < np.array(quantiser.sizes)).all()
        order = np.random.default_rng(1).permutation(200)
        assert (quantiser.encode(rows()[order]) == codes[order]).all()
        assert (quantiser.encode(rows()[:1]) == codes[:1]).all()
        assert quantiser.encode(rows()[:0]).shape == (0, len(quantiser.sizes))

    @pytest.mark.parametrize("method", METHODS)
    def test_same_seed_same_bits_other_seed_others(self, method: str) -> None:
        one, two, other = (fitted(method, seed).quantiser for seed in (0, 0, 1))
        pairs = zip(one.state()[0].values(), two.state()[0].values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert (one.encode(rows()) != other.encode(rows())).any()

    @pytest.mark.parametrize("method", METHODS)
    def test_the_global_generator_is_left_alone(self, method: str) -> None:
        torch.manual_seed(7)
        before = torch.get_rng_state()
        fitted(method)
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("method", METHODS)
    def test_restored_from_its_state(self, method: str) -> None:
        quantiser = fitted(method).quantiser
        again = type(quantiser).restore(*quantiser.state())
        codes = quantiser.encode(rows(seed=5))
        assert (again.encode(rows(seed=5)) == codes).all()
        assert (again.decode(codes) == quantiser.decode(codes)).all()

    @pytest.mark.parametrize("method", METHODS)
    def test_own_last_code_costs_least(self, method: str) -> None:
        quantiser = fitted(method, **({"sinkhorn": 0} if method == "letter" else {})).quantiser
        codes = quantiser.encode(rows())
        assert (quantiser.last_costs(rows(), codes).argmin(1) == codes[:, -1]).all()

    @pytest.mark.parametrize("method", ["residual", "pq", "opq"])
    def test_codes_stand_for_vectors_near_by(self, method: str) -> None:
        quantiser = fitted(method).quantiser
        lost = np.square(quantiser.decode(quantiser.encode(rows())) - rows()).sum()
        assert lost < 0.6 * np.square(rows() - rows().mean(0)).sum()


class TestResidual:
    def test_codewords_and_what_is_left_sum_to_the_vector(self) -> None:
        quantiser = fitted("residual", normalise=False).quantiser
        assert isinstance(quantiser, ResidualQuantiser)
        codes, left = quantiser.quantise(torch.from_numpy(rows()))
        rebuilt = quantiser.decode(codes.numpy().astype(np.int32))
        assert_allclose(rebuilt + left.numpy(), rows(), atol=1e-6)

    def test_scaled_residuals_by_hand(self) -> None:
        quantiser = fitted("residual", levels=2).quantiser
        assert isinstance(quantiser, ResidualQuantiser)
        vector = torch.from_numpy(rows()[:1])
        codes = quantiser.encode(rows()[:1])[0]
        first, second = (book[code] for book, code in zip(quantiser.codebooks, codes, strict=True))
        left = unit(unit(vector) - first) - second
        assert_allclose(quantiser.quantise(vector)[1], left, atol=1e-6)

    def test_mean_squared_residual_falls_with_every_level(self) -> None:
        settings = ResidualKMeansSettings(size=8, levels=4, normalise=False)
        quantiser = learn_codebooks(torch.from_numpy(rows()), settings, generator(), show_progress=False)
        lost = [np.square(rows()).sum()]
        for levels in range(1, 5):
            part = ResidualQuantiser.of(list(quantiser.codebooks[:levels]))
            lost.append(part.quantise(torch.from_numpy(rows()))[1].square().sum().item())
        assert (np.diff(lost) < 0).all()

    def test_the_zero_code_never_makes_a_residual_longer(self) -> None:
        books = [torch.cat([torch.zeros(1, 10), torch.randn(7, 10, generator=generator(s))]) for s in (1, 2)]
        lengths = [
            ResidualQuantiser.of(books[:n]).quantise(torch.from_numpy(rows()))[1].norm(dim=1) for n in (1, 2)
        ]
        assert (lengths[0] <= torch.from_numpy(rows()).norm(dim=1) + 1e-6).all()
        assert (lengths[1] <= lengths[0] + 1e-6).all()

    def test_balanced_codes_are_used_alike_and_new_rows_get_some(self) -> None:
        skewed = rows() * np.linspace(0.01, 3, 200, dtype=np.float32)[:, None]
        plain, balanced = (
            residual.fit(
                skewed,
                EVERYTHING,
                ResidualKMeansSettings(size=8, normalise=False, sinkhorn=eps),
                generator(),
                show_progress=False,
            ).quantiser
            for eps in (0.0, 0.01)
        )
        most = [np.bincount(q.encode(skewed)[:, 0], minlength=8).max() for q in (plain, balanced)]
        assert most[1] <= 30 < most[0]
        assert len(np.unique(balanced.encode(rows(seed=9))[:, 0])) > 3


class TestSinkhorn:
    def test_marginals_are_uniform(self) -> None:
        costs = squared_distances(torch.from_numpy(rows()), torch.from_numpy(rows(8, seed=1)))
        shares = plan(costs, 0.1, 500)
        assert_allclose(shares.sum(1), np.full(200, 1 / 200), atol=1e-3 / 200)
        assert_allclose(shares.sum(0), np.full(8, 1 / 8), atol=1e-3)

    def test_entropy_rises_with_eps(self) -> None:
        costs = squared_distances(torch.from_numpy(rows()), torch.from_numpy(rows(8, seed=1)))
        entropies = [torch.special.entr(plan(costs, eps, 200)).sum().item() for eps in (0.01, 0.1, 1, 100)]
        assert (np.diff(entropies) > 0).all()
        assert entropies[-1] == pytest.approx(np.log(1600), abs=1e-3)

    @pytest.mark.parametrize("eps", [1e-4, 0.003, 1.0])
    def test_equal_rows_and_equal_costs_give_no_nan(self, eps: float) -> None:
        equal = squared_distances(torch.ones(50, 4), torch.randn(6, 4, generator=generator()))
        for costs in (equal, torch.ones(50, 6), equal * 1e6):
            assert all(torch.isfinite(part).all() for part in potentials(costs, eps))
            assert torch.isfinite(plan(costs, eps)).all()

    def test_assignment_follows_the_plan(self) -> None:
        costs = squared_distances(torch.from_numpy(rows()), torch.from_numpy(rows(8, seed=1)))
        assert torch.equal(balanced_assignment(costs, 0.05), plan(costs, 0.05).argmax(1))
        counts = torch.bincount(balanced_assignment(costs, 0.003, 500), minlength=8)
        assert counts.max() <= 30


class TestKMeans:
    def test_planted_clusters_are_found(self) -> None:
        centres = 10 * rows(4, 3, seed=2)
        noisy = np.repeat(centres, 20, axis=0) + 0.01 * rows(80, 3)
        found = kmeans(torch.from_numpy(noisy), 4, generator()).numpy()
        assert_allclose(found[np.argsort(found[:, 0])], centres[np.argsort(centres[:, 0])], atol=0.02)

    def test_groups_are_of_like_size(self) -> None:
        skewed = np.concatenate([0.01 * rows(90), 5 + rows(10, seed=1)])
        sizes = torch.bincount(balanced_groups(torch.from_numpy(skewed), 5, generator()), minlength=5)
        plain = kmeans(torch.from_numpy(skewed), 5, generator())
        nearest = squared_distances(torch.from_numpy(skewed), plain).argmin(1)
        assert sizes.min() >= 4
        assert sizes.max() <= 35 < torch.bincount(nearest).max()


class TestRQVAE:
    def model(self) -> RQVAE:
        made = rqvae.build(10, RQVAESettings(**SMALL), generator())
        made.prepare(torch.from_numpy(rows()), generator())
        return made

    def test_straight_through(self) -> None:
        model = self.model()
        done = model.run(torch.from_numpy(rows()))
        error = (done.rows - done.rebuilt).square().sum(1).mean()
        of_latents, of_quantised = torch.autograd.grad(error, [done.residuals[0], done.quantised])
        assert torch.equal(of_latents, of_quantised)
        assert of_latents.any()

    def test_gradients_stay_on_their_side(self) -> None:
        model = self.model()
        done = model.run(torch.from_numpy(rows()))
        terms = model.terms(done, torch.arange(200))
        books, encoder = list(model.codebooks), list(model.encoder.parameters())
        both = books + encoder
        of_codebook = torch.autograd.grad(terms["codebook"], both, allow_unused=True, retain_graph=True)
        of_commitment = torch.autograd.grad(terms["commitment"], both, allow_unused=True, retain_graph=True)
        assert all(g is not None and g.any() for g in of_codebook[: len(books)])
        assert all(g is None or not g.any() for g in of_codebook[len(books) :])
        assert all(g is None or not g.any() for g in of_commitment[: len(books)])
        assert of_commitment[-1] is not None
        of_rebuilt = torch.autograd.grad(terms["reconstruction"], books, allow_unused=True)
        assert all(g is None for g in of_rebuilt)

    def test_identity_of_the_latent(self) -> None:
        done = self.model().run(torch.from_numpy(rows()))
        left = done.residuals[-1] - done.chosen[-1]
        total = torch.stack(list(done.chosen)).sum(0)
        assert_allclose((total + left).detach(), done.residuals[0].detach(), atol=1e-5)
        assert_allclose(done.quantised.detach(), total.detach(), atol=1e-5)

    def test_reconstruction_is_a_sum_over_columns(self) -> None:
        model = self.model()
        done = model.run(torch.from_numpy(rows()))
        expected = ((done.rows - done.rebuilt) ** 2).mean() * 10
        assert model.terms(done, torch.arange(200))["reconstruction"].item() == pytest.approx(expected.item())

    def test_training_lowers_the_loss(self) -> None:
        short, long = (fitted("rqvae").notes, rqvae.fit(
            rows(), EVERYTHING, RQVAESettings(**{**SMALL, "epochs": 30}), generator(), show_progress=False
        ).notes)  # fmt: skip
        assert long["reconstruction"] < 0.9 * short["reconstruction"]

    def test_dead_codes_come_back(self) -> None:
        model = self.model()
        with torch.no_grad():
            model.codebooks[1][2:] = 1e3
        counts = torch.ones(3, 8, dtype=torch.int64)
        counts[1, 2:] = 0
        before = [book.detach().clone() for book in model.codebooks]
        assert model.restart(torch.from_numpy(rows()), counts, generator()) == 6
        assert torch.equal(model.codebooks[0], before[0])
        assert torch.equal(model.codebooks[1][:2], before[1][:2])
        assert model.codebooks[1].detach().abs().max() < 100

    def test_a_constant_column_does_no_harm(self) -> None:
        flat = rows()
        flat[:, 3] = 0.7
        flat[:, 4] *= 1e-30
        made = rqvae.fit(flat, EVERYTHING, RQVAESettings(**SMALL), generator(), show_progress=False)
        assert np.isfinite(made.quantiser.decode(made.quantiser.encode(flat))).all()
        assert len(np.unique(made.quantiser.encode(flat)[:, 0])) > 4


class TestProduct:
    def test_a_part_of_the_vector_decides_its_code_alone(self) -> None:
        quantiser = fitted("pq").quantiser  # ten columns and two of zeros in four parts
        changed = rows()
        changed[:, :3] = 0
        before, after = quantiser.encode(rows()), quantiser.encode(changed)
        assert (before[:, 1:] == after[:, 1:]).all()
        assert (before[:, 0] != after[:, 0]).any()

    def test_rotation_is_orthogonal_and_loses_less(self) -> None:
        mixed = rows() @ np.diag(np.linspace(0.1, 3, 10)).astype(np.float32)
        lost = []
        for rotate in (False, True):
            settings = product.ProductSettings(levels=5, size=8)
            made = product.fit(mixed, EVERYTHING, settings, generator(), rotate=rotate).quantiser
            assert isinstance(made, product.ProductQuantiser)
            assert_allclose(made.matrix @ made.matrix.T, np.eye(10), atol=1e-4)
            lost.append(np.square(made.decode(made.encode(mixed)) - mixed).sum())
        assert lost[1] < lost[0]

    def test_principal_components_come_first(self) -> None:
        settings = product.ProductSettings(levels=2, size=8, pca=4)
        made = product.fit(rows(), EVERYTHING, settings, generator(), rotate=True).quantiser
        assert isinstance(made, product.ProductQuantiser)
        assert made.matrix.shape == (4, 10)
        assert made.decode(made.encode(rows())).shape == (200, 10)

    def test_refuses_what_it_cannot_do(self) -> None:
        for settings, words in (({"size": 10}, "power of two"), ({"levels": 11, "size": 8}, "at most 10")):
            with pytest.raises(ConfigError, match=words):
                product.fit(
                    rows(), EVERYTHING, product.ProductSettings(**settings), generator(), rotate=False
                )
