"""Layers with a float bias: one arithmetic wherever they run, on the CPU for that reason, and nothing hidden."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks.training import data, quantize_job, trained
from torch import nn

from flowlab.compiler.importer import import_onnx
from flowlab.compiler.interpreter import outputs
from flowlab.compiler.ir import Graph
from flowlab.compiler.pipeline import apply_passes
from flowlab.compiler.place import place
from flowlab.compiler.real_values import RealLayer, reals_of
from flowlab.compiler.text import parse_graph, print_graph, same
from flowlab.compiler.unbuilt import unbuilt
from flowlab.compiler.verify import verify
from flowlab.errors import GraphError, QuantizationError
from flowlab.quant.integer_network import IntegerNetwork
from flowlab_tinpu.devices import TARGETS
from flowlab_tinpu.torchmodelopt import GenericTinyMLQATFxModule, TINPUTinyMLPTQFxModule, TINPUTinyMLQATFxModule

WINDOWS = torch.from_numpy(np.array(data().train_features))
TEST = torch.from_numpy(np.array(data().val_features))
BITS = {"weight": {"bitwidth": 4}}
F28P55 = next(target for target in TARGETS if target.name == "F28P55")


def converted(bits: int = 4) -> IntegerNetwork:
    with pytest.warns(UserWarning, match="runs on the CPU for that reason"):
        model = TINPUTinyMLPTQFxModule(trained(), {"weight": {"bitwidth": bits}}, float_ops=True)
    model(WINDOWS)
    return model.convert()


def without_float_bias() -> Graph:
    model = TINPUTinyMLPTQFxModule(trained())
    model(WINDOWS)
    return model.convert().graph


def floats(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes if node.op == "requantize_float"]


@pytest.mark.filterwarnings("ignore:float_ops", "ignore:.*weights changed")
@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("wrapper", [TINPUTinyMLQATFxModule, GenericTinyMLQATFxModule])
def test_what_is_trained_is_what_ships(wrapper: type[TINPUTinyMLQATFxModule], bits: int, tmp_path: Path) -> None:
    model = wrapper(trained(), {"weight": {"bitwidth": bits}}, total_epochs=1, float_ops=True)
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    model.train()
    for batch, target in zip(
        WINDOWS.split(32), torch.from_numpy(np.array(data().train_targets)).split(32), strict=True
    ):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), target).backward()
        optimizer.step()
    network = model.freeze().eval().convert()
    with torch.no_grad():
        seen, shipped = model(TEST).numpy(), network(TEST).numpy()
    assert np.array_equal(seen, shipped)
    (name,) = network.graph.outputs
    assert np.array_equal(outputs(network.graph, TEST.numpy())[name], shipped)
    network.export(TEST[:1], tmp_path / "model.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {session.get_inputs()[0].name: TEST.numpy()})[0], shipped)
    assert len(floats(network.graph)) == sum(node.op in ("conv", "linear") for node in network.graph.nodes)


def test_a_float_bias_is_nearer_to_the_float_network_than_a_coarse_one() -> None:
    with torch.no_grad():
        float_outputs = trained()(TEST).numpy()
        model = TINPUTinyMLPTQFxModule(trained())
        model(WINDOWS)
        rounded, exact = (np.abs(one(TEST).numpy() - float_outputs).mean() for one in (model.convert(), converted(8)))
    assert exact <= rounded


def test_its_layers_run_on_the_cpu_and_none_of_their_work_counts_for_the_npu() -> None:
    graph = apply_passes(converted().graph, F28P55.passes())
    placement = place(graph, F28P55.rules(), F28P55.unit_name)
    layers = [row for row in placement.rows if row.macs]
    assert layers and all(row.unit == "cpu" and row.reason.startswith("float bias") for row in layers)
    assert placement.npu_share == 0.0
    assert "float bias" in placement.sentences()[0] and "quantize without float_ops" in placement.sentences()[0]


def test_programs_and_imports_refuse_it_by_name(tmp_path: Path) -> None:
    network = converted()
    assert f"'{floats(network.graph)[0]}' adds a float bias, and programs cannot" in unbuilt(network.graph)[0]
    network.export(TEST[:1], tmp_path / "model.onnx")
    with pytest.raises(GraphError, match="float bias"):
        import_onnx((tmp_path / "model.onnx").read_bytes())


def test_the_graph_has_a_text_and_real_values() -> None:
    graph = converted(8).graph
    again = parse_graph(print_graph(graph))
    assert same(graph, again)
    verify(again)
    real, whole = (reals_of(one)["1"] for one in (graph, without_float_bias()))
    assert isinstance(real, RealLayer) and isinstance(whole, RealLayer)
    assert np.array_equal(real.weight, whole.weight)
    assert np.allclose(real.bias, whole.bias, atol=np.abs(whole.weight).max() * 0.05)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("bias", np.nan, "a bias is not finite"), ("ratio", np.inf, "a ratio is not finite")],
)
def test_what_is_no_number_breaks_the_law(key: str, value: float, said: str) -> None:
    graph = converted().graph
    node = graph.node(floats(graph)[0])
    broken = replace(node, constants={**node.constants, key: np.full_like(node.constants[key], value)})
    nodes = tuple(broken if one.name == node.name else one for one in graph.nodes)
    with pytest.raises(GraphError, match=said):
        verify(replace(graph, nodes=nodes))


def test_sums_that_float32_does_not_hold_are_refused() -> None:
    wide = nn.Sequential(nn.Flatten(), nn.Linear(96, 20000), nn.ReLU(), nn.Linear(20000, 2)).eval()
    with torch.no_grad():
        for parameter in wide.parameters():
            parameter.fill_(0.01)
    with pytest.warns(UserWarning, match="float_ops"):
        model = TINPUTinyMLPTQFxModule(wide, float_ops=True)
    model(WINDOWS)
    with pytest.raises(GraphError, match="leaves 25 bits"):
        model.convert()


@pytest.mark.filterwarnings("ignore:float_ops")
def test_a_state_without_it_is_refused() -> None:
    first, second = (TINPUTinyMLPTQFxModule(trained(), BITS, float_ops=asked) for asked in (True, False))
    with pytest.raises(QuantizationError, match="float_ops=True"):
        second.load_state_dict(first.state_dict())


def test_the_quantizers_job_may_ask_for_it() -> None:
    from flowlab.quant.ptq import post_training

    job = replace(quantize_job(trained()), float_bias=True)
    assert floats(post_training(job, "test").graph)
