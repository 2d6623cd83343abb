"""Nodes that give back what they read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph, Node


@dataclass(frozen=True)
class DropIdentity:
    """Take out a flatten of features, a 1x1 max pool, a relu behind a relu, and a table of every byte itself.

    Before::

        graph 1
        input %input: float32[2]
        %a: float32[2] = relu(%input)
        %b: float32[2] = flatten(%a)
        %c: float32[2] = relu(%b)
        output "output" = %c

    After::

        graph 1
        input %input: float32[2]
        %a: float32[2] = relu(%input)
        output "output" = %a
    """

    name: str = "drop_identity"

    def apply(self, graph: Graph) -> Graph:
        """The graph without them; their readers read what they read."""
        from flowlab.compiler.rewrite import substitute

        while instead := next((node for node in graph.nodes if _gives_back(graph, node)), None):
            graph = substitute(graph, {instead.name: instead.inputs[0]})
        return graph


def _gives_back(graph: Graph, node: Node) -> bool:
    read = node.inputs[0]
    if node.type != graph.type_of(read):
        return False
    if node.op == "flatten":
        return True
    if node.op == "max_pool":
        return node.attributes["kernel"] == (1, 1) and node.attributes["stride"] == (1, 1)
    if node.op == "relu":
        return any(before.name == read and before.op == "relu" for before in graph.nodes)
    if node.op == "table":
        least = -128 if node.type.dtype == "int8" else 0
        return [int(entry) for entry in node.constants["entries"]] == list(range(least, least + 256))
    return False
