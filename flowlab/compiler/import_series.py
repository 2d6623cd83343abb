"""A float ONNX network of series, (window, channel, length), as one of pictures of width 1, which the IR has.

What works along the length gets a second axis of one place: convolutions, pools, and what takes the length away. The
numbers and their order stay the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowlab.compiler.onnx_model import node_name
from flowlab.errors import GraphError

SERIES = 3  # axes of a series, the window's included
LENGTH = 2  # the axis along which it runs
WINDOWED = ("Conv", "MaxPool", "AveragePool")
TAKES_AXES = ("ReduceMean", "Squeeze")
HAS_AXIS = ("Concat", "Flatten")
REFUSED = ("Transpose", "LSTM", "GRU", "RNN", "ConvTranspose")


def is_series(proto: Any) -> bool:
    """Whether the network's only input is one."""
    known = {one.name for one in proto.graph.initializer}
    inputs = [one for one in proto.graph.input if one.name not in known]
    return len(inputs) == 1 and len(inputs[0].type.tensor_type.shape.dim) == SERIES


def as_pictures(proto: Any) -> None:
    """Give a network of series, in place, a last axis of one place; one of anything else stays as it is.

    Its constants are initializers.

    Raises:
        GraphError: naming an operation that has no such form.
    """
    if not is_series(proto):
        return
    constants = {one.name: one for one in proto.graph.initializer}
    for value in (*proto.graph.input, *proto.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.name not in constants and len(dims) == SERIES:
            dims.add().dim_value = 1
    for node in proto.graph.node:
        if node.op_type in REFUSED:
            raise GraphError(
                f"ONNX node '{node_name(node)}' ({node.op_type}): in a network of series this cannot be imported. "
                "Give the network as one of pictures of width 1, or use flowlab's own models"
            )
        if node.op_type in WINDOWED:
            _widen(node, constants)
        elif node.op_type in TAKES_AXES:
            _both_axes(node, constants)
        elif node.op_type in HAS_AXIS:
            _from_the_front(node)
    del proto.graph.value_info[:]


def _from_the_front(node: Any) -> None:
    """An axis that is counted from the end, counted from the front, where one more axis changes nothing."""
    for one in node.attribute:
        if one.name == "axis" and one.i < 0:
            one.i += SERIES


def _widen(node: Any, constants: dict[str, Any]) -> None:
    """A kernel along the length: one column wide."""
    from onnx import helper, numpy_helper

    if node.op_type == "Conv" and len(node.input) > 1 and node.input[1] in constants:
        weight = constants[node.input[1]]
        values = numpy_helper.to_array(weight)
        if values.ndim == SERIES:
            weight.CopyFrom(numpy_helper.from_array(values[..., None], weight.name))
    named = {one.name: one for one in node.attribute}
    for name, rest in (("kernel_shape", 1), ("strides", 1), ("dilations", 1)):
        if name in named and len(named[name].ints) == 1:
            named[name].CopyFrom(helper.make_attribute(name, [int(named[name].ints[0]), rest]))
    if "pads" in named and len(named["pads"].ints) == 2:
        before, after = named["pads"].ints
        named["pads"].CopyFrom(helper.make_attribute("pads", [int(before), 0, int(after), 0]))


def _both_axes(node: Any, constants: dict[str, Any]) -> None:
    """Whatever takes the length away takes the width away too."""
    from onnx import helper, numpy_helper

    named = {one.name: one for one in node.attribute}
    axes: list[int] = []
    if "axes" in named:
        axes = [int(one) for one in named["axes"].ints]
    elif len(node.input) > 1 and node.input[1] in constants:
        axes = [int(one) for one in np.atleast_1d(numpy_helper.to_array(constants[node.input[1]]))]
    if [axis % SERIES for axis in axes] != [LENGTH]:
        return
    both = [LENGTH, LENGTH + 1]
    if "axes" in named:
        named["axes"].CopyFrom(helper.make_attribute("axes", both))
    else:
        given = constants[node.input[1]]
        given.CopyFrom(numpy_helper.from_array(np.array(both, np.int64), given.name))
