"""A max pool that is too large for an accelerator, as two of which each slides along one side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flowlab.compiler.infer import infer_shape, integers

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph, Node
    from flowlab.compiler.rules import Rule


@dataclass(frozen=True)
class SplitMaxPool:
    """Make a max pool of two, over rows and then over columns, where the rules take both and not the one.

    The largest of a window is the largest of its columns' largest, padding or not, so every number stays. Without rules
    every pool of several rows and columns is split.

    Before::

        graph 1
        input %input: float32[1, 6, 6]
        %a: float32[1, 2, 2] = max_pool(%input) kernel=(5, 5) padding=(1, 0, 0, 1) stride=(2, 2)
        output "output" = %a

    After::

        graph 1
        input %input: float32[1, 6, 6]
        %a.rows: float32[1, 2, 6] = max_pool(%input) kernel=(5, 1) padding=(1, 0, 0, 0) part_of="a" stride=(2, 1)
        %a: float32[1, 2, 2] = max_pool(%a.rows) kernel=(1, 5) padding=(0, 0, 0, 1) part_of="a" stride=(1, 2)
        output "output" = %a
    """

    rules: tuple[Rule, ...] = ()
    name: str = "split_max_pool"

    def apply(self, graph: Graph) -> Graph:
        """The graph with such pools split."""
        while made := next(filter(None, (self._split(graph, node) for node in graph.nodes)), None):
            graph = made
        return graph

    def _split(self, graph: Graph, node: Node) -> Graph | None:
        """The graph with this pool split, or None where it stays."""
        from flowlab.compiler.rewrite import expand
        from flowlab.compiler.split import accelerated

        if node.op != "max_pool" or "part_of" in node.attributes or 1 in integers(node, "kernel", 2):
            return None
        if accelerated(graph, [node.name], self.rules):
            return None
        parts = _halves(graph, node)
        made = expand(graph, {node.name: parts})
        return made if not self.rules or accelerated(made, [part.name for part in parts], self.rules) else None


def _halves(graph: Graph, node: Node) -> tuple[Node, ...]:
    """A pool over rows, and one over columns that has the pool's name."""
    from flowlab.compiler.rewrite import fresh

    (high, wide), (down, across) = integers(node, "kernel", 2), integers(node, "stride", 2)
    top, left, bottom, right = integers(node, "padding", 4)
    rows = replace(
        node,
        name=fresh(graph, f"{node.name}.rows"),
        attributes={**node.attributes, "kernel": (high, 1), "stride": (down, 1), "padding": (top, 0, bottom, 0)},
    ).with_attributes(part_of=node.name)
    shape = infer_shape(rows, (graph.type_of(node.inputs[0]),))
    rows = replace(rows, type=replace(node.type, shape=shape))
    columns = replace(node, inputs=(rows.name,)).with_attributes(
        kernel=(1, wide), stride=(1, across), padding=(0, left, 0, right), part_of=node.name
    )
    return rows, columns
