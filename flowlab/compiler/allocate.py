"""The arena: where each activation lies while it is needed, so that as little memory as possible is used.

Greedy by size: the largest buffer is placed first, each at the lowest place where no buffer lies that lives at the same
time. `check` does not trust that: it runs the readers and writers over an imagined memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flowlab.errors import ProgramError


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
    placed: list[tuple[int, Buffer]] = []
    for buffer in sorted(buffers, key=lambda item: (-item.size, item.first, item.name)):
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
