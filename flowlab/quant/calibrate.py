"""Choose all scales of a network from calibration data: the real values of every step, then a scale for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from flowlab.contracts import NumberFormat
from flowlab.errors import QuantizationError
from flowlab.quant import observe
from flowlab.quant.activation import activate
from flowlab.quant.convolve import convolve, pad
from flowlab.quant.steps import (
    AverageStep,
    FlattenStep,
    FloatArray,
    InputStep,
    LayerStep,
    PoolStep,
    Step,
    Steps,
    TableStep,
    value_of,
)

OUTPUT_BITS = 8  # of the network's output, whatever the activations have: narrower ones tie


@dataclass(frozen=True)
class Scales:
    """What calibration decides.

    ``scale`` and ``range`` (least and most integer of the type) of every value; for layers their weights' scales and
    shifts; for averages their shift; for the input step its numbers.
    """

    scale: dict[str, float] = field(default_factory=dict)
    range: dict[str, tuple[int, int]] = field(default_factory=dict)
    layers: dict[str, observe.LayerScales] = field(default_factory=dict)
    averages: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, observe.InputNumbers] = field(default_factory=dict)


@dataclass(frozen=True)
class _Widths:
    """What the choice of one network's scales needs to know besides its values."""

    format: NumberFormat
    weight: int
    weight_of: Mapping[str, int]  # of single steps
    activation: int
    output: str
    wide: frozenset[str]  # values that keep 8 bits

    def weights(self, step: Step) -> int:
        """Of a layer's weights."""
        return self.weight_of.get(step.name, self.weight)

    def free(self, step: Step) -> bool:
        """Whether ratios of a layer's scales may be anything."""
        return not self.format.power_of_two_scales.get(self.weights(step), False)

    def bits(self, name: str) -> int:
        """Of a value."""
        return OUTPUT_BITS if name in self.wide else self.activation


def calibrate(
    steps: Steps,
    features: NDArray[np.float32],
    format: NumberFormat,
    weight_bits: int,
    activation_bits: int = 8,
    *,
    bits_of: Mapping[str, int] | None = None,
) -> Scales:
    """Scales of every value and layer.

    Every value between the layers has ``activation_bits``, the quantized input too: it is an activation like the
    others (npu-arithmetic, section 1). Only the network's output keeps 8 bits, with the value that a pool or a change
    of shape hands on to it.

    Args:
        features: calibration windows from the training split, shape ``(window, channel, height, width)``.
        bits_of: weight bits of single steps, by name.

    Raises:
        QuantizationError: naming the layer, for data that are not finite, for a tensor that an outlier flattens, and
            where no scales fit the number format.
    """
    if len(features) == 0:
        raise QuantizationError("there are no calibration windows; take some from the training split.")
    observe.check_finite(steps.input, features)
    for bits in (weight_bits, *(bits_of or {}).values()):
        if bits not in format.by_weight_bits:
            raise QuantizationError(f"number format '{format.name}' has no {bits}-bit weights.")
    widths = _Widths(format, weight_bits, bits_of or {}, activation_bits, steps.output, _wide(steps))
    scales = Scales()
    values = {steps.input: torch.from_numpy(np.ascontiguousarray(features)).double()}
    with torch.no_grad():
        for step in steps.steps:
            name = value_of(step)
            value = values[name] = real_value(step, values[step.source])
            observe.check_finite(name, value.numpy())
            _choose(scales, step, value, widths)
    return scales


def real_value(step: Step, x: Tensor) -> Tensor:
    """What a step computes on real values, in the dtype of ``x``; a batch first."""
    if isinstance(step, InputStep):
        return (x + _channels(step.bias, x)) * _channels(step.factor, x)
    if isinstance(step, LayerStep):
        weight, bias = torch.from_numpy(step.weight).to(x), torch.from_numpy(step.bias).to(x)
        result = (
            convolve(x, weight, step.geometry) + _channels(step.bias, x) if step.geometry else F.linear(x, weight, bias)
        )
        return result.clamp(*step.clip)
    if isinstance(step, AverageStep):
        return x.mean(dim=(2, 3), keepdim=True).clamp(*step.clip)
    if isinstance(step, PoolStep):
        return F.max_pool2d(pad(x, step.padding, -torch.inf), step.kernel, step.stride)
    if isinstance(step, FlattenStep):
        return x.flatten(1)
    return activate(step.function, step.attributes, x)


def _channels(values: NDArray[np.float64], like: Tensor) -> Tensor:
    """One value a channel, shaped to broadcast over a batch like ``like``."""
    return torch.from_numpy(values).to(like).reshape((1, -1) + (1,) * (like.ndim - 2))


def _wide(steps: Steps) -> frozenset[str]:
    """The output, and what stands behind it without a scale of its own."""
    makers = {value_of(step): step for step in steps.steps}
    names = [steps.output]
    while isinstance(step := makers[names[-1]], PoolStep | FlattenStep):
        names.append(step.source)
    return frozenset(names)


def _choose(scales: Scales, step: Step, value: Tensor, widths: _Widths) -> None:
    name, values = value_of(step), observe.sample(value.numpy())
    if isinstance(step, PoolStep | FlattenStep):
        scales.scale[name], scales.range[name] = scales.scale[step.source], scales.range[step.source]
        return
    bits, form = widths.bits(name), widths.format.by_weight_bits[widths.weights(step)]
    low, high = scales.range[name] = _range(step, scales, bits)
    if isinstance(step, InputStep):
        scales.scale[name] = observe.input_scale(name, values, low, high)
        observe.check_levels(name, values, scales.scale[name], 2**bits)
        scales.inputs[name] = observe.input_numbers(name, step.bias, step.factor, scales.scale[name], bits)
    elif isinstance(step, LayerStep):
        source = scales.scale[step.source]
        choose = observe.free_scale if widths.free(step) else observe.ratio_scale
        last = name == widths.output
        wanted = _output_scale(values, low, high) if last else choose(values, source, low, high)
        scales.layers[step.name] = observe.layer_scales(
            step.name,
            weight=step.weight,
            bias=step.bias,
            input_scale=source,
            output_scale=wanted or source,
            bits=widths.weights(step),
            form=form,
            power_of_two=not widths.free(step),
        )
        scales.scale[name] = scales.layers[step.name].output
    elif isinstance(step, AverageStep):
        source, most = scales.scale[step.source], form.shift[1]
        shift = observe.pool_shift(values, source, step.area, low=low, high=high, most=most)
        scales.averages[step.name] = shift
        scales.scale[name] = source * 2.0**shift / step.area
    else:
        scales.scale[name] = observe.range_scale(values, low, high) or scales.scale[step.source]
    observe.check_levels(name, values, scales.scale[name], 2**bits)


def _output_scale(values: FloatArray, low: int, high: int) -> float:
    return observe.range_scale(values, low, high) * observe.HEADROOM


def _range(step: Step, scales: Scales, bits: int) -> tuple[int, int]:
    unsigned = False
    if isinstance(step, LayerStep):
        unsigned = step.clip[0] == 0
    elif isinstance(step, AverageStep):
        unsigned = step.clip[0] == 0 or scales.range[step.source][0] == 0
    elif isinstance(step, TableStep):
        unsigned = step.function == "relu"
    return (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
