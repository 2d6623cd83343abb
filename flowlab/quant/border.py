"""Between a caller's tensors and the graph's: ranks, names and containers, in torch and in ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from flowlab.errors import OptionError

Shape = tuple[int, ...]
ENDINGS = {"softmax": torch.softmax, "log_softmax": torch.log_softmax}


@dataclass(frozen=True)
class Border:
    """What a network takes and gives outside, without the batch.

    ``input`` is the caller's shape, ``graph_input`` the graph's (a series ``(channel, length)`` is ``(channel, length,
    1)`` there); ``outputs`` the shape of each output by its name; ``structure`` what the outputs are in;
    ``endings`` the softmax at an output's end that the graph leaves out: kind and dimension.
    """

    input: Shape
    graph_input: Shape
    outputs: Mapping[str, Shape]
    structure: str
    endings: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    def inside(self, x: Tensor) -> Tensor:
        """The caller's input as the graph takes it."""
        return x if self.input == self.graph_input else x.reshape(len(x), *self.graph_input)

    def outside(self, found: Tensor | Mapping[str, Tensor], *, ended: bool = False) -> Any:
        """What the graph gives, as the caller's module gave it: a tensor, or a tuple, list or dict of them.

        ``ended``: with the softmax that the graph leaves out.
        """
        parts = {next(iter(self.outputs)): found} if isinstance(found, Tensor) else dict(found)
        shaped = {
            name: part if tuple(part.shape[1:]) == self.outputs[name] else part.reshape(len(part), *self.outputs[name])
            for name, part in parts.items()
        }
        if ended:
            shaped |= {name: ENDINGS[kind](shaped[name], dim) for name, (kind, dim) in self.endings.items()}
        if self.structure == "dict":
            return shaped
        if self.structure in ("tuple", "list"):
            return (tuple if self.structure == "tuple" else list)(shaped.values())
        return next(iter(shaped.values()))


def named(model: bytes, border: Border, inputs: Sequence[str] | None, outputs: Sequence[str] | None) -> bytes:
    """An ONNX model with the caller's names and ranks at its input and outputs; equal models give equal bytes.

    Raises:
        OptionError: for another number of names than there are, an empty one, or one that a layer has.
    """
    proto = onnx.load_model_from_string(model)
    graph = proto.graph
    taken = {name for node in graph.node for name in node.output} | {one.name for one in graph.initializer}
    ends = [(graph.input[0], _names("input_names", inputs, 1, [graph.input[0].name])[0], border.input)]
    wanted = _names("output_names", outputs, len(graph.output), [one.name for one in graph.output])
    shapes = list(border.outputs.values())
    ends += [(one, name, shape) for one, name, shape in zip(graph.output, wanted, shapes, strict=True)]
    names = [name for _, name, _ in ends]
    own = {one.name for one, _, _ in ends}
    for name in names:
        if (name in taken and name not in own) or names.count(name) > 1:
            raise OptionError(f"the name '{name}' is taken in this network: choose another one")
    inner = {one.name: _inner(one, name, shape) for one, name, shape in ends}
    for node in graph.node:
        for names_ in (node.input, node.output):
            for place, name in enumerate(names_):
                names_[place] = inner.get(name, name)
    for number, (one, name, shape) in enumerate(ends):
        if inner[one.name] != name:
            source, target = (name, inner[one.name]) if number == 0 else (inner[one.name], name)
            _add_reshape(graph, source, target, shape_in(one) if number == 0 else shape, first=number == 0)
        one.CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]))
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString(deterministic=True))


def shape_in(value: onnx.ValueInfoProto) -> Shape:
    """The shape that a model declares, without the batch."""
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])


def _names(argument: str, given: Sequence[str] | None, count: int, own: list[str]) -> list[str]:
    if given is None:
        return own
    names = [given] if isinstance(given, str) else list(given) if isinstance(given, list | tuple) else []
    if len(names) != count or not all(isinstance(name, str) and name for name in names):
        raise OptionError(f"{argument}: {given!r}; {count} non-empty text{'s' if count > 1 else ''} expected")
    return names


def _inner(one: onnx.ValueInfoProto, name: str, shape: Shape) -> str:
    """The tensor's name inside: the caller's, unless a change of shape stands between them."""
    return name if shape_in(one) == shape else f"{name}.inside"


def _add_reshape(graph: onnx.GraphProto, source: str, target: str, shape: Shape, *, first: bool) -> None:
    """From one name to another in a new shape, behind the input or before the output."""
    constant = f"{source}.shape"
    graph.initializer.append(numpy_helper.from_array(np.array([-1, *shape], np.int64), constant))
    node = helper.make_node("Reshape", [source, constant], [target], name=f"{source}.reshape")
    if first:
        graph.node.insert(0, node)
    else:
        graph.node.append(node)
