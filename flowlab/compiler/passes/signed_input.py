"""The network's input as signed bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph, Node

HALF = 128  # from an unsigned byte to the signed one of the same bits but the highest
MEANING = ("conv", "linear", "sum_pool", "multiply", "add_float", "table", "dequantize")  # read x - zero_point alone


@dataclass(frozen=True)
class SignedInput:
    """Let an input that is quantized to uint8 be int8, with a zero point that is smaller by 128.

    A program's input is int8. What reads the bytes themselves, or adds them to others, gets the old ones by a table.

    Before::

        graph 1
        input %input: float32[2]
        %q: uint8[2] scale 0.5 zero_point 130 = quantize_linear(%input) high=255 low=0
        %y: float32[2] = dequantize(%q) scale=0.5
        output "output" = %y

    After::

        graph 1
        input %input: float32[2]
        %q: int8[2] scale 0.5 zero_point 2 = quantize_linear(%input) high=127 low=-128
        %y: float32[2] = dequantize(%q) scale=0.5
        output "output" = %y
    """

    name: str = "signed_input"

    def apply(self, graph: Graph) -> Graph:
        """The graph with a signed input."""
        for node in graph.nodes:
            if node.op == "quantize_linear" and node.type.dtype == "uint8":
                graph = _signed(graph, node)
        return graph


def _signed(graph: Graph, node: Node) -> Graph:
    import numpy as np

    from flowlab.compiler.infer import integer
    from flowlab.compiler.ir import Node

    type_ = replace(node.type, dtype="int8", zero_point=node.type.zero_point - HALF)
    low, high = integer(node, "low") - HALF, integer(node, "high") - HALF
    made = replace(node, type=type_).with_attributes(low=low, high=high)
    old = Node(f"{node.name}/bytes", "table", (node.name,), node.type, {}, {"entries": np.arange(256, dtype=np.uint8)})
    nodes: list[Node] = []
    needed = node.name in graph.outputs.values()
    for each in graph.nodes:
        if node.name in each.inputs and each.op not in MEANING:
            needed = True
            each = replace(each, inputs=tuple(old.name if one == node.name else one for one in each.inputs))  # noqa: PLW2901
        nodes += [made] if each is node else [each]
    if needed:
        nodes.insert(nodes.index(made) + 1, old)
    outputs = {name: old.name if value == node.name else value for name, value in graph.outputs.items()}
    return replace(graph, nodes=tuple(nodes), outputs=outputs)
