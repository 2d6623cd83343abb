"""Numbers, integer tensors and the steps that make and undo them: QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from flowlab.compiler.growing import Growing
from flowlab.compiler.intervals import BYTES
from flowlab.compiler.ir import Attribute, Input, TensorType
from flowlab.compiler.number_format import as_ratio
from flowlab.compiler.onnx_model import Array, OnnxModel, attributes_of, node_error
from flowlab.compiler.ops import LIMITS
from flowlab.compiler.quantized_onnx.meaning import (
    Added,
    Constant,
    Floats,
    Function,
    Joined,
    Pair,
    Pending,
    Proto,
    Real,
    Sum,
    same_meaning,
)  # fmt: skip
from flowlab.errors import GraphError

QUANTIZED = (
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv",
    "QLinearMatMul", "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearAveragePool",
    "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QGemm",
)  # fmt: skip
CONSTANTS = ("int8", "uint8", "int4", "uint4", "int32")
MOST_JOINED = 64  # in one Concat
MOST_NUMBERS = 1 << 22  # of an input: far above any microcontroller
FILTER = 2  # axes of a window of pictures, behind which the kernel's stand


@dataclass
class Values(Growing):
    """The graph that is made, and what the file's tensors are by name."""

    model: OnnxModel
    values: dict[str, str] = field(default_factory=dict)  # integer tensor -> value of the graph
    reals: dict[str, Pending] = field(default_factory=dict)  # float tensor -> what it stands for
    constants: dict[str, Constant] = field(default_factory=dict)
    wide: dict[tuple[str, int, int], str] = field(default_factory=dict)  # values that are there more than once
    series: bool = False

    def _input(self, name: str, shape: tuple[int, ...]) -> Input:
        """An input with the scale and zero point by which it is read first."""
        dtype = self.model.input_dtypes()[name]
        if math.prod(shape) > MOST_NUMBERS:
            raise GraphError(f"ONNX input '{name}': {math.prod(shape):,} numbers a window; at most {MOST_NUMBERS:,}")
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
        if isinstance(real, Real):
            type_ = self.types[real.value]
            made = TensorType("float32", type_.shape)
            return self.add(self._free(name), "dequantize", [real.value], made, {"scale": type_.scale})
        what = "is a sum that nothing quantizes" if isinstance(real, Sum) else "is no value of the integer network"
        raise GraphError(f"ONNX output '{name}' {what}: put a QuantizeLinear (and a DequantizeLinear) behind it")

    def _scale(self, proto: Proto, index: int) -> float:
        """A scale for all of a tensor: a positive float32 number."""
        found = np.asarray(self.model.constant(proto, index), np.float32)
        if found.size != 1:
            raise node_error(proto, f"has {found.size} scales for activations; one is known")
        return self._positive(proto, found).item()

    def _positive(self, proto: Proto, scale: Array) -> Floats:
        made = np.asarray(scale, np.float32).ravel()
        if not (np.isfinite(made).all() and (made > 0).all()):
            raise node_error(proto, f"has a scale of {made.min():g}; scales are finite and above 0")
        return made

    def _zero_point(self, proto: Proto, index: int) -> int:
        if index >= len(proto.input) or not proto.input[index]:
            return 0
        found = self.model.constant(proto, index)
        if found.size != 1 or found.dtype.kind not in "iu":
            raise node_error(
                proto, f"has {found.size} zero points of {found.dtype} for activations; one integer is known"
            )
        return int(found.reshape(()))

    def _dtype(self, proto: Proto, index: int) -> str:
        """The type of the integers that a zero point stands for; without one they are unsigned, as ONNX says."""
        if index >= len(proto.input) or not proto.input[index]:
            code = attributes_of(proto).get("output_dtype", 0)
            name = {0: "uint8", onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.INT8: "int8"}.get(code, "")
        else:
            name = self.model.constant(proto, index).dtype.name
        if name not in BYTES:
            raise node_error(proto, f"makes integers of type {name or 'that is not known'}; int8 and uint8 are known")
        return name

    def _type(self, proto: Proto, scale_at: int) -> TensorType:
        """The type of what is quantized by the scale at an input, and the zero point behind it; no shape yet."""
        dtype = self._dtype(proto, scale_at + 1)
        return TensorType(dtype, (), self._scale(proto, scale_at), self._zero_point(proto, scale_at + 1))

    def _read(self, proto: Proto, index: int, scale_at: int | None = None) -> str:
        """The graph's value behind an integer tensor; where it is read with a scale, with the one it was made with."""
        name = proto.input[index]
        if name not in self.values:
            raise node_error(proto, f"input {index} ('{name}') is no integer value of the network")
        value = self.values[name]
        if scale_at is not None:
            type_ = self.types[value]
            found = self._scale(proto, scale_at), self._zero_point(proto, scale_at + 1)
            if found != (type_.scale, type_.zero_point):
                raise node_error(
                    proto,
                    f"reads '{value}' with scale {found[0]:g} and zero point {found[1]}, and it was made with "
                    f"{type_.scale:g} and {type_.zero_point}",
                )
        return value

    def _weight(self, proto: Proto, index: int, scale_at: int, axis: int) -> Constant:
        integers = self.model.constant(proto, index)
        scale = self._positive(proto, self.model.constant(proto, scale_at))
        return self._less_zero_point(proto, integers, scale, scale_at + 1, axis)

    def _less_zero_point(self, proto: Proto, integers: Array, scale: Floats, zero_at: int, axis: int) -> Constant:
        if integers.dtype.name not in CONSTANTS:
            raise node_error(proto, f"reads constants of type {integers.dtype.name}; known: {', '.join(CONSTANTS)}")
        zero = np.zeros(1, np.int64)
        if zero_at < len(proto.input) and proto.input[zero_at]:
            zero = self.model.constant(proto, zero_at).astype(np.int64).ravel()
        axis = axis % max(1, integers.ndim)
        for what, values in (("scales", scale), ("zero points", zero)):
            if values.size not in (1, integers.shape[axis] if integers.ndim else 1):
                raise node_error(proto, f"has {values.size} {what} for weights of shape {integers.shape}")
        shape = [1] * integers.ndim
        if integers.ndim and zero.size > 1:
            shape[axis] = -1
        less = integers.astype(np.int64) - zero.reshape(shape)
        return Constant(less.astype(np.int32), scale, axis)

    def _quantize_linear(self, proto: Proto) -> None:
        self._refuse_blocks(proto)
        name, out = proto.input[0], proto.output[0]
        if name in self.model.constants:
            self._quantize_constant(proto)
            return
        type_ = self._type(proto, 1)
        pending = self.reals.get(name)
        if pending is None:
            if self.types.get(name, TensorType("", ())).dtype != "float32":
                raise node_error(proto, f"quantizes '{name}', which is no value of the network")
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

    def _quantized(self, proto: Proto, pending: Pending, type_: TensorType, out: str) -> str:
        """What a QuantizeLinear makes of a float tensor."""
        if isinstance(pending, Sum):
            return self._requantized(proto, pending, type_, out)
        if isinstance(pending, Added):
            low, high = self._limits(type_, pending.clip)
            scales: dict[str, Attribute] = {
                "left_scale": self.types[pending.left].scale, "right_scale": self.types[pending.right].scale,
                "low": low, "high": high,
            }  # fmt: skip
            return self.add(out, "add_float", [pending.left, pending.right], type_, scales)
        if isinstance(pending, Joined):
            values = [
                self._quantized(proto, part, type_, self.model.free(f"{out}/part{at}"))
                for at, part in enumerate(pending.parts)
            ]
            return self._joined(values, out)
        if isinstance(pending, Real) and same_meaning(self.types[pending.value], type_):
            return pending.value
        results = pending.results if isinstance(pending, Function) else self._meanings(pending.value)
        return self._table(proto, pending.value, results, type_, out)

    def _requantized(self, proto: Proto, sums: Sum, type_: TensorType, out: str) -> str:
        low, high = self._limits(type_, sums.clip)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            ratio = (sums.step / np.float32(type_.scale)).astype(np.float32)
        if not (np.isfinite(ratio).all() and (ratio > 0).all()):
            raise node_error(proto, f"its scales give the factors {ratio.min():g} .. {ratio.max():g}, beyond float32")
        multiplier, shift = as_ratio(ratio)
        channels = self.types[sums.value].shape[0]
        bias = np.zeros(channels, np.int32) if sums.bias is None else sums.bias
        constants = {
            "bias": bias,
            "multiplier": np.broadcast_to(multiplier, (channels,)).copy(),
            "shift": np.broadcast_to(shift, (channels,)).copy(),
        }
        if int(shift.max(initial=0)) > 127 or int(shift.min(initial=0)) < -31:
            raise node_error(proto, "its scales differ by more than a requantization can hold")
        attributes: dict[str, Attribute] = {
            "low": low, "high": high, "rounding": "nearest_even", "bias_before_multiply": True
        }  # fmt: skip
        if not sums.flat:
            return self.add(out, "requantize", [sums.value], type_, attributes, constants=constants)
        made = self.add(
            self.model.free(f"{out}/pictures"), "requantize", [sums.value], type_, attributes, constants=constants
        )
        return self.add(out, "flatten", [made], self.types[made])

    def _finish(self, proto: Proto, sums: Sum, scale_at: int) -> None:
        out = proto.output[0]
        self.values[out] = self._requantized(proto, sums, self._type(proto, scale_at), out)

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
            raise node_error(proto, "quantizes what is no number")
        low, high = LIMITS[type_.dtype]
        entries = np.clip(levels.astype(np.float64) + type_.zero_point, low, high).astype(type_.dtype)
        return self.add(out, "table", [value], type_, constants={"entries": entries})

    def _refuse_blocks(self, proto: Proto) -> None:
        if attributes_of(proto).get("block_size", 0):
            raise node_error(proto, "has a scale for each block; one for all, or one for each output, is known")

    def _dequantize_linear(self, proto: Proto) -> None:
        self._refuse_blocks(proto)
        name, out = proto.input[0], proto.output[0]
        if name in self.model.constants:
            axis = int(attributes_of(proto).get("axis", 1))
            self.constants[out] = self._weight(proto, 0, 1, axis)
            return
        self.reals[out] = Real(self._read(proto, 0, 1))

    def _real(self, proto: Proto, index: int) -> str:
        """The byte behind a float tensor."""
        found = self.reals.get(proto.input[index])
        if isinstance(found, Real):
            return found.value
        raise node_error(proto, f"reads '{proto.input[index]}', which nothing quantizes before it")

    def _moved(self, proto: Proto, move: Callable[[str, str], str]) -> None:
        """What keeps the bytes' meaning, on an integer tensor or on one that was dequantized."""
        name, out = proto.input[0], proto.output[0]
        if name in self.values:
            self.values[out] = move(out, self.values[name])
            return
        found = self.reals.get(name)
        if isinstance(found, Real):
            self.reals[out] = Real(
                move(self.model.free(f"{out}/bytes") if out in self._output_names() else out, found.value)
            )
            return
        if isinstance(found, Sum) and not found.flat and self._flattens(proto, found):
            self.reals[out] = replace(found, flat=True)
            return
        raise node_error(proto, f"reads '{name}', which nothing quantizes before it")

    def _flattens(self, proto: Proto, sums: Sum) -> bool:
        """Whether a move leaves one row of features of a sum, which may be quantized before it as well as behind."""
        if proto.op_type == "Flatten":
            return int(attributes_of(proto).get("axis", 1)) == 1
        return proto.op_type in ("Squeeze", "Reshape") and self.types[sums.value].shape[1:] == (1, 1)

    def _free(self, name: str) -> str:
        """The name, or one like it that no value has."""
        while name in self.types:
            name += "_"
        return name

    def _output_names(self) -> set[str]:
        return {one.name for one in self.model.outputs()}

    def _joined(self, values: Sequence[str], out: str) -> str:
        if len(values) > MOST_JOINED:  # one after the other, each of which is kept
            raise GraphError(f"ONNX node '{out}' (Concat): joins {len(values)} values; at most {MOST_JOINED} are known")
        types = [self.types[value] for value in values]
        if any(not same_meaning(types[0], other) for other in types):
            raise GraphError(f"ONNX node '{out}' (Concat): joins integers of different scales; quantize them alike")
        before = values[0]
        for place, other in enumerate(values[1:], 2):
            name = out if place == len(values) else self.model.free(f"{out}/first{place}")
            before = self.add(name, "concat", [before, other], types[0])
        return before
