"""A float graph as the steps of an integer network: batch norms folded in, clips taken into the layer before them.

A step makes one quantized value. Names are those of the integer graph: the sums of a layer have the layer's name, its
requantized value has ``<name>.bnorm``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flowlab.compiler.ir import Attribute

FloatArray = NDArray[np.float64]
NO_CLIP = (-np.inf, np.inf)


@dataclass(frozen=True, eq=False)
class InputStep:
    """The leading batch norm and the first quantization: real = (x + bias) * factor, one of each a channel."""

    name: str
    source: str
    bias: FloatArray
    factor: FloatArray
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Norm:
    """A batch norm behind a layer: node's name, one value a channel of each, epsilon."""

    name: str
    weight: FloatArray
    bias: FloatArray
    mean: FloatArray
    variance: FloatArray
    epsilon: float


@dataclass(frozen=True, eq=False)
class Raw:
    """A layer as the float network has it: weight and bias before the norm (if there is one) was folded in."""

    weight: FloatArray
    bias: FloatArray
    norm: Norm | None = None


@dataclass(frozen=True, eq=False)
class LayerStep:
    """A convolution or a fully connected layer with its batch norm folded in, then a clip of the real value.

    ``weight`` (out, in/groups, kernel_h, kernel_w) or (out, in), ``bias`` (out,); ``geometry`` the attributes of a
    convolution, empty for a fully connected layer; ``raw`` what was folded, None where nothing was.
    """

    name: str
    source: str
    weight: FloatArray
    bias: FloatArray
    clip: tuple[float, float]
    shape: tuple[int, ...]
    geometry: Mapping[str, Attribute] = field(default_factory=dict)
    raw: Raw | None = None

    @property
    def op(self) -> str:
        """``conv`` or ``linear``."""
        return "conv" if self.geometry else "linear"


@dataclass(frozen=True, eq=False)
class AverageStep:
    """A global average over ``area`` places."""

    name: str
    source: str
    area: int
    clip: tuple[float, float]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class PoolStep:
    """A maximum pool: integers and their scale stay."""

    name: str
    source: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class FlattenStep:
    """A change of shape only."""

    name: str
    source: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ReshapeStep:
    """Another shape with as many elements, in their order."""

    name: str
    source: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TakeStep:
    """Elements of a value by their number in C order (-1: a zero); ``index`` int32, one an element of the result."""

    name: str
    source: str
    index: NDArray[np.int32]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ConcatStep:
    """Two values behind one another along the first axis; both have one scale and one type."""

    name: str
    sources: tuple[str, str]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class AddStep:
    """The sum of two values of one scale, then a clip of the real value."""

    name: str
    sources: tuple[str, str]
    clip: tuple[float, float]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class MultiplyStep:
    """The product of two values, the second perhaps one number a channel; then a clip of the real value."""

    name: str
    sources: tuple[str, str]
    clip: tuple[float, float]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TableStep:
    """An activation that is no clip: a table of 256 entries; ``identity`` changes the scale of a value."""

    name: str
    source: str
    function: str
    attributes: Mapping[str, Attribute]
    shape: tuple[int, ...]


TiedStep = PoolStep | FlattenStep | ReshapeStep | TakeStep  # what keeps integers, scale and type of its source
SumStep = AverageStep | AddStep | MultiplyStep  # whole sums without weights, requantized by one number for all channels
Step = InputStep | LayerStep | SumStep | TiedStep | ConcatStep | TableStep


def value_of(step: Step) -> str:
    """The name of the value that a step makes."""
    return f"{step.name}.bnorm" if isinstance(step, LayerStep | SumStep) else step.name


def sources_of(step: Step) -> tuple[str, ...]:
    """The values that a step reads."""
    return step.sources if isinstance(step, ConcatStep | AddStep | MultiplyStep) else (step.source,)


@dataclass(frozen=True, eq=False)
class Steps:
    """Steps in order; the network's outputs by name, and which step's value each is."""

    input: str
    input_shape: tuple[int, ...]
    steps: tuple[Step, ...]
    outputs: Mapping[str, str]

    @property
    def output(self) -> str:
        """The value of the first output, which is the only one of most networks."""
        return next(iter(self.outputs.values()))

    def maker(self, value: str) -> Step:
        """The step that makes a value."""
        return next(step for step in self.steps if value_of(step) == value)
