"""Averages over parts of a series: quantized as the depthwise convolutions that they are, and placed on the NPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks.tones import tones
from networks.training import data, outputs, quantize_job, settings
from torch import nn

from flowlab.compiler import interpreter
from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.pipeline import place_for
from flowlab.contracts import NoOptions
from flowlab.learn.loop import fit
from flowlab.stages.validate import run_onnx
from flowlab_tinpu.devices import TARGETS
from flowlab_tinpu.quantizers import QUANTIZERS

DEVICE = next(target for target in TARGETS if target.name == "F28P55")
SHAPE = (1, 96, 1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.BatchNorm2d(1), nn.Conv2d(1, 8, (5, 1), (2, 1), (2, 0)), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d((4, 1)), nn.Flatten(), nn.Linear(32, 3),
    )  # fmt: skip


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda quantizer: quantizer.name)
def test_four_averages_agree_and_run_on_the_npu(quantizer) -> None:
    module = network()
    fit(module, data(), settings())
    features, labels = tones(300, 9)
    right = (outputs(module, features).argmax(axis=1) == labels).mean()
    quantized = quantizer.quantize(quantize_job(module, SHAPE, epochs=2), NoOptions())
    found = outputs(quantized.module, features)
    value = quantized.graph.outputs["output"]
    assert np.array_equal(interpreter.run(quantized.graph, features)[value], found)
    assert np.array_equal(run_onnx(export_onnx(quantized.graph, {}), features, ["output"])["output"], found)
    assert (found.argmax(axis=1) == labels).mean() > right - 0.02 > 0.7
    rows = place_for(DEVICE, quantized.graph).rows
    assert [(row.layer, row.unit) for row in rows] == [("FCONV", "npu"), ("DWCONV", "npu"), ("FC", "npu")]
