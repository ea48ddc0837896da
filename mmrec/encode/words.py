"""Item features that people can read: one column per word, with the words in the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrec.encode.encoders import EncoderOptions, unit_rows
from mmrec.errors import FeatureError, NotFittedError

WORDS = 2000  # unless --dim says otherwise
COMMON = 0.6  # a word in more than this share of the texts tells nothing


class WordsEncoder:
    """TF-IDF weights of the most frequent words, not reduced: never negative, mostly zero.

    Words are of two letters or more, without English function words, words of nearly every text and (in a corpus of
    100 texts or more) words of a single text. For models that explain themselves in words.

    Args:
        options: ``dim`` is the number of words at most, ``normalize``.
    """

    modality = "text"

    def __init__(self, options: EncoderOptions) -> None:
        options.refuse_transformer_settings("words")
        self._options = options
        self._words = options.dim or WORDS
        self._counts: Any = None

    def describe(self) -> dict[str, Any]:
        """Settings."""
        return {
            "name": "words",
            "revision": "1",
            "words": self._words,
            "common": COMMON,
            "stop_words": "english",
            "normalize": self._options.normalize,
        }

    def fit(self, inputs: Sequence[Any]) -> None:
        """Learn vocabulary and document frequencies; the same texts give the same state.

        Raises:
            FeatureError: The texts hold fewer than two different words to use.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        rarest = 2 if len(inputs) >= 100 else 1  # in a large corpus a word used once connects nothing
        counts = TfidfVectorizer(
            token_pattern=r"(?u)\b[^\W\d_]{2,}\b",
            strip_accents="unicode",
            stop_words="english",
            sublinear_tf=True,
            norm=None,
            min_df=rarest,
            max_df=COMMON,
            max_features=self._words,
            dtype=np.float32,
        )
        try:
            counts.fit(inputs)
        except ValueError:  # an empty vocabulary
            n_words = 0
        else:
            n_words = len(counts.vocabulary_)
        if n_words < 2:
            raise FeatureError(
                f"texts with two different words, each in {rarest} texts or more but not in nearly all",
                f"{len(inputs):,} texts without",
                "name other text columns with --fields",
            )
        self._counts = counts

    def learned(self) -> dict[str, Any]:
        """The word of each column."""
        return {"vocabulary": self._fitted().get_feature_names_out().tolist()}

    def encode(self, inputs: list[Any]) -> NDArray[np.float32]:
        """Encode texts ``(b, n_words)``; one without a known word gets zeros."""
        weights = np.asarray(self._fitted().transform(inputs).toarray(), dtype=np.float32)
        return unit_rows(weights) if self._options.normalize else weights

    def _fitted(self) -> Any:
        if self._counts is None:
            raise NotFittedError(
                "an encoder fitted to all texts", "words before fit", "call fit(texts) first"
            )
        return self._counts
