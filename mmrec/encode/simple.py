"""Encoders that need no model and no download. Weak: they see words and colours, not meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrec.encode.encoders import EncoderOptions, unit_rows
from mmrec.encode.pictures import PREPROCESSING
from mmrec.errors import FeatureError, NotFittedError

MAX_TERMS = 100_000
DIM = 128  # unless --dim says otherwise
SIDE = 64  # pictures are looked at in 64 x 64 pixels
LEVELS = 4  # per colour channel: 4 ** 3 colour bins
CELLS = 4  # 4 x 4 cells of gradients
ORIENTATIONS = 8


class TfidfEncoder:
    """TF-IDF of word counts, reduced by a truncated SVD that is fitted to all texts.

    Args:
        options: ``dim`` is the width asked for (a small corpus allows less), ``normalize``.
    """

    modality = "text"

    def __init__(self, options: EncoderOptions) -> None:
        options.refuse_transformer_settings("tfidf")
        self._options = options
        self._dim = options.dim or DIM
        self._counts: Any = None
        self._svd: Any = None

    def describe(self) -> dict[str, Any]:
        """Settings, and that the encoder is weak."""
        return {
            "name": "tfidf",
            "revision": "1",
            "max_terms": MAX_TERMS,
            "dim": self._dim,
            "normalize": self._options.normalize,
            "note": "tfidf compares words, not meaning, and knows this catalogue only: use it to start, "
            "and a pretrained --encoder for results",
        }

    def fit(self, inputs: Sequence[Any]) -> None:
        """Learn vocabulary, document frequencies and directions; the same texts give the same state.

        Raises:
            FeatureError: The texts hold fewer than two different words.
        """
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        rarest = 2 if len(inputs) >= 100 else 1  # in a large corpus a word used once connects nothing
        self._counts = TfidfVectorizer(
            token_pattern=r"(?u)\b\w+\b",
            strip_accents="unicode",
            sublinear_tf=True,
            min_df=rarest,
            max_features=MAX_TERMS,
            dtype=np.float32,
        )
        try:
            counts = self._counts.fit_transform(inputs)
        except ValueError:  # an empty vocabulary
            counts = None
        if counts is None or counts.shape[1] < 2:
            raise FeatureError(
                f"texts with two different words, each in {rarest} texts or more",
                f"{len(inputs):,} texts without",
                "name other text columns with --fields",
            )
        self._svd = TruncatedSVD(min(self._dim, *counts.shape), random_state=0).fit(counts)

    def encode(self, inputs: list[Any]) -> NDArray[np.float32]:
        """Encode texts; one without a known word gets zeros."""
        if self._svd is None:
            raise NotFittedError(
                "an encoder fitted to all texts", "tfidf before fit", "call fit(texts) first"
            )
        vectors = np.asarray(self._svd.transform(self._counts.transform(inputs)), dtype=np.float32)
        return unit_rows(vectors) if self._options.normalize else vectors


class HistogramEncoder:
    """Colours and edges of a picture: a joint RGB histogram beside oriented gradients in a grid of cells.

    Both halves are square roots of shares (so that the inner product is the Bhattacharyya coefficient).
    The width is 4³ + 4·4·8 = 192.

    Args:
        options: ``normalize``.
    """

    modality = "image"

    def __init__(self, options: EncoderOptions) -> None:
        self._options = options

    def describe(self) -> dict[str, Any]:
        """Settings, and that the encoder is weak."""
        return {
            "name": "histogram",
            "revision": "1",
            "preprocessing": f"{PREPROCESSING}; {SIDE} x {SIDE} pixels",
            "bins": {"levels": LEVELS, "cells": CELLS, "orientations": ORIENTATIONS},
            "normalize": self._options.normalize,
            "note": "histogram compares colours and edges, not what a picture shows: use it to start, "
            "and a pretrained --encoder for results",
        }

    def encode(self, inputs: list[Any]) -> NDArray[np.float32]:
        """Encode RGB pictures."""
        from PIL.Image import Resampling

        small = [picture.resize((SIDE, SIDE), Resampling.BOX) for picture in inputs]
        pixels = np.stack([np.asarray(picture, dtype=np.uint8) for picture in small])
        vectors = np.concatenate([_colours(pixels), _gradients(pixels)], axis=1)
        return unit_rows(vectors) if self._options.normalize else vectors


def _colours(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Share of each of the 4³ colours, as square roots ``(b, 64)``."""
    levels = pixels.astype(np.int64) * LEVELS // 256  # (b, 64, 64, 3)
    colour = (levels[..., 0] * LEVELS + levels[..., 1]) * LEVELS + levels[..., 2]
    return _shares(colour, np.ones(colour.shape), LEVELS**3)


def _gradients(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Share of each orientation in each cell, weighted by its strength, as square roots ``(b, 128)``."""
    grey = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    down, right = np.gradient(grey, axis=(1, 2))
    turn = np.arctan2(down, right) / np.pi % 1.0  # an edge and its negative are the same edge
    orientation = np.minimum((turn * ORIENTATIONS).astype(np.int64), ORIENTATIONS - 1)
    cell = np.arange(SIDE) * CELLS // SIDE
    cells = cell[:, None] * CELLS + cell[None, :]
    return _shares(cells * ORIENTATIONS + orientation, np.hypot(down, right), CELLS**2 * ORIENTATIONS)


def _shares(bins: NDArray[np.int64], weights: NDArray[np.floating[Any]], n_bins: int) -> NDArray[np.float32]:
    """Weighted histogram of each picture, summing to one, as square roots ``(b, n_bins)``."""
    offsets = np.arange(len(bins))[:, None, None] * n_bins
    sums = np.bincount((bins + offsets).ravel(), weights.ravel(), len(bins) * n_bins).reshape(-1, n_bins)
    return np.asarray(np.sqrt(sums / np.maximum(sums.sum(1, keepdims=True), 1e-12)), dtype=np.float32)
