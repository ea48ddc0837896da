"""Picture files opened safely: whatever the file holds comes out as RGB or as the reason why not."""

from __future__ import annotations

import contextlib
import enum
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 89_478_485  # what PIL itself calls suspicious; 256 MiB decoded
ENOUGH = 512  # no image model of the field looks at more on the shorter side
MAX_ASPECT = 16  # of a longer strip only the middle is kept: resizing it would fill the memory

PREPROCESSING = (
    f"EXIF-turned, transparency over white, RGB, shorter side reduced towards {ENOUGH},"
    f" sides at most 1:{MAX_ASPECT}, at most {MAX_PIXELS} pixels"
)


class Reason(enum.IntEnum):
    """Why a picture is absent; OK where it is not."""

    OK = 0
    MISSING = 1
    UNREADABLE = 2
    TOO_LARGE = 3

    @property
    def words(self) -> str:
        """The reason in words, as in manifests."""
        return ("ok", "file missing", "unreadable", "too large")[self]


def open_picture(path: Path) -> tuple[Image | None, Reason]:
    """Read a picture file as RGB, reduced to what an encoder can use.

    Turned as its EXIF tag says, transparency over white, 16-bit scaled to 8. Never raises over the file.

    Returns:
        The picture and ``OK``, or None and the reason.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            image.draft(None, (ENOUGH, ENOUGH))  # JPEG only: decoded at 1/2, 1/4 or 1/8 where that is enough
            if image.width * image.height > MAX_PIXELS:
                return None, Reason.TOO_LARGE
            image.load()
            return _to_rgb(_cut_strip(ImageOps.exif_transpose(image))), Reason.OK
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None, Reason.MISSING
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError):
        return None, Reason.TOO_LARGE
    except (
        Exception
    ):  # the decoders raise a dozen kinds over damaged files, and one file must not stop the run
        return None, Reason.UNREADABLE


def _cut_strip(image: Image) -> Image:
    """The middle of a very long or very high picture."""
    width, height = image.size
    if width > MAX_ASPECT * height:
        left = (width - MAX_ASPECT * height) // 2
        image = image.crop((left, 0, left + MAX_ASPECT * height, height))
    elif height > MAX_ASPECT * width:
        top = (height - MAX_ASPECT * width) // 2
        image = image.crop((0, top, width, top + MAX_ASPECT * width))
    return image


def _to_rgb(image: Image) -> Image:
    """RGB, and small; palettes and 16-bit values cannot be averaged, so the mode comes first."""
    from PIL import Image as Images

    if image.mode.startswith("I") or image.mode == "F":
        image = _to_grey(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Images.alpha_composite(Images.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    factor = min(image.size) // ENOUGH
    return image.reduce(factor) if factor > 1 else image


def _to_grey(image: Image) -> Image:
    """8-bit greyscale from 16-bit, 32-bit or floating point, which PIL would cut off at 255."""
    from PIL import Image as Images

    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    top = values.max(initial=0.0)
    scale = (
        255.0
        if image.mode == "F" and top <= 1
        else 255.0 / 65535
        if top > 255 or ";16" in image.mode
        else 1.0
    )
    return Images.fromarray(np.clip(values * scale, 0, 255).astype(np.uint8))


@contextlib.contextmanager
def quiet_decoding() -> Iterator[None]:
    """Silence the decoders' warnings about odd files: these are counted instead."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
