"""Small rewrites that several passes share: values renamed, nodes taken out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from flowlab.compiler.ir import Graph, Node


def substitute(graph: Graph, instead: Mapping[str, str]) -> Graph:
    """The graph in which every reader of a key, outputs included, reads its value, and the key's node is gone."""

    def final(name: str) -> str:
        while name in instead:
            name = instead[name]
        return name

    nodes = tuple(
        replace(node, inputs=tuple(final(name) for name in node.inputs))
        for node in graph.nodes
        if node.name not in instead
    )
    return replace(graph, nodes=nodes, outputs={key: final(value) for key, value in graph.outputs.items()})


def replace_nodes(graph: Graph, change: Callable[[Node], Node]) -> Graph:
    """The graph with every node changed by a function that keeps its name."""
    return replace(graph, nodes=tuple(change(node) for node in graph.nodes))


def expand(graph: Graph, parts: Mapping[str, Sequence[Node]]) -> Graph:
    """The graph with some nodes replaced by several, of which one, the last to be read, has the node's name.

    A node with no parts is taken out; whoever read it must be among the parts of another one.
    """
    return replace(graph, nodes=tuple(each for node in graph.nodes for each in parts.get(node.name, (node,))))


def fresh(graph: Graph, name: str) -> str:
    """The name, or one like it that no value of the graph has."""
    taken = {value.name for value in graph.inputs} | {node.name for node in graph.nodes}
    while name in taken:
        name += "_"
    return name
