"""Placement: which layers the accelerator takes, and why not the others. Decided once, on the padded graph.

Works on float graphs (the untrained model, before training) and on integer graphs alike: rules read shapes, groups,
strides and widths, never weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowlab.compiler.channels import is_depthwise
from flowlab.compiler.infer import dilation_of, integer, integers, place_bytes
from flowlab.compiler.ir import Graph, Node
from flowlab.compiler.rules import Layer, Rule
from flowlab.contracts import LayerRow

if TYPE_CHECKING:
    pass

FLOAT_BITS = 32  # of a weight that nobody quantizes
NO_LAYER = (  # part of another, or of the entry
    "relu", "batch_norm", "requantize", "requantize_float", "quantize", "quantize_linear", "dequantize", "flatten",
)  # fmt: skip
KINDS = {"linear": "FC", "max_pool": "MAXPOOL", "sum_pool": "AVGPOOL", "average_pool": "AVGPOOL"}
CURES = {
    "table": "use ReLU, which costs nothing: it is the clip of the layer before",
    "activation": "use ReLU, which costs nothing: it is the clip of the layer before",
    "add": "leave the residual connection out, or accept it on the CPU",
    "add_float": "leave the residual connection out, or accept it on the CPU",
    "multiply": "leave the gate out (training.surgery does), or accept it on the CPU",
    "concat": "add the branches, or accept it on the CPU",
}
GROUPS_CURE = "use groups=1, or as many groups as channels"


@dataclass(frozen=True)
class Placement:
    """The graph with ``unit`` and ``layer`` on its layers, the layer table, and multiplications by unit: `work`.

    ``accelerator``: the device has one, be it switched off.
    """

    graph: Graph
    rows: tuple[LayerRow, ...]
    macs: Mapping[str, int]
    accelerator: bool

    @property
    def npu_share(self) -> float | None:
        """The accelerator's part of all multiplications: `share`."""
        return share(self.macs, accelerator=self.accelerator)

    def sentences(self) -> tuple[str, ...]:
        """For each layer that the accelerator does not take its reason and cure, then what was split, and padded."""
        moves = {node.name for node in self.graph.nodes if _moves_parts(node)}
        said = [
            f"layer '{row.name}' ({row.layer}, {row.shape}) runs on the CPU: {row.reason}"
            + (f" Cure: {row.cure}." if row.cure else "")
            for row in self.rows
            if row.reason and row.name not in moves
        ]
        split = {node.name for node in self.graph.nodes if "part_of" in node.attributes}
        costs = [(row, f"layer '{row.name}' ({row.layer}) {row.padding}") for row in self.rows if row.padding]
        for what, texts in (
            (
                "layers that the accelerator does not take are made of those that it does"
                + (" (the CPU moves what they read and make)" if moves else ""),
                [text for row, text in costs if row.name in split],
            ),
            (
                "zeros are padded where the accelerator works on more channels than there are",
                [text for row, text in costs if row.name not in split],
            ),
        ):
            said += [f"{what}: {'; '.join(texts)}"] if texts else []
        return tuple(said)


def place(graph: Graph, rules: Sequence[Rule], unit_name: str = "NPU", off: str = "") -> Placement:
    """Ask the rules about every layer.

    Args:
        graph: verified; float or integer, after the padding passes.
        rules: of the target; without any, every layer runs on the CPU.
        unit_name: how reasons call the accelerator.
        off: why the accelerator is not used at all: the reason of every layer; empty where it is used.
    """
    units: dict[str, str] = {}
    rows = []
    nodes = []
    for node in graph.nodes:
        if node.op in NO_LAYER:
            units[node.name] = units.get(node.inputs[0], "cpu")  # what follows a layer is fused to it
            if node.op.startswith("requantize"):
                node = node.with_attributes(unit=units[node.name])  # noqa: PLW2901
            nodes.append(node)
            continue
        layer = describe(graph, node)
        row = _row(node, layer, rules, unit_name, off, float_bias=_has_float_bias(graph, node))
        units[node.name] = row.unit
        rows.append(row)
        nodes.append(node.with_attributes(unit=row.unit, layer=row.layer))
    placed = Graph(graph.inputs, tuple(nodes), graph.outputs, graph.metadata)
    return Placement(placed, tuple(rows), work(placed), bool(rules))


def work(graph: Graph) -> dict[str, int]:
    """Multiply-accumulates of a placed graph's convolutions and linear layers by unit, ``npu`` and ``cpu``.

    Those by zeros that padding or splitting added are no work of the network's.
    """
    macs = {"npu": 0, "cpu": 0}
    for node in graph.nodes:
        if own := _macs(node):
            unit = "npu" if node.attributes.get("unit") == "npu" else "cpu"
            macs[unit] += own - _zero_macs(node, describe(graph, node))
    return macs


def share(macs: Mapping[str, int], *, accelerator: bool) -> float | None:
    """The part of the unit ``npu``, 0 to 1; None where the device has no accelerator."""
    if not accelerator:
        return None
    return macs["npu"] / sum(macs.values()) if macs["npu"] else 0.0


def describe(graph: Graph, node: Node) -> Layer:
    """What rules read of a layer."""
    shape = (*graph.type_of(node.inputs[0]).shape, 1, 1)[:3]
    in_channels, height, width = shape
    layer = Layer(
        name=node.name,
        kind=_kind(node),
        in_channels=in_channels,
        out_channels=node.type.shape[0],
        height=height,
        width=width,
        weight_bits=integer(node, "weight_bits", 8),
        activation_bits=integer(node, "activation_bits", 8),
        **_geometry(node, (height, width)),
    )
    return layer


def _geometry(node: Node, extent: tuple[int, int]) -> dict[str, Any]:
    if node.op == "conv":
        kernel = node.constants["weight"].shape[2:]
        padding = integers(node, "padding", 4)
        return {
            "kernel": kernel, "stride": integers(node, "stride", 2), "groups": integer(node, "groups"),
            "padding": padding,
        }  # fmt: skip
    if node.op == "max_pool":
        padding = integers(node, "padding", 4)
        return {"kernel": integers(node, "kernel", 2), "stride": integers(node, "stride", 2), "padding": padding}
    if node.op in ("sum_pool", "average_pool"):
        return {"kernel": extent}
    return {}


def _kind(node: Node) -> str:
    """The accelerator's word for an operation, or an empty text where it has none."""
    if node.op != "conv":
        return KINDS.get(node.op, "")
    if dilation_of(node) != (1, 1):  # no published layer has gaps
        return ""
    weight = node.constants["weight"].shape
    if is_depthwise(node):
        return "DWCONV"
    if integer(node, "groups") != 1:
        return ""
    if weight[1] == 1:
        return "FCONV"
    return "PWCONV" if weight[2:] == (1, 1) and integers(node, "stride", 2) == (1, 1) else "GCONV"


def _has_float_bias(graph: Graph, node: Node) -> bool:
    return any(user.op == "requantize_float" for user in graph.users(node.name))


def _row(
    node: Node, layer: Layer, rules: Sequence[Rule], unit_name: str, off: str, *, float_bias: bool = False
) -> LayerRow:
    reason, cure = off, ""
    if rules and not off and float_bias:
        reason, cure = f"float bias: the {unit_name} adds integers alone.", "quantize without float_ops"
    elif rules and not off:
        reason, cure = _verdict(node, layer, rules, unit_name)
    unit = "npu" if rules and not reason else "cpu"
    return LayerRow(
        name=node.name,
        layer=layer.kind if rules and layer.kind else node.op,
        unit=unit,
        shape=_shape(node, layer),
        output=node.type.shape,
        reason=reason,
        cure=cure,
        weight_bytes=_weight_bytes(node, layer, node.constants["weight"].size if "weight" in node.constants else 0),
        macs=_macs(node),
        padding="; ".join(filter(None, (_part(node, layer), _padding(node, layer)))),
        zero_macs=_zero_macs(node, layer),
    )


def _verdict(node: Node, layer: Layer, rules: Iterable[Rule], unit_name: str) -> tuple[str, str]:
    """Reason and cure of a CPU layer; two empty texts where every rule holds."""
    if not layer.kind:
        what, cure = _without_layer(node, layer)
        return f"the {unit_name} has no layer for {what}.", cure
    broken = [rule for rule in rules if layer.kind in rule.layers and not rule.check(layer)]
    reason = " ".join(rule.sentence for rule in broken)
    return reason, "; ".join(dict.fromkeys(filter(None, (rule.cure(layer) for rule in broken))))


def _without_layer(node: Node, layer: Layer) -> tuple[str, str]:
    """What the accelerator has no word for, and what to use instead."""
    if _moves_parts(node):
        return f"'{node.op}', which moves what parts of layer '{node.attributes['part_of']}' read and make", GROUPS_CURE
    if node.op != "conv":
        return f"'{node.op}'", CURES.get(node.op, "")
    if dilation_of(node) != (1, 1):
        return "a dilated convolution", "use dilation 1 with a longer kernel, or a stride"
    return f"a convolution in {layer.groups} groups", GROUPS_CURE


def _shape(node: Node, layer: Layer) -> str:
    if node.op == "linear":
        return f"{layer.in_channels} -> {layer.out_channels} features"
    parts = [f"{layer.in_channels} -> {layer.out_channels} channels"]
    if node.op in ("conv", "max_pool", "sum_pool", "average_pool"):
        parts.append(f"kernel {layer.kernel[0]}x{layer.kernel[1]}")
    if node.op in ("conv", "max_pool"):
        parts.append(f"stride {layer.stride[0]}x{layer.stride[1]}")
    if layer.groups > 1:
        parts.append(f"{layer.groups} groups")
    return ", ".join(parts)


def _weight_bytes(node: Node, layer: Layer, count: int) -> int:
    floats = "weight" in node.constants and node.constants["weight"].dtype == "float32"
    bits = integer(node, "weight_bits", FLOAT_BITS) if floats else layer.weight_bits
    return -(-count * bits // 8)


def _macs(node: Node) -> int:
    if node.op not in ("conv", "linear"):
        return 0
    return int(node.constants["weight"].size) * math.prod(node.type.shape[1:])


def _zero_macs(node: Node, layer: Layer) -> int:
    """Multiplications by the zeros that padding put around the weights, and splitting between groups."""
    held = integers(node, "part", 2)[0] if node.op == "conv" and "part" in node.attributes else 1
    return _macs(node) - _unpadded(node, layer) // held * math.prod(node.type.shape[1:]) if _macs(node) else 0


def _unpadded(node: Node, layer: Layer) -> int:
    """Weights of a layer without those of channels that padding added."""
    count = int(node.constants["weight"].size) * integer(node, "channels", layer.out_channels) // layer.out_channels
    if layer.groups != 1:
        return count
    return count * integer(node, "in_channels", layer.in_channels) // layer.in_channels


def _moves_parts(node: Node) -> bool:
    """Whether a node is there only to move what parts of a layer read and make."""
    return "part_of" in node.attributes and node.op in ("take", "concat")


def _part(node: Node, layer: Layer) -> str:
    """Which layer this is a part of, and what zeros between its groups, or the places of its input, cost."""
    whole = node.attributes.get("part_of")
    if whole is None or node.op == "concat":
        return ""
    if node.op == "take":
        return f"for '{whole}': +{place_bytes(node.constants['index'])} bytes of places"
    if node.op != "conv":
        return f"part of '{whole}'"
    held, groups = integers(node, "part", 2)
    what = f"its {groups} groups as one" if held == groups else f"{held} of {groups} groups of '{whole}'"
    count = int(node.constants["weight"].size)
    before = count // held
    macs = (count - before) * math.prod(node.type.shape[1:])
    size = _weight_bytes(node, layer, count) - _weight_bytes(node, layer, before)
    return f"{what}: +{macs} MACs, +{size} bytes of weights" if held > 1 else what


def _padding(node: Node, layer: Layer) -> str:
    """What padding added to a layer: channels, multiplications, bytes of weights."""
    made = integer(node, "channels", layer.out_channels)
    read = integer(node, "in_channels", layer.in_channels)
    if node.op not in ("conv", "linear"):
        return f"{made} -> {layer.out_channels} channels" if made != layer.out_channels else ""
    if (made, read) == (layer.out_channels, layer.in_channels):
        return ""
    count = int(node.constants["weight"].size)
    before = _unpadded(node, layer)
    what = "features" if node.op == "linear" else "channels"
    parts = []
    if read != layer.in_channels:
        parts.append(f"{read} -> {layer.in_channels} input {what}")
    if made != layer.out_channels:
        parts.append(f"{made} -> {layer.out_channels} output {what}")
    macs = (count - before) * math.prod(node.type.shape[1:])
    size = _weight_bytes(node, layer, count) - _weight_bytes(node, layer, before)
    return f"{', '.join(parts)}: +{macs} MACs, +{size} bytes of weights"
