from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from networks import rule_breaker
from networks.training import quantize_job, trained
from torch import nn

from flowlab.compiler.verify import verify
from flowlab.contracts import NoOptions
from flowlab.learn.trace import float_graph
from flowlab_tinpu.number_format import NPU
from flowlab_tinpu.quantizers import QUANTIZERS


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda quantizer: quantizer.name)
def test_both_make_a_graph_that_obeys_the_format(quantizer) -> None:
    quantized = quantizer.quantize(quantize_job(trained(), epochs=1), NoOptions())
    verify(quantized.graph, NPU)
    assert quantized.graph.metadata["quantizer"] == quantizer.name
    assert ("epochs" in quantized.history) is quantizer.trains
    assert quantizer.trains or quantized.history == {"recipe": "scales alone"}


def test_the_format_is_that_of_the_chapter() -> None:
    eight, four = NPU.by_weight_bits[8], NPU.by_weight_bits[4]
    assert (eight.multiplier_bits, eight.shift, eight.bias_bits) == (0, (0, 31), 24)
    assert (four.multiplier_bits, four.shift, four.bias_bits) == (8, (0, 31), 16)
    assert NPU.activation_bits == (8,)


def test_the_check_needs_no_training_and_names_what_is_wrong() -> None:
    quantizer = QUANTIZERS[0]
    assert list(quantizer.check(float_graph(rule_breaker.build().eval(), rule_breaker.SHAPE), NPU, NoOptions())) == []

    graph = float_graph(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Tanh()).eval(), (1, 8, 1))
    other = replace(graph, nodes=(graph.nodes[0], graph.nodes[1].with_attributes(function="cosine")))
    (sentence,) = quantizer.check(other, NPU, NoOptions())
    assert sentence.startswith("1: no activation 'cosine'")


def test_the_declarations_load_without_torch_and_numpy() -> None:
    script = (
        "import sys, flowlab_tinpu.quantizers\n"
        "print([name for name in ('torch', 'numpy', 'onnx', 'pyarrow') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
