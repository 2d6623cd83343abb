"""The law on random networks: training's arithmetic, the converted module, interpreter and ONNX Runtime are equal."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from networks.random_networks import draw
from quant.ugly_measure import same_integers

from flowlab.compiler import interpreter
from flowlab.compiler.ir import Graph
from flowlab.compiler.number_format import GENERIC
from flowlab.contracts import NumberFormat, QuantizeJob
from flowlab.learn.trace import trace_module
from flowlab.quant.fake_network import FakeQuantized
from flowlab.quant.ptq import convert, wrap
from flowlab_tinpu.number_format import NPU

GRAPHS, PART, FLOAT_BIAS = 510, 85, 60
LEAST = 20  # of each kind
KINDS = {  # what the generator draws: a kind that it loses fails
    "GRU", "LSTM", "adaptive pool", "add", "area that is no power of two", "average pool", "cat", "clip", "conv",
    "conv of 1 dimensions", "conv of 2 dimensions", "cut", "depthwise conv", "dilated conv", "dropout", "flatten",
    "grouped conv", "layer used twice", "linear", "max pool", "mean", "multiply", "multiply by channel", "norm alone",
    "norm behind a layer", "norm in front", "relu function", "relu method", "relu module", "relu reused",
    "several outputs", "table", "transposed conv", "turned", "upsample 0", "upsample 1", "view",
}  # fmt: skip
WIDTHS: tuple[tuple[NumberFormat, int, int], ...] = (
    *((NPU, bits, 8) for bits in (8, 4, 2)),
    *((GENERIC, bits, activations) for bits in (8, 4, 2) for activations in (8, 4, 2)),
)
WINDOWS, WIDE, GROWN = 64, 3.0, 2.0  # inputs and weights beyond what calibration saw, so that values saturate


@dataclass(frozen=True)
class Seen:
    """Of one network: whether the executions are equal, and of how many layers, which reached both of their ends."""

    equal: bool
    layers: int
    saturated: int


def seen(seed: int, *, float_bias: bool = False) -> Seen:
    drawn, (format, weight_bits, activation_bits) = draw(seed), WIDTHS[seed % len(WIDTHS)]
    random = np.random.default_rng(seed)
    graph = trace_module(drawn.module, drawn.shape).graph
    shape = graph.inputs[0].type.shape
    calibration, features = ((random.normal(size=(WINDOWS, *shape)) * size).astype(np.float32) for size in (1.0, WIDE))
    job = QuantizeJob(
        model=drawn.module,
        graph=graph,
        format=format,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        calibration=calibration,
        fit=lambda module: {},
        output_int=bool(random.integers(2)),
        scratch=Path("unused"),
        seed=seed,
        progress=lambda what, done: None,
        float_bias=float_bias,
    )
    network = wrap(job, live=0.5, learn_scales=True)
    if seed % 3 == 0:
        step_of_training(network, calibration)
    with torch.no_grad():
        for layer in network.layers():
            (layer.weight if layer.gamma is None else layer.gamma).mul_(GROWN)
    quantized = convert(job, network, "random")
    assert quantized.module is not None
    with torch.no_grad():
        found = parts(quantized.module(torch.from_numpy(features)))
        trained = parts((network.whole_numbers if job.output_int else network)(torch.from_numpy(features)))
    equal = all(np.array_equal(a, b) for a, b in zip(found, trained, strict=True))
    ends = list(saturated(quantized.graph, features))
    return Seen(equal and same_integers(quantized.graph, features, found), len(ends), sum(ends))


def step_of_training(network: FakeQuantized, features: np.ndarray) -> None:
    """One step with live norms, so that nothing is where calibration left it."""
    network.set_live(True)
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    torch.stack([part.square().mean() for part in tensors(network(torch.from_numpy(features)))]).sum().backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    network.finish()
    network.eval()


def tensors(found: object) -> list[torch.Tensor]:
    if isinstance(found, dict):
        return list(found.values())
    return list(found) if isinstance(found, tuple) else [found]  # type: ignore[list-item]


def parts(found: object) -> list[np.ndarray]:
    return [part.numpy() for part in tensors(found)]


def saturated(graph: Graph, features: np.ndarray) -> list[bool]:
    """Of every value that a requantization makes, whether the inputs drive it to its least and to its most."""
    values = interpreter.run(graph, features)
    return [
        int(values[node.name].min()) == node.attributes["low"]
        and int(values[node.name].max()) == node.attributes["high"]
        for node in graph.nodes
        if "low" in node.attributes and "high" in node.attributes and node.op != "quantize"
    ]


def test_every_kind_of_operation_is_drawn_often_and_at_every_width() -> None:
    counted: Counter[str] = Counter()
    for seed in range(GRAPHS):
        counted += draw(seed).counted
    assert min(counted.values()) >= LEAST, counted
    assert set(counted) == KINDS
    widths = Counter(seed % len(WIDTHS) for seed in range(GRAPHS))
    assert len(widths) == len(WIDTHS) and min(widths.values()) >= LEAST


@pytest.mark.parametrize("first", range(0, GRAPHS, PART))
def test_random_networks_agree_to_the_bit(first: int) -> None:
    found = {seed: seen(seed) for seed in range(first, first + PART)}
    assert [seed for seed, one in found.items() if not one.equal] == []
    layers, both = (sum(getattr(one, name) for one in found.values()) for name in ("layers", "saturated"))
    assert both >= 0.3 * layers > 0


def test_random_networks_with_float_biases_agree_to_the_bit() -> None:
    found = {seed: seen(seed, float_bias=True) for seed in range(FLOAT_BIAS)}
    assert [seed for seed, one in found.items() if not one.equal] == []
