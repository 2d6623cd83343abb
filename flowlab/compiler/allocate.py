"""The arena: where each activation lies while it is needed, so that as little memory as possible is used.

Buffers are placed one after the other, each at the lowest place where no buffer lies that lives at the same time: first
the largest ones first, and where that takes more than what lives at one time, in other orders, for a while.
An output may lie over an input that dies with its layer where the layer's loops are known turn by turn (`Turn`), so
that no turn writes over what a later one reads.
`check` does not trust that: it runs the readers and writers over an imagined memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flowlab.errors import ProgramError

ARENA, NAMED = "arena", 3  # the part of a region that holds activations; parts that a message names
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


Piece = tuple[int, int]  # bytes of a buffer: the first, and the one behind the last


@dataclass(frozen=True)
class Turn:
    """One turn of a layer's loops: the bytes of its input that it needs, then those of its output that it writes."""

    reads: tuple[Piece, ...]
    writes: tuple[Piece, ...]


@dataclass(frozen=True)
class Step:
    """What one layer reads and writes, by buffer name.

    ``turns``: of a layer with one input and one output, how its loops go; what they do not write is written at the end.
    Without any, nothing is known of the order.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    turns: tuple[Turn, ...] = ()


Over = Mapping[tuple[str, str], int]  # (output, input): the output begins at least so many bytes before the input


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


def lying_over(steps: Sequence[Step], buffers: Sequence[Buffer], align: int = 1) -> dict[tuple[str, str], int]:
    """Which output may lie over which input, and how far before it: a multiple of ``align`` bytes, negative behind it.

    The input dies with the layer. In every turn the output ends before the first byte that a later turn reads.
    """
    by_name = {buffer.name: buffer for buffer in buffers}
    over = {}
    for at, step in enumerate(steps):
        if not step.turns or step.reads[0] not in by_name or by_name[step.reads[0]].last != at:
            continue
        given, made = by_name[step.reads[0]], by_name[step.writes[0]]
        before, later = -given.size, min(start for start, _ in step.turns[-1].reads)
        for turn in reversed(step.turns[:-1]):
            before = max(before, max(end for _, end in turn.writes) - later)
            later = min(later, *(start for start, _ in turn.reads))
        before = -(-before // align) * align
        if before < made.size:
            over[made.name, given.name] = before
    return over


def allocate(buffers: Sequence[Buffer], over: Over | None = None) -> Arena:
    """Place every buffer; the same buffers always give the same places."""
    over = over or {}
    order = sorted(buffers, key=lambda item: (-item.size, item.first, item.name))
    best = _placed(order, over)
    if over:  # an output in front of its input is best placed before it
        turned = sorted(buffers, key=lambda item: (-item.first, item.name))
        order, best = min(((one, _placed(one, over)) for one in (order, turned)), key=lambda item: item[1].size)
    least, draw = most_at_once(buffers, over), random.Random(0)  # noqa: S311 - it only has to be the same every time
    for _ in range(min(TRIES, WORK // max(1, len(order)) ** 2)):
        if best.size <= least:
            break
        one, other = draw.randrange(len(order)), draw.randrange(len(order))
        order[one], order[other] = order[other], order[one]
        found = _placed(order, over)
        if found.size <= best.size:
            best = found
        else:
            order[one], order[other] = order[other], order[one]
    return best


def most_at_once(buffers: Sequence[Buffer], over: Over | None = None) -> int:
    """The most bytes that live at one time, which no plan can do without."""
    sizes = {buffer.name: buffer.size for buffer in buffers}
    steps = {buffer.first: 0 for buffer in buffers}
    for (made, given), before in (over or {}).items():
        step = next(buffer.first for buffer in buffers if buffer.name == made)
        steps[step] = sizes[made] + sizes[given] - max(sizes[given] + before, sizes[made], sizes[given])
    return max(
        (sum(b.size for b in buffers if b.first <= at <= b.last) - less for at, less in steps.items()), default=0
    )


def alive_at_peak(buffers: Sequence[Buffer]) -> dict[str, int]:
    """Bytes by buffer of those that live at the (first) time when the most bytes do."""
    together = [[b for b in buffers if b.first <= at <= b.last] for at in sorted({b.first for b in buffers})]
    fullest = max(together, key=lambda found: sum(b.size for b in found), default=[])
    return {b.name: b.size for b in fullest}


def _placed(order: Sequence[Buffer], over: Over) -> Arena:
    placed: list[tuple[int, Buffer]] = []
    for buffer in order:
        others = sorted(
            ((start, other) for start, other in placed if _live_together(buffer, other)),
            key=lambda item: (item[0], item[1].name),
        )
        at, moved = 0, True
        while moved:  # once is enough but where one lies over another
            moved = False
            for start, other in others:
                before = over.get((buffer.name, other.name), buffer.size)
                behind = start + over.get((other.name, buffer.name), other.size)
                if start < at + before and at < behind:
                    at, moved = behind, bool(over)
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
        for turn in step.turns:
            _read(memory, arena, index, step.reads[0], turn.reads)
            for start, end in turn.writes:
                begin = arena.offsets[step.writes[0]]
                memory[begin + start : begin + end] = step.writes * (end - start)
        for name in step.writes:
            memory[arena.offsets[name] : arena.offsets[name] + sizes[name]] = [name] * sizes[name]
        for name in step.reads if not step.turns else ():
            _read(memory, arena, index, name, ((0, sizes[name]),))


def _read(memory: Sequence[str | None], arena: Arena, index: int, name: str, pieces: Sequence[Piece]) -> None:
    begin = arena.offsets[name]
    for start, end in pieces:
        others = set(memory[begin + start : begin + end]) - {name}
        if others:
            raise ProgramError(f"step {index}: reads '{name}' where {sorted(map(str, others))} lies")


def fits(memory: Mapping[str, Mapping[str, int]], available: Mapping[str, int]) -> bool:
    """Whether every region has room for a program's memory; one that is missing in ``available`` has."""
    return all(sum(parts.values()) <= available.get(region, sum(parts.values())) for region, parts in memory.items())


def require_fit(
    memory: Mapping[str, Mapping[str, int]],
    available: Mapping[str, int],
    device: str,
    alive: Callable[[], Mapping[str, int]] = dict,
) -> None:
    """Hold a program's memory by region against the device's.

    Args:
        memory: bytes by region and by what lies there.
        available: the device's bytes by region; a region that is missing here is not checked.
        device: its name, for the message.
        alive: makes the bytes of the tensors that the arena holds when it is fullest, by name.

    Raises:
        ProgramError: with what is needed, what there is, the largest parts, and of the arena the largest tensors.
    """
    for region, parts in memory.items():
        needed, there = sum(parts.values()), available.get(region)
        if there is not None and needed > there:
            named = _largest(parts)
            if ARENA in parts and (tensors := alive()):
                named += f"; largest tensors that the arena holds at once: {_largest(tensors)}"
            raise ProgramError(
                f"{device}: does not fit: needs {needed / 1024:.1f} kB of {there / 1024:.1f} kB {region}; largest: "
                f"{named}. Use a smaller model, a shorter window or a device with more memory"
            )


def _largest(sizes: Mapping[str, int]) -> str:
    found = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:NAMED]
    return ", ".join(f"{name} {size:,} B" for name, size in found)
