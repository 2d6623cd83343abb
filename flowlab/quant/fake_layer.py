"""A convolution or fully connected layer as it is trained: raw weights and the norm behind them, folded on the fly.

Three forms of one layer, and one arithmetic:

* *frozen* training folds the norm by its running statistics, and computes with hard-rounded weights and biases;
* *live* training lets the norm use the statistics of the batch, behind hard-rounded weights;
* evaluation is always what ships, to the bit: the frozen fold as weight, bias, multiplier and shift.

Where ratios of scales are free, a weight's scale belongs to the raw weight: the fold goes into the multiplier and its
sign into the integers, which therefore do not change when a norm stops being live. Where they are powers of two, the
shifts stay as calibration chose them, and the folded weight is rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from flowlab.contracts import Requantize
from flowlab.errors import QuantizationError
from flowlab.quant.calibrate import Scales
from flowlab.quant.convolve import channels_last, convolve, turn
from flowlab.quant.fake_quantize import clip_floor, floor_clip, round_clip, round_scaled, scaled
from flowlab.quant.observe import BIAS_BITS, DEAD_RATIO, MOST_STEPS, LayerScales
from flowlab.quant.steps import LayerStep, value_of

EXACT = 2.0**24  # float32 holds every whole number up to here
MOST_BIAS_BITS = 31  # so that a sum and its bias stay inside 32 bits, whatever the machine has for a bias
MOMENTUM = 0.1  # of a live norm's running statistics, torch's own
LEAST_MOVED = 0.25  # of the variance that a norm had; less is no statistic to change to
BIAS_ROOM = 1.01  # a register is a hundredth larger than what it is chosen for
DEAD_SHIFT = 4  # `DEAD_RATIO` with a multiplier of 1: of a filter of zeros only the bias is left

View = Callable[[Tensor], Tensor]  # from a module's parameter to the shape of the step's weight


@dataclass(frozen=True)
class LayerIntegers:
    """The integers of a layer as they ship: weight int8; bias (with the rounding offset), multiplier, shift int32.

    ``floats`` are there where the bias is a float: ratio and bias (with the rounding offset) in steps of the output,
    float32, which then stand for the other three.
    """

    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    multiplier: NDArray[np.int32]
    shift: NDArray[np.int32]
    floats: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None


@dataclass(frozen=True)
class LayerForm:
    """How the layers of a network are trained.

    ``raw`` keeps the norm apart from the weight, so that it can be live or belong to a module; ``learn_scales`` trains
    the weights' scales where their ratios are free; ``parameters`` are used in place of own copies, by
    ``<node>.<constant>`` (the norm's by its own node), ``views`` turn them into the step's shape. ``float_bias`` leaves
    biases as they are, and adds them in float32 behind the ratio of scales.
    """

    raw: bool = False
    learn_scales: bool = False
    parameters: Mapping[str, nn.Parameter] | None = None
    views: Mapping[str, View] | None = None
    float_bias: bool = False


@dataclass(frozen=True)
class _Whole:
    """What ships, as tensors; ``ratio`` is multiplier / 2^shift exactly, ``bias`` is not yet rounded."""

    weight: Tensor
    bias: Tensor
    ratio: Tensor
    multiplier: Tensor
    shift: Tensor


class FakeLayer(nn.Module):
    """A layer with its requantization; weights, biases, norms and (where asked for) the weights' scales are trained."""

    scale: Tensor  # of the raw weight, one a channel; of the folded weight where ratios are powers of two
    sum_scale: Tensor  # these three: as calibration chose them
    ratio: Tensor
    multiplier: Tensor
    shift: Tensor
    alive: Tensor  # 0 for a filter that was all zero when its norm was frozen, and stays so
    mean: Tensor
    variance: Tensor

    def __init__(
        self,
        step: LayerStep,
        scales: Scales,
        *,
        bits: int,
        form: Requantize,
        power_of_two: bool,
        turned: bool,
        how: LayerForm,
        offset: bool = True,
    ) -> None:
        super().__init__()
        chosen = scales.layers[step.name]
        self.step, self.turned, self.bits, self.power_of_two, self.form = step, turned, bits, power_of_two, form
        self.weight_limit = 2 ** (bits - 1) - 1
        self.bias_bits, self.bias_unit = min(form.bias_bits, MOST_BIAS_BITS), 2.0**form.bias_shift
        self.offset = offset  # the bias register holds the rounding offset; else the machine rounds by itself
        self.source_scale, self.output_scale = scales.scale[step.source], scales.scale[value_of(step)]
        self.low, self.high = clip_limits(step.clip, self.output_scale, scales.range[value_of(step)])
        self.largest_input = float(max(abs(limit) for limit in scales.range[step.source]))
        self.geometry = turn(step.geometry) if turned else dict(step.geometry)
        self.view = (how.views or {}).get(step.name)
        self.live, self.float_bias, self.momentum = False, how.float_bias, MOMENTUM
        self._take_parameters(how)
        self._take_scales(chosen, how)

    def _take_parameters(self, how: LayerForm) -> None:
        step, given = self.step, how.parameters or {}
        raw = step.raw if how.raw or given else None
        norm = None if raw is None else raw.norm

        def parameter(name: str, value: NDArray[np.float64]) -> nn.Parameter:
            return given[name] if name in given else nn.Parameter(torch.from_numpy(np.array(value)).float())

        own = "" if norm is None or norm.name != step.name else "ones."  # a norm that stands alone has no weight but 1
        self.weight = parameter(f"{own}{step.name}.weight", step.weight if raw is None else raw.weight)
        self.bias = parameter(f"{own}{step.name}.bias", step.bias if raw is None else raw.bias)
        self.gamma = None if norm is None else parameter(f"{norm.name}.weight", norm.weight)
        self.beta = None if norm is None else parameter(f"{norm.name}.bias", norm.bias)
        self.epsilon = 0.0 if norm is None else norm.epsilon
        for name in ("mean", "variance"):
            self.register_buffer(name, None if norm is None else torch.tensor(getattr(norm, name)).float())

    def _take_scales(self, chosen: LayerScales, how: LayerForm) -> None:
        ratio = chosen.multiplier * np.exp2(-chosen.shift.astype(np.float64))
        self.register_buffer("sum_scale", torch.from_numpy(chosen.weight * self.source_scale).float())
        self.register_buffer("ratio", torch.from_numpy(ratio).float())
        self.register_buffer("multiplier", torch.from_numpy(chosen.multiplier).float())
        self.register_buffer("shift", torch.from_numpy(chosen.shift).float())
        self.register_buffer("alive", torch.ones(len(self.step.bias)))
        scale = torch.from_numpy(chosen.weight).float()
        if self.gamma is not None and not self.power_of_two:
            scale = scale / _or_one(self._factor().detach().abs())
        self.register_buffer("scale", scale)
        learned = how.learn_scales and not self.power_of_two
        self.finer = nn.Parameter(torch.zeros(len(scale))) if learned else None
        self.fixed = self.power_of_two or (self.gamma is None and not learned)  # multipliers and shifts do not move

    @property
    def has_statistics(self) -> bool:
        """Whether a batch norm stands behind the layer; a constant factor, which has no epsilon, is none."""
        return self.gamma is not None and self.epsilon > 0

    def forward(self, x: Tensor) -> Tensor:
        """Integers -> integers."""
        if not self.training:
            return self._shipped(x)
        if self.live and self.gamma is not None:
            sums = self._sums(x, self._live_weight(), self.bias)
            if sums.numel() > sums.shape[1]:  # one value has no variance
                return clip_floor(self._normed(sums), self.low, self.high)
        whole = self._whole()
        # the ratio stands inside the weights: that may move a value which lies at a tie, and never in evaluation
        sums = self._sums(x, whole.weight * self._beside(whole.ratio), self._rounded(whole) * whole.ratio)
        return clip_floor(sums, self.low, self.high)

    def _live_weight(self) -> Tensor:
        """Hard-rounded weights in their real size times the input's scale: sums are real values."""
        unit = self._scale()
        if self.power_of_two:
            unit = unit / _or_one(self._factor().detach())
        return self._rounded_weight(unit) * self._beside(unit * self.source_scale)

    def _normed(self, sums: Tensor) -> Tensor:
        """Output steps, half a step up for the floor."""
        assert self.gamma is not None
        assert self.beta is not None
        factor, offset = self.gamma / self.output_scale, self.beta / self.output_scale + 0.5
        return F.batch_norm(sums, self.mean, self.variance, factor, offset, True, self.momentum, self.epsilon)

    def _shipped(self, x: Tensor) -> Tensor:
        whole = self._whole()
        ratio = self._behind(whole.ratio)
        if self.float_bias:
            sums = self._exact_sums(x, whole.weight).float() * ratio + self._behind(whole.bias * whole.ratio)
            return floor_clip(sums, self.low, self.high)
        weight, bias = whole.weight, self._rounded(whole)
        bounds = weight.abs().flatten(1).sum(1) * self.largest_input + bias.abs()
        if bool(bounds.max() >= EXACT):
            sums = self._sums(x.double(), weight.double(), bias.double())
        else:
            sums = self._sums(x, weight, bias)
            if bool((bounds.double() * whole.multiplier).max() >= EXACT):
                sums = sums.double()
        return floor_clip(sums * ratio.to(sums.dtype), self.low, self.high).to(x.dtype)

    def _exact_sums(self, x: Tensor, weight: Tensor) -> Tensor:
        if bool((weight.abs().flatten(1).sum(1) * self.largest_input).max() < EXACT):
            return self._sums(x, weight, None)
        return self._sums(x.double(), weight.double(), None)

    def _behind(self, channels: Tensor) -> Tensor:
        """One value a channel, to stand beside the sums."""
        return channels.reshape(1, -1, 1, 1) if self.step.geometry else channels.reshape(1, -1)

    def freeze(self) -> None:
        """Stop the norm being live; a filter whose integers are all zero stays zero."""
        if self.live and self.gamma is not None:
            with torch.no_grad():
                self.alive.mul_(_some(self._whole().weight))
        self.live = False

    @contextmanager
    def measured(self) -> Iterator[None]:
        """While this lasts, the statistics of one batch are the norm's, and it ends frozen.

        A channel that hardly moves in the batch keeps those that it had: it may stand still there alone.
        """
        if not self.has_statistics:
            yield
            return
        mean, variance = self.mean.clone(), self.variance.clone()
        self.live, self.momentum = True, 1.0
        try:
            yield
        finally:
            self.momentum = MOMENTUM
            still = ~(self.variance >= LEAST_MOVED * variance)  # or is NaN
            self.mean[still], self.variance[still] = mean[still], variance[still]
            self.freeze()

    def whole_weight(self) -> Tensor:
        """The weights as they ship."""
        return self._whole().weight

    def whole_bias(self) -> Tensor:
        """The biases as they ship, with the rounding offset."""
        return self._rounded(self._whole())

    def _scale(self) -> Tensor:
        if self.finer is None:
            return self.scale
        return scaled(self.scale, self.finer, (self.step.weight[0].size * self.weight_limit) ** -0.5)

    def _factor(self) -> Tensor:
        """What the frozen norm multiplies by."""
        assert self.gamma is not None
        return self.gamma / torch.sqrt(self.variance + self.epsilon)

    def _seen(self) -> Tensor:
        """The raw weight in the step's shape."""
        return self.weight if self.view is None else self.view(self.weight)

    def _rounded_weight(self, unit: Tensor) -> Tensor:
        return round_scaled(self._seen(), self._beside(unit), self.weight_limit)

    def _rounded(self, whole: _Whole) -> Tensor:
        """The bias with the rounding offset, as the machine adds both."""
        if self.float_bias:
            return whole.bias
        limit, apart = 2.0 ** (self.bias_bits - 1) - 1, self._apart(whole)
        return round_clip((whole.bias - apart) / self.bias_unit, -limit, limit) * self.bias_unit + apart

    def _apart(self, whole: _Whole) -> Tensor | float:
        """The part of the rounding offset that is not in the bias register."""
        return 0.0 if self.offset else self._half(whole.ratio, whole.shift)

    def _whole(self) -> _Whole:
        """The frozen fold; gradients pass to everything that is trained."""
        if self.gamma is not None:
            return self._folded()
        unit, sum_scale = self._scale(), self.sum_scale
        ratio, multiplier, shift = self.ratio, self.multiplier, self.shift
        if not self.fixed:
            unit, ratio, multiplier, shift = self._snapped(unit, torch.ones_like(unit), self.bias)
            sum_scale = ratio * self.output_scale
        weight = self._rounded_weight(unit)
        return _Whole(weight, self.bias / sum_scale + self._half(ratio, shift), ratio, multiplier, shift)

    def _folded(self) -> _Whole:
        assert self.beta is not None
        factor = self._factor()
        some = _or_one(factor)
        bias = (self.bias - self.mean) * factor + self.beta
        unit, ratio, multiplier, shift = self._scale(), self.ratio, self.multiplier, self.shift
        if self.fixed:
            unit = unit / some
        else:
            unit, ratio, multiplier, shift = self._snapped(unit, some, bias)
            unit = unit * some.detach().sign()
        weight = self._rounded_weight(unit) * self._beside(self.alive * (factor.detach() != 0))
        dead = _some(weight) == 0
        bias = torch.where(dead, self.beta, bias)  # whatever the statistics were: such a filter's sums are 0
        if not self.fixed:
            ratio, multiplier, shift = (
                torch.where(dead, torch.full_like(value, constant), value)
                for value, constant in ((ratio, DEAD_RATIO), (multiplier, 1.0), (shift, DEAD_SHIFT))
            )
        return _Whole(weight, bias / (ratio * self.output_scale) + self._half(ratio, shift), ratio, multiplier, shift)

    def _snapped(self, scale: Tensor, factor: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The scale that is used, ratio, multiplier and shift: as fine as the scale says and the bias register allows.

        The ratio's gradient is that of the ratio before it was snapped to a multiplier.
        """
        size = factor.abs() * (self.source_scale / self.output_scale)
        largest = 2.0**self.form.multiplier_bits - 1
        with torch.no_grad():
            room = 2.0 ** (min(self.bias_bits, BIAS_BITS) - 1) - 1
            clipped = self._seen().abs().flatten(1).sum(1)
            steps = torch.minimum(bias.abs() / self.output_scale, clipped * size * self.largest_input + MOST_STEPS)
            finest = torch.clamp(BIAS_ROOM * (steps + 0.5) / room, min=(largest + 1) * 2.0 ** -(self.form.shift[1] + 1))
        wanted = torch.maximum(scale * size, finest)
        with torch.no_grad():
            shift = torch.floor(torch.log2(largest / wanted)).clamp_(*self.form.shift)
            multiplier = torch.round(wanted * torch.exp2(shift))
            over = (multiplier > largest) & (shift > self.form.shift[0])
            shift = torch.where(over, shift - 1, shift)
            multiplier = torch.round(wanted * torch.exp2(shift))
            difference = multiplier * torch.exp2(-shift) - wanted
        return torch.maximum(scale, finest / size), wanted + difference, multiplier, shift

    def _half(self, ratio: Tensor, shift: Tensor) -> Tensor:
        """The offset by which a floor rounds to nearest; none where nothing is shifted out of an integer."""
        half = 0.5 / ratio.detach()
        return half if self.float_bias else torch.where(shift > 0, half, torch.zeros_like(shift))

    def _beside(self, channels: Tensor) -> Tensor:
        """One value a channel, to stand beside the step's weight."""
        return channels.reshape((-1,) + (1,) * (self.step.weight.ndim - 1))

    def _sums(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.step.geometry:
            return F.linear(x, weight, bias)
        if not self.turned:
            return convolve(x, weight, self.geometry, bias)
        return convolve(channels_last(x), weight.transpose(2, 3), self.geometry, bias)

    def integers(self) -> LayerIntegers:
        """What ships.

        Raises:
            QuantizationError: naming the channel, where training moved a bias or a scale out of the machine's width.
        """
        with torch.no_grad():
            whole = self._whole()
            if self.float_bias:
                return _with_floats(whole)
            apart = self._apart(whole)
            weight, bias = whole.weight.double(), (self._rounded(whole) - apart).double()
            limit = (2.0 ** (self.bias_bits - 1) - 1) * self.bias_unit
            wanted = torch.round(whole.bias - apart).double()
            bounds = weight.abs().flatten(1).sum(1) * self.largest_input
        clipped = bounds + 256 / whole.ratio.double()
        for channel in torch.nonzero((wanted.abs() > limit + self.bias_unit // 2) & (limit <= clipped)):
            raise QuantizationError(
                f"{self.step.name}: the bias of channel {int(channel)} became {float(wanted[channel]):.0f}, and the "
                f"machine holds {self.bias_bits} bits. Use a lower learning rate or more calibration data."
            )
        largest = 2**self.form.multiplier_bits - 1
        for channel in torch.nonzero(whole.multiplier > max(largest, 1)):
            raise QuantizationError(
                f"{self.step.name}: channel {int(channel)} needs the multiplier {float(whole.multiplier[channel]):.0f} "
                f"without a shift, and the machine has {largest}. Use a lower learning rate or more calibration data."
            )
        return LayerIntegers(
            weight.numpy().astype(np.int8),
            bias.numpy().astype(np.int32),
            whole.multiplier.numpy().astype(np.int32),
            whole.shift.numpy().astype(np.int32),
        )


def _with_floats(whole: _Whole) -> LayerIntegers:
    none = np.zeros(len(whole.bias), np.int32)
    floats = whole.ratio.float().numpy(), (whole.bias * whole.ratio).float().numpy()
    return LayerIntegers(whole.weight.numpy().astype(np.int8), none, none, none, floats)


def clip_limits(clip: tuple[float, float], scale: float, limits: tuple[int, int]) -> tuple[int, int]:
    """The clip of the real value in integers, within the type's limits."""
    low = limits[0] if clip[0] == -np.inf else max(limits[0], int(np.rint(clip[0] / scale)))
    high = limits[1] if clip[1] == np.inf else min(limits[1], int(np.rint(clip[1] / scale)))
    return low, high


def _or_one(factor: Tensor) -> Tensor:
    """The factor, or 1 where it is 0."""
    return torch.where(factor == 0, torch.ones_like(factor), factor)


def _some(weight: Tensor) -> Tensor:
    """1 for each filter that is not all zero."""
    return (weight.detach() != 0).flatten(1).any(1).to(weight.dtype)
