"""The simulator: runs the bytes of a program on an open model of the NPU, with numpy and nothing else.

Layers on the CPU obey the same law and run in the same way, so it runs programs of devices without an NPU too.

    python -m flowlab_tinpu.simulator model.flnp features.npy results.npz [LAYER]

With a layer's name it stops there, and what the layer made is the result.
It knows the published arithmetic and the container, not the graph. Activations lie channels last; a convolution is one
matrix product over all places of its kernel, put together from tiles of 4 outputs x 4 inputs as they are packed,
whatever the width of weights and activations. Products run in float32 where the real weights prove that no sum reaches
2^24, which float32 holds exactly, else in float64, whose 53 bits hold every sum; the accumulator is checked against 32
bits. `results.npz` has "output/<name>" (vector, ...) and "crc/<layer>" (vector,), as in
`flowlab.contracts.Outcome`.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowlab.compiler.bounds import given_range, largest_sums, value_ranges
from flowlab.compiler.ops import INPUT_STEPS
from flowlab.compiler.program import BLOCK, RENAMES, Container, Layer, Tensor, parse
from flowlab.errors import FlowlabError, ProgramError

BATCH = 256  # vectors at a time, so that memory stays small
EXACT = 1 << 24  # whole numbers that float32 holds
WIDE = 1 << 63
WORD = 1 << 31  # what an accumulator, and an int32, must stay below
Integers = NDArray[np.int32]
Floats = NDArray[Any]  # float32 or float64


def simulate(
    data: bytes, features: NDArray[np.float32], *, trace: bool = True, stop: str | None = None
) -> dict[str, NDArray[np.generic]]:
    """Run a program on float32 (vector, channel, height, width).

    Args:
        data: the program's bytes.
        features: what it is run on.
        trace: a checksum of every layer's output too.
        stop: a layer behind which it stops; its output is the only one.

    Returns:
        "output/<name>": int32 or float32 (vector, ...); "crc/<layer>": uint32 (vector,). Of a run that stops,
        "layer/<name>": int32 (vector, channel, height, width), padding included.

    Raises:
        ProgramError: if the bytes are no program, the features have another shape, an accumulator leaves 32 bits, or
            there is no layer to stop at.
    """
    program = parse(data)
    wanted = program.tensors[program.first().inputs[0]].shape
    if features.shape[1:] != wanted:
        raise ProgramError(f"features of shape {features.shape[1:]}; the program takes {wanted}")
    names = [layer.name for layer in program.layers]
    if stop is not None and stop not in names:
        raise ProgramError(f"no layer '{stop}' to stop at; the program has {', '.join(names)}")
    machine = _Machine(program)
    parts = [
        machine.run(features[at : at + BATCH], trace=trace, stop=stop) for at in range(0, max(1, len(features)), BATCH)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class _Machine:
    """A program with what is made of it once: ranges of values, and the matrix of each layer."""

    def __init__(self, program: Container) -> None:
        self.program = program
        self.ranges = value_ranges(program)
        self.matrices: dict[str, Floats] = {}
        for layer in program.layers:
            if layer.bias is not None and layer.op not in INPUT_STEPS and self.sums(layer)[1] >= WIDE:
                raise ProgramError(f"layer '{layer.name}': a product leaves 64 bits")
            if layer.weight is not None:
                exact = np.float32 if self.sums(layer)[0] < EXACT else np.float64
                self.matrices[layer.name] = _matrix(layer).astype(exact)

    def sums(self, layer: Layer) -> tuple[int, int]:
        """The largest accumulator and product that a layer can have."""
        given = given_range(self.program, layer, self.ranges)
        return largest_sums(layer, self.program.tensors[layer.inputs[0]], given)

    def run(self, features: NDArray[np.float32], *, trace: bool, stop: str | None) -> dict[str, NDArray[np.generic]]:
        """One batch."""
        program = self.program
        values: dict[int, Integers] = {}
        results: dict[str, NDArray[np.generic]] = {}
        floats: dict[int, NDArray[np.float32]] = {program.first().inputs[0]: features}
        for layer in program.layers:
            result = program.tensors[layer.output]
            if layer.op == "dequantize":
                source = program.tensors[layer.inputs[0]]
                given = (_channels_first(values[layer.inputs[0]]) - source.zero_point).astype(np.float32)
                floats[layer.output] = given * np.float32(layer.scale)
            elif layer.op == "quantize":
                values[layer.output] = _input_step(layer, features, result.shape[0])
            elif layer.op == "quantize_linear":
                values[layer.output] = _nearest_levels(layer, np.moveaxis(features, 1, -1), result)
            else:
                values[layer.output] = self.layer(layer, [values[at] for at in layer.inputs])
            if trace and layer.output in values and layer.op not in RENAMES:
                results[f"crc/{layer.name}"] = _checksums(values[layer.output], result)
            if layer.name == stop:
                found = floats[layer.output] if layer.output in floats else _channels_first(values[layer.output])
                return {**results, f"layer/{stop}": found}
        for name, at in program.outputs.items():
            results[f"output/{name}"] = floats[at] if at in floats else _channels_first(values[at])
        return results

    def layer(self, layer: Layer, given: list[Integers]) -> Integers:
        """A layer's output, channels last."""
        (first, *others) = given
        program = self.program
        if layer.op in RENAMES or layer.op == "take":
            return _moved(layer, first, program.tensors[layer.output])
        if layer.op == "concat":
            return np.concatenate([first, others[0]], axis=-1)
        if layer.op == "max_pool":
            return _max_pool(layer, first)
        if layer.op == "table":
            assert layer.entries is not None
            least = -128 if program.tensors[layer.inputs[0]].dtype == "int8" else 0
            return layer.entries.astype(np.int32)[first - least]
        return self.summed(layer, given)

    def summed(self, layer: Layer, given: list[Integers]) -> Integers:
        """The output of a layer that computes with what its bytes mean."""
        program = self.program
        result = program.tensors[layer.output]
        first, *others = (
            value - program.tensors[at].zero_point if program.tensors[at].zero_point else value
            for at, value in zip(layer.inputs, given, strict=True)
        )
        if layer.op == "add_float":
            scales = [np.float32(program.tensors[at].scale) for at in layer.inputs]
            left, right = (
                value.astype(np.float32) * scale for value, scale in zip((first, others[0]), scales, strict=True)
            )
            return _nearest_levels(layer, left + right, result)
        if layer.op == "sum_pool":
            accumulator = _exact(layer, first.sum(axis=(1, 2), keepdims=True, dtype=np.float64))
        elif layer.op == "add":
            accumulator = first + others[0]
        elif layer.op == "multiply":
            accumulator = first * others[0]
        elif layer.op == "linear":
            accumulator = _exact(layer, first.astype(self.matrices[layer.name].dtype) @ self.matrices[layer.name])
        else:
            accumulator = _convolve(layer, first, self.matrices[layer.name])
        if layer.rounding == "nearest_even":
            return _requantize_nearest(layer, accumulator, result.zero_point)
        return _requantize(layer, accumulator, self.sums(layer)[1], result.zero_point)


def _channels_first(value: Integers) -> Integers:
    return value if value.ndim == 2 else value.transpose(0, 3, 1, 2)


def _checksums(value: Integers, tensor: Tensor) -> NDArray[np.uint32]:
    """CRC-32 of each vector's bytes in (channel, height, width) order, channels that padding added left out."""
    rows = np.ascontiguousarray(_channels_first(value)[:, : tensor.channels].astype(np.dtype(tensor.dtype)))
    return np.array([zlib.crc32(row.data) for row in rows.reshape(len(rows), -1)], np.uint32)


def _input_step(layer: Layer, features: NDArray[np.float32], channels: int) -> Integers:
    """Floats to int8, channels last; channels beyond the features' are zeros."""
    assert layer.bias is not None and layer.multiplier is not None and layer.shift is not None
    channels_last = np.moveaxis(features.astype(np.float32), 1, -1)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is clipped; NaN is found below
        summed = channels_last + layer.bias.astype(np.float32)
        product = summed * layer.multiplier.astype(np.float32)
    if np.isnan(product).any():
        raise ProgramError(f"layer '{layer.name}': the features contain what is no number")
    levels = np.floor(np.floor(product).astype(np.float64) / np.exp2(layer.shift.astype(np.float64)))
    found = np.asarray(np.clip(levels, layer.low, layer.high), np.int32)
    return np.pad(found, [(0, 0)] * (found.ndim - 1) + [(0, channels - found.shape[-1])])


def _nearest_levels(layer: Layer, real: NDArray[np.float32], result: Tensor) -> Integers:
    """Floats over the result's scale, to the nearest integer, ties to the even one; channels last.

    Raises:
        ProgramError: for what is no number.
    """
    with np.errstate(over="ignore"):  # what overflows is clipped
        levels = np.round(real.astype(np.float32) / np.float32(result.scale)).astype(np.float64)
    if np.isnan(levels).any():
        raise ProgramError(f"layer '{layer.name}': the features contain what is no number")
    return np.asarray(np.clip(levels + result.zero_point, layer.low, layer.high), np.int32)


def _moved(layer: Layer, given: Integers, result: Tensor) -> Integers:
    """The same numbers, or those that a take names, under another shape; places count in channels-first order."""
    flat = _channels_first(given).reshape(len(given), -1)
    if layer.index is not None:
        flat = np.where(layer.index < 0, result.zero_point, flat[:, layer.index])
    shaped = flat.reshape(len(given), *result.shape)
    return shaped if len(result.shape) == 1 else np.moveaxis(shaped, 1, -1)


def _exact(layer: Layer, product: Floats) -> Integers:
    """Whole numbers of a product that is one, as int32.

    Raises:
        ProgramError: where an accumulator leaves 32 bits.
    """
    if product.dtype == np.float64 and product.size and np.abs(product).max() >= WORD:
        raise ProgramError(f"layer '{layer.name}': an accumulator leaves 32 bits")
    return product.astype(np.int32)


def _matrix(layer: Layer) -> NDArray[np.float64]:
    """The (group, place of the kernel x in, out) matrix of a layer, put together from tiles of 4 outputs x 4 inputs."""
    assert layer.weight is not None
    out, inner, kernel_h, kernel_w = layer.weight.shape
    outputs = out // layer.groups
    matrix = np.zeros((layer.groups, kernel_h * kernel_w, inner, outputs))
    for y in range(kernel_h):
        for x in range(kernel_w):
            for o in range(0, outputs, BLOCK):
                for i in range(0, inner, BLOCK):
                    for group in range(layer.groups):
                        first, last = group * outputs + o, group * outputs + min(o + BLOCK, outputs)
                        tile = layer.weight[first:last, i : i + BLOCK, y, x]
                        matrix[group, y * kernel_w + x, i : i + BLOCK, o : o + BLOCK] = tile.T
    flat = matrix.reshape(layer.groups, kernel_h * kernel_w * inner, outputs)
    return flat[0] if layer.groups == 1 else flat


def _windows(layer: Layer, given: Floats) -> tuple[Floats, int, int]:
    """What every place of the kernel reads: (vector, row, column, kernel row, kernel column, channel); rows, columns.

    A view: nothing is copied.
    """
    top, left, bottom, right = layer.padding
    padded = given
    if any(layer.padding):
        padded = np.pad(given, ((0, 0), (top, bottom), (left, right), (0, 0)))
    rows = (padded.shape[1] - layer.reach[0]) // layer.stride[0] + 1
    columns = (padded.shape[2] - layer.reach[1]) // layer.stride[1] + 1
    vector, row, column, channel = padded.strides
    shape = (len(given), rows, columns, *layer.kernel, given.shape[-1])
    strides = (
        vector, row * layer.stride[0], column * layer.stride[1], row * layer.dilation[0], column * layer.dilation[1],
        channel,
    )  # fmt: skip
    return np.lib.stride_tricks.as_strided(padded, shape, strides, writeable=False), rows, columns


def _convolve(layer: Layer, given: Integers, matrix: Floats) -> Integers:
    assert layer.weight is not None
    out, inner = layer.weight.shape[:2]
    windows, rows, columns = _windows(layer, given.astype(matrix.dtype))
    count, places = len(given) * rows * columns, layer.kernel[0] * layer.kernel[1]
    if layer.groups == 1:
        product = windows.reshape(count, places * inner) @ matrix
    elif inner == 1 and out == layer.groups:  # depthwise: one weight a channel
        product = np.einsum("npc,cp->nc", windows.reshape(count, places, out), matrix[:, :, 0], optimize=False)
    else:
        reads = windows.reshape(count, places, layer.groups, inner)
        parts = [reads[:, :, group].reshape(count, places * inner) @ matrix[group] for group in range(layer.groups)]
        product = np.concatenate(parts, axis=1)
    return _exact(layer, product).reshape(len(given), rows, columns, out)


def _max_pool(layer: Layer, given: Integers) -> Integers:
    top, left, bottom, right = layer.padding
    padded = np.pad(given, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=-WORD)
    rows = (padded.shape[1] - layer.kernel[0]) // layer.stride[0] + 1
    columns = (padded.shape[2] - layer.kernel[1]) // layer.stride[1] + 1
    best: Integers | None = None
    for y in range(layer.kernel[0]):
        for x in range(layer.kernel[1]):
            down = slice(y, y + (rows - 1) * layer.stride[0] + 1, layer.stride[0])
            across = slice(x, x + (columns - 1) * layer.stride[1] + 1, layer.stride[1])
            part = padded[:, down, across]
            best = part.copy() if best is None else np.maximum(best, part)
    assert best is not None
    return best


def _requantize_nearest(layer: Layer, accumulator: Integers, zero_point: int) -> Integers:
    """Multiply by a float32 number a channel, in float32, to the nearest integer, ties to the even one; clip."""
    assert layer.bias is not None and layer.multiplier is not None and layer.shift is not None
    factor = (layer.multiplier * np.exp2(-layer.shift.astype(np.float64))).astype(np.float32)
    before = 0 if layer.bias_last else layer.bias.astype(np.int64)
    levels = np.round((accumulator + before).astype(np.float32) * factor).astype(np.float64)
    after = layer.bias.astype(np.float64) if layer.bias_last else 0.0
    return np.asarray(np.clip(levels + after + zero_point, layer.low, layer.high), np.int32)


def _requantize(layer: Layer, accumulator: Integers, product: int, zero_point: int) -> Integers:
    """Add the bias, multiply, floor the shift, clip: one row of BNRM a channel, which is the last axis.

    ``product``: the largest that there can be, which says how wide the numbers must be.
    """
    assert layer.bias is not None and layer.multiplier is not None and layer.shift is not None
    half = int(layer.rounding == "half_up")
    wide: Any = np.int32 if product < WORD and layer.plain else np.int64
    level: NDArray[Any] = accumulator.astype(wide)
    if not layer.bias_last:
        level += layer.bias.astype(wide)
    left = np.maximum(-layer.shift, 0).astype(wide)
    factor: NDArray[Any] = layer.multiplier.astype(wide) << left
    if (factor != 1).any():
        level *= factor
    right = np.maximum(layer.shift, 0).astype(wide)
    if half:
        level += np.where(right > 0, np.left_shift(1, np.maximum(right - 1, 0)), 0)
    level >>= right
    if layer.bias_last:
        level += layer.bias.astype(wide)
    if zero_point:
        level += zero_point
    return np.clip(level, layer.low, layer.high, out=level).astype(np.int32, copy=False)


def main(arguments: list[str]) -> int:
    """Run a program file on a feature file; 0, or 1 with one line on stderr."""
    program, features, results = map(Path, arguments[:3])
    stop = arguments[3] if arguments[3:] else None
    try:
        values = simulate(program.read_bytes(), np.load(features, allow_pickle=False), stop=stop)
    except FlowlabError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    with results.open("wb") as file:
        np.savez(file, **values)  # type: ignore[arg-type]
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
