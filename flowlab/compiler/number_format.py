"""Requantization by a machine's number format, exactly, and the inputs that tell two machines apart.

``floor``: ``(acc * M) >> R``. ``half_up``: half a step is added before the shift. ``single`` and ``double`` are those
of TFLite, with a multiplier of 31 bits: one rounding of the whole shift; or one after the upper 31 bits (half up,
``SaturatingRoundingDoublingHighMul``) and another after the rest (half away from zero, ``RoundingDivideByPOT``). In all
of them the result is about ``acc * M / 2^R``, and a negative R shifts to the left.

``nearest_even`` is that of ONNX Runtime's integer kernels and of ONNX's ``QuantizeLinear``: ``M / 2^R`` is a float32
number (so M has at most 24 bits), its product with float32(acc) is rounded to float32, and that to the nearest
integer, ties to the even one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowlab.contracts import NumberFormat, Requantize, Rounding
from flowlab.errors import GraphError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    IntArray = NDArray[np.int64]

_GENERIC = Requantize(multiplier_bits=8, shift=(0, 31), bias_bits=32)
GENERIC = NumberFormat(
    name="generic",
    by_weight_bits={8: _GENERIC, 4: _GENERIC, 2: _GENERIC},
    activation_bits=(8, 4, 2),
    per="channel",
    power_of_two_scales={8: False, 4: False, 2: False},
    zero_point=False,
    unsigned_after_relu=True,
    accumulator_bits=32,
    saturation="clip",
    bias_before_multiply=True,
    rounding="floor",
)
"""Integers on a CPU: any scales, by a multiplier of 8 bits, which no core needs 64 bits for, and a shift."""

HIGH_BITS = 31  # of TFLite's doubling high multiply
WORD = 2**31
MANTISSA_BITS = 24  # of a float32
ROUNDINGS: tuple[Rounding, ...] = ("floor", "half_up", "single", "double", "nearest_even")


def scale_down(acc: IntArray, multiplier: IntArray, shift: IntArray, rounding: Rounding | str) -> IntArray:
    """``acc * multiplier / 2^shift``, rounded.

    Args:
        acc: int64 that holds 32-bit integers; the other two broadcast against it.
        multiplier: 0 .. 2^31 - 1.
        shift: -31 .. 62; negative is to the left.
        rounding: one of `Rounding`.

    Raises:
        GraphError: if the rounding is not known.
    """
    import numpy as np

    if rounding == "double":
        return _double(acc, multiplier, shift)
    if rounding == "nearest_even":
        return _nearest_even(acc, multiplier, shift)
    right = np.maximum(shift, 0)
    product = acc * multiplier
    if rounding in ("half_up", "single"):
        product = product + np.where(right > 0, np.int64(1) << np.maximum(right - 1, 0), 0)
    elif rounding != "floor":
        raise GraphError(f"no rounding named '{rounding}'. Known: {', '.join(ROUNDINGS)}")
    left = np.maximum(-shift, 0)
    shifted: IntArray = np.where(left > 0, np.clip(product, -WORD, WORD) << left, product >> right)
    return shifted


def ratio_of(multiplier: IntArray, shift: IntArray) -> NDArray[np.float32]:
    """``multiplier / 2^shift`` as the float32 number that it is for a multiplier of at most 24 bits."""
    import numpy as np

    return np.ldexp(np.asarray(multiplier, np.float32), -np.asarray(shift, np.int32)).astype(np.float32)


def as_ratio(ratio: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Multiplier (odd, or 0) and shift of positive float32 numbers: the inverse of `ratio_of`."""
    import numpy as np

    fraction, exponent = np.frexp(np.asarray(ratio, np.float64))
    multiplier = (fraction * 2**MANTISSA_BITS).astype(np.int64)
    zeros = np.zeros_like(multiplier)
    for _ in range(MANTISSA_BITS):
        even = (multiplier % 2 == 0) & (multiplier != 0)
        multiplier, zeros = np.where(even, multiplier // 2, multiplier), zeros + even
    shift = np.where(multiplier == 0, 0, MANTISSA_BITS - exponent - zeros)
    return multiplier.astype(np.int32), shift.astype(np.int32)


def _nearest_even(acc: IntArray, multiplier: IntArray, shift: IntArray) -> IntArray:
    import numpy as np

    product = acc.astype(np.float32) * ratio_of(multiplier, shift)
    rounded: IntArray = np.rint(np.clip(product, -WORD, WORD)).astype(np.int64)
    return rounded


def _double(acc: IntArray, multiplier: IntArray, shift: IntArray) -> IntArray:
    import numpy as np

    left, right = np.maximum(HIGH_BITS - shift, 0), np.maximum(shift - HIGH_BITS, 0)
    wide = np.clip(np.clip(acc, -WORD, WORD - 1) << np.minimum(left, HIGH_BITS), -WORD, WORD - 1)
    product = wide * multiplier
    product = product + np.where(product >= 0, 1 << (HIGH_BITS - 1), 1 - (1 << (HIGH_BITS - 1)))
    high = np.where(product >= 0, product >> HIGH_BITS, -(-product >> HIGH_BITS))  # division towards zero
    mask = (np.int64(1) << right) - 1
    threshold = (mask >> 1) + (high < 0)
    rounded: IntArray = (high >> right) + ((high & mask) > threshold)
    return rounded


@dataclass(frozen=True)
class Case:
    """One accumulator with the parameters of its requantization, and what kind of input it is."""

    kind: str
    acc: int
    bias: int
    multiplier: int
    shift: int
    unsigned: bool
    zero_point: int = 0


@dataclass(frozen=True)
class Difference:
    """A case on which two formats differ; a result is None where the format cannot say these parameters."""

    case: Case
    left: int | None
    right: int | None


def limits(format: NumberFormat, unsigned: bool, bits: int = 8) -> tuple[int, int]:
    """The least and the most activation; ``unsigned`` says that it comes after a ReLU."""
    if unsigned and format.unsigned_after_relu:
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def requantize_by(format: NumberFormat, case: Case, weight_bits: int = 8) -> int:
    """What a machine of this format makes of one accumulator.

    A format without zero points cannot take one; a format that is signed after a ReLU clips at 0 all the same.

    Raises:
        GraphError: where the format has no such width, or a parameter does not fit it.
    """
    import numpy as np

    if weight_bits not in format.by_weight_bits:
        raise GraphError(f"number format '{format.name}' has no {weight_bits}-bit weights")
    _check_fits(format, case, weight_bits)
    acc = np.array([case.acc + (case.bias if format.bias_before_multiply else 0)], np.int64)
    acc = _into(acc, -(2 ** (format.accumulator_bits - 1)), 2 ** (format.accumulator_bits - 1) - 1, "wrap")
    scaled = scale_down(acc, np.array([case.multiplier]), np.array([case.shift]), format.rounding)
    scaled = scaled + case.zero_point + (0 if format.bias_before_multiply else case.bias)
    low, high = limits(format, case.unsigned)
    value = int(_into(scaled, low, high, format.saturation)[0])
    return max(value, case.zero_point) if case.unsigned else value


def _check_fits(format: NumberFormat, case: Case, weight_bits: int) -> None:
    width = format.by_weight_bits[weight_bits]
    unit = 2**width.bias_shift
    if case.bias % unit:
        raise GraphError(f"number format '{format.name}': bias {case.bias} is no multiple of {unit}")
    checks = (
        ("multiplier", case.multiplier, 1 if width.multiplier_bits == 0 else 0, max(1, 2**width.multiplier_bits - 1)),
        ("shift", case.shift, *width.shift),
        ("bias", case.bias, -(2 ** (width.bias_bits - 1)) * unit, (2 ** (width.bias_bits - 1) - 1) * unit),
        ("zero point", case.zero_point, *((-128, 127) if format.zero_point else (0, 0))),
    )
    for what, value, least, most in checks:
        if not least <= value <= most:
            raise GraphError(f"number format '{format.name}': {what} {value} is not in {least} .. {most}")


def _into(values: IntArray, low: int, high: int, saturation: str) -> IntArray:
    import numpy as np

    if saturation == "clip":
        return np.clip(values, low, high)
    return (values - low) % (high - low + 1) + low


def tell_apart(left: NumberFormat, right: NumberFormat, weight_bits: int = 8) -> tuple[Difference, ...]:
    """The first distinguishing input of each kind: tie, negative tie, saturation, parameters that only one can say.

    Empty means that no case among those tried tells the formats apart: they are equal in the numbers.
    """
    found: dict[str, Difference] = {}
    for case in _cases(left, right, weight_bits):
        results = [_result(format, case, weight_bits) for format in (left, right)]
        if case.kind not in found and results[0] != results[1]:
            found[case.kind] = Difference(case, *results)
    return tuple(found.values())


def _result(format: NumberFormat, case: Case, weight_bits: int) -> int | None:
    try:
        return requantize_by(format, case, weight_bits)
    except GraphError:
        return None


def _cases(left: NumberFormat, right: NumberFormat, weight_bits: int) -> Iterator[Case]:
    """Ties and saturations in parameters of both formats, then what only one of them can say."""
    widths = [format.by_weight_bits[weight_bits] for format in (left, right) if weight_bits in format.by_weight_bits]
    multipliers = sorted({1 if width.multiplier_bits == 0 else 2 ** (width.multiplier_bits - 1) for width in widths})
    for multiplier in multipliers:
        top = multiplier.bit_length() - 1  # a power of two: its ties are where a plain shift has them
        for shift in (top + 1, top + 4):
            half = 2 ** (shift - top - 1)
            for unsigned in (False, True):
                yield Case("tie", 3 * half, 0, multiplier, shift, unsigned)
                yield Case("negative tie", -3 * half, 0, multiplier, shift, unsigned)
                yield Case("near a tie", 3 * half - 1, 0, multiplier, shift, unsigned)
                for acc in (300 * half, -300 * half, 1000 * half):
                    yield Case("saturation", acc, 0, multiplier, shift, unsigned)
                yield Case("bias", half, half, multiplier, shift, unsigned)
        yield Case("left shift", 1, 0, multiplier, -1, False)
        yield Case("large shift", 2**20, 0, multiplier, 31, False)
        yield Case("zero point", 8, 0, multiplier, top + 1, False, zero_point=-3)
        for bits in sorted({width.bias_bits for width in widths}):
            yield Case("wide bias", 0, 2 ** (bits - 1) - 1, multiplier, top + min(bits, 8), False)
    yield Case("multiplier", 100, 0, 3, 4, False)
