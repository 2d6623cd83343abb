"""Small changes of an integer graph, drawn over all its layers: what a comparison of executions must find and name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from flowlab.compiler import interpreter
from flowlab.compiler.infer import infer_shape
from flowlab.compiler.ir import Graph, Node
from flowlab.compiler.trace import layer_crcs, traced
from flowlab.compiler.verify import verify
from flowlab.errors import FlowlabError

WEIGHED = ("conv", "linear")
ROWS = ("bias", "multiplier", "shift")


@dataclass(frozen=True)
class Mutation:
    """``graph`` is the given one with ``what`` of ``node`` changed; ``layer`` is the first whose checksum can differ.

    ``alive``: whether the interpreter gives that layer other bytes for any of the vectors. What is clipped away, or
    lies below the bits that a shift keeps, is not: nothing can find it, and nothing needs to.
    """

    node: str
    what: str
    layer: str
    graph: Graph
    alive: bool

    def __str__(self) -> str:
        return f"{self.what} of {self.node}"


def mutations(graph: Graph, features: np.ndarray, seed: int, each: int = 1) -> Iterator[Mutation]:
    """``each`` mutations of every constant of every layer, and of the size of every pool."""
    random = np.random.default_rng(seed)
    crcs = layer_crcs(graph, interpreter.run(graph, features))
    for node in graph.nodes:
        for what in _kinds(node):
            for _ in range(each):
                changed = _changed(node, what, random, graph)
                if changed is None:
                    continue
                made = replace(graph, nodes=tuple(changed if one is node else one for one in graph.nodes))
                layer = _layer(graph, node)
                found = layer_crcs(made, interpreter.run(made, features))[layer]
                yield Mutation(node.name, what, layer, made, not np.array_equal(found, crcs[layer]))


def _kinds(node: Node) -> tuple[str, ...]:
    if node.op == "max_pool":
        return ("pool size",)
    return tuple(name for name in (*ROWS, "weight", "entries", "index") if name in node.constants)


def _layer(graph: Graph, node: Node) -> str:
    """The layer whose checksum a node's constants decide: an accumulator has none of its own."""
    if node.name in {one.name for one in traced(graph)}:
        return node.name
    return next(one.name for one in graph.nodes if node.name in one.inputs)


def _changed(node: Node, what: str, random: np.random.Generator, graph: Graph) -> Node | None:
    if what == "pool size":
        return _another_size(node, random, graph)
    values = node.constants[what].copy()
    kept = values.size
    if what in (*ROWS, "weight"):  # not in a padding, which no trace sees
        channels = int(graph.node(_layer(graph, node)).attributes.get("channels", len(values)))  # type: ignore[call-overload]
        kept = channels * (values.size // len(values))
    at = np.unravel_index(int(random.integers(kept)), values.shape)
    values[at] = _another(values[at], what, int(node.attributes.get("weight_bits", 8)), random)  # type: ignore[call-overload]
    return replace(node, constants={**node.constants, what: values})


def _another(value: Any, what: str, bits: int, random: np.random.Generator) -> Any:
    """The value with one bit flipped that its width has; of a shift, one more or less; of an index, another place."""
    if what == "shift":
        return value + (1 if value <= 1 else int(random.choice([-1, 1])))
    if what == "index":
        return value ^ 1 if value > 0 else value + 1  # the neighbour; -1 is a zero
    if value.dtype.kind == "f":
        return -value if value else value + 1
    if what == "weight":
        half = 1 << (bits - 1)
        codes = [((int(value) % (2 * half)) ^ (1 << bit)) for bit in range(bits)]
        return int(random.choice([(code ^ half) - half for code in codes if code != half]))  # not the most negative
    width = 8 if what == "entries" else max(int(abs(int(value))).bit_length(), 1)
    flipped = int(value) ^ (1 << int(random.integers(width)))
    return (flipped + 128) % 256 - 128 if what == "entries" and value.dtype == np.int8 else flipped


def _another_size(node: Node, random: np.random.Generator, graph: Graph) -> Node | None:
    """A pool of another kernel, with a padding that leaves its result's shape; None where there is none."""
    kernel, padding = (tuple(map(int, node.attributes[name])) for name in ("kernel", "padding"))  # type: ignore[call-overload]
    sizes = [(kernel[0] + high, kernel[1] + wide) for high, wide in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    choices = []
    for size, change in product(sizes, product((0, 1, -1), repeat=2)):
        sides = (padding[0], padding[1], padding[2] + change[0], padding[3] + change[1])
        made = replace(node, attributes={**node.attributes, "kernel": size, "padding": sides})
        if min(*size, *sides) >= 0 and min(size) >= 1 and _same_shape(made, node, graph):
            choices.append(made)
    return choices[int(random.integers(len(choices)))] if choices else None


def _same_shape(made: Node, node: Node, graph: Graph) -> bool:
    try:
        shape = infer_shape(made, tuple(graph.type_of(name) for name in made.inputs))
        verify(replace(graph, nodes=tuple(made if one is node else one for one in graph.nodes)))
    except FlowlabError:
        return False
    return bool(shape == node.type.shape)
