"""What a tensor of a quantized ONNX network stands for, until it is quantized again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from flowlab.compiler.ir import TensorType
from flowlab.compiler.onnx_model import Array

Proto: TypeAlias = onnx.NodeProto
Floats = NDArray[np.float32]
Pair = tuple[int, int]
UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True, eq=False)
class Constant:
    """Quantized constants: integers less their zero points, and one scale for each index of an axis, or for all."""

    integers: NDArray[np.int32]
    scale: Floats  # (count,) along axis, or (1,)
    axis: int

    def real(self) -> Floats:
        """The numbers that they mean."""
        if self.scale.size == 1:
            return self.integers.astype(np.float32) * self.scale.reshape(())
        shape = [1] * self.integers.ndim
        shape[self.axis] = -1
        return self.integers.astype(np.float32) * self.scale.reshape(shape)


@dataclass(frozen=True)
class Real:
    """A byte read as the number that it means: a value of the graph."""

    value: str


@dataclass(frozen=True, eq=False)
class Sum:
    """A sum of products before it is quantized: the accumulator, its real steps a channel, what clips it."""

    value: str
    step: Floats
    bias: Array | None = None  # int32, a channel
    clip: tuple[float, float] = UNBOUNDED
    flat: bool = False  # what is quantized is then flattened


@dataclass(frozen=True, eq=False)
class Function:
    """A function of one byte: its 256 results, not quantized yet."""

    value: str
    results: Floats
    start: Proto


@dataclass(frozen=True)
class Added:
    """Two bytes that are added as numbers, and what clips the result."""

    left: str
    right: str
    clip: tuple[float, float] = UNBOUNDED


@dataclass(frozen=True)
class Joined:
    """Values side by side, each quantized once the whole is."""

    parts: tuple[Real | Function, ...]


Pending: TypeAlias = Real | Sum | Function | Added | Joined

UNARY: Mapping[str, Callable[[Floats, Mapping[str, Any]], Array]] = {
    "Relu": lambda x, found: np.maximum(x, np.float32(0)),
    "Sigmoid": lambda x, found: np.float32(1) / (np.float32(1) + np.exp(-x)),
    "Tanh": lambda x, found: np.tanh(x),
    "LeakyRelu": lambda x, found: np.where(x >= 0, x, x * np.float32(found.get("alpha", 0.01))),
    "Elu": lambda x, found: np.where(x >= 0, x, np.float32(found.get("alpha", 1.0)) * np.expm1(x)),
    "HardSigmoid": lambda x, found: np.clip(
        x * np.float32(found.get("alpha", 0.2)) + np.float32(found.get("beta", 0.5)), 0, 1
    ),
    "HardSwish": lambda x, found: x * np.clip(x / np.float32(6) + np.float32(0.5), 0, 1),
    "Softplus": lambda x, found: np.logaddexp(x, np.float32(0)),
    "Softsign": lambda x, found: x / (np.float32(1) + np.abs(x)),
    "Abs": lambda x, found: np.abs(x),
    "Neg": lambda x, found: -x,
}


def turned(weight: Constant) -> Constant:
    """A matrix of weights the other way round."""
    return Constant(weight.integers.T, weight.scale, weight.integers.ndim - 1 - weight.axis)


def same_meaning(one: TensorType, other: TensorType) -> bool:
    """Whether equal bytes mean equal numbers."""
    return (one.dtype, one.scale, one.zero_point) == (other.dtype, other.scale, other.zero_point)


def narrowed(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """Limits within limits."""
    low, high = max(one[0], other[0]), min(one[1], other[1])
    return (low, high) if low <= high else (other[1], other[1]) if one[0] > other[1] else (other[0], other[0])
