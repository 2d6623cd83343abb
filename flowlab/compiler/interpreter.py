"""The graph's meaning: numpy, whole batches, exact integers in 64 bits. Every other execution must agree with it.

Convolutions are a sliding window view and one tensor product; no other execution computes them so.

Float graphs run too, in the precision asked for. Their sums are numpy's, in any order, then the bias is added; a batch
norm is ``x * k + (bias - mean * k)`` with ``k = weight * (1 / sqrt(variance + epsilon))``, as in ONNX Runtime. Other
executions sum in other orders: they agree within a tolerance (`flowlab.compiler.agreement.float_differs`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from flowlab.compiler.infer import dilation_of, integer, integers, reach
from flowlab.compiler.ir import Graph, Node, TensorType
from flowlab.compiler.number_format import scale_down
from flowlab.compiler.ops import INPUT_STEPS, LIMITS
from flowlab.errors import GraphError, unknown_name

Array = NDArray[Any]

_MOVES = ("max_pool", "flatten", "reshape", "take", "concat")  # they read integers, whatever those mean


def run(
    graph: Graph, features: NDArray[np.float32], precision: type[np.floating[Any]] = np.float32
) -> dict[str, Array]:
    """Every value of a graph, the input included, for a batch of vectors.

    Args:
        graph: verified; it has one input.
        features: float32 (vector, channel, height, width), or (vector, feature) for a graph that reads those.
            Channels that the graph's input has more than the features (padding) are zeros.
        precision: of float values.

    Returns:
        By value name, arrays (vector, ...) of the value's own dtype (float values: ``precision``).

    Raises:
        GraphError: if the features do not fit the input, or are NaN where they are quantized.
    """
    if len(graph.inputs) != 1:
        raise GraphError(f"the interpreter runs graphs with one input; this one has {len(graph.inputs)}")
    (source,) = graph.inputs
    values = {source.name: _entry(features, source.type.shape, source.name)}
    if source.type.dtype == "float32" and not any(node.op in INPUT_STEPS for node in graph.users(source.name)):
        values[source.name] = values[source.name].astype(precision)
    for node in graph.nodes:
        inputs = (_wide(values[name], _offset(node, graph.type_of(name))) for name in node.inputs)
        values[node.name] = _RUN[node.op](node, *inputs).astype(_dtype(node, precision))
    return values


def outputs(graph: Graph, features: NDArray[np.float32], batch: int = 256) -> dict[str, Array]:
    """The graph's outputs by name, arrays (vector, ...), computed ``batch`` vectors at a time. Raises as `run`."""
    parts: dict[str, list[Array]] = {name: [] for name in graph.outputs}
    for start in range(0, max(len(features), 1), batch):
        values = run(graph, features[start : start + batch])
        for name, value in graph.outputs.items():
            parts[name].append(values[value])
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def apply(node: Node, *inputs: Array) -> Array:
    """What one operation makes of its inputs: floats, or integers in 64 bits less what `_offset` says."""
    return _RUN[node.op](node, *inputs)


def _entry(features: Array, shape: tuple[int, ...], name: str) -> Array:
    found = features.shape[1:]
    if len(found) != len(shape) or found[1:] != shape[1:] or found[0] > shape[0]:
        raise GraphError(f"input '{name}' reads vectors of shape {shape}, and the features have {found}")
    if found[0] == shape[0]:
        return features
    return np.concatenate(
        [features, np.zeros((len(features), shape[0] - found[0], *found[1:]), features.dtype)], axis=1
    )


def _dtype(node: Node, precision: type[np.floating[Any]]) -> Any:
    return precision if node.type.dtype == "float32" else node.type.dtype


def _offset(node: Node, type_: TensorType) -> int:
    """What is taken off an operation's integers: the zero point, except where the bytes themselves are read."""
    if node.op == "table":
        return LIMITS[type_.dtype][0]  # entries[x - least(dtype)]
    return 0 if node.op in _MOVES else type_.zero_point


def _wide(array: Array, offset: int) -> Array:
    """Floats as they are; integers in 64 bits, less the offset."""
    return array if array.dtype.kind == "f" else array.astype(np.int64) - offset


def _column(node: Node, key: str, like: Array) -> Array:
    """One constant a channel, shaped for (vector, channel, ...); integers in 64 bits."""
    array = node.constants[key]
    array = array.astype(np.int64) if array.dtype.kind in "iu" else array.astype(like.dtype)
    return array.reshape(1, -1, *(1,) * (like.ndim - 2))


def _weights(node: Node, like: Array) -> Array:
    return node.constants["weight"].astype(like.dtype)


def _padded(node: Node, x: Array, fill: float) -> Array:
    top, left, bottom, right = integers(node, "padding", 4)
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)


def _windows(node: Node, x: Array, kernel: tuple[int, ...]) -> Array:
    """(vector, channel, row, column, kernel_h, kernel_w), without a copy."""
    down, across = integers(node, "stride", 2)
    return sliding_window_view(x, kernel, axis=(2, 3))[:, :, ::down, ::across]


def _conv(node: Node, x: Array) -> Array:
    y: Array
    weight = _weights(node, x)
    dilation = dilation_of(node)
    windows = _windows(node, _padded(node, x, 0), reach((weight.shape[2], weight.shape[3]), dilation))
    windows = windows[..., :: dilation[0], :: dilation[1]]
    groups = integer(node, "groups")
    if groups == x.shape[1] and groups == weight.shape[0]:
        y = np.einsum("nchwij,cij->nchw", windows, weight[:, 0])
    else:
        step, made = weight.shape[1], weight.shape[0] // groups
        y = np.concatenate(
            [
                np.tensordot(
                    windows[:, g * step : (g + 1) * step], weight[g * made : (g + 1) * made], ((1, 4, 5), (1, 2, 3))
                )
                for g in range(groups)
            ],
            axis=3,
        ).transpose(0, 3, 1, 2)
    return y + _column(node, "bias", y) if "bias" in node.constants else y


def _linear(node: Node, x: Array) -> Array:
    y = x @ _weights(node, x).T
    return y + _column(node, "bias", y) if "bias" in node.constants else y


def _sum_pool(node: Node, x: Array) -> Array:
    total: Array = x.sum(axis=(2, 3), keepdims=True)
    return total


def _average_pool(node: Node, x: Array) -> Array:
    mean: Array = x.mean(axis=(2, 3), keepdims=True)
    return mean


def _requantize(node: Node, x: Array) -> Array:
    bias, multiplier, shift = (_column(node, key, x) for key in ("bias", "multiplier", "shift"))
    rounding = str(node.attributes["rounding"])
    if node.attributes["bias_before_multiply"]:
        y = scale_down(x + bias, multiplier, shift, rounding)
    else:
        y = scale_down(x, multiplier, shift, rounding) + bias
    return np.clip(y + node.type.zero_point, integer(node, "low"), integer(node, "high"))


def _requantize_float(node: Node, x: Array) -> Array:
    real = x.astype(np.float32)
    with np.errstate(over="ignore"):  # what overflows is clipped
        y = np.floor(real * _column(node, "ratio", real) + _column(node, "bias", real))
    return np.clip(y, integer(node, "low"), integer(node, "high"))


def _quantize(node: Node, x: Array) -> Array:
    read = x.shape[1]
    bias = _column(node, "bias", x)[:, :read].astype(np.float32)
    multiplier = _column(node, "multiplier", x)[:, :read].astype(np.float32)
    shift = np.negative(_column(node, "shift", x)[:, :read].astype(np.int32))
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is clipped; NaN is found below
        product = (x.astype(np.float32, copy=False) + bias) * multiplier
    if np.isnan(product).any():
        raise GraphError(f"node '{node.name}': the features contain NaN or infinity, which has no integer")
    shifted = np.floor(np.ldexp(np.floor(product).astype(np.float64), shift))
    clipped = np.clip(shifted, integer(node, "low"), integer(node, "high")).astype(np.int64)
    return np.pad(clipped, [(0, 0), (0, node.type.shape[0] - read)] + [(0, 0)] * (x.ndim - 2))


def _quantize_linear(node: Node, x: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is clipped; NaN is found below
        levels = np.rint(x.astype(np.float32, copy=False) / np.float32(node.type.scale))
    if np.isnan(levels).any():
        raise GraphError(f"node '{node.name}': the features contain NaN or infinity, which has no integer")
    return _levels(node, levels)


def _levels(node: Node, levels: Array) -> Array:
    """Whole float32 numbers as integers of the node's range."""
    zero = node.type.zero_point
    low, high = integer(node, "low") - zero, integer(node, "high") - zero
    clipped: Array = np.clip(levels, np.float32(low), np.float32(high)).astype(np.int64) + zero
    return clipped


def _max_pool(node: Node, x: Array) -> Array:
    least = -math.inf if x.dtype.kind == "f" else np.iinfo(np.int64).min
    most: Array = _windows(node, _padded(node, x, least), integers(node, "kernel", 2)).max(axis=(4, 5))
    return most


def _flatten(node: Node, x: Array) -> Array:
    return x.reshape(len(x), math.prod(x.shape[1:]))


def _reshape(node: Node, x: Array) -> Array:
    return x.reshape(len(x), *node.type.shape)


def _take(node: Node, x: Array) -> Array:
    index: Array = node.constants["index"]
    taken = np.where(index < 0, node.type.zero_point, x.reshape(len(x), -1)[:, index])
    return taken.reshape(len(x), *node.type.shape)


def _concat(node: Node, left: Array, right: Array) -> Array:
    return np.concatenate([left, right], axis=1)


def _relu(node: Node, x: Array) -> Array:
    return np.maximum(x, 0)


def _batch_norm(node: Node, x: Array) -> Array:
    scale, shift = (array.reshape(1, -1, *(1,) * (x.ndim - 2)) for array in batch_norm_line(node, x.dtype))
    normal: Array = x * scale + shift
    return normal


def batch_norm_line(node: Node, dtype: Any) -> tuple[Array, Array]:
    """Scale and shift of each channel, computed in ``dtype``: what a batch norm is at inference."""
    weight, bias, mean, variance = (node.constants[key].astype(dtype) for key in ("weight", "bias", "mean", "variance"))
    epsilon = np.asarray(_parameter(node, "epsilon", 0.0), dtype)
    scale: Array = weight * (np.asarray(1.0, dtype) / np.sqrt(variance + epsilon))
    return scale, bias - mean * scale


def _add(node: Node, left: Array, right: Array) -> Array:
    return left + right


def _add_float(node: Node, left: Array, right: Array) -> Array:
    scales = (np.float32(_parameter(node, key, 1.0)) for key in ("left_scale", "right_scale"))
    real = [each.astype(np.float32) * scale for each, scale in zip((left, right), scales, strict=True)]
    return _levels(node, np.rint((real[0] + real[1]) / np.float32(node.type.scale)))


def _multiply(node: Node, left: Array, right: Array) -> Array:
    return left * right


def _table(node: Node, x: Array) -> Array:
    return node.constants["entries"][x]


def _dequantize(node: Node, x: Array) -> Array:
    return np.multiply(x.astype(np.float32), np.float32(_parameter(node, "scale", 1.0)))


def _activation(node: Node, x: Array) -> Array:
    name = str(node.attributes["function"])
    if name not in FUNCTIONS:
        raise GraphError(f"node '{node.name}': {unknown_name('activation function', name, FUNCTIONS)}")
    return FUNCTIONS[name](node, x)


def _parameter(node: Node, name: str, default: float) -> float:
    return float(node.attributes.get(name, default))  # type: ignore[arg-type]


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))  # never overflows


def _softplus(x: Array) -> Array:
    return np.logaddexp(x, 0.0)


def _erf(x: Array) -> Array:
    y: Array = np.vectorize(math.erf, otypes=[float])(x).astype(x.dtype)
    return y


def _elu(node: Node, x: Array) -> Array:
    return np.where(x > 0, x, _parameter(node, "alpha", 1.0) * np.expm1(np.minimum(x, 0)))


FUNCTIONS: Mapping[str, Callable[[Node, Array], Array]] = {
    "sigmoid": lambda node, x: _sigmoid(x),
    "tanh": lambda node, x: np.tanh(x),
    "silu": lambda node, x: x * _sigmoid(x),
    "gelu": lambda node, x: 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))),
    "relu6": lambda node, x: np.clip(x, 0.0, 6.0),
    "hardtanh": lambda node, x: np.clip(x, _parameter(node, "low", -1.0), _parameter(node, "high", 1.0)),
    "leaky_relu": lambda node, x: np.where(x > 0, x, _parameter(node, "alpha", 0.01) * x),
    "elu": _elu,
    "softplus": lambda node, x: _softplus(x),
    "softsign": lambda node, x: x / (1.0 + np.abs(x)),
    "mish": lambda node, x: x * np.tanh(_softplus(x)),
    "hardsigmoid": lambda node, x: np.clip(x / 6.0 + 0.5, 0.0, 1.0),
    "hardswish": lambda node, x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0),
}

_RUN: Mapping[str, Callable[..., Array]] = {
    "conv": _conv,
    "linear": _linear,
    "sum_pool": _sum_pool,
    "average_pool": _average_pool,
    "requantize": _requantize,
    "requantize_float": _requantize_float,
    "quantize": _quantize,
    "quantize_linear": _quantize_linear,
    "max_pool": _max_pool,
    "flatten": _flatten,
    "reshape": _reshape,
    "take": _take,
    "concat": _concat,
    "relu": _relu,
    "activation": _activation,
    "table": _table,
    "batch_norm": _batch_norm,
    "add": _add,
    "add_float": _add_float,
    "multiply": _multiply,
    "dequantize": _dequantize,
}
