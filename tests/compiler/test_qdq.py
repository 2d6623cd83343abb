"""The QDQ form: near the exact form, and exactly it where nothing rounds in its own way."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from integer_graphs import awkward_graph
from networks.tones import tones
from networks.training import outputs, quantize_job, trained
from onnx import TensorProto
from torch import nn

from flowlab.compiler.export_qdq import OPSET, export_qdq
from flowlab.compiler.ir import Graph
from flowlab.compiler.number_format import GENERIC
from flowlab.compiler.run_qdq import differences, run_qdq
from flowlab.contracts import Quantized
from flowlab.errors import GraphError
from flowlab.quant.ptq import post_training

TEST = tones(300, 9)[0]
WIDTHS = [(weights, activations) for weights in (8, 4, 2) for activations in (8, 4, 2)]


def quantized(weights: int, activations: int, activation: type[nn.Module] = nn.ReLU6, **changes: bool) -> Quantized:
    job = quantize_job(trained(activation), format=GENERIC, weight_bits=weights, activation_bits=activations, **changes)
    return post_training(job, "test")


def initializers(model: bytes) -> dict[str, onnx.TensorProto]:
    return {one.name: one for one in onnx.load_model_from_string(model).graph.initializer}


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.Tanh])
@pytest.mark.parametrize(("weights", "activations"), WIDTHS)
def test_it_is_at_most_one_step_from_the_exact_form(
    weights: int, activations: int, activation: type[nn.Module]
) -> None:
    found = quantized(weights, activations, activation)
    assert found.module is not None
    counted = differences(export_qdq(found.graph), TEST, outputs(found.module, TEST))
    assert counted.vectors == len(TEST)
    assert counted.max_steps <= 1
    assert (counted.different > 0) == (counted.max_steps == 1)


def test_real_outputs_are_compared_in_steps_of_their_scale() -> None:
    found = quantized(8, 8, output_int=False)
    assert found.module is not None
    exact = outputs(found.module, TEST)
    model = export_qdq(found.graph)
    scale = found.graph.node(found.graph.outputs["output"]).attributes["scale"]
    assert isinstance(scale, float)
    assert np.abs(run_qdq(model, TEST) - exact).max() < 1.5 * scale
    assert differences(model, TEST, exact, scale).max_steps <= 1
    assert differences(model, TEST, exact + 3 * scale, scale).max_steps >= 3


@pytest.mark.parametrize(("bits", "kind"), [(8, TensorProto.INT8), (4, TensorProto.INT4), (2, TensorProto.INT4)])
def test_weights_are_stored_as_narrow_as_onnx_can(bits: int, kind: int) -> None:
    found = quantized(bits, 8)
    model = export_qdq(found.graph)
    stored = initializers(model)
    for node in found.graph.nodes:
        if "weight" in node.constants:
            tensor = stored[f"{node.name}.weight"]
            assert tensor.data_type == kind
            values = onnx.numpy_helper.to_array(tensor).astype(np.int8)
            assert np.array_equal(values, node.constants["weight"])
    assert onnx.load_model_from_string(model).opset_import[0].version == OPSET == 21


def test_the_same_graph_gives_the_same_bytes() -> None:
    graph = quantized(4, 8).graph
    assert export_qdq(graph, {"classes": "[]"}) == export_qdq(graph, {"classes": "[]"})


def test_what_has_no_such_form_is_named() -> None:
    graph = awkward_graph()
    with pytest.raises(GraphError, match=r"QDQ form"):
        export_qdq(graph)


def test_a_sum_that_is_no_average_is_refused() -> None:
    graph = quantized(8, 8).graph
    pool = next(node for node in graph.nodes if node.op == "sum_pool")
    nodes = []
    for node in graph.nodes:
        constants = dict(node.constants)
        if node.inputs == (pool.name,):
            constants["bias"] = constants["bias"] + np.int32(40)
        nodes.append(type(node)(node.name, node.op, node.inputs, node.type, node.attributes, constants))
    with pytest.raises(GraphError, match="do not mean an average"):
        export_qdq(Graph(graph.inputs, tuple(nodes), graph.outputs))


def test_no_vectors_are_no_differences() -> None:
    model = export_qdq(quantized(8, 8).graph)
    assert differences(model, TEST[:0], np.zeros((0, 3))).to_json() == {"vectors": 0, "different": 0, "max_steps": 0}
