"""The real numbers behind an integer graph: half a step away from its integers, whatever the operation."""

from __future__ import annotations

import numpy as np
import pytest
from integer_graphs import example_graph, features_of, narrow_graph

from flowlab.compiler import interpreter
from flowlab.compiler.ir import Graph
from flowlab.compiler.real_values import ROUNDING, RealLayer, dequantized, real_values, reals_of
from flowlab.errors import GraphError

from .random_graphs import random_features, random_graph

SEEDS = range(40)
GRAPHS = {
    "example": example_graph(), "narrow": narrow_graph(),
    **{f"random {seed}": random_graph(seed, quantized=True) for seed in SEEDS},
}  # fmt: skip


def features(graph: Graph) -> np.ndarray:
    channels = graph.inputs[0].type.shape[0]
    found = features_of(graph, 8) if "requantize" in {node.op for node in graph.nodes} else random_features(graph, 1, 8)
    return found[:, :channels]


@pytest.mark.parametrize("name", GRAPHS)
def test_every_rounding_moves_a_value_by_half_a_step_at_most(name: str) -> None:
    graph = GRAPHS[name]
    given = features(graph)
    whole, reals = interpreter.run(graph, given), reals_of(graph)
    known = {graph.inputs[0].name: given.astype(np.float64)}
    checked = 0
    for node in graph.nodes:
        if node.op not in ROUNDING:
            continue
        real = real_values(graph, known, reals, [node.name])[node.name]
        known[node.name] = dequantized(graph, node.name, whole[node.name])
        if node.op == "table":
            assert np.array_equal(real, known[node.name]), node.name
            continue
        low, high = ((node.attributes[key] - node.type.zero_point) * node.type.scale for key in ("low", "high"))
        far = np.abs(np.clip(real, low, high) - known[node.name])
        slack = 1e-3 if node.op == "quantize" else 1e-6  # its sum and product are float32
        assert far.max() <= (0.5 + slack) * node.type.scale, node.name
        checked += int(far.max() > 0.25 * node.type.scale)
    assert checked, "no value was rounded: the test shows nothing"


def test_a_known_value_stands_and_nothing_before_it_is_computed() -> None:
    graph = example_graph()
    given = features_of(graph, 4)
    known = {"average.bnorm": np.ones((4, 16, 1, 1))}
    found = real_values(graph, known, reals_of(graph), ["fc.bnorm"])
    assert set(found) == {"average.bnorm", "flatten", "fc", "fc.bnorm"}
    weight = reals_of(graph)["fc"]
    assert isinstance(weight, RealLayer)
    assert np.allclose(found["fc.bnorm"], weight.weight.sum(axis=1) + weight.bias)
    assert len(given) == 4


def test_a_relu_stays_and_the_range_of_the_integers_does_not() -> None:
    graph = example_graph()
    given = features_of(graph, 16) * 50
    values = real_values(graph, {graph.inputs[0].name: given.astype(np.float64)}, reals_of(graph), ["conv1.bnorm"])
    found = values["conv1.bnorm"] / graph.node("conv1.bnorm").type.scale
    assert found.min() == 0
    assert found.max() > 255


def test_sums_have_no_one_scale() -> None:
    graph = example_graph()
    whole = interpreter.run(graph, features_of(graph, 2))
    with pytest.raises(GraphError, match="scale differs by channel"):
        dequantized(graph, "conv1", whole["conv1"])


def test_sums_that_nothing_requantizes_are_refused() -> None:
    graph = example_graph()
    with pytest.raises(GraphError, match="'fc': nothing requantizes its sums"):
        reals_of(Graph(graph.inputs, graph.nodes[:-1], {"output": "fc"}))
