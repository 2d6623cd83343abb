"""Where each value lies in the arena."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph


@dataclass(frozen=True)
class Allocate:
    """Write on every value that lies in the arena its ``offset``: numbers from the start, bytes in a program of bytes.

    The caller keeps the input, and a program of bytes its float outputs.

    Before::

        graph 1
        input %input: float32[2]
        %a: float32[2] = relu(%input)
        %b: float32[3] = linear(%a)
          weight: float32[3, 2] = 1.0 2.0 3.0 4.0 5.0 6.0
        output "output" = %b

    After::

        graph 1
        input %input: float32[2]
        %a: float32[2] = relu(%input) offset=3
        %b: float32[3] = linear(%a) offset=0
          weight: float32[3, 2] = 1.0 2.0 3.0 4.0 5.0 6.0
        output "output" = %b
    """

    name: str = "allocate"

    def apply(self, graph: Graph) -> Graph:
        """The same nodes with their places, which are proven by readers and writers over an imagined memory."""
        from flowlab.compiler.rewrite import replace_nodes
        from flowlab.compiler.steps import steps_of

        steps = steps_of(graph)
        offsets = steps.arena().offsets
        return replace_nodes(
            graph,
            lambda node: (
                node.with_attributes(offset=offsets[steps.roots[node.name]]) if node.name in steps.roots else node
            ),
        )
