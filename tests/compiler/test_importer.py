"""The importer reads our own export back to the same text, foreign float networks, and nothing else."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from flowlab.compiler import interpreter, text
from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.importer import import_onnx
from flowlab.compiler.ir import Graph
from flowlab.compiler.text import parse_graph
from flowlab.errors import GraphError

from .random_graphs import random_features, random_graph


def by_runtime(data: bytes, features: np.ndarray) -> np.ndarray:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: features})
    return found


@given(seed=st.integers(0, 2**32 - 1), quantized=st.booleans())
@settings(max_examples=50)
def test_an_exported_graph_is_imported_to_the_same_text(seed: int, quantized: bool) -> None:
    graph = random_graph(seed, quantized)
    assert text.print_graph(import_onnx(export_onnx(graph, {}))) == text.print_graph(graph)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_onnx_runtime_gives_the_interpreters_integers(seed: int) -> None:
    graph = random_graph(seed, quantized=True)
    features = random_features(graph, seed, 8)
    np.testing.assert_array_equal(
        by_runtime(export_onnx(graph, {}), features), interpreter.outputs(graph, features)["output"]
    )


def wide_sum() -> Graph:
    """A layer whose sums pass 2^24: exported in parts and in double."""
    features = 1200
    rng = np.random.default_rng(0)
    weight = " ".join(str(value) for value in rng.integers(100, 128, features))
    return parse_graph(
        f"""
        graph 1
        input %input: float32[{features}]
        %q: int8[{features}] scale 0.5 = quantize(%input) high=127 low=-128
          bias: float32[{features}] = 0.0*{features}
          multiplier: int32[{features}] = 1*{features}
          shift: int32[{features}] = 0*{features}
        %fc: int32[1] scale 0.0 = linear(%q) weight_bits=8
          weight: int8[1, {features}] = {weight}
        %y: int8[1] scale 2.0 = requantize(%fc) bias_before_multiply=true high=127 low=-128 rounding="floor"
          bias: int32[1] = 77
          multiplier: int32[1] = 3
          shift: int32[1] = 20
        %real: float32[1] = dequantize(%y) scale=2.0
        output "output" = %real
        """
    )


def test_a_layer_in_parts_is_imported_as_one() -> None:
    graph = wide_sum()
    data = export_onnx(graph, {})
    assert sum(node.op_type == "Gemm" for node in onnx.load_model_from_string(data).graph.node) > 1
    assert text.print_graph(import_onnx(data)) == text.print_graph(graph)


# --- numbers come from the nodes ----------------------------------------------------------------


def changed(data: bytes, initializer: str, change) -> bytes:
    model = onnx.load_model_from_string(data)
    for tensor in model.graph.initializer:
        if tensor.name == initializer:
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), initializer))
            return model.SerializeToString()
    raise AssertionError(f"{initializer} is not among {[tensor.name for tensor in model.graph.initializer]}")


@pytest.mark.parametrize(
    ("initializer", "line", "change"),
    [
        ("fc.weight.part0", "weight: int8[1, 1200] = 1 ", lambda array: np.where(np.arange(array.size) == 0, 1, array)),
        ("y.bias", "bias: int32[1] = 78", lambda array: array + 1),
        ("y.multiplier", "multiplier: int32[1] = 4", lambda array: array + 1),
        ("y.divisor", "shift: int32[1] = 21", lambda array: array * 2),
        ("y.low", "low=-127", lambda array: array + 1),
        ("y.high", "high=126", lambda array: array - 1),
        ("q.bias", "bias: float32[1200] = 0.5*1200", lambda array: array + array.dtype.type(0.5)),
    ],
)
def test_a_number_that_is_changed_in_the_file_is_changed_in_the_graph(initializer, line, change) -> None:
    data = changed(export_onnx(wide_sum(), {}), initializer, lambda array: change(array).astype(array.dtype))
    assert line in text.print_graph(import_onnx(data))


@pytest.mark.parametrize(
    ("initializer", "change", "message"),
    [
        ("y.divisor", lambda array: array + 1, "divides by a number that is no power of two"),
        ("y.bias", lambda array: array + 0.5, "its numbers are not integers"),
        ("fc.weight.part0", lambda array: array + 1000, "do not fit int8"),
    ],
)
def test_a_number_that_is_no_integer_of_its_kind_is_refused(initializer, change, message) -> None:
    data = changed(export_onnx(wide_sum(), {}), initializer, lambda array: change(array).astype(array.dtype))
    with pytest.raises(GraphError, match=message):
        import_onnx(data)


def test_an_operation_that_belongs_to_no_layer_is_refused() -> None:
    model = onnx.load_model_from_string(export_onnx(wide_sum(), {}))
    model.graph.node.append(helper.make_node("Floor", ["real"], ["stray"]))
    model.graph.node[-1].input[0] = model.graph.output[0].name
    with pytest.raises(GraphError, match="is part of no operation"):
        import_onnx(model.SerializeToString())


# --- foreign float networks ---------------------------------------------------------------------


def foreign(opset: int = 17) -> bytes:
    """A network as another tool would write it: auto_pad, 1x1 groups, Clip as ReLU6, SiLU, Reshape, MatMul + Add."""
    rng = np.random.default_rng(3)

    def numbers(name: str, *shape: int):
        return numpy_helper.from_array((rng.normal(size=shape) * 0.5).astype(np.float32), name)

    initializers = [
        numbers("w1", 4, 2, 3, 2), numbers("b1", 4), numbers("w2", 4, 1, 3, 3), numbers("w3", 6, 4, 1, 1),
        *(numbers(name, 4) for name in ("gamma", "beta", "mean")),
        numpy_helper.from_array(np.array([0.5, 1, 2, 3], np.float32), "variance"),
        numbers("w4", 6, 3), numbers("b4", 3), numbers("w5", 3, 2), numbers("b5", 2),
        numpy_helper.from_array(np.array([0, -1], np.int64), "flat"),
        numpy_helper.from_array(np.array(0, np.float32), "zero"),
        numpy_helper.from_array(np.array(6, np.float32), "six"),
    ]  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["/c1/out"], auto_pad="SAME_UPPER", strides=[2, 1]),
        helper.make_node("BatchNormalization", ["/c1/out", "gamma", "beta", "mean", "variance"], ["n1"]),
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], group=4, pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["c2", "zero", "six"], ["r2"]),
        helper.make_node("MaxPool", ["r2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 0]),
        helper.make_node("Conv", ["p2", "w3"], ["c3"]),
        helper.make_node("Sigmoid", ["c3"], ["s3"]),
        helper.make_node("Mul", ["c3", "s3"], ["a3"]),
        helper.make_node("Dropout", ["a3"], ["d3"]),
        helper.make_node("GlobalAveragePool", ["d3"], ["g3"]),
        helper.make_node("Reshape", ["g3", "flat"], ["f3"]),
        helper.make_node("MatMul", ["f3", "w4"], ["m4"]),
        helper.make_node("Add", ["m4", "b4"], ["a4"]),
        helper.make_node("LeakyRelu", ["a4"], ["l4"], alpha=0.2),
        helper.make_node("Gemm", ["l4", "w5", "b5"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 9, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.mark.parametrize("opset", [11, 12, 17])
def test_a_foreign_float_network_means_the_same_in_the_interpreter(opset: int) -> None:
    features = np.random.default_rng(1).normal(size=(5, 2, 9, 4)).astype(np.float32)
    graph = import_onnx(foreign(opset))
    np.testing.assert_allclose(
        interpreter.outputs(graph, features)["y"], by_runtime(foreign(opset), features), rtol=1e-4, atol=1e-5
    )
    assert graph.node("a3").attributes["function"] == "silu"
    assert graph.node("r2").attributes["function"] == "relu6"
    assert graph.node("/c1/out").attributes["padding"] == (1, 0, 1, 1)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_our_float_export_means_the_same_in_onnx_runtime(seed: int) -> None:
    graph = random_graph(seed, quantized=False)
    features = random_features(graph, seed)
    wanted = interpreter.outputs(graph, features)["output"]
    found = by_runtime(export_onnx(graph, {}), features)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * (1 + np.abs(wanted).max()))


# --- what is refused ----------------------------------------------------------------------------


def with_node(op_type: str, inputs: list[str], **attributes) -> bytes:
    model = onnx.load_model_from_string(foreign())
    last = model.graph.node[-1]
    del model.graph.node[-1]
    model.graph.node.append(helper.make_node(op_type, inputs, ["odd"], **attributes))
    last.input[0] = "l4"
    model.graph.node.append(last)
    return model.SerializeToString()


def test_averages_of_windows_and_clips_of_old_opsets_mean_the_same() -> None:
    nodes = [
        helper.make_node("AveragePool", ["x"], ["a"], kernel_shape=[3, 2], strides=[2, 1]),
        helper.make_node("AveragePool", ["a"], ["b"], kernel_shape=[2, 2], pads=[1, 0, 0, 1], count_include_pad=1),
        helper.make_node("Clip", ["b"], ["y"], min=-0.25, max=0.25),
    ]
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2, *rest]) for name, rest in
              (("x", [9, 4]), ("y", [4, 3]))]  # fmt: skip
    graph = helper.make_graph(nodes, "old", shapes[:1], shapes[1:])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=5).SerializeToString()
    features = np.random.default_rng(1).normal(size=(5, 2, 9, 4)).astype(np.float32)
    found = interpreter.outputs(import_onnx(data), features)["y"]
    np.testing.assert_allclose(found, by_runtime(data, features), atol=1e-6)
    assert found.min() == -0.25 and found.max() == 0.25


def of_opset(version: int) -> bytes:
    model = onnx.load_model_from_string(foreign())
    model.opset_import[0].version = version
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "opset missing"),
        (b"not a model at all", "are no ONNX model"),
        (foreign()[:-40], "ONNX file"),
        (of_opset(9), "opset 9; known: 10 to"),
        (with_node("Sqrt", ["l4"]), r"'odd' \(Sqrt\): this operation cannot be imported. Known: Add, "),
        (with_node("Mul", ["l4", "six"]), "multiplies by a constant"),
        (with_node("MaxPool", ["r2"], kernel_shape=[2, 2], ceil_mode=1), "rounds up"),
        (with_node("MaxPool", ["r2"], kernel_shape=[2, 2], dilations=[2, 2]), "is dilated; use dilation 1"),
        (with_node("AveragePool", ["r2"], kernel_shape=[2, 2], pads=[1] * 4), "counts fewer places at the border"),
        (with_node("Conv", ["r2", "r2"]), "input 1 must be constant numbers"),
        (with_node("Flatten", ["r2"], axis=2), "keeps more than the batch"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        import_onnx(data)


def test_numbers_in_another_file_are_refused() -> None:
    model = onnx.load_model_from_string(foreign())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    with pytest.raises(GraphError, match="initializer 'w1' lies in another file"):
        import_onnx(model.SerializeToString())


def test_an_absurd_size_is_refused_before_anything_is_allocated() -> None:
    model = onnx.load_model_from_string(foreign())
    model.graph.initializer[0].dims[0] = 1 << 40
    with pytest.raises(GraphError, match="numbers in initializers; at most"):
        import_onnx(model.SerializeToString())


def test_metadata_that_are_no_json_are_refused() -> None:
    data = export_onnx(wide_sum(), {"flowlab.values": "[1"})
    with pytest.raises(GraphError, match=r"metadata 'flowlab.values' is no JSON object"):
        import_onnx(data)


def test_a_value_without_its_type_in_the_metadata_is_refused() -> None:
    model = onnx.load_model_from_string(export_onnx(wide_sum(), {}))
    for entry in model.metadata_props:
        if entry.key == "flowlab.values":
            values = json.loads(entry.value)
            del values["fc"]
            entry.value = json.dumps(values)
    with pytest.raises(GraphError, match=r"value 'fc': the metadata 'flowlab.values' do not say its type"):
        import_onnx(model.SerializeToString())


SMALL = export_onnx(random_graph(7, quantized=True), {})


@given(at=st.integers(0, len(SMALL) - 1), bit=st.integers(0, 7))
@settings(max_examples=150)
def test_a_damaged_file_is_read_or_refused_and_never_a_crash(at: int, bit: int) -> None:
    damaged = bytearray(SMALL)
    damaged[at] ^= 1 << bit
    try:
        import_onnx(bytes(damaged))
    except GraphError as error:
        assert str(error)


def test_a_clip_before_the_multiplication_may_only_be_that_of_24_bits() -> None:
    graph = parse_graph(
        """
        graph 1
        input %input: float32[400]
        %q: int8[400] scale 0.5 = quantize(%input) high=127 low=-128
          bias: float32[400] = 0.0*400
          multiplier: int32[400] = 1*400
          shift: int32[400] = 0*400
        %fc: int32[1] scale 0.0 = linear(%q) weight_bits=8
          weight: int8[1, 400] = 127*400
        %y: int8[1] scale 2.0 = requantize(%fc) bias_before_multiply=true high=127 low=-128 rounding="floor"
          bias: int32[1] = 0
          multiplier: int32[1] = 200
          shift: int32[1] = 17
        output "output" = %y
        """
    )
    data = export_onnx(graph, {})
    assert text.print_graph(import_onnx(data)) == text.print_graph(graph)
    with pytest.raises(GraphError, match="only 24 bits change nothing"):
        import_onnx(changed(data, "y.most", lambda array: array / array.dtype.type(2)))
