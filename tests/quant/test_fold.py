from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from flowlab.errors import QuantizationError
from flowlab.learn.trace import float_graph
from flowlab.quant.fold import fold, problems
from flowlab.quant.real_value import real_value
from flowlab.quant.steps import LayerStep, TableStep, value_of

SHAPE = (2, 24, 1)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "batch norm before and behind": lambda: nn.Sequential(
        nn.BatchNorm2d(2), nn.Conv2d(2, 6, (3, 1)), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(132, 3)
    ),
    "batch norm alone": lambda: nn.Sequential(
        nn.Conv2d(2, 6, (3, 1)), nn.ReLU(), nn.BatchNorm2d(6), nn.MaxPool2d((2, 1)), nn.Flatten(), nn.Linear(66, 3)
    ),
    "batch norm of a vector": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 3)
    ),
    "depthwise": lambda: nn.Sequential(
        nn.Conv2d(2, 4, (5, 1), (2, 1), (2, 0), groups=2), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    ),
    "tables": lambda: nn.Sequential(
        nn.Conv2d(2, 4, (3, 1)), nn.SiLU(), nn.Conv2d(4, 4, (3, 1)), nn.Hardtanh(), nn.Flatten(), nn.Linear(80, 3),
        nn.Sigmoid(),
    ),
    "relu behind a pool": lambda: nn.Sequential(
        nn.Conv2d(2, 4, (3, 1)), nn.MaxPool2d((2, 1)), nn.ReLU(), nn.Flatten(), nn.Linear(44, 3)
    ),
}  # fmt: skip


def settled(make: Callable[[], nn.Module]) -> nn.Module:
    """Batch norms that have seen data, so that folding has something to do."""
    torch.manual_seed(3)
    module = make().train()
    for _ in range(5):
        module(torch.randn(16, *SHAPE) * 3 + 1)
    return module.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_keeps_what_the_network_computes(name: str) -> None:
    module = settled(NETWORKS[name])
    x = torch.randn(7, *SHAPE)
    steps = fold(float_graph(module, SHAPE))
    values = {steps.input: x.double()}
    for step in steps.steps:
        values[value_of(step)] = real_value(step, values[step.source])
    with torch.no_grad():
        np.testing.assert_allclose(values[steps.output].numpy(), module(x).numpy(), rtol=1e-4, atol=1e-4)


def test_names_are_those_of_the_modules() -> None:
    steps = fold(float_graph(settled(NETWORKS["batch norm before and behind"]), SHAPE))
    assert [value_of(step) for step in steps.steps] == ["quantize", "1.bnorm", "4", "5.bnorm"]


def test_a_clip_is_taken_into_its_layer_and_other_activations_are_tables() -> None:
    steps = fold(float_graph(settled(NETWORKS["tables"]), SHAPE)).steps
    assert [step.function for step in steps if isinstance(step, TableStep)] == ["silu", "sigmoid"]
    assert [step.clip for step in steps if isinstance(step, LayerStep)][1] == (-1.0, 1.0)


def test_what_has_no_integer_form_is_said_by_name() -> None:
    graph = float_graph(nn.Sequential(nn.Conv2d(2, 2, 1), nn.Tanh()).eval(), SHAPE)
    other = replace(graph, nodes=(graph.nodes[0], graph.nodes[1].with_attributes(function="cosine")))
    (sentence,) = problems(other)
    assert sentence.startswith("1: no activation 'cosine'. Known: ")
    with pytest.raises(QuantizationError, match="1: no activation 'cosine'"):
        fold(other)
    other = replace(graph, nodes=(replace(graph.nodes[0], op="convolve"), graph.nodes[1]))
    (sentence,) = problems(other)
    assert sentence.startswith("0: 'convolve' has no integer form")


def test_a_leading_batch_norm_that_switches_a_variable_off_is_a_problem() -> None:
    module = settled(NETWORKS["batch norm before and behind"])
    with torch.no_grad():
        module[0].weight[1] = 0  # type: ignore[index]
    assert any("multiplies channel 1 by 0" in sentence for sentence in problems(float_graph(module, SHAPE)))
