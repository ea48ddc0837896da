"""Readable words as features, with their vocabulary in the manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mmrec
from mmrec.encode.encoders import EncoderOptions
from mmrec.encode.shards import Workplace
from mmrec.encode.words import WordsEncoder
from mmrec.errors import ConfigError, FeatureError, NotFittedError
from tests.command_line import Command

TEXTS = ["The red ship and the sea", "red Ships, 2 oars: x", "cats and dogs", "dogs are 100mm long", "42"]


def test_columns_are_words_and_weights_are_never_negative() -> None:
    encoder = WordsEncoder(EncoderOptions())
    encoder.fit(TEXTS)
    words = encoder.learned()["vocabulary"]
    assert words == ["cats", "dogs", "long", "oars", "red", "sea", "ship", "ships"]  # no "the", "x", "42"
    weights = encoder.encode([*TEXTS, "zebra"])
    assert weights.shape == (6, 8)
    assert (weights >= 0).all()
    found = [{words[column] for column in np.flatnonzero(row)} for row in weights]
    assert found == [
        {"red", "sea", "ship"},
        {"oars", "red", "ships"},
        {"cats", "dogs"},
        {"dogs", "long"},
        set(),
        set(),
    ]
    np.testing.assert_allclose(np.linalg.norm(weights[:4], axis=1), 1, rtol=1e-6)
    assert weights[0, words.index("sea")] > weights[0, words.index("red")]  # the rarer one says more
    raw = WordsEncoder(EncoderOptions(normalize=False))
    raw.fit(TEXTS)
    assert np.linalg.norm(raw.encode(TEXTS[:1])) > 1.5


def test_the_most_frequent_words_stay() -> None:
    encoder = WordsEncoder(EncoderOptions(dim=2))
    encoder.fit(TEXTS)
    assert encoder.learned()["vocabulary"] == ["dogs", "red"]


def test_words_of_nearly_every_text_go() -> None:
    encoder = WordsEncoder(EncoderOptions())
    encoder.fit(["tea green", "tea black", "tea white", "coffee black"])
    assert "tea" not in encoder.learned()["vocabulary"]


def test_what_cannot_be_encoded() -> None:
    encoder = WordsEncoder(EncoderOptions())
    with pytest.raises(NotFittedError):
        encoder.encode(["red"])
    with pytest.raises(NotFittedError):
        encoder.learned()
    for texts in (["red", "the", "42"], ["...", "!"]):
        with pytest.raises(FeatureError, match="two different words"):
            encoder.fit(texts)
    with pytest.raises(ConfigError, match="transformers encoder"):
        WordsEncoder(EncoderOptions(prompt="about: "))


def test_the_manifest_holds_the_word_of_each_column(mmrec: Command, text_data: Callable[..., Path]) -> None:
    from mmrec.data.dataset import Dataset

    folder = text_data(60)
    shown = mmrec("encode", folder, "--encoder", "words", "--dim", 5, "--name", "text-words", "--json")
    assert shown.document["dim"] == 5
    dataset = Dataset(folder)
    table = dataset.features("text-words")
    assert table.vocabulary is not None
    assert len(table.vocabulary) == 5
    for row, text in enumerate(dataset.items["plot"]):
        own = {table.vocabulary[column] for column in np.flatnonzero(table.vectors[row])}
        assert own == set(text.split()) & set(table.vocabulary)


def test_a_run_killed_before_its_end_finds_the_words_again(
    text_data: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = text_data(60)
    finish = Workplace.finish

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Workplace, "finish", fail)
    with pytest.raises(KeyboardInterrupt):
        mmrec.encode(folder, encoder="words", show_progress=False)
    monkeypatch.setattr(Workplace, "finish", finish)
    resumed = mmrec.encode(folder, encoder="words", show_progress=False)
    whole = mmrec.encode(text_data(60, "other"), encoder="words", show_progress=False)
    assert resumed.vocabulary == whole.vocabulary
    assert len(resumed.vocabulary or []) == resumed.dim
