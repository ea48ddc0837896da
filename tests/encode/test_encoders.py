from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmrec.encode.encoders import EncoderOptions, choose_encoder, list_encoders, unit_rows
from mmrec.errors import ConfigError, FeatureError
from tests.encode.slow_encoder import NAME, SlowEncoder


def test_builtin_names_are_listed_and_made() -> None:
    listed = {encoder["name"]: encoder["modality"] for encoder in list_encoders()}
    assert listed["tfidf"] == "text"
    assert listed["histogram"] == "image"
    for name, modality in (("tfidf", "text"), ("histogram", "image")):
        made = choose_encoder(name, EncoderOptions(modality=modality))
        assert made.modality == modality
        assert "pretrained" in made.describe()["note"]  # they say that they are weak


def test_an_import_path_is_called_with_the_options() -> None:
    made = choose_encoder(NAME, EncoderOptions(prompt="about: "))
    assert isinstance(made, SlowEncoder)
    assert made.describe()["prompt"] == "about: "


@pytest.mark.parametrize("name", ["tests.encode.slow_encoder:Nothing", "no_such_package.encoders:Best"])
def test_import_paths_that_do_not_exist(name: str) -> None:
    with pytest.raises(ConfigError, match="an import path"):
        choose_encoder(name, EncoderOptions())


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "~/no-such-folder", "a/b/c", "", "../x"])
def test_folders_that_do_not_exist_never_reach_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # relative names must not meet what lies about here
    with pytest.raises(FeatureError, match="without any model use: tfidf, histogram"):
        choose_encoder(name, EncoderOptions())


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match=r"config\.json"):
        choose_encoder(str(tmp_path), EncoderOptions())
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(FeatureError, match="give the folder"):
        choose_encoder(str(tmp_path / "weights.bin"), EncoderOptions())


def test_an_encoder_of_another_modality_names_those_that_fit() -> None:
    with pytest.raises(FeatureError, match=r"encodes 'text'[\s\S]*histogram"):
        choose_encoder("tfidf", EncoderOptions(modality="image"))


@pytest.mark.parametrize(
    "options",
    [
        {"modality": "smell"},
        {"pooling": "max"},
        {"precision": "float8"},
        {"dim": 0},
        {"max_length": 1},
        {"modality": "image", "prompt": "a photo of "},
        {"modality": "image", "pooling": "cls"},
    ],
)
def test_options_out_of_range(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        EncoderOptions(**options)


def test_unit_rows_keep_zeros_and_tiny_values() -> None:
    rows = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 1e-13]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0], [0, 1]], rtol=1e-6)
