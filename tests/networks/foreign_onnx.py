"""Float ONNX files as other tools write them: pictures and series, names and shapes of their own."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

CHANNELS, LENGTH, CLASSES = 2, 64, 4


def _constant(name: str, values: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(values, name)


def foreign(*, series: bool = False, ends: str = "", shift: float = 0.0, tail: list[NodeProto] | None = None) -> bytes:
    """Two convolutions, two pools and a fully connected layer; ``ends``: an operation behind it."""
    random = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        values = random.normal(0, 0.4, shape).astype(np.float32)
        return values if series or len(shape) != 3 else values[..., None]

    pads = {1: [2, 2], 2: [1, 1]} if series else {1: [2, 0, 2, 0], 2: [1, 0, 1, 0]}

    def sizes(first: int) -> list[int]:
        return [first] if series else [first, 1]

    constants = [
        _constant("w1", weights(8, CHANNELS, 5)),
        _constant("b1", random.normal(shift, 0.1, 8).astype(np.float32)),
        _constant("w2", weights(16, 8, 3)),
        _constant("w3", random.normal(0, 0.3, (16, CLASSES)).astype(np.float32)),
        _constant("b3", random.normal(0, 0.1, CLASSES).astype(np.float32)),
        _constant("axes", np.array([2] if series else [2, 3], np.int64)),
    ]
    last = "y" if not ends and tail is None else "logits"
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], kernel_shape=sizes(5), strides=sizes(2), pads=pads[1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], "pool", kernel_shape=sizes(3), strides=sizes(2), pads=pads[2]),
        helper.make_node("Conv", ["p1", "w2"], ["c2"], "second", kernel_shape=sizes(3), pads=pads[2]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("ReduceMean", ["r2", "axes"], ["g"], "mean", keepdims=0),
        helper.make_node("Gemm", ["g", "w3", "b3"], [last], "fc"),
        *([helper.make_node(ends, [last], ["y"], "end", axis=1)] if ends else []),
        *(tail or []),
    ]  # fmt: skip
    shape = ["n", CHANNELS, LENGTH] + ([] if series else [1])
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        constants,
    )
    return saved(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))


def saved(model: ModelProto) -> bytes:
    """A file's bytes, held by ONNX's own checker."""
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def windows(count: int = 96, *, series: bool = False, seed: int = 1) -> np.ndarray:
    """Inputs of these networks, float32."""
    values = np.random.default_rng(seed).normal(0, 1, (count, CHANNELS, LENGTH)).astype(np.float32)
    return values if series else values[..., None]
