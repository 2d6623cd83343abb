"""The QDQ form: near the exact form, and exactly it where nothing rounds in its own way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from integer_graphs import awkward_graph
from networks.tones import tones
from networks.training import outputs, quantize_job, trained
from onnx import TensorProto
from torch import nn

import flowlab.compiler.export_qdq
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


@pytest.fixture(params=[0, 300], ids=["packed", "as bytes where that is less"])
def packing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(flowlab.compiler.export_qdq, "PACKING", request.param)
    return int(request.param)


@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_weights_are_packed_and_mean_what_the_graph_says(bits: int) -> None:
    found = quantized(bits, 8)
    model = onnx.load_model_from_string(export_qdq(found.graph))
    weights = [node for node in found.graph.nodes if "weight" in node.constants]
    names = [f"{node.name}.w/r" for node in weights]
    kept = [node for node in model.graph.node if node.output[0].split("/")[0].endswith(".w")]
    outputs = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    part = onnx.helper.make_graph(kept, "weights", [], outputs, initializer=model.graph.initializer)
    made = onnx.helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(made.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    for node, real in zip(weights, session.run(names, {}), strict=True):
        weight = node.constants["weight"].astype(np.float64)
        flat, wanted = real.reshape(len(real), -1).astype(np.float64), weight.reshape(len(weight), -1)
        scale = np.abs(flat).max(axis=1) / np.maximum(np.abs(wanted).max(axis=1), 1)
        assert flat == pytest.approx(wanted * scale[:, None], rel=1e-5)
    assert model.opset_import[0].version == OPSET == 18


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_large_layers_weights_take_what_they_take_packed(bits: int) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    graph = post_training(quantize_job(module, format=GENERIC, weight_bits=bits), "test").graph
    model = onnx.load_model_from_string(export_qdq(graph))
    packed = sum(-(-node.constants["weight"].size * bits // 8) for node in graph.nodes if "weight" in node.constants)
    kinds = (TensorProto.INT8, TensorProto.UINT8)
    stored = sum(len(one.raw_data) for one in model.graph.initializer if one.data_type in kinds)
    assert packed <= stored <= 1.1 * packed


def test_a_file_is_little_more_than_its_packed_weights_and_its_graph() -> None:
    model = onnx.load_model_from_string(export_qdq(quantized(8, 8).graph))
    assert len(model.SerializeToString()) < 2300
    assert all(not node.name for node in model.graph.node)
    stored = [(one.data_type, tuple(one.dims), one.raw_data) for one in model.graph.initializer]
    assert len(set(stored)) == len(stored)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_it_is_the_same_network_without_the_precise_form_of_kernels(bits: int) -> None:
    model = export_qdq(quantized(bits, 8).graph)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (plain,) = session.run(None, {"input": TEST})
    assert np.array_equal(plain, run_qdq(model, TEST))


@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_every_layer_becomes_an_integer_kernel(bits: int, tmp_path: Path) -> None:
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    settings.log_severity_level = 3
    graph = quantized(bits, 8, nn.ReLU).graph
    onnxruntime.InferenceSession(export_qdq(graph), settings, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load_model(tmp_path / "optimized.onnx").graph.node]
    assert "Conv" not in kinds and "Gemm" not in kinds
    assert kinds.count("QLinearConv") == sum(node.op == "conv" for node in graph.nodes)
    assert kinds.count("QGemm") == sum(node.op == "linear" for node in graph.nodes)


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


class Branches(nn.Module):
    """A sum, a product, a concatenation, a movement, a dilation and an average, with the data's shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 4, (3, 1), padding=(1, 0))
        self.second = nn.Conv2d(4, 4, (3, 1), padding=(2, 0), dilation=(2, 1))
        self.gate = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(x + self.second(x))
        x = x * torch.sigmoid(self.gate(torch.nn.functional.adaptive_avg_pool2d(x, 1)))
        x = torch.nn.functional.interpolate(torch.cat([x, torch.relu(self.gate(x))], dim=1), scale_factor=(2, 1))
        return self.head(torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def test_networks_with_several_paths_are_near_too() -> None:
    torch.manual_seed(0)
    module = Branches(TEST.shape[1]).eval()
    found = post_training(quantize_job(module, format=GENERIC, weight_bits=8, activation_bits=8), "test")
    assert found.module is not None
    kinds = {node.op for node in found.graph.nodes}
    assert {"add", "multiply", "concat", "take"} <= kinds
    counted = differences(export_qdq(found.graph), TEST, outputs(found.module, TEST))
    assert counted.max_steps <= 2  # untrained: a step of the outputs is a sixth of one inside
    assert counted.different < len(TEST) / 5
