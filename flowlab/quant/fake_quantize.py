"""Autograd functions: whole numbers forwards, a straight-through gradient backwards.

Values are whole numbers carried in float tensors, so what training computes is what the machine computes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ALMOST_ONE = 1 - 2.0**-8  # float32 tells it from 1 beside any integer of 8 bits
HARDLY = 2.0**-8


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, low: float, high: float) -> Tensor:
        return torch.round(value).clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


class _FloorClip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, low: float, high: float) -> Tensor:
        whole = torch.floor(value)
        ctx.save_for_backward((whole >= low) & (whole <= high))
        return whole.clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None


class _ClipFloor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.limits = low, high
        return torch.clamp(value, low, high + ALMOST_ONE).floor_()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (value,) = ctx.saved_tensors
        low, high = ctx.limits
        # one kernel; its limits are outside, and a whole number at the lower one is inside
        return torch.ops.aten.hardtanh_backward(gradients[0], value, low - HARDLY, high + 1), None, None


class _RoundScaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: Tensor, limit: float) -> Tensor:
        steps = value / scale
        ctx.save_for_backward(steps, scale)
        ctx.limit = limit
        return torch.round(steps).clamp_(-limit, limit)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        steps, scale = ctx.saved_tensors
        by_value = gradients[0] / scale
        by_scale = None
        if ctx.needs_input_grad[1]:
            inside = steps.abs() <= ctx.limit + 0.5
            by_scale = (by_value * steps * inside).flatten(1).sum(1).neg_().reshape(scale.shape)
        return by_value, by_scale, None


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scale: Tensor, finer: Tensor, calm: float) -> Tensor:
        result = scale * torch.exp(finer)
        ctx.save_for_backward(result)
        ctx.calm = calm
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        (result,) = ctx.saved_tensors
        return None, gradients[0] * result * ctx.calm, None


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, entries: Tensor, slopes: Tensor, least: int) -> Tensor:
        nan = value.isnan()  # a training that has gone wrong must say so, and not end in an index
        index = torch.where(nan, 0, value - least).long()
        ctx.save_for_backward(slopes[index])
        return torch.where(nan, value, entries[index])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return gradients[0] * slopes, None, None, None


def round_clip(value: Tensor, low: float, high: float) -> Tensor:
    """Nearest whole number (ties to even) within ``[low, high]``; the gradient is that of the identity, everywhere.

    A weight beyond the grid keeps its gradient, so that it can come back.
    """
    return _apply(_Round, value, low, high)


def floor_clip(value: Tensor, low: float, high: float) -> Tensor:
    """The whole number below, within ``[low, high]``; the gradient passes where nothing was clipped."""
    return _apply(_FloorClip, value, low, high)


def clip_floor(value: Tensor, low: float, high: float) -> Tensor:
    """`floor_clip` in two passes forwards and one backwards: the same numbers, gradients alike but at the limits."""
    return _apply(_ClipFloor, value, low, high)


def round_scaled(value: Tensor, scale: Tensor, limit: float) -> Tensor:
    """``round(value / scale)`` within +-``limit``: (out, ...) by a scale (out, 1, ...), of either sign.

    The value's gradient is that of the identity, everywhere; the scale's is that of LSQ, times what the caller
    multiplies the result by.
    """
    return _apply(_RoundScaled, value, scale, limit)


def scaled(scale: Tensor, finer: Tensor, calm: float) -> Tensor:
    """``scale * exp(finer)``, and ``finer`` gets the gradient times ``calm``: many weights pull at one scale."""
    return _apply(_Scaled, scale, finer, calm)


def lookup(value: Tensor, entries: Tensor, slopes: Tensor, least: int) -> Tensor:
    """``entries[value - least]``; the gradient is ``slopes`` at the same place."""
    return _apply(_Lookup, value, entries, slopes, least)


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    result = function.apply(*arguments)  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result
