"""The goods of the toy shop: how they look and what is written about them.

Shape and nouns tell the category, palette, pattern and adjectives the style, brightness the tone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

Colour = tuple[int, int, int]
Grid = NDArray[np.floating[Any]]

CATEGORIES = ("mug", "lamp", "vase", "cushion", "clock", "chair")
STYLES = ("coastal", "botanical", "retro", "nordic", "fiesta")

_OVERSAMPLING = 2  # pictures are drawn larger and reduced, which smooths the edges
_NOISE = 5.0  # standard deviation of the camera noise, of 255

_PALETTES: tuple[tuple[Colour, Colour, Colour], ...] = (
    ((28, 62, 110), (238, 243, 246), (104, 170, 205)),
    ((46, 98, 60), (228, 235, 208), (134, 178, 96)),
    ((205, 98, 38), (245, 208, 120), (112, 62, 40)),
    ((233, 233, 229), (64, 68, 76), (168, 176, 182)),
    ((222, 52, 120), (250, 202, 52), (36, 170, 160)),
)

_STYLE_WORDS = (
    "coastal nautical seaside harbour sailor ocean marine tidal striped",
    "botanical leafy garden fern forest meadow verdant woodland ivy",
    "retro vintage seventies nostalgic groovy disco jukebox diner dotted",
    "nordic minimalist scandinavian hygge monochrome fjord cabin plain gridded",
    "fiesta carnival festive tropical vivid party confetti mariachi zigzag",
)
_CATEGORY_WORDS = (
    "mug cup beaker tumbler",
    "lamp light luminaire lantern",
    "vase vessel urn jar",
    "cushion pillow bolster pad",
    "clock timepiece dial timer",
    "chair seat stool armchair",
)
_MATERIALS = (
    "stoneware porcelain enamel earthenware",
    "linen brass paper oak",
    "ceramic glass terracotta faience",
    "cotton velvet wool linen",
    "beech acrylic steel cork",
    "ash rattan plywood leather",
)
_TONES = (
    "pale light soft airy whitewashed",
    "even balanced classic natural",
    "dark deep rich midnight smoky",
)
_SENTENCES = (
    "The {a} {noun} for {b} rooms.",
    "This {noun} of {material} has the {a}, {b} look.",
    "Made for {a} homes and {b} evenings.",
    "The {tone} finish goes well with {a} and {b} pieces.",
    "Each one is finished by hand in our {a} and {b} patterns.",
    "Inspired by {a} and {b} interiors, in {tone} shades.",
)
_FILLERS = (
    "Wipe clean with a damp cloth.",
    "Ships in recycled cardboard.",
    "Two years of guarantee.",
    "Designed in our small workshop.",
    "A present that always fits.",
    "Small differences are a mark of manual work.",
    "Delivered within three working days.",
)


def write_texts(category: int, style: int, tone: float, rng: np.random.Generator) -> tuple[str, str]:
    """Title and description of one item.

    Seven words of the style are drawn from nine, so that items of one style share most of them; now and then a
    word of another style is mentioned as well.

    Args:
        category: Index in :data:`CATEGORIES`.
        style: Index in :data:`STYLES`.
        tone: Pale -1 … deep 1.
        rng: Source of the words.
    """
    adjectives = rng.permutation(_STYLE_WORDS[style].split()).tolist()
    nouns, materials = _CATEGORY_WORDS[category].split(), _MATERIALS[category].split()
    shade = _TONES[int(np.digitize(tone, (-1 / 3, 1 / 3)))].split()
    noun, material, tone_word = (str(rng.choice(words)) for words in (nouns, materials, shade))
    title = f"{tone_word} {adjectives[0]} {material} {noun}".title()
    patterns = rng.permutation(_SENTENCES)[:3]
    sentences = [
        pattern.format(a=a, b=b, noun=noun, material=material, tone=tone_word)
        for pattern, a, b in zip(patterns, adjectives[1::2], adjectives[2::2], strict=False)
    ]
    if rng.random() < 0.2:
        other = (style + int(rng.integers(1, len(STYLES)))) % len(STYLES)
        sentences.append(f"Also a friendly contrast in {rng.choice(_STYLE_WORDS[other].split())} rooms.")
    sentences.append(str(rng.choice(_FILLERS)))
    return title, " ".join(sentences)


def draw_picture(category: int, style: int, tone: float, size: int, rng: np.random.Generator) -> Image:
    """Draw one item as an RGB picture of ``size`` × ``size`` pixels.

    Args:
        category: Index in :data:`CATEGORIES`: the shape.
        style: Index in :data:`STYLES`: colours and pattern.
        tone: Pale -1 … deep 1: the brightness.
        size: Edge in pixels.
        rng: Source of position, size, angle, small changes of colour, pattern and noise.
    """
    from PIL import Image, ImageDraw, ImageFilter

    edge = size * _OVERSAMPLING
    palette = _mix_colours(style, tone, rng)
    pattern = Image.fromarray(palette[_PATTERNS[style](edge, rng)])
    paint = {
        "pattern": pattern,
        "trim": Image.new("RGB", (edge, edge), tuple((palette.min(axis=0) * 0.7).astype(int).tolist())),
        "face": Image.new("RGB", (edge, edge), (250, 248, 244)),
    }
    scale, shift = rng.uniform(0.85, 1.08), rng.uniform(-0.05, 0.05, size=2)
    layer = Image.new("RGBA", (edge, edge), (255, 255, 255, 0))
    for fill, primitive, points in _SHAPES[category]:
        mask = Image.new("L", (edge, edge), 0)
        placed = ((np.array(points) - 0.5) * scale + 0.5 + shift) * edge
        _draw(ImageDraw.Draw(mask), primitive, [(float(x), float(y)) for x, y in placed], edge)
        layer.paste(paint[fill], mask=mask)
    rim = Image.new("RGBA", (edge, edge), (255, 255, 255, 0))  # pale goods on a pale ground need an outline
    rim.paste(paint["trim"], mask=layer.getchannel("A").filter(ImageFilter.MaxFilter(3)))
    layer = Image.alpha_composite(rim, layer).rotate(float(rng.uniform(-7, 7)), Image.Resampling.BILINEAR)
    picture = Image.new("RGB", (edge, edge), tuple(rng.integers(228, 250, 3).tolist()))
    picture.paste(layer, mask=layer)
    small = np.asarray(picture.resize((size, size), Image.Resampling.BOX), dtype=np.float32)
    noisy = small + np.float32(_NOISE) * rng.standard_normal(small.shape, dtype=np.float32)
    return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def _mix_colours(style: int, tone: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Palette ``(3, 3)`` of a style, a little changed and lightened or darkened by the tone."""
    palette = np.array(_PALETTES[style]) + rng.normal(scale=12, size=(3, 3))
    towards = 255.0 if tone < 0 else 0.0
    palette += (towards - palette) * 0.5 * abs(tone)
    return np.clip(palette, 0, 255).astype(np.uint8)


def _draw(draw: ImageDraw, primitive: str, points: list[tuple[float, float]], edge: int) -> None:
    if primitive == "box":
        draw.rounded_rectangle(points, radius=0.04 * edge, fill=255)
    elif primitive == "ellipse":
        draw.ellipse(points, fill=255)
    elif primitive == "ring":
        draw.ellipse(points, outline=255, width=edge // 18)
    elif primitive == "line":
        draw.line(points, fill=255, width=edge // 28)
    else:
        draw.polygon(points, fill=255)


def _bulge(angles: Grid) -> tuple[tuple[float, float], ...]:
    """Outline of a vase: a narrow neck over a wide belly."""
    height = np.concatenate([angles, angles[::-1]])
    radius = 0.09 + 0.17 * np.sin(np.pi * height**1.4) ** 2 + 0.05 * (height < 0.06)
    side = np.repeat([-1.0, 1.0], len(angles))
    return tuple(zip((0.5 + side * radius).tolist(), (0.14 + 0.72 * height).tolist(), strict=True))


def _pinch(steps: Grid) -> tuple[tuple[float, float], ...]:
    """Outline of a cushion: a square whose sides bow inwards between pointed corners."""
    bow = 0.06 * np.sin(np.pi * steps)
    low, high, along = 0.14 + bow, 0.86 - bow, 0.14 + 0.72 * steps
    x = np.concatenate([along, high, along[::-1], low])
    y = np.concatenate([low, along, high, along[::-1]])
    return tuple(zip(x.tolist(), y.tolist(), strict=True))


_STEPS = np.linspace(0, 1, 24)
_SHAPES: tuple[tuple[tuple[str, str, tuple[tuple[float, float], ...]], ...], ...] = (
    (  # mug
        ("trim", "ring", ((0.56, 0.38), (0.86, 0.70))),
        ("pattern", "box", ((0.20, 0.26), (0.68, 0.84))),
    ),
    (  # lamp
        ("trim", "line", ((0.5, 0.45), (0.5, 0.85))),
        ("trim", "ellipse", ((0.33, 0.80), (0.67, 0.90))),
        ("pattern", "polygon", ((0.36, 0.10), (0.64, 0.10), (0.84, 0.54), (0.16, 0.54))),
    ),
    (("pattern", "polygon", _bulge(_STEPS)),),  # vase
    (("pattern", "polygon", _pinch(_STEPS)),),  # cushion
    (  # clock
        ("trim", "ellipse", ((0.11, 0.11), (0.89, 0.89))),
        ("pattern", "ellipse", ((0.14, 0.14), (0.86, 0.86))),
        ("face", "ellipse", ((0.34, 0.34), (0.66, 0.66))),
        ("trim", "line", ((0.5, 0.37), (0.5, 0.5), (0.60, 0.55))),
    ),
    (  # chair
        ("trim", "line", ((0.31, 0.60), (0.25, 0.92))),
        ("trim", "line", ((0.69, 0.60), (0.75, 0.92))),
        ("pattern", "box", ((0.28, 0.08), (0.72, 0.54))),
        ("pattern", "box", ((0.22, 0.56), (0.78, 0.70))),
    ),
)


def _grid(edge: int, rng: np.random.Generator) -> tuple[Grid, Grid]:
    """Coordinates x and y ``(edge, edge)`` that count tiles of the pattern, with a random phase and tile size."""
    tiles = rng.uniform(5.0, 8.0)
    axis = np.linspace(0, tiles, edge, dtype=np.float32)
    x, y = np.meshgrid(axis + np.float32(rng.random()), axis + np.float32(rng.random()))
    return x, y


def _stripes(edge: int, rng: np.random.Generator) -> NDArray[np.int64]:
    _, y = _grid(edge, rng)
    return np.where(y % 1 < 0.45, 0, np.where(y % 2 < 1, 1, 2))


def _leaves(edge: int, rng: np.random.Generator) -> NDArray[np.int64]:
    x, y = _grid(edge, rng)
    lean = np.where((x // 1 + y // 1) % 2 < 1, 1.0, -1.0)
    u, v = x % 1 - 0.5, y % 1 - 0.5
    along, across = (u + lean * v) / np.sqrt(2), (u - lean * v) / np.sqrt(2)
    leaf = (along / 0.55) ** 2 + (across / 0.22) ** 2 < 1
    return np.where(leaf, np.where(np.abs(across) < 0.04, 2, 0), np.where(lean > 0, 1, 2))


def _dots(edge: int, rng: np.random.Generator) -> NDArray[np.int64]:
    x, y = _grid(edge, rng)
    radius = np.hypot((x / 1.4) % 1 - 0.5, (y / 1.4) % 1 - 0.5)
    return np.where(radius < 0.18, 2, np.where(radius < 0.38, 1, 0))


def _lines(edge: int, rng: np.random.Generator) -> NDArray[np.int64]:
    x, y = _grid(edge, rng)
    return np.where((x % 1 < 0.10) | (y % 1 < 0.10), 1, np.where((x % 4 < 1) & (y % 4 < 1), 2, 0))


def _zigzag(edge: int, rng: np.random.Generator) -> NDArray[np.int64]:
    x, y = _grid(edge, rng)
    return np.asarray(np.floor(1.6 * y + 1.2 * np.abs(x % 1 - 0.5)) % 3, dtype=np.int64)


_PATTERNS: tuple[Callable[[int, np.random.Generator], NDArray[np.int64]], ...] = (
    _stripes,
    _leaves,
    _dots,
    _lines,
    _zigzag,
)
