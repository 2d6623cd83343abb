"""Two autograd functions: whole numbers forwards, a straight-through gradient backwards.

Values are whole numbers carried in float tensors, so what training computes is what the machine computes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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


def lookup(value: Tensor, entries: Tensor, slopes: Tensor, least: int) -> Tensor:
    """``entries[value - least]``; the gradient is ``slopes`` at the same place."""
    return _apply(_Lookup, value, entries, slopes, least)


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    result = function.apply(*arguments)  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result
