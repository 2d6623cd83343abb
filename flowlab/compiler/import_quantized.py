"""An integer ONNX network of another tool into an integer graph: QLinear operations, and QuantizeLinear ...
DequantizeLinear around float operations (QDQ).

Both mean the same integers: a sum of products of bytes less their zero points, an int32 bias, and one requantization by
``float32(input scale * weight scale) / output scale``, to the nearest integer, ties to the even one
(``nearest_even`` of `flowlab.compiler.number_format`), which is what ONNX Runtime's integer kernels do.
A chain of functions of one byte becomes a table, computed in float32 as ONNX says it; a sum of two bytes of different
scales is ``add_float``. A float bias is rounded to the sum's own steps, as ONNX Runtime does.

Weights of 9 bits (unsigned ones with any zero point) are split in two, over an input that is read twice.
What has no such meaning is refused with the ONNX node's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from flowlab.compiler.infer import infer_shape
from flowlab.compiler.intervals import LIMITS
from flowlab.compiler.ir import Attribute, Graph, Input, Node, TensorType
from flowlab.compiler.number_format import as_ratio
from flowlab.compiler.onnx_model import Array, OnnxModel, attributes_of, node_name
from flowlab.errors import GraphError

Proto: TypeAlias = onnx.NodeProto
Floats = NDArray[np.float32]
Pair = tuple[int, int]

QUANTIZED = (
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv",
    "QLinearMatMul", "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearAveragePool",
    "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QGemm",
)  # fmt: skip
BYTES = {"int8": -128, "uint8": 0}
FILTER = 2  # axes of a window of pictures, behind which the kernel's stand
UNBOUNDED = (-math.inf, math.inf)


def is_quantized(model: OnnxModel) -> bool:
    """Whether a file has operations that quantize, or takes integers."""
    return any(node.op_type in QUANTIZED for node in model.nodes) or any(
        dtype != "float32" for dtype in model.input_dtypes().values()
    )


def import_quantized(model: OnnxModel) -> Graph:
    """The integer graph of a checked model; values keep their ONNX names.

    Raises:
        GraphError: naming the ONNX node that has no integer meaning, and why.
    """
    return _Importer(model).graph()


def _error(proto: Proto, message: str) -> GraphError:
    return GraphError(f"ONNX node '{node_name(proto)}' ({proto.op_type}): {message}")


# --- what a tensor of the file is ----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Constant:
    """Quantized constants: integers less their zero points, and one scale for each index of an axis, or for all."""

    integers: NDArray[np.int32]
    scale: Floats  # (count,) along axis, or (1,)
    axis: int

    def real(self) -> Floats:
        if self.scale.size == 1:
            return self.integers.astype(np.float32) * self.scale.reshape(())
        shape = [1] * self.integers.ndim
        shape[self.axis] = -1
        return self.integers.astype(np.float32) * self.scale.reshape(shape)


@dataclass(frozen=True)
class _Real:
    """A byte read as the number that it means: a value of the graph."""

    value: str


@dataclass(frozen=True, eq=False)
class _Sum:
    """A sum of products before it is quantized: the accumulator, its real steps a channel, what clips it."""

    value: str
    step: Floats
    bias: Array | None = None  # int32, a channel
    clip: tuple[float, float] = UNBOUNDED
    flat: bool = False  # what is quantized is then flattened


@dataclass(frozen=True, eq=False)
class _Function:
    """A function of one byte: its 256 results, not quantized yet."""

    value: str
    results: Floats
    start: Proto


@dataclass(frozen=True)
class _Added:
    """Two bytes that are added as numbers, and what clips the result."""

    left: str
    right: str
    clip: tuple[float, float] = UNBOUNDED


@dataclass(frozen=True)
class _Joined:
    """Values side by side, each quantized once the whole is."""

    parts: tuple[_Real | _Function, ...]


_Pending: TypeAlias = _Real | _Sum | _Function | _Added | _Joined

_UNARY: Mapping[str, Callable[[Floats, Mapping[str, Any]], Array]] = {
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


# --- the importer --------------------------------------------------------------------------------


@dataclass
class _Importer:
    model: OnnxModel
    nodes: list[Node] = field(default_factory=list)
    types: dict[str, TensorType] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)  # integer tensor -> value of the graph
    reals: dict[str, _Pending] = field(default_factory=dict)  # float tensor -> what it stands for
    constants: dict[str, _Constant] = field(default_factory=dict)
    wide: dict[str, str] = field(default_factory=dict)  # values that are there twice, for weights of 9 bits
    series: bool = False

    def graph(self) -> Graph:
        inputs = tuple(self._input(name, shape) for name, shape in self.model.inputs().items())
        self.types = {value.name: value.type for value in inputs}
        for value in inputs:
            if value.type.dtype != "float32":
                self.values[value.name] = value.name
        for proto in self.model.nodes:
            handler = _HANDLERS.get(proto.op_type)
            if proto.op_type in _UNARY:
                self._unary(proto, lambda x, proto=proto: _UNARY[proto.op_type](x, attributes_of(proto)))  # type: ignore[misc]
            elif handler is None:
                known = ", ".join(sorted({*_HANDLERS, *_UNARY}))
                raise _error(proto, f"has no integer meaning here. Known: {known}")
            else:
                handler(self, proto)
        outputs = {one.name: self._output(one.name) for one in self.model.outputs()}
        return Graph(inputs, tuple(self.nodes), outputs)

    def _input(self, name: str, shape: tuple[int, ...]) -> Input:
        """An input with the scale and zero point by which it is read first."""
        dtype = self.model.input_dtypes()[name]
        self.series = self.series or len(shape) == FILTER
        shape = (*shape, 1) if len(shape) == FILTER else shape
        if dtype == "float32":
            return Input(name, TensorType(dtype, shape))
        for reader in self.model.readers.get(name, []):
            at = list(reader.input).index(name)
            if reader.op_type in ("ConvInteger", "MatMulInteger") and at == 0:
                return Input(name, TensorType(dtype, shape, 1.0, self._zero_point(reader, 2)))
            if reader.op_type in QUANTIZED and reader.op_type != "QuantizeLinear":
                return Input(
                    name, TensorType(dtype, shape, self._scale(reader, at + 1), self._zero_point(reader, at + 2))
                )
        return Input(name, TensorType(dtype, shape))

    def _output(self, name: str) -> str:
        if name in self.values:
            return self.values[name]
        real = self.reals.get(name)
        if isinstance(real, _Real) and name in self.types:
            return name
        what = "is a sum that nothing quantizes" if isinstance(real, _Sum) else "is no value of the integer network"
        raise GraphError(f"ONNX output '{name}' {what}: put a QuantizeLinear (and a DequantizeLinear) behind it")

    def add(
        self,
        name: str,
        op: str,
        inputs: Sequence[str],
        type_: TensorType,
        attributes: Mapping[str, Attribute] | None = None,
        *,
        constants: Mapping[str, Array] | None = None,
    ) -> str:
        node = Node(name, op, tuple(inputs), type_, attributes or {}, constants or {})
        shape = infer_shape(node, tuple(self.types[read] for read in inputs))
        node = replace(node, type=replace(type_, shape=shape))
        self.nodes.append(node)
        self.types[name] = node.type
        return name

    # --- numbers -----------------------------------------------------------------------------------

    def _scale(self, proto: Proto, index: int) -> float:
        """A scale for all of a tensor: a positive float32 number."""
        found = np.asarray(self.model.constant(proto, index), np.float32)
        if found.size != 1:
            raise _error(proto, f"has {found.size} scales for activations; one is known")
        return self._positive(proto, found).item()

    def _positive(self, proto: Proto, scale: Array) -> Floats:
        made = np.asarray(scale, np.float32).ravel()
        if not (np.isfinite(made).all() and (made > 0).all()):
            raise _error(proto, f"has a scale of {made.min():g}; scales are finite and above 0")
        return made

    def _zero_point(self, proto: Proto, index: int) -> int:
        if index >= len(proto.input) or not proto.input[index]:
            return 0
        found = self.model.constant(proto, index)
        if found.size != 1 or found.dtype.kind not in "iu":
            raise _error(proto, f"has {found.size} zero points of {found.dtype} for activations; one integer is known")
        return int(found.reshape(()))

    def _dtype(self, proto: Proto, index: int) -> str:
        """The type of the integers that a zero point stands for; without one they are unsigned, as ONNX says."""
        if index >= len(proto.input) or not proto.input[index]:
            code = attributes_of(proto).get("output_dtype", 0)
            name = {0: "uint8", onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.INT8: "int8"}.get(code, "")
        else:
            name = self.model.constant(proto, index).dtype.name
        if name not in BYTES:
            raise _error(proto, f"makes integers of type {name or 'that is not known'}; int8 and uint8 are known")
        return name

    def _type(self, proto: Proto, scale_at: int) -> TensorType:
        """The type of what is quantized by the scale at an input, and the zero point behind it; no shape yet."""
        dtype = self._dtype(proto, scale_at + 1)
        return TensorType(dtype, (), self._scale(proto, scale_at), self._zero_point(proto, scale_at + 1))

    def _read(self, proto: Proto, index: int, scale_at: int | None = None) -> str:
        """The graph's value behind an integer tensor; where it is read with a scale, with the one it was made with."""
        name = proto.input[index]
        if name not in self.values:
            raise _error(proto, f"input {index} ('{name}') is no integer value of the network")
        value = self.values[name]
        if scale_at is not None:
            type_ = self.types[value]
            found = self._scale(proto, scale_at), self._zero_point(proto, scale_at + 1)
            if found != (type_.scale, type_.zero_point):
                raise _error(
                    proto,
                    f"reads '{value}' with scale {found[0]:g} and zero point {found[1]}, and it was made with "
                    f"{type_.scale:g} and {type_.zero_point}",
                )
        return value

    def _weight(self, proto: Proto, index: int, scale_at: int, axis: int) -> _Constant:
        integers = self.model.constant(proto, index)
        scale = self._positive(proto, self.model.constant(proto, scale_at))
        return self._less_zero_point(proto, integers, scale, scale_at + 1, axis)

    def _less_zero_point(self, proto: Proto, integers: Array, scale: Floats, zero_at: int, axis: int) -> _Constant:
        if integers.dtype.name not in ("int8", "uint8", "int32"):
            raise _error(proto, f"reads constants of type {integers.dtype.name}; int8, uint8 and int32 are known")
        zero = np.zeros(1, np.int64)
        if zero_at < len(proto.input) and proto.input[zero_at]:
            zero = self.model.constant(proto, zero_at).astype(np.int64).ravel()
        axis = axis % max(1, integers.ndim)
        for what, values in (("scales", scale), ("zero points", zero)):
            if values.size not in (1, integers.shape[axis] if integers.ndim else 1):
                raise _error(proto, f"has {values.size} {what} for weights of shape {integers.shape}")
        shape = [1] * integers.ndim
        if integers.ndim and zero.size > 1:
            shape[axis] = -1
        less = integers.astype(np.int64) - zero.reshape(shape)
        return _Constant(less.astype(np.int32), scale, axis)

    # --- quantize and dequantize ---------------------------------------------------------------------

    def _quantize_linear(self, proto: Proto) -> None:
        name, out = proto.input[0], proto.output[0]
        if name in self.model.constants:
            self._quantize_constant(proto)
            return
        type_ = self._type(proto, 1)
        pending = self.reals.get(name)
        if pending is None:
            if self.types.get(name, TensorType("", ())).dtype != "float32":
                raise _error(proto, f"quantizes '{name}', which is no value of the network")
            low, high = LIMITS[type_.dtype]
            self.values[out] = self.add(out, "quantize_linear", [name], type_, {"low": low, "high": high})
            return
        self.values[out] = self._quantized(proto, pending, type_, out)

    def _quantize_constant(self, proto: Proto) -> None:
        """Float constants that the file quantizes itself."""
        floats = np.asarray(self.model.constant(proto, 0), np.float32)
        scale = self._positive(proto, self.model.constant(proto, 1))
        axis = int(attributes_of(proto).get("axis", 1)) % max(1, floats.ndim)
        dtype = self._dtype(proto, 2)
        zero = self.model.constant(proto, 2).astype(np.int64).ravel() if len(proto.input) > 2 else np.zeros(1, np.int64)
        shape = [1] * floats.ndim
        if scale.size > 1:
            shape[axis] = -1
        zeros = zero.reshape(shape if zero.size > 1 else [1] * floats.ndim)
        low, high = LIMITS[dtype]
        levels = np.rint(floats / scale.reshape(shape)).astype(np.float64) + zeros
        self.model.constants[proto.output[0]] = np.clip(levels, low, high).astype(dtype)

    def _quantized(self, proto: Proto, pending: _Pending, type_: TensorType, out: str) -> str:
        """What a QuantizeLinear makes of a float tensor."""
        if isinstance(pending, _Sum):
            return self._requantized(proto, pending, type_, out)
        if isinstance(pending, _Added):
            low, high = self._limits(type_, pending.clip)
            scales: dict[str, Attribute] = {
                "left_scale": self.types[pending.left].scale, "right_scale": self.types[pending.right].scale,
                "low": low, "high": high,
            }  # fmt: skip
            return self.add(out, "add_float", [pending.left, pending.right], type_, scales)
        if isinstance(pending, _Joined):
            values = [self._quantized(proto, part, type_, f"{out}/part{at}") for at, part in enumerate(pending.parts)]
            return self._joined(values, out)
        if isinstance(pending, _Real) and _same_meaning(self.types[pending.value], type_):
            return pending.value
        results = pending.results if isinstance(pending, _Function) else self._meanings(pending.value)
        return self._table(proto, pending.value, results, type_, out)

    def _requantized(self, proto: Proto, sums: _Sum, type_: TensorType, out: str) -> str:
        low, high = self._limits(type_, sums.clip)
        multiplier, shift = as_ratio((sums.step / np.float32(type_.scale)).astype(np.float32))
        channels = self.types[sums.value].shape[0]
        bias = np.zeros(channels, np.int32) if sums.bias is None else sums.bias
        constants = {
            "bias": bias,
            "multiplier": np.broadcast_to(multiplier, (channels,)).copy(),
            "shift": np.broadcast_to(shift, (channels,)).copy(),
        }
        if int(shift.max(initial=0)) > 149 or int(shift.min(initial=0)) < -31:
            raise _error(proto, "its scales differ by more than a requantization can hold")
        attributes: dict[str, Attribute] = {
            "low": low, "high": high, "rounding": "nearest_even", "bias_before_multiply": True
        }  # fmt: skip
        if not sums.flat:
            return self.add(out, "requantize", [sums.value], type_, attributes, constants=constants)
        made = self.add(f"{out}/pictures", "requantize", [sums.value], type_, attributes, constants=constants)
        return self.add(out, "flatten", [made], self.types[made])

    def _limits(self, type_: TensorType, clip: tuple[float, float]) -> Pair:
        """The clip of a type, narrowed by limits in real numbers."""
        least, most = LIMITS[type_.dtype]
        ends = []
        for limit in clip:
            if math.isinf(limit):
                ends.append(least if limit < 0 else most)
            else:
                level = int(np.rint(np.float32(limit) / np.float32(type_.scale))) + type_.zero_point
                ends.append(min(max(level, least), most))
        return ends[0], ends[1]

    def _meanings(self, value: str) -> Floats:
        """The 256 numbers that a value's bytes mean."""
        type_ = self.types[value]
        levels = np.arange(256, dtype=np.int64) + BYTES[type_.dtype] - type_.zero_point
        return levels.astype(np.float32) * np.float32(type_.scale)

    def _table(self, proto: Proto, value: str, results: Floats, type_: TensorType, out: str) -> str:
        with np.errstate(over="ignore", invalid="ignore"):
            levels = np.rint(results / np.float32(type_.scale))
        if np.isnan(levels).any():
            raise _error(proto, "quantizes what is no number")
        low, high = LIMITS[type_.dtype]
        entries = np.clip(levels.astype(np.float64) + type_.zero_point, low, high).astype(type_.dtype)
        return self.add(out, "table", [value], type_, constants={"entries": entries})

    def _dequantize_linear(self, proto: Proto) -> None:
        name, out = proto.input[0], proto.output[0]
        if name in self.model.constants:
            axis = int(attributes_of(proto).get("axis", 1))
            self.constants[out] = self._weight(proto, 0, 1, axis)
            return
        value = self._read(proto, 0, 1)
        self.reals[out] = _Real(value)
        if out in {one.name for one in self.model.outputs()}:
            type_ = self.types[value]
            self.add(out, "dequantize", [value], TensorType("float32", type_.shape), {"scale": type_.scale})

    # --- sums of products --------------------------------------------------------------------------

    def _qlinear_conv(self, proto: Proto) -> None:
        weight = self._weight(proto, 3, 4, 0)
        bias = self.model.constant(proto, 8) if len(proto.input) > 8 and proto.input[8] else None
        self._finish(proto, self._conv_of(proto, self._read(proto, 0, 1), weight, bias), 6)

    def _qlinear_matmul(self, proto: Proto) -> None:
        weight = self._weight(proto, 3, 4, -1)
        turned = _Constant(weight.integers.T, weight.scale, 0)
        self._finish(proto, self._linear_of(proto, self._read(proto, 0, 1), turned, None), 6)

    def _qgemm(self, proto: Proto) -> None:
        found = attributes_of(proto)
        if found.get("transA", 0) or found.get("alpha", 1.0) != 1.0:
            raise _error(proto, "transposes its input, or scales")
        if len(proto.input) < 9:
            raise _error(proto, "gives floats; a network's sums are quantized")
        weight = self._weight(proto, 3, 4, 0 if found.get("transB", 0) else 1)
        if not found.get("transB", 0):
            weight = _Constant(weight.integers.T, weight.scale, 0)
        bias = self.model.constant(proto, 6) if proto.input[6] else None
        self._finish(proto, self._linear_of(proto, self._read(proto, 0, 1), weight, bias), 7)

    def _finish(self, proto: Proto, sums: _Sum, scale_at: int) -> None:
        out = proto.output[0]
        self.values[out] = self._requantized(proto, sums, self._type(proto, scale_at), out)

    def _conv_integer(self, proto: Proto) -> None:
        weight = self._integer_weight(proto, 0)
        sums = self._conv_of(proto, self._integer_read(proto), weight, None, proto.output[0])
        self.values[proto.output[0]] = sums.value

    def _matmul_integer(self, proto: Proto) -> None:
        weight = self._integer_weight(proto, -1)
        turned = _Constant(weight.integers.T, weight.scale, 0)
        sums = self._linear_of(proto, self._integer_read(proto), turned, None, proto.output[0])
        self.values[proto.output[0]] = sums.value

    def _integer_weight(self, proto: Proto, axis: int) -> _Constant:
        return self._less_zero_point(proto, self.model.constant(proto, 1), np.ones(1, np.float32), 3, axis)

    def _integer_read(self, proto: Proto) -> str:
        value, zero = self._read(proto, 0), self._zero_point(proto, 2)
        if self.types[value].zero_point != zero:
            raise _error(proto, f"reads with zero point {zero} what was made with {self.types[value].zero_point}")
        return value

    def _conv(self, proto: Proto) -> None:
        weight = self._dequantized(proto, 1)
        self.reals[proto.output[0]] = self._conv_of(proto, self._real(proto, 0), weight, self._bias(proto))

    def _gemm(self, proto: Proto) -> None:
        found = attributes_of(proto)
        if found.get("transA", 0) or found.get("alpha", 1.0) != 1.0 or found.get("beta", 1.0) != 1.0:
            raise _error(proto, "transposes its input, or scales; use a plain linear layer")
        weight = self._dequantized(proto, 1)
        if not found.get("transB", 0):
            weight = _turned(weight)
        self.reals[proto.output[0]] = self._linear_of(proto, self._real(proto, 0), weight, self._bias(proto))

    def _matmul(self, proto: Proto) -> None:
        weight = _turned(self._dequantized(proto, 1))
        self.reals[proto.output[0]] = self._linear_of(proto, self._real(proto, 0), weight, None)

    def _dequantized(self, proto: Proto, index: int) -> _Constant:
        name = proto.input[index]
        if name not in self.constants:
            raise _error(proto, f"its weights ('{name}') are no quantized constants: a DequantizeLinear makes them")
        return self.constants[name]

    def _bias(self, proto: Proto) -> Array | _Constant | None:
        if len(proto.input) < 3 or not proto.input[2]:
            return None
        name = proto.input[2]
        if name in self.constants:
            return self.constants[name]
        return np.asarray(self.model.constant(proto, 2), np.float32)

    def _real(self, proto: Proto, index: int) -> str:
        """The byte behind a float tensor."""
        found = self.reals.get(proto.input[index])
        if isinstance(found, _Real):
            return found.value
        raise _error(proto, f"reads '{proto.input[index]}', which nothing quantizes before it")

    def _conv_of(
        self, proto: Proto, value: str, weight: _Constant, bias: Array | _Constant | None, name: str = ""
    ) -> _Sum:
        integers = weight.integers
        integers = integers[..., None] if self.series and integers.ndim == 3 else integers
        if integers.ndim != 4:
            raise _error(proto, f"is no 2-D convolution: its weight has shape {integers.shape}")
        attributes = self._window(proto, integers.shape[2:], self.types[value].shape, dilates=True)
        attributes["groups"] = int(attributes_of(proto).get("group", 1))
        return self._sum_of(
            proto, "conv", value, replace(weight, integers=integers), bias, attributes=attributes, name=name
        )

    def _linear_of(
        self, proto: Proto, value: str, weight: _Constant, bias: Array | _Constant | None, name: str = ""
    ) -> _Sum:
        if weight.integers.ndim != 2 or len(self.types[value].shape) != 1:
            raise _error(
                proto, f"multiplies {self.types[value].shape} by weights of shape {weight.integers.T.shape}; a vector "
                "of features by a matrix is known"
            )  # fmt: skip
        return self._sum_of(proto, "linear", value, weight, bias, attributes={}, name=name)

    def _sum_of(
        self,
        proto: Proto,
        op: str,
        value: str,
        weight: _Constant,
        bias: Array | _Constant | None,
        *,
        attributes: dict[str, Attribute],
        name: str,
    ) -> _Sum:
        outputs = weight.integers.shape[0]
        if weight.scale.size not in (1, outputs) or (weight.scale.size > 1 and weight.axis != 0):
            raise _error(proto, "its weights have a scale for each input; one for each output is known")
        step = (np.float32(self.types[value].scale) * weight.scale).astype(np.float32)
        value, integers = self._in_bytes(proto, op, value, weight.integers, int(str(attributes.get("groups", 1))))
        name = name or f"{proto.output[0]}/sum"
        scale = float(step[0]) if step.size == 1 else 0.0
        self.add(name, op, [value], TensorType("int32", (), scale), attributes, constants={"weight": integers})
        steps = np.broadcast_to(step, (outputs,)).astype(np.float32)
        return _Sum(name, steps, self._integer_bias(proto, bias, steps))

    def _in_bytes(
        self, proto: Proto, op: str, value: str, weight: NDArray[np.int32], groups: int
    ) -> tuple[str, NDArray[np.int8]]:
        """Weights as int8; those of 9 bits as two that are added, over an input that is there twice."""
        if weight.size and (weight.min() < -256 or weight.max() > 254):
            raise _error(proto, f"its weights, {weight.min()} .. {weight.max()} less their zero point, need 10 bits")
        if not weight.size or (weight.min() >= -128 and weight.max() <= 127):
            return value, weight.astype(np.int8)
        first = np.clip(weight, -128, 127)
        return self._twice(value, groups), np.concatenate([first, weight - first], axis=1).astype(np.int8)

    def _twice(self, value: str, groups: int) -> str:
        """A value with each group of its channels (or its features) repeated behind itself."""
        key = f"{value}/{groups}"
        if key not in self.wide:
            type_ = self.types[value]
            places = np.arange(math.prod(type_.shape), dtype=np.int32).reshape(groups, -1)
            index = np.concatenate([places, places], axis=1).ravel()
            shape = (2 * type_.shape[0], *type_.shape[1:])
            name = f"{value}/twice" if groups == 1 else f"{value}/twice{groups}"
            self.wide[key] = self.add(name, "take", [value], replace(type_, shape=shape), constants={"index": index})
        return self.wide[key]

    def _integer_bias(self, proto: Proto, bias: Array | _Constant | None, step: Floats) -> Array | None:
        """The bias in the sum's own steps; a float one, or one of other steps, rounded to them."""
        if bias is None:
            return None
        if isinstance(bias, _Constant):
            same = bias.scale.size in (1, step.size) and np.allclose(bias.scale, step, rtol=1e-5, atol=0)
            whole = bias.integers.astype(np.float64).ravel() if same else np.rint(bias.real().ravel() / step)
        elif bias.dtype.kind in "iu":
            whole = bias.astype(np.float64).ravel()
        else:
            whole = np.rint(bias.astype(np.float64).ravel() / step)
        if whole.size not in (1, step.size) or not np.isfinite(whole).all() or np.abs(whole).max(initial=0) >= 2**31:
            raise _error(proto, f"its bias of {whole.size} numbers does not fit {step.size} sums of 32 bits")
        return np.broadcast_to(whole, step.shape).astype(np.int32)

    # --- elementwise ---------------------------------------------------------------------------------

    def _unary(self, proto: Proto, function: Callable[[Floats], Array]) -> None:
        name, out = proto.input[0], proto.output[0]
        if name in self.values and proto.op_type == "Relu":  # of integers, whatever they mean
            value = self.values[name]
            type_ = self.types[value]
            entries = np.maximum(np.arange(256) + BYTES[type_.dtype], 0).astype(type_.dtype)
            self.values[out] = self.add(out, "table", [value], type_, constants={"entries": entries})
            return
        pending = self.reals.get(name)
        if isinstance(pending, (_Sum, _Added)) and proto.op_type == "Relu":
            self.reals[out] = replace(pending, clip=_narrowed(pending.clip, (0.0, math.inf)))
        elif isinstance(pending, (_Real, _Function)):
            results = pending.results if isinstance(pending, _Function) else self._meanings(pending.value)
            with np.errstate(over="ignore", invalid="ignore"):
                made = np.asarray(function(results), np.float32)
            self.reals[out] = _Function(pending.value, made, proto)
        else:
            raise _error(proto, f"reads '{name}', which nothing quantizes before it")

    def _clip(self, proto: Proto) -> None:
        name, out = proto.input[0], proto.output[0]
        limits = [
            float(self.model.constant(proto, at).reshape(())) if at < len(proto.input) and proto.input[at] else default
            for at, default in ((1, -math.inf), (2, math.inf))
        ]
        if not limits[0] <= limits[1]:
            raise _error(proto, f"clips to {limits[0]} .. {limits[1]}")
        if name in self.values:
            value = self.values[name]
            type_ = self.types[value]
            entries = np.clip(np.arange(256) + BYTES[type_.dtype], limits[0], limits[1]).astype(type_.dtype)
            self.values[out] = self.add(out, "table", [value], type_, constants={"entries": entries})
            return
        pending = self.reals.get(name)
        if isinstance(pending, (_Sum, _Added)):
            self.reals[out] = replace(pending, clip=_narrowed(pending.clip, (limits[0], limits[1])))
        else:
            self._unary(proto, lambda x: np.clip(x, np.float32(limits[0]), np.float32(limits[1])))

    def _qlinear_leaky_relu(self, proto: Proto) -> None:
        alpha = np.float32(attributes_of(proto).get("alpha", 0.01))
        self._qlinear_table(proto, lambda x: np.where(x >= 0, x, x * alpha))

    def _qlinear_sigmoid(self, proto: Proto) -> None:
        self._qlinear_table(proto, lambda x: _UNARY["Sigmoid"](x, {}))

    def _qlinear_table(self, proto: Proto, function: Callable[[Floats], Array]) -> None:
        value, out = self._read(proto, 0, 1), proto.output[0]
        results = np.asarray(function(self._meanings(value)), np.float32)
        self.values[out] = self._table(proto, value, results, self._type(proto, 3), out)

    def _qlinear_add(self, proto: Proto) -> None:
        self.values[proto.output[0]] = self._quantized(
            proto, self._sum_of_two(proto, self._read(proto, 0, 1), self._read(proto, 3, 4)), self._type(proto, 6),
            proto.output[0],
        )  # fmt: skip

    def _add(self, proto: Proto) -> None:
        left, constant = proto.input if proto.input[0] in self.reals else proto.input[::-1]
        pending = self.reals.get(left)
        if isinstance(pending, _Sum) and (constant in self.constants or constant in self.model.constants):
            if pending.bias is not None or pending.clip != UNBOUNDED:
                raise _error(proto, "adds to a sum that has a bias already")
            bias = self.constants.get(constant, None)
            added = np.asarray(self.model.constants[constant], np.float32) if bias is None else bias
            if isinstance(added, np.ndarray) and added.size != pending.step.size:
                raise _error(proto, f"adds {added.size} numbers to {pending.step.size} sums")
            self.reals[proto.output[0]] = replace(pending, bias=self._integer_bias(proto, added, pending.step))
            return
        self.reals[proto.output[0]] = self._sum_of_two(proto, self._real(proto, 0), self._real(proto, 1))

    def _sum_of_two(self, proto: Proto, left: str, right: str) -> _Pending:
        if self.types[left].shape != self.types[right].shape:
            raise _error(proto, f"adds {self.types[left].shape} and {self.types[right].shape}; equal shapes are known")
        return _Added(left, right)

    def _qlinear_mul(self, proto: Proto) -> None:
        self._finish(proto, self._product(proto, self._read(proto, 0, 1), self._read(proto, 3, 4)), 6)

    def _mul(self, proto: Proto) -> None:
        found = [self.reals.get(name) for name in proto.input]
        constant = next((name for name in proto.input if name in self.model.constants), None)
        if constant is not None and self.model.constants[constant].size == 1:
            factor = np.float32(self.model.constants[constant].reshape(()))
            other = proto.input[0] if constant == proto.input[1] else proto.input[1]
            if isinstance(self.reals.get(other), (_Real, _Function)):
                turned = onnx.helper.make_node("Mul", [other], list(proto.output), name=proto.name)
                self._unary(turned, lambda x: x * factor)
                return
        if isinstance(found[0], _Function) and isinstance(found[1], _Real) and found[0].value == found[1].value:
            found = found[::-1]
        if isinstance(found[0], _Real) and isinstance(found[1], _Function) and found[0].value == found[1].value:
            results = self._meanings(found[0].value) * found[1].results  # x * sigmoid(x)
            self.reals[proto.output[0]] = _Function(found[0].value, results, proto)
            return
        self.reals[proto.output[0]] = self._product(proto, self._real(proto, 0), self._real(proto, 1))

    def _product(self, proto: Proto, left: str, right: str) -> _Sum:
        if self.types[left].shape != self.types[right].shape and self.types[left].shape[1:] == (1, 1):
            left, right = right, left
        one, other = self.types[left], self.types[right]
        name = self.add(
            f"{proto.output[0]}/product", "multiply", [left, right], TensorType("int32", (), one.scale * other.scale)
        )
        step = np.float32(one.scale) * np.float32(other.scale)
        return _Sum(name, np.full(self.types[name].shape[0], step, np.float32))

    # --- pools ---------------------------------------------------------------------------------------

    def _max_pool(self, proto: Proto) -> None:
        found = attributes_of(proto)
        if found.get("ceil_mode", 0) or len(proto.output) > 1:
            raise _error(proto, "rounds up, or asks for indices; neither is known. Use ceil_mode=False")
        self._moved(proto, lambda name, value: self._pooled(proto, name, value))

    def _pooled(self, proto: Proto, name: str, value: str) -> str:
        kernel = self._extent(proto, "kernel_shape", None)
        attributes = self._window(proto, kernel, self.types[value].shape, dilates=False)
        return self.add(name, "max_pool", [value], self.types[value], {**attributes, "kernel": kernel})

    def _global_average(self, proto: Proto) -> None:
        self.reals[proto.output[0]] = self._mean(proto, self._real(proto, 0))

    def _qlinear_global_average(self, proto: Proto) -> None:
        if attributes_of(proto).get("channels_last", 0):
            raise _error(proto, "has its channels last; channels first is known")
        self._finish(proto, self._mean(proto, self._read(proto, 0, 1)), 3)

    def _mean(self, proto: Proto, value: str) -> _Sum:
        type_ = self.types[value]
        if len(type_.shape) != 3:
            raise _error(proto, f"averages a value of shape {type_.shape}")
        name = self.add(f"{proto.output[0]}/sum", "sum_pool", [value], TensorType("int32", (), type_.scale))
        area = np.float32(type_.shape[1] * type_.shape[2])
        return _Sum(name, np.full(type_.shape[0], np.float32(type_.scale) / area, np.float32))

    def _reduce_mean(self, proto: Proto) -> None:
        found = attributes_of(proto)
        axes = [int(axis) for axis in (found["axes"] if "axes" in found else self.model.constant(proto, 1))]
        rank = 3 if self.series else 4
        if sorted(axis % rank for axis in axes) != list(range(2, rank)):
            raise _error(proto, f"averages axes {axes}; only height and width together are known")
        sums = self._mean(proto, self._real(proto, 0))
        self.reals[proto.output[0]] = replace(sums, flat=not found.get("keepdims", 1))

    def _average_pool(self, proto: Proto) -> None:
        self.reals[proto.output[0]] = self._average(proto, self._real(proto, 0))

    def _qlinear_average_pool(self, proto: Proto) -> None:
        if attributes_of(proto).get("channels_last", 0):
            raise _error(proto, "has its channels last; channels first is known")
        self._finish(proto, self._average(proto, self._read(proto, 0, 1)), 3)

    def _average(self, proto: Proto, value: str) -> _Sum:
        """An average of windows: a convolution of each channel by ones."""
        found, type_ = attributes_of(proto), self.types[value]
        kernel = self._extent(proto, "kernel_shape", None)
        attributes = self._window(proto, kernel, type_.shape, dilates=False)
        if found.get("ceil_mode", 0) or (any(attributes["padding"]) and not found.get("count_include_pad", 0)):  # type: ignore[arg-type]
            raise _error(proto, "counts fewer places at the border; use no padding, or count_include_pad=1")
        channels = type_.shape[0]
        attributes["groups"] = channels
        ones = {"weight": np.ones((channels, 1, *kernel), np.int8)}
        sums = TensorType("int32", (), type_.scale)
        name = self.add(f"{proto.output[0]}/sum", "conv", [value], sums, attributes, constants=ones)
        area = np.float32(kernel[0] * kernel[1])
        return _Sum(name, np.full(channels, np.float32(type_.scale) / area, np.float32))

    # --- windows -------------------------------------------------------------------------------------

    def _extent(self, proto: Proto, key: str, default: int | None) -> Pair:
        found = attributes_of(proto).get(key, None if default is None else (default, default))
        if found is not None and self.series and len(found) == 1:
            found = (*found, 1)
        if found is None or len(found) != 2 or min(found) < 1:
            raise _error(proto, f"attribute '{key}' is {found!r}; two integers above 0 are needed")
        return int(found[0]), int(found[1])

    def _window(
        self, proto: Proto, kernel: Sequence[int], shape: tuple[int, ...], *, dilates: bool
    ) -> dict[str, Attribute]:
        """Stride, padding and dilation of what slides over pictures."""
        if len(shape) != 3:
            raise _error(proto, f"slides over a value of shape {shape}; (channel, height, width) is needed")
        found = attributes_of(proto)
        stride, dilation = self._extent(proto, "strides", 1), self._extent(proto, "dilations", 1)
        if dilation != (1, 1) and not dilates:
            raise _error(proto, "is dilated; use dilation 1")
        reach = [(size - 1) * gap + 1 for size, gap in zip(kernel, dilation, strict=True)]
        attributes: dict[str, Attribute] = {
            "stride": stride, "padding": self._padding(proto, found, reach, stride, shape)
        }  # fmt: skip
        return attributes if dilation == (1, 1) else {**attributes, "dilation": dilation}

    def _padding(
        self, proto: Proto, found: Mapping[str, Any], reach: Sequence[int], stride: Pair, shape: tuple[int, ...]
    ) -> tuple[int, int, int, int]:
        auto = found.get("auto_pad", "NOTSET")
        pads = list(found.get("pads", (0, 0, 0, 0)))
        if self.series and len(pads) == 2:
            pads = [pads[0], 0, pads[1], 0]
        if auto in ("NOTSET", "VALID"):
            pads = [0, 0, 0, 0] if auto == "VALID" else pads
            if len(pads) != 4 or min(pads) < 0:
                raise _error(proto, f"attribute 'pads' is {pads!r}; four integers are needed")
            return int(pads[0]), int(pads[1]), int(pads[2]), int(pads[3])
        if auto not in ("SAME_UPPER", "SAME_LOWER"):
            raise _error(proto, f"auto_pad {auto!r} is not known")
        ends: list[Pair] = []
        for axis in (0, 1):
            extent = shape[axis + 1]
            total = max((-(-extent // stride[axis]) - 1) * stride[axis] + reach[axis] - extent, 0)
            small = total // 2
            ends.append((small, total - small) if auto == "SAME_UPPER" else (total - small, small))
        return ends[0][0], ends[1][0], ends[0][1], ends[1][1]

    # --- moves ---------------------------------------------------------------------------------------

    def _moved(self, proto: Proto, move: Callable[[str, str], str]) -> None:
        """What keeps the bytes' meaning, on an integer tensor or on one that was dequantized."""
        name, out = proto.input[0], proto.output[0]
        if name in self.values:
            self.values[out] = move(out, self.values[name])
            return
        found = self.reals.get(name)
        if isinstance(found, _Real):
            self.reals[out] = _Real(move(f"{out}/bytes" if out in self._output_names() else out, found.value))
            if out in self._output_names():
                type_ = self.types[f"{out}/bytes"]
                self.add(out, "dequantize", [f"{out}/bytes"], TensorType("float32", ()), {"scale": type_.scale})
            return
        if isinstance(found, _Sum) and not found.flat and self._flattens(proto, found):
            self.reals[out] = replace(found, flat=True)
            return
        raise _error(proto, f"reads '{name}', which nothing quantizes before it")

    def _flattens(self, proto: Proto, sums: _Sum) -> bool:
        """Whether a move leaves one row of features of a sum, which may be quantized before it as well as behind."""
        if proto.op_type == "Flatten":
            return int(attributes_of(proto).get("axis", 1)) == 1
        return proto.op_type in ("Squeeze", "Reshape") and self.types[sums.value].shape[1:] == (1, 1)

    def _output_names(self) -> set[str]:
        return {one.name for one in self.model.outputs()}

    def _flatten(self, proto: Proto) -> None:
        if attributes_of(proto).get("axis", 1) != 1:
            raise _error(proto, "keeps more than the batch. Use axis 1")
        self._moved(proto, lambda name, value: self.add(name, "flatten", [value], self.types[value]))

    def _reshape(self, proto: Proto) -> None:
        self._moved(proto, lambda name, value: self._reshaped(proto, name, value))

    def _reshaped(self, proto: Proto, name: str, value: str) -> str:
        type_ = self.types[value]
        wanted = [int(extent) for extent in self.model.constant(proto, 1).ravel()]
        size, shape = math.prod(type_.shape), wanted[1:]
        if len(wanted) < 2 or wanted[0] not in (0, -1, 1):
            raise _error(proto, f"gives the shape {wanted}; one that keeps the batch is known")
        known = (*type_.shape, *(0,) * len(shape))
        shape = [known[at] if extent == 0 else extent for at, extent in enumerate(shape)]
        if shape.count(-1) == 1:
            rest = math.prod(extent for extent in shape if extent != -1)
            shape = [size // max(rest, 1) if extent == -1 else extent for extent in shape]
        if math.prod(shape) != size or min(shape) < 1:
            raise _error(proto, f"gives {size} numbers the shape {wanted}")
        if len(shape) == 1:
            return value if type_.shape == (size,) else self.add(name, "flatten", [value], type_)
        if len(shape) == FILTER:
            shape = [*shape, 1]
        return self.add(name, "reshape", [value], replace(type_, shape=tuple(shape)))

    def _squeeze(self, proto: Proto) -> None:
        self._moved(proto, lambda name, value: self._squeezed(proto, name, value))

    def _squeezed(self, proto: Proto, name: str, value: str) -> str:
        type_ = self.types[value]
        if len(type_.shape) != 3 or type_.shape[1:] != (1, 1):
            raise _error(proto, f"leaves more than (batch, features) of {type_.shape}")
        return self.add(name, "flatten", [value], type_)

    def _transpose(self, proto: Proto) -> None:
        order = [int(axis) for axis in attributes_of(proto).get("perm", ())]
        constant = self.constants.get(proto.input[0])
        if constant is not None:
            order = order or list(range(constant.integers.ndim))[::-1]
            self.constants[proto.output[0]] = _Constant(
                constant.integers.transpose(order), constant.scale, order.index(constant.axis)
            )
            return
        self._moved(proto, lambda name, value: self._transposed(proto, name, value, order))

    def _transposed(self, proto: Proto, name: str, value: str, order: list[int]) -> str:
        type_ = self.types[value]
        rank = 3 if self.series else len(type_.shape) + 1
        if sorted(order) != list(range(rank)) or order[0] != 0:
            raise _error(proto, f"orders its axes {order}; the batch stays first")
        axes = [axis - 1 for axis in order[1:]]
        axes += [2] if self.series and len(type_.shape) == 3 else []
        places = np.arange(math.prod(type_.shape), dtype=np.int32).reshape(type_.shape).transpose(axes)
        made = replace(type_, shape=places.shape)
        return self.add(name, "take", [value], made, constants={"index": places.ravel().copy()})

    def _concat(self, proto: Proto) -> None:
        axis, out = int(attributes_of(proto).get("axis", 0)), proto.output[0]
        if all(name in self.values for name in proto.input):
            self._check_axis(proto, axis, [self.values[name] for name in proto.input])
            self.values[out] = self._joined([self.values[name] for name in proto.input], out)
            return
        parts = []
        for name in proto.input:
            found = self.reals.get(name)
            if not isinstance(found, (_Real, _Function)):
                raise _error(proto, f"joins '{name}', which nothing quantizes before it")
            parts.append(found)
        self._check_axis(proto, axis, [part.value for part in parts])
        self.reals[out] = _Joined(tuple(parts))

    def _qlinear_concat(self, proto: Proto) -> None:
        type_ = self._type(proto, 0)
        values = [self._read(proto, at, at + 1) for at in range(2, len(proto.input), 3)]
        out = proto.output[0]
        self._check_axis(proto, int(attributes_of(proto).get("axis", 0)), values)
        self.values[out] = self._quantized(proto, _Joined(tuple(_Real(value) for value in values)), type_, out)

    def _check_axis(self, proto: Proto, axis: int, values: Sequence[str]) -> None:
        rank = (3 if self.series else 4) if len(self.types[values[0]].shape) == 3 else 2
        if axis not in (1, 1 - rank):
            raise _error(proto, "joins along another axis than the channels")

    def _joined(self, values: Sequence[str], out: str) -> str:
        types = [self.types[value] for value in values]
        if any(not _same_meaning(types[0], other) for other in types):
            raise GraphError(f"ONNX node '{out}' (Concat): joins integers of different scales; quantize them alike")
        before = values[0]
        for place, other in enumerate(values[1:], 2):
            name = out if place == len(values) else f"{out}/first{place}"
            before = self.add(name, "concat", [before, other], types[0])
        return before

    def _pad(self, proto: Proto) -> None:
        self._moved(proto, lambda name, value: self._padded(proto, name, value))

    def _padded(self, proto: Proto, name: str, value: str) -> str:
        type_ = self.types[value]
        pads = [int(one) for one in self.model.constant(proto, 1).ravel()]
        if attributes_of(proto).get("mode", "constant") != "constant" or (len(proto.input) > 3 and proto.input[3]):
            raise _error(proto, "repeats what is there, or names axes; constants around all axes are known")
        rank = len(type_.shape) + (0 if self.series and len(type_.shape) == 3 else 1)
        if len(pads) != 2 * rank or min(pads) < 0 or pads[0] or pads[rank]:
            raise _error(proto, f"pads by {pads}; {2 * rank} numbers, none for the batch, are known")
        fill = type_.zero_point if proto.input[0] in self.values else 0
        if len(proto.input) > 2 and proto.input[2] and float(self.model.constant(proto, 2).reshape(())) != fill:
            raise _error(proto, "adds what means no zero")
        widths = [(pads[at], pads[at + rank]) for at in range(1, rank)] + [(0, 0)] * (len(type_.shape) - rank + 1)
        places = np.arange(math.prod(type_.shape), dtype=np.int32).reshape(type_.shape)
        padded = np.pad(places, widths, constant_values=-1)
        made = replace(type_, shape=padded.shape)
        return self.add(name, "take", [value], made, constants={"index": padded.ravel().copy()})

    def _identity(self, proto: Proto) -> None:
        name, out = proto.input[0], proto.output[0]
        if name in self.values:
            self.values[out] = self.values[name]
        elif name in self.reals:
            self.reals[out] = self.reals[name]
        elif name in self.constants:
            self.constants[out] = self.constants[name]
        else:
            raise _error(proto, f"reads '{name}', which is no value of the network")

    def _dynamic(self, proto: Proto) -> None:
        raise _error(proto, "finds its scale in each input; a microcontroller needs one that is fixed: quantize "
                     "statically, with calibration data")  # fmt: skip


def _turned(weight: _Constant) -> _Constant:
    return _Constant(weight.integers.T, weight.scale, weight.integers.ndim - 1 - weight.axis)


def _same_meaning(one: TensorType, other: TensorType) -> bool:
    return (one.dtype, one.scale, one.zero_point) == (other.dtype, other.scale, other.zero_point)


def _narrowed(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    low, high = max(one[0], other[0]), min(one[1], other[1])
    return (low, high) if low <= high else (other[1], other[1]) if one[0] > other[1] else (other[0], other[0])


_HANDLERS: Mapping[str, Callable[[_Importer, Proto], None]] = {
    "QuantizeLinear": _Importer._quantize_linear,
    "DequantizeLinear": _Importer._dequantize_linear,
    "DynamicQuantizeLinear": _Importer._dynamic,
    "QLinearConv": _Importer._qlinear_conv,
    "QLinearMatMul": _Importer._qlinear_matmul,
    "QGemm": _Importer._qgemm,
    "ConvInteger": _Importer._conv_integer,
    "MatMulInteger": _Importer._matmul_integer,
    "QLinearAdd": _Importer._qlinear_add,
    "QLinearMul": _Importer._qlinear_mul,
    "QLinearConcat": _Importer._qlinear_concat,
    "QLinearGlobalAveragePool": _Importer._qlinear_global_average,
    "QLinearAveragePool": _Importer._qlinear_average_pool,
    "QLinearLeakyRelu": _Importer._qlinear_leaky_relu,
    "QLinearSigmoid": _Importer._qlinear_sigmoid,
    "Conv": _Importer._conv,
    "Gemm": _Importer._gemm,
    "MatMul": _Importer._matmul,
    "Add": _Importer._add,
    "Mul": _Importer._mul,
    "Clip": _Importer._clip,
    "MaxPool": _Importer._max_pool,
    "GlobalAveragePool": _Importer._global_average,
    "AveragePool": _Importer._average_pool,
    "ReduceMean": _Importer._reduce_mean,
    "Flatten": _Importer._flatten,
    "Reshape": _Importer._reshape,
    "Squeeze": _Importer._squeeze,
    "Transpose": _Importer._transpose,
    "Concat": _Importer._concat,
    "Pad": _Importer._pad,
    "Identity": _Importer._identity,
    "Dropout": _Importer._identity,
}
