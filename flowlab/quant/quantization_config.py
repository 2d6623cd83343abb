"""``quantization_config.yaml``: how a network was quantized, and its graph without the constants.

With the state dict of constants beside it (``<node>.<constant>`` -> tensor) the ONNX is built again to the last bit:
see `flowlab.quant.rebuild`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from flowlab.compiler.export_onnx import IR_VERSION, OPSET
from flowlab.compiler.ir import Graph
from flowlab.compiler.text import print_graph
from flowlab.errors import QuantizationError

VERSION = 1
INDENT = "  "


@dataclass(frozen=True)
class Account:
    """What the file says besides the graph; plain values.

    Bits are what was asked for and what was done; ``onnx_metadata`` are further texts of the exported model.
    """

    quantizer: str
    method: str
    number_format: str
    requested_weight_bits: int
    requested_activation_bits: int
    weight_bits: int
    activation_bits: int
    calibration_count: int
    calibration_seed: int
    seed: int
    epochs: int
    output_int: bool
    onnx_metadata: Mapping[str, str]

    def summary(self) -> dict[str, str | int]:
        """Quantizer, method and widths: what was asked for and what was done."""
        return {
            "quantizer": self.quantizer,
            "method": self.method,
            "weight_bits": self.weight_bits,
            "activation_bits": self.activation_bits,
            "requested_activation_bits": self.requested_activation_bits,
        }


def print_config(account: Account, graph: Graph) -> str:
    """The file's text; the graph stands in it as a readable block."""
    head = {
        "version": VERSION,
        "onnx": {"opset": OPSET, "ir_version": IR_VERSION, "metadata": dict(account.onnx_metadata)},
        **{key: value for key, value in asdict(account).items() if key != "onnx_metadata"},
    }
    text = print_graph(graph, constants=False)
    block = "".join(f"{INDENT}{line}\n" if line else "\n" for line in text.rstrip("\n").split("\n"))
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1000) + "graph: |\n" + block


def parse_config(text: str) -> dict[str, Any]:
    """The file's values; ``graph`` is the graph's text form without constants.

    Raises:
        QuantizationError: if it is no such file, or one of another version, opset or IR version.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise QuantizationError(f"quantization_config.yaml is no YAML: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("graph"), str):
        raise QuantizationError("quantization_config.yaml has no 'graph': it is not one of ours, or it was cut off.")
    if values.get("version") != VERSION:
        raise QuantizationError(f"quantization_config.yaml has version {values.get('version')!r}; known is {VERSION}.")
    onnx = values.get("onnx")
    found = {key: onnx.get(key) for key in ("opset", "ir_version")} if isinstance(onnx, dict) else {}
    if found != {"opset": OPSET, "ir_version": IR_VERSION}:
        raise QuantizationError(
            f"quantization_config.yaml was written for ONNX {found}; this version writes opset {OPSET} and IR version "
            f"{IR_VERSION}, which gives other bytes."
        )
    return values
