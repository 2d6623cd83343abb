"""What a quantized network lost, step by step: the steps meet at both ends, and the layer that is at fault is found."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from networks.tones import tones
from networks.training import outputs, quantize_job, trained
from quant.ugly_measure import job_of
from quant.ugly_networks import build
from torch import nn

from flowlab.compiler import interpreter
from flowlab.compiler.ir import Graph, Node
from flowlab.errors import GraphError
from flowlab.learn.trace import float_graph
from flowlab.quant.ptq import post_training
from flowlab.quant.qat import quantization_aware
from flowlab.quant.waterfall import LayerNoise, Waterfall, waterfall
from flowlab_tinpu.number_format import NPU

FEATURES, _ = tones(300, 9)


@cache
def quantized(bits: int = 8, trains: bool = False, output_int: bool = True) -> Graph:
    job = quantize_job(trained(), weight_bits=bits, output_int=output_int, epochs=3, learning_rate=0.01)
    return (quantization_aware if trains else post_training)(job, "test").graph


@cache
def floats() -> Graph:
    job = quantize_job(trained())
    return job.graph


@cache
def fell(bits: int = 8, trains: bool = False) -> Waterfall:
    return waterfall(floats(), quantized(bits, trains), FEATURES, "output")


def errors(found: Waterfall) -> dict[tuple[str, str], float]:
    """By step: the squared change of the outputs."""
    return {
        (after.kind, after.layer): float(((after.outputs - before.outputs) ** 2).sum())
        for before, after in pairwise(found.cuts)
    }


def real_outputs(graph: Graph) -> np.ndarray:
    type_ = graph.type_of(graph.outputs["output"])
    return interpreter.outputs(graph, FEATURES)["output"] * (type_.scale if type_.dtype != "float32" else 1.0)


def changed(graph: Graph, name: str, **constants: np.ndarray) -> Graph:
    def change(node: Node) -> Node:
        return replace(node, constants={**node.constants, **constants}) if node.name == name else node

    return replace(graph, nodes=tuple(change(node) for node in graph.nodes))


def noise(found: Waterfall, layer: str) -> LayerNoise:
    return next(one for one in found.layers if one.layer == layer)


@pytest.mark.parametrize(("bits", "trains"), [(8, False), (4, False), (2, False), (8, True), (2, True)])
def test_the_first_step_is_the_float_network_and_the_last_one_ships(bits: int, trains: bool) -> None:
    found = fell(bits, trains)
    assert found.cuts[0].kind == "float"
    assert np.allclose(found.cuts[0].outputs, outputs(trained(), FEATURES), atol=1e-4)
    assert np.allclose(found.cuts[1].outputs, found.cuts[0].outputs, atol=1e-9), "a fold changes nothing"
    assert np.array_equal(found.cuts[-1].outputs, real_outputs(quantized(bits, trains)))


def test_scales_alone_move_no_weight_beyond_rounding() -> None:
    assert fell(4).moved == 0
    assert not fell(4).trained
    kinds = [cut.kind for cut in fell(4).cuts]
    assert kinds[:3] == ["float", "folded", "input"]
    assert "trained" not in kinds
    assert kinds.count("weights") == 3  # two convolutions and the fully connected layer


def test_trained_weights_are_a_step_of_their_own() -> None:
    found = fell(2, True)
    assert found.moved is not None
    assert found.moved > 0.001
    kinds = [cut.kind for cut in found.cuts]
    assert kinds[:4] == ["float", "folded", "trained", "input"]
    assert "weights" not in kinds


def test_two_bit_weights_lose_more_than_the_results_between_them() -> None:
    lost = errors(fell(2))
    weights, results = (sum(one for (kind, _), one in lost.items() if kind == name) for name in ("weights", "result"))
    assert weights > 20 * results > 0
    ratios = [fell(bits).layers[-1].sqnr_db for bits in (2, 4, 8)]
    assert ratios == sorted(ratios)
    assert ratios[2] > ratios[0] + 15


def test_the_layer_whose_range_is_too_small_is_found() -> None:
    whole = quantized(8)
    node = whole.node("5.bnorm")
    narrow = replace(node, attributes={**node.attributes, "low": -3, "high": 3})
    graph = replace(whole, nodes=tuple(narrow if one is node else one for one in whole.nodes))
    found = waterfall(floats(), graph, FEATURES, "output")
    lost = errors(found)
    assert max(lost, key=lambda key: lost[key]) == ("result", "5")
    assert noise(found, "5").saturated_low + noise(found, "5").saturated_high > 0.3
    assert noise(fell(8), "5").saturated_low + noise(fell(8), "5").saturated_high < 0.05
    assert noise(found, "5").own_sqnr_db < 10 < 25 < noise(fell(8), "5").own_sqnr_db


def test_a_filter_of_zeros_is_a_dead_channel() -> None:
    weight = quantized(8).node("1").constants["weight"].copy()
    weight[2] = 0
    bias = quantized(8).node("1.bnorm").constants["bias"].copy()
    bias[2] = 0
    graph = changed(changed(quantized(8), "1", weight=weight), "1.bnorm", bias=bias)
    before, after = noise(fell(8), "1"), noise(waterfall(floats(), graph, FEATURES, "output"), "1")
    assert after.dead == before.dead + 1
    assert after.dead_in_float == before.dead_in_float
    assert after.channels == 5


def test_real_outputs_are_those_of_integers_times_their_scale() -> None:
    ends = [waterfall(floats(), quantized(8, False, whole), FEATURES, "output").cuts[-1] for whole in (True, False)]
    assert np.allclose(ends[0].outputs, ends[1].outputs, rtol=1e-6)


def test_windows_in_several_batches_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowlab.quant.waterfall.BATCH", 64)
    found = waterfall(floats(), quantized(4), FEATURES, "output")
    for one, other in zip(found.cuts, fell(4).cuts, strict=True):
        assert np.allclose(one.outputs, other.outputs)
    for layer, other_layer in zip(found.layers, fell(4).layers, strict=True):
        assert layer.sqnr_db == pytest.approx(other_layer.sqnr_db)
        assert layer.dead == other_layer.dead


def test_a_float_network_without_these_layers_leaves_the_weights_one_step() -> None:
    torch.manual_seed(0)
    other = nn.Sequential(nn.Flatten(), nn.Linear(96, 3)).eval()
    found = waterfall(float_graph(other, (1, 96, 1)), quantized(8), FEATURES, "output")
    assert found.moved is None
    assert found.trained
    assert np.array_equal(found.cuts[-1].outputs, real_outputs(quantized(8)))


def test_windows_of_another_shape_are_refused() -> None:
    with pytest.raises(GraphError, match="reads vectors of shape"):
        waterfall(floats(), quantized(8), FEATURES[:, :, :50], "output")


@pytest.mark.parametrize(
    "name", ["a U-net", "squeeze-excite, hardsigmoid", "Upsample bilinear", "GLU", "LSTM", "slices and flips"]
)
def test_any_ordinary_network_is_taken_apart(name: str) -> None:
    module, shape = build(name, epochs=1)
    job = job_of(module, shape, NPU)
    graph = post_training(job, "test").graph
    found = waterfall(job.graph, graph, job.calibration[:40], "output")
    assert not found.trained
    assert np.allclose(found.cuts[1].outputs, found.cuts[0].outputs, rtol=1e-9, atol=1e-9)
    shipped = interpreter.outputs(graph, job.calibration[:40])["output"].reshape(40, -1)
    assert np.allclose(found.cuts[-1].outputs, shipped, rtol=1e-6)
    assert min(one.sqnr_db for one in found.layers) > 8
