"""Own tests of flowlab-gptq: run where it is installed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flowlab.compiler import interpreter
from flowlab.contracts import NumberFormat, Quantized, QuantizeJob, Requantize
from flowlab.learn.trace import float_graph
from flowlab.testing import check_package, check_plugin_is_light, check_quantizer
from flowlab_gptq.plugin import Gptq, GptqOptions
from flowlab_gptq.rounding import damped, moments, rounded

FREE = NumberFormat(
    "free",
    {bits: Requantize(8, (0, 31), 24) for bits in (2, 4, 8)},
    power_of_two_scales={},
)
SHIFTS = NumberFormat("shifts", {8: Requantize(0, (0, 31), 24)}, power_of_two_scales={8: True})
SHAPE = (2, 32, 1)


def network() -> nn.Module:
    """Untrained, and with every kind of layer: dense, grouped, depthwise, strided, padded, linear."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.BatchNorm2d(2),
        nn.Conv2d(2, 8, (5, 1), stride=(2, 1), padding=(2, 0)), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, (3, 1), padding=(1, 0), groups=8), nn.ReLU(),
        nn.Conv2d(8, 8, (3, 1), padding=(2, 0), dilation=(2, 1), groups=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 3),
    ).eval()  # fmt: skip


def waves(count: int, seed: int) -> np.ndarray:
    """Inputs whose neighbours are alike, which is what second moments know of them."""
    noise = np.random.default_rng(seed).standard_normal((count, *SHAPE)).cumsum(axis=2)
    return (noise / 4).astype(np.float32)


def job(**changes: Any) -> QuantizeJob:
    module = network()
    given = {
        "model": module, "graph": float_graph(module, SHAPE), "format": FREE, "weight_bits": 4, "activation_bits": 8,
        "calibration": waves(128, 1), "fit": lambda module: pytest.fail("it trains nothing"), "output_int": True,
        "scratch": Path("unused"), "seed": 0, "progress": lambda what, done: None,
    }  # fmt: skip
    return QuantizeJob(**{**given, **changes})


def error(quantized: Quantized) -> float:
    """Of the outputs on new windows, against float; in parts of their size."""
    windows = waves(64, 2)
    with torch.no_grad():
        wanted = network()(torch.from_numpy(windows)).numpy()
    ((_, value),) = quantized.graph.outputs.items()
    found = interpreter.run(quantized.graph, windows)[value] * quantized.graph.type_of(value).scale
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def nearest(asked: QuantizeJob) -> Quantized:
    """Flowlab's own scales, weights rounded to nearest."""
    from flowlab.quant.ptq import convert, wrap

    return convert(asked, wrap(asked), "nearest")


def test_flowlab_finds_both() -> None:
    assert [item.name for item in check_package("flowlab_gptq.plugin")] == ["gptq", "gptq_cpu"]
    check_plugin_is_light("flowlab_gptq.plugin")


@pytest.mark.parametrize("follow_float", [True, False])
def test_it_conforms_at_every_width(follow_float: bool) -> None:
    assert sorted(check_quantizer(Gptq(), options=GptqOptions(follow_float=follow_float))) == [2, 4, 8]


@pytest.mark.parametrize("bits", [4, 2])
def test_outputs_are_nearer_to_float_than_with_weights_rounded_to_nearest(bits: int) -> None:
    asked = job(weight_bits=bits)
    assert error(Gptq().quantize(asked, GptqOptions())) < 0.8 * error(nearest(job(weight_bits=bits)))


def test_eight_bits_with_shifts_alone_lose_next_to_nothing() -> None:
    assert error(Gptq().quantize(job(weight_bits=8, format=SHIFTS), GptqOptions())) < 0.05


def test_module_and_graph_agree_to_the_bit_and_twice_is_the_same() -> None:
    first, second = (Gptq().quantize(job(), GptqOptions()) for _ in range(2))
    windows = waves(32, 3)
    ((_, value),) = first.graph.outputs.items()
    found = interpreter.run(first.graph, windows)[value]
    assert first.module is not None
    with torch.no_grad():
        np.testing.assert_array_equal(first.module(torch.from_numpy(windows)).numpy(), found)
    np.testing.assert_array_equal(interpreter.run(second.graph, windows)[value], found)


def test_every_layer_keeps_its_own_width() -> None:
    graph = job().graph
    layers = [node.name for node in graph.nodes if node.op in ("conv", "linear")]
    asked = job(bits_of={layers[0]: 8, layers[-1]: 2})
    made = Gptq().quantize(asked, GptqOptions()).graph
    limits = {name: int(np.abs(made.node(name).constants["weight"]).max()) for name in layers}
    assert limits[layers[0]] > 7
    assert limits[layers[1]] <= 7
    assert limits[layers[-1]] <= 1


def test_inputs_that_never_move_are_no_trouble() -> None:
    still = waves(32, 1)
    still[:, 1] = 0.5
    assert error(Gptq().quantize(job(calibration=still, weight_bits=8), GptqOptions())) < 1


def test_a_diagonal_hessian_rounds_to_nearest() -> None:
    weight = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 9)))
    scale = torch.full((4,), 0.3, dtype=torch.float64)
    found = rounded(weight, scale, 7, torch.diag(torch.arange(1.0, 10.0, dtype=torch.float64)))
    torch.testing.assert_close(found, torch.clamp(torch.round(weight / 0.3), -7, 7))


def test_alike_inputs_make_good_what_each_other_loses() -> None:
    """Two inputs that are nearly one: 0.5 + 0.5 is 1, where both rounded to nearest even make 0."""
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((200, 1))).expand(200, 2).clone()
    rows[:, 1] += 1e-3 * torch.from_numpy(np.random.default_rng(1).standard_normal(200))
    hessian = damped(moments(rows, rows), 1e-6)
    found = rounded(torch.tensor([[0.5, 0.5]]).double(), torch.ones(1).double(), 7, hessian)
    assert found.sum() == 1


@pytest.mark.parametrize("damping", [0.0, -1.0, float("nan")])
def test_a_damping_that_makes_no_hessian_is_refused(damping: float) -> None:
    with pytest.raises(ValueError, match="damping .* give a number above 0"):
        GptqOptions(damping=damping)


def test_what_it_cannot_say_in_integers_is_said_before_training() -> None:
    graph = job().graph
    assert not Gptq().check(graph, FREE, GptqOptions())
    strange = replace(graph.nodes[1], op="no_such_operation")
    said = Gptq().check(replace(graph, nodes=(graph.nodes[0], strange, *graph.nodes[2:])), FREE, GptqOptions())
    assert strange.name in " ".join(said)
