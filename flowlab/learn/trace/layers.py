"""Convolutions of every kind, fully connected layers and batch norms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, fx

from flowlab.compiler.ir import Attribute
from flowlab.learn.trace.builder import Call, Taker, View, canonical
from flowlab.learn.trace.movement import reindex

Pair = tuple[int, int]


def numbers(tensor: Tensor) -> NDArray[np.float32]:
    """A tensor's values as the graph keeps them."""
    return np.ascontiguousarray(tensor.detach().numpy().astype(np.float32))


def pair(value: Any, dims: int = 2, fill: int = 1) -> Pair:
    """An int or a tuple of ``dims`` as (height, width); a series lies along the height."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * dims
    values = values * dims if len(values) == 1 else values
    return int(values[0]), int(values[1]) if dims == 2 else fill


def as_planes(weight: Tensor) -> Tensor:
    """A series' kernel as one of planes: a width of 1."""
    return weight.unsqueeze(-1)


@dataclass(frozen=True)
class Kernel:
    """A convolution as torch writes it, over ``dims`` dimensions."""

    dims: int
    weight: Tensor
    bias: Tensor | None
    stride: Any
    padding: Any
    dilation: Any
    groups: int
    mode: str = "zeros"

    @property
    def step(self) -> Pair:
        """The stride as (height, width)."""
        return pair(self.stride, self.dims)

    @property
    def apart(self) -> Pair:
        """The dilation as (height, width)."""
        return pair(self.dilation, self.dims)

    @property
    def extent(self) -> Pair:
        """The weight's height and width."""
        return pair(tuple(self.weight.shape[2:]), self.dims)


def conv(dims: int, *, transposed: bool = False) -> Taker:
    """The taker of a convolution layer over ``dims`` dimensions."""

    def take(call: Call) -> View:
        layer = call.layer
        kernel = Kernel(
            dims=dims,
            weight=layer.weight,
            bias=layer.bias,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            mode=layer.padding_mode,
        )
        return _transposed(call, kernel) if transposed else _conv(call, kernel)

    return take


def conv_function(dims: int, *, transposed: bool = False) -> Taker:
    """The taker of a convolution function with weights of the module's own."""
    dilation, groups = (7, 6) if transposed else (5, 6)

    def take(call: Call) -> View:
        kernel = Kernel(
            dims=dims,
            weight=_weight(call),
            bias=call.argument(2, "bias"),
            stride=call.argument(3, "stride", 1),
            padding=call.argument(4, "padding", 0),
            dilation=call.argument(dilation, "dilation", 1),
            groups=call.argument(groups, "groups", 1),
        )
        return _transposed(call, kernel) if transposed else _conv(call, kernel)

    return take


def _weight(call: Call) -> Tensor:
    weight = call.argument(1, "weight")
    call.require(isinstance(weight, Tensor), "its weight is computed by the network: use a weight that is trained")
    assert isinstance(weight, Tensor)
    return weight


def _note(call: Call, name: str, view: Callable[[Tensor], Tensor] | None) -> None:
    """Note the module whose weight a function reads, and how the node sees the weight."""
    source = call.node.args[1] if len(call.node.args) > 1 else call.node.kwargs.get("weight")
    if call.layer is None and isinstance(source, fx.Node) and source.op == "get_attr":
        call.builder.modules[name] = str(source.target).rpartition(".")[0]
    if view is not None:
        call.builder.views[name] = view


def _constants(weight: Tensor, bias: Tensor | None) -> dict[str, NDArray[np.float32]]:
    return {"weight": numbers(weight)} if bias is None else {"weight": numbers(weight), "bias": numbers(bias)}


def _planes(call: Call, dims: int) -> View:
    view = call.view()
    call.require(
        len(view.shape) == dims + 1, f"gets shape {view.shape}: a convolution over {dims} dimensions needs {dims + 1}"
    )
    return view


def _conv(call: Call, kernel: Kernel) -> View:
    view, dims = _planes(call, kernel.dims), kernel.dims
    if kernel.padding == "same":  # torch puts the odd one at the end
        totals = [apart * (extent - 1) for apart, extent in zip(kernel.apart, kernel.extent, strict=True)]
        sides = (totals[0] // 2, totals[1] // 2, totals[0] - totals[0] // 2, totals[1] - totals[1] // 2)
    else:
        high, wide = (0, 0) if kernel.padding == "valid" else pair(kernel.padding, dims, 0)
        sides = (high, wide, high, wide)
    if kernel.mode != "zeros" and any(sides):
        top, left, bottom, right = sides
        around = (left, right, top, bottom) if dims == 2 else (top, bottom)
        view = reindex(view, lambda x: F.pad(x, around, mode=kernel.mode), f"{call.name}.pad")
        sides = (0, 0, 0, 0)
    view, zeros = _without_zeros(call, view)
    padding = tuple(own + more for own, more in zip(sides, zeros, strict=True))
    return _emit(call, view, kernel, as_planes if dims == 1 else None, kernel.step, padding)


def _without_zeros(call: Call, view: View) -> tuple[View, tuple[int, ...]]:
    """A value that is only padded with zeros as the value itself, and (top, left, bottom, right)."""
    shape = call.builder.types[view.value].shape
    index = view.index.reshape(canonical(view.shape))
    places = np.argwhere(index >= 0)
    if len(shape) != index.ndim or index.shape[0] != shape[0] or len(places) == 0 or (index >= 0).all():
        return view, (0, 0, 0, 0)
    (_, top, left), (_, bottom, right) = places.min(axis=0), places.max(axis=0)
    inner = View(view.value, index[:, top : bottom + 1, left : right + 1], view.hint)
    if not call.builder.is_whole(inner) or inner.shape != shape:
        return view, (0, 0, 0, 0)
    return inner, (int(top), int(left), int(index.shape[1] - 1 - bottom), int(index.shape[2] - 1 - right))


def _emit(
    call: Call,
    view: View,
    kernel: Kernel,
    seen: Callable[[Tensor], Tensor] | None,
    *geometry: tuple[int, ...],
) -> View:
    """A conv node that reads a view, with its weight ``seen`` so, and (stride, padding)."""
    builder, (stride, sides) = call.builder, geometry
    attributes: dict[str, Attribute] = {"stride": stride, "padding": sides, "groups": kernel.groups}
    if kernel.apart != (1, 1):
        attributes["dilation"] = kernel.apart
    constants = _constants(kernel.weight if seen is None else seen(kernel.weight), kernel.bias)
    value = builder.read(view)
    name = builder.emit(call, "conv", (value,), canonical(call.shape), attributes=attributes, constants=constants)
    _note(call, name, seen)
    return builder.whole(name, call.shape)


def _transposed(call: Call, kernel: Kernel) -> View:
    """Zeros between the elements, then a convolution with the kernel turned round."""
    call.require(kernel.mode == "zeros", f"pads with '{kernel.mode}': use padding_mode='zeros'")
    view, groups = _planes(call, kernel.dims), kernel.groups
    step, apart, cut = kernel.step, kernel.apart, pair(kernel.padding, kernel.dims, 0)
    made = canonical(call.shape)[1:]
    index = view.index.reshape(canonical(view.shape))
    wide = [(extent - 1) * each + 1 for extent, each in zip(index.shape[1:], step, strict=True)]
    spread = np.full((index.shape[0], *wide), -1)
    spread[:, :: step[0], :: step[1]] = index
    reach = [apart[axis] * (kernel.extent[axis] - 1) for axis in (0, 1)]
    before = [reach[axis] - cut[axis] for axis in (0, 1)]
    behind = [made[axis] + reach[axis] - wide[axis] - before[axis] for axis in (0, 1)]
    for axis in (0, 1):  # where the padding cuts more than the kernel reaches
        places = slice(max(-before[axis], 0), wide[axis] - max(-behind[axis], 0))
        spread = spread[:, places] if axis == 0 else spread[:, :, places]
    sides = (*(max(each, 0) for each in before), *(max(each, 0) for each in behind))

    def seen(weight: Tensor) -> Tensor:
        whole = as_planes(weight) if kernel.dims == 1 else weight
        inside, outside = whole.shape[:2]
        parts = whole.reshape(groups, inside // groups, outside, *whole.shape[2:]).transpose(1, 2)
        return parts.reshape(groups * outside, inside // groups, *whole.shape[2:]).flip(2, 3)

    moved = view if np.array_equal(spread, index) else View(view.value, spread, f"{call.name}.insert")
    return _emit(call, moved, kernel, seen, (1, 1), sides)


def linear(call: Call) -> View:
    """A fully connected layer on vectors, or along the last dimension of more: a convolution with kernel 1."""
    layer, builder, view = call.layer, call.builder, call.view()
    weight, bias = (_weight(call), call.argument(2, "bias")) if layer is None else (layer.weight, layer.bias)
    if len(view.shape) == 1:
        name = builder.emit(call, "linear", (builder.read(view),), call.shape, constants=_constants(weight, bias))
        _note(call, name, None)
        return builder.whole(name, call.shape)
    last = np.moveaxis(view.index, -1, 0)
    inside, places = last.shape[0], last.size // last.shape[0]
    value = builder.read(View(view.value, last, f"{call.name}.take"), (inside, places, 1))
    attributes: dict[str, Attribute] = {"stride": (1, 1), "padding": (0, 0, 0, 0), "groups": 1}
    made = weight.shape[0]
    name = builder.emit(
        call, "conv", (value,), (made, places, 1), attributes=attributes, constants=_constants(_as_kernel(weight), bias)
    )
    _note(call, name, _as_kernel)
    index = np.arange(made * places, dtype=np.int64).reshape(made, *view.shape[:-1])
    return View(name, np.moveaxis(index, 0, -1), f"{call.name}.back")


def _as_kernel(weight: Tensor) -> Tensor:
    return weight.reshape(*weight.shape, 1, 1)


def batch_norm(call: Call) -> View:
    """A batch norm layer."""
    layer = call.layer
    return _norm(call, (layer.weight, layer.bias, layer.running_mean, layer.running_var), float(layer.eps))


def batch_norm_function(call: Call) -> View:
    """``F.batch_norm`` with statistics of the module's own."""
    call.require(not call.argument(5, "training", False), "normalises by the batch: use training=self.training")
    places = ((3, "weight"), (4, "bias"), (1, "running_mean"), (2, "running_var"))
    return _norm(call, tuple(call.argument(*each) for each in places), float(call.argument(7, "eps", 1e-5)))


def _norm(call: Call, tensors: tuple[Tensor | None, ...], epsilon: float) -> View:
    """A batch norm of (weight, bias, mean, variance)."""
    builder, view = call.builder, call.view()
    weight, bias, mean, variance = tensors
    if mean is None or variance is None:
        call.refuse("has no running statistics: use track_running_stats=True")
        raise AssertionError
    constants = {
        "weight": np.ones(len(mean), np.float32) if weight is None else numbers(weight),
        "bias": np.zeros(len(mean), np.float32) if bias is None else numbers(bias),
        "mean": numbers(mean),
        "variance": numbers(variance),
    }
    shape = _with_channels(builder.types[view.value].shape, view, builder.is_whole(view), len(mean))
    value = builder.read(view, shape)
    name = builder.emit(call, "batch_norm", (value,), shape, attributes={"epsilon": epsilon}, constants=constants)
    return builder.whole(name, view.shape)


def _with_channels(found: tuple[int, ...], view: View, whole: bool, channels: int) -> tuple[int, ...]:
    """The value's own shape where its first axis is torch's channel; else the view's, or (channel, place, 1)."""
    if whole and found[0] == channels:
        return found
    shape = canonical(view.shape)
    return shape if shape[0] == channels else (channels, int(np.prod(view.shape)) // channels, 1)


def per_channel(call: Call, view: View, scale: Any, offset: Any, suffix: str = "") -> View:
    """``x * scale + offset`` with one number an element of torch's shape: a batch norm, so that layers take it in."""
    builder = call.builder
    lines = [np.broadcast_to(np.asarray(each, np.float64), view.shape) for each in (scale, offset)]
    call.require(all(bool(np.isfinite(line).all()) for line in lines), "its constants are not all finite")
    if all(line.size == 0 or bool((line == line.flat[0]).all()) for line in lines):
        value = builder.read(view) if not builder.is_whole(view) else view.value
        shape = builder.types[value].shape
        factors = [np.full(shape[0], line.flat[0]) for line in lines]
    elif all(bool((line == line[(slice(None),) + (slice(0, 1),) * (line.ndim - 1)]).all()) for line in lines):
        channels = view.shape[0]
        shape = _with_channels(builder.types[view.value].shape, view, builder.is_whole(view), channels)
        value, factors = builder.read(view, shape), [line.reshape(channels, -1)[:, 0] for line in lines]
    else:
        shape = (view.index.size, 1, 1)
        value, factors = builder.read(view, shape), [line.reshape(-1) for line in lines]
    constants = {
        "weight": factors[0].astype(np.float32),
        "bias": factors[1].astype(np.float32),
        "mean": np.zeros(shape[0], np.float32),
        "variance": np.ones(shape[0], np.float32),
    }
    name = builder.append(
        call.name + suffix, "batch_norm", (value,), shape, attributes={"epsilon": 0.0}, constants=constants
    )
    return builder.whole(name, view.shape)
