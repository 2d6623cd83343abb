from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlab.compiler.allocate import Arena, Buffer, Step, alive_at_peak, allocate, check, live_buffers, require_fit
from flowlab.errors import ProgramError

BUFFERS = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[list[Step], dict[str, int], tuple[str, ...]]:
    """Steps that read what an earlier step wrote."""
    count = draw(st.integers(1, 10))
    sizes = {f"v{i}": draw(st.integers(1, 40)) for i in range(count)}
    steps = [Step((), ("v0",))]
    for i in range(1, count):
        reads = draw(st.lists(st.integers(0, i - 1), min_size=1, max_size=2, unique=True))
        steps.append(Step(tuple(f"v{r}" for r in reads), (f"v{i}",)))
    return steps, sizes, (f"v{count - 1}",)


@given(BUFFERS)
def test_live_buffers_never_overlap(rows: list[tuple[int, int, int]]) -> None:
    buffers = [Buffer(f"b{i}", size, min(a, b), max(a, b)) for i, (size, a, b) in enumerate(rows)]
    arena = allocate(buffers)
    for one in buffers:
        assert arena.offsets[one.name] + one.size <= arena.size
        for other in buffers:
            if one is not other and one.first <= other.last and other.first <= one.last:
                a, b = arena.offsets[one.name], arena.offsets[other.name]
                assert a + one.size <= b or b + other.size <= a


@given(schedules())
def test_readers_find_what_writers_wrote(given_: tuple[list[Step], dict[str, int], tuple[str, ...]]) -> None:
    steps, sizes, keep = given_
    check(allocate(live_buffers(steps, sizes, keep)), steps, sizes, keep)


@given(schedules())
def test_no_plan_is_smaller_than_the_fullest_step(given_: tuple[list[Step], dict[str, int], tuple[str, ...]]) -> None:
    steps, sizes, keep = given_
    buffers = live_buffers(steps, sizes, keep)
    fullest = max(sum(b.size for b in buffers if b.first <= i <= b.last) for i in range(len(steps)))
    assert fullest <= allocate(buffers).size <= sum(sizes.values())


def test_a_chain_needs_its_two_largest_neighbours_only() -> None:
    sizes = {"a": 100, "b": 60, "c": 30, "d": 10}
    steps = [Step((), ("a",)), Step(("a",), ("b",)), Step(("b",), ("c",)), Step(("c",), ("d",))]
    assert allocate(live_buffers(steps, sizes, ("d",))).size == 160


def test_the_check_sees_a_plan_that_overwrites() -> None:
    steps = [Step((), ("a",)), Step(("a",), ("b",)), Step(("a", "b"), ("c",))]
    sizes = {"a": 4, "b": 4, "c": 4}
    with pytest.raises(ProgramError, match=r"step 1: reads 'a' where \['b'\] lies"):
        check(Arena({"a": 0, "b": 2, "c": 8}, 12), steps, sizes)
    with pytest.raises(ProgramError, match="ends at byte 12 of an arena of 10"):
        check(Arena({"a": 0, "b": 4, "c": 8}, 10), steps, sizes)


def test_what_does_not_fit_says_how_much_and_what_is_largest() -> None:
    memory = {"ram": {"arena": 40000, "input": 2000, "output": 2}, "flash": {"fc": 10}}
    with pytest.raises(ProgramError, match=r"X1: does not fit: needs 41\.0 kB of 32\.0 kB ram; largest: arena"):
        require_fit(memory, {"ram": 32 * 1024, "flash": 100}, "X1")
    require_fit(memory, {"ram": 64 * 1024}, "X1")


def test_what_does_not_fit_names_the_largest_tensors_that_live_at_the_peak() -> None:
    sizes = {"a": 9, "b": 20, "c": 30, "d": 8, "e": 40}
    steps = [Step((), ("a",)), Step((), ("b",)), Step(("b",), ("c",)), Step(("a",), ("d",)), Step(("c", "d"), ("e",))]
    alive = alive_at_peak(live_buffers(steps, sizes, ("e",)))
    assert alive == {"c": 30, "d": 8, "e": 40}
    alive |= {"f": 1}
    with pytest.raises(
        ProgramError,
        match=r"largest: arena 100 B; largest tensors that the arena holds at once: e 40 B, c 30 B, d 8 B\.",
    ):
        require_fit({"ram": {"arena": 100}}, {"ram": 99}, "X1", lambda: alive)
    with pytest.raises(ProgramError, match=r"largest: fc 100 B\. Use"):
        require_fit({"flash": {"fc": 100}}, {"flash": 99}, "X1", lambda: alive)
    assert alive_at_peak([]) == {}
