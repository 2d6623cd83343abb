"""Where the values of a float program lie: as little memory as possible, and nothing is overwritten that is read."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlab.compiler import interpreter
from flowlab.compiler.float_plan import constants, memory, plan, weight_bytes
from flowlab.compiler.steps import float_roots
from flowlab.compiler.text import parse_graph
from flowlab.errors import ProgramError

from .random_graphs import random_features, random_graph

CHAIN = parse_graph(
    """
    graph 1
    input %input: float32[2]
    %fc: float32[4] = linear(%input)
      bias: float32[4] = 1.0 2.0 3.0 4.0
      weight: float32[4, 2] = 1.0*8
    %relu: float32[4] = relu(%fc)
    %out: float32[3] = linear(%relu)
      weight: float32[3, 4] = 1.0*12
    output "output" = %out
    """
)
SHARED = parse_graph(
    """
    graph 1
    input %input: float32[4]
    %first: float32[4] = relu(%input)
    %second: float32[4] = relu(%first)
    %sum: float32[4] = add(%first, %second)
    output "output" = %sum
    """
)


def test_a_relu_writes_over_what_it_read() -> None:
    found = plan(CHAIN)
    assert found.offsets["relu"] == found.offsets["fc"]
    assert found.arena == 4 + 3


def test_what_somebody_else_still_reads_is_not_written_over() -> None:
    root = float_roots(SHARED)
    assert root["first"] == "first"  # the input is the caller's
    assert root["second"] == "second"  # the sum still reads what it read
    assert plan(SHARED).arena == 12


def test_memory_counts_four_bytes_a_number() -> None:
    found = plan(CHAIN)
    assert memory(found) == {"flash": {"fc": 4 * 12, "out": 4 * 12}, "ram": {"arena": 28, "input": 8, "output": 12}}
    assert weight_bytes(found) == 4 * (8 + 12)


def test_the_peak_is_of_values_that_live_together_and_counts_four_bytes_a_number() -> None:
    assert plan(CHAIN).at_peak() == {"fc": 16, "out": 12}
    assert plan(SHARED).at_peak() == {"first": 16, "second": 16, "sum": 16}


def test_a_batch_norm_ships_two_numbers_a_channel() -> None:
    graph = parse_graph(
        """
        graph 1
        input %input: float32[1, 2, 1]
        %norm: float32[1, 2, 1] = batch_norm(%input) epsilon=0.0
          bias: float32[1] = 3.0
          mean: float32[1] = 1.0
          variance: float32[1] = 4.0
          weight: float32[1] = 6.0
        output "output" = %norm
        """
    )
    assert {key: array.tolist() for key, array in constants(graph.nodes[0]).items()} == {"scale": [3.0], "shift": [0.0]}


def test_an_integer_graph_is_refused() -> None:
    with pytest.raises(ProgramError, match="float values"):
        plan(random_graph(0, quantized=True))


@given(st.integers(0, 2**32 - 1))
def test_a_network_that_runs_in_the_arena_gives_what_the_interpreter_gives(seed: int) -> None:
    """Every node reads and writes the one array that the plan is about."""
    graph = random_graph(seed, quantized=False)
    found, features = plan(graph), random_features(graph, seed, 1).astype(np.float64)
    arena = np.full(found.arena, np.nan)

    def read(value: str) -> np.ndarray:
        shape = graph.type_of(value).shape
        if value not in found.offsets:
            return features.reshape(1, *shape)
        return arena[found.offsets[value] :][: math.prod(shape)].reshape(1, *shape)

    for node in graph.nodes:
        result = interpreter._RUN[node.op](node, *(read(value) for value in node.inputs))
        if node.name in found.offsets:
            arena[found.offsets[node.name] :][: result.size] = result.ravel()
    expected = interpreter.run(graph, features, np.float64)
    for value in graph.outputs.values():
        np.testing.assert_allclose(read(value), expected[value], rtol=1e-9, atol=1e-9)
