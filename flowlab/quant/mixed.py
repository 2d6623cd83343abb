"""Bits for each layer: how much every layer suffers at every width is measured, then the best choice within a budget.

A layer's sensitivity at a width is what the network's outputs lose, on calibration windows, when this layer alone has
that width and all others the widest one: the divergence from the float network's classes (of a network with one
output: the relative squared error). Sensitivities add up well enough to choose by; the choice itself is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowlab.contracts import NumberFormat
from flowlab.errors import QuantizationError
from flowlab.quant.calibrate import calibrate
from flowlab.quant.fake_network import FakeQuantized
from flowlab.quant.finetune import finetune
from flowlab.quant.real_value import real_values
from flowlab.quant.recipe import tuning_of
from flowlab.quant.reservoir import spread
from flowlab.quant.steps import LayerStep, Steps

WINDOWS = 256  # of the calibration windows; more change no choice that was tried
BITS = 8  # in a byte
MANY = 2  # outputs that are classes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Budget:
    """What limits the choice: the mean bits of a weight, the bytes of all weights, or a loss that is allowed.

    ``tolerance`` is the share of calibration windows whose class may change (of a network with one output: the
    relative squared error). One of the three is given.
    """

    mean_bits: float | None = None
    weight_bytes: int | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.mean_bits, self.weight_bytes, self.tolerance)) != 1:
            raise QuantizationError("a budget is one of mean bits, bytes, and a tolerance.")


@dataclass(frozen=True)
class Chosen:
    """One layer: its weights, the bits chosen, and what every width would cost the outputs, where that was measured."""

    layer: str
    weights: int
    bits: int
    sensitivity: Mapping[int, float] = field(default_factory=dict)

    @property
    def weight_bytes(self) -> float:
        """Of its weights, packed; a part of a byte where they do not fill one."""
        return self.weights * self.bits / BITS


@dataclass(frozen=True)
class Mixed:
    """The bits of all layers, in order; ``measured``: by what each width costs, and not by a layer's place."""

    layers: tuple[Chosen, ...]
    measured: bool = True

    @property
    def bits_of(self) -> dict[str, int]:
        """By layer."""
        return {one.layer: one.bits for one in self.layers}

    @property
    def mean_bits(self) -> float:
        """Of a weight."""
        return sum(one.weights * one.bits for one in self.layers) / sum(one.weights for one in self.layers)

    def sentence(self) -> str:
        """For people: it is no secret that other widths than the config's were taken."""
        named = ", ".join(f"{one.layer} {one.bits}" for one in self.layers)
        what = "weight bits were chosen for each layer" if self.measured else "first and last layer have their own bits"
        return f"{what}: {named}; {self.mean_bits:.2f} on average"

    def to_json(self) -> dict[str, Any]:
        """For records: the table of choices."""
        return {
            "measured": self.measured,
            "mean_bits": self.mean_bits,
            "weight_bytes": sum(one.weight_bytes for one in self.layers),
            "layers": [
                {
                    "layer": one.layer,
                    "weights": one.weights,
                    "bits": one.bits,
                    "sensitivity": {str(bits): value for bits, value in one.sensitivity.items()},
                }
                for one in self.layers
            ],
        }


def with_edges(steps: Steps, bits: int, edge_bits: int) -> Mixed:
    """``edge_bits`` for the first and the last layer with weights, ``bits`` for those between."""
    layers = [step for step in steps.steps if isinstance(step, LayerStep)]
    edges = (0, len(layers) - 1)
    widths = [edge_bits if place in edges else bits for place in range(len(layers))]
    chosen = (Chosen(step.name, step.weight.size, width) for step, width in zip(layers, widths, strict=True))
    return Mixed(tuple(chosen), measured=False)


def choose_bits(
    steps: Steps,
    features: NDArray[np.float32],
    format: NumberFormat,
    budget: Budget,
    *,
    activation_bits: int = 8,
    output: str = "",
    tuned: bool = True,
    seed: int = 0,
) -> Mixed:
    """Measure, and choose.

    Args:
        steps: of the float network.
        features: calibration windows from the training split, (window, channel, height, width).
        format: whose widths are to choose from.
        budget: within which the loss is least; with a tolerance, the least bits that keep it.
        output: which output counts; the first where it is empty.
        tuned: whether the integers go on learning, behind this choice; whole choices are then compared as fine-tuned
            on one half of the windows, and measured on the other half.
        seed: of that fine-tuning.

    Raises:
        QuantizationError: where nothing keeps the budget, or the network cannot be calibrated.
    """
    layers = [step for step in steps.steps if isinstance(step, LayerStep)]
    if not layers:
        raise QuantizationError("the network has no layer with weights, so there are no bits to choose.")
    network = _Network(steps, features, format, activation_bits, output or next(iter(steps.outputs)))
    widths = sorted(format.by_weight_bits)
    table = [_falling({bits: network.loss({step.name: bits}) for bits in widths}) for step in layers]
    sizes = [step.weight.size for step in layers]
    front = choices(table, sizes)
    if budget.tolerance is not None:
        picked = _kept(front, lambda bits: network.changed(_named(layers, bits)), budget.tolerance)
    else:
        limit = _limit(budget, sum(sizes))
        within = [one for one in front if one.cost <= limit]
        if not within:
            raise QuantizationError(
                f"no choice of bits keeps the budget of {limit / BITS:.0f} bytes of weights: the least is "
                f"{front[0].cost / BITS:.0f} bytes, at {widths[0]} bits."
            )
        rivals = [bits for bits in _rivals(widths, sizes, limit) if bits != within[-1].bits]
        picked = network.best([*rivals, within[-1].bits], tuned=tuned, seed=seed)
    return Mixed(
        tuple(
            Chosen(step.name, step.weight.size, bits, row)
            for step, bits, row in zip(layers, picked, table, strict=True)
        )
    )


def _limit(budget: Budget, weights: int) -> float:
    """In bits of all weights."""
    if budget.mean_bits is not None:
        return budget.mean_bits * weights
    assert budget.weight_bytes is not None
    return float(budget.weight_bytes * BITS)


def _rivals(widths: Sequence[int], sizes: Sequence[int], limit: float) -> list[tuple[int, ...]]:
    """The widest single width for all layers that keeps a limit in bits, if any does."""
    return [(bits,) * len(sizes) for bits in sorted(widths) if bits * sum(sizes) <= limit][-1:]


def _named(layers: Sequence[LayerStep], bits: Sequence[int]) -> dict[str, int]:
    return {step.name: one for step, one in zip(layers, bits, strict=True)}


def _falling(measured: Mapping[int, float]) -> dict[int, float]:
    """More bits are never worse: where chance says otherwise, the narrower width is not better than the wider one."""
    made = dict(measured)
    for wide, narrow in pairwise(sorted(made, reverse=True)):
        made[narrow] = max(made[narrow], made[wide])
    return dict(sorted(made.items()))


# --- the choice ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """Bits of all layers in order, with the bits of all weights and the sum of the sensitivities."""

    bits: tuple[int, ...]
    cost: int
    loss: float


def choices(table: Sequence[Mapping[int, float]], sizes: Sequence[int]) -> list[Choice]:
    """Every choice that no other one beats in both cost and loss, cheapest first: exact, by layers in turn.

    Args:
        table: sensitivity by bits, of each layer.
        sizes: weights of each layer.
    """
    front = [Choice((), 0, 0.0)]
    for row, size in zip(table, sizes, strict=True):
        grown = [
            Choice((*one.bits, bits), one.cost + size * bits, one.loss + loss)
            for one in front
            for bits, loss in row.items()
        ]
        front = []
        for one in sorted(grown, key=lambda one: (one.cost, one.loss, one.bits)):
            if not front or one.loss < front[-1].loss:
                front.append(one)
    return front


def _kept(front: Sequence[Choice], loss: Any, tolerance: float) -> tuple[int, ...]:
    """The cheapest choice whose measured loss is allowed."""
    found = 0.0
    for one in front:
        found = loss(one.bits)
        if found <= tolerance:
            return one.bits
    raise QuantizationError(
        f"no choice of bits keeps the tolerance of {tolerance:g}: the widest weights change {found:.3g}. "
        "Allow more, or give a budget of mean bits instead."
    )


# --- the measurement ----------------------------------------------------------------------------------


class _Network:
    """Outputs of one network at any widths, on the same windows."""

    def __init__(
        self, steps: Steps, features: NDArray[np.float32], format: NumberFormat, activation_bits: int, output: str
    ) -> None:
        self.steps, self.features, self.format, self.activation_bits = steps, features, format, activation_bits
        self.some = spread(features, WINDOWS)
        self.output, self.widest = output, max(format.by_weight_bits)
        self.layers = [step.name for step in steps.steps if isinstance(step, LayerStep)]
        self.real = self._real(self.some)
        self.known: dict[tuple[int, ...], Floats] = {}

    def loss(self, bits_of: Mapping[str, int]) -> float:
        """What is lost with these bits of some layers, and the widest of all others."""
        return _loss(self.outputs(bits_of), self.real)

    def changed(self, bits_of: Mapping[str, int]) -> float:
        """The share of windows whose class is another one; of one output as `loss`."""
        found = self.outputs(bits_of)
        if found.shape[1] < MANY:
            return self.loss(bits_of)
        return float((found.argmax(axis=1) != self.real.argmax(axis=1)).mean())

    def best(self, candidates: Sequence[tuple[int, ...]], *, tuned: bool, seed: int) -> tuple[int, ...]:
        """The bits of all layers with which the whole network loses least; of equal ones the first."""
        if len(candidates) == 1:
            return candidates[0]
        losses = [
            self.tuned_loss(bits, seed) if tuned else self.loss(dict(zip(self.layers, bits, strict=True)))
            for bits in candidates
        ]
        return candidates[int(np.argmin(losses))]

    def tuned_loss(self, bits: Sequence[int], seed: int) -> float:
        """What is lost on every other window when the integers have learned on those between."""
        learned, held = self.features[::2], self.features[1::2]
        how = tuning_of(bits, self.activation_bits)
        if how is None or not len(held):
            return self.loss(dict(zip(self.layers, bits, strict=True)))
        network = self._quantized(tuple(bits), learned, live=how.live, learn_scales=True)
        finetune(network, learned, how, seed)
        return _loss(self._outputs(network, held), self._real(held))

    def outputs(self, bits_of: Mapping[str, int]) -> Floats:
        """Real outputs of the integers, without any training."""
        bits = tuple(bits_of.get(name, self.widest) for name in self.layers)
        if bits not in self.known:
            self.known[bits] = self._outputs(self._quantized(bits, self.some), self.some)
        return self.known[bits]

    def _quantized(self, bits: tuple[int, ...], windows: NDArray[np.float32], **how: Any) -> FakeQuantized:
        """As it ships: steps without weights compute as the narrowest layers do."""
        bits_of, narrowest = dict(zip(self.layers, bits, strict=True)), min(bits)
        scales = calibrate(self.steps, windows, self.format, narrowest, self.activation_bits, bits_of=bits_of)
        return FakeQuantized(self.steps, scales, self.format, narrowest, bits_of=bits_of, **how)

    def _outputs(self, network: FakeQuantized, windows: NDArray[np.float32]) -> Floats:
        value = self.steps.outputs[self.output]
        with torch.no_grad():
            values = network.eval().values(torch.from_numpy(np.ascontiguousarray(windows)))
        return _rows(values[value].double().numpy() * network.scales.scale[value])

    def _real(self, windows: NDArray[np.float32]) -> Floats:
        with torch.no_grad():
            values = real_values(self.steps, torch.from_numpy(np.ascontiguousarray(windows)).double())
        return _rows(values[self.steps.outputs[self.output]].numpy())


def _loss(found: Floats, real: Floats) -> float:
    """The mean divergence of the classes, or the relative squared error of one output."""
    if found.shape[1] < MANY:
        return float(((found - real) ** 2).sum() / max(float((real**2).sum()), 1e-30))
    right, log_right, log_found = np.exp(_log_softmax(real)), _log_softmax(real), _log_softmax(found)
    return float((right * (log_right - log_found)).sum(axis=1).mean())


def _rows(values: NDArray[Any]) -> Floats:
    return np.asarray(values, np.float64).reshape(len(values), -1)


def _log_softmax(values: Floats) -> Floats:
    shifted = values - values.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
