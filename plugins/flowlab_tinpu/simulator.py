"""The simulator: runs the bytes of a program on an open model of the NPU, with numpy and nothing else.

Layers on the CPU obey the same law and run in the same way, so it runs programs of devices without an NPU too.

    python -m flowlab_tinpu.simulator model.flnp features.npy results.npz

It knows the published arithmetic and the container, not the graph. Activations lie channels last; a convolution is one
matrix product for each place of the kernel, over tiles of 4 outputs x 4 inputs as they are packed, whatever the width
of weights and activations. Products run in float64, whose 53 bits hold every sum exactly; the accumulator is checked
against 32 bits. `results.npz` has "output/<name>" (vector, ...) and "crc/<layer>" (vector,), as in
`flowlab.contracts.Outcome`.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowlab.compiler.program import BLOCK, RENAMES, Container, Layer, Tensor, parse
from flowlab.errors import FlowlabError, ProgramError

BATCH = 256  # vectors at a time, so that memory stays small
Integers = NDArray[np.int64]


def simulate(data: bytes, features: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
    """Run a program on float32 (vector, channel, height, width).

    Returns:
        "output/<name>": int32 or float32 (vector, ...); "crc/<layer>": uint32 (vector,).

    Raises:
        ProgramError: if the bytes are no program, the features have another shape, or an accumulator leaves 32 bits.
    """
    program = parse(data)
    wanted = program.tensors[program.first().inputs[0]].shape
    if features.shape[1:] != wanted:
        raise ProgramError(f"features of shape {features.shape[1:]}; the program takes {wanted}")
    parts = [_run_batch(program, features[at : at + BATCH]) for at in range(0, max(1, len(features)), BATCH)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _run_batch(program: Container, features: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
    values: dict[int, Integers] = {}
    results: dict[str, NDArray[np.generic]] = {}
    floats: dict[int, NDArray[np.float32]] = {program.first().inputs[0]: features}
    for layer in program.layers:
        result = program.tensors[layer.output]
        if layer.op == "dequantize":
            given = _channels_first(values[layer.inputs[0]]).astype(np.float32)
            floats[layer.output] = given * np.float32(layer.scale)
            continue
        if layer.op == "quantize":
            values[layer.output] = _input_step(layer, features, result.shape[0])
        else:
            values[layer.output] = _layer(program, layer, [values[at] for at in layer.inputs])
        if layer.op not in RENAMES:
            results[f"crc/{layer.name}"] = _checksums(values[layer.output], result)
    for name, at in program.outputs.items():
        results[f"output/{name}"] = floats[at] if at in floats else _channels_first(values[at]).astype(np.int32)
    return results


def _channels_first(value: Integers) -> Integers:
    return value if value.ndim == 2 else value.transpose(0, 3, 1, 2)


def _checksums(value: Integers, tensor: Tensor) -> NDArray[np.uint32]:
    """CRC-32 of each vector's bytes in (channel, height, width) order, channels that padding added left out."""
    rows = np.ascontiguousarray(_channels_first(value)[:, : tensor.channels].astype(np.dtype(tensor.dtype)))
    return np.array([zlib.crc32(row.tobytes()) for row in rows], np.uint32)


def _input_step(layer: Layer, features: NDArray[np.float32], channels: int) -> Integers:
    """Floats to int8, channels last; channels beyond the features' are zeros."""
    assert layer.bias is not None and layer.multiplier is not None and layer.shift is not None
    channels_last = np.moveaxis(features.astype(np.float32), 1, -1)
    with np.errstate(over="ignore"):  # what overflows is clipped
        summed = channels_last + layer.bias.astype(np.float32)
        product = summed * layer.multiplier.astype(np.float32)
    levels = np.floor(np.floor(product).astype(np.float64) / np.exp2(layer.shift.astype(np.float64)))
    found = np.asarray(np.clip(levels, layer.low, layer.high), np.int64)
    return np.pad(found, [(0, 0)] * (found.ndim - 1) + [(0, channels - found.shape[-1])])


def _layer(program: Container, layer: Layer, given: list[Integers]) -> Integers:
    (first, *others) = given
    if layer.op in RENAMES or layer.op == "take":
        return _moved(layer, first, program.tensors[layer.output].shape)
    if layer.op == "concat":
        return np.concatenate([first, others[0]], axis=-1)
    if layer.op == "max_pool":
        return _max_pool(layer, first)
    if layer.op == "table":
        assert layer.entries is not None
        least = -128 if program.tensors[layer.inputs[0]].dtype == "int8" else 0
        return layer.entries.astype(np.int64)[first - least]
    if layer.op == "sum_pool":
        accumulator = first.sum(axis=(1, 2), keepdims=True)
    elif layer.op == "add":
        accumulator = first + others[0]
    elif layer.op == "multiply":
        accumulator = first * others[0]
    elif layer.op == "linear":
        assert layer.weight is not None
        accumulator = _exact(first.astype(np.float64) @ _tile_matrix(layer, 0, 0, 0, layer.weight.shape[0]))
    else:
        accumulator = _convolve(layer, first)
    return _requantize(layer, accumulator)


def _moved(layer: Layer, given: Integers, shape: tuple[int, ...]) -> Integers:
    """The same numbers, or those that a take names, under another shape; places count in channels-first order."""
    flat = _channels_first(given).reshape(len(given), -1)
    if layer.index is not None:
        flat = np.where(layer.index < 0, 0, flat[:, layer.index])
    shaped = flat.reshape(len(given), *shape)
    return shaped if len(shape) == 1 else np.moveaxis(shaped, 1, -1)


def _exact(product: NDArray[np.float64]) -> Integers:
    return product.astype(np.int64)


def _tile_matrix(layer: Layer, y: int, x: int, first: int, outputs: int) -> NDArray[np.float64]:
    """The (in, out) matrix of one place of the kernel, put together from its tiles of 4 outputs x 4 inputs."""
    assert layer.weight is not None
    inner = layer.weight.shape[1]
    matrix = np.zeros((inner, outputs), np.float64)
    for o in range(0, outputs, BLOCK):
        for i in range(0, inner, BLOCK):
            tile = layer.weight[first + o : min(first + o + BLOCK, first + outputs), i : i + BLOCK, y, x]
            matrix[i : i + BLOCK, o : o + BLOCK] = tile.T
    return matrix


def _convolve(layer: Layer, given: Integers) -> Integers:
    assert layer.weight is not None
    out, inner, kernel_h, kernel_w = layer.weight.shape
    top, left, bottom, right = layer.padding
    padded = np.pad(given, ((0, 0), (top, bottom), (left, right), (0, 0))).astype(np.float64)
    rows = (padded.shape[1] - layer.reach[0]) // layer.stride[0] + 1
    columns = (padded.shape[2] - layer.reach[1]) // layer.stride[1] + 1
    outputs = out // layer.groups
    total = np.zeros((len(given), rows, columns, out), np.float64)
    for y in range(kernel_h):
        for x in range(kernel_w):
            first, left_most = y * layer.dilation[0], x * layer.dilation[1]
            tile = padded[
                :,
                first : first + (rows - 1) * layer.stride[0] + 1 : layer.stride[0],
                left_most : left_most + (columns - 1) * layer.stride[1] + 1 : layer.stride[1],
            ]
            if layer.groups > 1 and inner == 1 and outputs == 1:  # depthwise: one weight a channel
                total += tile * layer.weight[:, 0, y, x]
                continue
            for group in range(layer.groups):
                weights = _tile_matrix(layer, y, x, group * outputs, outputs)
                reads = tile[..., group * inner : (group + 1) * inner]
                total[..., group * outputs : (group + 1) * outputs] += reads @ weights
    return _exact(total)


def _max_pool(layer: Layer, given: Integers) -> Integers:
    top, left, bottom, right = layer.padding
    padded = np.pad(given, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=-(1 << 40))
    rows = (padded.shape[1] - layer.kernel[0]) // layer.stride[0] + 1
    columns = (padded.shape[2] - layer.kernel[1]) // layer.stride[1] + 1
    best = np.full((len(given), rows, columns, given.shape[-1]), -(1 << 40), np.int64)
    for y in range(layer.kernel[0]):
        for x in range(layer.kernel[1]):
            down = slice(y, y + (rows - 1) * layer.stride[0] + 1, layer.stride[0])
            across = slice(x, x + (columns - 1) * layer.stride[1] + 1, layer.stride[1])
            best = np.maximum(best, padded[:, down, across])
    return best


def _requantize(layer: Layer, accumulator: Integers) -> Integers:
    """Add the bias, multiply, floor the shift, clip: one row of BNRM a channel, which is the last axis."""
    assert layer.bias is not None and layer.multiplier is not None and layer.shift is not None
    if accumulator.size and np.abs(accumulator).max() >= 1 << 31:
        raise ProgramError(f"layer '{layer.name}': an accumulator leaves 32 bits")
    product = (accumulator + layer.bias.astype(np.int64)) * layer.multiplier.astype(np.int64)
    shift = layer.shift.astype(np.int64)
    shifted = np.where(shift >= 0, product >> np.maximum(shift, 0), product << np.maximum(-shift, 0))
    return np.clip(shifted, layer.low, layer.high)


def main(arguments: list[str]) -> int:
    """Run a program file on a feature file; 0, or 1 with one line on stderr."""
    program, features, results = map(Path, arguments)
    try:
        values = simulate(program.read_bytes(), np.load(features, allow_pickle=False))
    except FlowlabError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    with results.open("wb") as file:
        np.savez(file, **values)  # type: ignore[arg-type]
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
