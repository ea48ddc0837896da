from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmrec.encode.pictures import ENOUGH, Reason, open_picture, quiet_decoding


def opened(path: Path) -> np.ndarray:
    image, reason = open_picture(path)
    assert reason is Reason.OK
    assert image is not None
    assert image.mode == "RGB"
    return np.asarray(image)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_greyscale_and_bitmap(tmp_path: Path) -> None:
    grey = opened(save(tmp_path / "grey.png", Image.new("L", (8, 6), 77)))
    assert grey.shape == (6, 8, 3)
    assert (grey == 77).all()
    assert (opened(save(tmp_path / "bit.png", Image.new("1", (8, 6), 1))) == 255).all()


def test_cmyk_jpeg(tmp_path: Path) -> None:
    """Full cyan, nothing else: no red light."""
    pixels = opened(save(tmp_path / "cmyk.jpg", Image.new("CMYK", (16, 16), (255, 0, 0, 0))))
    np.testing.assert_allclose(pixels[8, 8], [0, 255, 255], atol=3)


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 1)
    pixels = opened(save(tmp_path / "palette.png", palette, transparency=0))
    assert pixels[0, 0].tolist() == [0, 0, 255]
    assert pixels[1, 1].tolist() == [255, 255, 255]
    half = opened(save(tmp_path / "half.png", Image.new("RGBA", (4, 4), (0, 0, 0, 128))))
    np.testing.assert_allclose(half[0, 0], [127, 127, 127], atol=1)
    assert opened(save(tmp_path / "la.png", Image.new("LA", (4, 4), (0, 0))))[0, 0].tolist() == [255] * 3
    assert opened(save(tmp_path / "gif.gif", palette, transparency=1))[0, 0].tolist() == [255] * 3


def test_palette_without_transparency(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 128, 255])
    assert opened(save(tmp_path / "p.png", palette))[0, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.full((4, 4), 32768, dtype=np.uint16), 127),
        (np.full((4, 4), 200, dtype=np.uint16), 0),  # nearly black in 16 bits
        (np.full((4, 4), 0.5, dtype=np.float32), 127),
        (np.full((4, 4), 65535, dtype=np.int32), 255),
    ],
)
def test_more_than_8_bits_are_scaled_not_cut_off(tmp_path: Path, values: np.ndarray, expected: int) -> None:
    pixels = opened(save(tmp_path / "deep.tiff", Image.fromarray(values)))
    assert pixels[0, 0].tolist() == [expected] * 3


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 10), "black")
    image.paste("white", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    pixels = opened(save(tmp_path / "turned.png", image, exif=exif))
    assert pixels.shape == (20, 10, 3)
    assert pixels[2, 5, 0] == 255
    assert pixels[17, 5, 0] == 0


def test_huge_pictures_are_reduced_but_not_below_what_models_use(tmp_path: Path) -> None:
    wide = Image.new("RGB", (3000, 2000), "red")
    for name in ("wide.jpg", "wide.png"):
        height, width, _ = opened(save(tmp_path / name, wide)).shape
        assert ENOUGH <= height < 2 * ENOUGH
        assert abs(width / height - 1.5) < 0.01
    assert opened(save(tmp_path / "small.png", wide.crop((0, 0, 600, 700)))).shape == (700, 600, 3)


def test_strips_keep_their_middle(tmp_path: Path) -> None:
    strip = Image.new("RGB", (4000, 1), "red")
    strip.paste("blue", (1990, 0, 2010, 1))
    pixels = opened(save(tmp_path / "strip.png", strip))
    assert pixels.shape == (1, 16, 3)
    assert (pixels[..., 2] == 255).all()
    assert opened(save(tmp_path / "high.png", Image.new("RGB", (2, 900)))).shape == (32, 2, 3)
    assert opened(save(tmp_path / "dot.png", Image.new("RGB", (1, 1)))).shape == (1, 1, 3)


def claim_size(png: bytes, width: int, height: int) -> bytes:
    """A PNG whose header claims another size."""
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + png[24:29]
    return png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:]


def test_decompression_bombs_are_not_decoded(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    limit = Image.MAX_IMAGE_PIXELS
    with quiet_decoding():
        for side in (10_000, 100_000):  # PIL only warns of the first and refuses the second
            (tmp_path / "bomb.png").write_bytes(claim_size(buffer.getvalue(), side, side))
            assert open_picture(tmp_path / "bomb.png") == (None, Reason.TOO_LARGE)
    assert limit == Image.MAX_IMAGE_PIXELS  # the process's own setting is left alone
    assert not recwarn.list


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    assert open_picture(tmp_path / "none.jpg") == (None, Reason.MISSING)
    assert open_picture(tmp_path) == (None, Reason.MISSING)
    for name, content in {
        "empty.jpg": b"",
        "page.jpg": b"<html>not found</html>",
        "x.png": b"\x89PNG\r\n\x1a\n",
    }.items():
        (tmp_path / name).write_bytes(content)
        assert open_picture(tmp_path / name) == (None, Reason.UNREADABLE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_damage_anywhere_is_survived(tmp_path: Path, kind: str) -> None:
    """Truncated and overwritten at seeded places: a picture or a reason comes back, never an exception."""
    buffer = io.BytesIO()
    Image.effect_noise((64, 48), 80).convert("RGB").save(buffer, kind)
    whole = buffer.getvalue()
    generator = np.random.default_rng(0)
    path = tmp_path / f"damaged.{kind.lower()}"
    path.write_bytes(whole[: len(whole) // 2])
    assert open_picture(path)[1] is Reason.UNREADABLE
    with quiet_decoding():
        for _ in range(40):
            damaged = bytearray(whole)
            for place in generator.integers(0, min(len(whole), 400), 4):
                damaged[place] = generator.integers(256)
            path.write_bytes(bytes(damaged))
            image, reason = open_picture(path)
            assert (image is None) == (reason is not Reason.OK)
