"""From the fake-quantized network to the integer graph that ships."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from flowlab.compiler.ir import Attribute, Graph, Input, Node, TensorType
from flowlab.compiler.verify import verify
from flowlab.contracts import NumberFormat
from flowlab.quant.fake_layer import FakeLayer
from flowlab.quant.fake_network import FakeAverage, FakeQuantized, FakeTable
from flowlab.quant.steps import (
    AverageStep,
    FlattenStep,
    InputStep,
    LayerStep,
    PoolStep,
    Step,
    TableStep,
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
    value = plan.output
    if not output_int:
        scale = network.output_scale
        type_ = TensorType("float32", plan.last.shape)
        nodes.append(Node(f"{plan.last.name}.dequantize", "dequantize", (value,), type_, {"scale": scale}))
        value = nodes[-1].name
    graph = Graph(
        (Input(plan.input, TensorType("float32", plan.input_shape)),), tuple(nodes), {plan.output_name: value}, metadata
    )
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
    step: LayerStep | AverageStep,
    limits: tuple[int, int],
    numbers: Mapping[str, NDArray[np.int32]],
) -> Node:
    attributes: dict[str, Attribute] = {
        "low": limits[0],
        "high": limits[1],
        "rounding": "floor",
        "bias_before_multiply": True,
    }
    return Node(value_of(step), "requantize", (step.name,), _type(network, step), attributes, numbers)


def _layer(network: FakeQuantized, step: LayerStep, part: FakeLayer, bits: int) -> list[Node]:
    whole = part.integers()
    weight: Mapping[str, NDArray[np.generic]] = {"weight": whole.weight}
    attributes = {**step.geometry, "weight_bits": part.bits}
    sums = Node(step.name, step.op, (step.source,), TensorType("int32", step.shape, 0.0), attributes, weight)
    numbers = {"bias": whole.bias, "multiplier": whole.multiplier, "shift": whole.shift}
    return [sums, _requantize(network, step, (part.low, part.high), numbers)]


def _average(network: FakeQuantized, step: AverageStep, part: FakeAverage, bits: int) -> list[Node]:
    scale = network.scales.scale[step.source]
    sums = Node(step.name, "sum_pool", (step.source,), TensorType("int32", step.shape, scale / step.area))
    ones = np.ones(step.shape[0], np.int32)
    numbers = {"bias": ones * int(part.offset), "multiplier": ones, "shift": ones * part.shift}
    numbers = {key: _ints(value) for key, value in numbers.items()}
    return [sums, _requantize(network, step, (part.low, part.high), numbers)]


def _pool(network: FakeQuantized, step: PoolStep, part: object, bits: int) -> list[Node]:
    attributes = {"kernel": step.kernel, "stride": step.stride, "padding": step.padding}
    return [Node(step.name, "max_pool", (step.source,), _type(network, step), attributes)]


def _flatten(network: FakeQuantized, step: FlattenStep, part: object, bits: int) -> list[Node]:
    return [Node(step.name, "flatten", (step.source,), _type(network, step))]


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
    AverageStep: _average,
    PoolStep: _pool,
    FlattenStep: _flatten,
    TableStep: _table,
}
