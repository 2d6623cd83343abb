"""Run passes one after the other; the graph is verified after each, and a pass that breaks it is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flowlab.compiler.ir import Graph
from flowlab.compiler.passes import Pass
from flowlab.compiler.verify import verify
from flowlab.errors import GraphError


def apply_passes(
    graph: Graph, passes: Sequence[Pass], watch: Callable[[str, Graph], None] = lambda name, graph: None
) -> Graph:
    """The graph after all passes.

    Args:
        graph: verified first.
        passes: in order.
        watch: called with every pass's name and the graph that it left.

    Raises:
        GraphError: naming the pass, if it fails or leaves a graph that breaks a law.
    """
    verify(graph)
    for each in passes:
        try:
            graph = each.apply(graph)
            verify(graph)
        except GraphError as problem:
            raise GraphError(f"pass '{each.name}': {problem}") from problem
        watch(each.name, graph)
    return graph
