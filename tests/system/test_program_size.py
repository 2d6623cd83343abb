"""A program without its vectors is hardly more than its packed weights: every named network, every width."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from quant.ugly_measure import job_of

from flowlab.compiler.lower import lower, weight_bytes
from flowlab.compiler.pipeline import place_for
from flowlab.compiler.program import encode, parse
from flowlab.learn.trace import trace_module
from flowlab.plugins import load
from flowlab.quant.ptq import post_training
from flowlab_tinpu.devices import TARGETS
from flowlab_tinpu.number_format import NPU
from flowlab_zoo.models import TABLES

pytestmark = pytest.mark.system

DEVICE = next(target for target in TARGETS if target.name == "F28P55")
SHAPE = (1, 256, 1)
FACTOR, BESIDE = 1.25, 2048  # of the packed weights, and bytes for everything else


class Shuffled(torch.nn.Module):
    """Grouped convolutions with their channels shuffled between: on the device in parts, and numbers that move."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, 16, (5, 1), (2, 1), (2, 0))
        self.blocks = torch.nn.ModuleList(torch.nn.Conv2d(16, 16, (3, 1), 1, (1, 0), groups=2) for _ in range(3))
        self.head = torch.nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        for block in self.blocks:
            x = torch.relu(block(x))
            x = x.reshape(-1, 2, 8, 128).transpose(1, 2).reshape(-1, 16, 128, 1)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("name", [*TABLES, "shuffled"])
def test_a_program_is_at_most_a_quarter_more_than_its_weights_and_two_kilobytes(name: str) -> None:
    torch.manual_seed(0)
    if name == "shuffled":
        module: torch.nn.Module = Shuffled()
    else:
        catalogue = load()
        model = catalogue.get("model", name)
        module = model.build(SHAPE, 4, catalogue.options(model, {}))
    features = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (64, *SHAPE)).astype(np.float32))
    with torch.no_grad():
        module.train()(features)
    module.eval()
    graph = trace_module(module, SHAPE).graph
    for bits in (8, 4, 2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            job = job_of(module, SHAPE, NPU, graph=graph, weight_bits=bits, calibration=features.numpy())
            quantized = post_training(job, "test").graph
        placed = place_for(DEVICE, quantized).graph
        container = lower(placed, "ab" * 32)
        data = encode(container)
        assert parse(data).layers[-1].name == container.layers[-1].name
        packed = sum(weight_bytes(layer) for layer in container.layers)
        assert len(data) <= FACTOR * packed + BESIDE, (bits, len(data), packed)
