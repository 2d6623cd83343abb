"""Zero inputs for small linear layers, up to the least number that an accelerator takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowlab.compiler.channels import ChannelGroup, Channels
    from flowlab.compiler.ir import Graph, Node


@dataclass(frozen=True)
class PadLinearInputs:
    """Give linear layers at least the inputs that their width of weights needs, in multiples of ``multiple``.

    The layer before makes more channels, with zero weights; a flatten between them puts the new features last.
    ``least`` is pairs of (weight bits, inputs).

    Before::

        graph 1
        input %input: float32[2]
        %a: float32[3] = linear(%input)
          weight: float32[3, 2] = 1.0 2.0 3.0 4.0 5.0 6.0
        %a.relu: float32[3] = relu(%a)
        %b: float32[1] = linear(%a.relu) weight_bits=4
          weight: float32[1, 3] = 1.0 2.0 3.0
        output "output" = %b

    After::

        graph 1
        input %input: float32[16]
        %a: float32[8] = linear(%input) channels=3 in_channels=2
          weight: float32[8, 16] = 1.0 2.0 0.0*14 3.0 4.0 0.0*14 5.0 6.0 0.0*94
        %a.relu: float32[8] = relu(%a) channels=3
        %b: float32[1] = linear(%a.relu) in_channels=3 weight_bits=4
          weight: float32[1, 8] = 1.0 2.0 3.0 0.0*5
        output "output" = %b
    """

    least: tuple[tuple[int, int], ...] = ((8, 16), (4, 8), (2, 8))
    multiple: int = 4
    name: str = "pad_linear_inputs"

    def apply(self, graph: Graph) -> Graph:
        """The widened graph. Its integers on the channels before are those of the given graph."""
        from flowlab.compiler.channels import channels_of, widen

        channels = channels_of(graph)
        wanted = {group: self._count(graph, channels, group) for group in channels.groups() if not group.fixed}
        return widen(graph, {group: count for group, count in wanted.items() if count != group.count})

    def _count(self, graph: Graph, channels: Channels, group: ChannelGroup) -> int:
        from flowlab.compiler.channels import least_count, readers
        from flowlab.compiler.passes.pad_channels import works_in_multiples

        reading = tuple(readers(graph, group))
        linear = tuple(node for node in reading if node.op == "linear")
        if not linear or (group.count == 1 and any(node.op == "conv" for node in reading)):
            return group.count
        step = self.multiple if works_in_multiples(graph, group) else 1
        return least_count(group.count, step, lambda count: all(self._holds(node, channels, count) for node in linear))

    def _holds(self, node: Node, channels: Channels, count: int) -> bool:
        from flowlab.compiler.infer import integer

        inputs = count * channels.factor[node.inputs[0]]
        return inputs % self.multiple == 0 and inputs >= dict(self.least).get(integer(node, "weight_bits", 8), 0)
