"""Write an integer graph as ONNX in QDQ form, for speed in runtimes that have integer kernels.

Every value is quantized (``QuantizeLinear``) and meant (``DequantizeLinear``) around float operations, which a runtime
replaces by its own integer kernels. Those round in their own way, so this file is *near* the exact form of
`flowlab.compiler.export_onnx` and no law covers it; `flowlab.compiler.run_qdq` counts the differences.

Weights of 8 bits are int8; those of 4 and 2 bits are int4, which needs opset 21: ONNX has no narrower type there.
No rounding offset is in a bias, because ``QuantizeLinear`` rounds to nearest by itself. Beside int8 weights biases are
int32, as integer kernels want them: half a unit of the sums is lost by that. Where there is no integer kernel (int4
weights, activations narrower than their type) a bias is a float32 ``Add`` that loses nothing: a runtime turns one in
the layer itself into int32. The input step is the exact one, so both files see the same integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from flowlab.compiler.export_onnx import input_step
from flowlab.compiler.infer import integer, integers
from flowlab.compiler.intervals import LIMITS
from flowlab.compiler.ir import Graph, Node, TensorType
from flowlab.errors import GraphError

OPSET = 21  # the first with weights of 4 bits
IR_VERSION = 10  # the one that came with it
HALF = 0.5  # of a unit of a sum: makes a tie none
ZERO = {"int8": np.int8(0), "uint8": np.uint8(0)}

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
    writer = _Writer(graph)
    for node in graph.nodes:
        write = _WRITERS.get(node.op)
        if write is None:
            raise GraphError(f"{node.name}: '{node.op}' has no QDQ form. Known: {', '.join(sorted(_WRITERS))}")
        write(writer, node)
    outputs = []
    for name, value in graph.outputs.items():
        if graph.type_of(value).dtype == "float32":
            writer.op("Identity", [writer.real[value]], name)
        else:
            writer.op("Cast", [writer.whole[value]], name, to=TensorProto.FLOAT)
        outputs.append(_value_info(name, graph.type_of(value)))
    inputs = [_value_info(one.name, one.type) for one in graph.inputs]
    body = helper.make_graph(writer.nodes, "flowlab", inputs, outputs, initializer=writer.initializers)
    model = helper.make_model(
        body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="flowlab"
    )
    helper.set_model_props(model, {"flowlab.form": "qdq", **(metadata or {})})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _value_info(name: str, type_: TensorType) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *type_.shape])


@dataclass
class _Writer:
    """``whole`` and ``real``: by value of the graph, the tensor of its integers and the one of what they mean."""

    graph: Graph
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    whole: dict[str, str] = field(default_factory=dict)
    real: dict[str, str] = field(default_factory=dict)

    def op(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def real_of(self, value: str) -> str:
        """The tensor of a value's real numbers; the graph's input is one."""
        return self.real.get(value, value)

    def accumulator(self, node: Node) -> Node:
        """The node whose sums a requantization reads."""
        return self.graph.node(node.inputs[0])

    def quantized(self, node: Node, value: str, scale: float) -> None:
        """``value`` divided by ``scale`` and rounded: the node's integers, which mean what its type says."""
        zero = self.constant(f"{node.name}.zero", ZERO[node.type.dtype])
        step = self.constant(f"{node.name}.step", np.float32(scale))
        self.integers(node, self.op("QuantizeLinear", [value, step, zero], node.name), zero)

    def integers(self, node: Node, value: str, zero: str) -> None:
        """A tensor of the node's integers, and what they mean."""
        self.whole[node.name] = value
        scale = self.constant(f"{node.name}.scale", np.float32(node.type.scale))
        self.real[node.name] = self.op("DequantizeLinear", [value, scale, zero], f"{node.name}/real")

    def per_channel(self, name: str, steps: NDArray[np.float64]) -> str:
        """What a constant and the zero points beside it mean, with one scale for each output channel."""
        scale = self.constant(f"{name}.scale", steps.astype(np.float32))
        return self.op("DequantizeLinear", [name, scale, f"{name}.zero"], f"{name}/real", axis=0)

    def narrow(self, node: Node) -> bool:
        """Whether the node's limits are narrower than its type."""
        return (integer(node, "low"), integer(node, "high")) != LIMITS[node.type.dtype]

    def clipped(self, node: Node, value: str, scale: float) -> str:
        """``value`` within the node's limits, where they are narrower than its type."""
        if not self.narrow(node):
            return value
        bounds = [
            self.constant(f"{node.name}.{key}", np.float32(integer(node, key) * scale)) for key in ("low", "high")
        ]
        return self.op("Clip", [value, *bounds], f"{node.name}/clip")


def _write_quantize(writer: _Writer, node: Node) -> None:
    """The exact input step; its integers lie in float32 and are quantized with a step of 1."""
    value = input_step(writer, node)
    writer.quantized(node, writer.clipped(node, value, 1.0), 1.0)


def _write_requantize(writer: _Writer, node: Node) -> None:
    """The sums before it, in real numbers, then the quantization of the result."""
    sums = writer.accumulator(node)
    if sums.op not in _SUMS:
        raise GraphError(f"{node.name}: a requantization of '{sums.op}' has no QDQ form. Known: {', '.join(_SUMS)}")
    value = _SUMS[sums.op](writer, sums, node)
    writer.quantized(node, writer.clipped(node, value, node.type.scale), node.type.scale)


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
    name = f"{sums.name}.weight"
    few = integer(sums, "weight_bits", 8) < 8
    for key, values in ((name, weight), (f"{name}.zero", np.zeros(len(weight), np.int8))):
        if few:
            tensor = helper.make_tensor(key, TensorProto.INT4, values.shape, values.ravel().tolist())
            writer.initializers.append(tensor)
        else:
            writer.constant(key, values)
    read = [writer.real_of(source), writer.per_channel(name, step)]
    name = f"{sums.name}.bias"
    if few or writer.narrow(node):
        real = (_bias(node) * step * scale).astype(np.float32).reshape((1, -1) + (1,) * (len(sums.type.shape) - 1))
        value = writer.op(op_type, read, f"{sums.name}/sums", **attributes)
        return writer.op("Add", [value, writer.constant(name, real)], sums.name)
    writer.constant(name, np.rint(_bias(node)).astype(np.int32))
    writer.constant(f"{name}.zero", np.zeros(len(weight), np.int32))
    return writer.op(op_type, [*read, writer.per_channel(name, step * scale)], sums.name, **attributes)


def _conv(writer: _Writer, sums: Node, node: Node) -> str:
    return _weighted(
        writer,
        sums,
        node,
        "Conv",
        kernel_shape=list(sums.constants["weight"].shape[2:]),
        strides=list(integers(sums, "stride", 2)),
        pads=list(integers(sums, "padding", 4)),
        group=integer(sums, "groups"),
    )


def _linear(writer: _Writer, sums: Node, node: Node) -> str:
    return _weighted(writer, sums, node, "Gemm", transB=1)


def _average(writer: _Writer, sums: Node, node: Node) -> str:
    """A sum is an average where the integers mean one: the shift has gone into the scale."""
    source = writer.graph.type_of(sums.inputs[0])
    wanted = _ratio(node) * node.type.scale * source.shape[1] * source.shape[2]
    if not np.allclose(wanted, source.scale, rtol=1e-5) or np.abs(_bias(node)).max() > HALF:
        raise GraphError(f"{node.name}: the integers do not mean an average, so they have no QDQ form")
    average = writer.op("GlobalAveragePool", [writer.real_of(sums.inputs[0])], sums.name)
    if not writer.narrow(node):
        return average  # a tie is one step of many
    half = HALF * source.scale / (source.shape[1] * source.shape[2])
    return writer.op("Add", [average, writer.constant(f"{sums.name}.half", np.float32(half))], f"{sums.name}/half")


_SUMS: dict[str, Callable[[_Writer, Node, Node], str]] = {"conv": _conv, "linear": _linear, "sum_pool": _average}


def _write_max_pool(writer: _Writer, node: Node) -> None:
    value = writer.op(
        "MaxPool",
        [writer.real_of(node.inputs[0])],
        f"{node.name}/most",
        kernel_shape=list(integers(node, "kernel", 2)),
        strides=list(integers(node, "stride", 2)),
        pads=list(integers(node, "padding", 4)),
    )
    writer.quantized(node, value, node.type.scale)


def _write_flatten(writer: _Writer, node: Node) -> None:
    value = writer.op("Flatten", [writer.real_of(node.inputs[0])], f"{node.name}/flat", axis=1)
    writer.quantized(node, value, node.type.scale)


def _write_table(writer: _Writer, node: Node) -> None:
    """Integers to integers, exactly."""
    source = node.inputs[0]
    least = LIMITS[writer.graph.type_of(source).dtype][0]
    value = writer.op("Cast", [writer.whole[source]], f"{node.name}/wide", to=TensorProto.INT64)
    value = writer.op("Sub", [value, writer.constant(f"{node.name}.least", np.int64(least))], f"{node.name}/index")
    entries = writer.constant(f"{node.name}.entries", node.constants["entries"])
    value = writer.op("Gather", [entries, value], node.name, axis=0)
    writer.integers(node, value, writer.constant(f"{node.name}.zero", ZERO[node.type.dtype]))


def _write_dequantize(writer: _Writer, node: Node) -> None:
    source = node.inputs[0]
    scale = writer.constant(f"{node.name}.scale", np.float32(str(node.attributes["scale"])))
    zero = writer.constant(f"{node.name}.zero", ZERO[writer.graph.type_of(source).dtype])
    writer.real[node.name] = writer.op("DequantizeLinear", [writer.whole[source], scale, zero], f"{node.name}/real")


def _with_its_requantization(writer: _Writer, node: Node) -> None:
    """Sums are written where they are requantized."""


_WRITERS: dict[str, Callable[[_Writer, Node], None]] = {
    "quantize": _write_quantize,
    "conv": _with_its_requantization,
    "linear": _with_its_requantization,
    "sum_pool": _with_its_requantization,
    "requantize": _write_requantize,
    "max_pool": _write_max_pool,
    "flatten": _write_flatten,
    "table": _write_table,
    "dequantize": _write_dequantize,
}
