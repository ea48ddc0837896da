"""What every codec keeps to, and what each does to numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from mmrec.compress.codec import load_codec, save_codec
from mmrec.compress.scalar import Floats, Int8
from mmrec.errors import ConfigError, FeatureError, NotFittedError
from mmrec.runs import save_tensors
from tests.compress.vectors import D, codecs, world

BYTES = {
    "float32": 80,
    "bfloat16": 40,
    "int8 vector": 24,
    "int8 dimension": 20,
    "random 2": 13,
    "binary 0": 7,
    "binary 1": 10,
    "binary 2": 13,
    "binary 3": 16,
    "bebr 1": 10,
}


@pytest.mark.parametrize("name", BYTES)
class TestEveryCodec:
    def test_a_row_of_codes_is_all_there_is_of_an_item(self, name: str) -> None:
        codec, (items, queries) = codecs()[name], world()
        codes = codec.encode(items)
        assert codes.dtype == np.uint8
        assert codes.shape == (len(items), BYTES[name]) == (len(items), codec.bytes_per_item)
        order = np.random.default_rng(1).permutation(len(items))
        assert_array_equal(codec.encode(items[order]), codes[order])
        assert_allclose(
            codec.scores(queries, codes[7:9]), codec.scores(queries, codes)[:, 7:9], rtol=1e-4, atol=1e-5
        )
        assert codec.encode(items[:0]).shape == (0, BYTES[name])
        assert codec.scores(queries, codes[:0]).shape == (len(queries), 0)

    def test_symmetric_scores_are_products_of_decoded_vectors(self, name: str) -> None:
        codec, (items, queries) = codecs()[name], world()
        codes, packed = codec.encode(items), codec.encode(queries)
        naive = codec.decode(packed) @ codec.decode(codes).T
        assert_allclose(codec.symmetric_scores(packed, codes), naive, rtol=1e-5, atol=1e-5)

    def test_asymmetric_scores_take_the_query_as_it_is(self, name: str) -> None:
        codec, (items, queries) = codecs()[name], world()
        codes = codec.encode(items)
        naive = queries @ codec.decode(codes).T
        assert_allclose(codec.scores(queries, codes), naive, rtol=1e-4, atol=1e-5)

    def test_vectors_of_zeros_score_zero(self, name: str) -> None:
        codec = codecs()[name]
        codes = codec.encode(np.zeros((2, D), dtype=np.float32))
        assert not codec.scores(world()[1], codes).any()
        assert not codec.decode(codes).any()

    def test_saved_and_loaded(self, name: str, tmp_path: Path) -> None:
        codec, (items, queries) = codecs()[name], world()
        save_codec(codec, tmp_path / "codec.safetensors")
        again = load_codec(tmp_path / "codec.safetensors")
        codes = codec.encode(items)
        assert_array_equal(again.encode(items), codes)
        assert_array_equal(again.scores(queries, codes), codec.scores(queries, codes))

    def test_refuses_other_widths_other_codes_and_infinities(self, name: str) -> None:
        codec, (items, queries) = codecs()[name], world()
        codes = codec.encode(items[:5])
        with pytest.raises(FeatureError, match="vectors \\(n, 20\\)"):
            codec.encode(items[:, :-1])
        for wrong in (codes[:, :-1], codes.astype(np.int64)):
            for use in (
                codec.decode,
                lambda c: codec.scores(queries, c),
                lambda c: codec.symmetric_scores(c, codes),
            ):
                with pytest.raises(FeatureError, match="uint8"):
                    use(wrong)
        bad = items[:5].copy()
        bad[3, 2] = np.nan
        with pytest.raises(FeatureError, match="the first is 3"):
            codec.encode(bad)
        with pytest.raises(FeatureError, match="finite"):
            codec.encode(np.full((1, D), 1e300))


class TestFiles:
    def test_an_unknown_kind_and_a_damaged_file(self, tmp_path: Path) -> None:
        file = tmp_path / "codec.safetensors"
        save_tensors(file, {}, {"kind": "binry"})
        with pytest.raises(ConfigError, match="did you mean 'binary'"):
            load_codec(file)
        file.write_bytes(file.read_bytes()[:-3])
        with pytest.raises(NotFittedError):
            load_codec(file)


class TestFloats:
    def test_bfloat16_rounds_like_torch_and_float32_not_at_all(self) -> None:
        items, _ = world()
        rounded = torch.tensor(items).bfloat16().float().numpy()
        assert_array_equal(Floats(D).decode(Floats(D).encode(items)), rounded)
        assert (rounded != items).any()
        assert_array_equal(codecs()["float32"].decode(codecs()["float32"].encode(items)), items)

    def test_refuses_another_precision(self) -> None:
        with pytest.raises(ConfigError, match="precision"):
            Floats(4, "float16")  # type: ignore[arg-type]


class TestInt8:
    def test_by_hand(self) -> None:
        rows = np.array([[127.0, -63.5, 0.6], [1.0, 0.5, 0.0]])
        own = Int8.fit(rows)
        assert own.encode(rows)[:, :3].view(np.int8).tolist() == [[127, -64, 1], [127, 64, 0]]
        assert_allclose(own.decode(own.encode(rows)), [[127, -64, 1], [1, 64 / 127, 0]], rtol=1e-6)
        each = Int8.fit(rows, "dimension")
        assert each.encode(rows).view(np.int8).tolist() == [[127, -127, 127], [1, 1, 0]]
        assert each.encode(2 * rows).view(np.int8)[0].tolist() == [127, -127, 127]  # cut off

    @pytest.mark.parametrize("name", ["int8 vector", "int8 dimension"])
    def test_off_by_half_a_level_at_most(self, name: str) -> None:
        items, _ = world()
        codec = codecs()[name]
        level = np.abs(items).max(axis=1 if name == "int8 vector" else 0, keepdims=True) / 127
        assert (np.abs(codec.decode(codec.encode(items)) - items) <= 0.5001 * level).all()

    def test_refuses_another_scale(self) -> None:
        with pytest.raises(ConfigError, match="scale"):
            Int8.fit(world()[0], "item")  # type: ignore[arg-type]
