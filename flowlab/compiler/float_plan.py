"""Float graph -> plan of a float program: which buffer each value lies in, and the bytes that all of it takes.

An operation on single elements writes over what it read where nobody else needs that, so a ReLU costs no memory; a
flattened value is its source under another shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowlab.compiler import allocate
from flowlab.compiler.interpreter import batch_norm_line
from flowlab.compiler.ir import Graph, Input, Node, is_float
from flowlab.errors import ProgramError

FLOAT_BYTES = 4
RENAMES = ("flatten", "reshape")  # the same numbers under another shape
ELEMENTWISE = ("relu", "activation", "batch_norm")  # they may write over their input
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FloatPlan:
    """A float graph with a place for every value.

    ``offsets``: by value, floats from the arena's start; the input, and what is the input under another shape, lies
    with the caller and has none. ``arena``: floats in all.
    """

    graph: Graph
    offsets: Mapping[str, int]
    arena: int

    @property
    def input(self) -> Input:
        """The one input."""
        return self.graph.inputs[0]


def plan(graph: Graph) -> FloatPlan:
    """Give every value a place, and prove that no layer reads what another one has overwritten.

    Raises:
        ProgramError: if the graph is not a float graph with one input.
    """
    if len(graph.inputs) != 1 or not is_float(graph):
        raise ProgramError("a float program has one input and float values; this graph has others")
    root = roots(graph)
    outside = graph.inputs[0].name
    steps = [
        allocate.Step(
            tuple(root[name] for name in node.inputs if root[name] != outside),
            (node.name,) if root[node.name] == node.name else (),
        )
        for node in graph.nodes
    ]
    sizes = {node.name: elements(node.type.shape) for node in graph.nodes}
    keep = tuple(dict.fromkeys(root[value] for value in graph.outputs.values() if root[value] != outside))
    arena = allocate.allocate(allocate.live_buffers(steps, sizes, keep))
    allocate.check(arena, steps, sizes, keep)
    offsets = {name: arena.offsets[root[name]] for name in sizes if root[name] != outside}
    return FloatPlan(graph, offsets, arena.size)


def elements(shape: tuple[int, ...]) -> int:
    """How many numbers a value has."""
    return math.prod(shape)


def roots(graph: Graph) -> dict[str, str]:
    """By value, the value whose buffer it lies in: itself, what it renames, or what it may write over."""
    source = graph.inputs[0].name
    shared = {source}  # buffers that somebody else still reads: the caller's, outputs, and those with several readers
    root = {source: source}
    for node in graph.nodes:
        before = root[node.inputs[0]]
        alias = node.op in RENAMES or (node.op in ELEMENTWISE and before not in shared)
        root[node.name] = before if alias else node.name
        if len(graph.users(node.name)) != 1 or node.name in graph.outputs.values():
            shared.add(root[node.name])
    return root


# --- constants and memory -------------------------------------------------------------------------


def constants(node: Node) -> dict[str, Floats]:
    """The arrays of a layer that ship: weights and bias, or the line that a batch norm is."""
    if node.op == "batch_norm":
        scale, shift = batch_norm_line(node, np.float32)
        return {"scale": scale, "shift": shift}
    return {key: np.asarray(array, np.float32) for key, array in node.constants.items() if key != "index"}


def memory(found: FloatPlan) -> dict[str, dict[str, int]]:
    """Bytes of constants (flash) and of activations, features and outputs (RAM); code is not counted."""
    sizes = {
        node.name: sum(array.size for array in constants(node).values()) + node.constants.get("index", np.empty(0)).size
        for node in found.graph.nodes
    }  # a place of a take takes four bytes too
    outputs = {
        name: elements(found.graph.type_of(value).shape) * FLOAT_BYTES for name, value in found.graph.outputs.items()
    }
    return {
        "flash": {name: size * FLOAT_BYTES for name, size in sizes.items() if size},
        "ram": {
            "arena": found.arena * FLOAT_BYTES,
            found.input.name: elements(found.input.type.shape) * FLOAT_BYTES,
            **outputs,
        },
    }


def weight_bytes(found: FloatPlan) -> int:
    """Bytes of the weights of convolutions and linear layers, four each."""
    weights = (node.constants["weight"] for node in found.graph.nodes if node.op in ("conv", "linear"))
    return sum(int(weight.size) * FLOAT_BYTES for weight in weights)
