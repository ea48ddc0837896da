"""Learning curves as SVG, drawn from what a run has logged; needs no plotting library and no script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmrec.report.markup import Html, element, join

N_COLOURS = 6  # classes c0 … c5 in the page's style sheet
DASHES = (None, "7 4", "2 3", "9 3 2 3")  # of the seeds
WIDTH, HEIGHT = 640.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 96.0, 12.0, 44.0
LABEL_GAP = 15.0  # least distance between two labels


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        label: Name written at its end; one per colour.
        colour: Number of the colour.
        dash: Number of the dash pattern.
        points: Epoch and value.
        best: Epoch to mark with a dot.
    """

    label: str
    colour: int
    dash: int
    points: Sequence[tuple[float, float]]
    best: int | None = None


@dataclass(frozen=True)
class _Scale:
    """Values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


def draw_chart(
    curves: Sequence[Curve],
    *,
    title: str,
    y_label: str,
    levels: Mapping[str, tuple[int, float]] | None = None,
) -> Html:
    """A line chart over the epochs.

    Args:
        curves: The lines; those of one label have one colour.
        title: What it shows, for those who cannot see it.
        y_label: Name of the values.
        levels: Label to colour and value of models without epochs, drawn as horizontal lines.
    """
    levels = levels or {}
    xs = [epoch for curve in curves for epoch, _ in curve.points]
    ys = [value for curve in curves for _, value in curve.points] + [value for _, value in levels.values()]
    x_ticks, y_ticks = nice_ticks(0, max([*xs, 1])), nice_ticks(min(ys), max(ys))
    x = _Scale(0, max([*xs, 1]), LEFT, WIDTH - RIGHT)
    y = _Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [element("title", title), _axes(x, y, x_ticks, y_ticks, y_label)]
    ends: dict[str, tuple[int, float]] = {}
    for label, (colour, value) in levels.items():
        parts.append(_line([(x.start, y(value)), (x.end, y(value))], colour, "1 4"))
        ends[label] = (colour, y(value))
    for curve in curves:
        parts.append(_draw_curve(curve, x, y))
        ends.setdefault(curve.label, (curve.colour, y(curve.points[-1][1])))
    parts.append(_end_labels(ends))
    return element("svg", *parts, viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}", role="img", class_="chart")


def _draw_curve(curve: Curve, x: _Scale, y: _Scale) -> Html:
    line = _line([(x(epoch), y(value)) for epoch, value in curve.points], curve.colour, _dash(curve.dash))
    best = [(x(epoch), y(value)) for epoch, value in curve.points if epoch == curve.best]
    dots = [element("circle", cx=cx, cy=cy, r=4, class_=_class(curve.colour, "fill")) for cx, cy in best]
    return join(line, *dots)


def dash_sample(number: int) -> Html:
    """A short line with the dash pattern of a seed, for a legend."""
    line = element("path", d="M0 5H32", class_="stroke", stroke_dasharray=_dash(number))
    return element("svg", line, viewBox="0 0 32 10", width=32, height=10, class_="sample", aria_hidden="true")


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``, one, two or five times a power of ten apart."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / (most - 1)))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= most - 1)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * place, 10) for place in range(first, max(last, first + 1) + 1)]


def _axes(x: _Scale, y: _Scale, x_ticks: Sequence[float], y_ticks: Sequence[float], y_label: str) -> Html:
    parts = []
    for tick in y_ticks:
        height = y(tick)
        parts.append(element("path", d=f"M{x.start} {height}H{x.end}", class_="grid"))
        parts.append(element("text", f"{tick:g}", x=x.start - 8, y=height + 4, text_anchor="end"))
    for tick in x_ticks:
        if tick <= x.high:
            parts.append(element("path", d=f"M{x(tick)} {y.start}v5", class_="axis"))
            parts.append(element("text", f"{tick:g}", x=x(tick), y=y.start + 19, text_anchor="middle"))
    middle = (y.start + y.end) / 2
    parts += [
        element("path", d=f"M{x.start} {y.start}H{x.end}", class_="axis"),
        element("text", "epoch", x=(x.start + x.end) / 2, y=HEIGHT - 6, text_anchor="middle"),
        element("text", y_label, x=12, y=middle, text_anchor="middle", transform=f"rotate(-90 12 {middle})"),
    ]
    return join(*parts)


def _line(points: Sequence[tuple[float, float]], colour: int, dash: str | None) -> Html:
    path = "M" + "L".join(f"{x} {y}" for x, y in points)
    return element("path", d=path, class_=_class(colour, "stroke"), stroke_dasharray=dash)


def _end_labels(ends: Mapping[str, tuple[int, float]]) -> Html:
    """Names behind the ends of the lines, moved down where they would overlap and up from the bottom."""
    parts, last = [], -math.inf
    ordered = sorted(ends.items(), key=lambda entry: entry[1][1])
    lowest = HEIGHT - BOTTOM - LABEL_GAP * (len(ordered) - 1)
    for place, (label, (colour, height)) in enumerate(ordered):
        last = max(min(height, lowest + LABEL_GAP * place), last + LABEL_GAP)
        shown = label if len(label) <= 14 else f"{label[:13]}…"
        parts.append(element("text", shown, x=WIDTH - RIGHT + 8, y=last + 4, class_=_class(colour, "fill")))
    return join(*parts)


def _class(colour: int, paint: str) -> str:
    return f"{paint} c{colour % N_COLOURS}"


def _dash(number: int) -> str | None:
    return DASHES[number % len(DASHES)]
