"""ONNX into a graph: the door for foreign networks, and the independent reading of our own export.

An integer network is told by its metadata (`flowlab.compiler.export_onnx`), which give names, types, scales and widths.
Its numbers (weights, B, M, R, limits, tables) are read from the nodes and initializers alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flowlab.compiler.import_chains import import_chains, rounds
from flowlab.compiler.import_float import import_float
from flowlab.compiler.import_integer import import_integer
from flowlab.compiler.import_quantized import import_quantized, is_quantized
from flowlab.compiler.ir import Graph
from flowlab.compiler.onnx_model import OnnxModel, read_model
from flowlab.compiler.verify import verify
from flowlab.errors import GraphError

FORMAT = "1"


def import_onnx(data: bytes) -> Graph:
    """The graph of an ONNX file: integer if it is our export of one, float otherwise.

    Raises:
        GraphError: naming the ONNX node, if the bytes are no model, pass a limit, or say what the IR cannot.
    """
    try:
        return _import(data)
    except (
        ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError
    ) as problem:  # fmt: skip
        # a file from outside may be wrong in more ways than there are checks: none may end in a traceback
        raise GraphError(f"ONNX file: malformed ({type(problem).__name__}: {problem})") from problem


def _import(data: bytes) -> Graph:
    model = read_model(data)
    values = _json(model, "flowlab.values")
    if model.metadata.get("flowlab.format", FORMAT) != FORMAT:
        raise GraphError(f"ONNX file: flowlab.format {model.metadata['flowlab.format']!r}; known: {FORMAT}")
    if any(isinstance(each, dict) and each.get("dtype") != "float32" for each in values.values()):
        graph = import_integer(model, values, _json(model, "flowlab.weight_bits"))
    elif is_quantized(model):
        graph = import_quantized(model)
    elif rounds(model):
        graph = import_chains(model)
    else:
        graph = import_float(model)
    texts = {str(key): str(value) for key, value in _json(model, "flowlab.graph").items()}
    graph = replace(graph, metadata=texts)
    verify(graph)
    return graph


def _json(model: OnnxModel, key: str) -> Mapping[str, Any]:
    try:
        found = json.loads(model.metadata.get(key, "{}"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise GraphError(f"ONNX file: metadata '{key}' is no JSON object")
    return found
