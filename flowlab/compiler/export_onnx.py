"""Write a graph, float or integer, as ONNX that is exact in float32 and has the form that vendors' compilers match.

A layer becomes ``Conv``/``Gemm`` without bias -> ``Add`` (B) -> ``Mul`` (M) -> ``Div`` (2^R) -> ``Floor`` -> ``Clip``.
The last ONNX node of each of the graph's nodes has that node's name, and so has its tensor, unless it is an output of
the graph: then the tensor has the output's name, and where that is another node's, the other's tensor has a suffix
(``fc/value``). What lies between has a suffix too (``fc.bnorm/add``).
The metadata carry what integers in float tensors cannot say: types, scales, widths of weights.

Where float32 is not proven exact, the layer's sums are computed by several convolutions over parts of the fan-in (each
proven), cast to double and added there; the tail (Add ... Clip) is then in double as well, and a last Cast returns.

A layer with a float bias becomes ``Conv``/``Gemm`` -> ``Clip`` (24 bits) -> ``Mul`` -> ``Add`` -> ``Floor`` ->
``Clip``, which is no form of an accelerator.

Metadata keys: ``flowlab.format`` ("1"), ``flowlab.graph`` (the graph's metadata), ``flowlab.values``
(name -> dtype, shape, scale, zero_point), ``flowlab.weight_bits`` (node -> bits), ``flowlab.bounds`` (accumulator ->
the bound of its partial sums, the parts that it is summed in, whether what follows is double); all but the first are
JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from flowlab.compiler import exact_float
from flowlab.compiler.infer import dilation_of
from flowlab.compiler.ir import Graph, Node, TensorType
from flowlab.errors import GraphError

OPSET = 18
IR_VERSION = 8  # the one that came with opset 18
FORMAT = "1"
LEAST = {"int8": -128, "uint8": 0}
REQUANTIZE = ("requantize", "requantize_float")

Array = NDArray[Any]


def export_onnx(graph: Graph, metadata: Mapping[str, str] | None = None) -> bytes:
    """The graph as the bytes of an ONNX model; equal graphs give equal bytes.

    Args:
        graph: a float graph, or an integer graph that a quantizer made; the batch is the first, dynamic dimension.
        metadata: further texts for the model's metadata, besides those of the module's docstring.

    Raises:
        GraphError: if an operation cannot be written, or no exact form exists for a layer; it names the node.
    """
    made = {node.name for node in graph.nodes}
    tensors = {value: name for name, value in list(graph.outputs.items())[::-1] if value in made}
    tensors |= {name: f"{name}/value" for name in graph.outputs if name in made and name not in tensors}
    writer = _Writer(graph, tensors)
    for node in graph.nodes:
        writer.write(node)
    inputs = [_value_info(value.name, value.type) for value in graph.inputs]
    outputs = []
    for name, value in graph.outputs.items():
        if writer.tensors.get(value) != name:  # a value with two names, or an input that is an output
            writer.op("Identity", [value], name)
        outputs.append(_value_info(name, graph.type_of(value)))
    body = helper.make_graph(writer.nodes, "flowlab", inputs, outputs, initializer=writer.initializers)
    model = helper.make_model(
        body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="flowlab"
    )
    helper.set_model_props(model, {**_metadata(graph), **writer.bounds(), **(metadata or {})})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _metadata(graph: Graph) -> dict[str, str]:
    values = {value.name: value.type for value in graph.inputs} | {node.name: node.type for node in graph.nodes}
    types = {
        name: {"dtype": t.dtype, "shape": list(t.shape), "scale": t.scale, "zero_point": t.zero_point}
        for name, t in values.items()
    }
    bits = {node.name: node.attributes["weight_bits"] for node in graph.nodes if "weight_bits" in node.attributes}
    return {
        "flowlab.format": FORMAT,
        "flowlab.graph": json.dumps(dict(graph.metadata), sort_keys=True),
        "flowlab.values": json.dumps(types, sort_keys=True),
        "flowlab.weight_bits": json.dumps(bits, sort_keys=True),
    }


def _value_info(name: str, type_: TensorType) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *type_.shape])


def _is_integer(type_: TensorType) -> bool:
    return type_.dtype != "float32"


def _per_channel(values: Array, rank: int) -> Array:
    """One value a channel, shaped to broadcast over a batch of values of this rank (without batch)."""
    return values.reshape((1, -1) + (1,) * (rank - 1))


@dataclass
class _Writer:
    graph: Graph
    tensors: dict[str, str]  # the graph's outputs: value -> name of the tensor
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    forms: dict[str, exact_float.Form] = field(default_factory=dict)  # by name of the accumulator
    sums: dict[str, int] = field(default_factory=dict)

    def op(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        names = [self.tensors.get(value, value) for value in inputs]
        self.nodes.append(
            helper.make_node(op_type, names, [self.tensors.get(output, output)], name=output, **attributes)
        )
        return output

    def constant(self, name: str, value: Array) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def write(self, node: Node) -> None:
        write = _WRITERS.get(node.op)
        if write is None:
            raise GraphError(
                f"{node.name}: operation '{node.op}' has no ONNX form. Known: {', '.join(sorted(_WRITERS))}"
            )
        write(self, node)

    def input_type(self, node: Node) -> TensorType:
        return self.graph.type_of(node.inputs[0])

    def form_of(self, node: Node, bounds: NDArray[np.int64], parts: int) -> exact_float.Form:
        """The exact form of an accumulating node, chosen with the requantization that reads it."""
        users = self.graph.users(node.name)
        if len(users) != 1 or users[0].op not in REQUANTIZE or node.name in self.graph.outputs.values():
            raise GraphError(f"{node.name}: an accumulator needs exactly one requantize behind it to be exported")
        if users[0].op == "requantize_float":
            form = exact_float.form_of_floats(node.name, bounds, parts)
        else:
            form = exact_float.choose_form(bounds, parts, users[0])
        self.forms[node.name] = form
        self.sums[node.name] = int(bounds.max(initial=0))
        return form

    def bounds(self) -> dict[str, str]:
        """What was proven of each accumulator, as metadata; nothing for a float graph."""
        found = {
            name: {"sum": self.sums[name], "parts": form.parts, "double": form.double}
            for name, form in self.forms.items()
        }
        return {"flowlab.bounds": json.dumps(found, sort_keys=True)} if found else {}


# --- layers: sums ---------------------------------------------------------------------------------


def _conv_attributes(node: Node) -> dict[str, Any]:
    weight = node.constants["weight"]
    return {
        "kernel_shape": list(weight.shape[2:]),
        "strides": list(_ints(node, "stride")),
        "pads": list(_ints(node, "padding")),
        "group": int(str(node.attributes["groups"])),
        "dilations": list(dilation_of(node)),
    }


def _ints(node: Node, attribute: str) -> tuple[int, ...]:
    value = node.attributes[attribute]
    if not isinstance(value, tuple):
        raise GraphError(f"{node.name}: attribute '{attribute}' is {value!r}, not a tuple of whole numbers")
    return value


def _write_conv(writer: _Writer, node: Node) -> None:
    _write_sum(writer, node, "Conv", _conv_attributes(node))


def _write_linear(writer: _Writer, node: Node) -> None:
    _write_sum(writer, node, "Gemm", {"transB": 1})


def _write_sum(writer: _Writer, node: Node, op_type: str, attributes: Mapping[str, Any]) -> None:
    weight = node.constants["weight"]
    source = node.inputs[0]
    if not _is_integer(writer.input_type(node)):
        names = [source, writer.constant(f"{node.name}.weight", weight.astype(np.float32))]
        if "bias" in node.constants:
            names.append(writer.constant(f"{node.name}.bias", node.constants["bias"].astype(np.float32)))
        writer.op(op_type, names, node.name, **attributes)
        return
    largest = exact_float.largest_magnitude(writer.input_type(node))
    parts = exact_float.parts_needed(weight, largest)
    if parts == 0:
        raise GraphError(
            f"{node.name}: sums of up to {exact_float.magnitude_sums(weight, largest).max()} are not exact in float32, "
            f"not even in {exact_float.MAX_PARTS} parts. Use fewer input channels or a smaller kernel."
        )
    form = writer.form_of(node, exact_float.magnitude_sums(weight, largest), parts)
    if form.parts == 1:
        target = f"{node.name}/single" if form.double else node.name
        writer.op(
            op_type, [source, writer.constant(f"{node.name}.weight", weight.astype(np.float32))], target, **attributes
        )
        if form.double:
            writer.op("Cast", [target], node.name, to=TensorProto.DOUBLE)
        return
    total = ""
    for index, piece in enumerate(exact_float.split_weight(weight, form.parts)):
        name = writer.constant(f"{node.name}.weight.part{index}", piece.astype(np.float32))
        single = writer.op(op_type, [source, name], f"{node.name}/part{index}", **attributes)
        double = writer.op("Cast", [single], f"{node.name}/double{index}", to=TensorProto.DOUBLE)
        last = index == form.parts - 1
        total = writer.op("Add", [total, double], node.name if last else f"{node.name}/sum{index}") if total else double


def _write_sum_pool(writer: _Writer, node: Node) -> None:
    type_ = writer.input_type(node)
    channels, height, width = type_.shape
    bound = np.full(channels, height * width * exact_float.largest_magnitude(type_), np.int64)
    if bound[0] >= exact_float.LIMIT:
        raise GraphError(f"{node.name}: a sum over {height} x {width} values is not exact in float32")
    form = writer.form_of(node, bound, 1)
    axes = writer.constant(f"{node.name}.axes", np.array([2, 3], np.int64))
    target = f"{node.name}/single" if form.double else node.name
    writer.op("ReduceSum", [node.inputs[0], axes], target, keepdims=1)
    if form.double:
        writer.op("Cast", [target], node.name, to=TensorProto.DOUBLE)


def _write_add(writer: _Writer, node: Node) -> None:
    _write_pair(writer, node, "Add", sum)


def _write_multiply(writer: _Writer, node: Node) -> None:
    _write_pair(writer, node, "Mul", prod)


def _write_pair(writer: _Writer, node: Node, op_type: str, largest: Callable[[list[int]], int]) -> None:
    """A sum or a product of two values, ``largest`` of whose magnitudes it can be."""
    if not _is_integer(node.type):
        writer.op(op_type, list(node.inputs), node.name)
        return
    most = largest([exact_float.largest_magnitude(writer.graph.type_of(value)) for value in node.inputs])
    form = writer.form_of(node, np.full(node.type.shape[0], most, np.int64), 1)
    target = f"{node.name}/single" if form.double else node.name
    writer.op(op_type, list(node.inputs), target)
    if form.double:
        writer.op("Cast", [target], node.name, to=TensorProto.DOUBLE)


# --- layers: what follows the sums ----------------------------------------------------------------


def _write_requantize(writer: _Writer, node: Node) -> None:
    half_up = node.attributes["rounding"] == "half_up"
    if not (half_up or node.attributes["rounding"] == "floor") or node.attributes["bias_before_multiply"] is not True:
        raise GraphError(
            f"{node.name}: only floor and half_up, with the bias before the multiplier, have an ONNX form here"
        )
    form = writer.forms[node.inputs[0]]
    real = np.float64 if form.double else np.float32
    rank = len(node.type.shape)

    def constant(key: str, values: Array) -> str:
        return writer.constant(f"{node.name}.{key}", _per_channel(values.astype(real), rank))

    value = writer.op("Add", [node.inputs[0], constant("bias", node.constants["bias"])], f"{node.name}/add")
    if form.stop_fusion:  # changes nothing: every sum is below 2^24
        bounds = [writer.constant(f"{node.name}.{key}", np.array(limit, real)) for key, limit in _FUSION_STOP]
        value = writer.op("Clip", [value, *bounds], f"{node.name}/stop")
    value = writer.op("Mul", [value, constant("multiplier", node.constants["multiplier"])], f"{node.name}/mul")
    divisor = np.exp2(node.constants["shift"].astype(np.float64))
    value = writer.op("Div", [value, constant("divisor", divisor)], f"{node.name}/div")
    if half_up:  # a whole number, of which nothing was shifted out, stays one
        half = writer.constant(f"{node.name}.half", np.array(HALF, real))
        value = writer.op("Add", [value, half], f"{node.name}/half_up")
    value = writer.op("Floor", [value], f"{node.name}/floor")
    bounds = [writer.constant(f"{node.name}.{key}", np.array(node.attributes[key], real)) for key in ("low", "high")]
    target = f"{node.name}/clip" if form.double else node.name
    writer.op("Clip", [value, *bounds], target)
    if form.double:
        writer.op("Cast", [target], node.name, to=TensorProto.FLOAT)


def _write_requantize_float(writer: _Writer, node: Node) -> None:
    """Multiplication and sum in float32; a clip that changes nothing keeps optimisers from folding them together."""
    rank = len(node.type.shape)

    def constant(key: str, values: Array) -> str:
        return writer.constant(f"{node.name}.{key}", values.astype(np.float32))

    stops = [constant(key, np.array(limit)) for key, limit in _FUSION_STOP]
    value = writer.op("Clip", [node.inputs[0], *stops], f"{node.name}/stop")
    ratio, bias = (constant(key, _per_channel(node.constants[key], rank)) for key in ("ratio", "bias"))
    value = writer.op("Mul", [value, ratio], f"{node.name}/mul")
    value = writer.op("Add", [value, bias], f"{node.name}/add")
    value = writer.op("Floor", [value], f"{node.name}/floor")
    bounds = [constant(key, np.array(node.attributes[key])) for key in ("low", "high")]
    writer.op("Clip", [value, *bounds], node.name)


HALF = 0.5
_FUSION_STOP = (("least", -exact_float.LIMIT), ("most", exact_float.LIMIT))


class StepWriter(Protocol):
    """What the input step needs of a writer: tensors and operations by name."""

    def constant(self, name: str, value: Array) -> str:
        """Add a tensor; returns its name."""
        ...

    def op(self, op_type: str, inputs: list[str], output: str) -> str:
        """Add an operation; returns the name of its output."""
        ...


def input_step(writer: StepWriter, node: Node) -> str:
    """The exact input step of a ``quantize`` node but for its clip, in the order that defines its rounding."""
    rank = len(node.type.shape)

    def constant(key: str, values: Array) -> str:
        return writer.constant(f"{node.name}.{key}", _per_channel(values.astype(np.float32), rank))

    value = writer.op("Add", [node.inputs[0], constant("bias", node.constants["bias"])], f"{node.name}/add")
    value = writer.op("Mul", [value, constant("multiplier", node.constants["multiplier"])], f"{node.name}/mul")
    value = writer.op("Floor", [value], f"{node.name}/whole")
    divisor = np.exp2(node.constants["shift"].astype(np.float64))
    value = writer.op("Div", [value, constant("divisor", divisor)], f"{node.name}/div")
    return writer.op("Floor", [value], f"{node.name}/floor")


def _write_quantize(writer: _Writer, node: Node) -> None:
    value = input_step(writer, node)
    bounds = [
        writer.constant(f"{node.name}.{key}", np.array(node.attributes[key], np.float32)) for key in ("low", "high")
    ]
    writer.op("Clip", [value, *bounds], node.name)


def _write_table(writer: _Writer, node: Node) -> None:
    least = LEAST[writer.input_type(node).dtype]
    entries = writer.constant(f"{node.name}.entries", node.constants["entries"].astype(np.float32))
    offset = writer.constant(f"{node.name}.offset", np.array(-least, np.float32))
    value = writer.op("Add", [node.inputs[0], offset], f"{node.name}/shifted")
    index = writer.op("Cast", [value], f"{node.name}/index", to=TensorProto.INT64)
    writer.op("Gather", [entries, index], node.name, axis=0)


def _write_dequantize(writer: _Writer, node: Node) -> None:
    scale = writer.constant(f"{node.name}.scale", np.array(node.attributes["scale"], np.float32))
    writer.op("Mul", [node.inputs[0], scale], node.name)


def _write_max_pool(writer: _Writer, node: Node) -> None:
    writer.op(
        "MaxPool",
        [node.inputs[0]],
        node.name,
        kernel_shape=list(_ints(node, "kernel")),
        strides=list(_ints(node, "stride")),
        pads=list(_ints(node, "padding")),
    )


def _write_flatten(writer: _Writer, node: Node) -> None:
    writer.op("Flatten", [node.inputs[0]], node.name, axis=1)


def _write_reshape(writer: _Writer, node: Node) -> None:
    shape = writer.constant(f"{node.name}.shape", np.array([0, *node.type.shape], np.int64))  # 0: as many windows
    writer.op("Reshape", [node.inputs[0], shape], node.name)


def _write_take(writer: _Writer, node: Node) -> None:
    """Flat, with a zero behind the last element where one is taken; gathered; in its shape."""
    name, index = node.name, node.constants["index"].astype(np.int64)
    count, flat = prod(writer.input_type(node).shape), len(node.type.shape) == 1
    value = writer.op("Flatten", [node.inputs[0]], f"{name}/flat", axis=1)
    if (index < 0).any():
        pads = writer.constant(f"{name}.pads", np.array([0, 0, 0, 1], np.int64))
        zero = writer.constant(f"{name}.zero", np.array(node.type.zero_point, np.float32))
        value = writer.op("Pad", [value, pads, zero], f"{name}/padded")
    places = writer.constant(f"{name}.index", np.where(index < 0, count, index))
    value = writer.op("Gather", [value, places], name if flat else f"{name}/taken", axis=1)
    if not flat:
        shape = writer.constant(f"{name}.shape", np.array([0, *node.type.shape], np.int64))
        writer.op("Reshape", [value, shape], name)


def _write_concat(writer: _Writer, node: Node) -> None:
    writer.op("Concat", list(node.inputs), node.name, axis=1)


# --- float only -----------------------------------------------------------------------------------


def _write_average_pool(writer: _Writer, node: Node) -> None:
    writer.op("GlobalAveragePool", [node.inputs[0]], node.name)


def _write_relu(writer: _Writer, node: Node) -> None:
    writer.op("Relu", [node.inputs[0]], node.name)


def _write_batch_norm(writer: _Writer, node: Node) -> None:
    names = [
        writer.constant(f"{node.name}.{key}", node.constants[key].astype(np.float32))
        for key in ("weight", "bias", "mean", "variance")
    ]
    writer.op("BatchNormalization", [node.inputs[0], *names], node.name, epsilon=float(str(node.attributes["epsilon"])))


_SIMPLE = {
    "sigmoid": "Sigmoid", "tanh": "Tanh", "softplus": "Softplus", "softsign": "Softsign", "mish": "Mish",
    "hardswish": "HardSwish",
}  # fmt: skip
_WITH_ALPHA = {"leaky_relu": ("LeakyRelu", 0.01), "elu": ("Elu", 1.0)}
_CLIPS = {"relu6": (0.0, 6.0), "hardtanh": (-1.0, 1.0)}
_LIMITS = ("low", "high")


def _write_activation(writer: _Writer, node: Node) -> None:
    function = str(node.attributes["function"])
    source = node.inputs[0]
    if function in _SIMPLE:
        writer.op(_SIMPLE[function], [source], node.name)
    elif function in _WITH_ALPHA:
        op_type, default = _WITH_ALPHA[function]
        writer.op(op_type, [source], node.name, alpha=float(str(node.attributes.get("alpha", default))))
    elif function in _CLIPS:
        given = [node.attributes.get(key, limit) for key, limit in zip(_LIMITS, _CLIPS[function], strict=True)]
        bounds = [
            writer.constant(f"{node.name}.{key}", np.array(limit, np.float32))
            for key, limit in zip(_LIMITS, given, strict=True)
        ]
        writer.op("Clip", [source, *bounds], node.name)
    elif function == "hardsigmoid":
        writer.op("HardSigmoid", [source], node.name, alpha=1.0 / 6.0, beta=0.5)
    elif function == "silu":
        writer.op("Mul", [source, writer.op("Sigmoid", [source], f"{node.name}/sigmoid")], node.name)
    elif function == "gelu":
        _write_gelu(writer, node)
    else:
        raise GraphError(f"{node.name}: activation '{function}' has no ONNX form here")


def _write_gelu(writer: _Writer, node: Node) -> None:
    """x * (1 + erf(x / sqrt 2)) / 2: opset 18 has no Gelu."""
    name = node.name
    root = writer.constant(f"{name}.root", np.array(np.sqrt(2.0), np.float32))
    one = writer.constant(f"{name}.one", np.array(1.0, np.float32))
    half = writer.constant(f"{name}.half", np.array(0.5, np.float32))
    value = writer.op("Div", [node.inputs[0], root], f"{name}/div")
    value = writer.op("Erf", [value], f"{name}/erf")
    value = writer.op("Add", [value, one], f"{name}/add")
    value = writer.op("Mul", [node.inputs[0], value], f"{name}/mul")
    writer.op("Mul", [value, half], name)


_WRITERS: dict[str, Callable[[_Writer, Node], None]] = {
    "conv": _write_conv,
    "linear": _write_linear,
    "sum_pool": _write_sum_pool,
    "average_pool": _write_average_pool,
    "requantize": _write_requantize,
    "requantize_float": _write_requantize_float,
    "quantize": _write_quantize,
    "max_pool": _write_max_pool,
    "flatten": _write_flatten,
    "reshape": _write_reshape,
    "take": _write_take,
    "concat": _write_concat,
    "multiply": _write_multiply,
    "relu": _write_relu,
    "activation": _write_activation,
    "table": _write_table,
    "batch_norm": _write_batch_norm,
    "add": _write_add,
    "dequantize": _write_dequantize,
}
