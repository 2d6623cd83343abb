"""The arena: where each activation lies while it is needed, so that as little memory as possible is used.

Buffers are placed one after the other, each at the lowest place where no buffer lies that lives at the same time: first
the largest ones first, and where that takes more than what lives at one time, in other orders, for a while.
`check` does not trust that: it runs the readers and writers over an imagined memory.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flowlab.errors import ProgramError

TRIES, WORK = 1000, 2_000_000  # orders of placing, where the first one wastes memory; pairs of buffers looked at


@dataclass(frozen=True)
class Buffer:
    """Bytes that are written in step ``first`` and last read in step ``last``; within a step nothing is reused."""

    name: str
    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Arena:
    """Where each buffer begins, and how many bytes that takes in all."""

    offsets: Mapping[str, int]
    size: int


@dataclass(frozen=True)
class Step:
    """What one layer reads and writes, by buffer name."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]


def live_buffers(steps: Sequence[Step], sizes: Mapping[str, int], keep: Sequence[str] = ()) -> list[Buffer]:
    """The buffers of a schedule with their life; those in ``keep`` (outputs) live to the end."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, step in enumerate(steps):
        for name in step.writes:
            first.setdefault(name, index)
        for name in (*step.reads, *step.writes):
            last[name] = index
    last.update({name: len(steps) for name in keep if name in first})
    return [Buffer(name, sizes[name], first[name], last[name]) for name in first]


def allocate(buffers: Sequence[Buffer]) -> Arena:
    """Place every buffer; the same buffers always give the same places."""
    order = sorted(buffers, key=lambda item: (-item.size, item.first, item.name))
    best = _placed(order)
    least, draw = most_at_once(buffers), random.Random(0)  # noqa: S311 - it only has to be the same every time
    for _ in range(min(TRIES, WORK // max(1, len(order)) ** 2)):
        if best.size <= least:
            break
        one, other = draw.randrange(len(order)), draw.randrange(len(order))
        order[one], order[other] = order[other], order[one]
        found = _placed(order)
        if found.size <= best.size:
            best = found
        else:
            order[one], order[other] = order[other], order[one]
    return best


def most_at_once(buffers: Sequence[Buffer]) -> int:
    """The most bytes that live at one time, which no plan can do without."""
    steps = {buffer.first for buffer in buffers}
    return max((sum(b.size for b in buffers if b.first <= step <= b.last) for step in steps), default=0)


def _placed(order: Sequence[Buffer]) -> Arena:
    placed: list[tuple[int, Buffer]] = []
    for buffer in order:
        at = 0
        for start, other in sorted(placed, key=lambda item: (item[0], item[1].name)):
            if _live_together(buffer, other) and start < at + buffer.size:
                at = max(at, start + other.size)
        placed.append((at, buffer))
    offsets = {buffer.name: at for at, buffer in placed}
    return Arena(offsets, max((at + buffer.size for at, buffer in placed), default=0))


def _live_together(one: Buffer, other: Buffer) -> bool:
    return one.first <= other.last and other.first <= one.last


def check(arena: Arena, steps: Sequence[Step], sizes: Mapping[str, int], keep: Sequence[str] = ()) -> None:
    """Run readers and writers over an imagined memory in which every byte knows who wrote it last.

    Raises:
        ProgramError: if a step reads a byte that another buffer has overwritten, or leaves the arena.
    """
    memory: list[str | None] = [None] * arena.size
    for index, step in enumerate((*steps, Step(tuple(keep), ()))):
        for name in step.writes:
            end = arena.offsets[name] + sizes[name]
            if end > arena.size:
                raise ProgramError(f"step {index}: '{name}' ends at byte {end} of an arena of {arena.size}")
            memory[arena.offsets[name] : end] = [name] * sizes[name]
        for name in step.reads:
            owners = set(memory[arena.offsets[name] : arena.offsets[name] + sizes[name]])
            if owners - {name}:
                raise ProgramError(f"step {index}: reads '{name}' where {sorted(map(str, owners - {name}))} lies")


def fits(memory: Mapping[str, Mapping[str, int]], available: Mapping[str, int]) -> bool:
    """Whether every region has room for a program's memory; one that is missing in ``available`` has."""
    return all(sum(parts.values()) <= available.get(region, sum(parts.values())) for region, parts in memory.items())


def require_fit(memory: Mapping[str, Mapping[str, int]], available: Mapping[str, int], device: str) -> None:
    """Hold a program's memory by region against the device's.

    Args:
        memory: bytes by region and by what lies there.
        available: the device's bytes by region; a region that is missing here is not checked.
        device: its name, for the message.

    Raises:
        ProgramError: with what is needed, what there is, and the largest parts.
    """
    for region, parts in memory.items():
        needed, there = sum(parts.values()), available.get(region)
        if there is not None and needed > there:
            largest = sorted(parts.items(), key=lambda item: (-item[1], item[0]))[:3]
            named = ", ".join(f"{name} {size:,} B" for name, size in largest)
            raise ProgramError(
                f"{device}: does not fit: needs {needed / 1024:.1f} kB of {there / 1024:.1f} kB {region}; largest: "
                f"{named}. Use a smaller model, a shorter window or a device with more memory"
            )
