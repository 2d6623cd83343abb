"""Each accumulation with the BNORM behind it, as one layer of a program."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph, Node


@dataclass(frozen=True)
class FuseBnorm:
    """Put every accumulation directly in front of the requantization (BNORM) that reads it: the two are one layer.

    Several requantizations of one accumulation, as where two branches go on with other scales, get one each: the sums
    of 32 bits are never stored, so they are added up again. An accumulation that leaves the network, or that another
    operation reads, stays.

    Before::

        graph 1
        input %input: int8[2]
        %acc: int32[1] = linear(%input)
          weight: int8[1, 2] = 1 2
        %a: int8[1] = requantize(%acc) bias_before_multiply=true high=127 low=-128 rounding="floor"
          bias: int32[1] = 1
          multiplier: int32[1] = 1
          shift: int32[1] = 1
        %b: int8[1] scale 4.0 = requantize(%acc) bias_before_multiply=true high=127 low=-128 rounding="floor"
          bias: int32[1] = 2
          multiplier: int32[1] = 1
          shift: int32[1] = 2
        output "a" = %a
        output "b" = %b

    After::

        graph 1
        input %input: int8[2]
        %acc: int32[1] = linear(%input)
          weight: int8[1, 2] = 1 2
        %a: int8[1] = requantize(%acc) bias_before_multiply=true high=127 low=-128 rounding="floor"
          bias: int32[1] = 1
          multiplier: int32[1] = 1
          shift: int32[1] = 1
        %b.acc: int32[1] = linear(%input)
          weight: int8[1, 2] = 1 2
        %b: int8[1] scale 4.0 = requantize(%b.acc) bias_before_multiply=true high=127 low=-128 rounding="floor"
          bias: int32[1] = 2
          multiplier: int32[1] = 1
          shift: int32[1] = 2
        output "a" = %a
        output "b" = %b
    """

    name: str = "fuse_bnorm"

    def apply(self, graph: Graph) -> Graph:
        """The same nodes, pairs together, and one more accumulation for every further requantization."""
        from flowlab.compiler.program import REQUANTIZED
        from flowlab.compiler.rewrite import fresh

        readers = {node.name: graph.users(node.name) for node in graph.nodes if node.op in REQUANTIZED}
        held = set(graph.outputs.values())
        pairs = {
            name
            for name, users in readers.items()
            if users and name not in held and all(user.op == "requantize" for user in users)
        }
        nodes: list[Node] = []
        for node in graph.nodes:
            if node.op == "requantize" and node.inputs[0] in pairs:
                accumulation, name = graph.node(node.inputs[0]), node.inputs[0]
                if node.name != readers[name][0].name:
                    name = fresh(graph, f"{node.name}.acc")
                nodes += (replace(accumulation, name=name), replace(node, inputs=(name,)))
            elif node.name not in pairs:
                nodes.append(node)
        return replace(graph, nodes=tuple(nodes))
