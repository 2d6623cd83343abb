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
class TableStep:
    """An activation that is no clip: a table of 256 entries."""

    name: str
    source: str
    function: str
    attributes: Mapping[str, Attribute]
    shape: tuple[int, ...]


Step = InputStep | LayerStep | AverageStep | PoolStep | FlattenStep | TableStep


def value_of(step: Step) -> str:
    """The name of the value that a step makes."""
    return f"{step.name}.bnorm" if isinstance(step, LayerStep | AverageStep) else step.name


@dataclass(frozen=True, eq=False)
class Steps:
    """Steps in order; the name of the one output, and which step's value it is."""

    input: str
    input_shape: tuple[int, ...]
    steps: tuple[Step, ...]
    output_name: str
    output: str

    @property
    def last(self) -> Step:
        """The step that makes the network's output."""
        return next(step for step in self.steps if value_of(step) == self.output)
