"""The machine: runs the bytes of ``model.m78`` with numpy, 64 input channels at a time, a place of the kernel each.

    python -m flowlab_max78000.simulator model.m78 features.npy results.npz

Rounds half up and saturates at 8 signed bits, also behind a ReLU.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from flowlab.errors import FlowlabError, ProgramError
from flowlab_max78000.program import Layer, decode

PROCESSORS = 64  # one input channel each
BIAS_SHIFT = 7  # "the bias needs to be multiplied by 128": izer/quantize.py of ai8x-synthesis


def simulate(data: bytes, features: Any) -> dict[str, Any]:
    """Outputs and checksums of a program for float32 (vector, channel, height, width)."""
    shape, output, layers = decode(data)
    if features.shape[1:] != shape:
        raise ProgramError(f"features of shape {features.shape[1:]}; the program takes {shape}")
    value, results = features.astype(np.float32), {}
    for layer in layers:
        value = RUN[layer.op](layer, value)
        if layer.op != "dequantize":
            rows = value.astype(np.int8).reshape(len(value), -1)
            results[f"crc/{layer.name}"] = np.array([zlib.crc32(row.tobytes()) for row in rows], np.uint32)
    results[f"output/{output}"] = value.astype(np.float32 if value.dtype.kind == "f" else np.int32)
    return results


def _quantize(layer: Layer, x: Any) -> Any:
    bias, multiplier, shift = (layer.arrays[key].reshape(-1, 1, 1) for key in ("bias", "multiplier", "shift"))
    whole = np.floor((x + bias) * multiplier.astype(np.float32)).astype(np.float64)
    if np.isnan(whole).any():
        raise ProgramError(f"layer '{layer.name}': the features contain what is no number")
    return np.clip(np.floor(whole * 0.5**shift), layer.low, layer.high).astype(np.int64)


def _pool(layer: Layer, x: Any) -> Any:
    return np.max([part for _, _, part in _places(layer, x)], axis=0)


def _conv(layer: Layer, x: Any) -> Any:
    top, left, bottom, right = layer.padding
    weight = layer.arrays["weight"].astype(np.int64)
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    total: Any = 0
    for first in range(0, x.shape[1], PROCESSORS):
        group = slice(first, first + PROCESSORS)
        for row, column, part in _places(layer, padded[:, group]):
            total = total + np.einsum("oc,nchw->nohw", weight[:, group, row, column], part)
    return _requantize(layer, total)


def _linear(layer: Layer, x: Any) -> Any:
    flat, weight = x.reshape(len(x), -1), layer.arrays["weight"].astype(np.int64)
    return _requantize(layer, (flat[:, None] * weight).sum(axis=2))


def _places(layer: Layer, x: Any) -> Any:
    """For every place of the kernel what it reads at all places of the output."""
    rows, columns = ((x.shape[2 + axis] - layer.kernel[axis]) // layer.stride[axis] + 1 for axis in (0, 1))
    for row in range(layer.kernel[0]):
        for column in range(layer.kernel[1]):
            down = slice(row, row + (rows - 1) * layer.stride[0] + 1, layer.stride[0])
            yield row, column, x[:, :, down, slice(column, column + (columns - 1) * layer.stride[1] + 1, layer.stride[1])]


def _requantize(layer: Layer, total: Any) -> Any:
    bias = layer.arrays["bias"].astype(np.int64) << BIAS_SHIFT
    level = total + bias.reshape(-1, *(1,) * (total.ndim - 2))
    level = (level + (1 << layer.shift >> 1)) >> layer.shift if layer.shift > 0 else level << -layer.shift
    return np.clip(level, layer.low, layer.high)


def _dequantize(layer: Layer, x: Any) -> Any:
    return x.astype(np.float32) * np.float32(layer.scale)


RUN = {"quantize": _quantize, "pool": _pool, "conv": _conv, "linear": _linear, "dequantize": _dequantize}


def main(arguments: list[str]) -> int:
    """Run a program file on a feature file; 0, or 1 with one line on stderr."""
    program, features, results = map(Path, arguments)
    try:
        values = simulate(program.read_bytes(), np.load(features, allow_pickle=False))
    except FlowlabError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    np.savez(results, **values)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
