"""A convolution in groups, as convolutions of channels that an accelerator takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph, Node, TensorType
    from flowlab.compiler.rules import Rule

PER_CHANNEL = ("bias", "multiplier", "shift", "ratio")  # constants of a requantization, and of a float layer


@dataclass(frozen=True)
class SplitGroups:
    """Make convolutions of a few groups each of a convolution in groups, where the rules take these and not that one.

    A part reads its channels by a take, and a concat puts the parts together; groups that are one part have zero
    weights between them. Of all ways that the rules take, it is the one with the fewest bytes of zeros and of the
    places of takes: where values are long, all groups become one convolution, without take and concat. Every number
    stays. Nodes remember the layer that they are a part of (``part_of``), and convolutions how many of its groups they
    are (``part``). Without rules, one part a group.

    Before::

        graph 1
        input %input: float32[4, 1, 1]
        %a: float32[2, 1, 1] = conv(%input) groups=2 padding=(0, 0, 0, 0) stride=(1, 1)
          weight: float32[2, 2, 1, 1] = 1.0 2.0 3.0 4.0
        output "output" = %a

    After::

        graph 1
        input %input: float32[4, 1, 1]
        %a.0.in: float32[2, 1, 1] = take(%input) part_of="a"
          index: int32[2] = 0 1
        %a.0: float32[1, 1, 1] = conv(%a.0.in) groups=1 padding=(0, 0, 0, 0) part=(1, 2) part_of="a" stride=(1, 1)
          weight: float32[1, 2, 1, 1] = 1.0 2.0
        %a.1.in: float32[2, 1, 1] = take(%input) part_of="a"
          index: int32[2] = 2 3
        %a.1: float32[1, 1, 1] = conv(%a.1.in) groups=1 padding=(0, 0, 0, 0) part=(1, 2) part_of="a" stride=(1, 1)
          weight: float32[1, 2, 1, 1] = 3.0 4.0
        %a: float32[2, 1, 1] = concat(%a.0, %a.1) part_of="a"
        output "output" = %a
    """

    rules: tuple[Rule, ...] = ()
    name: str = "split_groups"

    def apply(self, graph: Graph) -> Graph:
        """The graph with such convolutions split; one split may let another one follow."""
        while made := next(filter(None, (self._split(graph, node) for node in graph.nodes)), None):
            graph = made
        return graph

    def _split(self, graph: Graph, conv: Node) -> Graph | None:
        """The graph with this convolution split, or None where it stays."""
        from flowlab.compiler.split import accelerated

        last = _end(graph, conv)
        if last is None or accelerated(graph, [conv.name], self.rules):
            return None
        for held in sorted(_counts(conv), key=lambda held: _bytes(graph, conv, held) if self.rules else held):
            made, names = _parts(graph, conv, last, held)
            if not self.rules or accelerated(made, names, self.rules):
                return made
        return None


def _end(graph: Graph, conv: Node) -> Node | None:
    """What gives the convolution's value in the type that moves: itself, or what alone requantizes it."""
    from flowlab.compiler.channels import is_depthwise
    from flowlab.compiler.infer import integer

    padded = {"channels", "in_channels"} & set(conv.attributes)
    if conv.op != "conv" or integer(conv, "groups") == 1 or is_depthwise(conv) or padded:
        return None
    if conv.type.dtype == "float32":
        return conv
    users = graph.users(conv.name)
    if len(users) != 1 or not users[0].op.startswith("requantize") or conv.name in graph.outputs.values():
        return None
    return users[0]


def _counts(conv: Node) -> Iterator[int]:
    """How many groups may be one part. One channel alone is what a first layer reads, and no part."""
    from flowlab.compiler.infer import integer

    groups = integer(conv, "groups")
    for held in range(1, groups + 1):
        if groups % held == 0 and held * conv.constants["weight"].shape[1] > 1:
            yield held


def _bytes(graph: Graph, conv: Node, held: int) -> int:
    """What parts of so many groups take more than the layer: weights of zero, and places of takes."""
    import numpy as np

    from flowlab.compiler.infer import integer, place_bytes

    bits = int(conv.constants["weight"].size) * (held - 1) * integer(conv, "weight_bits", 8)
    numbers = math.prod(graph.type_of(conv.inputs[0]).shape) if held < integer(conv, "groups") else 0
    return -(-bits // 8) + place_bytes(np.arange(numbers))


def _parts(graph: Graph, conv: Node, last: Node, held: int) -> tuple[Graph, list[str]]:
    """The graph with so many groups in a part, and the names of the convolutions."""
    from flowlab.compiler.infer import integer
    from flowlab.compiler.rewrite import expand

    count = integer(conv, "groups") // held
    if count == 1:
        whole = _part(conv, 0, held, conv.name, conv.inputs[0])
        return expand(graph, {conv.name: (whole,)}), [whole.name]
    nodes: list[Node] = []
    names: list[str] = []
    ends: list[Node] = []
    for at in range(count):
        took = _take(graph, conv, at, held)
        part = _part(conv, at, held, _name(graph, f"{conv.name}.{at}"), took.name)
        nodes += [took, part]
        names.append(part.name)
        if last is not conv:
            nodes.append(_requantize(graph, last, at, part))
        ends.append(nodes[-1])
    nodes += _joined(graph, ends, conv, last)
    replaced = {last.name: nodes} if last is conv else {conv.name: (), last.name: nodes}
    return expand(graph, replaced), names


def _name(graph: Graph, name: str) -> str:
    from flowlab.compiler.rewrite import fresh

    return fresh(graph, name)


def _channels(type_: TensorType, count: int) -> TensorType:
    return replace(type_, shape=(count, *type_.shape[1:]))


def _take(graph: Graph, conv: Node, at: int, held: int) -> Node:
    """The channels that a part reads."""
    import numpy as np

    from flowlab.compiler.ir import Node

    given = graph.type_of(conv.inputs[0])
    type_ = _channels(given, held * conv.constants["weight"].shape[1])
    size = math.prod(type_.shape)
    index = np.arange(at * size, (at + 1) * size, dtype=np.int32)
    name = _name(graph, f"{conv.name}.{at}.in")
    return Node(name, "take", conv.inputs, type_, {"part_of": conv.name}, {"index": index})


def _part(conv: Node, at: int, held: int, name: str, given: str) -> Node:
    """Some groups as one convolution: their weights along the diagonal, zeros beside them."""
    import numpy as np

    from flowlab.compiler.infer import integer

    groups, weight = integer(conv, "groups"), conv.constants["weight"]
    made, read = weight.shape[0] // groups, weight.shape[1]
    dense = np.zeros((held * made, held * read, *weight.shape[2:]), weight.dtype)
    for group in range(held):
        first = (at * held + group) * made
        rows = slice(group * made, (group + 1) * made)
        dense[rows, group * read : (group + 1) * read] = weight[first : first + made]
    constants = {**_sliced(conv.constants, at, held * made), "weight": dense}
    part = replace(conv, name=name, inputs=(given,), type=_channels(conv.type, held * made), constants=constants)
    return part.with_attributes(groups=1, part_of=conv.name, part=(held, groups))


def _sliced(constants: Mapping[str, Any], at: int, count: int) -> dict[str, Any]:
    return {key: array[at * count : (at + 1) * count] for key, array in constants.items() if key in PER_CHANNEL}


def _requantize(graph: Graph, last: Node, at: int, part: Node) -> Node:
    count = part.type.shape[0]
    return replace(
        last,
        name=_name(graph, f"{last.name}.{at}"),
        inputs=(part.name,),
        type=_channels(last.type, count),
        constants=_sliced(last.constants, at, count),
    )


def _joined(graph: Graph, ends: list[Node], conv: Node, last: Node) -> list[Node]:
    """Neighbours put together until one is left, which has the layer's name."""
    from flowlab.compiler.ir import Node

    nodes: list[Node] = []
    level = 0
    while len(ends) > 1:
        pairs = [ends[at : at + 2] for at in range(0, len(ends), 2)]
        ends = []
        for at, pair in enumerate(pairs):
            if len(pair) == 1:
                ends += pair
                continue
            name = last.name if len(pairs) == 1 else _name(graph, f"{conv.name}.join.{level}.{at}")
            type_ = _channels(last.type, sum(end.type.shape[0] for end in pair))
            inputs = (pair[0].name, pair[1].name)
            ends.append(Node(name, "concat", inputs, type_, {"part_of": conv.name}))
        nodes += [end for end in ends if end.op == "concat" and end not in nodes]
        level += 1
    return nodes
