"""An output lies over its input where no turn of the layer's loops writes over what a later one reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_graphs import Builder, awkward_graph

from flowlab.compiler import allocate
from flowlab.compiler.allocate import Arena, Buffer, Step, Turn, check, live_buffers, lying_over
from flowlab.compiler.fast_c.emit import emit
from flowlab.compiler.fast_c.layout import ALIGNED, BEYOND, Frame, plan
from flowlab.compiler.fast_c.overlap import turns
from flowlab.compiler.fast_c.source import STYLES, Source
from flowlab.compiler.lower import lower
from flowlab.compiler.program import Container
from flowlab.errors import ProgramError

from .random_graphs import random_graph

SHA = "ab" * 32


def network() -> Container:
    """The shape of the chapter's network: the first two convolutions make as many numbers."""
    builder = Builder((1, 256, 1), 3).conv("one", 8, (5, 1), (2, 1)).conv("two", 8, (3, 1))
    builder.max_pool("pool", (3, 1), (2, 1), (1, 0, 0, 0)).conv("three", 16, (5, 1), (2, 1))
    return lower(builder.sum_pool("mean").flatten().linear("fc", 4).graph(), SHA)


def turns_of(container: Container, style: str) -> dict[str, tuple[Turn, ...]]:
    size = 2 if style == "pairs" else 1
    found = turns(Source(container, plan(container, size), style))  # type: ignore[arg-type]
    return {container.layers[number].name: made for number, made in found.items()}


def numbers(frame: Frame) -> np.ndarray:
    """The bytes of a frame that are no zeros around."""
    places = (
        frame.first
        + np.arange(frame.height)[:, None, None] * frame.by_row
        + np.arange(frame.width)[:, None] * frame.by_column
        + np.arange(frame.channels)
    )
    return np.unique(places.ravel()[:, None] * frame.bytes + np.arange(frame.bytes))


def covered(pieces: list[tuple[int, int]]) -> np.ndarray:
    return np.concatenate([np.arange(start, end) for start, end in pieces])


def test_the_arena_of_two_equal_layers_is_little_more_than_one() -> None:
    container = network()
    apart, over = plan(container, 1).arena, emit(container, "quads", skip_normalize=True).arena
    assert (apart, over) == (2080, 1072)
    assert f"#define MODEL_ARENA {over} " in emit(container, "quads", skip_normalize=True).texts["model.h"]


def test_a_layer_is_known_by_its_kernel() -> None:
    container = network()
    assert set(turns_of(container, "quads")) == {"one.bnorm", "two.bnorm", "pool", "three.bnorm"}
    assert set(turns_of(container, "pairs")) == set(turns_of(container, "bytes")) == {"pool"}
    assert "depthwise.bnorm" in turns_of(lower(awkward_graph(), SHA), "bytes")


def test_two_places_are_read_before_they_are_written() -> None:
    found = turns_of(network(), "quads")["two.bnorm"]
    assert len(found) == 64
    # a row of zeros in front; 3 rows of 8 channels each for the first two places, which then are written
    assert found[0] == Turn(((0, 24), (8, 32)), ((8, 16), (16, 24)))


@pytest.mark.parametrize("style", STYLES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_turns_write_every_number_once_and_read_nothing_else_than_the_input(style: str, seed: int) -> None:
    container = lower(random_graph(seed, quantized=True), SHA)
    layout = plan(container, 2 if style == "pairs" else 1)
    for number, found in turns(Source(container, layout, style)).items():  # type: ignore[arg-type]
        layer = container.layers[number]
        given_, made = (layout.frames[at] for at in (layer.inputs[0], layer.output))
        written = covered([piece for turn in found for piece in turn.writes])
        np.testing.assert_array_equal(np.sort(written), numbers(made))
        read = covered([piece for turn in found for piece in turn.reads])
        assert read.min() >= 0 and read.max() < given_.size


@pytest.mark.parametrize("style", STYLES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_no_arena_grows_by_it_and_kept_values_stay_whole(style: str, seed: int) -> None:
    container = lower(random_graph(seed, quantized=True), SHA)
    size = 2 if style == "pairs" else 1
    apart = plan(container, size)
    layout = plan(container, size, turns(Source(container, apart, style)))  # type: ignore[arg-type]
    assert layout.arena <= apart.arena
    last = {at: number for number, layer in enumerate(container.layers) for at in layer.inputs}
    for number, layer in enumerate(container.layers):
        if layer.output not in layout.frames or layer.output in layout.aliases:
            continue
        made = layout.frames[layer.output]
        for at, frame in layout.frames.items():
            root = layout.aliases.get(at, at)
            read = [last.get(one, -1) for one in layout.frames if layout.aliases.get(one, one) == root]
            born = next((n for n, one in enumerate(container.layers) if one.output == root), number)
            if root != layer.output and born < number < max(read):
                assert not made.meets(frame)


@st.composite
def loops(draw: st.DrawFn) -> tuple[tuple[Turn, ...], int, int]:
    """Turns that go through an input and an output, with the sizes of both."""
    count, reach = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    read_step, write_step, lead = draw(st.integers(0, 4)), draw(st.integers(1, 4)), draw(st.integers(0, 3))
    made = tuple(
        Turn(((at * read_step, at * read_step + reach),), ((lead + at * write_step, lead + (at + 1) * write_step),))
        for at in range(count)
    )
    return made, (count - 1) * read_step + reach, lead + count * write_step + draw(st.integers(0, 3))


@given(loops())
def test_an_output_lies_as_far_behind_as_it_may_and_no_byte_further(case: tuple[tuple[Turn, ...], int, int]) -> None:
    found, given_size, made_size = case
    sizes = {"in": given_size, "out": made_size}
    steps = [Step((), ("in",)), Step(("in",), ("out",), found)]
    over = lying_over(steps, live_buffers(steps, sizes, ("out",)))
    before = over.get(("out", "in"), made_size)

    def holds(distance: int) -> bool:
        start = max(0, distance)
        try:
            check(Arena({"in": start, "out": start - distance}, 99), steps, sizes, ("out",))
        except ProgramError:
            return False
        return True

    assert all(holds(distance) for distance in range(before, made_size + 3))
    assert before == -given_size or not holds(before - 1)


@given(st.lists(loops(), min_size=1, max_size=5), st.sampled_from([1, 4]))
def test_a_chain_of_layers_that_lie_over_each_other_holds(
    cases: list[tuple[tuple[Turn, ...], int, int]], align: int
) -> None:
    sizes = {"v0": cases[0][1]}
    steps = [Step((), ("v0",))]
    for at, (found, given_size, made_size) in enumerate(cases):
        sizes[f"v{at}"] = max(sizes[f"v{at}"], given_size)
        sizes[f"v{at + 1}"] = made_size
        steps.append(Step((f"v{at}",), (f"v{at + 1}",), found))
    sizes = {name: -(-size // align) * align for name, size in sizes.items()}
    keep = (f"v{len(cases)}",)
    buffers = live_buffers(steps, sizes, keep)
    over = lying_over(steps, buffers, align)
    arena = allocate.allocate(buffers, over)
    check(arena, steps, sizes, keep)
    assert all(offset % align == 0 for offset in arena.offsets.values())
    assert allocate.most_at_once(buffers, over) <= arena.size <= allocate.allocate(buffers).size


def test_an_input_that_is_read_later_is_not_written_over() -> None:
    found = (Turn(((0, 4),), ((0, 4),)),)
    steps = [Step((), ("a",)), Step(("a",), ("b",), found), Step(("a", "b"), ("c",))]
    sizes = {"a": 4, "b": 4, "c": 4}
    buffers = live_buffers(steps, sizes, ("c",))
    assert lying_over(steps, buffers) == {}
    assert allocate.allocate(buffers, {}) == allocate.allocate(buffers)
    with pytest.raises(ProgramError, match=r"step 2: reads 'a' where \['b'\] lies"):
        check(Arena({"a": 0, "b": 0, "c": 4}, 8), steps, sizes)


def test_the_check_sees_a_turn_that_writes_over_what_a_later_one_reads() -> None:
    container = network()
    layout = plan(container, 1)
    found = turns_of(container, "quads")["two.bnorm"]
    by_name = {tensor.name: at for at, tensor in enumerate(container.tensors)}
    sizes = {name: layout.frames[by_name[name]].size for name in ("one.bnorm", "two.bnorm")}
    steps = [Step((), ("one.bnorm",)), Step(("one.bnorm",), ("two.bnorm",), found)]
    (before,) = lying_over(steps, live_buffers(steps, sizes), ALIGNED).values()
    assert before == 8  # one row of 8 channels: the window of the next place begins a row before it
    check(Arena({"one.bnorm": 8, "two.bnorm": 0}, 2000), steps, sizes)
    with pytest.raises(ProgramError, match=r"step 1: reads 'one.bnorm' where \['two.bnorm'\] lies"):
        check(Arena({"one.bnorm": 4, "two.bnorm": 0}, 2000), steps, sizes)


def test_zeros_around_an_output_over_its_input_are_written_behind_the_loops() -> None:
    container = network()
    text = emit(container, "quads", skip_normalize=True).texts["model.c"]
    body = text[text.index("/* two.bnorm:") :]
    body = body[: body.index("\n}\n")]
    assert body.index("windows(&layer") < body.index("zero(")
    alone = Builder((1, 64, 1), 3).conv("one", 8, (5, 1), (2, 1)).conv("two", 8, (3, 1)).graph()
    both = lower(replace(alone, outputs={**alone.outputs, "first": "one.bnorm"}), SHA)
    assert emit(both, "quads", skip_normalize=True).arena >= 2 * 8 * 32 + BEYOND


def test_buffers_know_nothing_of_turns() -> None:
    assert lying_over([Step((), ("a",))], [Buffer("a", 4, 0, 0)]) == {}
