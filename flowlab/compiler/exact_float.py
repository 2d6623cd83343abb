"""Proof, from a layer's real weights, that float32 holds its integers exactly, whatever the order of the sums.

float32 holds every integer up to 2^24. So what has to be bounded is the sum of the magnitudes of all terms: a bound on
the result alone proves nothing, because partial sums may cancel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowlab.compiler.ir import Node, TensorType
from flowlab.errors import GraphError

LIMIT = 2**24  # float32 has 24 bits of significand
MAX_SHIFT_UNSIGNED = 16  # y < 2^8, so what passes 2^24 before a shift of at most 16 is clipped
MAX_SHIFT_SIGNED = 17  # |y| <= 2^7
MAX_PARTS = 64
_LARGEST = {"int8": 128, "uint8": 255}


@dataclass(frozen=True)
class Form:
    """How a layer is written with floats so that it is exact.

    ``parts`` is the number of convolutions whose weights add up to the layer's; with more than one, or with
    ``double``, what follows the sums is computed in double precision. ``stop_fusion`` asks for a clip to 24 bits
    between bias and multiplier, so that no optimiser folds the multiplier into the weights.
    """

    parts: int
    double: bool
    stop_fusion: bool


def largest_magnitude(value: TensorType) -> int:
    """The largest magnitude that a value's integers can have. KeyError for what is not 8 bits wide."""
    return _LARGEST[value.dtype]


def magnitude_sums(weight: NDArray[np.generic], largest_input: int) -> NDArray[np.int64]:
    """Bound of the partial sums in any order: sum of |w| times the largest |x|, int64, one for each output channel."""
    flat = np.abs(np.asarray(weight, dtype=np.int64)).reshape(weight.shape[0], -1)
    return np.asarray(flat.sum(axis=1) * largest_input, dtype=np.int64)


def split_weight(weight: NDArray[np.generic], parts: int) -> list[NDArray[np.generic]]:
    """Weights of the same shape that add up to ``weight``, each non-zero over one stretch of the fan-in only."""
    flat = weight.reshape(weight.shape[0], -1)
    pieces = []
    for index in np.array_split(np.arange(flat.shape[1]), parts):
        piece = np.zeros_like(flat)
        piece[:, index] = flat[:, index]
        pieces.append(piece.reshape(weight.shape))
    return pieces


def parts_needed(weight: NDArray[np.generic], largest_input: int) -> int:
    """The least power of two of parts whose partial sums all stay below 2^24; 0 where not even `MAX_PARTS` do."""
    parts = 1
    while parts <= MAX_PARTS:
        if all(magnitude_sums(piece, largest_input).max(initial=0) < LIMIT for piece in split_weight(weight, parts)):
            return parts
        parts *= 2
    return 0


def form_of_floats(name: str, bounds: NDArray[np.int64], parts: int) -> Form:
    """The one form of a layer with a float bias, which is float32 behind its sums.

    Raises:
        GraphError: where float32 does not hold the sums.
    """
    if parts != 1 or bounds.max(initial=0) >= LIMIT:
        raise GraphError(
            f"{name}: sums of up to {bounds.max(initial=0)} are not exact in float32, in which a float bias is added. "
            "Leave float_ops out"
        )
    return Form(1, double=False, stop_fusion=True)


def choose_form(bounds: NDArray[np.int64], parts: int, requantize: Node) -> Form:
    """The cheapest exact form of a layer and the requantization behind it.

    Args:
        bounds: for each channel, the bound of the accumulator's partial sums.
        parts: how many convolutions it takes to keep each one's partial sums below 2^24.
        requantize: the node behind the layer.
    """
    bias, multiplier, shift = (
        np.asarray(requantize.constants[key], np.int64) for key in ("bias", "multiplier", "shift")
    )
    total = bounds + np.abs(bias)
    if requantize.attributes.get("rounding") == "half_up":
        total = total + np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
    if parts != 1 or total.max(initial=0) >= LIMIT or shift.min(initial=0) < 0:
        return Form(parts, double=True, stop_fusion=False)
    if (total * np.abs(multiplier)).max(initial=0) < LIMIT:
        return Form(1, double=False, stop_fusion=False)
    most = MAX_SHIFT_UNSIGNED if requantize.type.dtype == "uint8" else MAX_SHIFT_SIGNED
    small = (shift <= most) | (total * np.abs(multiplier) < LIMIT)
    if small.all():
        return Form(1, double=False, stop_fusion=True)
    return Form(1, double=True, stop_fusion=False)
