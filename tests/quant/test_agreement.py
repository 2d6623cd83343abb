"""The law: what evaluation during training says, the converted module, ONNX Runtime and the interpreter are equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import rule_breaker
from networks.tones import tones
from networks.training import data, outputs, quantize_job, trained
from torch import nn

from flowlab.compiler import interpreter
from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.ir import Graph
from flowlab.compiler.number_format import GENERIC
from flowlab.contracts import NumberFormat, Quantized
from flowlab.learn.loop import predict
from flowlab.quant.ptq import convert, post_training, wrap
from flowlab.quant.qat import quantization_aware
from flowlab_tinpu.number_format import NPU

TEST = tones(300, 9)
WIDTHS = [(NPU, bits, 8) for bits in (8, 4, 2)] + [
    (GENERIC, bits, activation) for bits in (8, 4, 2) for activation in (8, 4, 2)
]
FUNCTIONS = [nn.Tanh, nn.Sigmoid, nn.GELU, nn.ReLU6]


def onnx_outputs(graph: Graph, features: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(export_onnx(graph), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": features})[0])


def assert_all_equal(quantized: Quantized, features: np.ndarray) -> np.ndarray:
    assert quantized.module is not None
    found = outputs(quantized.module, features)
    value = quantized.graph.outputs["output"]
    assert np.array_equal(interpreter.run(quantized.graph, features)[value], found)
    assert np.array_equal(onnx_outputs(quantized.graph, features), found)
    return found


def accuracy(result: np.ndarray) -> float:
    return float((result.argmax(axis=1) == TEST[1]).mean())


@pytest.mark.parametrize(("format", "weight_bits", "activation_bits"), WIDTHS)
def test_every_width_trains_to_what_it_can_hold(format: NumberFormat, weight_bits: int, activation_bits: int) -> None:
    """Far above the chance of a third; what evaluation says at the end of training is what ships."""
    networks = []
    job = quantize_job(
        trained(nn.ReLU), format=format, weight_bits=weight_bits, activation_bits=activation_bits, epochs=6
    )
    fit = job.fit

    def watched(network: nn.Module) -> Mapping[str, Any]:
        networks.append(network)
        return fit(network)

    quantized = quantization_aware(replace(job, fit=watched), "test")
    found = assert_all_equal(quantized, TEST[0])
    assert np.array_equal(predict(networks[0], TEST[0]).argmax(axis=1), found.argmax(axis=1))
    floor = {8: 0.9, 4: 0.85, 2: 0.6}[min(weight_bits, activation_bits)]
    assert accuracy(found) > floor
    assert_within_widths(quantized.graph, format, weight_bits, activation_bits)


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_ptq_agrees_everywhere_and_keeps_the_accuracy(activation: type[nn.Module]) -> None:
    module = trained(activation)
    quantized = post_training(quantize_job(module), "test")
    found = assert_all_equal(quantized, TEST[0])
    assert quantized.warnings == ()
    assert accuracy(found) > accuracy(outputs(module, TEST[0])) - 0.02
    assert len(np.unique(found)) > 50


def test_what_qat_reports_is_what_ships() -> None:
    networks = []
    job = quantize_job(trained())
    fit = job.fit

    def watched(network: nn.Module) -> object:
        networks.append(network)
        return fit(network)

    quantized = quantization_aware(quantize_job(trained(), fit=watched), "test")
    found = assert_all_equal(quantized, TEST[0])
    scale = np.float32(quantized.graph.type_of("10.bnorm").scale)
    assert np.array_equal(predict(networks[0], TEST[0]), found.astype(np.float32) * scale)
    history = quantized.history
    val = outputs(quantized.module, data().val_features)  # type: ignore[arg-type]
    assert history["best_value"] == (val.argmax(axis=1) == data().val_targets).mean()
    assert accuracy(found) > accuracy(outputs(trained(), TEST[0])) - 0.02
    assert quantized.warnings == ()


def test_the_callers_model_is_never_changed() -> None:
    job = quantize_job(trained())
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    constants = {name: value.copy() for node in job.graph.nodes for name, value in node.constants.items()}
    quantization_aware(job, "test")
    assert all(torch.equal(value, before[name]) for name, value in job.model.state_dict().items())
    after = {name: value for node in job.graph.nodes for name, value in node.constants.items()}
    assert all(np.array_equal(value, constants[name]) for name, value in after.items())


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second = (export_onnx(quantization_aware(quantize_job(trained()), "test").graph) for _ in range(2))
    assert first == second


def test_a_float_output_is_one_multiplication_of_the_integers() -> None:
    whole = post_training(quantize_job(trained()), "test")
    real = post_training(quantize_job(trained(), output_int=False), "test")
    found = assert_all_equal(real, TEST[0])
    assert found.dtype == np.float32
    scale = np.float32(whole.graph.type_of("10.bnorm").scale)
    assert np.array_equal(found, outputs(whole.module, TEST[0]).astype(np.float32) * scale)  # type: ignore[arg-type]


def test_training_that_changes_nothing_is_said() -> None:
    quantized = quantization_aware(quantize_job(trained(), fit=lambda network: {}), "test")
    assert quantized.warnings == ("quantization-aware training changed no weight: the result is that of PTQ",)


def random_network(seed: int) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network of random shape whose batch norms have seen data."""
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    channels, height, width = int(random.integers(1, 4)), int(random.integers(12, 30)), int(random.choice([1, 1, 5]))
    layers: list[nn.Module] = [nn.BatchNorm2d(channels)] if random.random() < 0.7 else []
    inner = channels
    for _ in range(int(random.integers(1, 4))):
        kernel = (int(random.integers(1, 6)), int(random.integers(1, 4)) if width > 1 else 1)
        depthwise = inner > 1 and random.random() < 0.3
        made = inner * 2 if depthwise else int(random.integers(2, 12))
        layers.append(
            nn.Conv2d(inner, made, kernel, int(random.integers(1, 3)), (kernel[0] // 2, kernel[1] // 2),
                      groups=inner if depthwise else 1)
        )  # fmt: skip
        inner = made
        layers += [nn.BatchNorm2d(inner)] if random.random() < 0.6 else []
        layers += [[], [nn.ReLU()], [nn.ReLU6()], [nn.Tanh()]][int(random.integers(4))]
        layers += [nn.MaxPool2d((3, 1), (2, 1), (1, 0))] if random.random() < 0.3 else []
    layers += [nn.AdaptiveAvgPool2d(1)] if random.random() < 0.5 else []
    network = nn.Sequential(*layers, nn.Flatten())
    flat = network.eval()(torch.zeros(1, channels, height, width)).shape[1]
    network.append(nn.Linear(flat, 3))
    network.train()
    for _ in range(3):
        network(torch.randn(16, channels, height, width) * 2 + 1)
    return network.eval(), (channels, height, width)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from(WIDTHS), st.integers(0, 2))
def test_random_networks_agree_before_and_behind_training_steps(
    seed: int, widths: tuple[NumberFormat, int, int], steps: int
) -> None:
    format, weight_bits, activation_bits = widths
    module, shape = random_network(seed)
    features = np.random.default_rng(seed).normal(1, 2, (40, *shape)).astype(np.float32)
    job = quantize_job(
        module, shape, calibration=features, format=format, weight_bits=weight_bits, activation_bits=activation_bits
    )
    network = wrap(job)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    for _ in range(steps):  # none: that is PTQ
        network.train()
        loss = torch.nn.functional.cross_entropy(network(torch.from_numpy(features)), torch.arange(40) % 3)
        loss.backward()
        optimizer.step()
    quantized = convert(job, network, "test")
    wide = features * 5  # saturates
    found = assert_all_equal(quantized, wide)
    scale = np.float32(quantized.graph.type_of(quantized.graph.outputs["output"]).scale)
    assert np.array_equal(outputs(network, wide), found.astype(np.float32) * scale)
    assert_within_widths(quantized.graph, format, weight_bits, activation_bits)


def assert_within_widths(graph: Graph, format: NumberFormat, weight_bits: int, activation_bits: int) -> None:
    """Weights, multipliers and activations are of the widths that were asked for; the output keeps 8 bits."""
    most, form = 2 ** (weight_bits - 1) - 1, format.by_weight_bits[weight_bits]
    output = graph.outputs["output"]
    while graph.node(output).op in ("flatten", "max_pool"):
        (output,) = graph.node(output).inputs
    for node in graph.nodes:
        if "weight" in node.constants:
            assert node.attributes["weight_bits"] == weight_bits
            assert np.abs(node.constants["weight"]).max() <= most
        if node.op == "requantize":
            multiplier = node.constants["multiplier"]
            assert 1 <= multiplier.min() <= multiplier.max() <= max(1, 2**form.multiplier_bits - 1)
        if "high" in node.attributes:
            bits = 8 if node.name == output else activation_bits
            low, high = {"int8": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), "uint8": (0, 2**bits - 1)}[node.type.dtype]
            assert low <= node.attributes["low"] <= node.attributes["high"] <= high


def cancelling(kind: str) -> nn.Sequential:
    """512 channels of which the second half has the weights of the first with the other sign, but for one."""
    torch.manual_seed(3)
    channels, places = 512, 12
    behind = [nn.ReLU(), nn.Flatten(), nn.Linear(8 * places if kind == "conv" else 8, 3)]
    if kind == "conv":
        first: list[nn.Module] = [nn.Conv2d(channels, 8, (9, 1), padding=(4, 0))]
    else:
        first = [nn.Flatten(), nn.Linear(channels * places, 8)]
    with torch.no_grad():
        weight = first[-1].weight
        assert isinstance(weight, torch.Tensor)
        half = weight.shape[1] // 2
        weight.uniform_(0.19, 0.2)
        weight[:, half:] = -weight[:, :half]
        weight[:, 0] *= 0.5
    return nn.Sequential(nn.BatchNorm2d(channels), *first, *behind).eval()


@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize(("format", "weight_bits"), [(GENERIC, 8), (GENERIC, 4), (NPU, 4)])
def test_large_sums_that_cancel_and_saturation_are_exact_everywhere(
    format: NumberFormat, weight_bits: int, kind: str
) -> None:
    """Partial sums leave the 24 bits of float32, or with the multiplier they do; what is left of them does not."""
    module = cancelling(kind)
    features = np.random.default_rng(3).normal(2, 1, (60, 512, 12, 1)).astype(np.float32)
    features[:, 256:] = features[:, :256]
    job = quantize_job(module, (512, 12, 1), calibration=features, format=format, weight_bits=weight_bits)
    network = wrap(job)
    quantized = convert(job, network, "test")
    wide = np.concatenate([features, features * 8, np.full((2, 512, 12, 1), 99, np.float32), -features[:5]])
    found = assert_all_equal(quantized, wide)
    graph = quantized.graph
    scale = np.float32(graph.type_of(graph.outputs["output"]).scale)
    assert np.array_equal(outputs(network, wide), found.astype(np.float32) * scale)
    first = next(node for node in graph.nodes if "weight" in node.constants)
    multiplier = graph.node(f"{first.name}.bnorm").constants["multiplier"]
    assert multiplier.min() > 1
    largest = np.abs(first.constants["weight"].astype(int)).reshape(8, -1).sum(1) * 128
    assert (largest * multiplier).max() > 2**24


def test_the_small_network_has_a_table_on_a_requantized_value() -> None:
    graph = post_training(quantize_job(trained()), "test").graph
    table = graph.node("7")
    assert (table.op, table.inputs) == ("table", ("5.bnorm",))
    assert [node.op for node in graph.nodes].count("requantize") == 4
    assert graph.node("5").constants["weight"].shape[0] == rule_breaker.build()[5].out_channels  # type: ignore[index]


class Scaled(nn.Module):
    """A constant factor behind a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, (5, 1)), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, 1, 96, 1) -> (batch, 3)."""
        found: torch.Tensor = self.head(torch.relu(self.conv(x) * 2 + 0.5).mean((2, 3)))
        return found


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_constant_factor_is_no_batch_norm_and_is_never_live(bits: int) -> None:
    job = quantize_job(Scaled().eval(), weight_bits=bits)
    fit = job.fit

    def watched(network: nn.Module) -> Mapping[str, Any]:
        network.set_live(True)  # type: ignore[operator]
        assert network.finished
        return fit(network)

    assert_all_equal(quantization_aware(replace(job, fit=watched), "test"), TEST[0])
