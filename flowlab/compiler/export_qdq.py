"""Write an integer graph as ONNX in QDQ form, for speed in runtimes that have integer kernels.

Every value is quantized (``QuantizeLinear``) and meant (``DequantizeLinear``) around float operations, which a runtime
replaces by its own integer kernels. Those round in their own way, so this file is *near* the exact form of
`flowlab.compiler.export_onnx` and no law covers it; `flowlab.compiler.run_qdq` counts the differences.

* All integers of 8 bits lie in uint8, those of int8 with a zero point of 128: kernels want one type on both sides of a
  layer. Weights of 8 bits too: kernels for int8 weights saturate on processors without 8-bit dot products where two
  products exceed 16 bits, those for uint8 never.
* Weights of 4 and 2 bits are packed, two or four in a byte, and unpacked by operations on constants, which a runtime
  does once, when it loads the file. Unpacked they are int8 of at most `SAFE`, of which no two products exceed 16 bits,
  so the faster kernels are right everywhere.
* Biases are int32, as integer kernels want them, and lose half a unit of the sums of those large weights. Where there
  is no integer kernel (activations narrower than their type) a bias is a float32 ``Add`` that loses nothing: a runtime
  turns one in the layer itself into int32. No rounding offset is in a bias: ``QuantizeLinear`` rounds by itself.
* The input step to 8 bits is a sum and a ``QuantizeLinear``: the exact step floors, and the same half a step lower
  rounds. It misses the exact step by one where a value lies within `NEAR` below the next integer.
* Series, whose width is 1, are laid along the width: kernels gather (1, k) in one stretch, and are up to twice as fast.
* Constants that are equal are one, and only layers have names: in small networks names are half of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from flowlab.compiler.infer import dilation_of, integer, integers
from flowlab.compiler.ir import Graph, Node, TensorType
from flowlab.compiler.ops import LIMITS
from flowlab.errors import GraphError

OPSET = 18  # the first with bitwise operations
IR_VERSION = 8  # the one that came with it
HALF = 0.5  # of a unit of a sum: makes a tie none
SNAPPED = 2.0**-8  # the most by which a multiplier of 8 bits misses a ratio
NEAR = 2.0**-15  # of a step of the input; what float32 adds is less
ZERO = {"int8": 128, "uint8": 0}  # where 0 lies in uint8
TIES_UP = 1 - 2.0**-14  # of a step: sums without a bias are often ties, which go up as in the exact form
BYTE = 8  # bits
PACKING = 300  # bytes that unpacking takes in the file: weights that save fewer stay bytes
SAFE = 64  # 2 * 255 * 64 is less than 2^15

Array = NDArray[Any]


def export_qdq(graph: Graph, metadata: Mapping[str, str] | None = None) -> bytes:
    """The graph as the bytes of an ONNX model; equal graphs give equal bytes.

    Inputs, outputs and what they mean are those of the exact form: integers in float tensors where the graph's output
    is integers.

    Args:
        graph: verified; integers between a float input and one output.
        metadata: texts for the model's metadata.

    Raises:
        GraphError: naming the node that has no QDQ form.
    """
    writer = _Writer(graph, turned=_is_series(graph))
    for node in graph.nodes:
        write = _WRITERS.get(node.op)
        if write is None:
            raise GraphError(f"{node.name}: '{node.op}' has no QDQ form. Known: {', '.join(sorted(_WRITERS))}")
        write(writer, node)
    outputs = []
    for name, value in graph.outputs.items():
        node = graph.node(value)
        if node.op == "dequantize":
            scale = np.float32(str(node.attributes["scale"]))
            writer.meant(node.inputs[0], scale, name)
        elif node.type.dtype == "float32":
            raise GraphError(f"{value}: an output of '{node.op}' has no QDQ form")
        else:
            writer.meant(value, np.float32(1), name)
        outputs.append(_value_info(name, graph.type_of(value)))
    inputs = [_value_info(one.name, one.type) for one in graph.inputs]
    body = helper.make_graph(writer.nodes, "flowlab", inputs, outputs, initializer=writer.initializers)
    model = helper.make_model(
        body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="flowlab"
    )
    helper.set_model_props(model, {"flowlab.form": "qdq", **(metadata or {})})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _is_series(graph: Graph) -> bool:
    """Whether every plane has a width of 1 and no layer reads across it; none is an output."""
    shapes = [*(one.type.shape for one in graph.inputs), *(one.type.shape for one in graph.nodes)]
    planes = [shape for shape in shapes if len(shape) == 3]
    return (
        bool(planes)
        and all(shape[2] == 1 for shape in planes)
        and all(len(graph.type_of(value).shape) == 1 for value in graph.outputs.values())
        and all(_along(node) for node in graph.nodes)
    )


def _along(node: Node) -> bool:
    if node.op not in ("conv", "max_pool"):
        return True
    width = node.constants["weight"].shape[3] if node.op == "conv" else integers(node, "kernel", 2)[1]
    _, left, _, right = integers(node, "padding", 4)
    return width == 1 and left == 0 and right == 0


def _value_info(name: str, type_: TensorType) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *type_.shape])


@dataclass
class _Writer:
    """``whole`` and ``real``: by value of the graph, the tensor of its integers and the one of what they mean.

    ``turned``: height and width have changed places behind the input step.
    """

    graph: Graph
    turned: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    whole: dict[str, str] = field(default_factory=dict)
    real: dict[str, str] = field(default_factory=dict)
    known: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)

    def op(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], **attributes))
        return output

    def constant(self, value: Any) -> str:
        """The name of an initializer of this value; equal ones are one."""
        array = np.ascontiguousarray(value)
        array = array.reshape(np.shape(value))  # a scalar stays one
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.known:
            self.known[key] = f"c{len(self.known)}"
            self.initializers.append(numpy_helper.from_array(array, self.known[key]))
        return self.known[key]

    def zero(self, value: str) -> int:
        """Where 0 lies in the bytes of a value's integers."""
        return ZERO[self.graph.type_of(value).dtype]

    def meant(self, value: str, scale: np.float32, output: str) -> str:
        """A value's integers times a scale."""
        zero = self.constant(np.uint8(self.zero(value)))
        return self.op("DequantizeLinear", [self.whole[value], self.constant(scale), zero], output)

    def real_of(self, value: str) -> str:
        """The tensor of a value's real numbers; the graph's input is one."""
        if value not in self.whole:
            return value
        if value not in self.real:
            self.real[value] = self.meant(value, np.float32(self.graph.type_of(value).scale), f"{value}/r")
        return self.real[value]

    def plane(self, height_width: tuple[int, ...]) -> list[int]:
        """(h, w) or (top, left, bottom, right) as the file has it."""
        if not self.turned:
            return list(height_width)
        return [one for at in range(0, len(height_width), 2) for one in reversed(height_width[at : at + 2])]

    def accumulator(self, node: Node) -> Node:
        """The node whose sums a requantization reads."""
        return self.graph.node(node.inputs[0])

    def quantized(self, node: Node, value: str, scale: Array | np.float32) -> None:
        """``value`` divided by ``scale`` and rounded: the node's integers. One scale, or one a channel."""
        zero = np.full(np.shape(scale), ZERO[node.type.dtype], np.uint8)
        read = [value, self.constant(np.asarray(scale, np.float32)), self.constant(zero)]
        self.whole[node.name] = self.op("QuantizeLinear", read, node.name, **({"axis": 1} if np.ndim(scale) else {}))

    def per_channel(self, value: str, steps: NDArray[np.float64], zeros: Array | None, output: str) -> str:
        """What a constant means, with one scale for each output channel."""
        read = [value, self.constant(steps.astype(np.float32)), *([] if zeros is None else [self.constant(zeros)])]
        return self.op("DequantizeLinear", read, output, axis=0)

    def narrow(self, node: Node) -> bool:
        """Whether the node's limits are narrower than its type."""
        return (integer(node, "low"), integer(node, "high")) != LIMITS[node.type.dtype]

    def clipped(self, node: Node, value: str, scale: float) -> str:
        """``value`` within the node's limits, where they are narrower than its type."""
        if not self.narrow(node):
            return value
        bounds = [self.constant(np.float32(integer(node, key) * scale)) for key in ("low", "high")]
        return self.op("Clip", [value, *bounds], f"{node.name}/c")


def _write_quantize(writer: _Writer, node: Node) -> None:
    """The input step, and behind it the turn."""
    _input_step(writer, node)
    if writer.turned:
        writer.whole[node.name] = writer.op("Transpose", [node.name], f"{node.name}/w", perm=[0, 1, 3, 2])


def _input_step(writer: _Writer, node: Node) -> None:
    factor = _ratio(node)
    shape = (-1,) + (1,) * (len(node.type.shape) - 1)

    def apply(op_type: str, value: str, values: NDArray[np.float64], letter: str) -> str:
        constant = writer.constant(values.astype(np.float32).reshape(shape))
        return writer.op(op_type, [value, constant], f"{node.name}/{letter}")

    bias = node.constants["bias"].astype(np.float64)
    if (factor > 0).all() and not writer.narrow(node):
        value, scale = apply("Add", node.inputs[0], bias + (NEAR - HALF) / factor, "a"), 1 / factor
        writer.quantized(node, value, scale[0] if (scale == scale[0]).all() else scale)
        return
    value = apply("Add", node.inputs[0], bias, "a")  # few steps are long ones: none may be missed
    value = apply("Mul", value, node.constants["multiplier"].astype(np.float64), "m")
    value = writer.op("Floor", [value], f"{node.name}/f")
    value = apply("Mul", value, np.exp2(-node.constants["shift"].astype(np.float64)), "d")
    value = writer.op("Floor", [value], f"{node.name}/l")
    writer.quantized(node, writer.clipped(node, value, 1.0), np.float32(1))


def _write_requantize(writer: _Writer, node: Node) -> None:
    """The sums before it, in real numbers, then the quantization of the result."""
    sums = writer.accumulator(node)
    if sums.op not in _SUMS:
        raise GraphError(f"{node.name}: a requantization of '{sums.op}' has no QDQ form. Known: {', '.join(_SUMS)}")
    value = _SUMS[sums.op](writer, sums, node)
    up = TIES_UP if sums.op not in ("conv", "linear") and not writer.narrow(node) else 1.0
    writer.quantized(node, writer.clipped(node, value, node.type.scale), np.float32(node.type.scale * up))


def _ratio(node: Node) -> NDArray[np.float64]:
    """Multiplier / 2^shift of each channel."""
    return np.ldexp(node.constants["multiplier"].astype(np.float64), -node.constants["shift"].astype(np.int64))


def _bias(node: Node) -> NDArray[np.float64]:
    """The bias without the offset that makes the machine's floor round to nearest, in units of the sums.

    Half a unit of the product is added: then no product of whole numbers is a tie, which kernels round as they like.
    """
    multiplier, shift = (node.constants[key].astype(np.float64) for key in ("multiplier", "shift"))
    offset = np.where(shift > 0, (np.exp2(shift - 1) - 0.5) / multiplier, 0.0)
    return np.asarray(node.constants["bias"] - offset)


def _weighted(writer: _Writer, sums: Node, node: Node, op_type: str, **attributes: Any) -> str:
    """A layer with its bias, in real numbers."""
    source = sums.inputs[0]
    scale = writer.graph.type_of(source).scale
    step = _ratio(node) * node.type.scale / scale  # of the weights, one a channel
    weight = sums.constants["weight"]
    if writer.turned and weight.ndim == 4:
        weight = weight.swapaxes(2, 3)
    bits = integer(sums, "weight_bits", BYTE)
    large = 1 if bits == BYTE else SAFE // 2 ** (bits - 1)  # how many times its value a weight is
    zeros = np.full(len(weight), ZERO["int8"], np.uint8) if bits == BYTE else np.zeros(len(weight), np.int8)
    if bits == BYTE or weight.size * (BYTE - bits) < BYTE * PACKING:
        stored = writer.constant((weight.astype(np.int64) * large + zeros[0]).astype(zeros.dtype))
    else:
        stored = _packed(writer, weight, bits, large, sums.name)
    weights = writer.per_channel(stored, step / large, zeros, f"{sums.name}.w/r")
    read = [writer.real_of(source), weights]
    if writer.narrow(node):
        value = writer.op(op_type, read, sums.name, **attributes)
        return _with_bias(writer, sums, node, value, step * scale)
    bias = np.rint(_bias(node) * large)
    if np.abs(bias).max(initial=0) > np.iinfo(np.int32).max:
        raise GraphError(f"{sums.name}: its bias does not fit int32 beside {bits}-bit weights in a byte")
    read.append(
        writer.per_channel(writer.constant(bias.astype(np.int32)), step * scale / large, None, f"{sums.name}.b/r")
    )
    return writer.op(op_type, read, sums.name, **attributes)


def _packed(writer: _Writer, weight: Array, bits: int, large: int, name: str) -> str:
    """Weights of fewer bits, packed, the first lowest; unpacked they are int8, and ``large`` times as large."""
    least, each = -(2 ** (bits - 1)), BYTE // bits
    places = np.arange(0, BYTE, bits)
    padded = np.zeros(-(-weight.size // each) * each, np.int64)
    padded[: weight.size] = weight.ravel().astype(np.int64) - least
    packed = (padded.reshape(-1, each) << places).sum(axis=1).astype(np.uint8)[:, None]
    down = [writer.constant(packed), writer.constant(places.astype(np.uint8))]
    value = writer.op("BitShift", down, f"{name}.w/b", direction="RIGHT")
    value = writer.op("BitwiseAnd", [value, writer.constant(np.uint8(2**bits - 1))], f"{name}.w/m")
    value = writer.op("Cast", [value], f"{name}.w/i", to=TensorProto.INT32)
    table = writer.constant((np.arange(least, -least) * large).astype(np.int8))
    value = writer.op("Gather", [table, value], f"{name}.w/g", axis=0)
    if padded.size != weight.size:
        flat = writer.op("Reshape", [value, writer.constant(np.array([-1]))], f"{name}.w/f")
        ends = [writer.constant(np.array([end])) for end in (0, weight.size)]
        value = writer.op("Slice", [flat, *ends], f"{name}.w/s")
    return writer.op("Reshape", [value, writer.constant(np.array(weight.shape))], f"{name}.w")


def _conv(writer: _Writer, sums: Node, node: Node) -> str:
    return _weighted(
        writer,
        sums,
        node,
        "Conv",
        kernel_shape=writer.plane(sums.constants["weight"].shape[2:]),
        strides=writer.plane(integers(sums, "stride", 2)),
        pads=writer.plane(integers(sums, "padding", 4)),
        group=integer(sums, "groups"),
        dilations=writer.plane(dilation_of(sums)),
    )


def _linear(writer: _Writer, sums: Node, node: Node) -> str:
    return _weighted(writer, sums, node, "Gemm", transB=1)


def _average(writer: _Writer, sums: Node, node: Node) -> str:
    """A sum is an average where the integers mean one: the shift has gone into the scale.

    Where its scale is that of another value too (both are added), its multiplier is the nearest of 8 bits.
    """
    source = writer.graph.type_of(sums.inputs[0])
    wanted = _ratio(node) * node.type.scale * source.shape[1] * source.shape[2]
    if not np.allclose(wanted, source.scale, rtol=SNAPPED) or np.abs(_bias(node)).max() > HALF:
        raise GraphError(f"{node.name}: the integers do not mean an average, so they have no QDQ form")
    average = writer.op("GlobalAveragePool", [writer.real_of(sums.inputs[0])], sums.name)
    if not writer.narrow(node):
        return average  # a tie is one step of many
    return _with_bias(writer, sums, node, average, source.scale / (source.shape[1] * source.shape[2]))


def _pair(writer: _Writer, sums: Node, node: Node) -> str:
    """The sum or the product of two values."""
    value = writer.op(_PAIRS[sums.op], [writer.real_of(one) for one in sums.inputs], sums.name)
    scales = [writer.graph.type_of(one).scale for one in sums.inputs]
    unit = scales[0] if sums.op == "add" else prod(scales)
    if not np.allclose(_ratio(node) * node.type.scale, unit, rtol=1e-5):
        raise GraphError(f"{node.name}: the integers do not mean what '{sums.op}' makes, so they have no QDQ form")
    if np.abs(_bias(node)).max() <= HALF and not writer.narrow(node):
        return value  # a tie is one step of many
    return _with_bias(writer, sums, node, value, unit)


def _with_bias(writer: _Writer, sums: Node, node: Node, value: str, unit: float | Array) -> str:
    """Sums of this unit with their bias, in real numbers."""
    real = (_bias(node) * unit).astype(np.float32).reshape((1, -1) + (1,) * (len(sums.type.shape) - 1))
    return writer.op("Add", [value, writer.constant(real)], f"{sums.name}/b")


_PAIRS = {"add": "Add", "multiply": "Mul"}
_SUMS: dict[str, Callable[[_Writer, Node, Node], str]] = {
    "conv": _conv,
    "linear": _linear,
    "sum_pool": _average,
    "add": _pair,
    "multiply": _pair,
}


def _write_max_pool(writer: _Writer, node: Node) -> None:
    writer.whole[node.name] = writer.op(
        "MaxPool",
        [writer.whole[node.inputs[0]]],
        node.name,
        kernel_shape=writer.plane(integers(node, "kernel", 2)),
        strides=writer.plane(integers(node, "stride", 2)),
        pads=writer.plane(integers(node, "padding", 4)),
    )


def _write_flatten(writer: _Writer, node: Node) -> None:
    writer.whole[node.name] = writer.op("Flatten", [writer.whole[node.inputs[0]]], node.name, axis=1)


def _write_reshape(writer: _Writer, node: Node) -> None:
    writer.whole[node.name] = _reshaped(writer, node, writer.whole[node.inputs[0]])


def _reshaped(writer: _Writer, node: Node, value: str) -> str:
    channels, *plane = node.type.shape
    shape = writer.constant(np.array([0, channels, *writer.plane(tuple(plane))]))  # 0: as many windows
    return writer.op("Reshape", [value, shape], node.name)


def _write_take(writer: _Writer, node: Node) -> None:
    """Flat, with a zero behind the last element where one is taken; gathered; in its shape."""
    source, index = node.inputs[0], node.constants["index"].astype(np.int64)
    count = prod(writer.graph.type_of(source).shape)
    value = writer.op("Flatten", [writer.whole[source]], f"{node.name}/f", axis=1)
    if (index < 0).any():
        zero = writer.constant(np.uint8(writer.zero(source)))
        value = writer.op("Pad", [value, writer.constant(np.array([0, 0, 0, 1])), zero], f"{node.name}/p")
    places = writer.constant(np.where(index < 0, count, index))
    value = writer.op("Gather", [value, places], f"{node.name}/t", axis=1)
    writer.whole[node.name] = _reshaped(writer, node, value)


def _write_concat(writer: _Writer, node: Node) -> None:
    writer.whole[node.name] = writer.op("Concat", [writer.whole[one] for one in node.inputs], node.name, axis=1)


def _write_table(writer: _Writer, node: Node) -> None:
    """Integers to integers, exactly: their bytes are the places in the table."""
    index = writer.op("Cast", [writer.whole[node.inputs[0]]], f"{node.name}/i", to=TensorProto.INT32)
    entries = (node.constants["entries"].astype(np.int64) + ZERO[node.type.dtype]).astype(np.uint8)
    writer.whole[node.name] = writer.op("Gather", [writer.constant(entries), index], node.name, axis=0)


def _later(writer: _Writer, node: Node) -> None:
    """Sums are written where they are requantized, and what an output means with the outputs."""


_WRITERS: dict[str, Callable[[_Writer, Node], None]] = {
    "quantize": _write_quantize,
    "conv": _later,
    "linear": _later,
    "sum_pool": _later,
    "add": _later,
    "multiply": _later,
    "requantize": _write_requantize,
    "max_pool": _write_max_pool,
    "flatten": _write_flatten,
    "reshape": _write_reshape,
    "take": _write_take,
    "concat": _write_concat,
    "table": _write_table,
    "dequantize": _later,
}
