"""An ONNX file that another tool wrote, as a graph: first what tools write differently is made alike.

Constant nodes become initializers, names for them lead to them, what nothing reads goes, a softmax at the end goes too
(which changes no largest output), and a network of series becomes one of pictures of width 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from flowlab.compiler.import_quantized import is_quantized
from flowlab.compiler.import_series import as_pictures
from flowlab.compiler.importer import import_onnx
from flowlab.compiler.ir import Graph, Node
from flowlab.compiler.onnx_model import read_model
from flowlab.errors import GraphError

LOGITS = 2  # axes of an output, the window's included, behind which a softmax may be left out
MOST_NODES, MOST_NUMBERS, MOST_WEIGHTS = 2000, 1 << 20, 1 << 24  # of a network, of one value, of all constants


@dataclass(frozen=True)
class Foreign:
    """The graph; the file as it was but for softmax, for ONNX Runtime; what was changed, a sentence each."""

    graph: Graph
    model: bytes
    said: tuple[str, ...]


def import_foreign(data: bytes) -> Foreign:
    """Read a file.

    Raises:
        GraphError: naming the ONNX node, if the bytes are no model, pass a limit, or say what the IR cannot; for a
            network of several inputs, of names or numbers that no program can hold, or far beyond what a
            microcontroller runs.
    """
    read_model(data)  # its limits, and the checker
    proto = onnx.load_model_from_string(data)
    try:
        _same_forms(proto)
        said = _without_softmax(proto)
        model: bytes = proto.SerializeToString()
        if not is_quantized(read_model(model)):  # which reads series itself
            as_pictures(proto)
        graph = import_onnx(proto.SerializeToString())
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as problem:
        raise GraphError(f"ONNX file: malformed ({type(problem).__name__}: {str(problem).splitlines()[0]})") from None
    check_graph(graph)
    return Foreign(graph, model, tuple(said))


def _same_forms(proto: Any) -> None:
    """Constants as initializers, read by their own names; no node that nothing reads."""
    constants = {one.name for one in proto.graph.initializer}
    same: dict[str, str] = {}
    for node in list(proto.graph.node):
        if node.op_type == "Constant" and len(node.output) == 1:
            tensor = next((one.t for one in node.attribute if one.name == "value"), None)
            if tensor is None:
                continue
            made = numpy_helper.from_array(numpy_helper.to_array(tensor), node.output[0])
            proto.graph.initializer.append(made)
            constants.add(node.output[0])
            proto.graph.node.remove(node)
        elif (
            node.op_type == "Identity" and len(node.input) == 1 and same.get(node.input[0], node.input[0]) in constants
        ):
            same[node.output[0]] = same.get(node.input[0], node.input[0])
            proto.graph.node.remove(node)
    for node in proto.graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = same.get(name, name)
    wanted = {one.name for one in proto.graph.output}
    for node in reversed(list(proto.graph.node)):
        if not wanted & set(node.output):
            proto.graph.node.remove(node)
        wanted |= set(node.input)


def _without_softmax(proto: Any) -> list[str]:
    """Leave out a Softmax or LogSoftmax that makes an output of classes, and nothing else reads."""
    said = []
    outputs = {one.name: one for one in proto.graph.output}
    for node in list(proto.graph.node):
        if node.op_type not in ("Softmax", "LogSoftmax") or len(node.output) != 1 or len(node.input) != 1:
            continue
        end = outputs.get(node.output[0])
        read = any(node.output[0] in one.input for one in proto.graph.node)
        shared = sum(node.input[0] in one.input for one in proto.graph.node) > 1
        if end is None or read or shared or node.input[0] in outputs:
            continue
        axis = next((one.i for one in node.attribute if one.name == "axis"), -1)
        if len(end.type.tensor_type.shape.dim) == LOGITS and axis in (1, -1):
            end.name = node.input[0]
            proto.graph.node.remove(node)
            said.append(f"ends in {node.op_type}, which is left out: the program gives what stands before it")
    return said


def check_graph(graph: Graph) -> None:
    """Hold a foreign network against what can be quantized for a microcontroller at all.

    Raises:
        GraphError: naming node or input, for what `import_foreign` says.
    """
    if len(graph.inputs) != 1:
        names = ", ".join(one.name for one in graph.inputs)
        raise GraphError(f"has the inputs {names}; a network with one can be compiled")
    if not any(node.op in ("conv", "linear") for node in graph.nodes):
        raise GraphError("has no convolution and no fully connected layer, so there is nothing to quantize")
    if len(graph.nodes) > MOST_NODES:
        raise GraphError(f"{len(graph.nodes):,} nodes; a microcontroller's network has at most {MOST_NODES:,}")
    for node in graph.nodes:
        _check_numbers(node)
    weights = sum(values.size for node in graph.nodes for values in node.constants.values())
    if weights > MOST_WEIGHTS:
        raise GraphError(f"{weights:,} weights; a microcontroller's network has at most {MOST_WEIGHTS:,}")
    for name in (*(one.name for one in graph.inputs), *(one.name for one in graph.nodes), *graph.outputs):
        if not name.isprintable():
            raise GraphError(f"the name {name!r} holds what cannot be printed: rename the tensor")


def _check_numbers(node: Node) -> None:
    """Constants that are numbers, and as many results as a microcontroller holds."""
    for key, values in node.constants.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise GraphError(f"node '{node.name}' ({node.op}): its {key} holds NaN or infinite numbers")
    for key, value in node.attributes.items():
        if isinstance(value, float) and math.isnan(value):
            raise GraphError(f"node '{node.name}' ({node.op}): its {key} is NaN")
    numbers = math.prod(node.type.shape)
    if numbers > MOST_NUMBERS:
        raise GraphError(
            f"node '{node.name}' ({node.op}): makes {numbers:,} numbers a window; a microcontroller holds at most "
            f"{MOST_NUMBERS:,}"
        )
