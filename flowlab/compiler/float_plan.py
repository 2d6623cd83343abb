"""Float graph -> plan of a float program: which buffer each value lies in, and the bytes that all of it takes.

Which values share a buffer: `flowlab.compiler.steps.float_roots`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowlab.compiler.allocate import alive_at_peak, live_buffers
from flowlab.compiler.interpreter import batch_norm_line
from flowlab.compiler.ir import Graph, Input, Node, is_float
from flowlab.compiler.steps import steps_of
from flowlab.errors import ProgramError

FLOAT_BYTES = 4
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

    def at_peak(self) -> dict[str, int]:
        """Bytes of the values that live while the most bytes do, by name."""
        steps = steps_of(self.graph)
        buffers = live_buffers([work.step for work in steps.works], steps.sizes, steps.keep)
        return {name: size * FLOAT_BYTES for name, size in alive_at_peak(buffers).items()}

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
    steps = steps_of(graph)
    arena = steps.arena()
    return FloatPlan(graph, {name: arena.offsets[root] for name, root in steps.roots.items()}, arena.size)


def elements(shape: tuple[int, ...]) -> int:
    """How many numbers a value has."""
    return math.prod(shape)


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
