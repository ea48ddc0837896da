"""Pictures of things that do not exist, drawn for tests and screenshots."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageDraw

SIZE, SHARP = 240, 3  # drawn larger and made smaller, which smooths the edges
Colour = tuple[int, int, int]


class Draw:
    """Shapes of ImageDraw, enlarged."""

    def __init__(self, image: Image.Image) -> None:
        self._draw = ImageDraw.Draw(image)

    def __getattr__(self, shape: str) -> Callable[..., None]:
        def enlarged(*numbers: Any, **options: Any) -> None:
            width = {"width": options.pop("width") * SHARP} if "width" in options else {}
            getattr(self._draw, shape)(*_enlarge(numbers), **options, **width)

        return enlarged


def _enlarge(value: Any) -> Any:
    return tuple(_enlarge(part) for part in value) if isinstance(value, tuple) else value * SHARP


def _vase(draw: Draw, body: Colour, trim: Colour) -> None:
    for angle, length in ((-0.5, 80), (0.0, 95), (0.45, 78)):
        x, y = 120 + length * math.sin(angle), 125 - length * math.cos(angle)
        draw.line((120, 125, x, y), fill=(70, 130, 90), width=4)
        draw.ellipse((x - 15, y - 15, x + 15, y + 15), fill=trim)
    draw.ellipse((75, 115, 165, 212), fill=body)
    draw.rectangle((100, 102, 140, 135), fill=body)
    draw.rounded_rectangle((92, 96, 148, 110), 7, fill=trim)


def _lamp(draw: Draw, body: Colour, trim: Colour) -> None:
    draw.rectangle((116, 110, 124, 196), fill=(70, 70, 80))
    draw.polygon(((85, 42), (155, 42), (185, 122), (55, 122)), fill=body)
    draw.rectangle((55, 112, 185, 122), fill=trim)
    draw.rounded_rectangle((80, 192, 160, 206), 7, fill=(70, 70, 80))


def _mug(draw: Draw, body: Colour, trim: Colour) -> None:
    draw.ellipse((135, 90, 200, 165), outline=body, width=14)
    draw.rounded_rectangle((62, 70, 162, 190), 16, fill=body)
    draw.rectangle((62, 105, 162, 130), fill=trim)
    draw.ellipse((62, 60, 162, 84), fill=trim)
    draw.ellipse((72, 64, 152, 80), fill=(80, 50, 35))


def _chair(draw: Draw, body: Colour, trim: Colour) -> None:
    for x in (74, 152):
        draw.polygon(((x, 140), (x + 14, 140), (x + 10, 212), (x + 2, 212)), fill=trim)
    draw.rounded_rectangle((66, 36, 174, 112), 18, fill=body)
    draw.rectangle((82, 100, 92, 140), fill=trim)
    draw.rectangle((148, 100, 158, 140), fill=trim)
    draw.rounded_rectangle((56, 126, 184, 152), 12, fill=body)


def _clock(draw: Draw, body: Colour, trim: Colour) -> None:
    draw.ellipse((42, 42, 198, 198), fill=body)
    draw.ellipse((56, 56, 184, 184), fill=(255, 253, 248))
    for hour in range(12):
        x, y = 120 + 53 * math.sin(hour * math.pi / 6), 120 - 53 * math.cos(hour * math.pi / 6)
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=body)
    draw.line((120, 120, 120, 78), fill=trim, width=7)
    draw.line((120, 120, 150, 138), fill=trim, width=7)
    draw.ellipse((112, 112, 128, 128), fill=trim)


THINGS: dict[str, Callable[[Draw, Colour, Colour], None]] = {
    "vase": _vase,
    "lamp": _lamp,
    "mug": _mug,
    "chair": _chair,
    "clock": _clock,
}
COLOURS: dict[str, tuple[Colour, Colour, Colour]] = {
    "Coral": ((236, 106, 92), (250, 196, 120), (253, 240, 232)),
    "Teal": ((38, 140, 140), (246, 200, 95), (226, 243, 241)),
    "Indigo": ((76, 84, 170), (240, 130, 130), (234, 235, 250)),
    "Olive": ((130, 142, 60), (210, 110, 70), (243, 244, 226)),
}


def draw(thing: str, colour: str) -> bytes:
    """A PNG file of a thing in a colour."""
    body, trim, ground = COLOURS[colour]
    image = Image.new("RGB", (SIZE * SHARP, SIZE * SHARP), ground)
    canvas = Draw(image)
    canvas.ellipse((50, 196, 190, 220), fill=tuple(round(value * 0.9) for value in ground))
    THINGS[thing](canvas, body, trim)
    file = io.BytesIO()
    image.resize((SIZE, SIZE), Image.Resampling.LANCZOS).save(file, "PNG")
    return file.getvalue()
