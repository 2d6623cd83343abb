"""Checksums of layers, one a vector: what names the first layer at which two executions differ."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowlab.compiler.infer import integer
from flowlab.compiler.ir import Graph, Node

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def traced(graph: Graph) -> tuple[Node, ...]:
    """The nodes whose bytes are compared: all that make int8 or uint8, except those that only rename them."""
    renames = ("flatten", "reshape")
    return tuple(node for node in graph.nodes if node.type.dtype in ("int8", "uint8") and node.op not in renames)


def unpadded(node: Node, value: NDArray[Any]) -> NDArray[Any]:
    """A value (vector, channel, ...) without the channels that a padding pass added."""
    return value[:, : integer(node, "channels", value.shape[1])]


def layer_named(graph: Graph, traced_name: str) -> str:
    """The layer, as a table of layers names it, whose output a trace names: a requantization belongs to its sum."""
    node = graph.node(traced_name)
    return node.inputs[0] if node.op == "requantize" else node.name


def layer_crcs(graph: Graph, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.uint32]]:
    """CRC-32 (zlib) of each traced node's bytes, one a vector.

    Args:
        graph: the placed graph.
        values: by value name, as `flowlab.compiler.interpreter.run` returns them.

    Returns:
        By node name, uint32 (vector,): of the value's own bytes (int8 or uint8), unpadded channels only, C order.
    """
    import numpy as np

    crcs = {}
    for node in traced(graph):
        value = np.ascontiguousarray(unpadded(node, values[node.name]))
        crcs[node.name] = np.array([zlib.crc32(vector.tobytes()) for vector in value], np.uint32)
    return crcs
