"""The real numbers that an integer graph stands for, computed without any rounding: from any node on, for any weights.

Values before a node may be integers that were rounded as they ship, and everything behind it real: so the error of
rounding can be taken apart, layer by layer. Every value here is float64 in real units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowlab.compiler import interpreter
from flowlab.compiler.infer import integer
from flowlab.compiler.ir import Graph, Node
from flowlab.compiler.ops import LIMITS
from flowlab.errors import GraphError

Array = NDArray[Any]
Floats = NDArray[np.float64]
SUMS = ("conv", "linear")  # operations with weights
ROUNDING = ("quantize", "requantize", "requantize_float", "table")  # make an 8-bit value; all others are exact


@dataclass(frozen=True, eq=False)
class RealLayer:
    """A layer in real numbers: ``weight`` as its node has it, ``bias`` (out,), and the clip of its result.

    Sums without weights (of a pool, of two values) have no ``weight``, and are taken ``gain`` times, one a channel.
    """

    weight: Floats
    bias: Floats
    clip: tuple[float, float]
    gain: Floats


@dataclass(frozen=True, eq=False)
class RealInput:
    """The input step in real numbers: (x + bias) * factor, one of each a channel."""

    bias: Floats
    factor: Floats


@dataclass(frozen=True, eq=False)
class RealFunction:
    """An activation in real numbers: a float node of the graph's language (``relu`` or ``activation``)."""

    node: Node


Real = RealLayer | RealInput | RealFunction


def reals_of(graph: Graph) -> dict[str, Real]:
    """What the integers of a graph stand for, by the name of the node with the weights (of an input: its own name).

    The rounding offset that a bias carries is taken off. A ReLU (a result without negative integers) stays, the
    limits of the integers do not.

    Raises:
        GraphError: for a layer whose sums nothing requantizes.
    """
    made: dict[str, Real] = {}
    for node in graph.nodes:
        if node.op == "quantize":
            made[node.name] = _input(node)
        elif node.op in ("requantize", "requantize_float"):
            made[node.inputs[0]] = _layer(graph, node)
    for node in graph.nodes:
        if node.op in SUMS and node.type.dtype == "int32" and node.name not in made:
            raise GraphError(f"node '{node.name}': nothing requantizes its sums, so they have no scale")
    return made


def _input(node: Node) -> RealInput:
    multiplier, shift = (node.constants[key].astype(np.float64) for key in ("multiplier", "shift"))
    steps = multiplier * np.exp2(-shift)
    return RealInput(node.constants["bias"].astype(np.float64) - 0.5 / steps, steps * node.type.scale)


def _layer(graph: Graph, node: Node) -> RealLayer:
    """Of the sums that ``node`` requantizes."""
    factor = _sum_scale(node)
    bias = node.constants["bias"].astype(np.float64)
    if node.op == "requantize_float":
        clip = (0.0 if integer(node, "low") == 0 else -np.inf, np.inf)
        return RealLayer(own_weight(graph, node), (bias - 0.5) * node.type.scale, clip, np.ones(len(factor)))
    shift = node.constants["shift"].astype(np.int64)
    offset = np.where((shift > 0) & (node.attributes["rounding"] == "floor"), 0.5 * node.type.scale, 0.0)
    behind = factor if node.attributes["bias_before_multiply"] else np.full(len(bias), node.type.scale)
    clip = (0.0 if integer(node, "low") == node.type.zero_point else -np.inf, np.inf)
    weight = own_weight(graph, node)
    gain = np.ones(len(factor)) if weight.size else factor / _unit(graph, node.inputs[0])
    return RealLayer(weight, bias * behind - offset, clip, gain)


def _unit(graph: Graph, sums: str) -> float:
    """What one integer of sums without weights stands for by what they are made of, before they are averaged."""
    node = graph.node(sums)
    scales = [graph.type_of(name).scale for name in node.inputs]
    return float(np.prod(scales)) if node.op == "multiply" else scales[0]


def own_weight(graph: Graph, node: Node) -> Floats:
    """The real weights behind the sums that a node requantizes; empty for sums without weights."""
    sums = next((one for one in graph.nodes if one.name == node.inputs[0]), None)
    if sums is None or sums.op not in SUMS:
        return np.zeros(0)
    step = _sum_scale(node) / graph.type_of(sums.inputs[0]).scale
    weight = sums.constants["weight"].astype(np.float64)
    return np.asarray(weight * step.reshape((-1,) + (1,) * (weight.ndim - 1)))


def _sum_scale(node: Node) -> Floats:
    """What one integer of the sums stands for, one a channel: multiplier / 2^shift steps of the result, or a ratio."""
    if node.op == "requantize_float":
        return np.asarray(node.constants["ratio"].astype(np.float64) * node.type.scale)
    multiplier, shift = (node.constants[key].astype(np.float64) for key in ("multiplier", "shift"))
    return np.asarray(multiplier * np.exp2(-shift) * node.type.scale)


def dequantized(graph: Graph, name: str, value: Array) -> Floats:
    """Integers of a value as real numbers; floats stay. Accumulators have no one scale: `GraphError`."""
    if value.dtype.kind == "f":
        return value.astype(np.float64)
    type_ = graph.type_of(name)
    if type_.dtype == "int32" and type_.scale == 0:
        raise GraphError(f"value '{name}' is sums, whose scale differs by channel")
    return (value.astype(np.float64) - type_.zero_point) * type_.scale


def compute(graph: Graph, node: Node, inputs: tuple[Floats, ...], reals: Mapping[str, Real]) -> Floats:
    """One node's value in real numbers, from real numbers."""
    special = _SPECIAL.get(node.op)
    if special is not None:
        return special(graph, node, inputs[0], reals)
    if node.op in SUMS and isinstance(real := reals.get(node.name), RealLayer):
        node = replace(node, constants={"weight": real.weight})
    elif node.op == "take":  # what it fills in is 0, and not the integer that stands for it
        node = replace(node, type=replace(node.type, zero_point=0))
    return np.asarray(interpreter.apply(node, *inputs), np.float64)


def _column(values: Floats, like: Floats) -> Floats:
    return values.reshape(1, -1, *(1,) * (like.ndim - 2))


def _requantize(graph: Graph, node: Node, sums: Floats, reals: Mapping[str, Real]) -> Floats:
    real = reals[node.inputs[0]]
    assert isinstance(real, RealLayer)
    return np.clip(sums * _column(real.gain, sums) + _column(real.bias, sums), *real.clip)


def _quantize(graph: Graph, node: Node, x: Floats, reals: Mapping[str, Real]) -> Floats:
    real = reals[node.name]
    assert isinstance(real, RealInput)
    read = x.shape[1]
    y = (x + _column(real.bias, x)[:, :read]) * _column(real.factor, x)[:, :read]
    return np.pad(y, [(0, 0), (0, node.type.shape[0] - read)] + [(0, 0)] * (x.ndim - 2))


def _table(graph: Graph, node: Node, x: Floats, reals: Mapping[str, Real]) -> Floats:
    """The function, or straight lines between the entries where it is not known."""
    function = reals.get(node.name)
    if isinstance(function, RealFunction):
        return np.asarray(interpreter.apply(function.node, x), np.float64)
    source = graph.type_of(node.inputs[0])
    entries = node.constants["entries"].astype(np.float64)
    integers = np.arange(LIMITS[source.dtype][0], LIMITS[source.dtype][0] + len(entries))
    places = (integers - source.zero_point) * source.scale
    return np.interp(x, places, (entries - node.type.zero_point) * node.type.scale)


def _dequantize(graph: Graph, node: Node, x: Floats, reals: Mapping[str, Real]) -> Floats:
    return x


_SPECIAL: Mapping[str, Callable[[Graph, Node, Floats, Mapping[str, Real]], Floats]] = {
    "requantize": _requantize,
    "requantize_float": _requantize,
    "quantize": _quantize,
    "table": _table,
    "dequantize": _dequantize,
}


def real_values(
    graph: Graph, known: Mapping[str, Floats], reals: Mapping[str, Real], wanted: Iterable[str]
) -> dict[str, Floats]:
    """The values that are asked for, and all that they are computed from, in real numbers.

    Args:
        graph: an integer graph.
        known: real values that stand as they are (of `dequantized`, or the input); nothing before them is computed.
        reals: as of `reals_of`, whole or in part from another network.
        wanted: names of values.
    """
    needed = set(wanted)
    for node in reversed(graph.nodes):
        if node.name in needed and node.name not in known:
            needed.update(node.inputs)
    values = dict(known)
    for node in graph.nodes:
        if node.name in needed and node.name not in known:
            values[node.name] = compute(graph, node, tuple(values[name] for name in node.inputs), reals)
    return values
