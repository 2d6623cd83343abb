"""A network of integers in float tensors, as other tools write it, into an integer graph.

The form is that of vendors' compilers: a convolution of whole numbers, then ``Add``, ``Mul``, ``Div``, ``Floor``,
``Clip`` in whatever spelling (`flowlab.compiler.float_chain`). Nothing but the numbers says what is an integer: weights
are whole, and a chain is proven to give whole bytes. Scales are not in such a file; all are 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from flowlab.compiler import exact_float
from flowlab.compiler.float_chain import Chain, as_requantization, whole_range
from flowlab.compiler.growing import Growing
from flowlab.compiler.import_float import conv_attributes, max_pool_attributes
from flowlab.compiler.import_moves import is_part_of_take, is_take, read_take, wanted_shape
from flowlab.compiler.intervals import BYTES, intervals_of
from flowlab.compiler.ir import Attribute, Graph, Input, TensorType
from flowlab.compiler.onnx_model import Array, OnnxModel, attributes_of, clip_limits, node_error, node_name
from flowlab.compiler.ops import LIMITS
from flowlab.errors import GraphError

Proto: TypeAlias = onnx.NodeProto
ROUNDS = ("Floor", "Round")
PIECEWISE = ("Add", "Sub", "Mul", "Div", "Floor", "Round", "Clip", "Relu", "Cast", "Min", "Max")
ENDS = ("Clip", "Relu", "Min", "Max", "Cast")  # may stand behind the clip of a requantization, as part of it
DOUBLE = onnx.TensorProto.DOUBLE
CASTS = (onnx.TensorProto.FLOAT, DOUBLE)
INDICES = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
MOST_STEPS, MOST_CHANNELS, MOST_JOINED = 64, 4096, 64  # in a row, that a proof looks at, and in one Concat


def rounds(model: OnnxModel) -> bool:
    """Whether a file has operations that round: it is no float network."""
    return any(node.op_type in ROUNDS for node in model.nodes)


def import_chains(model: OnnxModel) -> Graph:
    """The integer graph of a checked model; values keep their ONNX names, and all scales are 1.

    Raises:
        GraphError: naming the ONNX node whose numbers are no integers, or that no integer operation equals.
    """
    return _Importer(model).graph()


@dataclass(frozen=True, eq=False)
class _Pending:
    """A tensor that elementwise operations made of a value: a sum, bytes, or the network's float input."""

    source: str
    chain: Chain
    last: Proto
    steps: tuple[Proto, ...]


@dataclass
class _Importer(Growing):
    model: OnnxModel
    pending: dict[str, _Pending] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    inputs: tuple[Input, ...] = ()

    def graph(self) -> Graph:
        if any(dtype != "float32" for dtype in self.model.input_dtypes().values()):
            raise GraphError("ONNX file: takes integers, and computes with floats; give QLinear or QDQ operations")
        self.inputs = tuple(Input(name, TensorType("float32", shape)) for name, shape in self.model.inputs().items())
        self.types = {value.name: value.type for value in self.inputs}
        for proto in self.model.nodes:
            handler = _HANDLERS.get(proto.op_type)
            if handler is None:
                known = ", ".join(sorted(_HANDLERS))
                raise node_error(proto, f"is no operation of a network of integers. Known: {known}")
            handler(self, proto)
        outputs = {one.name: self._output(one.name) for one in self.model.outputs()}
        return Graph(self.inputs, tuple(self.nodes), outputs)

    def _output(self, name: str) -> str:
        """A value of bytes; or bytes times one constant, which are floats."""
        name = self._renamed(name)
        found = self.pending.get(name)
        steps = [] if found is None else [step.op_type for step in found.steps]
        if found is not None and self.types[found.source].dtype in BYTES and steps == ["Mul"]:
            scale = {float(one) for one in found.chain.slope}
            if len(scale) == 1 and min(scale) > 0:
                made = TensorType("float32", self.types[found.source].shape)
                return self.add(name, "dequantize", [found.source], made, {"scale": scale.pop()})
        return self._bytes(name)

    def _renamed(self, name: str) -> str:
        while name in self.same:
            name = self.same[name]
        return name

    # --- values --------------------------------------------------------------------------------------

    def _bytes(self, name: str, reader: Proto | None = None) -> str:
        """The graph's value of bytes behind a tensor; what was pending becomes one."""
        name = self._renamed(name)
        if self.types.get(name, TensorType("", ())).dtype in BYTES:
            return name
        found = self.pending.get(name)
        if found is None:
            where = f"ONNX output '{name}'" if reader is None else f"ONNX node '{node_name(reader)}' ({reader.op_type})"
            what = "no value of the network"
            if name in self.types:
                what = "a float that nothing makes an integer: put Floor, and Clip to -128 .. 127, behind it"
            raise GraphError(f"{where}: '{name}' is {what}")
        kind = self.types[found.source].dtype
        make = {"int32": self._requantized, "float32": self._quantized}.get(kind, self._table)
        del self.pending[name]
        return make(name, found)

    def _requantized(self, name: str, found: _Pending) -> str:
        if found.chain.channels > MOST_CHANNELS:
            raise node_error(found.last, f"has {found.chain.channels:,} channels; at most {MOST_CHANNELS:,} are proven")
        values = {found.source: found.source}
        least, most = intervals_of(Graph(self.inputs, tuple(self.nodes), values))[found.source]
        made = as_requantization(found.chain, least, most)
        if made is None:
            raise node_error(found.last, self._why_not(found, least, most))
        attributes: dict[str, Attribute] = {
            "low": made.low, "high": made.high, "rounding": made.rounding,
            "bias_before_multiply": made.bias_before_multiply,
        }  # fmt: skip
        constants = {"bias": made.bias, "multiplier": made.multiplier, "shift": made.shift}
        type_ = TensorType("uint8" if made.low >= 0 else "int8", ())
        return self.add(name, "requantize", [found.source], type_, attributes, constants=constants)

    def _why_not(self, found: _Pending, least: Array, most: Array) -> str:
        ends = found.chain.at(np.stack([least, most], axis=1))
        if whole_range(found.chain, least, most) is None:
            return (
                f"its results, {ends.min():g} .. {ends.max():g}, are no whole numbers of 8 bits. "
                "Round them (Floor), and Clip them to 0 .. 255 or -128 .. 127"
            )
        if not found.chain.rounding:
            return "nothing rounds what it makes of a sum"
        if min(found.chain.slope) < 0:
            return "multiplies a sum by a number below 0"
        return (
            "no bias, multiplier of 31 bits and shift give what these floats give for every sum of "
            f"{int(least.min())} .. {int(most.max())}. Divide by a power of two, and add whole numbers before that"
        )

    def _table(self, name: str, found: _Pending) -> str:
        """Any function of a byte."""
        source = self.types[found.source]
        numbers = np.arange(256, dtype=np.int64) + BYTES[source.dtype]
        results = found.chain.at(np.broadcast_to(numbers, (found.chain.channels, 256)))
        if (results != results[:1]).any():
            raise node_error(found.last, "has another constant for each channel of bytes; one for all is known")
        levels = results[0]
        if not np.isfinite(levels).all() or (levels != np.floor(levels)).any():
            raise node_error(found.last, "makes of bytes what are no whole numbers")
        low, high = int(levels.min()), int(levels.max())
        dtype = "uint8" if (low >= 0 and high > 127) or (low >= 0 and source.dtype == "uint8") else "int8"
        if low < LIMITS[dtype][0] or high > LIMITS[dtype][1]:
            raise node_error(found.last, f"makes of bytes {low} .. {high}, which are none")
        return self.add(
            name, "table", [found.source], TensorType(dtype, ()), constants={"entries": levels.astype(dtype)}
        )

    def _quantized(self, name: str, found: _Pending) -> str:
        """The network's float input, by the one form that there is: add, multiply, floor, shift, floor, clip."""
        constants = _input_step(self.model, found)
        if constants is None:
            raise node_error(
                found.last, "is no quantization of the input that is known: Add, Mul by whole numbers, Floor, Div by "
                "a power of two, Floor, Clip to -128 .. 127"
            )  # fmt: skip
        channels = self.types[found.source].shape[0]
        low, high = found.chain.limits
        if not (-128 <= low <= high <= 127 and low == math.floor(low) and high == math.floor(high)):
            raise node_error(
                found.last, f"clips the input to {low:g} .. {high:g}; whole numbers of -128 .. 127 are known"
            )
        arrays = {key: np.broadcast_to(value, (channels,)).copy() for key, value in constants.items()}
        limits: dict[str, Attribute] = {"low": int(low), "high": int(high)}
        return self.add(name, "quantize", [found.source], TensorType("int8", ()), limits, constants=arrays)

    # --- elementwise ---------------------------------------------------------------------------------

    def _chain_of(self, name: str, proto: Proto) -> _Pending | None:
        """What is pending at a tensor; a value of the graph with nothing done to it yet.

        What is rounded and clipped to bytes already is a value of the graph, unless it is clipped once more.
        """
        name = self._renamed(name)
        found = self.pending.get(name)
        if found is not None and proto.op_type not in ENDS and _is_complete(found.chain):
            name = self._bytes(name, proto)
        elif found is not None:
            return found
        if name in self.types:
            return _Pending(name, Chain.start(self.types[name].shape[0]), onnx.NodeProto(), ())
        return None

    def _piecewise(self, proto: Proto) -> None:
        parts = self.model.split(proto) if len(proto.input) == 2 else None
        if proto.op_type in ("Add", "Mul") and parts is None:
            self._of_two(proto)
            return
        found = self._chain_of(proto.input[0] if parts is None else parts[0], proto)
        if found is None:
            raise node_error(proto, f"reads '{proto.input[0]}', which is no value of the network")
        if len(found.steps) >= MOST_STEPS:
            raise node_error(proto, f"is one of more than {MOST_STEPS} elementwise operations in a row")
        swapped = parts is not None and parts[0] != proto.input[0]
        constant = None if parts is None else self._a_channel(proto, parts[1], found)
        chain = self._stepped(proto, found.chain, constant, swapped=swapped)
        self.pending[proto.output[0]] = _Pending(found.source, chain, proto, (*found.steps, proto))

    def _stepped(self, proto: Proto, chain: Chain, constant: Array | None, *, swapped: bool) -> Chain:
        op = proto.op_type
        if op in ("Sub", "Div") and swapped:
            raise node_error(proto, "has the network's value second; it is known first")
        if op in ("Add", "Sub", "Mul", "Div"):
            if constant is None or not np.isfinite(constant).all():
                raise node_error(proto, "has no constant of finite numbers")
            if op in ("Add", "Sub"):
                return chain.added(constant if op == "Add" else -constant)
            if op == "Div" and (constant == 0).any():
                raise node_error(proto, "divides by 0")
            return chain.scaled(constant, divides=op == "Div")
        if op in ROUNDS:
            return chain.rounded("floor" if op == "Floor" else "even")
        if op == "Cast":
            to = int(attributes_of(proto).get("to", 0))
            if to in INDICES and self.model.reader(proto.output[0], "Gather") is not None:
                return chain.then(np.trunc)
            if to not in CASTS:
                raise node_error(proto, "casts to what is neither a float nor the index of a Gather behind it")
            wide = np.float64 if to == DOUBLE else np.float32
            first = not any(chain.offset) and not chain.rounding  # the sum itself
            return chain.then(lambda value: value.astype(wide), dtype=wide if first else chain.dtype)
        return chain.clipped(*self._limits(proto, constant))

    def _limits(self, proto: Proto, constant: Array | None) -> tuple[float, float]:
        if proto.op_type == "Relu":
            return 0.0, math.inf
        if proto.op_type in ("Min", "Max"):
            if constant is None or constant.size != 1:
                raise node_error(proto, "compares with no single constant")
            limit = float(constant.reshape(()))
            return (-math.inf, limit) if proto.op_type == "Min" else (limit, math.inf)
        return clip_limits(self.model, proto)

    def _a_channel(self, proto: Proto, constant: Array, found: _Pending) -> Array:
        """One number for all, or one a channel: (1, channel, 1, 1), (channel, 1, 1) or (1, feature), (feature,)."""
        shape = self.types[found.source].shape
        if constant.size == 1:
            return constant.ravel()
        wanted = (shape[0], *(1,) * (len(shape) - 1))
        if constant.shape in (wanted, (1, *wanted)):
            return constant.ravel()
        raise node_error(proto, f"its constant has shape {constant.shape}; one number, or {(1, *wanted)}, is known")

    def _of_two(self, proto: Proto) -> None:
        """A sum or product of two values of bytes."""
        left, right = (self._bytes(name, proto) for name in proto.input)
        op = "add" if proto.op_type == "Add" else "multiply"
        one, other = self.types[left].shape, self.types[right].shape
        if op == "multiply" and one != other and one[1:] == (1,) * (len(one) - 1):
            left, right = right, left
        self.add(proto.output[0], op, [left, right], TensorType("int32", ()))

    # --- sums ----------------------------------------------------------------------------------------

    def _conv(self, proto: Proto) -> None:
        source = self._bytes(proto.input[0], proto)
        weight = self.model.constant(proto, 1)
        self._summed(proto, "conv", source, weight, conv_attributes(proto, weight, self.types[source].shape))

    def _gemm(self, proto: Proto) -> None:
        found = attributes_of(proto)
        if (found.get("alpha", 1.0), found.get("beta", 1.0), found.get("transA", 0)) != (1.0, 1.0, 0):
            raise node_error(proto, "transposes its input, or scales; use a plain linear layer")
        weight = self.model.constant(proto, 1)
        self._linear(proto, weight if found.get("transB", 0) else weight.T)

    def _matmul(self, proto: Proto) -> None:
        self._linear(proto, self.model.constant(proto, 1).T)

    def _linear(self, proto: Proto, weight: Array) -> None:
        source = self._bytes(proto.input[0], proto)
        self._summed(proto, "linear", source, weight, {})

    def _summed(self, proto: Proto, op: str, source: str, weight: Array, attributes: dict[str, Attribute]) -> None:
        """A sum of products, and its bias as the first addition behind it."""
        out = proto.output[0]
        integers = self._weights(proto, weight)
        largest = exact_float.largest_magnitude(self.types[source])
        bound = int(exact_float.magnitude_sums(integers, largest).max(initial=0))
        if bound >= exact_float.LIMIT:
            raise node_error(proto, f"its sums of up to {bound:,} are not exact in float32, so that their order counts")
        biased = len(proto.input) > 2 and bool(proto.input[2])
        name = self.model.free(f"{out}/sum") if biased else out
        self.add(name, op, [source], TensorType("int32", ()), attributes, constants={"weight": integers})
        if biased:
            bias = self.model.constant(proto, 2).ravel()
            if bias.size != integers.shape[0] or not np.isfinite(bias).all():
                raise node_error(proto, f"has {bias.size} biases for {integers.shape[0]} outputs")
            self.pending[out] = _Pending(name, Chain.start(len(bias)).added(bias), proto, (proto,))

    def _weights(self, proto: Proto, weight: Array) -> NDArray[np.int8]:
        wide = np.asarray(weight, np.float64)
        if not np.isfinite(wide).all() or (wide != np.floor(wide)).any():
            raise node_error(proto, "its weights are no integers, in a network that rounds: quantize all of its layers")
        if wide.size and (wide.min() < -128 or wide.max() > 127):
            raise node_error(proto, f"its weights {wide.min():g} .. {wide.max():g} do not fit 8 bits")
        return wide.astype(np.int8)

    def _reduce_sum(self, proto: Proto) -> None:
        found = attributes_of(proto)
        axes = self.model.constant(proto, 1) if len(proto.input) > 1 else np.asarray(found.get("axes", ()))
        if sorted(int(axis) % 4 for axis in axes.ravel()) != [2, 3] or not found.get("keepdims", 1):
            raise node_error(proto, f"sums axes {axes.tolist()}; height and width with keepdims=1 are known")
        self.add(proto.output[0], "sum_pool", [self._bytes(proto.input[0], proto)], TensorType("int32", ()))

    def _mean(self, proto: Proto) -> None:
        """A mean over height and width: the sum, divided by their product."""
        if proto.op_type == "ReduceMean":
            found = attributes_of(proto)
            axes = self.model.axes(proto)
            if sorted(axis % 4 for axis in axes) != [2, 3] or not found.get("keepdims", 1):
                raise node_error(proto, f"averages axes {axes}; height and width with keepdims=1 are known")
        source = self._bytes(proto.input[0], proto)
        name = self.add(self.model.free(f"{proto.output[0]}/sum"), "sum_pool", [source], TensorType("int32", ()))
        _, height, width = self.types[source].shape
        chain = Chain.start(self.types[name].shape[0], height * width)
        self.pending[proto.output[0]] = _Pending(name, chain, proto, (proto,))

    def _average_pool(self, proto: Proto) -> None:
        found, source = attributes_of(proto), self._bytes(proto.input[0], proto)
        channels = self.types[source].shape[0]
        kernel = tuple(int(one) for one in found.get("kernel_shape", ()))
        if len(kernel) != 2 or min(kernel) < 1:
            raise node_error(proto, f"attribute 'kernel_shape' is {kernel}; two integers above 0 are needed")
        ones = np.ones((channels, 1, *kernel), np.int8)
        attributes = {**conv_attributes(proto, ones, self.types[source].shape), "groups": channels}
        padded = any(attributes["padding"])  # type: ignore[arg-type]
        if found.get("ceil_mode", 0) or (padded and not found.get("count_include_pad", 0)):
            raise node_error(proto, "counts fewer places at the border; use no padding, or count_include_pad=1")
        constants = {"weight": ones}
        sums = TensorType("int32", ())
        name = self.add(
            self.model.free(f"{proto.output[0]}/sum"), "conv", [source], sums, attributes, constants=constants
        )
        self.pending[proto.output[0]] = _Pending(name, Chain.start(channels, math.prod(kernel)), proto, (proto,))

    # --- moves ---------------------------------------------------------------------------------------

    def _kept(self, proto: Proto, op: str, attributes: Mapping[str, Attribute] | None = None) -> None:
        source = self._bytes(proto.input[0], proto)
        self.add(proto.output[0], op, [source], self.types[source], attributes)

    def _max_pool(self, proto: Proto) -> None:
        source = self._bytes(proto.input[0], proto)
        self._kept(proto, "max_pool", max_pool_attributes(proto, self.types[source].shape))

    def _flatten(self, proto: Proto) -> None:
        if is_part_of_take(self.model, proto):
            return
        if attributes_of(proto).get("axis", 1) != 1:
            raise node_error(proto, "keeps more than the batch. Use axis 1")
        self._kept(proto, "flatten")

    def _reshape(self, proto: Proto) -> None:
        gather = self.model.maker(proto.input[0], "Gather")
        if gather is not None and is_take(self.model, gather):
            self._taken(proto, gather, proto)
            return
        source = self._bytes(proto.input[0], proto)
        shape, wanted = self.types[source].shape, [int(one) for one in self.model.constant(proto, 1).ravel()]
        if len(wanted) == 2 and wanted[1] in (-1, math.prod(shape)):
            self._kept(proto, "flatten")
            return
        made = replace(self.types[source], shape=wanted_shape(self.model, proto))
        self.add(proto.output[0], "reshape", [source], made)

    def _gather(self, proto: Proto) -> None:
        if proto.input[0] in self.model.constants:
            self._looked_up(proto)
            return
        if not is_take(self.model, proto):
            raise node_error(proto, "takes along an axis; slices and permutations of flat values are known")
        if self.model.reader(proto.output[0], "Reshape") is None:
            self._taken(proto, proto, None)

    def _looked_up(self, proto: Proto) -> None:
        """Bytes, or what was made of them, as places in a row of constants."""
        entries, found = self.model.constant(proto, 0), self._chain_of(proto.input[1], proto)
        if found is None or entries.ndim != 1 or not entries.size or attributes_of(proto).get("axis", 0) != 0:
            raise node_error(proto, "looks up in no row of constants")

        if self.types[found.source].dtype not in BYTES:  # a proof takes for granted that a sum's function never falls
            source = self._bytes(proto.input[1], proto)
            found = _Pending(source, Chain.start(self.types[source].shape[0]), proto, ())

        def step(value: Array) -> Array:
            return entries[np.clip(value, -len(entries), len(entries) - 1).astype(np.int64)].astype(value.dtype)

        self.pending[proto.output[0]] = _Pending(found.source, found.chain.then(step), proto, (*found.steps, proto))

    def _taken(self, proto: Proto, gather: Proto, reshape: Proto | None) -> None:
        found = read_take(self.model, gather, reshape, lambda one: self.types[self._bytes(one.input[0], one)].shape)
        source = self._bytes(found.source, proto)
        made = replace(self.types[source], shape=found.shape)
        self.add(proto.output[0], "take", [source], made, constants={"index": found.index})

    def _pad(self, proto: Proto) -> None:
        """Part of a take."""
        if self.model.reader(proto.output[0], "Gather") is None:
            raise node_error(proto, "pads; give the convolution or the pool behind it the padding")

    def _concat(self, proto: Proto) -> None:
        values = [self._bytes(name, proto) for name in proto.input]
        rank = len(self.types[values[0]].shape) + 1
        if attributes_of(proto).get("axis") not in (1, 1 - rank) or not 2 <= len(values) <= MOST_JOINED:
            raise node_error(proto, f"joins along another axis than the channels, or more than {MOST_JOINED} values")
        kinds = {self.types[value].dtype for value in values}
        if len(kinds) > 1:
            raise node_error(proto, "joins signed and unsigned bytes; clip all of them to one range")
        before = values[0]
        for place, other in enumerate(values[1:], 2):
            name = proto.output[0] if place == len(values) else self.model.free(f"{proto.output[0]}/first{place}")
            before = self.add(name, "concat", [before, other], self.types[before])

    def _squeeze(self, proto: Proto) -> None:
        source = self._bytes(proto.input[0], proto)
        if self.types[source].shape[1:] != (1, 1):
            raise node_error(proto, "leaves more than (batch, features)")
        self._kept(proto, "flatten")

    def _alias(self, proto: Proto) -> None:
        self.same[proto.output[0]] = proto.input[0]


def _is_complete(chain: Chain) -> bool:
    low, high = chain.limits
    return bool(chain.rounding) and -128 <= low <= high and high <= (255 if low >= 0 else 127)


def _input_step(model: OnnxModel, found: _Pending) -> dict[str, Array] | None:
    """Bias, multiplier and shift of an input's chain, where it is Add?, Mul?, Floor?, Div?, Floor, Clip."""
    order = ["Add", "Mul", "Floor", "Div", "Floor", "Clip"]
    numbers: dict[str, Array] = {"Add": np.zeros(1), "Mul": np.ones(1), "Div": np.ones(1)}
    seen: list[str] = []
    at = 0
    for proto in found.steps:
        while at < len(order) and order[at] != proto.op_type:
            at += 1
        if at == len(order):
            return None
        seen.append(proto.op_type)
        at += 1
        parts = model.split(proto)
        if proto.op_type in numbers and parts is not None:
            numbers[proto.op_type] = parts[1].astype(np.float64).ravel()
    fraction, exponent = np.frexp(numbers["Div"])
    whole = (numbers["Mul"] == np.floor(numbers["Mul"])).all() and np.abs(numbers["Mul"]).max() <= 2**24
    shifts = (fraction == 0.5).all() and exponent.min() >= 1 and exponent.max() <= 32
    if seen[-2:] != ["Floor", "Clip"] or not whole or not shifts:
        return None
    return {
        "bias": numbers["Add"].astype(np.float32),
        "multiplier": numbers["Mul"].astype(np.int32),
        "shift": (exponent - 1).astype(np.int32),
    }


_HANDLERS: Mapping[str, Callable[[_Importer, Proto], Any]] = {
    **dict.fromkeys(PIECEWISE, _Importer._piecewise),
    "Conv": _Importer._conv,
    "Gemm": _Importer._gemm,
    "MatMul": _Importer._matmul,
    "ReduceSum": _Importer._reduce_sum,
    "ReduceMean": _Importer._mean,
    "GlobalAveragePool": _Importer._mean,
    "AveragePool": _Importer._average_pool,
    "MaxPool": _Importer._max_pool,
    "Flatten": _Importer._flatten,
    "Reshape": _Importer._reshape,
    "Gather": _Importer._gather,
    "Pad": _Importer._pad,
    "Concat": _Importer._concat,
    "Squeeze": _Importer._squeeze,
    "Identity": _Importer._alias,
    "Dropout": _Importer._alias,
}
