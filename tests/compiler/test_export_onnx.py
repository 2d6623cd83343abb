from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowlab.compiler import interpreter
from flowlab.compiler.exact_float import LIMIT, magnitude_sums, parts_needed, split_weight
from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.infer import infer_shape
from flowlab.compiler.ir import Graph, Input, Node, TensorType
from flowlab.compiler.text import parse_graph
from flowlab.compiler.verify import verify
from flowlab.errors import GraphError

LEVELS = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def run(data: bytes, features: np.ndarray[Any, Any], level: str = "extended") -> np.ndarray[Any, Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: features})
    return np.asarray(result)


def layer(
    weight: np.ndarray[Any, Any],
    bias: np.ndarray[Any, Any],
    multiplier: np.ndarray[Any, Any],
    shift: np.ndarray[Any, Any],
    dtype: str,
) -> Graph:
    """uint8 features (in float32 tensors) -> linear -> requantize."""
    outputs, inputs = weight.shape
    low, high = (0, 255) if dtype == "uint8" else (-128, 127)
    return Graph(
        (Input("input", TensorType("uint8", (inputs,))),),
        (
            Node(
                "fc", "linear", ("input",), TensorType("int32", (outputs,), 0.0), {"weight_bits": 8}, {"weight": weight}
            ),
            Node(
                "fc.bnorm",
                "requantize",
                ("fc",),
                TensorType(dtype, (outputs,), 0.25),
                {"low": low, "high": high, "rounding": "floor", "bias_before_multiply": True},
                {"bias": bias, "multiplier": multiplier, "shift": shift},
            ),
        ),
        {"output": "fc.bnorm"},
        {"bits": "8"},
    )


def expected(graph: Graph, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Python's own whole numbers: nothing can round."""
    fc, bnorm = graph.nodes
    acc = x.astype(np.int64) @ fc.constants["weight"].astype(np.int64).T
    product = (acc + bnorm.constants["bias"]) * bnorm.constants["multiplier"].astype(np.int64)
    return np.clip(
        product >> bnorm.constants["shift"].astype(np.int64), bnorm.attributes["low"], bnorm.attributes["high"]
    )


@st.composite
def layers(draw: st.DrawFn) -> tuple[Graph, np.ndarray[Any, Any]]:
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    inputs = draw(st.sampled_from([1, 16, 300, 2600, 9000]))
    largest = draw(st.sampled_from([1, 7, 127]))
    dtype = draw(st.sampled_from(["uint8", "int8"]))
    weight = random.integers(-largest, largest + 1, (4, inputs)).astype(np.int8)
    if draw(st.booleans()):  # large partial sums that cancel
        weight[:, : inputs // 2] = largest
        weight[:, inputs // 2 :] = -largest
    bias = random.integers(-(2 ** draw(st.integers(1, 23))), 2**10, 4).astype(np.int32)
    multiplier = random.integers(1, draw(st.sampled_from([2, 256])), 4).astype(np.int32)
    shift = random.integers(0, 26, 4).astype(np.int32)
    x = random.integers(0, 256, (8, inputs))
    x[0], x[1] = 255, 0
    return layer(weight, bias, multiplier, shift, dtype), x


@given(layers())
def test_onnx_runtime_gives_the_integers_of_the_law(case: tuple[Graph, np.ndarray[Any, Any]]) -> None:
    graph, x = case
    data = export_onnx(graph)
    for level in LEVELS:
        assert np.array_equal(run(data, x.astype(np.float32), level), expected(graph, x))


KINDS = ["random", "saturating", "cancelling"]  # signs of the products: any, all alike, half and half but for one tap


def convolution(
    seed: int,
    channels: int,
    kernel: tuple[int, int],
    *,
    depthwise: bool,
    most: int,
    kind: str,
    dtype: str,
    narrow: bool,
) -> tuple[Graph, np.ndarray[Any, Any]]:
    """A convolution with multipliers behind it, and inputs; ``narrow``: its results have 4 bits."""
    random = np.random.default_rng(seed)
    groups, made = (channels, channels) if depthwise else (1, 4)
    weight = random.integers(-most, most + 1, (made, channels // groups, *kernel)).astype(np.int8)
    half = weight.shape[1] // 2
    left = np.abs(weight.astype(np.int64))
    if kind != "random":
        weight = np.maximum(np.abs(weight), 1)
    if kind == "cancelling" and half:
        weight = np.maximum(weight, most - 3)
        weight[:, half:] = -weight[:, :half]
        weight[:, 0, 0, 0] -= 1
        left = weight.astype(np.int64)
    low, high = (0, 255) if dtype == "uint8" else (-128, 127)
    if narrow:
        low, high = low // 16, high // 16
    spread = max(1, int(np.abs(left.reshape(made, -1).sum(1)).max()) * 255)
    multiplier = random.integers(128, 256, made)
    saturates = 0 if kind == "cancelling" else int(random.integers(0, 8))
    shift = np.clip(np.log2(spread * multiplier / (high - low)).astype(int) - saturates, 0, 31)
    least = spread // 2 if kind == "cancelling" else -spread  # the tap that is left is negative
    constants = {"bias": random.integers(least, spread + 1, made), "multiplier": multiplier, "shift": shift}
    geometry = {"groups": groups, "stride": (2, 1), "padding": (kernel[0] // 2, 0, 1, kernel[1] // 2)}
    source = Input("input", TensorType("uint8", (channels, 12, 4)))
    conv = Node("conv", "conv", ("input",), TensorType("int32", (1,), 0.0), geometry, {"weight": weight})
    shape = infer_shape(conv, (source.type,))
    nodes = (
        replace(conv, type=TensorType("int32", shape, 0.0), attributes={**geometry, "weight_bits": 8}),
        Node(
            "conv.bnorm",
            "requantize",
            ("conv",),
            TensorType(dtype, shape, 0.25),
            {"low": low, "high": high, "rounding": "floor", "bias_before_multiply": True},
            {key: value.astype(np.int32) for key, value in constants.items()},
        ),
    )
    x = random.integers(0, 256, (4, channels, 12, 4))
    x[0], x[1] = 255, 0
    x[2] = np.maximum(x[2], 250)
    if kind == "cancelling" and half:
        x[:, half:] = x[:, :half]
    return Graph((source,), nodes, {"output": "conv.bnorm"}), x


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Graph, np.ndarray[Any, Any]]:
    channels, kernel = draw(st.sampled_from([(1, (3, 1)), (16, (5, 1)), (64, (9, 1)), (128, (7, 3))]))
    return convolution(
        draw(st.integers(0, 2**32 - 1)),
        channels,
        kernel,
        depthwise=draw(st.booleans()),
        most=draw(st.sampled_from([1, 7, 127])),
        kind=draw(st.sampled_from(KINDS)),
        dtype=draw(st.sampled_from(["uint8", "int8"])),
        narrow=draw(st.booleans()),
    )


@settings(max_examples=60)
@given(convolutions())
def test_a_convolution_with_multipliers_is_exact_whatever_the_runtime_fuses(
    case: tuple[Graph, np.ndarray[Any, Any]],
) -> None:
    graph, x = case
    verify(graph)
    data = export_onnx(graph)
    wanted = interpreter.run(graph, x.astype(np.uint8))["conv.bnorm"]
    for level in LEVELS:
        assert np.array_equal(run(data, x.astype(np.float32), level), wanted), level


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize(("channels", "kernel"), [(64, (9, 1)), (128, (7, 3))])
def test_large_sums_that_cancel_are_exact_behind_a_multiplier(
    channels: int, kernel: tuple[int, int], dtype: str
) -> None:
    """In float32 the smaller needs a fence before its multiplier, and the larger several convolutions."""
    for seed in range(1, 5):
        graph, x = convolution(
            seed, channels, kernel, depthwise=False, most=127, kind="cancelling", dtype=dtype, narrow=False
        )
        wanted = interpreter.run(graph, x.astype(np.uint8))["conv.bnorm"]
        assert len(np.unique(wanted)) > 10  # not all clipped
        assert np.array_equal(run(export_onnx(graph), x.astype(np.float32), "all"), wanted)


def test_cancelling_sums_above_24_bits_are_split_and_stay_exact() -> None:
    inputs = 4000
    weight = np.full((4, inputs), 127, np.int8)
    weight[:, 1::2] = -127
    weight[:, 0] = 1
    graph = layer(weight, np.zeros(4, np.int32), np.ones(4, np.int32), np.zeros(4, np.int32), "int8")
    assert magnitude_sums(weight, 255).max() > LIMIT
    x = np.random.default_rng(0).integers(0, 256, (32, inputs))
    x[:, 3::2] = x[:, 2::2][:, : x[:, 3::2].shape[1]]  # all but the first pair cancels
    x[:, 1] = 0
    data = export_onnx(graph)
    assert {"Cast"} <= {node.op_type for node in onnx.load_from_string(data).graph.node}
    assert np.array_equal(run(data, x.astype(np.float32)), expected(graph, x))


@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_the_parts_of_a_weight_add_up_to_it(parts: int, seed: int) -> None:
    weight = np.random.default_rng(seed).integers(-127, 128, (3, 5, 4, 1)).astype(np.int8)
    assert np.array_equal(sum(piece.astype(np.int64) for piece in split_weight(weight, parts)), weight)


def test_a_layer_that_fits_needs_one_part() -> None:
    assert parts_needed(np.full((1, 518), 127, np.int8), 255) == 1
    assert parts_needed(np.full((1, 519), 127, np.int8), 255) == 2


def test_a_product_that_could_be_folded_into_the_weights_is_fenced() -> None:
    weight = np.full((4, 300), 127, np.int8)
    graph = layer(weight, np.zeros(4, np.int32), np.full(4, 255, np.int32), np.full(4, 16, np.int32), "uint8")
    kinds = [node.op_type for node in onnx.load_from_string(export_onnx(graph)).graph.node]
    assert kinds == ["Gemm", "Add", "Clip", "Mul", "Div", "Floor", "Clip"]


def test_an_ordinary_layer_has_the_documented_form() -> None:
    weight = np.ones((4, 16), np.int8)
    graph = layer(weight, np.zeros(4, np.int32), np.ones(4, np.int32), np.full(4, 3, np.int32), "uint8")
    model = onnx.load_from_string(export_onnx(graph))
    assert [node.op_type for node in model.graph.node] == ["Gemm", "Add", "Mul", "Div", "Floor", "Clip"]
    assert (model.graph.node[0].name, model.graph.node[-1].name) == ("fc", "fc.bnorm")
    assert [value.name for value in model.graph.output] == ["output"]
    assert (model.opset_import[0].version, model.ir_version) == (18, 8)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(properties["flowlab.values"])["fc.bnorm"]["scale"] == 0.25
    assert json.loads(properties["flowlab.weight_bits"]) == {"fc": 8}


def test_equal_graphs_give_equal_bytes() -> None:
    weight = np.ones((4, 16), np.int8)

    def make() -> Graph:
        return layer(weight.copy(), np.zeros(4, np.int32), np.ones(4, np.int32), np.full(4, 3, np.int32), "uint8")

    assert export_onnx(make()) == export_onnx(make())


def test_an_operation_without_a_form_is_named() -> None:
    graph = Graph(
        (Input("input", TensorType("float32", (4,))),),
        (Node("strange", "activation", ("input",), TensorType("float32", (4,)), {"function": "wobble"}),),
        {"output": "strange"},
    )
    with pytest.raises(GraphError, match="strange: activation 'wobble'"):
        export_onnx(graph)


def test_an_accumulator_that_nobody_requantizes_is_refused() -> None:
    weight = np.ones((4, 16), np.int8)
    graph = layer(weight, np.zeros(4, np.int32), np.ones(4, np.int32), np.full(4, 3, np.int32), "uint8")
    with pytest.raises(GraphError, match="fc: an accumulator needs"):
        export_onnx(Graph(graph.inputs, graph.nodes[:1], {"output": "fc"}))


MOVES = """\
graph 1
input %input: float32[2, 3, 2]
%q: int8[2, 3, 2] scale 0.5 = quantize(%input) high=127 low=-128
  bias: float32[2] = 0.0*2
  multiplier: int32[2] = 8 8
  shift: int32[2] = 3 3
%u: uint8[2, 3, 2] scale 0.25 = table(%q)
  entries: uint8[256] = 255*100 3 40 90*54 200*50 17*50
%m: int32[2, 3, 2] scale 0.125 = multiply(%q, %u)
%m.bnorm: int8[2, 3, 2] scale 16.0 = requantize(%m) bias_before_multiply=true high=127 low=-128 rounding="floor"
  bias: int32[2] = 64 64
  multiplier: int32[2] = 1 255
  shift: int32[2] = 7 15
%gate: uint8[2, 1, 1] scale 0.25 = take(%u)
  index: int32[2] = 11 0
%g: int32[2, 3, 2] scale 4.0 = multiply(%m.bnorm, %gate)
%g.bnorm: int8[2, 3, 2] scale 16.0 = requantize(%g) bias_before_multiply=true high=127 low=-128 rounding="floor"
  bias: int32[2] = 2 2
  multiplier: int32[2] = 1 1
  shift: int32[2] = 2 2
%both: int8[4, 3, 2] scale 16.0 = concat(%m.bnorm, %g.bnorm)
%turned: int8[2, 5, 1] scale 16.0 = take(%both)
  index: int32[10] = 23 -1 0 0 5 6 -1 11 12 22
%wide: int8[1, 10, 1] scale 16.0 = reshape(%turned)
%c: int32[2, 4, 2] scale 0.0 = conv(%wide) dilation=(3, 1) groups=1 padding=(0, 1, 0, 0) stride=(2, 1) weight_bits=8
  weight: int8[2, 1, 2, 1] = 3 -127 127 5
%c.bnorm: int8[2, 4, 2] scale 32.0 = requantize(%c) bias_before_multiply=true high=127 low=-128 rounding="floor"
  bias: int32[2] = 9 -9
  multiplier: int32[2] = 3 1
  shift: int32[2] = 9 5
%flat: int8[3] scale 32.0 = take(%c.bnorm)
  index: int32[3] = 15 -1 2
output "flat" = %flat
output "turned" = %turned
"""


@pytest.mark.parametrize("level", LEVELS)
def test_products_moves_and_dilated_convolutions_are_exact(level: str) -> None:
    graph = parse_graph(MOVES)
    verify(graph)
    features = np.random.default_rng(0).normal(0, 90, (50, 2, 3, 2)).astype(np.float32)
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    session = ort.InferenceSession(export_onnx(graph), options, providers=["CPUExecutionProvider"])
    found = session.run(["flat", "turned"], {"input": features})
    expected = interpreter.outputs(graph, features)
    assert np.array_equal(found[0], expected["flat"]) and np.array_equal(found[1], expected["turned"])
    assert [len(np.unique(expected[name])) > most for name, most in (("flat", 5), ("turned", 50))] == [True, True]
