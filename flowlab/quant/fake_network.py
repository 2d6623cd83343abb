"""The network as it is trained: whole numbers forwards, gradients straight through.

Every value is a whole number in a float tensor, computed by the very arithmetic that ships, so in evaluation mode the
result is the integers' to the bit; only the last multiplication by the output's scale makes real logits of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowlab.contracts import NumberFormat
from flowlab.quant.activation import activate
from flowlab.quant.calibrate import Scales
from flowlab.quant.fake_layer import FakeLayer, LayerForm, View, clip_limits
from flowlab.quant.fake_quantize import floor_clip, lookup
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
    """The whole network: float32 features (batch, channel, height, width) -> real outputs, whole numbers inside.

    Its norms may be live for the first part of a training: `begin_epoch` says where it stands, and once the part is
    over they are frozen for good. Evaluation is what ships at any time.
    """

    def __init__(
        self,
        steps: Steps,
        scales: Scales,
        format: NumberFormat,
        bits: int,
        *,
        bits_of: Mapping[str, int] | None = None,
        live: float = 0.0,
        learn_scales: bool = False,
        parameters: Mapping[str, nn.Parameter] | None = None,
        views: Mapping[str, View] | None = None,
    ) -> None:
        """
        Args:
            bits: of the weights; ``bits_of`` of single steps, by name.
            live: share of the epochs with live norms, 0 to 1.
            learn_scales: train the weights' scales where their ratios are free.
            parameters: used in place of own copies, by ``<node>.<constant>`` of the float graph; ``views``, by step,
                turn a module's weight into the step's shape.
        """
        super().__init__()
        self.plan, self.scales, self.format, self.live = steps, scales, format, live
        self.bits_of = {step.name: (bits_of or {}).get(step.name, bits) for step in steps.steps}
        self.turned = _can_turn(steps)
        self.low_of = {name: limits[0] for name, limits in scales.range.items()}
        how = LayerForm(live > 0, learn_scales, parameters, views)
        self.parts = nn.ModuleList(self._part(step, how) for step in steps.steps)
        self.output_scale = float(np.float32(scales.scale[steps.output]))
        self.set_live(live > 0)

    @property
    def finished(self) -> bool:
        """Whether every norm is frozen."""
        return not any(part.live for part in self.layers())

    def layers(self) -> list[FakeLayer]:
        """The parts with weights, in order."""
        return [part for part in self.parts if isinstance(part, FakeLayer)]

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Freeze the norms where their part of the ``epochs`` is over; ``epoch`` counts from 0."""
        self.set_live(epoch < round(self.live * epochs))

    def finish(self) -> None:
        """Freeze what is still live, now."""
        self.set_live(False)

    def set_live(self, live: bool) -> None:
        """Let all norms use the statistics of the batch in training, or freeze them."""
        for part in self.layers():
            if live:
                part.live = part.gamma is not None
            else:
                part.freeze()

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

    def _part(self, step: Step, how: LayerForm) -> nn.Module:
        if isinstance(step, InputStep):
            return FakeInput(step, self.scales)
        if isinstance(step, LayerStep):
            return self._layer(step, how)
        if isinstance(step, AverageStep):
            return FakeAverage(step, self.scales)
        if isinstance(step, PoolStep):
            return FakePool(step, self.low_of[step.source], self.turned)
        return nn.Flatten() if isinstance(step, FlattenStep) else FakeTable(step, self.scales)

    def _layer(self, step: LayerStep, how: LayerForm) -> FakeLayer:
        bits = self.bits_of[step.name]
        return FakeLayer(
            step,
            self.scales,
            bits=bits,
            form=self.format.by_weight_bits[bits],
            power_of_two=self.format.power_of_two_scales.get(bits, False),
            turned=self.turned,
            how=how,
        )


def _can_turn(steps: Steps) -> bool:
    """Series that lie along the height are trained along the width: the same sums, two to three times faster."""
    shapes = [steps.input_shape, *(step.shape for step in steps.steps)]
    return all(len(shape) != 3 or shape[2] == 1 for shape in shapes) and len(steps.input_shape) == 3
