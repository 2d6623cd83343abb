"""A convolution as the graph's attributes say it, in torch; and the same turned by a quarter."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from flowlab.compiler.ir import Attribute


def pad(x: Tensor, padding: tuple[int, int, int, int], value: float = 0.0) -> Tensor:
    """Pad height and width by (top, left, bottom, right)."""
    top, left, bottom, right = padding
    return F.pad(x, (left, right, top, bottom), value=value) if any(padding) else x


def convolve(x: Tensor, weight: Tensor, geometry: Mapping[str, Attribute], bias: Tensor | None = None) -> Tensor:
    """A convolution with the attributes of the graph's ``conv``: stride, padding (top, left, bottom, right), groups."""
    top, left, bottom, right = whole_numbers(geometry["padding"])
    stride, groups = whole_numbers(geometry["stride"]), geometry["groups"]
    assert isinstance(groups, int)
    if (top, left) == (bottom, right):
        return F.conv2d(x, weight, bias, stride, (top, left), groups=groups)
    return F.conv2d(pad(x, (top, left, bottom, right)), weight, bias, stride, groups=groups)


def turn(geometry: Mapping[str, Attribute]) -> dict[str, Attribute]:
    """The attributes of a convolution with height and width exchanged; empty ones stay empty."""
    if not geometry:
        return {}
    top, left, bottom, right = whole_numbers(geometry["padding"])
    down, across = whole_numbers(geometry["stride"])
    return {**geometry, "padding": (left, top, right, bottom), "stride": (across, down)}


def whole_numbers(value: Attribute) -> tuple[int, ...]:
    """An attribute that is a tuple."""
    assert isinstance(value, tuple)
    return value
