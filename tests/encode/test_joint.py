from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmrec.encode.encoders import EncoderOptions, choose_encoder
from mmrec.encode.joint import JointEncoder
from mmrec.errors import FeatureError

Tiny = Callable[[str], Path]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_mean_of_both_towers_or_the_one_there_is(tiny: Tiny, kind: str, normalize: bool) -> None:
    folder = str(tiny(kind))
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(2)]
    text = choose_encoder(folder, EncoderOptions()).encode(["red dog", "night"])
    image = choose_encoder(folder, EncoderOptions(modality="image")).encode(images)
    joint = JointEncoder(folder, EncoderOptions(modality="joint", normalize=normalize))
    vectors = joint.encode([("red dog", images[0]), ("night", None), (None, images[1])])
    both = (text[0] + image[0]) / 2
    expected = np.stack([both / np.linalg.norm(both) if normalize else both, text[1], image[1]])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert joint.lengths(["red dog"]).tolist() == [4]


def test_one_tower_is_not_enough(tiny: Tiny) -> None:
    with pytest.raises(FeatureError, match="picture and a text tower"):
        JointEncoder(str(tiny("bert")), EncoderOptions(modality="joint"))
