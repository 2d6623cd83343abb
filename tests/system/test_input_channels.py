"""Networks of several input channels: all of them on the NPU with zeros padded, and every execution agrees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from networks.tones import tones
from networks.training import outputs, quantize_job, settings
from numpy.typing import NDArray
from torch import nn

from flowlab.compiler import interpreter
from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.pipeline import place_for
from flowlab.compiler.place import Placement
from flowlab.compiler.rewrite import replace_nodes
from flowlab.contracts import Golden, LowerJob, NoOptions
from flowlab.cpu import host_compiler
from flowlab.learn.loop import FitData, fit
from flowlab.learn.trace import float_graph
from flowlab.stages import validate
from flowlab_cores.cores import CORES
from flowlab_tinpu.devices import TARGETS
from flowlab_tinpu.quantizers import QUANTIZERS

LENGTH = 96
DEVICE = next(target for target in TARGETS if target.name == "F28P55")
CORE = next(core for core in CORES if core.name == DEVICE.core)
PTQ = next(one for one in QUANTIZERS if not one.trains)


def network(channels: int, stride: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.Conv2d(channels, 8, (5, 1), (stride, 1), (2, 0)),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d((3, 1), (2, 1), (1, 0)),
        nn.Conv2d(8, 16, (3, 1), (2, 1), (1, 0)),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def several(channels: int, count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Tones in every channel, each ten times as loud as the one before, the first one backwards."""
    tone, labels = tones(count, seed, LENGTH)
    loud = np.float32(10) ** np.arange(channels, dtype=np.float32)
    features = np.repeat(tone, channels, axis=1) * loud[None, :, None, None]
    features[:, 0] = features[:, 0, ::-1]
    return np.ascontiguousarray(features), labels


def placed(channels: int, stride: int = 2) -> Placement:
    """As the gate does it: the untrained network, padded and placed."""
    graph = replace_nodes(
        float_graph(network(channels, stride), (channels, LENGTH, 1)),
        lambda node: node.with_attributes(weight_bits=8) if node.op in ("conv", "linear") else node,
    )
    return place_for(DEVICE, graph)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_every_layer_is_on_the_npu_and_every_execution_gives_equal_integers(channels: int, tmp_path: Path) -> None:
    features, labels = several(channels, 400, 1)
    module = network(channels)
    data = FitData(features[:300], labels[:300], features[300:], labels[300:])
    fit(module, data, settings(epochs=3))
    shape = (channels, LENGTH, 1)
    quantized = PTQ.quantize(quantize_job(module, shape, calibration=features[:128]), NoOptions())

    test, _ = several(channels, 70, 2)
    model = export_onnx(quantized.graph, {})
    runtime = validate.integers_where_meant(quantized.graph, validate.run_onnx(model, test, ["output"]))["output"]
    assert len(np.unique(runtime)) > 50
    assert np.array_equal(outputs(quantized.module, test), runtime)

    placement = place_for(DEVICE, quantized.graph)
    assert placement.npu_share == 1.0
    assert {row.unit for row in placement.rows} == {"npu"}
    graph = placement.graph
    values, crcs = validate.interpret(graph, test)
    assert np.array_equal(values["output"], runtime)

    few = test[:4]
    interpreted, traced = validate.interpret(graph, few)
    entry = next(node.name for node in graph.nodes if node.op == "quantize")
    inputs = interpreter.run(graph, few)[entry][:, :channels].astype(np.int8)
    golden = Golden(few, inputs, interpreted, traced, few[..., 0])
    spec = {"shape": list(shape), "classes": ["low", "middle", "high"], "options": {}}
    job = LowerJob(
        graph, golden, True, CORE, None, ("low", "middle", "high"), "ab" * 32, tmp_path / "program", {}, spec
    )
    program = DEVICE.lower(job)
    ran = [one for one in DEVICE.executions() if one.missing() is None]
    if host_compiler.find() is None:
        assert [one.name for one in ran] == ["simulator"]
    for execution in ran:
        outcome = execution.run(program.files, test, tmp_path / execution.name)
        assert np.array_equal(outcome.outputs["output"], runtime), execution.name
        for node, crc in crcs.items():
            assert np.array_equal(outcome.trace[node], crc), (execution.name, node)


@pytest.mark.parametrize(("channels", "padded"), [(2, 4), (3, 4), (5, 8)])
def test_the_gate_says_what_the_zeros_cost_before_any_training(channels: int, padded: int) -> None:
    placement = placed(channels)
    first = placement.rows[0]
    added = padded - channels
    macs, size = added * 5 * 8 * (LENGTH // 2), added * 5 * 8
    cost = f"{channels} -> {padded} input channels: +{macs} MACs, +{size} bytes of weights"
    assert (first.layer, first.unit, first.padding) == ("GCONV", "npu", cost)
    assert first.macs == padded * 5 * 8 * (LENGTH // 2)
    (sentence,) = placement.sentences()
    assert sentence.startswith("zeros are padded")
    assert sentence.endswith(f"layer '{first.name}' (GCONV) {cost}")
    assert {row.padding for row in placement.rows[1:]} == {""}


@pytest.mark.parametrize(("channels", "layer"), [(1, "FCONV"), (4, "GCONV"), (8, "GCONV")])
def test_one_channel_and_multiples_of_four_cost_nothing(channels: int, layer: str) -> None:
    placement = placed(channels)
    assert (placement.rows[0].layer, placement.rows[0].padding) == (layer, "")
    assert placement.sentences() == ()


def test_a_stride_that_one_channel_may_have_is_not_allowed_for_two_and_no_zeros_are_wasted_on_it() -> None:
    assert placed(1, stride=4).rows[0].unit == "npu"
    first = placed(2, stride=4).rows[0]
    assert (first.layer, first.unit, first.padding) == ("GCONV", "cpu", "")
    assert "The stride of a convolution is (1, 1), (2, 1) or (2, 2)." in first.reason
    assert first.macs == 2 * 5 * 8 * (LENGTH // 4)
