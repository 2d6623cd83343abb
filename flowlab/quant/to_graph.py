"""From the fake-quantized network to the integer graph that ships."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from flowlab.compiler.ir import Attribute, Graph, Input, Node, TensorType
from flowlab.compiler.verify import verify
from flowlab.contracts import NumberFormat
from flowlab.quant.fake_layer import FakeLayer
from flowlab.quant.fake_network import FakeQuantized
from flowlab.quant.fake_parts import FakeSum, FakeTable
from flowlab.quant.steps import (
    AddStep,
    AverageStep,
    ConcatStep,
    FlattenStep,
    InputStep,
    LayerStep,
    MultiplyStep,
    PoolStep,
    ReshapeStep,
    Step,
    SumStep,
    TableStep,
    TakeStep,
    sources_of,
    value_of,
)

ENTRIES = 256  # of every table: one for each integer of 8 bits
LEAST = {False: -128, True: 0}  # of them, by whether they are unsigned


def to_graph(
    network: FakeQuantized, *, format: NumberFormat, bits: int, output_int: bool, metadata: Mapping[str, str]
) -> Graph:
    """The integer graph of a network, verified against the number format.

    Args:
        bits: of the weights.
        output_int: False ends the graph in one float32 multiplication by the output's scale.
        metadata: texts that the graph carries.

    Raises:
        QuantizationError: naming the layer, where training moved a value out of the machine's width.
        GraphError: where the result breaks a law of the graph: an error of ours.
    """
    plan = network.plan
    nodes: list[Node] = []
    for step, part in zip(plan.steps, network.parts, strict=True):
        nodes += _MAKERS[type(step)](network, step, part, bits)
    outputs = dict(plan.outputs)
    if not output_int:
        for value in dict.fromkeys(plan.outputs.values()):
            maker, scale = plan.maker(value), float(np.float32(network.scales.scale[value]))
            type_ = TensorType("float32", maker.shape)
            nodes.append(Node(f"{maker.name}.dequantize", "dequantize", (value,), type_, {"scale": scale}))
            outputs |= {name: nodes[-1].name for name, each in plan.outputs.items() if each == value}
    graph = Graph((Input(plan.input, TensorType("float32", plan.input_shape)),), tuple(nodes), outputs, metadata)
    verify(graph, format)
    return graph


def _type(network: FakeQuantized, step: Step) -> TensorType:
    name = value_of(step)
    dtype = "uint8" if network.scales.range[name][0] == 0 else "int8"
    return TensorType(dtype, step.shape, network.scales.scale[name])


def _ints(values: NDArray[np.generic]) -> NDArray[np.int32]:
    return np.ascontiguousarray(values.astype(np.int32))


def _input(network: FakeQuantized, step: InputStep, part: object, bits: int) -> list[Node]:
    numbers = network.scales.inputs[step.name]
    low, high = network.scales.range[step.name]
    constants = {"bias": numbers.bias, "multiplier": _ints(numbers.multiplier), "shift": _ints(numbers.shift)}
    attributes = {"low": low, "high": high}
    return [Node(step.name, "quantize", (step.source,), _type(network, step), attributes, constants)]


def _requantize(
    network: FakeQuantized,
    step: LayerStep | SumStep,
    limits: tuple[int, int],
    numbers: Mapping[str, NDArray[np.int32]],
) -> Node:
    attributes: dict[str, Attribute] = {
        "low": limits[0],
        "high": limits[1],
        "rounding": network.format.rounding,
        "bias_before_multiply": True,
    }
    return Node(value_of(step), "requantize", (step.name,), _type(network, step), attributes, numbers)


def _layer(network: FakeQuantized, step: LayerStep, part: FakeLayer, bits: int) -> list[Node]:
    whole = part.integers()
    weight: Mapping[str, NDArray[np.generic]] = {"weight": whole.weight}
    attributes = {**step.geometry, "weight_bits": part.bits}
    sums = Node(step.name, step.op, (step.source,), TensorType("int32", step.shape, 0.0), attributes, weight)
    if whole.floats is not None:
        floats = dict(zip(("ratio", "bias"), whole.floats, strict=True))
        limits: dict[str, Attribute] = {"low": part.low, "high": part.high}
        return [sums, Node(value_of(step), "requantize_float", (step.name,), _type(network, step), limits, floats)]
    numbers = {"bias": whole.bias, "multiplier": whole.multiplier, "shift": whole.shift}
    return [sums, _requantize(network, step, (part.low, part.high), numbers)]


def _sum(network: FakeQuantized, step: SumStep, part: FakeSum, bits: int) -> list[Node]:
    scale, *more = (network.scales.scale[source] for source in sources_of(step))
    op = {AverageStep: "sum_pool", AddStep: "add", MultiplyStep: "multiply"}[type(step)]
    if isinstance(step, AverageStep):
        scale /= step.area
    elif isinstance(step, MultiplyStep):
        scale *= more[0]
    sums = Node(step.name, op, sources_of(step), TensorType("int32", step.shape, scale))
    ones = np.ones(step.shape[0], np.int32)
    offset = int(part.offset) if network.format.rounding == "floor" else 0  # else the machine rounds by itself
    numbers = {"bias": ones * offset, "multiplier": ones * part.multiplier, "shift": ones * part.shift}
    numbers = {key: _ints(value) for key, value in numbers.items()}
    return [sums, _requantize(network, step, (part.low, part.high), numbers)]


def _same(network: FakeQuantized, step: FlattenStep | ReshapeStep, part: object, bits: int) -> list[Node]:
    op = "flatten" if isinstance(step, FlattenStep) else "reshape"
    return [Node(step.name, op, (step.source,), _type(network, step))]


def _take(network: FakeQuantized, step: TakeStep, part: object, bits: int) -> list[Node]:
    return [Node(step.name, "take", (step.source,), _type(network, step), constants={"index": step.index})]


def _concat(network: FakeQuantized, step: ConcatStep, part: object, bits: int) -> list[Node]:
    return [Node(step.name, "concat", step.sources, _type(network, step))]


def _pool(network: FakeQuantized, step: PoolStep, part: object, bits: int) -> list[Node]:
    attributes = {"kernel": step.kernel, "stride": step.stride, "padding": step.padding}
    return [Node(step.name, "max_pool", (step.source,), _type(network, step), attributes)]


def _table(network: FakeQuantized, step: TableStep, part: FakeTable, bits: int) -> list[Node]:
    """256 entries; those beyond a narrow input's integers repeat the last one, and are never read."""
    type_ = _type(network, step)
    least = LEAST[part.least == 0]
    index = np.clip(np.arange(least, least + ENTRIES), part.least, part.most) - part.least
    entries = part.entries.numpy().astype(type_.dtype)[index]
    return [Node(step.name, "table", (step.source,), type_, constants={"entries": entries})]


_MAKERS: dict[type, Callable[..., list[Node]]] = {
    InputStep: _input,
    LayerStep: _layer,
    AverageStep: _sum,
    AddStep: _sum,
    MultiplyStep: _sum,
    PoolStep: _pool,
    FlattenStep: _same,
    ReshapeStep: _same,
    TakeStep: _take,
    ConcatStep: _concat,
    TableStep: _table,
}
