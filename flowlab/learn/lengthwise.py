"""Train series along the width: torch's CPU kernels run kernels (1, k) two to three times faster than (k, 1).

A network of plain layers over ``(batch, channel, length, 1)`` computes the same function over
``(batch, channel, 1, length)`` once its kernels are transposed; `lengthwise` does that for the time of a training
and undoes it at the end, so that nobody outside sees it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_DIRECTED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_BLIND = (  # layers that do not care which way the length lies
    nn.BatchNorm1d, nn.BatchNorm2d, nn.Linear, nn.Flatten, nn.Dropout, nn.Identity,
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.SiLU, nn.GELU,
)  # fmt: skip


@contextmanager
def lengthwise(module: nn.Module, features: torch.Tensor, *others: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield the features for the time of a training, transposed together with the module where that is possible.

    Args:
        module: transposed in place, and back at the end, also after an exception; its parameters stay the same
            objects. Left as it is unless it is a tree of ``nn.Sequential`` over layers that keep the width at 1.
        features: float32, shape ``(window, channel, height, width)``; ``others`` the same.
    """
    turn = features.shape[3] == 1 and features.shape[2] > 1 and keeps_width(module)
    if not turn:
        yield (features, *others)
        return
    _turn(module)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub lacks the argument
    try:
        yield tuple(x.transpose(2, 3).contiguous(memory_format=torch.channels_last) for x in (features, *others))
    finally:
        _turn(module)


def keeps_width(module: nn.Module) -> bool:
    """True where every layer is a plain one that leaves a width of 1 as it is."""
    if type(module) is nn.Sequential:
        return all(keeps_width(child) for child in module)
    if type(module) is nn.Conv2d:
        plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return plain and module.kernel_size[1] == 1 and module.padding[1] == 0
    if type(module) is nn.MaxPool2d or type(module) is nn.AvgPool2d:
        return _pair(module.kernel_size)[1] == 1 and _pair(module.padding)[1] == 0
    if type(module) is nn.AdaptiveAvgPool2d:
        return _pair(module.output_size)[1] == 1
    return type(module) in _BLIND


def _pair(value: object) -> tuple[object, object]:
    first, second = value if isinstance(value, tuple) else (value, value)
    return first, second


def _turn(module: nn.Module) -> None:
    """Transpose kernels, strides and paddings in place; twice is nothing."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            turned = layer.weight.data.transpose(2, 3)
            layer.weight.data = turned.clone(memory_format=torch.contiguous_format)  # also its strides are as before
        if isinstance(layer, _DIRECTED):
            for name in ("kernel_size", "stride", "padding", "dilation", "output_size"):
                value = getattr(layer, name, None)
                if isinstance(value, tuple):
                    setattr(layer, name, value[::-1])
