"""A chain of float operations behind an integer sum, as one requantization: found, then proven.

Other tools spell a requantization in many ways: ``Add``, ``Mul``, ``Div``, ``Floor``; a division by what is no power of
two; half a step added before the floor; ``Round``. Each is a function of one integer that never falls. So is the
requantization that stands for it, and two such functions are equal where their steps are: every step of every channel
is looked up, and the file's own operations are evaluated on both sides of it, in the precision that the file has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowlab.compiler.number_format import as_ratio, scale_down

Array = NDArray[Any]
IntArray = NDArray[np.int64]

MOST_MULTIPLIER = 2**31 - 1
MOST_SHIFT = 31
HALF = Fraction(1, 2)


@dataclass(frozen=True, eq=False)
class Chain:
    """Float operations on one number a channel, in the file's order.

    ``apply`` maps (channel, place) to the same shape; ``slope`` and ``offset`` are the line, a channel, that it rounds;
    ``after`` is what is added behind the rounding; ``rounding`` is ``floor``, ``even`` or empty where nothing rounds;
    ``limits`` are those of the last clip.
    """

    channels: int
    apply: Callable[[Array], Array]
    slope: tuple[Fraction, ...]
    offset: tuple[Fraction, ...]
    after: tuple[Fraction, ...]
    rounding: str = ""
    limits: tuple[float, float] = (-math.inf, math.inf)
    dtype: Any = np.float32

    @classmethod
    def start(cls, channels: int, divisor: int = 1) -> Chain:
        """Nothing yet; or a mean of ``divisor`` numbers."""
        zero = (Fraction(0),) * channels

        def apply(value: Array) -> Array:
            return value if divisor == 1 else value / np.float32(divisor)

        return cls(channels, apply, (Fraction(1, divisor),) * channels, zero, zero)

    def then(self, step: Callable[[Array], Array], **changes: Any) -> Chain:
        """One operation more."""
        before = self.apply
        return replace(self, apply=lambda value: step(before(value)), **changes)

    def added(self, numbers: Array) -> Chain:
        """A constant more; ``numbers`` one, or one a channel."""
        exact, column = _exact(numbers, self.channels), _column(numbers)
        if self.rounding:
            after = tuple(one + more for one, more in zip(self.after, exact, strict=True))
            return self.then(lambda value: value + column.astype(value.dtype), after=after)
        offset = tuple(one + more for one, more in zip(self.offset, exact, strict=True))
        return self.then(lambda value: value + column.astype(value.dtype), offset=offset)

    def scaled(self, numbers: Array, *, divides: bool = False) -> Chain:
        """Times a constant, or divided by one."""
        exact, column = _exact(numbers, self.channels), _column(numbers)
        if divides and any(one == 0 for one in exact):
            raise ZeroDivisionError
        factors = [1 / one if divides else one for one in exact]

        def step(value: Array) -> Array:
            number = column.astype(value.dtype)
            made: Array = value / number if divides else value * number
            return made

        slope, offset = (
            tuple(one * factor for one, factor in zip(line, factors, strict=True)) for line in (self.slope, self.offset)
        )
        after = tuple(one * factor for one, factor in zip(self.after, factors, strict=True))
        return self.then(step, slope=slope, offset=offset, after=after)

    def clipped(self, low: float, high: float) -> Chain:
        """Into a range, either end of which may be infinite."""
        kept = max(low, min(self.limits[0], high)), min(high, max(self.limits[1], low))
        return self.then(lambda value: np.clip(value, value.dtype.type(low), value.dtype.type(high)), limits=kept)

    def rounded(self, kind: str) -> Chain:
        """To whole numbers: down (``floor``), or to the nearest (``even``)."""
        return self.then(np.floor if kind == "floor" else np.rint, rounding=kind)

    def at(self, numbers: IntArray) -> Array:
        """What the file makes of integers (channel, place)."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self.apply(numbers.astype(self.dtype))


def _exact(numbers: Array, channels: int) -> list[Fraction]:
    flat = [Fraction(float(one)) for one in np.asarray(numbers).ravel()]
    return flat * channels if len(flat) == 1 else flat


def _column(numbers: Array) -> Array:
    return np.asarray(numbers).reshape(-1, 1)


@dataclass(frozen=True, eq=False)
class Requantized:
    """Constants and attributes of a ``requantize`` for all channels."""

    bias: NDArray[np.int32]
    multiplier: NDArray[np.int32]
    shift: NDArray[np.int32]
    rounding: str
    bias_before_multiply: bool
    low: int
    high: int

    def at(self, numbers: IntArray) -> IntArray:
        """What it makes of integers (channel, place)."""
        bias, multiplier, shift = (
            np.asarray(each, np.int64).reshape(-1, 1) for each in (self.bias, self.multiplier, self.shift)
        )
        if self.bias_before_multiply:
            made = scale_down(numbers + bias, multiplier, shift, self.rounding)
        else:
            made = scale_down(numbers, multiplier, shift, self.rounding) + bias
        return np.clip(made, self.low, self.high)


def as_requantization(chain: Chain, least: IntArray, most: IntArray) -> Requantized | None:
    """The requantization that equals a chain on all integers of ``least`` .. ``most``, a channel; None without one.

    The chain's results are whole numbers of 8 bits there (`whole_range`).
    """
    limits = whole_range(chain, least, most)
    if limits is None or not chain.rounding or min(chain.slope) < 0:
        return None
    for made in _candidates(chain, *limits):
        if equal(chain, made, least, most):
            return made
    return None


def whole_range(chain: Chain, least: IntArray, most: IntArray) -> tuple[int, int] | None:
    """The smallest and largest result over all channels, where both are whole numbers of a byte; else None."""
    ends = chain.at(np.stack([least, most], axis=1))
    if not np.isfinite(ends).all() or (ends != np.floor(ends)).any():
        return None
    low, high = int(ends.min()), int(ends.max())
    clip = chain.limits
    if all(math.isfinite(one) and one == math.floor(one) for one in clip) and clip[0] <= low and high <= clip[1]:
        low, high = int(clip[0]), int(clip[1])
    return (low, high) if (low >= 0 and high <= 255) or (low >= -128 and high <= 127) else None


def _candidates(chain: Chain, low: int, high: int) -> Iterator[Requantized]:
    """From the line that is rounded: by floor, by half up, and to the even one; biases on both sides."""
    lines = list(zip(chain.slope, chain.offset, chain.after, strict=True))
    if chain.rounding == "even":
        ratio = np.array([float(slope) for slope, _, _ in lines], np.float32)
        multiplier, shift = as_ratio(ratio)
        for before in (True, False):
            biases = [offset / slope if before else after for slope, offset, after in lines if slope or not before]
            other = [after if before else offset for _, offset, after in lines]
            if len(biases) == len(lines) and all(one.denominator == 1 for one in biases) and not any(other):
                yield Requantized(_whole(biases), multiplier, shift, "nearest_even", before, low, high)
    for rounding, half in (("floor", Fraction(0)), ("half_up", HALF)):
        extra = HALF if chain.rounding == "even" else Fraction(0)
        for up in (False, True):
            scaled = [_dyadic(slope, up) for slope, _, _ in lines]
            shift = np.array([shift for _, shift in scaled], np.int32)
            if rounding == "half_up" and (shift <= 0).any():
                continue
            multiplier = np.array([multiplier for multiplier, _ in scaled], np.int32)
            exact = [
                (offset + after + extra - half) / slope if slope else Fraction(0) for slope, offset, after in lines
            ]
            for bias in (_floors(exact), _floors([one + 1 for one in exact])):
                if bias is not None:
                    yield Requantized(bias, multiplier, shift, rounding, True, low, high)
            behind = [offset + after + extra - half for _, offset, after in lines]
            if all(one.denominator == 1 for one in behind):  # whole numbers, which may as well be added at the end
                yield Requantized(_whole(behind), multiplier, shift, rounding, False, low, high)


def _dyadic(slope: Fraction, up: bool) -> tuple[int, int]:
    """Multiplier and shift of a slope: exact where it has such a form, else the widest below or above it."""
    if slope == 0:
        return 0, 0
    denominator = slope.denominator
    if denominator & (denominator - 1) == 0 and slope.numerator <= MOST_MULTIPLIER:
        shift = denominator.bit_length() - 1
        if shift <= MOST_SHIFT:
            return slope.numerator, shift
    shift = MOST_SHIFT
    while shift > -MOST_SHIFT and slope * Fraction(2) ** shift > MOST_MULTIPLIER - 1:
        shift -= 1
    scaled = slope * Fraction(2) ** shift
    return (-(-scaled.numerator // scaled.denominator) if up else scaled.numerator // scaled.denominator), shift


def _floors(values: list[Fraction]) -> NDArray[np.int32] | None:
    whole = [one.numerator // one.denominator for one in values]
    return np.array(whole, np.int32) if all(-(2**31) <= one < 2**31 for one in whole) else None


def _whole(values: list[Fraction]) -> NDArray[np.int32]:
    return np.array([min(max(int(one), -(2**31)), 2**31 - 1) for one in values], np.int32)


def equal(chain: Chain, made: Requantized, least: IntArray, most: IntArray) -> bool:
    """Whether both give the same for every integer of ``least`` .. ``most``, a channel.

    Neither ever falls, so it is enough to look at both sides of each step of one, and at the ends.
    """
    levels = np.arange(made.low + 1, made.high + 1, dtype=np.int64).reshape(1, -1)
    below = np.repeat(least.reshape(-1, 1) - 1, levels.size, axis=1)  # the result is under the level there ...
    above = np.repeat(most.reshape(-1, 1) + 1, levels.size, axis=1)  # ... and not here
    while (above - below > 1).any():
        middle = (above + below) // 2
        reached = made.at(middle) >= levels
        above, below = np.where(reached, middle, above), np.where(reached, below, middle)
    before, at = np.maximum(below, least.reshape(-1, 1)), np.minimum(above, most.reshape(-1, 1))
    ends = np.stack([least, most], axis=1)
    return all(np.array_equal(chain.at(places), made.at(places)) for places in (ends, before, at))
