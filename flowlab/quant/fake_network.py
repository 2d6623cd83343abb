"""The network as it is trained: whole numbers forwards, gradients straight through.

Every value is a whole number in a float tensor, computed by the very arithmetic that ships, so in evaluation mode the
result is the integers' to the bit; only the last multiplication by the output's scale makes real logits of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from flowlab.contracts import Requantize
from flowlab.errors import QuantizationError
from flowlab.quant.activation import activate
from flowlab.quant.calibrate import Scales
from flowlab.quant.convolve import convolve, turn
from flowlab.quant.fake_quantize import floor_clip, lookup, round_clip
from flowlab.quant.steps import (
    AverageStep,
    FlattenStep,
    InputStep,
    LayerStep,
    PoolStep,
    Step,
    Steps,
    TableStep,
    value_of,
)

EXACT = 2.0**24  # float32 holds every whole number up to here
MOST_BIAS_BITS = 31  # so that a sum and its bias stay inside 32 bits, whatever the machine has for a bias


@dataclass(frozen=True)
class LayerIntegers:
    """The integers of a layer as they ship: weight int8; bias (with the rounding offset), multiplier, shift int32."""

    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    multiplier: NDArray[np.int32]
    shift: NDArray[np.int32]


class FakeInput(nn.Module):
    """The input step: float32 features -> integers."""

    bias: Tensor
    multiplier: Tensor
    divisor: Tensor

    def __init__(self, step: InputStep, scales: Scales) -> None:
        super().__init__()
        numbers = scales.inputs[step.name]
        shape = (1, -1) + (1,) * (len(step.shape) - 1)
        self.register_buffer("bias", torch.from_numpy(numbers.bias).reshape(shape))
        self.register_buffer("multiplier", torch.from_numpy(numbers.multiplier.astype(np.float32)).reshape(shape))
        self.register_buffer("divisor", torch.from_numpy(np.exp2(numbers.shift).astype(np.float32)).reshape(shape))
        self.low, self.high = scales.range[step.name]

    def forward(self, x: Tensor) -> Tensor:
        """Floor of the float32 product, shifted to the right, clipped."""
        whole = torch.floor((x + self.bias) * self.multiplier)
        return torch.floor(whole / self.divisor).clamp_(self.low, self.high)


class FakeLayer(nn.Module):
    """A convolution or fully connected layer with its requantization; weights and biases are trained."""

    weight_scale: Tensor
    sum_scale: Tensor
    offset: Tensor
    factor: Tensor

    def __init__(self, step: LayerStep, scales: Scales, *, bits: int, form: Requantize, turned: bool) -> None:
        super().__init__()
        chosen, source = scales.layers[step.name], scales.scale[step.source]
        self.step, self.turned = step, turned
        self.weight = nn.Parameter(torch.from_numpy(step.weight).float())
        self.bias = nn.Parameter(torch.from_numpy(step.bias).float())
        self.weight_limit = 2 ** (bits - 1) - 1
        self.bias_bits = min(form.bias_bits, MOST_BIAS_BITS)
        self.multiplier, self.shift = chosen.multiplier, chosen.shift
        channels = (-1,) + (1,) * (step.weight.ndim - 1)
        self.register_buffer("weight_scale", torch.from_numpy(chosen.weight).float().reshape(channels))
        self.register_buffer("sum_scale", torch.from_numpy(chosen.weight * source).float())
        half = np.where(chosen.shift > 0, np.exp2(chosen.shift - 1.0) / chosen.multiplier, 0.0)
        self.register_buffer("offset", torch.from_numpy(half).float())
        shape = (1, -1) + (1,) * (len(step.shape) - 1)
        self.register_buffer(
            "factor",
            torch.from_numpy(chosen.multiplier * np.exp2(-chosen.shift.astype(np.float64))).float().reshape(shape),
        )
        self.low, self.high = clip_limits(step.clip, scales.scale[value_of(step)], scales.range[value_of(step)])
        self.largest_input = float(max(abs(limit) for limit in scales.range[step.source]))
        self.geometry = turn(step.geometry) if turned else dict(step.geometry)

    def forward(self, x: Tensor) -> Tensor:
        """Integers -> integers."""
        weight = self.whole_weight()
        bias = self.whole_bias()
        if self.training:  # a rounding of the product may move a value that lies at a tie; never in evaluation
            return self._requantize(self._sums(x, weight, bias))
        bounds = weight.abs().flatten(1).sum(1) * self.largest_input + bias.abs()
        if bool(bounds.max() >= EXACT):
            return self._requantize(self._sums(x.double(), weight.double(), bias.double())).float()
        sums = self._sums(x, weight, bias)
        if bool((bounds.double() * torch.from_numpy(self.multiplier)).max() >= EXACT):
            return self._requantize(sums.double()).float()
        return self._requantize(sums)

    def whole_weight(self) -> Tensor:
        """The weights as they ship."""
        return round_clip(self.weight / self.weight_scale, -self.weight_limit, self.weight_limit)

    def whole_bias(self) -> Tensor:
        """The biases as they ship, with the rounding offset."""
        limit = 2.0 ** (self.bias_bits - 1) - 1
        return round_clip(self.bias / self.sum_scale + self.offset, -limit, limit)

    def _sums(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if self.step.geometry:
            return convolve(x, weight.transpose(2, 3) if self.turned else weight, self.geometry, bias)
        return F.linear(x, weight, bias)

    def _requantize(self, sums: Tensor) -> Tensor:
        return floor_clip(sums * self.factor.to(sums.dtype), self.low, self.high)

    def integers(self) -> LayerIntegers:
        """What ships.

        Raises:
            QuantizationError: naming the channel, where training moved a bias out of the machine's width.
        """
        with torch.no_grad():
            weight, bias = self.whole_weight().double(), self.whole_bias().double()
            limit = 2.0 ** (self.bias_bits - 1) - 1
            wanted = torch.round(self.bias / self.sum_scale + self.offset).double()
            bounds = weight.abs().flatten(1).sum(1) * self.largest_input
        clipped = bounds + 256 * 2.0 ** torch.from_numpy(self.shift) / torch.from_numpy(self.multiplier)
        for channel in torch.nonzero((wanted.abs() > limit) & (limit <= clipped)):
            raise QuantizationError(
                f"{self.step.name}: the bias of channel {int(channel)} became {float(wanted[channel]):.0f}, and the "
                f"machine holds {self.bias_bits} bits. Use a lower learning rate or more calibration data."
            )
        return LayerIntegers(
            weight.numpy().astype(np.int8),
            bias.numpy().astype(np.int32),
            self.multiplier.astype(np.int32),
            self.shift.astype(np.int32),
        )


class FakeAverage(nn.Module):
    """A global average: sum, offset, shift."""

    def __init__(self, step: AverageStep, scales: Scales) -> None:
        super().__init__()
        self.shift = scales.averages[step.name]
        self.offset = 2.0 ** (self.shift - 1) if self.shift else 0.0
        self.low, self.high = clip_limits(step.clip, scales.scale[value_of(step)], scales.range[value_of(step)])

    def forward(self, x: Tensor) -> Tensor:
        """Integers -> integers."""
        return floor_clip((x.sum(dim=(2, 3), keepdim=True) + self.offset) * 2.0**-self.shift, self.low, self.high)


class FakePool(nn.Module):
    """A maximum pool on integers."""

    def __init__(self, step: PoolStep, low: int, turned: bool) -> None:
        super().__init__()
        top, left, bottom, right = step.padding
        kernel, stride = step.kernel, step.stride
        if turned:
            top, left, bottom, right = left, top, right, bottom
            kernel, stride = (kernel[1], kernel[0]), (stride[1], stride[0])
        self.kernel, self.stride = kernel, stride
        self.padding = (left, right, top, bottom)
        self.even = (
            (top, left) if (top, left) == (bottom, right) and 2 * top <= kernel[0] and 2 * left <= kernel[1] else None
        )
        self.low = low

    def forward(self, x: Tensor) -> Tensor:
        """Integers -> integers; padding never wins."""
        if self.even is not None:
            return F.max_pool2d(x, self.kernel, self.stride, self.even)
        return F.max_pool2d(F.pad(x, self.padding, value=-torch.inf), self.kernel, self.stride)


class FakeTable(nn.Module):
    """An activation as a table with one entry for each integer of its input."""

    entries: Tensor
    slopes: Tensor

    def __init__(self, step: TableStep, scales: Scales) -> None:
        super().__init__()
        source, scale = scales.scale[step.source], scales.scale[step.name]
        self.least, self.most = scales.range[step.source]
        self.low, self.high = scales.range[step.name]
        x = (torch.arange(self.least, self.most + 1, dtype=torch.float64) * source).requires_grad_()
        with torch.enable_grad():
            y = activate(step.function, step.attributes, x)
            (slopes,) = torch.autograd.grad(y.sum(), x)
        self.register_buffer("entries", torch.round(y.detach() / scale).clamp(self.low, self.high).float())
        self.register_buffer("slopes", (slopes * source / scale).float())

    def forward(self, x: Tensor) -> Tensor:
        """Integers -> integers."""
        return lookup(x, self.entries, self.slopes, self.least)


class FakeQuantized(nn.Module):
    """The whole network: float32 features (batch, channel, height, width) -> real outputs, whole numbers inside."""

    def __init__(self, steps: Steps, scales: Scales, bits: int, form: Requantize) -> None:
        super().__init__()
        self.plan, self.scales = steps, scales
        self.turned = _can_turn(steps)
        self.low_of = {name: limits[0] for name, limits in scales.range.items()}
        self.parts = nn.ModuleList(self._part(step, bits, form) for step in steps.steps)
        self.output_scale = float(np.float32(scales.scale[steps.output]))

    def forward(self, x: Tensor) -> Tensor:
        """Real outputs: integers times the output's scale, one float32 multiplication."""
        return self.whole_numbers(x) * self.output_scale

    def whole_numbers(self, x: Tensor) -> Tensor:
        """The network's output as whole numbers in float32."""
        return self._back(self._values(x)[self.plan.output])

    def values(self, x: Tensor) -> dict[str, Tensor]:
        """Every value of the network by name, as whole numbers in float32 (the input itself: real)."""
        return {name: self._back(value) for name, value in self._values(x).items()}

    def _values(self, x: Tensor) -> dict[str, Tensor]:
        if self.turned:
            x = x.transpose(2, 3).contiguous(memory_format=torch.channels_last)
        values = {self.plan.input: x}
        for step, part in zip(self.plan.steps, self.parts, strict=True):
            values[value_of(step)] = part(values[step.source])
        return values

    def _back(self, value: Tensor) -> Tensor:
        return value.transpose(2, 3) if self.turned and value.ndim == 4 else value

    def _part(self, step: Step, bits: int, form: Requantize) -> nn.Module:
        if isinstance(step, InputStep):
            return FakeInput(step, self.scales)
        if isinstance(step, LayerStep):
            return FakeLayer(step, self.scales, bits=bits, form=form, turned=self.turned)
        if isinstance(step, AverageStep):
            return FakeAverage(step, self.scales)
        if isinstance(step, PoolStep):
            return FakePool(step, self.low_of[step.source], self.turned)
        return nn.Flatten() if isinstance(step, FlattenStep) else FakeTable(step, self.scales)


def clip_limits(clip: tuple[float, float], scale: float, limits: tuple[int, int]) -> tuple[int, int]:
    """The clip of the real value in integers, within the type's limits."""
    low = limits[0] if clip[0] == -np.inf else max(limits[0], int(np.rint(clip[0] / scale)))
    high = limits[1] if clip[1] == np.inf else min(limits[1], int(np.rint(clip[1] / scale)))
    return low, high


def _can_turn(steps: Steps) -> bool:
    """Series that lie along the height are trained along the width: the same sums, two to three times faster."""
    shapes = [steps.input_shape, *(step.shape for step in steps.steps)]
    return all(len(shape) != 3 or shape[2] == 1 for shape in shapes) and len(steps.input_shape) == 3
