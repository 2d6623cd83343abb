"""Channels of zeros, up to the number that an accelerator works on at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowlab.compiler.channels import ChannelGroup
    from flowlab.compiler.ir import Graph, Node
    from flowlab.compiler.rules import Rule


@dataclass(frozen=True)
class PadChannels:
    """Give convolutions and max pools channels in multiples of ``multiple``; new channels have zero weights.

    A convolution of one input channel keeps it. Outputs of the graph keep their channels. Widened nodes remember the
    count before as ``channels`` and ``in_channels``. The quantization of the input makes the channels that it does not
    read as zeros; a float graph's input is itself widened, and its new channels are fed with zeros.
    With ``rules``, channels stay as they are where every layer that makes or reads them breaks another rule: on the
    CPU zeros would cost and bring nothing.

    Before::

        graph 1
        input %input: float32[1, 2, 1]
        %a: float32[3, 2, 1] = conv(%input) groups=1 padding=(0, 0, 0, 0) stride=(1, 1)
          weight: float32[3, 1, 1, 1] = 1.0 2.0 3.0
        %b: float32[2, 2, 1] = conv(%a) groups=1 padding=(0, 0, 0, 0) stride=(1, 1)
          weight: float32[2, 3, 1, 1] = 1.0 2.0 3.0 4.0 5.0 6.0
        output "output" = %b

    After::

        graph 1
        input %input: float32[1, 2, 1]
        %a: float32[4, 2, 1] = conv(%input) channels=3 groups=1 padding=(0, 0, 0, 0) stride=(1, 1)
          weight: float32[4, 1, 1, 1] = 1.0 2.0 3.0 0.0
        %b: float32[2, 2, 1] = conv(%a) groups=1 in_channels=3 padding=(0, 0, 0, 0) stride=(1, 1)
          weight: float32[2, 4, 1, 1] = 1.0 2.0 3.0 0.0 4.0 5.0 6.0 0.0
        output "output" = %b
    """

    multiple: int = 4
    rules: tuple[Rule, ...] = ()
    name: str = "pad_channels"

    def apply(self, graph: Graph) -> Graph:
        """The widened graph. Its integers on the channels before are those of the given graph."""
        from flowlab.compiler.channels import channels_of, widen

        counts = {}
        for group in channels_of(graph).groups():
            wanted = -(-group.count // self.multiple) * self.multiple
            if not group.fixed and wanted != group.count and works_in_multiples(graph, group):
                counts[group] = wanted
        if self.rules:
            accelerated = self._accelerated(widen(graph, counts))
            counts = {
                group: wanted
                for group, wanted in counts.items()
                if any(node.name in accelerated for node in touching(graph, group))
            }
        return widen(graph, counts)

    def _accelerated(self, widened: Graph) -> frozenset[str]:
        """The layers that the accelerator takes once they are as wide as they can be."""
        from flowlab.compiler.place import place

        return frozenset(row.name for row in place(widened, self.rules).rows if row.unit == "npu")


def works_in_multiples(graph: Graph, group: ChannelGroup) -> bool:
    """Whether a convolution or a max pool makes or reads the group (a convolution of one channel does not count)."""
    for node in graph.nodes:
        reads = bool(group.values & set(node.inputs))
        if node.op == "conv" and (node.name in group.values or (reads and group.count != 1)):
            return True
        if node.op == "max_pool" and reads:
            return True
    return False


def touching(graph: Graph, group: ChannelGroup) -> Iterator[Node]:
    """The nodes that make or read a value of the group."""
    return (node for node in graph.nodes if node.name in group.values or group.values & set(node.inputs))
