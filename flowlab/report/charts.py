"""Charts as inline SVG, drawn by hand: a few lines, no script, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 460, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 44


@dataclass(frozen=True)
class Line:
    """One line of a chart: its name, its style (``a`` or ``b`` of the style sheet), and points (x, y)."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]


def curve(title: str, lines: Sequence[Line], *, marks: Sequence[tuple[float, float, str]] = ()) -> Markup:
    """A line chart over whole numbers (epochs); ``marks`` are points (x, y, text) that stand out.

    Values that are not finite are left out; a chart without any point says so.
    """
    points = [point for line in lines for point in _finite(line.points)]
    if not points:
        return Markup("<p class='quiet'>{}: no epoch was trained.</p>").format(title)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high, step = _scale(min(ys), max(ys))
    first, last = min(xs), max(*xs, min(xs) + 1)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (x - first) / (last - first) * (WIDTH - LEFT - RIGHT),
            TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM),
        )

    parts = [Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, title)]
    for i in range(round((high - low) / step) + 1):
        value = low + i * step
        y = at(first, value)[1]
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(LEFT, WIDTH - RIGHT, y=_n(y))
        )
        parts.append(
            Markup('<text class="tick end" x="{}" y="{}">{}</text>').format(LEFT - 6, _n(y + 4), _value(value, step))
        )
    for x in _ticks(first, last):
        place = at(x, low)[0]
        parts.append(Markup('<text class="tick mid" x="{}" y="{}">{}</text>').format(_n(place), HEIGHT - 26, int(x)))
    parts.append(Markup('<text class="tick mid" x="{}" y="{}">epoch</text>').format(WIDTH // 2, HEIGHT - 6))
    for line in lines:
        found = [at(*point) for point in _finite(line.points)]
        if len(found) == 1:  # a line through one point is nothing to see
            (x, y) = found[0]
            parts.append(Markup('<circle class="line {}" cx="{}" cy="{}" r="3"/>').format(line.style, _n(x), _n(y)))
        elif found:
            places = " ".join(f"{_n(x)},{_n(y)}" for x, y in found)
            parts.append(Markup('<polyline class="line {}" points="{}"/>').format(line.style, places))
    for x, y, text in marks:
        if math.isfinite(y):
            cx, cy = at(x, y)
            parts.append(
                Markup('<circle class="mark" cx="{}" cy="{}" r="4"><title>{}</title></circle>').format(
                    _n(cx), _n(cy), text
                )
            )
    return Markup("").join([*parts, Markup("</svg>")])


def wave(label: str, channels: Sequence[Sequence[float]]) -> Markup:
    """A raw window as thin lines, one a channel, over the window's own range."""
    width, height = 300, 84
    values = [value for channel in channels for value in channel if math.isfinite(value)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    spread = (high - low) or 1.0
    lines = []
    for number, channel in enumerate(channels):
        step = width / max(len(channel) - 1, 1)
        places = " ".join(
            f"{_n(i * step)},{_n(3 + (high - value) / spread * (height - 6))}"
            for i, value in enumerate(channel)
            if math.isfinite(value)
        )
        lines.append(Markup('<polyline class="line {} thin" points="{}"/>').format("abc"[number % 3], places))
    return Markup(
        '<svg class="wave" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(width, height, label, Markup("").join(lines))


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _scale(low: float, high: float) -> tuple[float, float, float]:
    """Round limits around a range, and the step between grid lines (about four of them)."""
    if high - low < 1e-12:
        low, high = low - 0.05, high + 0.05
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    return math.floor(low / step) * step, math.ceil(high / step) * step, step


def _ticks(first: float, last: float) -> list[float]:
    step = max(1, math.ceil((last - first) / 8))
    return [first + i * step for i in range(int((last - first) // step) + 1)]


def _value(value: float, step: float) -> str:
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) + (1 if abs(step * 10 % 1 - 0.5) < 1e-9 else 0)
    return f"{value + 0.0:.{min(digits, 6)}f}"


def _n(value: float) -> str:
    """A coordinate with one decimal."""
    return f"{value:.1f}"
