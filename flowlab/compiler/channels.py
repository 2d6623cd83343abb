"""Which values must have the same number of channels, and how a graph is widened by channels of zeros.

A convolution or a linear layer chooses how many channels it makes; everything elementwise keeps them. So values fall
into groups of one count, and a group is widened as a whole: its makers get rows of zero weights, its readers columns
of zero weights. What the new channels hold never reaches an old one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowlab.compiler.infer import integer
from flowlab.compiler.ir import Attribute, Graph, Input, Node, TensorType

KEEPS = (
    "requantize",
    "requantize_float",
    "max_pool",
    "sum_pool",
    "average_pool",
    "relu",
    "activation",
    "table",
    "batch_norm",
    "dequantize",
)
MOVES = ("concat", "take", "reshape")  # they say which number goes where, so nobody may stand between
WHOLE = ("entries", "index")  # constants that have nothing to do with channels
FILL = {"multiplier": 1, "variance": 1}  # of constants one a channel; all others 0


@dataclass(frozen=True)
class ChannelGroup:
    """Values that share a channel count; a flattened value has ``factor`` features for each channel.

    ``fixed`` says that nobody may widen it: it is an output, a grouped convolution ties it, or its numbers are moved.
    """

    count: int
    values: frozenset[str]
    fixed: bool


@dataclass(frozen=True)
class Channels:
    """The groups of a graph, by value."""

    group: Mapping[str, ChannelGroup]
    factor: Mapping[str, int]

    def groups(self) -> tuple[ChannelGroup, ...]:
        """Every group once, in the order of the graph."""
        return tuple(dict.fromkeys(self.group.values()))


def is_depthwise(node: Node) -> bool:
    """A convolution that keeps its channels apart: groups = inputs = outputs, more than one."""
    if node.op != "conv":
        return False
    groups = integer(node, "groups")
    return groups > 1 and groups == node.type.shape[0] and node.constants["weight"].shape[1] == 1


def channels_of(graph: Graph) -> Channels:
    """Find the groups of a verified graph."""
    parent: dict[str, str] = {}
    factor: dict[str, int] = {value.name: 1 for value in graph.inputs}
    fixed = set(graph.outputs.values())

    def root(name: str) -> str:
        while parent.get(name, name) != name:
            name = parent[name]
        return name

    fixed |= {value.name for value in graph.inputs if value.type.dtype != "float32"}
    for node in graph.nodes:
        first = node.inputs[0]
        ties = node.inputs if node.op in (*KEEPS, "add", "multiply", "flatten") or is_depthwise(node) else ()
        for read in ties:
            parent[root(read)] = root(node.name)
        factor[node.name] = factor[first] if ties else 1
        if node.op == "flatten":
            factor[node.name] *= node.type.shape[0] // graph.type_of(first).shape[0]
        if node.op == "conv" and integer(node, "groups") > 1 and not is_depthwise(node):
            fixed |= {first, node.name}
        if node.op in MOVES:
            fixed |= {*node.inputs, node.name}
    members: dict[str, list[str]] = {}
    for name in factor:
        members.setdefault(root(name), []).append(name)
    group = {}
    for names in members.values():
        count = graph.type_of(names[0]).shape[0] // factor[names[0]]
        made = ChannelGroup(count, frozenset(names), any(name in fixed for name in names))
        group.update(dict.fromkeys(names, made))
    return Channels({name: group[name] for name in factor}, factor)


def readers(graph: Graph, group: ChannelGroup) -> Iterator[Node]:
    """The nodes that read a value of the group."""
    return (node for node in graph.nodes if group.values & set(node.inputs))


def widen(graph: Graph, counts: Mapping[ChannelGroup, int]) -> Graph:
    """The graph with more channels in some groups; the new ones come last and are fed by zero weights.

    Widened nodes carry the attribute ``channels``, and layers with widened inputs ``in_channels``: the counts before.
    """
    if not counts:
        return graph
    channels = channels_of(graph)
    extent = {value: counts.get(group, group.count) * channels.factor[value] for value, group in channels.group.items()}
    inputs = tuple(Input(value.name, _wider(value.type, extent[value.name])) for value in graph.inputs)
    return replace(graph, inputs=inputs, nodes=tuple(_widen_node(node, extent) for node in graph.nodes))


def _wider(type_: TensorType, count: int) -> TensorType:
    return replace(type_, shape=(count, *type_.shape[1:]))


def _widen_node(node: Node, extent: Mapping[str, int]) -> Node:
    made, read = extent[node.name], extent[node.inputs[0]]
    attributes: dict[str, Attribute] = dict(node.attributes)
    constants = {
        key: array if key in WHOLE else _grow(array, 0, made, FILL.get(key, 0)) for key, array in node.constants.items()
    }
    if node.op in ("conv", "linear"):
        if is_depthwise(node):
            attributes["groups"] = made
        elif integer(node, "groups", 1) == 1:
            before = constants["weight"].shape[1]
            constants["weight"] = _grow(constants["weight"], 1, read, 0)
            if read > before:
                attributes.setdefault("in_channels", before)
    if made > node.type.shape[0]:
        attributes.setdefault("channels", node.type.shape[0])
    return replace(node, type=_wider(node.type, made), attributes=attributes, constants=constants)


def _grow(array: NDArray[Any], axis: int, extent: int, fill: int) -> NDArray[Any]:
    more = extent - array.shape[axis]
    if more <= 0:
        return array
    return np.pad(array, [(0, more if at == axis else 0) for at in range(array.ndim)], constant_values=fill)


def least_count(count: int, step: int, holds: Callable[[int], bool]) -> int:
    """The least multiple of ``step`` that is at least ``count`` and for which ``holds`` is True."""
    wanted = -(-count // step) * step
    while not holds(wanted):
        wanted += step
    return wanted
