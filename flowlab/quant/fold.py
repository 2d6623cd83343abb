"""Fold batch norms and clips into the layers before them: float graph -> steps of an integer network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from flowlab.compiler.infer import integer, integers
from flowlab.compiler.ir import Attribute, Graph, Node
from flowlab.errors import QuantizationError
from flowlab.quant.activation import ACTIVATIONS, CLIPS
from flowlab.quant.sharing import rescaled
from flowlab.quant.steps import (
    NO_CLIP,
    AddStep,
    AverageStep,
    ConcatStep,
    FlattenStep,
    FloatArray,
    InputStep,
    LayerStep,
    MultiplyStep,
    Norm,
    PoolStep,
    Raw,
    ReshapeStep,
    Step,
    Steps,
    TableStep,
    TakeStep,
    value_of,
)


def fold(graph: Graph) -> Steps:
    """The steps of a float graph.

    Raises:
        QuantizationError: with every problem of `problems`, one sentence each.
    """
    found = problems(graph)
    if found:
        raise QuantizationError(" ".join(found))
    return _Folder(graph).steps()


def problems(graph: Graph) -> list[str]:
    """What the integer network cannot express, one sentence each; empty where nothing is wrong. Needs no data."""
    found = []
    if len(graph.inputs) != 1:
        found.append(f"the network has {len(graph.inputs)} inputs; one can be quantized.")
    for node in graph.nodes:
        if node.op not in _FOLDERS:
            found.append(
                f"{node.name}: '{node.op}' has no integer form here yet. Known: {', '.join(sorted(_FOLDERS))}."
            )
        elif node.op == "activation" and node.attributes.get("function") not in ACTIVATIONS:
            known = ", ".join(sorted(ACTIVATIONS))
            found.append(f"{node.name}: no activation '{node.attributes.get('function')}'. Known: {known}.")
    if found:
        return found
    return _Folder(graph).problems()


def _norm(node: Node) -> Norm:
    weight, bias, mean, variance = (
        np.asarray(node.constants[key], np.float64) for key in ("weight", "bias", "mean", "variance")
    )
    epsilon = node.attributes["epsilon"]
    assert isinstance(epsilon, float | int)
    return Norm(node.name, weight, bias, mean, variance, float(epsilon))


def _scale_and_offset(node: Node) -> tuple[FloatArray, FloatArray]:
    """A batch norm as ``x * factor + offset``."""
    norm = _norm(node)
    factor = norm.weight / np.sqrt(norm.variance + norm.epsilon)
    return factor, norm.bias - norm.mean * factor


@dataclass
class _Folder:
    graph: Graph
    values: dict[str, str] = field(default_factory=dict)  # float value -> quantized value
    done: list[Step] = field(default_factory=list)
    absorbed: set[str] = field(default_factory=set)
    found: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        self._walk()
        return self.found

    def steps(self) -> Steps:
        self._walk()
        (source,) = self.graph.inputs
        outputs = {name: self.values[value] for name, value in self.graph.outputs.items()}
        return rescaled(Steps(source.name, source.type.shape, tuple(self.done), outputs))

    def _walk(self) -> None:
        (source,) = self.graph.inputs
        self._input(source.name, source.type.shape)
        for node in self.graph.nodes:
            if node.name not in self.absorbed:
                _FOLDERS[node.op](self, node)

    def add(self, step: Step, value: str) -> None:
        """Keep a step whose result is the float graph's ``value``."""
        self.done.append(step)
        self.values[value] = value_of(step)

    def source(self, node: Node, place: int = 0) -> str:
        """The quantized value that a node reads."""
        return self.values.get(node.inputs[place], "")

    def only_user(self, value: str) -> Node | None:
        """The one node that reads a value that is no output."""
        users = self.graph.users(value)
        return users[0] if len(users) == 1 and value not in self.graph.outputs.values() else None

    def clip_behind(self, value: str) -> tuple[tuple[float, float], str]:
        """Take the clip behind a value in; the limits, and the value that then stands for it."""
        user = self.only_user(value)
        if user is None:
            return NO_CLIP, value
        function = "relu" if user.op == "relu" else str(user.attributes.get("function", ""))
        if user.op not in ("relu", "activation") or function not in CLIPS:
            return NO_CLIP, value
        low, high = CLIPS[function]
        low, high = (float(user.attributes.get(key, limit)) for key, limit in (("low", low), ("high", high)))  # type: ignore[arg-type]
        if low > 0 or high < 0:
            return NO_CLIP, value
        self.absorbed.add(user.name)
        return (low, high), user.name

    def _input(self, name: str, shape: tuple[int, ...]) -> None:
        channels = shape[0]
        factor, offset, value = np.ones(channels), np.zeros(channels), name
        user = self.only_user(name)
        if user is not None and user.op == "batch_norm" and user.type.shape == shape:
            factor, offset = _scale_and_offset(user)
            self.absorbed.add(user.name)
            value = user.name
        taken = {node.name for node in self.graph.nodes}
        dead = np.flatnonzero(factor == 0)
        if len(dead):
            self.found.append(
                f"{value}: the leading batch norm multiplies channel {dead[0]} by 0; remove the variable instead."
            )
            return
        step = InputStep(
            "quantize" if "quantize" not in taken else f"{name}.quantize", name, offset / factor, factor, shape
        )
        self.add(step, value)


def _fold_conv(folder: _Folder, node: Node) -> None:
    geometry: dict[str, Attribute] = {
        "stride": integers(node, "stride", 2),
        "padding": integers(node, "padding", 4),
        "groups": integer(node, "groups"),
    }
    if "dilation" in node.attributes:
        geometry["dilation"] = integers(node, "dilation", 2)
    _fold_layer(folder, node, LayerStep(node.name, "", np.zeros(0), np.zeros(0), NO_CLIP, node.type.shape, geometry))


def _fold_linear(folder: _Folder, node: Node) -> None:
    _fold_layer(folder, node, LayerStep(node.name, "", np.zeros(0), np.zeros(0), NO_CLIP, node.type.shape))


def _fold_layer(folder: _Folder, node: Node, step: LayerStep) -> None:
    weight = np.asarray(node.constants["weight"], np.float64)
    bias = np.asarray(node.constants.get("bias", np.zeros(weight.shape[0])), np.float64)
    value = node.name
    user = folder.only_user(value)
    raw = None
    if user is not None and user.op == "batch_norm":
        raw = Raw(weight, bias, _norm(user))
        factor, offset = _scale_and_offset(user)
        weight = weight * factor.reshape((-1,) + (1,) * (weight.ndim - 1))
        bias = bias * factor + offset
        folder.absorbed.add(user.name)
        value = user.name
    clip, value = folder.clip_behind(value)
    source = folder.source(node)
    folder.add(replace(step, source=source, weight=weight, bias=bias, clip=clip, raw=raw), value)


def _fold_batch_norm(folder: _Folder, node: Node) -> None:
    """One that stands alone is a depthwise convolution with a kernel of one."""
    factor, offset = _scale_and_offset(node)
    clip, value = folder.clip_behind(node.name)
    channels = node.type.shape[0]
    source = folder.source(node)
    if len(node.type.shape) == 3:
        geometry: dict[str, Attribute] = {"stride": (1, 1), "padding": (0, 0, 0, 0), "groups": channels}
        ones: FloatArray = np.ones((channels, 1, 1, 1))
    else:
        geometry, ones = {}, np.eye(channels)
    weight = ones * factor.reshape((-1,) + (1,) * (ones.ndim - 1))
    raw = Raw(ones, np.zeros(channels), _norm(node))
    folder.add(LayerStep(node.name, source, weight, offset, clip, node.type.shape, geometry, raw), value)


def _fold_average(folder: _Folder, node: Node) -> None:
    area = prod(folder.graph.type_of(node.inputs[0]).shape[1:])
    clip, value = folder.clip_behind(node.name)
    folder.add(AverageStep(node.name, folder.source(node), area, clip, node.type.shape), value)


def _fold_max_pool(folder: _Folder, node: Node) -> None:
    kernel, stride = integers(node, "kernel", 2), integers(node, "stride", 2)
    top, left, bottom, right = integers(node, "padding", 4)
    source = folder.source(node)
    folder.add(
        PoolStep(
            node.name,
            source,
            (kernel[0], kernel[1]),
            (stride[0], stride[1]),
            (top, left, bottom, right),
            node.type.shape,
        ),
        node.name,
    )


def _fold_flatten(folder: _Folder, node: Node) -> None:
    folder.add(FlattenStep(node.name, folder.source(node), node.type.shape), node.name)


def _fold_reshape(folder: _Folder, node: Node) -> None:
    folder.add(ReshapeStep(node.name, folder.source(node), node.type.shape), node.name)


def _fold_take(folder: _Folder, node: Node) -> None:
    index = np.asarray(node.constants["index"], np.int32)
    folder.add(TakeStep(node.name, folder.source(node), index, node.type.shape), node.name)


def _fold_concat(folder: _Folder, node: Node) -> None:
    sources = (folder.source(node), folder.source(node, 1))
    folder.add(ConcatStep(node.name, sources, node.type.shape), node.name)


def _fold_add(folder: _Folder, node: Node) -> None:
    clip, value = folder.clip_behind(node.name)
    sources = (folder.source(node), folder.source(node, 1))
    folder.add(AddStep(node.name, sources, clip, node.type.shape), value)


def _fold_multiply(folder: _Folder, node: Node) -> None:
    clip, value = folder.clip_behind(node.name)
    sources = (folder.source(node), folder.source(node, 1))
    folder.add(MultiplyStep(node.name, sources, clip, node.type.shape), value)


def _fold_activation(folder: _Folder, node: Node) -> None:
    function = "relu" if node.op == "relu" else str(node.attributes["function"])
    attributes = {key: value for key, value in node.attributes.items() if key != "function"}
    folder.add(TableStep(node.name, folder.source(node), function, attributes, node.type.shape), node.name)


_FOLDERS: dict[str, Callable[[_Folder, Node], None]] = {
    "conv": _fold_conv,
    "linear": _fold_linear,
    "batch_norm": _fold_batch_norm,
    "average_pool": _fold_average,
    "max_pool": _fold_max_pool,
    "flatten": _fold_flatten,
    "reshape": _fold_reshape,
    "take": _fold_take,
    "concat": _fold_concat,
    "add": _fold_add,
    "multiply": _fold_multiply,
    "relu": _fold_activation,
    "activation": _fold_activation,
}
