from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmrec.encode.encoders import EncoderOptions, choose_encoder
from mmrec.encode.image import ImageEncoder, pooled_output
from mmrec.encode.pictures import open_picture
from mmrec.errors import FeatureError
from tests.shared import shared_data, shared_model

Tiny = Callable[[str], Path]
IMAGE = EncoderOptions(modality="image", normalize=False, precision="float32")


def pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (40 + n, 50, 3), dtype=np.uint8)) for n in range(3)]


@pytest.mark.parametrize("kind", ["vit", "dinov2", "mobilenet", "clip", "siglip"])
def test_pooled_output_against_the_model_itself(tiny: Tiny, kind: str) -> None:
    from transformers import AutoImageProcessor, AutoModel

    folder = tiny(kind)
    vectors = ImageEncoder(str(folder), IMAGE).encode(pictures())
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    model = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        batch = processor(pictures(), return_tensors="pt")
        output = model.get_image_features(**batch) if kind in ("clip", "siglip") else model(**batch)
    expected = getattr(output, "pooler_output", output).numpy()
    np.testing.assert_allclose(vectors, expected, rtol=1e-3, atol=np.abs(expected).max() * 1e-4)
    assert len(np.unique(vectors.round(12), axis=0)) == 3


def test_a_checkpoint_without_pooler_gives_the_class_token(tiny: Tiny) -> None:
    """The library draws random weights for a pooler that a classifier's checkpoint lacks."""
    from transformers import AutoImageProcessor, ViTForImageClassification

    folder = tiny("vit-classifier")
    vectors = ImageEncoder(str(folder), IMAGE).encode(pictures())
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    model = ViTForImageClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        states = model.vit(**processor(pictures(), return_tensors="pt")).last_hidden_state
    np.testing.assert_allclose(vectors, states[:, 0].numpy(), atol=1e-5)
    np.testing.assert_array_equal(vectors, ImageEncoder(str(folder), IMAGE).encode(pictures()))


def test_pooled_output_of_feature_maps() -> None:
    class Output:
        pooler_output = None
        last_hidden_state = torch.arange(8.0).reshape(1, 2, 2, 2)

    assert pooled_output(Output(), pooler_trained=True).tolist() == [[1.5, 5.5]]
    Output.pooler_output = torch.ones(1, 5, 1, 1)
    assert pooled_output(Output(), pooler_trained=True).shape == (1, 5)


@pytest.mark.parametrize("kind", ["vit", "mobilenet", "clip", "siglip", "dinov2"])
def test_odd_shapes_pass(tiny: Tiny, kind: str) -> None:
    odd = [
        Image.new("RGB", size, "red") for size in ((1, 1), (3, 1), (1, 3), (3, 3), (16, 1), (1, 16), (48, 3))
    ]
    vectors = choose_encoder(str(tiny(kind)), EncoderOptions(modality="image")).encode(odd)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-4)


def test_a_text_model_reads_no_pictures(tiny: Tiny) -> None:
    with pytest.raises(FeatureError, match=r"picture preprocessing(?s:.*)--modality text"):
        ImageEncoder(str(tiny("bert")), IMAGE)


@pytest.mark.slow
def test_mobilenet_on_posters() -> None:
    folder = shared_model("mobilenet-v2-1.0-224")
    posters = sorted((shared_data("ml100k") / "images").glob("*.jpg"))[:24]
    opened = [open_picture(poster)[0] for poster in posters]
    encoder = ImageEncoder(str(folder), EncoderOptions(modality="image", precision="float32"))
    vectors = encoder.encode(opened)
    assert vectors.shape == (24, 1280)
    brighter = [picture.point(lambda value: min(255, int(value * 1.1))) for picture in opened if picture]
    similarity = vectors @ encoder.encode(brighter).T
    assert (similarity.argmax(axis=1) == np.arange(24)).all()  # a poster knows itself again
