"""A convolution as the graph's attributes say it, in torch; and the same turned by a quarter."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from flowlab.compiler.ir import Attribute


def pad(x: Tensor, padding: tuple[int, int, int, int], value: float = 0.0) -> Tensor:
    """Pad height and width by (top, left, bottom, right)."""
    top, left, bottom, right = padding
    return F.pad(x, (left, right, top, bottom), value=value) if any(padding) else x


def convolve(x: Tensor, weight: Tensor, geometry: Mapping[str, Attribute], bias: Tensor | None = None) -> Tensor:
    """A convolution with the attributes of the graph's ``conv``.

    Stride, padding (top, left, bottom, right), groups, and where there is one the dilation.
    """
    top, left, bottom, right = whole_numbers(geometry["padding"])
    stride, groups = whole_numbers(geometry["stride"]), geometry["groups"]
    dilation = whole_numbers(geometry.get("dilation", (1, 1)))
    assert isinstance(groups, int)
    if (top, left) == (bottom, right):
        return F.conv2d(x, weight, bias, stride, (top, left), dilation, groups)
    return F.conv2d(pad(x, (top, left, bottom, right)), weight, bias, stride, 0, dilation, groups)


def channels_last(x: Tensor) -> Tensor:
    """The same values, laid out with the channels last.

    Torch takes strides as they come where there is one channel, since both layouts are then the same memory; its
    convolution asks the strides which of them to answer in.
    """
    if x.shape[1] > 1:
        return x.contiguous(memory_format=torch.channels_last)
    return x.reshape(len(x), *x.shape[2:], 1).permute(0, 3, 1, 2)


def turn(geometry: Mapping[str, Attribute]) -> dict[str, Attribute]:
    """The attributes of a convolution with height and width exchanged; empty ones stay empty."""
    if not geometry:
        return {}
    top, left, bottom, right = whole_numbers(geometry["padding"])
    down, across = whole_numbers(geometry["stride"])
    turned = {**geometry, "padding": (left, top, right, bottom), "stride": (across, down)}
    if "dilation" in geometry:
        high, wide = whole_numbers(geometry["dilation"])
        turned["dilation"] = (wide, high)
    return turned


def whole_numbers(value: Attribute) -> tuple[int, ...]:
    """An attribute that is a tuple."""
    assert isinstance(value, tuple)
    return value
