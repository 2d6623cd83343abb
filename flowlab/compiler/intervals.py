"""Which integers every value can take, channel by channel, from the real weights: the proof behind 32-bit sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from flowlab.compiler.infer import integer
from flowlab.compiler.ir import Graph, Node, TensorType
from flowlab.compiler.ops import LIMITS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Interval = tuple[NDArray[np.int64], NDArray[np.int64]]  # least and most, (channel,)

INT32 = LIMITS["int32"]
BYTES: dict[str, int] = {name: LIMITS[name][0] for name in ("int8", "uint8")}  # the least one


def intervals_of(graph: Graph) -> Mapping[str, Interval]:
    """The least and the most integer of each channel of every integer value; float values are left out.

    The bounds are sound, not tight: requantized values are given the range of their clip.
    """
    ranges: dict[str, Interval] = {}
    for value in graph.inputs:
        if value.type.dtype != "float32":
            ranges[value.name] = _whole(value.type)
    for node in graph.nodes:
        if node.type.dtype != "float32":
            ranges[node.name] = _RANGES.get(node.op, _of_type)(graph, node, ranges)
    return ranges


def _whole(type_: TensorType, limits: tuple[int, int] | None = None) -> Interval:
    import numpy as np

    low, high = limits or LIMITS[type_.dtype]
    return np.full(type_.shape[0], low, np.int64), np.full(type_.shape[0], high, np.int64)


def _of_type(graph: Graph, node: Node, ranges: Mapping[str, Interval]) -> Interval:
    return _whole(node.type)


def _clipped(graph: Graph, node: Node, ranges: Mapping[str, Interval]) -> Interval:
    return _whole(node.type, (integer(node, "low"), integer(node, "high")))


def _centred(graph: Graph, node: Node, ranges: Mapping[str, Interval], index: int = 0) -> Interval:
    """The range of ``x - zero_point``."""
    zero = graph.type_of(node.inputs[index]).zero_point
    low, high = ranges[node.inputs[index]]
    return low - zero, high - zero


def _weighted(graph: Graph, node: Node, ranges: Mapping[str, Interval]) -> Interval:
    import numpy as np

    low, high = _centred(graph, node, ranges)
    low, high = np.minimum(low, 0), np.maximum(high, 0)  # zero padding takes part
    weight = node.constants["weight"].astype(np.int64)
    weight = weight.reshape(weight.shape[0], weight.shape[1], -1)
    positive, negative = np.maximum(weight, 0).sum(2), np.minimum(weight, 0).sum(2)  # (out, in / groups)
    groups = integer(node, "groups", 1)
    group = np.repeat(np.arange(groups), weight.shape[0] // groups)
    low, high = low.reshape(groups, -1)[group], high.reshape(groups, -1)[group]  # (out, in / groups)
    return (positive * low + negative * high).sum(1), (positive * high + negative * low).sum(1)


def _summed(graph: Graph, node: Node, ranges: Mapping[str, Interval]) -> Interval:
    low, high = _centred(graph, node, ranges)
    _, height, width = graph.type_of(node.inputs[0]).shape
    return low * height * width, high * height * width


def _added(graph: Graph, node: Node, ranges: Mapping[str, Interval]) -> Interval:
    (low, high), (low2, high2) = _centred(graph, node, ranges), _centred(graph, node, ranges, 1)
    return low + low2, high + high2


def _multiplied(graph: Graph, node: Node, ranges: Mapping[str, Interval]) -> Interval:
    import numpy as np

    left, right = _centred(graph, node, ranges), _centred(graph, node, ranges, 1)
    corners = np.stack([one * other for one in left for other in right])
    return corners.min(axis=0), corners.max(axis=0)


def _joined(graph: Graph, node: Node, ranges: Mapping[str, Interval]) -> Interval:
    import numpy as np

    (low, high), (low2, high2) = (ranges[name] for name in node.inputs)
    return np.concatenate([low, low2]), np.concatenate([high, high2])


def _kept(graph: Graph, node: Node, ranges: Mapping[str, Interval]) -> Interval:
    return ranges[node.inputs[0]]


def _flattened(graph: Graph, node: Node, ranges: Mapping[str, Interval]) -> Interval:
    low, high = ranges[node.inputs[0]]
    times = node.type.shape[0] // low.shape[0]
    return low.repeat(times), high.repeat(times)


def _moved(graph: Graph, node: Node, ranges: Mapping[str, Interval]) -> Interval:
    """Of each channel of a take or reshape: the ranges of the channels that it reads, and the zero of an index -1."""
    import numpy as np

    low, high = ranges[node.inputs[0]]
    shape = graph.type_of(node.inputs[0]).shape
    index = np.arange(math.prod(shape)) if node.op == "reshape" else node.constants["index"].astype(np.int64)
    channel = (index // math.prod(shape[1:])).reshape(node.type.shape[0], -1)  # -1 stays -1
    zero = np.int64(node.type.zero_point)
    low, high = (np.where(channel < 0, zero, end[channel]) for end in (low, high))
    return low.min(axis=1), high.max(axis=1)


def _looked_up(graph: Graph, node: Node, ranges: Mapping[str, Interval]) -> Interval:
    entries = node.constants["entries"]
    return _whole(node.type, (int(entries.min()), int(entries.max())))


_RANGES: dict[str, Callable[[Graph, Node, Mapping[str, Interval]], Interval]] = {
    "conv": _weighted,
    "linear": _weighted,
    "sum_pool": _summed,
    "add": _added,
    "multiply": _multiplied,
    "requantize": _clipped,
    "requantize_float": _clipped,
    "quantize": _clipped,
    "quantize_linear": _clipped,
    "add_float": _clipped,
    "max_pool": _kept,
    "flatten": _flattened,
    "reshape": _moved,
    "take": _moved,
    "concat": _joined,
    "table": _looked_up,
}
