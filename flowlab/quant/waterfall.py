"""Where a quantized network loses: from the float network to its integers, one step at a time, and each layer's noise.

Every step is the step before it with one thing more as it ships: the batch norms folded, the input quantized, then
layer by layer in the order of the graph (its weights, then its result; all behind it stays real). So what the steps
lose sums to the whole loss, and the last step is the integer graph itself.

Where training has moved the weights, a network of shipped layers in front of float ones is none that anybody trained:
the weights are then one step for all layers, behind it the rest is real arithmetic with the weights that ship.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from flowlab.compiler import interpreter
from flowlab.compiler.ir import Graph, Node
from flowlab.compiler.real_values import (
    ROUNDING,
    SUMS,
    Floats,
    Real,
    RealFunction,
    RealInput,
    RealLayer,
    dequantized,
    own_weight,
    real_values,
    reals_of,
)
from flowlab.errors import QuantizationError
from flowlab.quant.fold import fold
from flowlab.quant.steps import AverageStep, InputStep, LayerStep

BATCH = 256  # windows at a time
ROUNDED = 0.501  # steps between a float weight and the integer that it rounds to
FEW = 1e-3  # of the weights; fewer lie elsewhere only because their ties were broken another way

FLOAT, FOLDED, TRAINED, INPUT, WEIGHTS, RESULT = "float", "folded", "trained", "input", "weights", "result"


@dataclass(frozen=True, eq=False)
class Cut:
    """One step of the waterfall: ``kind`` as above, ``layer`` where it is one's, and the real outputs behind it."""

    kind: str
    layer: str
    outputs: Floats  # (window, output)


@dataclass(frozen=True)
class LayerNoise:
    """What rounding does to one 8-bit value, over all windows.

    ``sqnr_db`` is the signal over the noise of everything up to here, ``own_sqnr_db`` over what this layer adds to the
    integers that it reads; infinite where nothing is lost, NaN where there is no signal. ``saturated_low`` and
    ``saturated_high`` are shares of the values that the range cuts off. Dead channels never change;
    ``dead_in_float`` of them do not in the float network either. ``weight_bits`` is None where there are no weights;
    ``weight_sqnr_db`` is that of the weights against the float network's, None where it has none of that name.
    """

    layer: str
    op: str
    weight_bits: int | None
    sqnr_db: float
    own_sqnr_db: float
    saturated_low: float
    saturated_high: float
    channels: int
    dead: int
    dead_in_float: int
    weight_sqnr_db: float | None = None


@dataclass(frozen=True, eq=False)
class Waterfall:
    """All steps in order, each layer's noise, and ``moved``: the share of the weights that are no mere rounding.

    ``moved`` is None where the float network has no such layers, so that nothing can be said.
    """

    cuts: tuple[Cut, ...]
    layers: tuple[LayerNoise, ...]
    moved: float | None

    @property
    def trained(self) -> bool:
        """Whether the weights are a step of their own."""
        return self.moved is None or self.moved > FEW


def waterfall(floats: Graph, integers: Graph, features: NDArray[np.float32], output: str) -> Waterfall:
    """Take the loss apart.

    Args:
        floats: the float network that was quantized.
        integers: what became of it.
        features: windows, (window, channel, height, width).
        output: which output counts, where there are several.

    Raises:
        GraphError: where the windows do not fit, or a graph cannot be run.
    """
    own = reals_of(integers)
    real, moved = _float_reals(floats, integers, own)
    trained = moved is None or moved > FEW
    layers = {name: _Noise() for name in _rounded(integers)}
    parts: dict[tuple[str, str], list[Floats]] = {}
    for start in range(0, len(features), BATCH):
        batch = _Batch(integers, features[start : start + BATCH], real, own, integers.outputs[output], layers)
        before = interpreter.run(floats, features[start : start + BATCH], np.float64)
        parts.setdefault((FLOAT, ""), []).append(before[floats.outputs[output]])
        for key, value in batch.cuts(trained):
            parts.setdefault(key, []).append(value)
    cuts = tuple(
        Cut(kind, layer, np.concatenate([_rows(one) for one in found])) for (kind, layer), found in parts.items()
    )
    noise = tuple(found.said(integers, name, _weight_sqnr(real, own)) for name, found in layers.items())
    return Waterfall(cuts, noise, moved)


def _rows(values: Floats) -> Floats:
    return values.reshape(len(values), -1)


def _layer_of(graph: Graph, node: Node) -> Node:
    """The node that has the layer's name and weights: that of the sums, where they are requantized."""
    return graph.node(node.inputs[0]) if node.op == "requantize" else node


def _rounded(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes if node.op in ROUNDING]


# --- the float network's numbers for the integer graph's nodes ----------------------------------------


def _float_reals(floats: Graph, integers: Graph, own: Mapping[str, Real]) -> tuple[dict[str, Real], float | None]:
    """``own`` with what the float network has for the same names, and the share of weights that moved."""
    made: dict[str, Real] = dict(own)
    for node in floats.nodes:
        if node.op in ("relu", "activation"):
            made[node.name] = RealFunction(node)
    try:
        steps = fold(floats).steps
    except QuantizationError:  # of another quantizer, which knows more than this one
        return made, None
    moved = total = 0
    requantize = {node.inputs[0]: node for node in integers.nodes if node.op == "requantize"}
    for step in steps:
        known = own.get(step.name)
        if isinstance(step, InputStep) and isinstance(known, RealInput):
            made[step.name] = RealInput(step.bias, step.factor)
        elif isinstance(known, RealLayer):
            clip = getattr(step, "clip", known.clip)
            if not isinstance(step, LayerStep):  # a mean, a sum of two, a product: no bias but what rounding needs
                gain = 1 / step.area if isinstance(step, AverageStep) else 1.0
                made[step.name] = RealLayer(
                    known.weight, np.zeros_like(known.bias), clip, np.full_like(known.gain, gain)
                )
                continue
            made[step.name] = replace(known, clip=clip)
            if step.weight.shape == known.weight.shape:
                made[step.name] = RealLayer(step.weight, step.bias, clip, known.gain)
                moved += _moved(integers, requantize[step.name], step.weight)
                total += step.weight.size
    return made, moved / total if total else None


def _weight_sqnr(real: Mapping[str, Real], own: Mapping[str, Real]) -> dict[str, float]:
    """Signal over noise of the weights that both networks have, in dB."""
    made = {}
    for name, layer in real.items():
        shipped = own.get(name)
        if isinstance(layer, RealLayer) and isinstance(shipped, RealLayer) and layer.weight is not shipped.weight:
            noise = float(((layer.weight - shipped.weight) ** 2).sum())
            made[name] = _decibels(float((layer.weight**2).sum()), noise)
    return made


def _moved(graph: Graph, node: Node, weight: Floats) -> int:
    """How many weights are not the integer nearest to the float one, nor cut off by their range."""
    whole = graph.node(node.inputs[0]).constants["weight"].astype(np.float64)
    real = own_weight(graph, node)
    step = np.divide(real, whole, out=np.zeros_like(real), where=whole != 0)
    steps = np.abs(step).reshape(len(step), -1).max(axis=1).reshape((-1,) + (1,) * (step.ndim - 1))
    limit = np.abs(whole).max()
    far = np.abs(weight - real) > ROUNDED * steps
    cut = (np.abs(whole) == limit) & (np.abs(weight) > np.abs(real))
    return int((far & ~cut & (steps > 0)).sum())


# --- one batch ----------------------------------------------------------------------------------------


@dataclass
class _Batch:
    graph: Graph
    features: NDArray[np.float32]
    real: Mapping[str, Real]  # the float network's
    own: Mapping[str, Real]  # the integers'
    value: str
    layers: Mapping[str, _Noise]

    def cuts(self, trained: bool) -> list[tuple[tuple[str, str], Floats]]:
        """The real outputs behind every step, and each layer's noise besides."""
        known: dict[str, Floats] = {self.graph.inputs[0].name: self.features.astype(np.float64)}
        every = [self.value, *self.layers]
        behind = self.real
        reference = real_values(self.graph, known, behind, every)
        made: list[tuple[tuple[str, str], Floats]] = [((FOLDED, ""), reference[self.value])]
        if trained:
            behind = {name: self._shipped(name) for name in self.real}
            reference = real_values(self.graph, known, behind, every)
            made.append(((TRAINED, ""), reference[self.value]))
        whole = interpreter.run(self.graph, self.features)
        for name in self.layers:
            node = self.graph.node(name)
            layer = _layer_of(self.graph, node)
            lone = real_values(self.graph, known, behind, [name])[name]
            if not trained and layer.op in SUMS:
                shipped = {**behind, layer.name: self._shipped(layer.name)}
                made.append(((WEIGHTS, layer.name), self._output(known, shipped)))
            known[name] = dequantized(self.graph, name, whole[name])
            made.append(((INPUT if node.op == "quantize" else RESULT, layer.name), self._output(known, behind)))
            self.layers[name].add(node, reference[name], lone, known[name])
        return made

    def _shipped(self, name: str) -> Real:
        """What the integers stand for, with the clip and the function of the float network."""
        real, own = self.real[name], self.own.get(name)
        if isinstance(real, RealLayer) and isinstance(own, RealLayer):
            return replace(own, clip=real.clip)
        return real

    def _output(self, known: Mapping[str, Floats], reals: Mapping[str, Real]) -> Floats:
        return real_values(self.graph, known, reals, [self.value])[self.value]


# --- noise --------------------------------------------------------------------------------------------


@dataclass
class _Noise:
    """Sums over batches of one value."""

    signal: float = 0.0
    noise: float = 0.0
    own_signal: float = 0.0
    own_noise: float = 0.0
    low: int = 0
    high: int = 0
    count: int = 0
    least: dict[str, Floats] = field(default_factory=dict)  # by network, one number a channel
    most: dict[str, Floats] = field(default_factory=dict)

    def add(self, node: Node, reference: Floats, lone: Floats, found: Floats) -> None:
        """One more batch: of the real network, of this layer alone, and as it ships."""
        self.signal += float((reference**2).sum())
        self.noise += float(((reference - found) ** 2).sum())
        self.own_signal += float((lone**2).sum())
        self.own_noise += float(((lone - found) ** 2).sum())
        scale, zero = node.type.scale, node.type.zero_point
        low, high = (_limit(node, key) for key in ("low", "high"))
        self.low += int((lone < (low - zero - 0.5) * scale).sum())
        self.high += int((lone > (high - zero + 0.5) * scale).sum())
        self.count += lone.size
        for network, values in (("float", reference), ("whole", found)):
            axes = (0, *range(2, values.ndim))
            low_now, high_now = values.min(axis=axes), values.max(axis=axes)
            self.least[network] = np.minimum(self.least.get(network, low_now), low_now)
            self.most[network] = np.maximum(self.most.get(network, high_now), high_now)

    def said(self, graph: Graph, name: str, weights: Mapping[str, float]) -> LayerNoise:
        """The numbers of all batches; ``weights`` are the ratios of weights, by layer."""
        node = graph.node(name)
        sums = _layer_of(graph, node)
        dead = {network: self.least[network] == self.most[network] for network in self.least}
        return LayerNoise(
            layer=sums.name,
            op=sums.op,
            weight_bits=_weight_bits(sums),
            sqnr_db=_decibels(self.signal, self.noise),
            own_sqnr_db=_decibels(self.own_signal, self.own_noise),
            saturated_low=self.low / max(self.count, 1),
            saturated_high=self.high / max(self.count, 1),
            channels=len(dead["whole"]),
            dead=int(dead["whole"].sum()),
            dead_in_float=int((dead["whole"] & dead["float"]).sum()),
            weight_sqnr_db=weights.get(sums.name),
        )


def _weight_bits(node: Node) -> int | None:
    bits = node.attributes.get("weight_bits", 8)
    return bits if node.op in SUMS and isinstance(bits, int) else None


def _limit(node: Node, key: str) -> int:
    if node.op == "table":
        entries = node.constants["entries"]
        return int(entries.min() if key == "low" else entries.max())
    value = node.attributes[key]
    assert isinstance(value, int)
    return value


def _decibels(signal: float, noise: float) -> float:
    if signal == 0:
        return float("nan") if noise else float("inf")
    return float(10 * np.log10(signal / noise)) if noise else float("inf")
