"""Our own exact ONNX form, read back: sums, and the Add, Mul, Div, Floor, Clip behind them, into integer operations.

Nothing is taken from the exporter's code: operations are found by their shape in the file, and every ONNX node must
belong to one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from flowlab.compiler.import_float import conv_attributes, max_pool_attributes
from flowlab.compiler.import_moves import Taken, is_part_of_take, is_take, read_take, wanted_shape
from flowlab.compiler.infer import infer_shape
from flowlab.compiler.ir import Attribute, Graph, Input, Node, TensorType
from flowlab.compiler.onnx_model import Array, OnnxModel, attributes_of, node_error
from flowlab.errors import GraphError

Proto: TypeAlias = onnx.NodeProto
HALF = 0.5  # what is added before the floor of a machine that rounds half up
LEAST = {-128: "int8", 0: "uint8"}  # what a table adds to make an index of a byte, negated


def import_integer(model: OnnxModel, values: Mapping[str, Any], weight_bits: Mapping[str, Any]) -> Graph:
    """The integer graph of our export.

    Args:
        model: a checked model.
        values: from the metadata: by value name, dtype, scale, zero_point.
        weight_bits: from the metadata: by node name.

    Raises:
        GraphError: naming the ONNX node that fits no operation, or the value that the metadata do not describe.
    """
    return _Importer(model, values, weight_bits).graph()


def _whole(proto: Proto, array: Array, dtype: str) -> NDArray[Any]:
    """Integers that lie in a float tensor."""
    wide = np.asarray(array, np.float64)
    limits = np.iinfo(dtype)
    if not (np.isfinite(wide).all() and (wide == np.floor(wide)).all()):
        raise node_error(proto, "its numbers are not integers")
    if wide.size and (wide.min() < limits.min or wide.max() > limits.max):
        raise node_error(proto, f"its numbers {wide.min():g} .. {wide.max():g} do not fit {dtype}")
    return wide.astype(dtype)


def _bits(proto: Proto, found: object) -> int:
    if type(found) is not int:
        raise node_error(proto, f"the metadata give it {found!r} weight bits")
    return found


def _shift(proto: Proto, divisor: Array) -> NDArray[np.int32]:
    fraction, exponent = np.frexp(np.asarray(divisor, np.float64).ravel())
    if not (fraction == 0.5).all():
        raise node_error(proto, "divides by a number that is no power of two")
    return (exponent - 1).astype(np.int32)


@dataclass
class _Importer:
    model: OnnxModel
    values: Mapping[str, Any]
    weight_bits: Mapping[str, Any]
    nodes: list[Node] = field(default_factory=list)
    types: dict[str, TensorType] = field(default_factory=dict)

    def graph(self) -> Graph:
        inputs = tuple(Input(name, TensorType("float32", shape)) for name, shape in self.model.inputs().items())
        self.types = {value.name: value.type for value in inputs}
        for proto in self.model.nodes:
            getattr(self, f"_{proto.op_type.lower()}", self._unknown)(proto)
        outputs = {value.name: self._value(value.name) for value in self.model.proto.graph.output}
        self.model.check_all_claimed()
        return Graph(inputs, tuple(self.nodes), outputs)

    def _value(self, output: str) -> str:
        identity = self.model.maker(output, "Identity")
        return self.model.named(output if identity is None else identity.input[0])

    def add(
        self,
        name: str,
        op: str,
        inputs: tuple[str, ...],
        protos: tuple[Proto, ...],
        attributes: Mapping[str, Attribute] | None = None,
        *,
        constants: Mapping[str, Array] | None = None,
        shape: tuple[int, ...] = (),
    ) -> None:
        name = self.model.named(name)
        inputs = tuple(self.model.named(read) for read in inputs)
        found = self.values.get(name)
        if not isinstance(found, dict):
            raise GraphError(f"ONNX value '{name}': the metadata 'flowlab.values' do not say its type")
        try:
            scale, zero_point = float(found.get("scale", 1.0)), int(found.get("zero_point", 0))
        except (TypeError, ValueError):
            raise GraphError(f"ONNX value '{name}': scale or zero point in the metadata is no number") from None
        for read in inputs:
            if read not in self.types:
                raise node_error(protos[-1], f"reads '{read}', which is no value of the integer network")
        node = Node(name, op, inputs, TensorType(str(found.get("dtype")), shape), attributes or {}, constants or {})
        shape = infer_shape(node, tuple(self.types[read] for read in inputs))
        made = Node(
            name, op, inputs, TensorType(node.type.dtype, shape, scale, zero_point), node.attributes, node.constants
        )
        self.nodes.append(made)
        self.types[name] = made.type
        self.model.claim(protos)

    def _unknown(self, proto: Proto) -> None:
        raise node_error(proto, "is no operation of the exact integer form")

    def _part(self, proto: Proto) -> None:
        """Read as part of a later node, which claims it."""

    _mul_part = _div = _floor = _cast = _pad = _part

    # --- sums -----------------------------------------------------------------------------------

    def _sum(self, proto: Proto, op: str, weight: Array, attributes: dict[str, Attribute]) -> None:
        """A single convolution or product; the parts of a split one wait for the last addition."""
        cast = self.model.reader(proto.output[0], "Cast")
        protos: tuple[Proto, ...] = (proto,)
        name = proto.output[0]
        if cast is not None:
            if self._double_sum(self.model.reader(cast.output[0], "Add")):
                return
            protos, name = (proto, cast), cast.output[0]
        self._add_sum(name, op, proto, protos, weight=weight, attributes=attributes)

    def _add_sum(
        self,
        name: str,
        op: str,
        first: Proto,
        protos: tuple[Proto, ...],
        *,
        weight: Array,
        attributes: dict[str, Attribute],
    ) -> None:
        bits = self.weight_bits.get(self.model.named(name))
        if bits is not None:
            attributes["weight_bits"] = _bits(first, bits)
        self.add(name, op, (first.input[0],), protos, attributes, constants={"weight": _whole(first, weight, "int8")})

    def _double_sum(self, proto: Proto | None) -> bool:
        """Whether this adds two values: parts of a split sum, in double."""
        return proto is not None and self.model.split(proto) is None

    def _conv(self, proto: Proto) -> None:
        if len(proto.input) > 2:
            raise node_error(proto, "has a bias; in the exact form it stands in the Add behind it")
        weight = self.model.constant(proto, 1)
        self._sum(proto, "conv", weight, conv_attributes(proto, weight, self._shape_of(proto)))

    def _shape_of(self, proto: Proto) -> tuple[int, ...]:
        read = self.model.named(proto.input[0])
        if read not in self.types:
            raise node_error(proto, f"reads '{read}', which is no value of the integer network")
        return self.types[read].shape

    def _gemm(self, proto: Proto) -> None:
        found = attributes_of(proto)
        plain = (found.get("alpha", 1.0), found.get("beta", 1.0), found.get("transA", 0)) == (1.0, 1.0, 0)
        if len(proto.input) > 2 or not plain:
            raise node_error(proto, "is no plain product of the exact form")
        weight = self.model.constant(proto, 1)
        self._sum(proto, "linear", weight if found.get("transB", 0) else weight.T, {})

    def _reducesum(self, proto: Proto) -> None:
        if self.model.constant(proto, 1).tolist() != [2, 3] or not attributes_of(proto).get("keepdims", 1):
            raise node_error(proto, "is no sum over height and width")
        self._plain_sum(proto, "sum_pool", (proto.input[0],))

    def _plain_sum(self, proto: Proto, op: str, inputs: tuple[str, ...]) -> None:
        cast = self.model.reader(proto.output[0], "Cast")
        if cast is None:
            self.add(proto.output[0], op, inputs, (proto,))
        else:
            self.add(cast.output[0], op, inputs, (proto, cast))

    def _add(self, proto: Proto) -> None:
        if self.model.split(proto) is not None:
            return  # the bias of a requantization, which claims it
        if all(self.model.named(name) in self.types for name in proto.input):
            self._plain_sum(proto, "add", tuple(proto.input))
        elif not self._double_sum(self.model.reader(proto.output[0], "Add")):
            self._split_sum(proto)

    def _split_sum(self, last: Proto) -> None:
        protos: list[Proto] = []
        sums: list[Proto] = []
        waiting = [last]
        while waiting:
            proto = waiting.pop()
            protos.append(proto)
            if proto.op_type in ("Conv", "Gemm"):
                sums.append(proto)
                continue
            makers = [self.model.maker(name, "Add", "Cast", "Conv", "Gemm") for name in proto.input]
            if None in makers:
                raise node_error(proto, "adds what is no part of a split sum")
            waiting += [maker for maker in makers if maker is not None]
        first = sums[-1]
        alike = {(proto.op_type, proto.input[0], proto.attribute.__str__()) for proto in sums}
        if len(alike) != 1:
            raise node_error(last, "adds sums of different kinds")
        weight = np.sum([self.model.constant(proto, 1).astype(np.float64) for proto in sums], axis=0)
        attributes: dict[str, Attribute] = {}
        if first.op_type == "Conv":
            attributes = conv_attributes(first, weight, self._shape_of(first))
        elif not attributes_of(first).get("transB", 0):
            weight = weight.T
        op = "conv" if first.op_type == "Conv" else "linear"
        self._add_sum(last.output[0], op, first, tuple(protos), weight=weight, attributes=attributes)

    # --- what follows a sum -----------------------------------------------------------------------

    def _back(self, value: str, op_type: str) -> tuple[Proto, str, Array] | None:
        """The node that makes a value from another value and constants, and both."""
        proto = self.model.maker(value, op_type)
        parts = self.model.split(proto) if proto is not None else None
        return None if proto is None or parts is None else (proto, *parts)

    def _clip(self, proto: Proto) -> None:
        """The end of a requantization or of the input's quantization; or the clip that stops a fusion."""
        floor = self.model.maker(proto.input[0], "Floor")
        if floor is None:
            return
        half = self._back(floor.input[0], "Add")
        if half is not None and not (half[2].size == 1 and float(half[2].reshape(())) == HALF):
            raise node_error(half[0], "adds something else than half a step behind a division")
        divided = self._back(floor.input[0] if half is None else half[1], "Div")
        if divided is None or divided[0].input[0] != divided[1]:
            raise node_error(proto, "follows no division by a constant")
        cast = self.model.reader(proto.output[0], "Cast")
        ends = (proto,) if cast is None else (proto, cast)
        whole = self.model.maker(divided[1], "Floor")
        multiplied = self._back(divided[1] if whole is None else whole.input[0], "Mul")
        if multiplied is None:
            raise node_error(proto, "follows no multiplication by a constant")
        stop = self.model.maker(multiplied[1], "Clip")
        if stop is not None:
            self._check_stop(stop)
        added = self._back(multiplied[1] if stop is None else stop.input[0], "Add")
        if added is None:
            raise node_error(proto, "follows no addition of a constant")
        name = ends[-1].output[0]
        low, high = (int(_whole(proto, self.model.constant(proto, index), "int32").reshape(())) for index in (1, 2))
        protos = tuple(
            each
            for each in (added[0], stop, multiplied[0], whole, divided[0], half and half[0], floor, *ends)
            if each is not None
        )
        attributes: dict[str, Attribute] = {"low": low, "high": high}
        constants: dict[str, Array] = {
            "bias": self._channels(added[0], added[2]),
            "multiplier": _whole(multiplied[0], self._channels(multiplied[0], multiplied[2]), "int32"),
            "shift": _shift(divided[0], divided[2]),
        }
        if whole is not None:
            if half is not None:
                raise node_error(half[0], "adds half a step to the input's quantization, which floors")
            constants["bias"] = constants["bias"].astype(np.float32)
            self.add(name, "quantize", (added[1],), protos, attributes, constants=constants)
            return
        constants["bias"] = _whole(added[0], constants["bias"], "int32")
        attributes |= {"rounding": "floor" if half is None else "half_up", "bias_before_multiply": True}
        self.add(name, "requantize", (added[1],), protos, attributes, constants=constants)

    def _channels(self, proto: Proto, array: Array) -> Array:
        """One number a channel: shape (1, channel, 1, ...)."""
        if array.ndim < 2 or array.size != array.shape[1]:
            raise node_error(
                proto, f"its constant has shape {array.shape}; (1, channel, 1, 1) or (1, feature) is known"
            )
        return array.ravel()

    def _check_stop(self, stop: Proto) -> None:
        low, high = (float(self.model.constant(stop, index).reshape(())) for index in (1, 2))
        if (low, high) != (-math.ldexp(1, 24), math.ldexp(1, 24)):
            raise node_error(
                stop, f"clips to {low:g} .. {high:g} before the multiplication; only 24 bits change nothing"
            )

    # --- the others -------------------------------------------------------------------------------

    def _mul(self, proto: Proto) -> None:
        if all(self.model.named(name) in self.types for name in proto.input):
            self._plain_sum(proto, "multiply", tuple(proto.input))
            return
        if self.model.reader(proto.output[0], "Div", "Floor") is not None:
            return  # of a requantization or quantization, which claims it
        parts = self.model.split(proto)
        if self.model.reader(proto.output[0], "Add") is not None:
            raise node_error(proto, "is of a layer with a float bias, which no program has; quantize without float_ops")
        if parts is None or parts[1].size != 1:
            raise node_error(proto, "multiplies by no single constant")
        self.add(proto.output[0], "dequantize", (parts[0],), (proto,), {"scale": float(parts[1].reshape(()))})

    def _maxpool(self, proto: Proto) -> None:
        attributes = max_pool_attributes(proto, self._shape_of(proto))
        self.add(proto.output[0], "max_pool", (proto.input[0],), (proto,), attributes)

    def _flatten(self, proto: Proto) -> None:
        if is_part_of_take(self.model, proto):
            return
        if attributes_of(proto).get("axis", 1) != 1:
            raise node_error(proto, "keeps more than the batch")
        self.add(proto.output[0], "flatten", (proto.input[0],), (proto,))

    def _concat(self, proto: Proto) -> None:
        if attributes_of(proto).get("axis") != 1 or len(proto.input) != 2:
            raise node_error(proto, "joins no two values along their first axis")
        self.add(proto.output[0], "concat", tuple(proto.input), (proto,))

    def _reshape(self, proto: Proto) -> None:
        gather = self.model.maker(proto.input[0], "Gather")
        if gather is not None and is_take(self.model, gather):
            self._take(read_take(self.model, gather, proto, self._shape_of))
        else:
            self.add(proto.output[0], "reshape", (proto.input[0],), (proto,), shape=wanted_shape(self.model, proto))

    def _take(self, found: Taken) -> None:
        name, constants = found.protos[-1].output[0], {"index": found.index}
        self.add(name, "take", (found.source,), found.protos, constants=constants, shape=found.shape)

    def _gather(self, proto: Proto) -> None:
        if is_take(self.model, proto):
            if self.model.reader(proto.output[0], "Reshape") is None:
                self._take(read_take(self.model, proto, None, self._shape_of))
            return
        entries = self.model.constant(proto, 0)
        cast = self.model.maker(proto.input[1], "Cast")
        shifted = None if cast is None else self._back(cast.input[0], "Add")
        if cast is None or shifted is None or shifted[2].size != 1 or attributes_of(proto).get("axis", 0) != 0:
            raise node_error(proto, "is no table of 256 entries behind an addition and a cast")
        least = -float(shifted[2].reshape(()))
        read = self.types.get(self.model.named(shifted[1]))
        if read is None or LEAST.get(int(least)) != read.dtype or entries.shape != (256,):
            raise node_error(proto, f"looks up from {least:g} on, which does not fit its input")
        dtype = str(self.values.get(self.model.named(proto.output[0]), {}).get("dtype"))
        if dtype not in LEAST.values():
            raise node_error(proto, f"the metadata give its result the type {dtype}; int8 or uint8 are known")
        constants = {"entries": _whole(proto, entries, dtype)}
        self.add(proto.output[0], "table", (shifted[1],), (shifted[0], cast, proto), constants=constants)

    def _identity(self, proto: Proto) -> None:
        if proto.output[0] not in {value.name for value in self.model.proto.graph.output}:
            raise node_error(proto, "stands within the network; in the exact form it only names an output")
        self.model.claim((proto,))
