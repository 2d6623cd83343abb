"""The parts of the trained network that have no weights: whole numbers in, whole numbers out, in float tensors."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowlab.quant.activation import activate
from flowlab.quant.calibrate import Scales
from flowlab.quant.fake_layer import EXACT, clip_limits
from flowlab.quant.fake_quantize import floor_clip, lookup
from flowlab.quant.real_value import take
from flowlab.quant.steps import (
    AddStep,
    AverageStep,
    FlattenStep,
    InputStep,
    PoolStep,
    ReshapeStep,
    Step,
    SumStep,
    TableStep,
    TakeStep,
    sources_of,
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


class FakeSum(nn.Module):
    """A global average, a sum or a product: whole sums, offset, multiplier, shift."""

    def __init__(self, step: SumStep, scales: Scales) -> None:
        super().__init__()
        self.kind = type(step)
        self.multiplier, self.shift = scales.sums[step.name]
        self.offset = float(round(2.0 ** (self.shift - 1) / self.multiplier)) if self.shift else 0.0
        self.ratio = self.multiplier * 2.0**-self.shift
        self.low, self.high = clip_limits(step.clip, scales.scale[value_of(step)], scales.range[value_of(step)])
        most = [max(map(abs, scales.range[source])) for source in sources_of(step)]
        if isinstance(step, AverageStep):
            bound = most[0] * step.area
        else:
            bound = sum(most) if isinstance(step, AddStep) else most[0] * most[1]
        self.wide = (bound + self.offset) * self.multiplier >= EXACT

    def forward(self, *inputs: Tensor) -> Tensor:
        """Integers -> integers."""
        x = inputs[0]
        wide = self.wide and not self.training  # a tie may fall otherwise in training, never in evaluation
        if wide:
            inputs = tuple(each.double() for each in inputs)
        sums = self._sums(*inputs)
        return floor_clip((sums + self.offset) * self.ratio, self.low, self.high).to(x.dtype)

    def _sums(self, *inputs: Tensor) -> Tensor:
        if self.kind is AverageStep:
            return inputs[0].sum(dim=(2, 3), keepdim=True)
        return inputs[0] + inputs[1] if self.kind is AddStep else inputs[0] * inputs[1]


class FakeMove(nn.Module):
    """Elements in another shape, or taken by number; series that are trained turned lie in the same order."""

    index: Tensor | None

    def __init__(self, step: ReshapeStep | TakeStep, turned: bool) -> None:
        super().__init__()
        self.shape = (step.shape[0], step.shape[2], step.shape[1]) if turned and len(step.shape) == 3 else step.shape
        index = torch.from_numpy(step.index).long() if isinstance(step, TakeStep) else None
        self.register_buffer("index", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Integers -> integers."""
        return x.reshape(len(x), *self.shape) if self.index is None else take(x, self.index, self.shape)


class FakeConcat(nn.Module):
    """Two values behind one another."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Integers -> integers."""
        return torch.cat(inputs, dim=1)


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


def part_of(step: Step, scales: Scales, *, turned: bool) -> nn.Module:
    """The part that computes a step without weights; ``turned``: with height and width exchanged."""
    if isinstance(step, InputStep):
        return FakeInput(step, scales)
    if isinstance(step, SumStep):
        return FakeSum(step, scales)
    if isinstance(step, PoolStep):
        return FakePool(step, scales.range[step.source][0], turned)
    if isinstance(step, ReshapeStep | TakeStep):
        return FakeMove(step, turned)
    if isinstance(step, TableStep):
        return FakeTable(step, scales)
    return nn.Flatten() if isinstance(step, FlattenStep) else FakeConcat()
