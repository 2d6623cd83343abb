"""Build the quantized ONNX again from ``quantization_config.yaml`` and the integers: no data, no model's code."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

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
    values = _read_config(config)
    graph = parse_graph(values["graph"], _read_weights(weights))
    verify(graph)
    return graph


def rebuild_onnx(config: Path, weights: Path) -> bytes:
    """The bytes of the ONNX that training exported; raises as `rebuild_graph`."""
    metadata = _read_config(config)["onnx"].get("metadata") or {}
    if not isinstance(metadata, dict):
        raise QuantizationError(f"{config}: onnx.metadata is {type(metadata).__name__}, expected a mapping of texts.")
    return export_onnx(rebuild_graph(config, weights), {str(key): str(text) for key, text in metadata.items()})


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return parse_config(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise QuantizationError(f"{path}: cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise QuantizationError(f"{path}: not UTF-8 text (byte {error.start}); it is not one of ours.") from None
    except RecursionError:
        raise QuantizationError(f"{path}: nested too deep; it is not one of ours.") from None


def _read_weights(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a state dict as arrays; nothing in the file is executed."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise QuantizationError(f"{path}: cannot be read: {error.strerror or error}.") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch thinks of a pickle that is not its own
            state = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # noqa: BLE001 - damage ends anywhere in torch, and its texts advise to allow code
        raise QuantizationError(
            f"{path}: no intact file of tensors ({type(error).__name__}); whatever else stands in it was not run. "
            "Take best_model.pt from a run's training/quantization folder."
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise QuantizationError(f"{path}: no state dict of tensors.")
    arrays = {}
    for name, value in state.items():
        try:
            arrays[name] = value.numpy()
        except (RuntimeError, TypeError):
            raise QuantizationError(
                f"{path}: '{name}' is a tensor of {value.dtype} that is no array of constants. "
                "Take best_model.pt from a run's training/quantization folder, not the one in training/base."
            ) from None
    return arrays
