"""Nodes that no output needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph


@dataclass(frozen=True)
class DropDead:
    """Take out every node whose value reaches no output. Inputs stay.

    Before::

        graph 1
        input %input: float32[2]
        %a: float32[2] = relu(%input)
        %b: float32[2] = relu(%input)
        output "output" = %b

    After::

        graph 1
        input %input: float32[2]
        %b: float32[2] = relu(%input)
        output "output" = %b
    """

    name: str = "drop_dead"

    def apply(self, graph: Graph) -> Graph:
        """The graph without them."""
        needed = set(graph.outputs.values())
        for node in reversed(graph.nodes):
            if node.name in needed:
                needed |= set(node.inputs)
        return replace(graph, nodes=tuple(node for node in graph.nodes if node.name in needed))
