"""Integer ONNX networks as other tools write them: single operations, and networks that ONNX Runtime quantized."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

TYPES = {"float32": TensorProto.FLOAT, "int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int32": TensorProto.INT32}
MICROSOFT = "com.microsoft"


def model(
    nodes: Sequence[Any],
    constants: Mapping[str, Any],
    shape: Sequence[int],
    rank: int = 4,
    given: str = "float32",
    made: str = "float32",
) -> bytes:
    """A file of one input ``x`` and one output ``y`` of ``rank`` axes."""
    graph = helper.make_graph(
        list(nodes),
        "foreign",
        [helper.make_tensor_value_info("x", TYPES[given], ["n", *shape])],
        [helper.make_tensor_value_info("y", TYPES[made], ["n", *[None] * (rank - 1)])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MICROSOFT, 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def runtime(data: bytes, x: np.ndarray) -> list[np.ndarray]:
    """What ONNX Runtime makes of it, without optimizers."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: x}))


def any_integer(random: np.random.Generator, dtype: str, shape: Sequence[int] = ()) -> np.ndarray:
    """Integers over the whole range of a type."""
    limits = np.iinfo(dtype)
    return np.asarray(random.integers(limits.min, limits.max + 1, tuple(shape))).astype(dtype)


def any_weights(random: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Signed weights of 7 bits: without VNNI instructions ONNX Runtime saturates sums of two larger products."""
    return random.integers(-64, 64, tuple(shape)).astype(np.int8)


def qlinear_conv(seed: int) -> tuple[bytes, np.ndarray]:
    """One QLinearConv with any types, zero points, groups, strides, and inputs for it."""
    random = np.random.default_rng(seed)
    groups, kernel = int(random.choice([1, 1, 2, 4])), int(random.integers(1, 4))
    given = str(random.choice(["uint8", "int8"]))
    weights = str(random.choice(["int8", "uint8"])) if given == "uint8" else "int8"
    by_channel = bool(random.integers(2)) and weights == "int8"
    zero = any_integer(random, weights) if weights == "uint8" else np.zeros(8 if by_channel else (), weights)
    constants = {
        "xs": np.float32(0.02), "xz": any_integer(random, given),
        "w": any_weights(random, (8, 4 // groups, kernel, kernel)) if weights == "int8" else
             any_integer(random, weights, (8, 4 // groups, kernel, kernel)),
        "ws": np.exp(random.normal(-5, 0.5, 8 if by_channel else ())).astype(np.float32), "wz": zero,
        "ys": np.float32(0.05 * kernel), "yz": any_integer(random, given),
        "b": random.integers(-2000, 2000, 8).astype(np.int32),
    }  # fmt: skip
    node = helper.make_node(
        "QLinearConv", ["x", *constants], ["y"], group=groups, pads=[1, 0, 1, 1] if kernel > 1 else [0] * 4,
        strides=[int(random.integers(1, 3)), 1],
    )  # fmt: skip
    data = model([node], constants, (4, 9, 7), given=given, made=given)
    return data, any_integer(random, given, (8, 4, 9, 7))


def float_network(seed: int, activation: str = "Relu") -> onnx.ModelProto:
    """Depthwise and pointwise convolutions, a residual addition, both poolings, a concat: (3, 12, 10) -> 4 numbers."""
    random = np.random.default_rng(seed)
    constants: dict[str, np.ndarray] = {}
    nodes: list[Any] = []

    def weight(name: str, *shape: int) -> str:
        constants[name] = random.normal(0, 0.3, shape).astype(np.float32)
        return name

    def add(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, list(inputs), [output], name=f"{output}_node", **attributes))
        return output

    x = add("Conv", ["x", weight("w1", 8, 3, 3, 3), weight("b1", 8)], "c1", pads=[1] * 4)
    x = add("Relu", [x], "r1")
    branch = add("Conv", [x, weight("wd", 8, 1, 3, 3), weight("bd", 8)], "dw", pads=[1] * 4, group=8)
    branch = add("Conv", [add("Relu", [branch], "rd"), weight("wp", 8, 8, 1, 1), weight("bp", 8)], "pw")
    x = add("Relu", [add("Add", [x, branch], "sum")], "rs")
    most = add("MaxPool", [x], "most", kernel_shape=[2, 2], strides=[2, 2])
    mean = add("AveragePool", [x], "mean", kernel_shape=[2, 2], strides=[2, 2])
    x = add("Concat", [most, mean], "cat", axis=1)
    x = add("Conv", [x, weight("w2", 12, 16, 3, 3), weight("b2", 12)], "c2", strides=[2, 2])
    x = add(activation, [x], "act")
    x = add("Flatten", [add("GlobalAveragePool", [x], "gap")], "flat")
    add("Gemm", [x, weight("w3", 4, 12), weight("b3", 4)], "y", transB=1)
    return onnx.load_model_from_string(model(nodes, constants, (3, 12, 10), rank=2))


def quantized(seed: int, form: str, activation: str = "Relu", **changes: Any) -> tuple[bytes, np.ndarray]:
    """`float_network`, quantized by ONNX Runtime into ``QOperator`` or ``QDQ`` form; and inputs."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    windows = np.random.default_rng(seed).normal(0, 1, (64, 3, 12, 10)).astype(np.float32)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter([{"x": windows}])

        def get_next(self) -> Any:
            return next(self.left, None)

    how = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True, **changes}
    how["reduce_range"] = how["weight_type"] == QuantType.QInt8  # as `any_weights`
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, made = Path(folder) / "float.onnx", Path(folder) / "integers.onnx"
            onnx.save(float_network(seed, activation), str(source))
            quantize_static(str(source), str(made), Reader(), quant_format=QuantFormat[form], **how)
            return made.read_bytes(), windows
    finally:
        logging.disable(logging.NOTSET)
