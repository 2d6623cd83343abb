"""Sums that are requantized twice are added up twice: every integer stays, and a program holds them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from integer_graphs import example_graph

from flowlab.compiler import interpreter, text
from flowlab.compiler.ir import Graph
from flowlab.compiler.lower import lower
from flowlab.compiler.passes.fuse_bnorm import FuseBnorm
from flowlab.compiler.pipeline import apply_passes, program_passes
from flowlab.errors import ProgramError

from .random_graphs import random_features, random_graph


def shared(graph: Graph, seed: int = 0) -> Graph:
    """The graph with a requantization more, of sums that one already reads, as an output."""
    places = [at for at, node in enumerate(graph.nodes) if node.op == "requantize"]
    at = places[seed % len(places)]
    given = graph.nodes[at]
    bias = (given.constants["bias"].astype(np.int64) // 2 + 1).astype(np.int32)
    more = replace(given, name="more", constants={**given.constants, "bias": bias})
    nodes = (*graph.nodes, more)
    return replace(graph, nodes=nodes, outputs={**graph.outputs, "more": "more"})


@given(seed=st.integers(0, 2**32 - 1))
def test_sums_that_two_requantizations_read_are_added_up_twice(seed: int) -> None:
    graph = shared(random_graph(seed, True), seed)
    once = apply_passes(graph, (FuseBnorm(),))
    assert len(once.nodes) == len(graph.nodes) + 1
    assert text.same(FuseBnorm().apply(once), once)
    features = random_features(graph, seed)
    before, after = (interpreter.run(one, features) for one in (graph, once))
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name])
    container = lower(graph, "ab" * 32)
    assert {"more", *graph.outputs} <= set(container.outputs)


def test_every_accumulation_stands_in_front_of_its_requantization() -> None:
    graph = apply_passes(shared(example_graph()), program_passes())
    before = {second.name: first.name for first, second in zip(graph.nodes, graph.nodes[1:], strict=False)}
    for node in graph.nodes:
        if node.op == "requantize":
            assert before[node.name] == node.inputs[0]
            assert graph.users(node.inputs[0]) == (node,)


def test_sums_that_leave_the_network_stay() -> None:
    graph = example_graph()
    sums = next(node.name for node in graph.nodes if node.type.dtype == "int32")
    graph = replace(graph, outputs={**graph.outputs, "sums": sums})
    assert text.same(FuseBnorm().apply(graph), graph)
    with pytest.raises(ProgramError):
        lower(graph, "ab" * 32)
