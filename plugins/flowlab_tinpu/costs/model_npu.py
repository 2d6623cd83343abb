"""The model NPU: an open machine whose cycles are counted from a network's structure. It is not TI's.

TI publishes neither the inside of its NPU nor its cycles layer by layer. The model NPU is what the program container
is packed for: an array that multiplies 4 input channels by 4 output channels in a cycle, one place of the kernel after
the other. A layer takes, one after the other and without overlap:

* set-up, the same for each layer;
* the load of its packed weights over a bus;
* the work: for each place of the output, each block of output channels, each place of the kernel and each block of
  input channels one cycle. A first convolution of one channel uses one row of the array, and a depthwise convolution
  its diagonal, a quarter each; a pool takes a cycle for a block of channels and a place of its window;
* the write of its outputs, a block of channels in a cycle.

So narrow weights load faster and multiply as fast as wide ones. Layers on the CPU take none of these cycles.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from flowlab.contracts import ModelCycles

if TYPE_CHECKING:
    from flowlab.compiler.ir import Graph, Node


@dataclass(frozen=True)
class ModelNpu:
    """The numbers of the machine."""

    array_outputs: int = 4
    array_inputs: int = 4
    bus_bytes: int = 4  # of weights, loaded in a cycle
    setup_cycles: int = 64  # of each layer

    @property
    def macs_a_cycle(self) -> int:
        """What the whole array does."""
        return self.array_outputs * self.array_inputs


MODEL_NPU = ModelNpu()


def cycles(npu: ModelNpu, graph: Graph) -> ModelCycles:
    """Cycles of each layer that the placement put on the NPU, by its node."""
    layers = [node for node in graph.nodes if "layer" in node.attributes and node.attributes.get("unit") == "npu"]
    by_layer = {node.name: _layer(npu, graph, node) for node in layers}
    return ModelCycles("model NPU", by_layer, npu.macs_a_cycle, asdict(npu))


def _layer(npu: ModelNpu, graph: Graph, node: Node) -> int:
    out_channels, *places = node.type.shape
    blocks = -(-out_channels // npu.array_outputs)
    written = blocks * math.prod(places)
    return npu.setup_cycles + _load(npu, node) + written * _window(npu, graph, node) + written


def _load(npu: ModelNpu, node: Node) -> int:
    from flowlab.compiler.infer import integer

    if "weight" not in node.constants:
        return 0
    packed = -(-node.constants["weight"].size * integer(node, "weight_bits", 8) // 8)
    return int(-(-packed // npu.bus_bytes))


def _window(npu: ModelNpu, graph: Graph, node: Node) -> int:
    """Cycles of one block of outputs at one place."""
    from flowlab.compiler.channels import is_depthwise
    from flowlab.compiler.infer import integers

    if node.op == "max_pool":
        return math.prod(integers(node, "kernel", 2))
    if "weight" not in node.constants:  # a sum over all places
        return math.prod(graph.type_of(node.inputs[0]).shape[1:])
    _, fan_in, *kernel = node.constants["weight"].shape
    inputs = 1 if node.op == "conv" and is_depthwise(node) else -(-fan_in // npu.array_inputs)
    return int(inputs * math.prod(kernel))
