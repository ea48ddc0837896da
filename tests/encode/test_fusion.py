"""Fusion of modalities: on the sphere, by components and correlations, by gates, by ranks, and what absence means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose
from scipy.linalg import svd

from mmrec.data.dataset import Dataset
from mmrec.encode.absent import fill_absent
from mmrec.encode.features import FeatureTable, write_features
from mmrec.encode.fusion import fuse, fuse_tables, standardize
from mmrec.encode.gated import GatedFusion
from mmrec.encode.spherical import slerp, spherical_bezier, unit
from mmrec.encode.subspaces import CCA, PCA
from mmrec.errors import ConfigError, FeatureError
from tests.command_line import make_command
from tests.small_shop import make_small_shop


def units(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def views(n: int = 60, seed: int = 0) -> list[np.ndarray]:
    """Three views of widths 4, 3 and 5 that share two hidden factors."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 2))
    return [hidden @ rng.normal(size=(2, d)) + 0.7 * rng.normal(size=(n, d)) for d in (4, 3, 5)]


def tables(absent: dict[str, list[int]] | None = None, n: int = 60) -> list[FeatureTable]:
    made = []
    for modality, view in zip(("text", "image", "audio"), views(n), strict=True):
        present = np.ones(n, dtype=bool)
        present[(absent or {}).get(modality, [])] = False
        vectors = np.where(present[:, None], view, 0).astype(np.float32)
        made.append(FeatureTable(f"{modality}-x", modality, vectors, present))
    return made


class TestSphere:
    def test_unit_vectors_and_their_gradient(self) -> None:
        vectors = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
        torch.testing.assert_close(unit(vectors), F.normalize(vectors, dim=-1))
        assert torch.autograd.gradcheck(unit, (vectors,))

    def test_zero_has_no_direction_and_a_finite_gradient(self) -> None:
        zero = torch.zeros(1, 3, requires_grad=True)
        result = unit(zero)
        assert not result.any()
        result.sum().backward()
        assert zero.grad is not None and zero.grad.isfinite().all()

    def test_points_are_unit_and_on_the_great_circle(self) -> None:
        one, two = units(50, 6), units(50, 6, seed=1)
        share = torch.rand(50, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        point = slerp(one, two, share)
        angle = torch.arccos((one * two).sum(1))
        assert_allclose(point.norm(dim=1), np.ones(50), atol=1e-12)
        assert_allclose(torch.arccos((point * one).sum(1)), (1 - share) * angle, atol=1e-7)
        assert_allclose(torch.arccos((point * two).sum(1)), share * angle, atol=1e-7)

    def test_ends_and_swap(self) -> None:
        one, two = units(20, 5), units(20, 5, seed=1)
        assert_allclose(slerp(one, two, 1.0), one, atol=1e-12)
        assert_allclose(slerp(one, two, 0.0), two, atol=1e-12)
        assert_allclose(slerp(one, two, 0.3), slerp(two, one, 0.7), atol=1e-12)

    @pytest.mark.parametrize("kind", [torch.float32, torch.float64])
    @pytest.mark.parametrize("step", [0.0, 1e-9, 1e-7, 1e-5, 1e-4, 3e-4, 1e-2])
    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
    def test_equal_and_opposite_directions(
        self, kind: torch.dtype, step: float, sign: int, share: float
    ) -> None:
        one = units(8, 6).to(kind).requires_grad_()
        nearby = sign * F.normalize(units(8, 6) + step * units(8, 6, seed=3), dim=1)
        two = nearby.to(kind).requires_grad_()
        point = slerp(one, two, share)
        assert_allclose(point.detach().norm(dim=1), np.ones(8), atol=1e-6)
        if sign > 0:
            assert (point * one).sum(1).min() > 1 - 2 * step**2 - 1e-6
        point.pow(3).sum().backward()
        for gradient in (one.grad, two.grad):
            assert gradient is not None
            assert gradient.abs().max() < 1e6

    def test_gradients(self) -> None:
        one, two = units(4, 3).requires_grad_(), units(4, 3, seed=1).requires_grad_()
        share = torch.full((4,), 0.3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(slerp, (one, two, share))

    @pytest.mark.parametrize("n", [1, 2, 3, 5])
    def test_bezier_starts_and_ends_at_its_outer_points(self, n: int) -> None:
        points = units(9, n, 4)
        assert_allclose(spherical_bezier(points, 0.0), points[:, 0], atol=1e-12)
        assert_allclose(spherical_bezier(points, 1.0), points[:, -1], atol=1e-12)
        assert_allclose(spherical_bezier(points, 0.4).norm(dim=1), np.ones(9), atol=1e-12)
        assert_allclose(spherical_bezier(points.flip(1), 0.6), spherical_bezier(points, 0.4), atol=1e-12)

    def test_bezier_of_three_points_by_hand(self) -> None:
        a, b, c = units(3, 4)
        expected = slerp(slerp(a, b, 0.7), slerp(b, c, 0.7), 0.7)
        assert_allclose(spherical_bezier(torch.stack([a, b, c]), 0.3), expected, atol=1e-12)

    def test_one_position_for_each_row(self) -> None:
        points = units(3, 3, 4)
        positions = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
        together = spherical_bezier(points, positions)
        for row in range(3):
            assert_allclose(together[row], spherical_bezier(points[row], float(positions[row])), atol=1e-12)

    def test_equal_points_stay(self) -> None:
        point = units(1, 4).expand(3, 4)
        assert_allclose(spherical_bezier(point, 0.5), point[0], atol=1e-12)


class TestPCA:
    def test_equals_the_singular_value_decomposition(self) -> None:
        rows = views()[2]
        fit = PCA.fit(rows, 3)
        centred = rows - rows.mean(0)
        left, spread, _ = svd(centred, full_matrices=False)
        assert_allclose(np.abs(fit.transform(rows)), np.abs(left * spread)[:, :3], atol=1e-10)
        assert_allclose(fit.shares, (spread**2 / (spread**2).sum())[:3])

    def test_keeps_the_share_of_the_variance_asked_for(self) -> None:
        rows = np.diag([3.0, 2.0, 1.0]) @ np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
        rows = np.concatenate([rows, -rows])  # shares 9/14, 4/14, 1/14
        assert [PCA.fit(rows, size).shares.shape[0] for size in (0.5, 0.9, 0.95)] == [1, 2, 3]

    def test_never_more_components_than_the_rank(self) -> None:
        assert PCA.fit(np.outer(np.arange(5.0), np.ones(4)), 4).directions.shape == (4, 1)
        with pytest.raises(ConfigError, match="differ"):
            PCA.fit(np.ones((5, 3)), 2)
        with pytest.raises(ConfigError, match="above 0"):
            PCA.fit(views()[0], 0)


class TestCCA:
    def test_two_views_equal_the_textbook(self) -> None:
        one, two = views()[:2]
        fit = CCA.fit([one, two], reg=0.0)
        bases = [np.linalg.qr(view - view.mean(0))[0] for view in (one, two)]
        expected = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
        assert_allclose(fit.correlations, expected, atol=1e-10)
        variates = fit.transform([one, two])
        for component, correlation in enumerate(expected):
            pair = np.corrcoef(variates[0][:, component], variates[1][:, component])
            assert pair[0, 1] == pytest.approx(correlation, abs=1e-9)

    @pytest.mark.parametrize("n_views", [2, 3])
    def test_correlations_are_sorted_shares_invariant_to_linear_maps(self, n_views: int) -> None:
        rng = np.random.default_rng(1)
        chosen = views()[:n_views]
        found = CCA.fit(chosen, reg=0.0).correlations
        assert (found >= 0).all() and (found <= 1).all()
        assert (np.diff(found) <= 0).all()
        assert found[0] > found[-1]
        mapped = [view @ rng.normal(size=(view.shape[1],) * 2) + rng.normal() for view in chosen]
        assert_allclose(CCA.fit(mapped, reg=0.0).correlations, found, atol=1e-8)

    def test_three_views_have_the_largest_eigenvalue_of_their_correlations(self) -> None:
        fit = CCA.fit(views(), reg=0.0)
        first = np.stack([view[:, 0] for view in fit.transform(views())])
        largest = np.linalg.eigvalsh(np.corrcoef(first))[-1]
        assert (largest - 1) / 2 == pytest.approx(fit.correlations[0], abs=1e-9)

    def test_copies_correlate_fully_and_strangers_little(self) -> None:
        view = views(500)[0]
        assert_allclose(CCA.fit([view, view @ np.diag([1, 2, 3, 4.0])], reg=0.0).correlations, 1, atol=1e-9)
        stranger = np.random.default_rng(5).normal(size=(500, 3))
        assert CCA.fit([view, stranger], reg=0.0).correlations[0] < 0.25

    def test_regularisation_tames_more_columns_than_items(self) -> None:
        rng = np.random.default_rng(0)
        wide = [rng.normal(size=(12, 40)) for _ in range(2)]
        assert CCA.fit(wide, reg=0.0).correlations[0] == pytest.approx(1)
        assert CCA.fit(wide, reg=10.0).correlations[0] < 0.5

    def test_refuses_what_it_cannot_fit(self) -> None:
        with pytest.raises(ConfigError, match="two or more views"):
            CCA.fit(views()[:1])
        with pytest.raises(ConfigError, match="vary"):
            CCA.fit([views()[0], np.ones((60, 2))])


class TestAbsent:
    def test_zero_and_mean(self) -> None:
        view, present = np.arange(8.0).reshape(4, 2), np.array([True, False, True, True])
        other, everything = np.ones((4, 1)), np.ones(4, dtype=bool)
        fitted = np.array([True, True, True, False])
        masks = [present, everything]
        assert fill_absent([view, other], masks, "zero", fitted)[0][1].tolist() == [0, 0]
        assert fill_absent([view, other], masks, "mean", fitted)[0][1].tolist() == [2, 3]
        assert (fill_absent([view, other], masks, "mean", fitted)[0][present] == view[present]).all()

    def test_neighbours_are_those_near_by_what_both_have(self) -> None:
        rng = np.random.default_rng(0)
        block = np.repeat([0, 1], 15)
        text = np.eye(2)[block] + 0.05 * rng.normal(size=(30, 2))
        image = np.stack([10.0 * block, np.ones(30)], axis=1)
        present = np.ones(30, dtype=bool)
        present[[3, 20]] = False
        everything = np.ones(30, dtype=bool)
        filled = fill_absent([text, image], [everything, present], "neighbours", everything)[1]
        assert filled[3].tolist() == [0, 1]
        assert filled[20].tolist() == [10, 1]

    @pytest.mark.parametrize("policy", ["zero", "mean", "neighbours"])
    def test_an_item_without_anything_stays_zero(self, policy: str) -> None:
        parts = tables({"text": [4, 5], "image": [4, 6], "audio": [4]})
        filled = fill_absent(
            [t.vectors for t in parts], [t.present for t in parts], policy, np.ones(60, dtype=bool)
        )
        assert all(not rows[4].any() for rows in filled)
        assert all(np.isfinite(rows).all() for rows in filled)

    def test_unknown_policy(self) -> None:
        with pytest.raises(ConfigError, match="neighbours"):
            fuse_tables(tables(), "concat", np.ones(60, dtype=bool), absent="guess")


class TestGated:
    @pytest.mark.parametrize("absent", ["skip", "learned"])
    def test_absent_content_never_acts(self, absent: Any) -> None:
        torch.manual_seed(0)
        model = GatedFusion({"text": 4, "image": 3}, 5, absent)
        features = {"text": torch.randn(6, 4), "image": torch.randn(6, 3)}
        present = {
            "text": torch.tensor([1, 1, 0, 0, 1, 1]).bool(),
            "image": torch.tensor([1, 0, 1, 0, 1, 1]).bool(),
        }
        fused = model(features, present)
        changed = {m: torch.where(present[m][:, None], x, 7.0) for m, x in features.items()}
        assert torch.equal(model(changed, present), fused)
        assert bool(fused[3].any()) == (absent == "learned")
        fused.pow(2).sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())

    def test_a_single_modality_is_its_own_map(self) -> None:
        model = GatedFusion({"text": 4, "image": 3}, 5)
        features = {"text": torch.randn(6, 4), "image": torch.zeros(6, 3)}
        present = {"text": torch.ones(6).bool(), "image": torch.zeros(6).bool()}
        assert_allclose(
            model(features, present).detach(), model.maps["text"](features["text"]).detach(), atol=1e-6
        )


class TestTables:
    @pytest.mark.parametrize("method", ["pca", "cca", "concat"])
    @pytest.mark.parametrize("absent", ["mean", "neighbours"])
    def test_items_outside_training_are_never_learned_from(self, method: str, absent: str) -> None:
        fitted = np.arange(60) < 40
        parts = tables({"text": [1, 50], "image": [2, 51]})
        before, _ = fuse_tables(parts, method, fitted, absent=absent)
        changed = []
        for table in parts:
            vectors = table.vectors.copy()
            vectors[45:] = 100 * np.random.default_rng(3).normal(size=vectors[45:].shape)
            vectors[~table.present] = 0
            changed.append(FeatureTable(table.name, table.modality, vectors, table.present))
        after, _ = fuse_tables(changed, method, fitted, absent=absent)
        assert_allclose(after[:45], before[:45])
        assert not np.allclose(after[45:], before[45:])

    def test_standardize(self) -> None:
        present, fitted = np.arange(60) != 7, np.arange(60) < 30
        scaled = standardize(views()[0], present, fitted)
        assert not scaled[7].any()
        assert_allclose(np.linalg.norm(scaled[present], axis=1), 1, atol=1e-6)
        assert np.abs(scaled[present & fitted].mean(0)).max() < 0.1

    @pytest.mark.parametrize(
        ("method", "width"), [("concat", 12), ("pca", 2), ("cca", 2), ("sum", 4), ("bezier", 4)]
    )
    def test_shapes_and_absent_items(self, method: str, width: int) -> None:
        parts = tables({"text": [3, 4], "image": [3], "audio": [3]})
        if method in ("sum", "bezier"):
            parts = [
                FeatureTable(t.name, t.modality, np.pad(t.vectors, ((0, 0), (0, 4)))[:, :4], t.present)
                for t in parts
            ]
        dim = 2 if method in ("pca", "cca") else None
        vectors, present = fuse_tables(parts, method, np.ones(60, dtype=bool), dim=dim)
        assert vectors.shape == (60, width)
        assert np.flatnonzero(~present).tolist() == [3]
        assert not vectors[3].any()
        assert vectors[4].any()

    def test_joined_variates_and_width_errors(self) -> None:
        vectors, _ = fuse_tables(tables(), "cca", np.ones(60, dtype=bool), join="concat")
        assert vectors.shape == (60, 9)
        with pytest.raises(FeatureError, match="one width"):
            fuse_tables(tables(), "sum", np.ones(60, dtype=bool))
        with pytest.raises(ConfigError, match="bezier"):
            fuse_tables(tables(), "average", np.ones(60, dtype=bool))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_small_shop(tmp_path_factory.mktemp("shop") / "shop")


class TestFolders:
    def test_written_once_and_refused_when_different(self, shop: Dataset) -> None:
        names = ["text-small", "image-small"]
        table = fuse(shop, names, "pca", name="both", dim=3, show_progress=False)
        assert table.modality == "joint"
        assert table.vectors.shape == (60, 3)
        either = np.logical_or(*(shop.features(name).present for name in names))
        assert table.present.tolist() == either.tolist()
        again = fuse(shop, names, "pca", name="both", dim=3, show_progress=False)
        assert again.hash == table.hash
        with pytest.raises(FeatureError, match="overwrite"):
            fuse(shop, names, "pca", name="both", dim=2)
        replaced = fuse(shop, names, "pca", name="both", dim=2, overwrite=True, show_progress=False)
        assert replaced.dim == 2

    def test_learns_from_the_training_items_of_the_split(self, shop: Dataset) -> None:
        train = shop.split().train
        cold = np.setdiff1d(np.arange(60), train.items)
        assert len(cold)
        source = shop.features("text-small")
        vectors = np.array(source.vectors)
        vectors[cold] *= 50
        vectors[cold] += 1
        folder = shop.path / "features" / "text-changed"
        write_features(folder, "text", vectors, np.array(source.present), {"encoder": "test"})
        one = fuse(shop, ["text-small", "image-small"], "pca", name="one", dim=3, show_progress=False)
        two = fuse(shop, ["text-changed", "image-small"], "pca", name="two", dim=3, show_progress=False)
        warm = np.unique(train.items)
        assert_allclose(one.vectors[warm], two.vectors[warm], atol=1e-5)

    def test_needs_two(self, shop: Dataset) -> None:
        with pytest.raises(ConfigError, match="two or more"):
            fuse(shop, ["text-small"], name="alone")

    def test_from_the_command_line(
        self, shop: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = make_command(monkeypatch, capsys)
        both = ("--fuse", "text-small", "--fuse", "image-small")
        done = run("encode", Path(shop.path), *both, "--method", "cca", "--name", "line", "--json")
        assert done.code == 0, done.err
        assert done.document["features"] == "line"
        assert done.document["modality"] == "joint"
        assert "line" in shop.feature_names()
