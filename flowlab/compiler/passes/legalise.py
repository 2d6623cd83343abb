"""Requantizations in the one form that accelerators and fast kernels have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from flowlab.compiler.intervals import Interval
    from flowlab.compiler.ir import Graph, Node


@dataclass(frozen=True)
class Legalise:
    """Let a requantize that rounds half up, or adds its bias behind the multiplication, add first and floor.

    Half a step, and a bias behind the multiplication, are ``(bias * 2^shift + 2^(shift - 1)) / multiplier`` in front of
    it. Where that is a whole number in every channel every integer stays; otherwise the node stays as it is. So does
    one that rounds twice as TFLite does, or to the even one of two.

    Before::

        graph 1
        input %input: int8[2]
        %acc: int32[1] = linear(%input)
          weight: int8[1, 2] = 1 2
        %a: int8[1] = requantize(%acc) bias_before_multiply=true high=127 low=-128 rounding="half_up"
          bias: int32[1] = 5
          multiplier: int32[1] = 2
          shift: int32[1] = 4
        output "output" = %a

    After::

        graph 1
        input %input: int8[2]
        %acc: int32[1] = linear(%input)
          weight: int8[1, 2] = 1 2
        %a: int8[1] = requantize(%acc) bias_before_multiply=true high=127 low=-128 rounding="floor"
          bias: int32[1] = 9
          multiplier: int32[1] = 2
          shift: int32[1] = 4
        output "output" = %a
    """

    name: str = "legalise"

    def apply(self, graph: Graph) -> Graph:
        """The same nodes, those requantizations in another form."""
        from flowlab.compiler.intervals import intervals_of
        from flowlab.compiler.rewrite import replace_nodes

        if all(node.op != "requantize" or _legal(node) for node in graph.nodes):
            return graph
        ranges = intervals_of(graph)
        return replace_nodes(graph, lambda node: node if node.op != "requantize" else _floored(node, ranges))


def _legal(node: Node) -> bool:
    return node.attributes["rounding"] == "floor" and node.attributes["bias_before_multiply"] is True


def _floored(node: Node, ranges: Mapping[str, Interval]) -> Node:
    import numpy as np

    bias = _bias(node)
    if bias is None:
        return node
    low, high = (end + bias for end in ranges[node.inputs[0]])
    if min(bias.min(), low.min()) < -(2**31) or max(bias.max(), high.max()) >= 2**31:
        return node
    constants = {**node.constants, "bias": bias.astype(np.int32)}
    return replace(node, constants=constants).with_attributes(rounding="floor", bias_before_multiply=True)


def _bias(node: Node) -> NDArray[np.int64] | None:
    """One bias a channel in front of the multiplication; None where one is no whole number."""
    import numpy as np

    rounding, before = node.attributes["rounding"], node.attributes["bias_before_multiply"]
    if _legal(node) or rounding in ("double", "nearest_even"):
        return None
    bias, multiplier, shift = (node.constants[key].astype(np.int64) for key in ("bias", "multiplier", "shift"))
    half = np.where((shift > 0) & (rounding != "floor"), np.int64(1) << np.maximum(shift - 1, 0), 0)
    if not before and (shift.min() < 0 or shift.max() > 31):
        return None
    behind = half + (np.int64(0) if before else bias << np.maximum(shift, 0))
    if (multiplier < 1).any() or (behind % multiplier).any():
        return None
    found: NDArray[np.int64] = behind // multiplier + (bias if before else 0)
    return found
