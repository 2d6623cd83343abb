"""Axes of the report's charts: round numbers, where they stand, and the frame with its grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

SMALLEST, LARGEST = 1e-300, 1e250  # of a logarithmic axis
DECADES = 16  # that are written: on a longer axis every second, or fewer


@dataclass(frozen=True)
class Box:
    """The inside of a chart, in the units of its picture."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """From left to right."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """From top to bottom."""
        return self.bottom - self.top


@dataclass(frozen=True)
class Axis:
    """The values at both ends, and those that are written, with their texts; ``log``: equal steps are equal factors."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    def share(self, value: float) -> float:
        """How far along the axis a value stands, 0 to 1."""
        if self.log:
            return (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return (value - self.low) / (self.high - self.low)


def place(box: Box, across: Axis, upright: Axis, x: float, y: float) -> tuple[float, float]:
    """Where a point is drawn."""
    return box.left + across.share(x) * box.width, box.bottom - upright.share(y) * box.height


def round_steps(low: float, high: float, count: int = 4) -> Axis:
    """Round limits around a range, and about ``count`` steps between them."""
    if high - low < max(1e-12, 1e-9 * abs(high)):
        spread = 0.05 * max(1.0, abs(high))
        low, high = low - spread, high + spread
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10, 20) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [(i * step, _value(i * step, step)) for i in range(first, last + 1)]
    return Axis(ticks[0][0], ticks[-1][0], ticks)


def inside(low: float, high: float, count: int = 3) -> Axis:
    """An axis a little longer than the range, with the round numbers that lie in it: curves fill the frame."""
    pad = 0.05 * (high - low)
    steps = round_steps(low, high, count)
    for number in (count, count + 1, 2 * count):
        steps = round_steps(low, high, number)
        ticks = [(value, text) for value, text in steps.ticks if low - pad <= value <= high + pad]
        if len(ticks) > 1 and pad:
            return Axis(low - pad, high + pad, ticks)
    return steps


def decades(low: float, high: float) -> Axis:
    """A logarithmic axis around a range: powers of ten, 2 and 5 between where there are few, and not all where many.

    Both ends lie within `SMALLEST` and `LARGEST`: beyond, a power of ten is 0 or no number.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1
    factors = (1, 2, 5) if math.log10(high / low) <= 2 else (1,)
    every = max(1, math.ceil((last - first) / DECADES))
    values = [factor * 10.0**power for power in range(first, last + every, every) for factor in factors]
    above = next(i for i, value in enumerate(values) if value >= high and i)
    below = max((i for i, value in enumerate(values[:above]) if value <= low), default=0)
    shown = values[below : above + 1]
    return Axis(shown[0], shown[-1], [(value, f"{value:g}") for value in shown], log=True)


def whole_numbers(first: float, last: float, count: int = 8) -> Axis:
    """An axis over whole numbers, which starts and ends where they do; at most about ``count`` are written."""
    raw = max(1.0, (last - first) / count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = max(1, round(power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw - 1e-9)))
    at = math.ceil(first / step) * step
    ticks = [(float(x), f"{x:,}") for x in range(int(at), int(last) + 1, step)]
    if first == 1 and step > 1:
        ticks = [(1.0, "1"), *ticks]
    return Axis(first, max(last, first + 1), ticks)


def shares(low: float, high: float, steps: int, *, before: float = 0.0, behind: float = 0.0) -> Axis:
    """An axis of shares in per cent, in so many steps.

    ``before`` and ``behind`` are parts of it by which it is longer, so that what lies on its end is seen whole.
    """
    step = (high - low) / steps
    digits = 0 if abs(step * 100 - round(step * 100)) < 1e-9 else 1
    ticks = [(low + i * step, f"{100 * (low + i * step):.{digits}f} %") for i in range(steps + 1)]
    return Axis(low - before * (high - low), high + behind * (high - low), ticks)


def frame(box: Box, across: Axis, upright: Axis, below: str) -> Markup:
    """Grid lines, numbers, and below them what those across count."""
    parts = []
    for value, text in upright.ticks:
        y = box.bottom - upright.share(value) * box.height
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(
                _n(box.left), _n(box.right), y=_n(y)
            )
        )
        parts.append(Markup('<text class="tick end" x="{}" y="{}">{}</text>').format(_n(box.left - 6), _n(y + 4), text))
    for value, text in across.ticks:
        x = box.left + across.share(value) * box.width
        parts.append(Markup('<text class="tick mid" x="{}" y="{}">{}</text>').format(_n(x), _n(box.bottom + 16), text))
    middle = (box.left + box.right) / 2
    parts.append(
        Markup('<text class="tick mid" x="{}" y="{}">{}</text>').format(_n(middle), _n(box.bottom + 34), below)
    )
    return Markup("").join(parts)


def _value(value: float, step: float) -> str:
    if abs(value) < step / 2:
        return "0"
    if abs(value) >= 1e5 or step < 1e-4:
        return f"{value:.3g}"
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) + (1 if abs(step * 10 % 1 - 0.5) < 1e-9 else 0)
    return f"{value:,.{min(digits, 6)}f}"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
