"""The order of steps: as little as can be lies in memory at one time, and places follow from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_graphs import example_graph

from flowlab.compiler import float_plan, text
from flowlab.compiler.allocate import live_buffers, most_at_once
from flowlab.compiler.ir import Graph
from flowlab.compiler.lower import lower
from flowlab.compiler.passes import schedule
from flowlab.compiler.passes.allocate import Allocate
from flowlab.compiler.passes.schedule import Schedule
from flowlab.compiler.pipeline import apply_passes, program_passes
from flowlab.compiler.program import OUTSIDE
from flowlab.compiler.steps import Steps, Work, steps_of
from flowlab.compiler.verify import verify
from flowlab.errors import GraphError

from .random_graphs import Builder, _branches, _requantize, random_graph

ORDERS = 3000  # of a graph, above which not all of them are looked at


def branched(seed: int, quantized: bool = True, blocks: int = 1) -> Graph:
    """Branches that are begun one after the other; few enough steps for every order to be tried."""
    b = Builder(seed, (3, 8, 2))
    if quantized:
        b.add(
            "quantize", "quantize", "int8", scale=0.25, low=-128, high=127,
            constants={"bias": b.floats(3), "multiplier": np.int32([300, 200, 100]), "shift": np.int32([4, 4, 4])},
        )  # fmt: skip
    for block in range(blocks):
        _branches(b, f"block{block}", 8 if quantized else 0)
    if quantized:
        b.add("mean", "sum_pool", "int32")
        _requantize(b, "mean.bnorm", signed=False)
    return b.graph()


def orders(steps: Steps) -> Iterator[tuple[Work, ...]]:
    """Every order in which each step stands behind those that it reads."""
    made = {work.name for work in steps.works}
    needs = {work.name: {name for node in work.nodes for name in node.inputs if name in made} for work in steps.works}

    def further(done: tuple[Work, ...]) -> Iterator[tuple[Work, ...]]:
        names = {work.name for work in done}
        if len(done) == len(steps.works):
            yield done
        for work in steps.works:
            if work.name not in names and needs[work.name] <= names:
                yield from further((*done, work))

    return further(())


def peak(steps: Steps, works: tuple[Work, ...]) -> int:
    return most_at_once(live_buffers([work.step for work in works], steps.sizes, steps.keep))


def test_branches_are_finished_one_after_the_other() -> None:
    graph = branched(3)
    before, after = steps_of(graph).arena().size, steps_of(Schedule().apply(graph)).arena().size
    assert after < before
    assert (lower(graph, "ab" * 32).arena, float_plan.plan(branched(3, quantized=False)).arena > 0) == (after, True)


@given(seed=st.integers(0, 2**32 - 1), quantized=st.booleans())
@settings(max_examples=25)
def test_no_order_has_less_in_memory_at_one_time_than_the_one_that_is_found(seed: int, quantized: bool) -> None:
    graph = branched(seed, quantized)
    steps = steps_of(graph)
    search = schedule._Search(graph, steps)
    least = search._least()
    assert least is not None
    found = tuple(steps.works[search.order_given[at]] for at in least)
    every = list(orders(steps))
    assert 1 < len(every) < ORDERS
    assert found in every
    assert peak(steps, found) == min(peak(steps, works) for works in every)
    assert sorted(search.order()) == list(range(len(steps.works)))


@given(seed=st.integers(0, 2**32 - 1), quantized=st.booleans())
def test_the_arena_never_grows_and_readers_stand_behind_writers(seed: int, quantized: bool) -> None:
    graph = random_graph(seed, quantized)
    after = Schedule().apply(graph)
    verify(after)
    assert sorted(node.name for node in after.nodes) == sorted(node.name for node in graph.nodes)
    before = steps_of(graph).arena().size
    assert (steps_of(after).arena().size < before) or text.same(after, graph)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_the_order_that_is_found_does_not_depend_on_the_one_given(seed: int) -> None:
    graph = branched(seed)
    wanted, names = Schedule().apply(graph), {node.name: node for node in graph.nodes}
    steps = steps_of(graph)
    worst = max(orders(steps), key=lambda works: peak(steps, works))
    turned = replace(graph, nodes=tuple(names[node.name] for work in worst for node in work.nodes))
    assert steps_of(Schedule().apply(turned)).arena().size == steps_of(wanted).arena().size


def test_a_chain_stays_as_it_is() -> None:
    graph = example_graph()
    assert Schedule().apply(graph) is graph


def test_where_there_are_too_many_orders_each_step_takes_what_looks_best(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = branched(5, blocks=3)
    whole = steps_of(Schedule().apply(graph)).arena().size
    monkeypatch.setattr(schedule, "MOST_STATES", 1)
    after = Schedule().apply(graph)
    verify(after)
    assert whole <= steps_of(after).arena().size < steps_of(graph).arena().size
    assert Schedule().apply(after) is after


@given(seed=st.integers(0, 2**32 - 1))
def test_a_program_has_the_places_of_its_graph(seed: int) -> None:
    graph = apply_passes(random_graph(seed, True), program_passes())
    container = lower(graph, "ab" * 32)
    places = {node.name: node.attributes.get("offset", OUTSIDE) for node in graph.nodes if node.type.dtype != "int32"}
    assert {tensor.name: tensor.offset for tensor in container.tensors[1:]} == places
    assert text.same(text.parse_graph(text.print_graph(graph)), graph)


@given(seed=st.integers(0, 2**32 - 1))
def test_a_float_program_has_the_places_of_its_graph(seed: int) -> None:
    graph = apply_passes(random_graph(seed, False), program_passes())
    places = {node.name: node.attributes["offset"] for node in graph.nodes if "offset" in node.attributes}
    assert places == float_plan.plan(graph).offsets


def test_a_place_before_the_arena_is_refused() -> None:
    graph = Allocate().apply(example_graph())
    last = graph.nodes[-1].with_attributes(offset=-1)
    with pytest.raises(GraphError, match=r"attribute 'offset' is -1; a place in the arena is at least 0"):
        verify(replace(graph, nodes=(*graph.nodes[:-1], last)))


def test_a_step_that_frees_memory_waits_where_another_one_frees_it_with_less() -> None:
    graph = text.parse_graph(
        """
        graph 1
        input %input: float32[1]
        %big: float32[10] = take(%input)
          index: int32[10] = 0*10
        %other: float32[10] = take(%big)
          index: int32[10] = 0*10
        %a: float32[3] = take(%big)
          index: int32[3] = 0*3
        %b: float32[1] = take(%other)
          index: int32[1] = 0
        output "a" = %a
        output "b" = %b
        """
    )
    steps = steps_of(graph)
    search = schedule._Search(graph, steps)
    found = tuple(steps.works[at] for at in search.order())
    assert [work.name for work in found] == ["big", "other", "b", "a"]
    assert peak(steps, found) == min(peak(steps, works) for works in orders(steps)) == 21
