"""A graph in its order as steps of a program: which 8-bit values (or floats) each one reads and writes in the arena.

An accumulator and the requantization that alone reads it are one step, as they are one layer of a program. A value that
another one renames lies where that one lies; the caller keeps the input, quantized or not, and what leaves as floats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from flowlab.compiler.allocate import Arena, Step, allocate, check, live_buffers
from flowlab.compiler.ir import Graph, Node, is_float
from flowlab.compiler.ops import INPUT_STEPS
from flowlab.compiler.program import RENAMES

REQUANTIZES = ("requantize", "requantize_float")
ELEMENTWISE = ("relu", "activation", "batch_norm")  # of floats: they may write over their input


@dataclass(frozen=True, eq=False)
class Work:
    """One step: its nodes, in order, and what it reads and writes by the name of the value whose place it is."""

    nodes: tuple[Node, ...]
    step: Step

    @property
    def name(self) -> str:
        """That of the value that it makes."""
        return self.nodes[-1].name


@dataclass(frozen=True)
class Steps:
    """All steps; ``roots``: by value in the arena, the value whose place it has; sizes in numbers; outputs' places."""

    works: tuple[Work, ...]
    roots: Mapping[str, str]
    sizes: Mapping[str, int]
    keep: tuple[str, ...]

    def arena(self) -> Arena:
        """A place for every value, proven by readers and writers over an imagined memory."""
        steps = [work.step for work in self.works]
        found = allocate(live_buffers(steps, self.sizes, self.keep))
        check(found, steps, self.sizes, self.keep)
        return found


def steps_of(graph: Graph) -> Steps:
    """The steps of a verified graph."""
    roots = _float_roots(graph) if is_float(graph) else _byte_roots(graph)
    sizes = {root: math.prod(graph.type_of(root).shape) for root in roots.values()}
    keep = tuple(dict.fromkeys(roots[value] for value in graph.outputs.values() if value in roots))
    return Steps(tuple(_work(nodes, roots) for nodes in _fused(graph)), roots, sizes, keep)


def _fused(graph: Graph) -> list[tuple[Node, ...]]:
    """Every node, behind the accumulator that it alone requantizes, if it does."""
    waiting: dict[str, Node] = {}
    for node in graph.nodes:
        users = graph.users(node.name) if node.type.dtype == "int32" else ()
        if len(users) == 1 and users[0].op in REQUANTIZES and node.name not in graph.outputs.values():
            waiting[node.name] = node
    return [
        (waiting[node.inputs[0]], node) if node.inputs[0] in waiting else (node,)
        for node in graph.nodes
        if node.name not in waiting
    ]


def _work(nodes: tuple[Node, ...], roots: Mapping[str, str]) -> Work:
    reads = tuple(roots[name] for name in nodes[0].inputs if name in roots)
    made = nodes[-1].name
    return Work(nodes, Step(reads, (made,) if roots.get(made) == made else ()))


def _byte_roots(graph: Graph) -> dict[str, str]:
    """The 8-bit values that lie in the arena, with the value that has their place."""
    roots: dict[str, str] = {}
    outside = {value.name for value in graph.inputs}
    for node in graph.nodes:
        if node.op in RENAMES:
            if node.inputs[0] in outside:
                outside.add(node.name)
            elif node.inputs[0] in roots:
                roots[node.name] = roots[node.inputs[0]]
        elif node.op in INPUT_STEPS:
            outside.add(node.name)
        elif node.type.dtype in ("int8", "uint8"):
            roots[node.name] = node.name
    return roots


def _float_roots(graph: Graph) -> dict[str, str]:
    outside = {value.name for value in graph.inputs}
    return {name: root for name, root in float_roots(graph).items() if root not in outside}


def float_roots(graph: Graph) -> dict[str, str]:
    """By value of a float graph, the value whose buffer it lies in: itself, what it renames, or what it may write over.

    An operation on single elements writes over what it read where nobody else needs that, so a ReLU costs no memory.
    """
    root = {value.name: value.name for value in graph.inputs}
    shared = set(root)  # buffers that somebody else still reads: the caller's, outputs, and those with several readers
    for node in graph.nodes:
        before = root[node.inputs[0]]
        alias = node.op in RENAMES or (node.op in ELEMENTWISE and before not in shared)
        root[node.name] = before if alias else node.name
        if len(graph.users(node.name)) != 1 or node.name in graph.outputs.values():
            shared.add(root[node.name])
    return root
