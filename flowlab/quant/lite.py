"""The default surgery: what accelerators for small networks lack, and what they have instead.

They have convolutions with small kernels, ReLU, maximum pools of a small window and the global average.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from flowlab.errors import OptionError
from flowlab.quant.squeeze_excite import SqueezeExcite
from flowlab.quant.surgery import Operated, Place, operate

Pair = tuple[int, int]

MOST_KERNEL = 7  # of a convolution's width, and of its height where the width is more than 1
MOST_FIRST_KERNEL = 8  # of the width where there is one input channel
MOST_POOL = 4  # of a maximum pool's height or width, one of which is enough
ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.GELU, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.ELU, nn.Mish, nn.CELU, nn.SELU, nn.PReLU, nn.RReLU,
)  # fmt: skip
FUNCTIONS = (
    F.gelu, F.silu, F.hardswish, F.leaky_relu, F.elu, F.mish, F.celu, F.selu, F.prelu, F.rrelu,
)  # fmt: skip


def default_replacements() -> dict[Any, Any]:
    """A fresh dictionary: change it as you like. Its keys need not match anything.

    * activations that are no clip, as modules and as functions: ReLU;
    * squeeze-and-excite: removed;
    * convolutions with a large kernel: a stack of small ones with the same receptive field, batch norm and ReLU
      between them;
    * maximum pools with a large window: a stack of small ones, which is the same function;
    * averages over parts, as modules: a depthwise convolution that begins with equal weights, where the input's shape
      is known; where it is not, quantizers make the same of equal parts.
    """
    found: dict[Any, Any] = dict.fromkeys((*ACTIVATIONS, *FUNCTIONS), nn.ReLU)
    found[SqueezeExcite] = nn.Identity
    found[nn.Conv2d] = small_kernels
    found[nn.MaxPool2d] = small_pools
    found[nn.AvgPool2d] = average_as_convolution
    found[nn.AdaptiveAvgPool2d] = average_as_convolution
    return found


def lite(
    model: nn.Module, replacements: dict[Any, Any] | None = None, *, example: torch.Tensor | None = None
) -> Operated:
    """Surgery with the default replacements, or with a dictionary in which their keys may stay without a match.

    Raises:
        OptionError, GraphError: as `flowlab.quant.surgery.operate`.
    """
    if not isinstance(model, nn.Module):
        raise OptionError(f"the model is {type(model).__name__}; an nn.Module is expected")
    if replacements is not None and not isinstance(replacements, dict):
        raise OptionError(f"replacement_dict is {type(replacements).__name__}; a dictionary is expected")
    if isinstance(example, tuple | list) and len(example) == 1:
        (example,) = example
    if example is not None and not isinstance(example, torch.Tensor):
        raise OptionError(f"example_inputs is {type(example).__name__}; a tensor with its batch is expected")
    defaults = default_replacements()
    return operate(
        model, defaults if replacements is None else replacements, may_be_absent=tuple(defaults), example=example
    )


def lite_for(model: nn.Module, shape: tuple[int, ...]) -> Operated:
    """The default surgery of a network whose input has this shape, without the batch."""
    return lite(model, example=torch.zeros(1, *shape))


def small_kernels(layer: nn.Conv2d) -> nn.Module:
    """A stack of convolutions with kernels that are small enough; the layer itself where it is, or is dilated."""
    height, width = _pair(layer.kernel_size)
    most = MOST_FIRST_KERNEL if layer.in_channels == 1 else MOST_KERNEL
    wide, high = width > most, height > MOST_KERNEL and width > 1
    if not (wide or high) or _pair(layer.dilation) != (1, 1):
        return layer
    count = max(-(-(size - 1) // (MOST_KERNEL - 1)) for size in (height if width > 1 else 1, width))
    kernels = list(zip(split_kernel(height, count), split_kernel(width, count), strict=True))
    paddings: list[Any] = [layer.padding] * count
    if not isinstance(layer.padding, str):
        high_parts, wide_parts = ([kernel[side] for kernel in kernels] for side in (0, 1))
        pad = _pair(layer.padding)
        paddings = list(zip(split_padding(pad[0], high_parts), split_padding(pad[1], wide_parts), strict=True))
    layers: list[nn.Module] = []
    for place, (kernel, padding) in enumerate(zip(kernels, paddings, strict=True)):
        last = place == count - 1
        channels = layer.in_channels if place == 0 else layer.out_channels
        stride = _pair(layer.stride) if last else (1, 1)
        bias = last and layer.bias is not None
        options: dict[str, Any] = {"groups": layer.groups, "bias": bias, "padding_mode": layer.padding_mode}
        layers.append(nn.Conv2d(channels, layer.out_channels, kernel, stride, padding, **options))
        if not last:
            layers += [nn.BatchNorm2d(layer.out_channels), nn.ReLU()]
    return nn.Sequential(*layers)


def split_kernel(size: int, count: int) -> list[int]:
    """``count`` kernels, each as equal and as odd as it goes, that together see what one of ``size`` sees."""
    steps, odd = divmod(size - 1, 2)
    parts = [2 * (steps // count + (place < steps % count)) for place in range(count)]
    if odd:
        parts[-1] += 1  # the last is of the smallest
    return [part + 1 for part in parts]


def split_padding(padding: int, kernels: list[int]) -> list[int]:
    """The padding of one large kernel on its parts, half of each kernel first; the rest stands before the first."""
    parts, left = [], padding
    for kernel in kernels:
        parts.append(min(left, kernel // 2))
        left -= parts[-1]
    parts[0] += left
    return parts


def small_pools(layer: nn.MaxPool2d) -> nn.Module:
    """The same maximum in steps; the layer itself where one side is small, or where it is no plain pool."""
    kernel = _pair(layer.kernel_size)
    stride = _pair(layer.stride)
    plain = not layer.ceil_mode and not layer.return_indices and _pair(layer.dilation) == (1, 1)
    if min(kernel) <= MOST_POOL or not plain:
        return layer
    side = 0 if kernel[0] <= kernel[1] else 1  # the smaller one: one side is enough
    if kernel[side] == stride[side] and _pair(layer.padding)[side] == 0 and (factors := _factors(kernel[side])):
        pools = [nn.MaxPool2d(_at(side, factor), _at(side, factor)) for factor in factors[:-1]]
        left = _at(side, factors[-1], kernel), _at(side, factors[-1], stride)
        return nn.Sequential(*pools, nn.MaxPool2d(*left, _pair(layer.padding)))
    count = -(-(kernel[side] - 1) // (MOST_POOL - 1))
    parts = [(kernel[side] - 1) // count + (place < (kernel[side] - 1) % count) + 1 for place in range(count)]
    paddings = _pool_padding(_pair(layer.padding)[side], parts)
    pools = [
        nn.MaxPool2d(_at(side, part), 1, _at(side, padding, (0, 0)))
        for part, padding in zip(parts[:-1], paddings[:-1], strict=True)
    ]
    last = nn.MaxPool2d(_at(side, parts[-1], kernel), stride, _at(side, paddings[-1], _pair(layer.padding)))
    return nn.Sequential(*pools, last)


def _pool_padding(padding: int, kernels: list[int]) -> list[int]:
    """As `split_padding`; torch takes half of the kernel at most, which suffices for what one pool could have."""
    parts, left = [], padding
    for kernel in kernels:
        parts.append(min(left, kernel // 2))
        left -= parts[-1]
    assert left == 0  # the halves of the parts are together at least half of the whole
    return parts


def _factors(size: int) -> list[int]:
    """Factors of at most `MOST_POOL`, the largest first; none where there are no such."""
    found = []
    for factor in range(MOST_POOL, 1, -1):
        while size % factor == 0:
            found.append(factor)
            size //= factor
    return found if size == 1 else []


def _at(side: int, value: int, others: Pair = (1, 1)) -> Pair:
    """A pair with ``value`` at one side."""
    return (value, others[1]) if side == 0 else (others[0], value)


def average_as_convolution(layer: nn.AvgPool2d | nn.AdaptiveAvgPool2d, place: Place) -> nn.Module:
    """A depthwise convolution that begins as the average; the layer itself where that is global, or no shape is known.

    Averages with windows of several sizes (an uneven adaptive one, a size rounded up) get windows of one size.
    """
    if place.input_shape is None or len(place.input_shape) != 4:
        return layer  # quantizers make the same convolution of an average over equal parts
    channels, *area = place.input_shape[1:]
    with torch.no_grad():
        size = tuple(layer(torch.zeros(1, 1, *area)).shape[2:])
    if size == (1, 1) or (size == tuple(area) and isinstance(layer, nn.AdaptiveAvgPool2d)):
        return layer
    kernel, stride, padding = (0, 0), (0, 0), (0, 0)
    if isinstance(layer, nn.AvgPool2d):
        kernel, padding = _pair(layer.kernel_size), _pair(layer.padding)
        stride = _pair(layer.stride)
    if isinstance(layer, nn.AdaptiveAvgPool2d) or layer.ceil_mode:
        padding = (0, 0)
        stride = (area[0] // size[0], area[1] // size[1])
        kernel = (area[0] - (size[0] - 1) * stride[0], area[1] - (size[1] - 1) * stride[1])
        if not all(stride):
            return layer  # it repeats values, which no stride does
    new = nn.Conv2d(channels, channels, kernel, stride, padding, groups=channels, bias=False)
    with torch.no_grad():
        new.weight.fill_(1.0 / (kernel[0] * kernel[1]))
    return new


def _pair(value: Any) -> Pair:
    first, second = value if isinstance(value, (tuple, list)) else (value, value)
    return int(first), int(second)
