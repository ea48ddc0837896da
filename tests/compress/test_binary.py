"""Binarisation: the grid, its bits, and what rotation, residual steps and training are worth."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from mmrec.compress import bebr
from mmrec.compress.bebr import BEBR, BEBRSettings, match
from mmrec.compress.binary import Binary, binarise, learn_rotation
from mmrec.compress.bits import Grid
from mmrec.compress.measure import compare_codecs
from mmrec.errors import ConfigError, FeatureError
from mmrec.losses import info_nce
from tests.compress.vectors import D, codecs, cosines, trained, world


def binarise_slowly(row: np.ndarray, residuals: int) -> list[float]:
    """The recurrence for one vector, a number at a time."""
    point = [1.0 if x >= 0 else -1.0 for x in row]
    for t in range(residuals):
        length = sum(x * x for x in point) ** 0.5
        left = [y - x / length for x, y in zip(point, row.tolist(), strict=True)]
        point = [x + 2.0 ** -(t + 1) * (1 if y >= 0 else -1) for x, y in zip(point, left, strict=True)]
    return point


class TestGrid:
    @pytest.mark.parametrize("residuals", range(4))
    def test_points_follow_the_recurrence(self, residuals: int) -> None:
        rows = world()[0][:50] / np.linalg.norm(world()[0][:50], axis=1, keepdims=True)
        points = binarise(rows, residuals)
        assert_array_equal(points, [binarise_slowly(row, residuals) for row in rows])

    @pytest.mark.parametrize("residuals", range(8))
    def test_every_dimension_takes_all_odd_multiples(self, residuals: int) -> None:
        step = 2.0**-residuals
        values = np.arange(-2 + step, 2, 2 * step, dtype=np.float32)
        assert len(values) == 2 ** (residuals + 1)
        points = np.stack([values, values[::-1], np.roll(values, 1)], axis=1)
        grid = Grid(3, residuals)
        codes = grid.pack(points, np.linalg.norm(points, axis=1))
        assert_array_equal(grid.points(codes), points)
        assert_allclose(grid.scales(codes), 1)
        if residuals <= 3:  # and vectors do reach all of them
            coded = codecs()[f"binary {residuals}"].encode(world()[0])
            assert_array_equal(np.unique(Grid(D, residuals).points(coded)), values)

    @pytest.mark.parametrize(("residuals", "dim"), tuple(product(range(4), (1, 8, 13, 16, 64, 96, 128))))
    def test_counted_bits_give_the_float_product_to_the_last_bit(self, residuals: int, dim: int) -> None:
        rng = np.random.default_rng(dim)
        rows = binarise(rng.normal(size=(60, dim)).astype(np.float32), residuals)
        grid = Grid(dim, residuals)
        codes = grid.pack(rows, rng.random(60).astype(np.float32))
        points, scales = grid.points(codes), grid.scales(codes)
        naive = (points[:7] @ points.T) * scales[:7, None] * scales
        assert_array_equal(grid.symmetric_scores(codes[:7], codes), naive)

    def test_many_blocks_are_as_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        codec, (items, queries) = codecs()["binary 2"], world()
        codes, packed = codec.encode(items), codec.encode(queries)
        whole = codec.symmetric_scores(packed, codes), codec.scores(queries, codes)
        for module in ("bits", "codec"):
            monkeypatch.setattr(f"mmrec.compress.{module}.BLOCK_ROWS", 100)
        assert_array_equal(codec.encode(items), codes)
        assert_array_equal(codec.symmetric_scores(packed, codes), whole[0])
        assert_allclose(codec.scores(queries, codes), whole[1], rtol=1e-5, atol=1e-5)


class TestBinary:
    def test_more_residual_steps_come_nearer_on_new_vectors(self) -> None:
        items, queries = world()
        means = []
        for residuals in range(6):
            codec = Binary.fit(items, np.random.default_rng(0), residuals=residuals)
            means.append(float(cosines(codec.decode(codec.encode(queries)), queries).mean()))
        assert (np.diff(means) > 0).all()
        assert means[0] > 0.75 and means[3] > 0.99

    def test_lengths_are_kept(self) -> None:
        items, codec = world()[0], codecs()["binary 1"]
        decoded = codec.decode(codec.encode(items))
        assert_allclose(np.linalg.norm(decoded, axis=1), np.linalg.norm(items, axis=1), rtol=1e-5)

    def test_learned_rotation_is_orthogonal_and_its_signs_keep_more(self) -> None:
        items, queries = world()
        units = items / np.linalg.norm(items, axis=1, keepdims=True)
        start = np.linalg.qr(np.random.default_rng(0).normal(size=(D, D)))[0]
        rotation = learn_rotation(units, start)
        assert_allclose(rotation @ rotation.T, np.eye(D), atol=1e-5)
        assert np.abs(units @ rotation.T).sum() > 1.02 * np.abs(units @ start.T).sum()
        table = compare_codecs(
            {
                r: Binary.fit(items, np.random.default_rng(0), residuals=0, rotation=r)
                for r in ("random", "itq")
            },
            items,
            queries,
        )
        assert table.recall[1] > table.recall[0]

    def test_refuses_options_it_does_not_have(self) -> None:
        with pytest.raises(ConfigError, match="rotation"):
            Binary.fit(world()[0], np.random.default_rng(0), rotation="pca")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="residuals"):
            Binary.fit(world()[0], np.random.default_rng(0), residuals=8)


class TestBEBR:
    @pytest.mark.parametrize("residuals", [0, 3])
    def test_untrained_it_is_the_codec_without_training(self, residuals: int) -> None:
        items, queries = world()
        plain = codecs()[f"binary {residuals}"]
        assert isinstance(plain, Binary)
        model = BEBR(D, BEBRSettings(residuals=residuals)).eval()
        model.rotation.copy_(torch.from_numpy(plain.rotation))
        codes = plain.encode(items)
        assert (
            model.encode(items)[:, :-4] == codes[:, :-4]
        ).mean() > 0.999  # products may round to other sides of 0
        assert_allclose(model.scores(queries, codes), plain.scores(queries, codes), rtol=1e-3, atol=1e-4)

    def test_target_of_the_own_code_is_info_nce(self) -> None:
        anchors, targets, negatives = (
            torch.randn(n, 6, generator=torch.Generator().manual_seed(n)) for n in (5, 5, 9)
        )
        soft = match(anchors, torch.cat([targets, negatives]), torch.eye(5, 14), 0.2)
        twin = torch.nn.functional.cross_entropy(
            torch.nn.functional.normalize(anchors, dim=1)
            @ torch.nn.functional.normalize(torch.cat([targets[:5], negatives]), dim=1).T
            / 0.2,
            torch.arange(5),
        )
        torch.testing.assert_close(soft, twin)
        torch.testing.assert_close(soft, info_nce(anchors, targets[:5], 0.2, negatives=negatives))

    def test_every_parameter_learns(self) -> None:
        model = trained(residuals=2, epochs=1)
        torch.manual_seed(0)
        fresh = BEBR(D, model.settings)
        still = [
            name
            for (name, mine), its in zip(model.named_parameters(), fresh.parameters(), strict=True)
            if name.endswith("layers.3.weight") and torch.equal(mine, its)
        ]
        assert not still

    def test_soft_targets_gain_recall_of_new_queries_and_info_nce_loses_some(self) -> None:
        table = compare_codecs(
            {
                "untrained": codecs()["binary 1"],
                "soft": trained(epochs=30),
                "info_nce": trained(epochs=30, teacher=0.0),
            },
            *world(),
        ).set_index("codec")
        for recall, gain in ((table.recall, 0.0), (table.symmetric_recall, 0.02)):
            assert recall["soft"] > recall["untrained"] + gain
            assert recall["info_nce"] < recall["untrained"] - 0.05

    def test_same_seed_same_bits_and_the_global_generator_is_left_alone(self) -> None:
        before = torch.get_rng_state()
        again = trained.__wrapped__()
        assert torch.equal(torch.get_rng_state(), before)
        one, two = trained().state_dict(), again.state_dict()
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert (trained.__wrapped__(seed=1).encode(world()[0]) != trained().encode(world()[0])).any()

    @pytest.mark.parametrize("size", [0, 3, 8])
    def test_the_queue_keeps_the_newest(self, size: int) -> None:
        queue = bebr._Queue(size, 1)
        for start in (0, 5, 10):
            rows = torch.arange(start, start + 5, dtype=torch.float32)[:, None]
            queue.push(rows, -rows)
        kept: list[Any] = queue.points[:, 0].tolist()
        assert len(kept) == size and (queue.units == -queue.points).all()
        assert all(point >= {0: 0, 3: 10, 8: 5}[size] for point in kept)

    def test_refuses_what_it_cannot_learn_from(self) -> None:
        with pytest.raises(FeatureError, match="two or more"):
            bebr.fit(np.zeros((5, 4)), BEBRSettings(), torch.Generator(), show_progress=False)
