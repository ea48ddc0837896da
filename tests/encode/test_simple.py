from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmrec.encode.encoders import EncoderOptions
from mmrec.encode.simple import HistogramEncoder, TfidfEncoder
from mmrec.errors import ConfigError, FeatureError, NotFittedError


def test_tfidf_puts_texts_with_common_words_together() -> None:
    texts = ["red ship at night", "red ship by night", "cat and dog", "dog and cat"]
    encoder = TfidfEncoder(EncoderOptions(dim=3))
    encoder.fit(texts)
    vectors = encoder.encode([*texts, "zebra"])
    similarity = vectors @ vectors.T
    assert vectors.shape == (5, 3)
    assert similarity[0, 1] > 0.6
    assert similarity[2, 3] > 0.99  # word order is not seen
    assert abs(similarity[0, 2]) < 0.1
    assert not vectors[4].any()  # no known word: nothing to say


def test_tfidf_is_as_wide_as_the_corpus_allows() -> None:
    encoder = TfidfEncoder(EncoderOptions(dim=128))
    encoder.fit(["red ship", "blue ship", "red sea"])
    assert encoder.encode(["red"]).shape == (1, 3)


def test_tfidf_needs_words_and_a_fit() -> None:
    encoder = TfidfEncoder(EncoderOptions())
    with pytest.raises(NotFittedError):
        encoder.encode(["red"])
    with pytest.raises(FeatureError, match="two different words"):
        encoder.fit(["red", "red", "red"])
    with pytest.raises(FeatureError, match="two different words"):
        encoder.fit(["...", "!"])
    with pytest.raises(ConfigError, match="transformers encoder"):
        TfidfEncoder(EncoderOptions(pooling="last"))


def picture(array: list[object] | np.ndarray) -> Image.Image:
    return Image.fromarray(np.asarray(array, dtype=np.uint8))


def test_histogram_of_plain_colours() -> None:
    red, blue = (picture(np.full((20, 30, 3), colour)) for colour in ([250, 0, 0], [0, 0, 250]))
    vectors = HistogramEncoder(EncoderOptions(modality="image", normalize=False)).encode([red, blue])
    assert vectors.shape == (2, 192)
    assert np.flatnonzero(vectors[0]).tolist() == [3 * 16]  # red level 3 of 0..3, no green, no blue, no edges
    assert np.flatnonzero(vectors[1]).tolist() == [3]
    np.testing.assert_array_equal(vectors.max(axis=1), 1)


def test_histogram_tells_edge_directions_apart_but_not_their_sign() -> None:
    stripes = np.repeat(np.arange(64) // 8 % 2 * 255, 64 * 3).reshape(64, 64, 3)
    across, down, negative = stripes, stripes.transpose(1, 0, 2), 255 - stripes
    encoder = HistogramEncoder(EncoderOptions(modality="image"))
    vectors = encoder.encode([picture(p) for p in (across, down, negative)])
    edges = vectors[:, 64:]
    assert edges[0] @ edges[1] < 0.01
    np.testing.assert_allclose(edges[0], edges[2], atol=1e-6)


def test_histogram_of_one_picture_does_not_depend_on_the_batch() -> None:
    generator = np.random.default_rng(0)
    pictures = [picture(generator.integers(0, 256, (40, 50, 3))) for _ in range(4)]
    encoder = HistogramEncoder(EncoderOptions(modality="image"))
    together = encoder.encode(pictures)
    np.testing.assert_array_equal(together[2], encoder.encode([pictures[2]])[0])
