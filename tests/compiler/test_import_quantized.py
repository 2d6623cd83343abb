"""Integer networks of other tools: the integers are ONNX Runtime's, to the last bit where it has integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from networks.foreign_integers import MICROSOFT, any_integer, any_weights, model, qlinear_conv, quantized, runtime
from onnx import helper

from flowlab.compiler import interpreter
from flowlab.compiler.importer import import_onnx
from flowlab.compiler.text import parse_graph, print_graph
from flowlab.errors import GraphError

SCALES: dict[str, Any] = {"s": np.float32(0.05), "z": np.uint8(7), "t": np.float32(0.11), "v": np.uint8(120)}


def same(data: bytes, x: np.ndarray) -> None:
    graph = import_onnx(data)
    (found,) = interpreter.outputs(graph, x).values()
    (wanted,) = runtime(data, x)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found.reshape(wanted.shape), wanted)
    assert len(np.unique(wanted)) > 3
    assert print_graph(parse_graph(print_graph(graph))) == print_graph(graph)


@pytest.mark.parametrize("seed", range(40))
def test_a_convolution_of_any_types_is_onnx_runtimes(seed: int) -> None:
    same(*qlinear_conv(seed))


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "LeakyRelu"])
@pytest.mark.parametrize("weights", ["QInt8", "QUInt8"])
def test_a_network_of_integer_operations_is_onnx_runtimes(activation: str, weights: str) -> None:
    from onnxruntime.quantization import QuantType

    data, x = quantized(3, "QOperator", activation, weight_type=QuantType[weights], per_channel=weights == "QInt8")
    same(data, x)


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "LeakyRelu", "Tanh", "HardSwish", "Softplus"])
def test_a_network_between_quantize_and_dequantize_is_within_a_step_where_a_mean_ties(activation: str) -> None:
    """The average pooling's ties lie between two floats; up to there everything is equal."""
    data, x = quantized(5, "QDQ", activation)
    graph = import_onnx(data)
    values = interpreter.run(graph, x)
    (found,) = interpreter.outputs(graph, x).values()
    (wanted,) = runtime(data, x)
    scale = graph.type_of(graph.node(graph.outputs["y"]).inputs[0]).scale
    assert np.abs(found - wanted).max() <= 3 * scale * 1.0001 and (found == wanted).mean() > 0.6
    import onnx

    shown = onnx.load_model_from_string(data)
    before = [node.output[0] for node in shown.graph.node if node.op_type == "QuantizeLinear"]
    before = [name for name in before if name in values][:5]  # input, three convolutions, the residual addition
    for name in before:
        shown.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None))
    for name, right in zip(before, runtime(shown.SerializeToString(), x)[1:], strict=True):
        assert (values[name] == right).mean() > 0.9999
    assert [graph.node(name).op for name in before] == ["quantize_linear", *["requantize"] * 3, "add_float"]


def node(op: str, inputs: str, output: str = "y", domain: str = "", **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), [output], domain=domain, **attributes)


def test_operations_of_onnx_runtimes_own_domain() -> None:
    random = np.random.default_rng(0)
    x = any_integer(random, "uint8", (6, 4, 5, 3))
    cases = [
        node("QLinearGlobalAveragePool", "x s z t v", domain=MICROSOFT, channels_last=0),
        node("QLinearLeakyRelu", "x s z t v", domain=MICROSOFT, alpha=0.2),
        node("QLinearSigmoid", "x s z sm z", domain=MICROSOFT),
        node("QLinearMul", "x s z x s z tt v", domain=MICROSOFT),
        node("QLinearConcat", "t v x s z x s z", domain=MICROSOFT, axis=1),
        node("QLinearAveragePool", "x s z t v", domain=MICROSOFT, kernel_shape=[2, 2], strides=[2, 1]),
    ]
    for one in cases:
        more = {**SCALES, "sm": np.float32(1 / 200), "tt": np.float32(0.6)}
        same(model([one], more, (4, 5, 3), given="uint8", made="uint8"), x)


def test_an_addition_of_two_scales_and_a_fully_connected_layer() -> None:
    random = np.random.default_rng(1)
    constants = {**SCALES, "w": any_weights(random, (3, 60)), "u": np.float32(0.02), "o": np.int8(0),
                 "b": random.integers(-500, 500, 3).astype(np.int32), "r": np.float32(2.5)}  # fmt: skip
    nodes = [
        node("QLinearLeakyRelu", "x s z t v", "a", domain=MICROSOFT),
        node("QLinearAdd", "x s z a t v r v", "sum", domain=MICROSOFT),
        node("Flatten", "sum", "flat"),
        node("QGemm", "flat r v w u o b r v", "y", domain=MICROSOFT, transB=1),
    ]
    same(
        model(nodes, constants, (4, 5, 3), rank=2, given="uint8", made="uint8"),
        any_integer(random, "uint8", (9, 4, 5, 3)),
    )


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_products_of_integers_that_nothing_requantizes(dtype: str) -> None:
    random = np.random.default_rng(2)
    constants = {"w": any_integer(random, "uint8", (5, 2, 3, 3)), "z": any_integer(random, dtype), "v": np.uint8(255)}
    conv = model([node("ConvInteger", "x w z v", pads=[1] * 4)], constants, (2, 6, 6), given=dtype, made="int32")
    if dtype == "uint8":  # ONNX Runtime has no other
        same(conv, any_integer(random, dtype, (4, 2, 6, 6)))
    constants = {"w": any_weights(random, (7, 3)), "z": any_integer(random, dtype)}
    product = model([node("MatMulInteger", "x w z")], constants, (7,), rank=2, given=dtype, made="int32")
    same(product, any_integer(random, dtype, (4, 7)))


def test_a_matrix_product_as_onnx_shows_it() -> None:
    """The operator's own example: scales 0.0066 and 0.00705, zero points 113 and 114."""
    a = np.array([[208, 236, 0, 238], [3, 214, 255, 29]], np.uint8)
    b = np.array([[152, 51, 244], [60, 26, 255], [0, 127, 246], [127, 254, 247]], np.uint8)
    constants = {
        "as": np.float32(0.0066), "az": np.uint8(113), "b": b, "bs": np.float32(0.00705), "bz": np.uint8(114),
        "ys": np.float32(0.0107), "yz": np.uint8(118),
    }  # fmt: skip
    data = model([node("QLinearMatMul", "x as az b bs bz ys yz")], constants, (4,), 2, given="uint8", made="uint8")
    (found,) = interpreter.outputs(import_onnx(data), a).values()
    assert found.tolist() == [[168, 115, 255], [1, 66, 151]]


@pytest.mark.parametrize("zero", [0, 100, 255])
def test_unsigned_weights_have_any_zero_point(zero: int) -> None:
    random = np.random.default_rng(zero)
    weight = random.integers(0, 256, (3, 2, 2, 1)).astype(np.uint8)
    weight[0, 0, 0, 0], weight[1, 0, 0, 0] = 0, 255
    constants = {**SCALES, "w": weight, "ws": np.float32(0.002), "wz": np.uint8(zero)}
    data = model([node("QLinearConv", "x s z w ws wz t v")], constants, (2, 6, 3), given="uint8", made="uint8")
    same(data, any_integer(random, "uint8", (9, 2, 6, 3)))


def test_weights_of_nine_bits_are_two_over_an_input_that_is_read_twice() -> None:
    constants = {**SCALES, "w": np.array([[[[0]]], [[[255]]]], np.uint8), "ws": np.float32(0.01), "wz": np.uint8(255)}
    data = model([node("QLinearConv", "x s z w ws wz t v")], constants, (1, 3, 3), given="uint8", made="uint8")
    graph = import_onnx(data)
    weight = graph.node("y/sum").constants["weight"]
    assert [one.op for one in graph.nodes] == ["take", "conv", "requantize"]
    assert weight.reshape(2, 2).tolist() == [[-128, -127], [0, 0]]


QDQ = {**SCALES, "w": np.ones((2, 4, 1, 1), np.int8), "ws": np.float32(0.01), "b": np.ones(2, np.float32)}
ENTER = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d")]


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "ys", "yz"])], "finds its scale in each input"),
        ([*ENTER, node("DequantizeLinear", "w ws", "f"), node("Conv", "d f b", "y")], "sum that nothing quantizes"),
        ([*ENTER, node("Conv", "d fw", "c"), node("QuantizeLinear", "c t v")], "are no quantized constants"),
        ([*ENTER, node("Softmax", "d", "y")], "has no integer meaning here"),
        ([node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q t z")], "and it was made with 0.05 and 7"),
        ([node("QuantizeLinear", "x zero z")], "has a scale of 0"),
        ([node("QuantizeLinear", "x s wide")], "makes integers of type int16"),
        ([*ENTER, node("AveragePool", "d", "a", kernel_shape=[2, 2], pads=[1] * 4), node("QuantizeLinear", "a t v")],
         "counts fewer places at the border"),
        ([*ENTER, node("Transpose", "d", "m", perm=[1, 0, 2, 3]), node("QuantizeLinear", "m s z")], "batch stays"),
        ([*ENTER, node("Sigmoid", "x", "m"), node("QuantizeLinear", "m s z")], "which nothing quantizes before it"),
        ([*ENTER, node("DequantizeLinear", "w ws", "f"), node("Conv", "d f", "c"), node("Add", "c wide2", "m"),
          node("QuantizeLinear", "m s z")], "adds a constant of shape"),
        ([*ENTER, node("Reshape", "d three", "m"), node("QuantizeLinear", "m s z")], "where 4 axes are known, or 2"),
        ([*ENTER, node("Conv", "d hw", "c"), node("QuantizeLinear", "c small z")], "are no quantized constants"),
        ([*ENTER, node("DequantizeLinear", "w huge", "f"), node("Conv", "d f", "c"),
          node("QuantizeLinear", "c small z")], "beyond float32"),
    ],
)  # fmt: skip
def test_what_has_no_integer_meaning_is_refused_with_its_node(nodes: list[Any], said: str) -> None:
    constants = {**QDQ, "fw": np.ones((2, 4, 1, 1), np.float32), "zero": np.float32(0), "wide": np.int16(0),
                 "wide2": np.ones((1, 1, 1, 3), np.float32), "three": np.array([0, 4, 15]), "huge": np.float32(1e38),
                 "small": np.float32(1e-5), "hw": np.ones((2, 4, 1, 1), np.float32)}  # fmt: skip
    with pytest.raises(GraphError, match=said):
        import_onnx(model(nodes, constants, (4, 5, 3)))


def test_bad_numbers_in_a_file_are_errors_and_no_traceback() -> None:
    good, x = qlinear_conv(1)
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        bad = bytearray(good)
        for _ in range(int(random.integers(1, 4))):
            bad[int(random.integers(len(bad)))] = int(random.integers(256))
        try:
            interpreter.outputs(import_onnx(bytes(bad)), x)
        except GraphError:
            refused += 1
    assert refused > 30


def test_narrow_integers_that_lie_in_wider_ones_are_clipped_where_they_are_made() -> None:
    """As quantizers of 4 and 2 bits write them: Clip between QuantizeLinear and DequantizeLinear, and of weights."""
    random = np.random.default_rng(7)
    constants = {
        "s": np.float32(0.05), "z": np.uint8(0), "t": np.float32(0.0473),
        "w": any_integer(random, "int8", (5, 3, 3, 1)),
        "ws": np.float32(0.01), "wz": np.int8(0), "low": np.int8(-7), "high": np.int8(7), "none": np.uint8(0),
        "most": np.uint8(15), "bs": np.float32(0.0005), "b": random.integers(-300, 300, 5).astype(np.int32),
    }  # fmt: skip
    nodes = [
        node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"),
        node("Clip", "w low high", "w4"), node("DequantizeLinear", "w4 ws wz", "wd"),
        node("DequantizeLinear", "b bs", "bd"), node("Conv", "d wd bd", "c"), node("Relu", "c", "r"),
        node("QuantizeLinear", "r t z", "rq"), node("Clip", "rq none most", "r4"),
        node("DequantizeLinear", "r4 t z", "y"),
    ]  # fmt: skip
    data = model(nodes, constants, (3, 12, 1))
    graph = import_onnx(data)
    assert [one.op for one in graph.nodes] == ["quantize_linear", "conv", "requantize", "dequantize"]
    assert (graph.node("rq").attributes["high"], abs(graph.node("c/sum").constants["weight"]).max()) == (15, 7)
    same(data, random.normal(2, 4, (20, 3, 12, 1)).astype(np.float32))


@pytest.mark.parametrize("given", ["uint8", "float32"])
def test_numbers_that_only_move(given: str) -> None:
    """On integers, and between DequantizeLinear and QuantizeLinear."""
    random = np.random.default_rng(8)
    constants = {
        **SCALES, "from": np.array([1, -3]), "to": np.array([4, 100]), "axes": np.array([1, 2]), "by": np.array([2, 1]),
        "back": np.array([2, 3]), "frame": np.array([0, 0, 1, 0, 0, 0, 0, 2]), "flat": np.array([0, -1]),
    }  # fmt: skip
    moves = [
        node("Slice", "m0 from to axes by", "m1"), node("Transpose", "m1", "m2", perm=[0, 2, 3, 1]),
        node("Pad", "m2 frame", "m3"),
        node("GlobalMaxPool" if given == "float32" else "MaxPool", "m3", "m4",
             **({} if given == "float32" else {"kernel_shape": [3, 4]})),
        node("Squeeze", "m4 back", "m5"), node("Unsqueeze", "m5 back", "m6"), node("Reshape", "m6 flat", "m7"),
    ]  # fmt: skip
    if given == "uint8":
        nodes = [node("Identity", "x", "m0"), *moves[:-1], node("Reshape", "m6 flat", "y")]
        same(model(nodes, constants, (5, 4, 2), 2, given, given), any_integer(random, given, (30, 5, 4, 2)))
    else:
        nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "m0"), *moves,
                 node("QuantizeLinear", "m7 s z", "r"), node("DequantizeLinear", "r s z", "y")]  # fmt: skip
        same(model(nodes, constants, (5, 4, 2), 2), random.normal(2, 4, (30, 5, 4, 2)).astype(np.float32))


def test_a_clip_behind_another_name_clips_what_reads_it_alone() -> None:
    constants = {**SCALES, "w": np.ones((4, 4, 1, 1), np.int8), "ws": np.float32(0.01), "wz": np.int8(0),
                 "low": np.uint8(121), "high": np.uint8(124)}  # fmt: skip
    nodes = [
        node("QLinearConv", "x s z w ws wz t v", "c"), node("Identity", "c", "c2"), node("Clip", "c2 low high", "d"),
        node("QLinearAdd", "c t v d t v s v", "y", domain=MICROSOFT),
    ]  # fmt: skip
    same(model(nodes, constants, (4, 5, 3), given="uint8", made="uint8"),
         any_integer(np.random.default_rng(0), "uint8", (6, 4, 5, 3)))  # fmt: skip


def test_bytes_that_leave_under_other_names_and_shapes_are_dequantized() -> None:
    for tail in ([node("Identity", "d", "y")], [node("Reshape", "d same", "y")], [node("Flatten", "d", "y")]):
        constants = {**SCALES, "same": np.array([0, 4, 5, 3])}
        rank = 2 if tail[0].op_type == "Flatten" else 4
        same(model([*ENTER, *tail], constants, (4, 5, 3), rank),
             np.random.default_rng(1).normal(2, 4, (6, 4, 5, 3)).astype(np.float32))  # fmt: skip


def test_names_that_an_importer_makes_are_none_of_the_file() -> None:
    constants = {**SCALES, "w": (50 * np.eye(4) + 9)[..., None, None].astype(np.int8),
                 "ws": np.float32(0.02), "wz": np.int8(0)}  # fmt: skip
    nodes = [
        node("QLinearConv", "x s z w ws wz t v", "c"), node("Identity", "c", "c/sum"),
        node("QLinearConv", "c/sum t v w ws wz t v", "y/sum"), node("QLinearConv", "y/sum t v w ws wz t v", "y"),
    ]  # fmt: skip
    data = model(nodes, constants, (4, 5, 3), given="uint8", made="uint8")
    same(data, any_integer(np.random.default_rng(0), "uint8", (6, 4, 5, 3)))
