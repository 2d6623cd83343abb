"""Pooling of every kind, means over any dimensions, and resizing."""

from __future__ import annotations

from math import ceil, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowlab.compiler.ir import Attribute
from flowlab.learn.trace.builder import Absent, Call, IntArray, Taker, View, canonical
from flowlab.learn.trace.layers import pair, per_channel
from flowlab.learn.trace.movement import move

Pair = tuple[int, int]
MOST_WEIGHTS = 1 << 20  # of an average or a resize that is written out place by place


def _planes(call: Call, dims: int) -> View:
    view = call.view()
    call.require(
        len(view.shape) == dims + 1, f"gets shape {view.shape}: a pool over {dims} dimensions needs {dims + 1}"
    )
    return view


def _start(value: Any) -> Any:
    return None if value in (None, (), []) else value


# --- the largest --------------------------------------------------------------------------------


def max_pool(dims: int) -> Taker:
    """The taker of a maximum pool over ``dims`` dimensions: any stride, padding, dilation and rounding of the size."""

    def take(call: Call) -> Any:
        view = _planes(call, dims)
        kernel = pair(call.option("kernel_size", 1), dims)
        stride = _start(call.option("stride", 2))
        step = kernel if stride is None else pair(stride, dims)
        sides, apart = pair(call.option("padding", 3, 0), dims, 0), pair(call.option("dilation", 4, 1), dims)
        indices = call.option("return_indices", 6, False)
        call.require(not indices, "returns indices: use return_indices=False")
        made = canonical(call.shape)[1:]
        extent = canonical(view.shape)[1:]
        behind = [(made[a] - 1) * step[a] + apart[a] * (kernel[a] - 1) + 1 - extent[a] - sides[a] for a in (0, 1)]
        padding = (*sides, *(max(each, 0) for each in behind))
        fits = [extent[a] + sides[a] + max(behind[a], 0) - kernel[a] < made[a] * step[a] for a in (0, 1)]
        if apart == (1, 1) and all(padding[side] < kernel[side % 2] for side in range(4)) and all(fits):
            return _max_pool(call, view, kernel, step, padding)
        windows = [
            [
                _inside(
                    range(o * step[a] - sides[a], o * step[a] - sides[a] + apart[a] * kernel[a], apart[a]), extent[a]
                )
                for o in range(made[a])
            ]
            for a in (0, 1)
        ]
        return _gathered_max(call, view, windows)

    return take


def adaptive_max_pool(dims: int) -> Taker:
    """The taker of an adaptive maximum pool to any size."""

    def take(call: Call) -> Any:
        view = _planes(call, dims)
        call.require(not call.option("return_indices", 2, False), "returns indices: use return_indices=False")
        extent, made = canonical(view.shape)[1:], canonical(call.shape)[1:]
        if extent == made:
            return view
        if extent[0] % made[0] == 0 and extent[1] % made[1] == 0:
            parts = (extent[0] // made[0], extent[1] // made[1])
            return _max_pool(call, view, parts, parts, (0, 0, 0, 0))
        windows = [
            [list(range(o * extent[a] // made[a], ceil((o + 1) * extent[a] / made[a]))) for o in range(made[a])]
            for a in (0, 1)
        ]
        return _gathered_max(call, view, windows)

    return take


def _inside(places: range, extent: int) -> list[int]:
    return [place for place in places if 0 <= place < extent]


def _max_pool(call: Call, view: View, kernel: Pair, stride: Pair, padding: tuple[int, ...]) -> View:
    builder = call.builder
    attributes: dict[str, Attribute] = {"kernel": kernel, "stride": stride, "padding": padding}
    name = builder.emit(call, "max_pool", (builder.read(view),), canonical(call.shape), attributes=attributes)
    return builder.whole(name, call.shape)


def _gathered_max(call: Call, view: View, windows: list[list[list[int]]]) -> View:
    """Every window's elements in a row of their own, short ones filled with their first; then the largest of a row."""
    index = view.index.reshape(canonical(view.shape))
    most = [max(len(window) for window in axis) for axis in windows]
    filled = [
        np.array([window + window[:1] * (most[a] - len(window)) for window in axis]) for a, axis in enumerate(windows)
    ]
    rows, columns = filled
    gathered = index[:, rows[:, None, :, None], columns[None, :, None, :]]  # (C, row, column, kernel_h, kernel_w)
    return _largest(call, view, gathered.reshape(index.shape[0], len(rows) * len(columns), most[0] * most[1]))


def _largest(call: Call, view: View, rows: IntArray) -> View:
    """The largest of the last axis of (channel, place, element)."""
    builder = call.builder
    value = builder.read(View(view.value, rows, f"{call.name}.take"))
    kernel = (1, rows.shape[2])
    attributes: dict[str, Attribute] = {"kernel": kernel, "stride": kernel, "padding": (0, 0, 0, 0)}
    name = builder.emit(call, "max_pool", (value,), (*rows.shape[:2], 1), attributes=attributes)
    return builder.whole(name, call.shape)


# --- means --------------------------------------------------------------------------------------


def average_pool(dims: int) -> Taker:
    """The taker of an average pool over ``dims`` dimensions, of any kind."""

    def take(call: Call) -> View:
        view = _planes(call, dims)
        kernel = pair(call.option("kernel_size", 1), dims)
        stride = _start(call.option("stride", 2))
        step = kernel if stride is None else pair(stride, dims)
        sides = pair(call.option("padding", 3, 0), dims, 0)
        ceil_mode, counts = call.option("ceil_mode", 4, False), call.option("count_include_pad", 5, True)
        divisor = call.option("divisor_override", 6) if dims == 2 else None
        plain = divisor is None and not ceil_mode and (counts or sides == (0, 0))
        if plain and kernel == canonical(view.shape)[1:] and sides == (0, 0):
            return _average_of_all(call, view)
        return _averages(call, view, kernel, step, sides) if plain else written_out(call, view)

    return take


def adaptive_average_pool(dims: int) -> Taker:
    """The taker of an adaptive average pool to any size."""

    def take(call: Call) -> View:
        view = _planes(call, dims)
        extent, made = canonical(view.shape)[1:], canonical(call.shape)[1:]
        if extent == made:
            return view
        if made == (1, 1):
            return _average_of_all(call, view)
        if extent[0] % made[0] == 0 and extent[1] % made[1] == 0:
            parts = (extent[0] // made[0], extent[1] // made[1])
            return _averages(call, view, parts, parts, (0, 0))
        return written_out(call, view)

    return take


def _average_of_all(call: Call, view: View) -> View:
    name = call.builder.emit(call, "average_pool", (call.builder.read(view),), (view.shape[0], 1, 1))
    return call.builder.whole(name, call.shape)


def _averages(call: Call, view: View, kernel: Pair, stride: Pair, padding: Pair) -> View:
    """Averages over parts are a depthwise convolution with equal weights, which quantization-aware training moves."""
    channels = view.shape[0]
    weight = np.full((channels, 1, *kernel), 1 / (kernel[0] * kernel[1]), np.float32)
    attributes: dict[str, Attribute] = {"stride": stride, "padding": (*padding, *padding), "groups": channels}
    name = call.builder.emit(
        call,
        "conv",
        (call.builder.read(view),),
        canonical(call.shape),
        attributes=attributes,
        constants={"weight": weight},
    )
    return call.builder.whole(name, call.shape)


def written_out(call: Call, view: View) -> View:
    """What is linear over a plane and the same for every channel: torch's answer to each place alone is the weights.

    Places become channels, so that it is a convolution with kernel 1.
    """
    builder = call.builder
    channels, extent, made = view.shape[0], view.shape[1:], call.shape[1:]
    places, outputs = prod(extent), prod(made)
    call.require(
        places * outputs <= MOST_WEIGHTS,
        f"weighs {places} places for each of {outputs}: that many weights fit no device; use parts of equal size, "
        "or an integer factor with align_corners=False",
    )
    alone = torch.eye(places, dtype=torch.float64).reshape(places, 1, *extent)
    answer = call.run(lambda _: alone)
    weight = np.ascontiguousarray(answer.reshape(places, outputs).T.numpy()).astype(np.float32)
    turned = view.index.reshape(channels, places).T
    value = builder.read(View(view.value, turned, f"{call.name}.take"), (places, channels, 1))
    attributes: dict[str, Attribute] = {"stride": (1, 1), "padding": (0, 0, 0, 0), "groups": 1}
    name = builder.emit(
        call, "conv", (value,), (outputs, channels, 1), attributes=attributes,
        constants={"weight": weight.reshape(outputs, places, 1, 1)},
    )  # fmt: skip
    index = np.arange(outputs * channels, dtype=np.int64).reshape(outputs, channels).T
    return View(name, index.reshape(channels, *made), f"{call.name}.back")


def _reduced(call: Call, what: str) -> tuple[View, IntArray, tuple[int, ...]]:
    """The view, its elements as (kept place, reduced element), and the sizes of the reduced dimensions."""
    view = call.view()
    rank = len(view.shape) + 1
    dims = call.argument(1, "dim")
    chosen = range(rank) if dims is None else dims if isinstance(dims, (tuple, list)) else (dims,)
    axes = sorted({int(each) % rank for each in chosen})
    call.require(0 not in axes, f"{what} over the dimensions {dims}: leave out the batch, dimension 0")
    inner = [axis - 1 for axis in axes]
    kept = [axis for axis in range(rank - 1) if axis not in inner]
    moved = view.index.transpose(*kept, *inner)
    sizes = tuple(view.shape[axis] for axis in inner)
    return view, moved.reshape(-1, prod(sizes)), sizes


def mean(call: Call) -> View:
    """The mean over any dimensions but the batch."""
    return _mean(call, "")


def _mean(call: Call, suffix: str) -> View:
    builder = call.builder
    view, rows, _ = _reduced(call, "averages")
    if rows.shape[1] == 1:
        return View(view.value, rows.reshape(call.shape), f"{call.name}.reshape")
    shape, plane = (rows.shape[0], 1, 1), canonical(view.shape)
    same = rows.shape[0] == plane[0] and bool((rows == view.index.reshape(plane[0], -1)).all())
    value = builder.read(View(view.value, rows, f"{call.name}.take"), plane if same else (*rows.shape, 1))
    name = builder.emit(call, "average_pool", (value,), shape, suffix=suffix)
    return builder.whole(name, call.shape, f"{call.name}.flatten")


def total(call: Call) -> View:
    """The sum over any dimensions but the batch: the mean, times their size."""
    _, rows, _ = _reduced(call, "sums")
    return per_channel(call, _mean(call, ".mean"), float(rows.shape[1]), 0.0)


def largest(call: Call) -> Any:
    """The largest over any dimensions but the batch; ``torch.max`` gives the places too, which the graph has not."""
    if isinstance(call.argument(1, "other"), View):
        call.refuse("is the larger of two values: use torch.maximum")
    view, rows, _ = _reduced(call, "takes the largest")
    result = call.node.meta["result"]
    if isinstance(result, Tensor):
        return _largest(call, view, rows[:, None, :])
    shape = tuple(result[0].shape[1:])
    value = call.builder.read(View(view.value, rows[:, None, :], f"{call.name}.take"))
    kernel = (1, rows.shape[1])
    attributes: dict[str, Attribute] = {"kernel": kernel, "stride": kernel, "padding": (0, 0, 0, 0)}
    name = call.builder.emit(call, "max_pool", (value,), (rows.shape[0], 1, 1), attributes=attributes)
    return (
        call.builder.whole(name, shape),
        Absent("reads the places of the largest values, which the integer graph has not"),
    )


# --- resizing -----------------------------------------------------------------------------------


def resize(call: Call) -> Any:
    """Upsampling by a layer or ``F.interpolate``: nearest moves, everything else is linear over a plane."""
    mode = call.layer.mode if call.layer is not None else call.argument(3, "mode", "nearest")
    if mode in ("nearest", "nearest-exact"):
        return move(call)
    view = call.view()
    corners = call.layer.align_corners if call.layer is not None else call.argument(4, "align_corners")
    extent, made = canonical(view.shape)[1:], canonical(call.shape)[1:]
    factors = (made[0] // extent[0], made[1] // extent[1])
    whole = all(each * factor == size for each, factor, size in zip(extent, factors, made, strict=True))
    if mode in ("linear", "bilinear") and not corners and whole and prod(factors) > 1:
        return _in_phases(call, view, factors)
    return written_out(call, view)


def _in_phases(call: Call, view: View, factors: Pair) -> View:
    """Linear upsampling by integers: one depthwise kernel for each place between the elements, then interleaved."""
    builder, channels = call.builder, view.shape[0]
    extent = canonical(view.shape)[1:]
    taps = [_taps(factor) for factor in factors]  # (phase, 3 or 1)
    kernel = np.einsum("ph,qw->pqhw", *taps).reshape(-1, taps[0].shape[1], taps[1].shape[1])
    around = [(taps[a].shape[1] - 1) // 2 for a in (0, 1)]
    wider = np.pad(view.index.reshape(channels, *extent), ((0, 0), *((each, each) for each in around)), mode="edge")
    value = builder.read(View(view.value, wider, f"{call.name}.edge"))
    attributes: dict[str, Attribute] = {"stride": (1, 1), "padding": (0, 0, 0, 0), "groups": channels}
    weight = np.ascontiguousarray(np.tile(kernel, (channels, 1, 1))[:, None]).astype(np.float32)
    name = builder.emit(
        call, "conv", (value,), (weight.shape[0], *extent), attributes=attributes, constants={"weight": weight}
    )
    phases = np.arange(weight.shape[0] * prod(extent), dtype=np.int64).reshape(channels, *factors, *extent)
    return View(name, phases.transpose(0, 3, 1, 4, 2).reshape(call.shape), f"{call.name}.interleave")


def _taps(factor: int) -> Any:
    """Weights of the element before, the element and the one behind, for each place between two elements."""
    if factor == 1:
        return np.ones((1, 1))
    place = (np.arange(factor) + 0.5) / factor - 0.5
    return np.stack([np.maximum(-place, 0), 1 - np.abs(place), np.maximum(place, 0)], axis=1)


def cut(call: Call) -> Any:
    """``F.pad``, or a padding layer: other numbers than zeros are refused."""
    mode = "constant" if call.layer is not None else call.argument(2, "mode", "constant")
    value = getattr(call.layer, "value", 0) if call.layer is not None else call.argument(3, "value")
    call.require(mode != "constant" or value in (None, 0), f"pads with {value!r}: pad with zeros")
    return move(call)
