"""Pictures from outside: measured before they are decoded."""

from __future__ import annotations

import base64
import binascii
import io
from typing import TYPE_CHECKING

from mmrec.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def read_image(text: str, most_pixels: int) -> Image.Image:
    """A picture in base64; its first frame where it has several.

    Args:
        text: Base64, perhaps with ``data:image/…;base64,`` before it.
        most_pixels: Width times height that it may have; read from its header before anything is decoded.

    Raises:
        DataError: No picture, or too large a one.
    """
    from PIL import Image

    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise DataError("image in base64", "other characters", "encode the file's bytes") from None
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)  # reads the header alone
        if picture.width * picture.height > most_pixels:
            raise DataError(
                f"a picture of at most {most_pixels:,} pixels",
                f"{picture.width:,} × {picture.height:,}",
                "send a smaller one",
            )
        return picture.convert("RGB")
    except Image.DecompressionBombError:
        raise DataError(
            f"a picture of at most {most_pixels:,} pixels", "more", "send a smaller one"
        ) from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        reason = type(error).__name__
        raise DataError(
            f"a picture ({', '.join(FORMATS)})", reason, "send the bytes of an image file"
        ) from None
