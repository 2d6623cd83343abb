"""Which unit each layer runs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph
    from flowlab.compiler.place import Placement
    from flowlab.compiler.rules import Rule


@dataclass(frozen=True)
class Place:
    """Write on every layer its unit and what the accelerator calls it, by the rules.

    Reasons, cures and costs stand in the layer table, which `flowlab.compiler.place.place` returns beside the graph.

    Before::

        graph 1
        input %input: float32[2]
        %a: float32[2] = linear(%input)
          weight: float32[2, 2] = 1.0 2.0 3.0 4.0
        %b: float32[2] = relu(%a)
        output "output" = %b

    After::

        graph 1
        input %input: float32[2]
        %a: float32[2] = linear(%input) layer="linear" unit="cpu"
          weight: float32[2, 2] = 1.0 2.0 3.0 4.0
        %b: float32[2] = relu(%a)
        output "output" = %b
    """

    rules: tuple[Rule, ...] = ()
    unit_name: str = "NPU"
    off: str = ""
    name: str = "place"

    def apply(self, graph: Graph) -> Graph:
        """The same nodes with ``unit`` and ``layer``."""
        return self.placement(graph).graph

    def placement(self, graph: Graph) -> Placement:
        """The same, with the layer table."""
        from flowlab.compiler.place import place

        return place(graph, self.rules, self.unit_name, self.off)
