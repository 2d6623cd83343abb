"""Choose scales: from the values that calibration data give, and from the weights, by least squares."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from flowlab.contracts import Requantize
from flowlab.errors import QuantizationError
from flowlab.quant.steps import FloatArray

FEWEST_LEVELS = 2.0  # between the 1st and the 99th hundredth of a tensor's values; below, an outlier has flattened it
FEWEST_PART = 8  # ... and an eighth of the levels that there are, where that is less (activations of 4 and 2 bits)
HEADROOM = 1.25  # of the output: test data and training go beyond what calibration showed, and a clipped logit ties
MOST_VALUES = 1 << 18  # enough to choose a scale by
FINER_STEPS = 4  # how many halvings below the range a scale may be chosen
STEPS_A_HALVING = 16  # of a weight's scale, where it is free
DEAD_RATIO = 2.0**-4  # output scale / input scale * M / 2^R of a channel without weights: only its bias is left
FAR_OUT = 2  # times what 98 of 100 values keep to: an outlier
BIAS_BITS = 24  # more than these buy no accuracy, and make sums and products wider
MOST_INPUT = 255  # of any activation
MOST_STEPS = 512  # of an output, and as many again
BIAS_HEADROOM = 1.25  # training may move a bias after its scale is chosen
DOUBLINGS = 12  # how far an output's scale may be coarsened until shift and bias fit
ORDINARY_INPUT = 64  # integers of an activation: how much a wrong bias weighs against a wrong weight


IntArray = NDArray[np.int64]
Chosen = tuple[IntArray, IntArray, str]  # multipliers, shifts, what does not fit
_NONE: IntArray = np.zeros(0, np.int64)


@dataclass(frozen=True)
class LayerScales:
    """Scales of a layer: ``output`` of its result, the others one a channel; sw * sx / sy = multiplier / 2^shift."""

    output: float
    weight: FloatArray
    multiplier: NDArray[np.int64]
    shift: NDArray[np.int64]


def sample(values: NDArray[np.floating]) -> FloatArray:
    """At most `MOST_VALUES` of the values, evenly taken, as float64."""
    flat = np.asarray(values).reshape(-1)
    return np.asarray(flat[:: -(-flat.size // MOST_VALUES)] if flat.size else flat, np.float64)


def check_finite(name: str, values: NDArray[np.floating]) -> None:
    """QuantizationError naming the layer where calibration data made something that is not a number."""
    bad = ~np.isfinite(values)
    if bad.any():
        windows = np.flatnonzero(bad.reshape(bad.shape[0], -1).any(axis=1))
        raise QuantizationError(
            f"{name}: calibration gives {int(bad.sum())} values that are NaN or infinite, first in window {windows[0]} "
            f"({len(windows)} of {len(bad)} windows). Remove these windows, or the extractor's step that makes them."
        )


def check_levels(name: str, values: FloatArray, scale: float, levels: int = 256) -> None:
    """QuantizationError where nearly all values of a tensor fall on one of its ``levels``, because a few lie far out.

    Where all lie close together, far from 0, nothing is wrong with the data: what a step loses of them is little.
    """
    low, high = np.quantile(values, (0.01, 0.99))
    fewest = min(FEWEST_LEVELS, levels / FEWEST_PART)
    far_out = np.abs(values).max() > FAR_OUT * max(abs(low), abs(high))
    if far_out and 0 < (high - low) / scale < fewest:
        raise QuantizationError(
            f"{name}: an outlier of {np.abs(values).max():.3g} flattens the tensor: 98 of 100 calibration values in "
            f"{low:.3g} .. {high:.3g}, which is less than {fewest:g} steps of {scale:.3g}. "
            "Remove the outlier from the training split, or limit it in the feature extraction."
        )


def squared_error(values: FloatArray, scale: float, low: int, high: int) -> float:
    """Mean squared error of quantizing with a scale, zero point 0."""
    return float(np.mean((np.clip(np.rint(values / scale), low, high) * scale - values) ** 2))


def best_scale(values: FloatArray, candidates: list[float], low: int, high: int) -> float:
    """The candidate with the least squared error; of equal ones the first."""
    errors = [squared_error(values, scale, low, high) for scale in candidates]
    return candidates[int(np.argmin(errors))]


def range_scale(values: FloatArray, low: int, high: int) -> float:
    """The least scale by which no value is clipped; 0 where all are 0."""
    most, least = max(float(values.max(initial=0.0)), 0.0), min(float(values.min(initial=0.0)), 0.0)
    return max(most / high if high else 0.0, least / low if low else 0.0)


def input_scale(name: str, values: FloatArray, low: int, high: int) -> float:
    """A free scale for the network's input, by least squares between the range and a sixteenth of it."""
    widest = range_scale(values, low, high)
    if widest == 0:
        raise QuantizationError(f"{name}: every calibration value is 0; there is nothing to quantize.")
    return _free(values, widest, low, high)


def free_scale(values: FloatArray, input_scale: float, low: int, high: int) -> float:
    """A scale without a law, by least squares; the input's own where all values are 0."""
    widest = range_scale(values, low, high)
    return _free(values, widest, low, high) if widest else input_scale


def _free(values: FloatArray, widest: float, low: int, high: int) -> float:
    return best_scale(values, [widest * 2.0 ** (-step / 8) for step in range(8 * FINER_STEPS + 1)], low, high)


def ratio_scale(values: FloatArray, input_scale: float, low: int, high: int) -> float:
    """A scale that is the input's times a power of two, by least squares; the input's own where all values are 0."""
    widest = range_scale(values, low, high)
    if widest == 0:
        return input_scale
    exponent = int(np.ceil(np.log2(widest / input_scale)))
    candidates = [input_scale * 2.0 ** (exponent - step) for step in range(FINER_STEPS + 1)]
    return best_scale(values, candidates, low, high)


def layer_scales(
    name: str,
    *,
    weight: FloatArray,
    bias: FloatArray,
    input_scale: float,
    output_scale: float,
    bits: int,
    form: Requantize,
    power_of_two: bool = True,
    per_layer: bool = False,
    offset: bool = True,
) -> LayerScales:
    """Scales and shifts of a layer's weights by least squares, for each channel, such that shift and bias fit.

    Ratios of scales are powers of two, or (not ``power_of_two``) any ``multiplier / 2^shift`` with a multiplier as
    large as the machine allows; the weights' scale is then exactly what these two say.

    The output's scale is doubled as often as it takes.

    Args:
        per_layer: one shift for all channels.
        offset: the bias register holds the rounding offset too; else the machine rounds by itself.

    Raises:
        QuantizationError: naming layer, channel, value and limit where `DOUBLINGS` are not enough.
    """
    choose = partial(_shifts, per_layer=per_layer, offset=offset) if power_of_two else _multipliers
    scale = output_scale
    for _ in range(DOUBLINGS + 1):
        multiplier, shift, trouble = choose(weight, bias, scale / input_scale, scale=scale, bits=bits, form=form)
        if not trouble:
            ratio = multiplier * np.exp2(-shift.astype(np.float64))
            return LayerScales(scale, np.asarray(ratio * (scale / input_scale)), multiplier, shift)
        scale *= 2
    raise QuantizationError(f"{name}: {trouble}, even with an output scale {2**DOUBLINGS} times as coarse.")


def _shifts(
    weight: FloatArray,
    bias: FloatArray,
    ratio: float,
    *,
    scale: float,
    bits: int,
    form: Requantize,
    per_layer: bool = False,
    offset: bool = True,
) -> Chosen:
    """Multipliers of 1, the shift of each channel, and what does not fit (or an empty text)."""
    flat = weight.reshape(weight.shape[0], -1)
    limit, unit = 2 ** (bits - 1) - 1, 2.0**form.bias_shift
    least, most = form.shift
    candidates = np.arange(most, least - 2, -1)  # the larger of two equally good ones; one below what exists
    errors, bounds = np.empty((len(candidates), len(flat))), np.empty((len(candidates), len(flat)))
    for row, shift in enumerate(candidates):
        step = ratio * 2.0 ** -float(shift)
        whole = np.clip(np.rint(flat / step), -limit, limit)
        errors[row] = ((whole * step - flat) ** 2).sum(axis=1)
        if form.bias_shift:  # a bias that is rounded to a multiple
            sums = bias / scale * 2.0 ** float(shift)
            errors[row] += ((unit * np.rint(sums / unit) - sums) * step / ORDINARY_INPUT) ** 2
        bounds[row] = np.abs(whole).sum(axis=1) * 255 + 256 * 2.0 ** float(shift)
    needed = np.abs(bias / scale)[None, :] * 2.0 ** candidates[:, None]
    if offset:
        needed = needed + 2.0 ** (candidates[:, None] - 1)
    most_bias = (2 ** (form.bias_bits - 1) - 1) * unit
    constant = (needed > bounds) & (most_bias > bounds)  # always clipped, and so it is with the largest bias that fits
    fits = (needed < most_bias) | constant
    if per_layer:
        fits = np.repeat(fits.all(axis=1, keepdims=True), len(flat), axis=1)
        errors = np.repeat(errors.sum(axis=1, keepdims=True), len(flat), axis=1)
    for channel in sorted(np.flatnonzero(~fits[:-1].any(axis=0)), key=lambda each: -abs(bias[each])):
        value = abs(bias[channel] / scale)
        return _NONE, _NONE, f"the bias of channel {channel} is {value:.3g} output steps, beyond {form.bias_bits} bits"
    shifts = candidates[np.argmin(np.where(fits, errors, np.inf), axis=0)]
    for channel in np.flatnonzero(shifts < least):
        largest = np.abs(flat[channel]).max()
        found = f"{largest:.3g}, {largest / ratio:.3g} times output scale / input scale"
        return _NONE, _NONE, f"channel {channel} has a weight of {found}, which needs a shift below {least}"
    return np.ones(len(flat), np.int64), shifts.astype(np.int64), ""


def _multipliers(
    weight: FloatArray, bias: FloatArray, ratio: float, *, scale: float, bits: int, form: Requantize
) -> Chosen:
    """Multiplier and shift of each channel, and what does not fit (or an empty text).

    Steps between the range of the weights and a sixteenth of it are tried; none is so fine that the bias leaves its
    width, or so fine that the largest shift leaves no multiplier.
    """
    flat = weight.reshape(weight.shape[0], -1)
    limit, largest = 2 ** (bits - 1) - 1, 2**form.multiplier_bits - 1
    widest = np.abs(flat).max(axis=1) / limit / ratio
    widest = np.where(widest > 0, widest, DEAD_RATIO)
    room = 2 ** (min(form.bias_bits, BIAS_BITS) - 1) - 1
    clipped = np.abs(flat).sum(axis=1) * MOST_INPUT / ratio + MOST_STEPS  # a bias beyond is clipped, whatever comes
    steps = np.minimum(np.abs(bias / scale), clipped)
    finest = np.maximum(BIAS_HEADROOM * (steps + 0.5) / room, (largest + 1) / 2.0 ** (form.shift[1] + 1))
    for channel in np.flatnonzero(np.maximum(widest, finest) * 2.0 ** form.shift[0] > largest):
        value, found = abs(bias[channel] / scale), np.abs(flat[channel]).max()
        text = f"channel {channel} has a weight of {found:.3g} and a bias of {value:.3g} output steps, which need a "
        return _NONE, _NONE, text + f"multiplier above {largest} or a bias beyond {form.bias_bits} bits"
    best = np.full(len(flat), np.inf)
    multipliers, shifts = np.zeros(len(flat), np.int64), np.zeros(len(flat), np.int64)
    for step in range(STEPS_A_HALVING * FINER_STEPS + 1):
        wanted = np.maximum(widest * 2.0 ** (-step / STEPS_A_HALVING), finest)
        shift = np.clip(np.floor(np.log2(largest / wanted)), *form.shift)
        multiplier = np.rint(wanted * 2.0**shift)
        step_size = (multiplier * 2.0**-shift * ratio)[:, None]
        errors = ((np.clip(np.rint(flat / step_size), -limit, limit) * step_size - flat) ** 2).sum(axis=1)
        better = errors < best  # of equal ones the first, which is the coarsest
        best[better], multipliers[better], shifts[better] = errors[better], multiplier[better], shift[better]
    return multipliers, shifts, ""


def pool_shift(sums: FloatArray, input_scale: float, area: int, *, low: int, high: int, most: int) -> int:
    """The shift of a global sum, by least squares, from the one that can never clip downwards.

    Args:
        sums: real values of the average.
        most: the largest shift that the machine has.
    """
    safe = min(int(np.ceil(np.log2(area))), most)
    candidates = [input_scale * 2.0**shift / area for shift in range(safe, max(safe - FINER_STEPS, 0) - 1, -1)]
    return safe - candidates.index(best_scale(sums, candidates, low, high))


@dataclass(frozen=True)
class InputNumbers:
    """Numbers of the input step, one a channel: ``clip(floor((x + bias) * multiplier) >> shift)``."""

    bias: NDArray[np.float32]
    multiplier: NDArray[np.int64]
    shift: NDArray[np.int64]


MULTIPLIER_BITS = 12  # of magnitude
LEAST_MULTIPLIER = 128  # 8 bits of magnitude
MOST_MULTIPLIER = 2**24  # float32 holds it; more than 12 bits only for variables so small that no shift is left
MOST_SHIFT = 23  # so that (x + bias) * multiplier of an unclipped input stays below 2^30


def input_numbers(name: str, bias: FloatArray, factor: FloatArray, scale: float, bits: int = 8) -> InputNumbers:
    """Multiplier and shift of each channel for ``(x + bias) * factor / scale``, rounded to nearest.

    Args:
        bits: of the result; each bit less than 8 leaves one more for the shift.

    Raises:
        QuantizationError: naming the channel, where the factor is too large for a shift to the right, or rounds to 0.
    """
    wanted, most = factor / scale, MOST_SHIFT + 8 - bits
    shift = np.clip(MULTIPLIER_BITS - 1 - np.floor(np.log2(np.abs(wanted))), 0, most).astype(np.int64)
    multiplier = np.rint(wanted * 2.0**shift)
    over = np.abs(multiplier) >= 2**MULTIPLIER_BITS
    shift = np.where(over & (shift > 0), shift - 1, shift)
    multiplier = np.rint(wanted * 2.0**shift).astype(np.int64)
    for channel in range(len(wanted)):
        if not LEAST_MULTIPLIER <= abs(multiplier[channel]) <= MOST_MULTIPLIER:
            raise QuantizationError(
                f"{name}: variable {channel} needs the factor {wanted[channel]:.3g}, which no multiplier of 8 to 24 "
                f"bits with a shift of 0 to {most} gives. "
                f"Scale the variable by {2.0 ** np.rint(np.log2(abs(wanted[channel]))):.3g} in the feature extraction."
            )
    half = 0.5 * 2.0**shift / multiplier  # floor((x + bias) * m / 2^r) rounds to nearest with half a step added
    return InputNumbers((bias + half).astype(np.float32), multiplier, shift)
