"""An ONNX file from outside, read with care: limits first, the checker next, then numbers and neighbours by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from flowlab.errors import GraphError

Array = NDArray[Any]

MAX_BYTES = 256 << 20  # a network for a microcontroller is far smaller
MAX_NODES = 20_000
MAX_NUMBERS = 1 << 26  # of all initializers
OPSETS = range(10, 24)  # the forms read here are stable, or say by attributes what they say by inputs later
DOMAINS = ("", "ai.onnx", "com.microsoft")  # the last: ONNX Runtime's integer operations
INPUT_TYPES = {TensorProto.FLOAT: "float32", TensorProto.INT8: "int8", TensorProto.UINT8: "uint8"}


def read_model(data: bytes) -> OnnxModel:
    """The model of an ONNX file's bytes.

    Raises:
        GraphError: naming what was found and the limit, if the bytes are no ONNX model, are too large, keep numbers
            in other files, or use what cannot be read here (functions, subgraphs, other domains or opsets).
    """
    if len(data) > MAX_BYTES:
        raise GraphError(f"ONNX file: {len(data)} bytes; at most {MAX_BYTES} are read")
    try:
        model = onnx.load_model_from_string(data)
    except Exception as problem:  # noqa: BLE001 - protobuf raises its own classes, which differ by backend
        raise GraphError(f"ONNX file: these {len(data)} bytes are no ONNX model ({type(problem).__name__})") from None
    _check_limits(model)
    try:
        onnx.checker.check_model(model)
    except Exception as problem:  # noqa: BLE001 - ValidationError, or protobuf's
        raise GraphError(f"ONNX file: the checker refuses it: {str(problem).strip().splitlines()[0]}") from None
    return OnnxModel(model)


def _check_limits(model: onnx.ModelProto) -> None:
    opsets = {each.domain: each.version for each in model.opset_import}
    if opsets.get("", 0) not in OPSETS:
        raise GraphError(
            f"ONNX file: opset {opsets.get('', 'missing')}; known: {OPSETS[0]} to {OPSETS[-1]}. Export with opset 18"
        )
    if len(model.graph.node) > MAX_NODES:
        raise GraphError(f"ONNX file: {len(model.graph.node)} nodes; at most {MAX_NODES} are read")
    if model.functions or model.graph.sparse_initializer:
        raise GraphError("ONNX file: functions and sparse initializers are not read. Export plain nodes")
    numbers = 0
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise GraphError(
                f"ONNX file: initializer '{tensor.name}' lies in another file. Export with its numbers inside"
            )
        count = 1
        for extent in tensor.dims:
            count *= max(int(extent), 0)
        numbers += count
    if numbers > MAX_NUMBERS:
        raise GraphError(f"ONNX file: {numbers} numbers in initializers; at most {MAX_NUMBERS} are read")
    for node in model.graph.node:
        if node.domain not in DOMAINS:
            raise GraphError(f"ONNX node '{node_name(node)}': domain '{node.domain}' is not known here")
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise GraphError(f"ONNX node '{node_name(node)}' ({node.op_type}): subgraphs are not read")
            if attribute.HasField("t") and attribute.t.data_location == onnx.TensorProto.EXTERNAL:
                raise GraphError(f"ONNX node '{node_name(node)}': its numbers lie in another file")


def node_error(node: onnx.NodeProto, message: str) -> GraphError:
    """What is wrong with a node, told by its first output and, where it is another one, its name."""
    named = f", named '{node.name}'" if node.name not in ("", node_name(node)) else ""
    return GraphError(f"ONNX node '{node_name(node)}' ({node.op_type}{named}): {message}")


def node_name(node: onnx.NodeProto) -> str:
    """What a node is called in errors: its first output, which is unique, unlike its name."""
    return str(node.output[0] if node.output else node.name)


@dataclass
class OnnxModel:
    """A checked model: nodes in order, numbers by name, and who makes and reads a value."""

    proto: onnx.ModelProto
    constants: dict[str, Array] = field(default_factory=dict)
    makers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    readers: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)  # output tensors: the name of the node that makes them
    claimed: set[str] = field(default_factory=set)  # first outputs of nodes that are part of an imported operation

    def __post_init__(self) -> None:
        for tensor in self.proto.graph.initializer:
            self.constants[tensor.name] = numpy_helper.to_array(tensor)
        for node in self.proto.graph.node:
            if node.op_type == "Constant":
                self._constant(node)
                continue
            for name in node.output:
                self.makers[name] = node
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        tensors = {*self.makers, *self.constants, *self.inputs()}
        named = {output.name for output in self.proto.graph.output}
        for output in self.proto.graph.output:
            maker = self.makers.get(output.name)
            if maker is None or maker.op_type == "Identity" or not maker.name:
                continue
            if maker.name not in tensors or maker.name in named:  # named: the output of another node
                self.renamed[output.name] = maker.name
        for node in self.proto.graph.node:
            if node.name in named and node.output[0] == f"{node.name}/value":  # whose own name an output has
                self.renamed[node.output[0]] = node.name

    def _constant(self, node: onnx.NodeProto) -> None:
        values = attributes_of(node)
        for key in ("value", "value_float", "value_int", "value_floats", "value_ints"):
            if key in values:
                dtype = {"float": np.float32, "int": np.int64}.get(key[6:].rstrip("s"))
                self.constants[node.output[0]] = np.asarray(values[key], dtype)
                return
        raise GraphError(f"ONNX node '{node_name(node)}': a constant of a kind that is not read here")

    @property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        """All nodes but constants, in the file's order."""
        return tuple(node for node in self.proto.graph.node if node.op_type != "Constant")

    @property
    def metadata(self) -> dict[str, str]:
        """The model's metadata texts."""
        return {each.key: each.value for each in self.proto.metadata_props}

    def named(self, tensor: str) -> str:
        """The value's name in the graph: the tensor's, or for an output that of the node that makes it."""
        return self.renamed.get(tensor, tensor)

    def free(self, name: str) -> str:
        """A name for what an importer makes beside a tensor: this one, or one like it that no tensor has."""
        taken = {*self.makers, *self.constants, *(value.name for value in self.proto.graph.input)}
        while name in taken:
            name += "_"
        return name

    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shapes without the batch, of the inputs that are no initializers."""
        return {value.name: _shape(value) for value in self._entries()}

    def input_dtypes(self) -> dict[str, str]:
        """Types of the same inputs: float32, int8 or uint8. GraphError for another one."""
        return {value.name: _dtype(value) for value in self._entries()}

    def _entries(self) -> list[onnx.ValueInfoProto]:
        return [value for value in self.proto.graph.input if value.name not in self.constants]

    def outputs(self) -> tuple[onnx.ValueInfoProto, ...]:
        """The file's outputs, in its order."""
        return tuple(self.proto.graph.output)

    def constant(self, node: onnx.NodeProto, index: int) -> Array:
        """The numbers that a node reads as its input ``index``. GraphError where they are not constant."""
        name = node.input[index] if index < len(node.input) else ""
        if name not in self.constants:
            raise GraphError(f"ONNX node '{node_name(node)}' ({node.op_type}): input {index} must be constant numbers")
        return self.constants[name]

    def maker(self, value: str, *op_types: str) -> onnx.NodeProto | None:
        """The node that makes a value, if it is one of these operations."""
        node = self.makers.get(value)
        return node if node is not None and node.op_type in op_types else None

    def reader(self, value: str, *op_types: str) -> onnx.NodeProto | None:
        """The only node that reads a value, if it is one of these operations."""
        found = self.readers.get(value, [])
        return found[0] if len(found) == 1 and found[0].op_type in op_types else None

    def split(self, node: onnx.NodeProto) -> tuple[str, Array] | None:
        """The one value and the one constant that a node of two inputs reads, in either order."""
        if len(node.input) != 2:
            return None
        left, right = node.input
        if right in self.constants and left not in self.constants:
            return left, self.constants[right]
        if left in self.constants and right not in self.constants:
            return right, self.constants[left]
        return None

    def claim(self, nodes: Iterable[onnx.NodeProto]) -> None:
        """Say that these nodes are part of an imported operation."""
        self.claimed |= {node_name(node) for node in nodes}

    def axes(self, node: onnx.NodeProto) -> list[int]:
        """The axes that a node names, as an attribute or an input. GraphError where it names none."""
        found = attributes_of(node).get("axes")
        return [int(axis) for axis in np.ravel(self.constant(node, 1) if found is None else found)]

    def check_all_claimed(self) -> None:
        """GraphError naming the first node that belongs to no imported operation."""
        for node in self.nodes:
            if node_name(node) not in self.claimed:
                raise GraphError(
                    f"ONNX node '{node_name(node)}' ({node.op_type}) is part of no operation that can be imported"
                )


def attributes_of(node: onnx.NodeProto) -> Mapping[str, Any]:
    """A node's attributes as Python values: tensors as arrays, texts as str, floats as their shortest decimals."""
    values: dict[str, Any] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        elif isinstance(value, float):
            value = float(str(np.float32(value)))  # ONNX keeps 1e-5 in float32
        elif isinstance(value, onnx.TensorProto):
            value = numpy_helper.to_array(value)
        values[attribute.name] = value
    return values


def clip_limits(model: OnnxModel, node: onnx.NodeProto) -> tuple[float, float]:
    """Both limits of a Clip, infinite where there are none: inputs, or up to opset 10 attributes.

    Raises:
        GraphError: where they are no constants, or the lower one is above the other.
    """
    found = attributes_of(node)
    low, high = (
        float(model.constant(node, at).reshape(())) if at < len(node.input) and node.input[at] else float(default)
        for at, default in ((1, found.get("min", -math.inf)), (2, found.get("max", math.inf)))
    )
    if not low <= high:
        raise node_error(node, f"clips to {low:g} .. {high:g}")
    return low, high


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    if len(dims) < 2 or any(not dim.HasField("dim_value") or dim.dim_value < 1 for dim in dims[1:]):
        raise GraphError(f"ONNX input '{value.name}': only the first dimension, the batch, may be dynamic")
    return tuple(int(dim.dim_value) for dim in dims[1:])


def _dtype(value: onnx.ValueInfoProto) -> str:
    code = value.type.tensor_type.elem_type
    if code not in INPUT_TYPES:
        known = ", ".join(INPUT_TYPES.values())
        raise GraphError(f"ONNX input '{value.name}': {known} are read, not {_type_name(code)}")
    return INPUT_TYPES[code]


def _type_name(code: int) -> str:
    return str(TensorProto.DataType.Name(code)).lower() if code in TensorProto.DataType.values() else f"type {code}"
