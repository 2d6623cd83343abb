"""Build the quantized ONNX again from ``quantization_config.yaml`` and the integers: no data, no model's code."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.ir import Graph
from flowlab.compiler.text import constants_of, parse_graph
from flowlab.compiler.verify import verify
from flowlab.errors import QuantizationError
from flowlab.quant.quantization_config import parse_config


def weights_bytes(graph: Graph) -> bytes:
    """A state dict of all constants, ``<node>.<constant>`` -> tensor; no file's name gets into the bytes."""
    tensors = {name: torch.from_numpy(value.copy()) for name, value in sorted(constants_of(graph).items())}
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


def rebuild_graph(config: Path, weights: Path) -> Graph:
    """The integer graph of the two files.

    Raises:
        QuantizationError: if one of them is not what it should be.
        GraphError: if they do not belong together.
    """
    values = parse_config(config.read_text(encoding="utf-8"))
    state = torch.load(weights, weights_only=True, map_location="cpu")
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise QuantizationError(f"{weights.name} is no state dict of tensors.")
    graph = parse_graph(values["graph"], {name: value.numpy() for name, value in state.items()})
    verify(graph)
    return graph


def rebuild_onnx(config: Path, weights: Path) -> bytes:
    """The bytes of the ONNX that training exported; raises as `rebuild_graph`."""
    values = parse_config(config.read_text(encoding="utf-8"))
    metadata = {str(key): str(text) for key, text in (values["onnx"].get("metadata") or {}).items()}
    return export_onnx(rebuild_graph(config, weights), metadata)
