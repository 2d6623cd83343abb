"""Networks as tables: a row a layer, and the module that a table stands for.

Conventions of the vendor's model zoo: a convolution has a bias and is followed by batch norm and ReLU; a padding that
is not given is half the kernel (rounded down) in each dimension; the table begins with a batch norm over the input's
variables and ends with a fully connected layer as wide as the problem's head, neither of which is a row.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from flowlab.errors import OptionError

Pair = tuple[int, int]
Shape = tuple[int, int, int]  # (channel, height, width)


@dataclass(frozen=True)
class Conv:
    """Convolution, batch norm, ReLU."""

    channels: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair | None = None
    depthwise: bool = False


@dataclass(frozen=True)
class MaxPool:
    """The largest of each window."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair | None = None


@dataclass(frozen=True)
class AveragePool:
    """Adaptive average pool down to ``size`` (height, width)."""

    size: Pair = (1, 1)


@dataclass(frozen=True)
class Dense:
    """Fully connected (after flattening), optional batch norm, ReLU."""

    features: int
    norm: bool = True


Row = Conv | MaxPool | AveragePool | Dense


def build_network(rows: Sequence[Row], shape: Shape, outputs: int) -> nn.Sequential:
    """The module of a table: ``norm``, then the rows' layers by kind and number, ``flatten``, ``fc``.

    Args:
        rows: the table; a `Dense` may be followed by a `Dense` only.
        shape: (channel, height, width) of one input.
        outputs: width of the head.

    Raises:
        OptionError: if the input is too short for a layer.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(norm=nn.BatchNorm2d(shape[0]))
    count = {Conv: 0, MaxPool: 0, AveragePool: 0, Dense: 0}
    for row in rows:
        count[type(row)] += 1
        number = count[type(row)]
        if isinstance(row, Conv):
            shape = _add_conv(layers, row, f"{number}", shape)
        elif isinstance(row, MaxPool):
            padding = half(row.kernel) if row.padding is None else row.padding
            layers[f"pool{number}"] = nn.MaxPool2d(row.kernel, row.stride, padding)
            shape = (shape[0], *_size(f"pool{number}", shape, row.kernel, row.stride, padding))
        elif isinstance(row, AveragePool):
            layers[f"average{number}"] = nn.AdaptiveAvgPool2d(row.size)
            shape = (shape[0], *row.size)
        else:
            shape = _add_dense(layers, row, f"{number}", shape)
    _add_flatten(layers)
    layers["fc"] = nn.Linear(shape[0] * shape[1] * shape[2], outputs)
    return nn.Sequential(layers)


def half(kernel: Pair) -> Pair:
    """The padding that is not given."""
    return kernel[0] // 2, kernel[1] // 2


def count_parameters(module: torch.nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in module.parameters())


def _add_conv(layers: OrderedDict[str, nn.Module], row: Conv, number: str, shape: Shape) -> Shape:
    padding = half(row.kernel) if row.padding is None else row.padding
    groups = shape[0] if row.depthwise else 1
    layers[f"conv{number}"] = nn.Conv2d(shape[0], row.channels, row.kernel, row.stride, padding, groups=groups)
    layers[f"conv{number}_norm"] = nn.BatchNorm2d(row.channels)
    layers[f"conv{number}_relu"] = nn.ReLU()
    return (row.channels, *_size(f"conv{number}", shape, row.kernel, row.stride, padding))


def _add_dense(layers: OrderedDict[str, nn.Module], row: Dense, number: str, shape: Shape) -> Shape:
    _add_flatten(layers)
    layers[f"fc{number}"] = nn.Linear(shape[0] * shape[1] * shape[2], row.features)
    if row.norm:
        layers[f"fc{number}_norm"] = nn.BatchNorm1d(row.features)
    layers[f"fc{number}_relu"] = nn.ReLU()
    return (row.features, 1, 1)


def _add_flatten(layers: OrderedDict[str, nn.Module]) -> None:
    layers.setdefault("flatten", nn.Flatten())


def _size(name: str, shape: Shape, kernel: Pair, stride: Pair, padding: Pair) -> Pair:
    height, width = (
        (size + 2 * pad - extent) // step + 1
        for size, pad, extent, step in zip(shape[1:], padding, kernel, stride, strict=True)
    )
    if height < 1 or width < 1:
        raise OptionError(
            f"layer '{name}' with a kernel of {kernel[0]}x{kernel[1]} gets {shape[1]}x{shape[2]} values: "
            "use longer features or a smaller model"
        )
    return height, width
