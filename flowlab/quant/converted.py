"""The converted network as a torch module that gives integers: an execution of its own, built from the integer graph.

Sums are float64 convolutions of whole numbers (exact to 2^53); everything behind them is int64. It shares no kernel
with the training network, which works in float32 and folds bias and sum together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowlab.compiler.ir import Graph, Node
from flowlab.errors import GraphError

LEAST = {"int8": -128, "uint8": 0}


class Converted(nn.Module):
    """float32 features (batch, channel, height, width) -> int64 of the graph's output, float32 after a dequantize.

    Several outputs are a dict by name.
    """

    def __init__(self, graph: Graph) -> None:
        """Take the constants as buffers; GraphError for an operation that no integer graph has."""
        super().__init__()
        self.graph = graph
        self.names: dict[tuple[str, str], str] = {}
        for node in graph.nodes:
            if node.op not in _RUNNERS:
                raise GraphError(f"{node.name}: operation '{node.op}' is none of an integer graph's")
            for key, value in node.constants.items():
                self.names[node.name, key] = f"constant{len(self.names)}"
                self.register_buffer(self.names[node.name, key], torch.from_numpy(np.array(value)))

    def constant(self, node: Node, key: str) -> Tensor:
        """A constant of a node."""
        return self.get_buffer(self.names[node.name, key])

    def forward(self, x: Tensor) -> Any:
        """Run every node in order."""
        values: dict[str, Tensor] = {self.graph.inputs[0].name: x}
        for node in self.graph.nodes:
            values[node.name] = _RUNNERS[node.op](self, node, *(values[name] for name in node.inputs))
        outputs = {name: values[value] for name, value in self.graph.outputs.items()}
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))


def _channels(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape((1, -1) + (1,) * (like.ndim - 2))


def _limits(node: Node) -> tuple[int, int]:
    low, high = node.attributes["low"], node.attributes["high"]
    assert isinstance(low, int)
    assert isinstance(high, int)
    return low, high


def _numbers(node: Node, key: str) -> tuple[int, ...]:
    value = node.attributes[key]
    assert isinstance(value, tuple)
    return value


def _quantize(module: Converted, node: Node, x: Tensor) -> Tensor:
    product = (x + _channels(module.constant(node, "bias"), x)) * _channels(module.constant(node, "multiplier"), x)
    whole = torch.floor(product).clamp(-(2.0**62), 2.0**62).to(torch.int64)  # clipped far below in any case
    return (whole >> _channels(module.constant(node, "shift").long(), x)).clamp(*_limits(node))


def _conv(module: Converted, node: Node, x: Tensor) -> Tensor:
    top, left, bottom, right = _numbers(node, "padding")
    groups = node.attributes["groups"]
    assert isinstance(groups, int)
    padded = F.pad(x, (left, right, top, bottom)).double()
    stride, dilation = _numbers(node, "stride"), node.attributes.get("dilation", (1, 1))
    assert isinstance(dilation, tuple)
    sums = F.conv2d(padded, module.constant(node, "weight").double(), None, stride, 0, dilation, groups)
    return sums.round().to(torch.int64)


def _linear(module: Converted, node: Node, x: Tensor) -> Tensor:
    return F.linear(x.double(), module.constant(node, "weight").double()).round().to(torch.int64)


def _sum_pool(module: Converted, node: Node, x: Tensor) -> Tensor:
    return x.sum(dim=(2, 3), keepdim=True)


def _requantize(module: Converted, node: Node, x: Tensor) -> Tensor:
    half_up = node.attributes["rounding"] == "half_up"
    if not (half_up or node.attributes["rounding"] == "floor") or node.attributes["bias_before_multiply"] is not True:
        raise GraphError(f"{node.name}: only floor and half_up, with the bias before the multiplier, are run here")
    bias, multiplier, shift = (
        _channels(module.constant(node, key).long(), x) for key in ("bias", "multiplier", "shift")
    )
    product = ((x + bias) * multiplier) << (-shift).clamp(min=0)
    right = shift.clamp(min=0)
    if half_up:
        product = product + ((torch.ones_like(right) << right) >> 1)  # nothing where nothing is shifted out
    return (product >> right).clamp(*_limits(node))


def _requantize_float(module: Converted, node: Node, x: Tensor) -> Tensor:
    real = x.float() * _channels(module.constant(node, "ratio"), x)
    return torch.floor(real + _channels(module.constant(node, "bias"), x)).clamp(*_limits(node)).to(torch.int64)


def _max_pool(module: Converted, node: Node, x: Tensor) -> Tensor:
    top, left, bottom, right = _numbers(node, "padding")
    padded = F.pad(x, (left, right, top, bottom), value=torch.iinfo(torch.int64).min)
    (height, width), (down, across) = _numbers(node, "kernel"), _numbers(node, "stride")
    return padded.unfold(2, height, down).unfold(3, width, across).amax(dim=(4, 5))


def _flatten(module: Converted, node: Node, x: Tensor) -> Tensor:
    return x.reshape(len(x), -1)


def _reshape(module: Converted, node: Node, x: Tensor) -> Tensor:
    return x.reshape(len(x), *node.type.shape)


def _take(module: Converted, node: Node, x: Tensor) -> Tensor:
    index = module.constant(node, "index").long()
    taken = x.flatten(1).index_select(1, index.clamp(min=0)) * (index >= 0)
    return taken.reshape(len(x), *node.type.shape)


def _concat(module: Converted, node: Node, left: Tensor, right: Tensor) -> Tensor:
    return torch.cat([left, right], dim=1)


def _multiply(module: Converted, node: Node, left: Tensor, right: Tensor) -> Tensor:
    return left * right


def _table(module: Converted, node: Node, x: Tensor) -> Tensor:
    least = LEAST[module.graph.type_of(node.inputs[0]).dtype]
    return module.constant(node, "entries").long()[x - least]


def _add(module: Converted, node: Node, left: Tensor, right: Tensor) -> Tensor:
    return left + right


def _dequantize(module: Converted, node: Node, x: Tensor) -> Tensor:
    scale = node.attributes["scale"]
    assert isinstance(scale, float)
    return x.float() * scale


_RUNNERS: dict[str, Callable[..., Tensor]] = {
    "quantize": _quantize,
    "conv": _conv,
    "linear": _linear,
    "sum_pool": _sum_pool,
    "requantize": _requantize,
    "requantize_float": _requantize_float,
    "max_pool": _max_pool,
    "flatten": _flatten,
    "reshape": _reshape,
    "take": _take,
    "concat": _concat,
    "multiply": _multiply,
    "table": _table,
    "add": _add,
    "dequantize": _dequantize,
}
