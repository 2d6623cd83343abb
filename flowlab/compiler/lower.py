"""Integer graph -> program: fuse each accumulator with its requantization, plan the arena, list what lies where.

Nobody past this file sees the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flowlab.compiler import allocate
from flowlab.compiler.infer import dilation_of, place_bytes
from flowlab.compiler.ir import Graph, Node
from flowlab.compiler.pipeline import apply_passes, program_passes
from flowlab.compiler.program import (
    OPS,
    OUTSIDE,
    RENAMES,
    REQUANTIZED,
    ROUNDINGS,
    Container,
    GoldenVectors,
    Layer,
    Tensor,
    check_layer,
    is_wide,
    packed_size,
)
from flowlab.compiler.steps import Work, steps_of
from flowlab.contracts import LayerRow
from flowlab.errors import ProgramError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowlab.contracts import Golden


def lower(graph: Graph, source_sha256: str) -> Container:
    """A placed integer graph -> program without golden vectors: scheduled, allocated, and each layer with its numbers.

    Raises:
        ProgramError: naming the node that a program cannot hold.
    """
    if len(graph.inputs) != 1:
        raise ProgramError(f"a program has one input; the graph has {len(graph.inputs)}")
    graph = apply_passes(graph, program_passes())
    works = [work for work in steps_of(graph).works if work.nodes[-1].type.dtype != "int32"]
    nodes = [_layer_nodes(work) for work in works]
    values = [graph.inputs[0].name, *(node.name for node, _ in nodes)]
    index = {name: at for at, name in enumerate(values)}
    tensors = [_tensor(graph, name) for name in values]
    for name, value in graph.outputs.items():
        if value not in index:
            raise ProgramError(f"output '{name}' is the accumulator '{value}'; a program's outputs are requantized")
    layers = tuple(_layer(node, accumulator, index) for node, accumulator in nodes)
    for layer in layers:
        check_layer(layer, [tensors[at] for at in layer.inputs], tensors[layer.output])
    outputs = {name: index[value] for name, value in graph.outputs.items()}
    size = _prove(layers, tensors, outputs)
    return Container(tuple(tensors), layers, outputs, size, source_sha256)


def _layer_nodes(work: Work) -> tuple[Node, Node | None]:
    """A node that makes a tensor, and the accumulating node that it requantizes."""
    node = work.nodes[-1]
    if node.op != "requantize":
        return node, None
    accumulator = work.nodes[0]
    if accumulator.op not in REQUANTIZED:
        raise ProgramError(
            f"node '{node.name}': '{node.inputs[0]}' is no accumulator that it alone requantizes; "
            "a program holds an accumulator and its requantization as one layer"
        )
    if node.attributes.get("rounding", "floor") not in ROUNDINGS:
        raise ProgramError(
            f"node '{node.name}': rounds by '{node.attributes['rounding']}'; a program by {', '.join(ROUNDINGS)}"
        )
    return node, accumulator


def _tensor(graph: Graph, name: str) -> Tensor:
    type_ = graph.type_of(name)
    attributes = graph.node(name).attributes if name != graph.inputs[0].name else {}
    channels, offset = (
        _integer(attributes.get(key, default)) for key, default in (("channels", type_.shape[0]), ("offset", OUTSIDE))
    )
    if len(type_.shape) not in (1, 3) or type_.dtype not in ("float32", "int8", "uint8"):
        raise ProgramError(f"value '{name}': {type_.dtype} {type_.shape} is no tensor of a program")
    return Tensor(name, type_.dtype, type_.shape, channels, offset, type_.scale, type_.zero_point)


def _integer(value: object) -> int:
    assert isinstance(value, int)
    return value


def _integers(value: object) -> tuple[int, ...]:
    assert isinstance(value, tuple)
    return value


def _layer(node: Node, accumulator: Node | None, index: Mapping[str, int]) -> Layer:
    work = accumulator or node
    if work.op not in OPS:
        raise ProgramError(f"node '{work.name}': a program has no operation '{work.op}'")
    missing = [name for name in work.inputs if name not in index]
    if missing:
        raise ProgramError(f"node '{work.name}' reads '{missing[0]}', which is no 8-bit value")
    attributes = {**node.attributes, **work.attributes}
    kind = attributes.get("layer") or work.op
    layer = Layer(
        name=node.name,
        op=work.op,
        kind=str(kind),
        unit=str(attributes.get("unit", "cpu")),
        inputs=tuple(index[name] for name in work.inputs),
        output=index[node.name],
    )
    return replace(layer, **_details(work, node))


def _details(work: Node, node: Node) -> dict[str, Any]:
    """What an operation has besides inputs and output, as fields of `Layer`."""
    details: dict[str, Any] = {}
    attributes, constants = work.attributes, work.constants
    if work.op in ("conv", "linear"):
        weight = np.asarray(constants["weight"], np.int8)
        details["weight"] = weight if weight.ndim == 4 else weight[:, :, None, None]
        details["weight_bits"] = _integer(attributes.get("weight_bits", 8))
        details["kernel"] = tuple(details["weight"].shape[2:])
    if work.op == "max_pool":
        details["kernel"] = _integers(attributes["kernel"])
    if work.op in ("conv", "max_pool"):
        details["stride"], details["padding"] = _integers(attributes["stride"]), _integers(attributes["padding"])
    if work.op == "conv":
        details["groups"] = _integer(attributes["groups"])
        details["dilation"] = dilation_of(work)
    if node.op in ("requantize", "quantize", "quantize_linear", "add_float"):
        details["low"], details["high"] = _integer(node.attributes["low"]), _integer(node.attributes["high"])
    if node.op == "requantize":
        details["rounding"] = str(node.attributes.get("rounding", "floor"))
        details["bias_last"] = not node.attributes.get("bias_before_multiply", True)
    if node.op in ("requantize", "quantize"):
        details["bias"] = np.asarray(node.constants["bias"], np.float32 if node.op == "quantize" else np.int32)
        details["multiplier"] = np.asarray(node.constants["multiplier"], np.int32)
        details["shift"] = np.asarray(node.constants["shift"], np.int32)
    if node.op == "quantize":  # an input step has rows for the variables that it reads; padded channels are zeros
        read = _integer(attributes.get("channels", node.type.shape[0]))
        details.update({key: details[key][:read] for key in ("bias", "multiplier", "shift")})
    if work.op == "table":
        details["entries"] = np.asarray(constants["entries"], np.int16)
    if work.op == "take":
        details["index"] = np.asarray(constants["index"], np.int32)
    if work.op == "dequantize":
        scale = attributes["scale"]
        assert isinstance(scale, int | float)
        details["scale"] = float(np.float32(scale))
    return details


# --- memory -------------------------------------------------------------------------------------


def roots(layers: Sequence[Layer]) -> dict[int, int]:
    """Each tensor's storage: what a flatten or reshape makes is its source under another shape."""
    root: dict[int, int] = {}
    for layer in layers:
        for at in (*layer.inputs, layer.output):
            root.setdefault(at, at)
        if layer.op in RENAMES:
            root[layer.output] = root[layer.inputs[0]]
    return root


def _prove(layers: Sequence[Layer], tensors: Sequence[Tensor], outputs: Mapping[str, int]) -> int:
    """The bytes of the arena, in which every 8-bit tensor but the quantized input has its place; the plan holds.

    Raises:
        ProgramError: if a layer reads what another one has overwritten.
    """
    root = roots(layers)
    first = layers[0].output

    def stored(at: int) -> bool:
        return tensors[at].dtype != "float32" and root[at] != first

    steps = [
        allocate.Step(
            tuple(tensors[root[at]].name for at in layer.inputs if stored(at)),
            (tensors[layer.output].name,) if stored(layer.output) and layer.op not in RENAMES else (),
        )
        for layer in layers
    ]
    places = {tensors[at].name: tensors[at].offset for at in root if stored(at) and root[at] == at}
    sizes = {tensor.name: tensor.size for tensor in tensors}
    keep = tuple(tensors[root[at]].name for at in outputs.values() if stored(at))
    arena = allocate.Arena(places, max((place + sizes[name] for name, place in places.items()), default=0))
    allocate.check(arena, steps, sizes, keep)
    return arena.size


def memory(
    container: Container, char_bytes: int = 1, constants: Mapping[str, int] | None = None, arena: int | None = None
) -> dict[str, dict[str, int]]:
    """Bytes of constant data (flash) and of activations (RAM); code is not counted: no compiler has seen it.

    ``constants`` by layer and ``arena`` where C keeps them otherwise than the program. A tensor outside the arena is
    the caller's: the quantized input, and float outputs. ``char_bytes`` is 2 on a core whose smallest addressable unit
    has 16 bits: an 8-bit value takes as much there.
    """
    flash = dict(constants or {})
    for layer in container.layers if constants is None else ():
        size = constant_bytes(layer, char_bytes)
        if size:
            flash[layer.name] = size
    outside = {
        tensor.name: tensor.size * (4 if tensor.dtype == "float32" else char_bytes)
        for at, tensor in enumerate(container.tensors)
        if tensor.offset == OUTSIDE and (at == container.first().output or at in container.outputs.values())
    }
    return {"flash": flash, "ram": {"arena": (container.arena if arena is None else arena) * char_bytes, **outside}}


def constant_bytes(layer: Layer, char_bytes: int = 1) -> int:
    """Bytes of weights, biases, multipliers, shifts, tables and places of one layer."""
    rows = 0 if layer.bias is None else layer.bias.size
    per_row = 12 if layer.op == "quantize" else 4 + (4 if layer.bias is not None and is_wide(layer) else 2) + char_bytes
    table = 256 * 2 if layer.entries is not None else 0  # 16-bit entries
    index = 0 if layer.index is None else place_bytes(layer.index)
    return weight_bytes(layer) * char_bytes + rows * per_row + table + index


def index_bytes(layer: Layer) -> int:
    """Bytes of one place of a take in C."""
    assert layer.index is not None
    return place_bytes(layer.index) // max(1, layer.index.size)


def weight_bytes(layer: Layer) -> int:
    """Bytes of packed weights: one, two or four weights a byte."""
    return 0 if layer.weight is None else packed_size(int(layer.weight.size), layer.weight_bits)


# --- vectors and rows ---------------------------------------------------------------------------


def with_golden(container: Container, golden: Golden) -> Container:
    """The same program with vectors inside; outputs and layer CRCs are taken by name.

    Raises:
        ProgramError: if the vectors lack an output or a layer of the program.
    """
    count = len(golden.features)
    lacking = {layer.name for layer in container.traced()} - set(golden.layer_crc)
    lacking |= set(container.outputs) - set(golden.outputs)
    if lacking:
        raise ProgramError(f"golden vectors lack {', '.join(sorted(lacking))}; run validate again")
    outputs = tuple(_words(golden.outputs[name]).reshape(count, -1) for name in container.outputs)
    crc = [np.asarray(golden.layer_crc[layer.name], np.uint32) for layer in container.traced()]
    vectors = GoldenVectors(
        np.asarray(golden.features, np.float32).reshape(count, -1),
        _padded_inputs(container, np.asarray(golden.inputs, np.int8)).reshape(count, -1),
        outputs,
        np.stack(crc, axis=1) if crc else np.zeros((count, 0), np.uint32),
    )
    return replace(container, golden=vectors)


def _padded_inputs(container: Container, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    """Quantized inputs with the zeros that a padding pass added, where they come without them."""
    lacking = container.tensors[container.first().output].shape[0] - inputs.shape[1]
    return np.pad(inputs, [(0, 0), (0, lacking)] + [(0, 0)] * (inputs.ndim - 2)) if lacking > 0 else inputs


def _words(values: NDArray[Any]) -> NDArray[np.int32]:
    """Integers as they are, floats by their bits."""
    if np.issubdtype(values.dtype, np.floating):
        return np.ascontiguousarray(values, np.float32).view(np.int32)
    return values.astype(np.int32)


def layer_rows(container: Container) -> tuple[LayerRow, ...]:
    """The program's layers as rows of the layer table."""
    return tuple(_row(container, layer) for layer in container.layers)


def _row(container: Container, layer: Layer) -> LayerRow:
    source, result = container.tensors[layer.inputs[0]], container.tensors[layer.output]
    shape = f"{source.shape[0]} -> {result.shape[0]} channels"
    if layer.op in ("conv", "max_pool"):
        shape += f", kernel {layer.kernel[0]}x{layer.kernel[1]}, stride {layer.stride[0]}x{layer.stride[1]}"
    if layer.dilation != (1, 1):
        shape += f", dilation {layer.dilation[0]}x{layer.dilation[1]}"
    if layer.groups > 1:
        shape += f", {layer.groups} groups"
    return LayerRow(
        name=layer.name,
        layer=layer.kind,
        unit=layer.unit,
        shape=shape,
        output=result.shape,
        weight_bytes=weight_bytes(layer),
        macs=macs(container, layer),
    )


def macs(container: Container, layer: Layer) -> int:
    """Multiply-accumulates of one layer: of its weights, zeros that padding added among them."""
    return 0 if layer.weight is None else int(layer.weight[0].size) * container.tensors[layer.output].size
