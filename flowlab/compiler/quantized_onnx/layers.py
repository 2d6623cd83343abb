"""Sums of products and what stands between them, by the names of their ONNX operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray

from flowlab.compiler.intervals import BYTES
from flowlab.compiler.ir import Attribute, Graph, TensorType
from flowlab.compiler.onnx_model import Array, attributes_of, clip_limits, node_error
from flowlab.compiler.ops import LIMITS
from flowlab.compiler.quantized_onnx.meaning import (
    UNARY,
    UNBOUNDED,
    Added,
    Constant,
    Floats,
    Function,
    Pending,
    Proto,
    Real,
    Sum,
    narrowed,
    turned,
)  # fmt: skip
from flowlab.compiler.quantized_onnx.moves import Moves
from flowlab.compiler.quantized_onnx.windows import Windows


class Importer(Windows, Moves):
    """A whole file."""

    def graph(self) -> Graph:
        """The graph. Raises as `flowlab.compiler.import_quantized.import_quantized`."""
        inputs = tuple(self._input(name, shape) for name, shape in self.model.inputs().items())
        self.types = {value.name: value.type for value in inputs}
        for value in inputs:
            if value.type.dtype != "float32":
                self.values[value.name] = value.name
        for proto in self.model.nodes:
            handler = HANDLERS.get(proto.op_type)
            if proto.op_type in UNARY:
                self._unary(proto, lambda x, proto=proto: UNARY[proto.op_type](x, attributes_of(proto)))  # type: ignore[misc]
            elif handler is None:
                known = ", ".join(sorted({*HANDLERS, *UNARY}))
                raise node_error(proto, f"has no integer meaning here. Known: {known}")
            else:
                handler(self, proto)
        outputs = {one.name: self._output(one.name) for one in self.model.outputs()}
        return Graph(inputs, tuple(self.nodes), outputs)

    def _qlinear_conv(self, proto: Proto) -> None:
        weight = self._weight(proto, 3, 4, 0)
        bias = self.model.constant(proto, 8) if len(proto.input) > 8 and proto.input[8] else None
        self._finish(proto, self._conv_of(proto, self._read(proto, 0, 1), weight, bias), 6)

    def _qlinear_matmul(self, proto: Proto) -> None:
        weight = self._weight(proto, 3, 4, -1)
        turned = Constant(weight.integers.T, weight.scale, 0)
        self._finish(proto, self._linear_of(proto, self._read(proto, 0, 1), turned, None), 6)

    def _qgemm(self, proto: Proto) -> None:
        found = attributes_of(proto)
        if found.get("transA", 0) or found.get("alpha", 1.0) != 1.0:
            raise node_error(proto, "transposes its input, or scales")
        if len(proto.input) < 9:
            raise node_error(proto, "gives floats; a network's sums are quantized")
        weight = self._weight(proto, 3, 4, 0 if found.get("transB", 0) else 1)
        if not found.get("transB", 0):
            weight = Constant(weight.integers.T, weight.scale, 0)
        bias = self.model.constant(proto, 6) if proto.input[6] else None
        self._finish(proto, self._linear_of(proto, self._read(proto, 0, 1), weight, bias), 7)

    def _conv_integer(self, proto: Proto) -> None:
        weight = self._integer_weight(proto, 0)
        sums = self._conv_of(proto, self._integer_read(proto), weight, None, proto.output[0])
        self.values[proto.output[0]] = sums.value

    def _matmul_integer(self, proto: Proto) -> None:
        weight = self._integer_weight(proto, -1)
        turned = Constant(weight.integers.T, weight.scale, 0)
        sums = self._linear_of(proto, self._integer_read(proto), turned, None, proto.output[0])
        self.values[proto.output[0]] = sums.value

    def _integer_weight(self, proto: Proto, axis: int) -> Constant:
        return self._less_zero_point(proto, self.model.constant(proto, 1), np.ones(1, np.float32), 3, axis)

    def _integer_read(self, proto: Proto) -> str:
        value, zero = self._read(proto, 0), self._zero_point(proto, 2)
        if self.types[value].zero_point != zero:
            raise node_error(proto, f"reads with zero point {zero} what was made with {self.types[value].zero_point}")
        return value

    def _conv(self, proto: Proto) -> None:
        weight = self._dequantized(proto, 1)
        self.reals[proto.output[0]] = self._conv_of(proto, self._real(proto, 0), weight, self._bias(proto))

    def _gemm(self, proto: Proto) -> None:
        found = attributes_of(proto)
        if found.get("transA", 0) or found.get("alpha", 1.0) != 1.0 or found.get("beta", 1.0) != 1.0:
            raise node_error(proto, "transposes its input, or scales; use a plain linear layer")
        weight = self._dequantized(proto, 1)
        if not found.get("transB", 0):
            weight = turned(weight)
        self.reals[proto.output[0]] = self._linear_of(proto, self._real(proto, 0), weight, self._bias(proto))

    def _matmul(self, proto: Proto) -> None:
        weight = turned(self._dequantized(proto, 1))
        self.reals[proto.output[0]] = self._linear_of(proto, self._real(proto, 0), weight, None)

    def _dequantized(self, proto: Proto, index: int) -> Constant:
        name = proto.input[index]
        if name not in self.constants:
            raise node_error(proto, f"its weights ('{name}') are no quantized constants: a DequantizeLinear makes them")
        return self.constants[name]

    def _bias(self, proto: Proto) -> Array | Constant | None:
        if len(proto.input) < 3 or not proto.input[2]:
            return None
        name = proto.input[2]
        if name in self.constants:
            return self.constants[name]
        return np.asarray(self.model.constant(proto, 2), np.float32)

    def _conv_of(
        self, proto: Proto, value: str, weight: Constant, bias: Array | Constant | None, name: str = ""
    ) -> Sum:
        integers = weight.integers
        integers = integers[..., None] if self.series and integers.ndim == 3 else integers
        if integers.ndim != 4:
            raise node_error(proto, f"is no 2-D convolution: its weight has shape {integers.shape}")
        attributes = self._window(proto, integers.shape[2:], self.types[value].shape, dilates=True)
        attributes["groups"] = int(attributes_of(proto).get("group", 1))
        return self._sum_of(
            proto, "conv", value, replace(weight, integers=integers), bias, attributes=attributes, name=name
        )

    def _linear_of(
        self, proto: Proto, value: str, weight: Constant, bias: Array | Constant | None, name: str = ""
    ) -> Sum:
        if weight.integers.ndim != 2 or len(self.types[value].shape) != 1:
            raise node_error(
                proto, f"multiplies {self.types[value].shape} by weights of shape {weight.integers.T.shape}; a vector "
                "of features by a matrix is known"
            )  # fmt: skip
        return self._sum_of(proto, "linear", value, weight, bias, attributes={}, name=name)

    def _sum_of(
        self,
        proto: Proto,
        op: str,
        value: str,
        weight: Constant,
        bias: Array | Constant | None,
        *,
        attributes: dict[str, Attribute],
        name: str,
    ) -> Sum:
        outputs = weight.integers.shape[0]
        if weight.scale.size not in (1, outputs) or (weight.scale.size > 1 and weight.axis != 0):
            raise node_error(proto, "its weights have a scale for each input; one for each output is known")
        step = (np.float32(self.types[value].scale) * weight.scale).astype(np.float32)
        value, integers = self._in_bytes(proto, op, value, weight.integers, int(str(attributes.get("groups", 1))))
        name = name or self.model.free(f"{proto.output[0]}/sum")
        scale = float(step[0]) if step.size == 1 else 0.0
        self.add(name, op, [value], TensorType("int32", (), scale), attributes, constants={"weight": integers})
        steps = np.broadcast_to(step, (outputs,)).astype(np.float32)
        return Sum(name, steps, self._integer_bias(proto, bias, steps))

    def _in_bytes(
        self, proto: Proto, op: str, value: str, weight: NDArray[np.int32], groups: int
    ) -> tuple[str, NDArray[np.int8]]:
        """Weights as int8; those of 9 bits as several that are added, over an input that is there as often."""
        if weight.size and (weight.min() < -256 or weight.max() > 255):
            said = f"its weights, {weight.min()} .. {weight.max()} less their zero point, need 10 bits"
            raise node_error(proto, said)
        parts = [np.clip(weight, -128, 127)]
        while (rest := weight - sum(parts)).any():
            parts.append(np.clip(rest, -128, 127))
        return self._repeated(value, groups, len(parts)), np.concatenate(parts, axis=1).astype(np.int8)

    def _repeated(self, value: str, groups: int, times: int) -> str:
        """A value with each group of its channels (or its features) repeated behind itself."""
        key = (value, groups, times)
        if times > 1 and key not in self.wide:
            type_ = self.types[value]
            places = np.arange(math.prod(type_.shape), dtype=np.int32).reshape(groups, -1)
            index = np.concatenate([places] * times, axis=1).ravel()
            made = replace(type_, shape=(times * type_.shape[0], *type_.shape[1:]))
            name = self.model.free(f"{value}/times{times}" + (f".{groups}" if groups > 1 else ""))
            self.wide[key] = self.add(name, "take", [value], made, constants={"index": index})
        return self.wide.get(key, value)

    def _integer_bias(self, proto: Proto, bias: Array | Constant | None, step: Floats) -> Array | None:
        """The bias in the sum's own steps; a float one, or one of other steps, rounded to them."""
        if bias is None:
            return None
        if isinstance(bias, Constant):
            same = bias.scale.size in (1, step.size) and np.allclose(bias.scale, step, rtol=1e-5, atol=0)
            whole = bias.integers.astype(np.float64).ravel() if same else np.rint(bias.real().ravel() / step)
        elif bias.dtype.kind in "iu":
            whole = bias.astype(np.float64).ravel()
        else:
            whole = np.rint(bias.astype(np.float64).ravel() / step)
        if whole.size not in (1, step.size) or not np.isfinite(whole).all() or np.abs(whole).max(initial=0) >= 2**31:
            raise node_error(proto, f"its bias of {whole.size} numbers does not fit {step.size} sums of 32 bits")
        return np.broadcast_to(whole, step.shape).astype(np.int32)

    def _unary(self, proto: Proto, function: Callable[[Floats], Array]) -> None:
        name, out = proto.input[0], proto.output[0]
        if name in self.values and self.types[self.values[name]].dtype not in BYTES:
            raise node_error(proto, f"reads '{name}', a sum that nothing quantizes")
        if name in self.values and proto.op_type == "Relu":  # of integers, whatever they mean
            value = self.values[name]
            type_ = self.types[value]
            entries = np.maximum(np.arange(256) + BYTES[type_.dtype], 0).astype(type_.dtype)
            self.values[out] = self.add(out, "table", [value], type_, constants={"entries": entries})
            return
        pending = self.reals.get(name)
        if isinstance(pending, (Sum, Added)) and proto.op_type == "Relu":
            self.reals[out] = replace(pending, clip=narrowed(pending.clip, (0.0, math.inf)))
        elif isinstance(pending, (Real, Function)):
            results = pending.results if isinstance(pending, Function) else self._meanings(pending.value)
            with np.errstate(over="ignore", invalid="ignore"):
                made = np.asarray(function(results), np.float32)
            self.reals[out] = Function(pending.value, made, proto)
        else:
            raise node_error(proto, f"reads '{name}', which nothing quantizes before it")

    def _clip(self, proto: Proto) -> None:
        name, out = proto.input[0], proto.output[0]
        limits = clip_limits(self.model, proto)
        if name in self.model.constants:  # narrower weights, as they lie in wider integers
            constant = self.model.constants[name]
            self.model.constants[out] = np.clip(constant, limits[0], limits[1]).astype(constant.dtype)
            return
        if name in self.values and self.types[self.values[name]].dtype in BYTES:
            self.values[out] = self._clipped(name, out, limits)
            return
        pending = self.reals.get(name)
        if isinstance(pending, (Sum, Added)):
            self.reals[out] = replace(pending, clip=narrowed(pending.clip, (limits[0], limits[1])))
        else:
            self._unary(proto, lambda x: np.clip(x, np.float32(limits[0]), np.float32(limits[1])))

    def _clipped(self, name: str, out: str, limits: Sequence[float]) -> str:
        """Integers in a narrower range: that of what makes them, where nothing else reads them; else by a table."""
        value = self.values[name]
        type_, made = self.types[value], self.nodes[-1] if self.nodes else None
        least, most = LIMITS[type_.dtype]
        low, high = (int(min(max(limit, least), most)) for limit in limits)
        names = sum(known == value for known in self.values.values())  # others may read it unclipped
        names += sum(isinstance(real, Real) and real.value == value for real in self.reals.values())
        alone = len(self.model.readers.get(name, [])) == 1 and name not in self._output_names() and names == 1
        if made is not None and made.name == value and "low" in made.attributes and alone:
            kept = [min(max(int(str(made.attributes[key])), low), high) for key in ("low", "high")]
            self.nodes[-1] = made.with_attributes(low=kept[0], high=kept[1])
            return value
        entries = np.clip(np.arange(256) + BYTES[type_.dtype], low, high).astype(type_.dtype)
        return self.add(out, "table", [value], type_, constants={"entries": entries})

    def _qlinear_leaky_relu(self, proto: Proto) -> None:
        alpha = np.float32(attributes_of(proto).get("alpha", 0.01))
        self._qlinear_table(proto, lambda x: np.where(x >= 0, x, x * alpha))

    def _qlinear_sigmoid(self, proto: Proto) -> None:
        self._qlinear_table(proto, lambda x: UNARY["Sigmoid"](x, {}))

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
        if isinstance(pending, Sum) and (constant in self.constants or constant in self.model.constants):
            if pending.bias is not None or pending.clip != UNBOUNDED:
                raise node_error(proto, "adds to a sum that has a bias already")
            bias = self.constants.get(constant, None)
            added = np.asarray(self.model.constants[constant], np.float32) if bias is None else bias
            self._check_a_channel(proto, pending, added.shape if bias is None else bias.integers.shape)  # type: ignore[union-attr]
            self.reals[proto.output[0]] = replace(pending, bias=self._integer_bias(proto, added, pending.step))
            return
        self.reals[proto.output[0]] = self._sum_of_two(proto, self._real(proto, 0), self._real(proto, 1))

    def _check_a_channel(self, proto: Proto, sums: Sum, shape: tuple[int, ...]) -> None:
        """A constant that is added to a sum: one number a channel, or a feature."""
        channels, rank = self.types[sums.value].shape[0], len(self.types[sums.value].shape)
        ones = (1,) * (0 if rank == 1 else rank - 2 if self.series else rank - 1)
        if shape not in ((channels, *ones), (1, channels, *ones)):
            raise node_error(
                proto, f"adds a constant of shape {shape} to {channels} sums; {(1, channels, *ones)} is known"
            )

    def _sum_of_two(self, proto: Proto, left: str, right: str) -> Pending:
        if self.types[left].shape != self.types[right].shape:
            raise node_error(
                proto, f"adds {self.types[left].shape} and {self.types[right].shape}; equal shapes are known"
            )
        return Added(left, right)

    def _qlinear_mul(self, proto: Proto) -> None:
        self._finish(proto, self._product(proto, self._read(proto, 0, 1), self._read(proto, 3, 4)), 6)

    def _mul(self, proto: Proto) -> None:
        found = [self.reals.get(name) for name in proto.input]
        constant = next((name for name in proto.input if name in self.model.constants), None)
        if constant is not None and self.model.constants[constant].size == 1:
            factor = np.float32(self.model.constants[constant].reshape(()))
            other = proto.input[0] if constant == proto.input[1] else proto.input[1]
            if isinstance(self.reals.get(other), (Real, Function)):
                turned = onnx.helper.make_node("Mul", [other], list(proto.output), name=proto.name)
                self._unary(turned, lambda x: x * factor)
                return
        if isinstance(found[0], Function) and isinstance(found[1], Real) and found[0].value == found[1].value:
            found = found[::-1]
        if isinstance(found[0], Real) and isinstance(found[1], Function) and found[0].value == found[1].value:
            results = self._meanings(found[0].value) * found[1].results  # x * sigmoid(x)
            self.reals[proto.output[0]] = Function(found[0].value, results, proto)
            return
        self.reals[proto.output[0]] = self._product(proto, self._real(proto, 0), self._real(proto, 1))

    def _product(self, proto: Proto, left: str, right: str) -> Sum:
        if self.types[left].shape != self.types[right].shape and self.types[left].shape[1:] == (1, 1):
            left, right = right, left
        one, other = self.types[left], self.types[right]
        name = self.add(
            self.model.free(f"{proto.output[0]}/product"),
            "multiply",
            [left, right],
            TensorType("int32", (), one.scale * other.scale),
        )
        step = np.float32(one.scale) * np.float32(other.scale)
        return Sum(name, np.full(self.types[name].shape[0], step, np.float32))

    def _dynamic(self, proto: Proto) -> None:
        raise node_error(proto, "finds its scale in each input; a microcontroller needs one that is fixed: quantize "
                     "statically, with calibration data")  # fmt: skip


HANDLERS: Mapping[str, Callable[[Importer, Proto], None]] = {
    "QuantizeLinear": Importer._quantize_linear,
    "DequantizeLinear": Importer._dequantize_linear,
    "DynamicQuantizeLinear": Importer._dynamic,
    "QLinearConv": Importer._qlinear_conv,
    "QLinearMatMul": Importer._qlinear_matmul,
    "QGemm": Importer._qgemm,
    "ConvInteger": Importer._conv_integer,
    "MatMulInteger": Importer._matmul_integer,
    "QLinearAdd": Importer._qlinear_add,
    "QLinearMul": Importer._qlinear_mul,
    "QLinearConcat": Importer._qlinear_concat,
    "QLinearGlobalAveragePool": Importer._qlinear_global_average,
    "QLinearAveragePool": Importer._qlinear_average_pool,
    "QLinearLeakyRelu": Importer._qlinear_leaky_relu,
    "QLinearSigmoid": Importer._qlinear_sigmoid,
    "Conv": Importer._conv,
    "Gemm": Importer._gemm,
    "MatMul": Importer._matmul,
    "Add": Importer._add,
    "Mul": Importer._mul,
    "Clip": Importer._clip,
    "MaxPool": Importer._max_pool,
    "GlobalAveragePool": Importer._global_average,
    "AveragePool": Importer._average_pool,
    "ReduceMean": Importer._reduce_mean,
    "Flatten": Importer._flatten,
    "Reshape": Importer._reshape,
    "Squeeze": Importer._squeeze,
    "Transpose": Importer._transpose,
    "Unsqueeze": Importer._unsqueeze,
    "Slice": Importer._slice,
    "GlobalMaxPool": Importer._global_max_pool,
    "Concat": Importer._concat,
    "Pad": Importer._pad,
    "Identity": Importer._identity,
    "Dropout": Importer._identity,
}
