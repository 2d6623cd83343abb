"""What kernels have in common: the layer that is emitted, its loops over outputs and places, and its runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flowlab.compiler.fast_c.source import Source, loops, unrolled
from flowlab.compiler.fast_c.windows import Window
from flowlab.compiler.program import Layer

Lines = list[str]


@dataclass(frozen=True)
class Task:
    """A layer with its window, and where its C is collected."""

    source: Source
    number: int
    layer: Layer
    window: Window
    title: str

    @property
    def taken(self) -> str:
        """The C type of the input's numbers."""
        return self.source.type_of(self.layer.inputs[0])

    @property
    def made(self) -> str:
        """The C type of the output's numbers."""
        return self.source.type_of(self.layer.output)

    def bias(self, channel: str) -> str:
        """A channel's bias."""
        return self.source.bias(self.number, self.layer, channel)

    def result(self, channel: str, biased: str) -> str:
        """The output for a sum with its bias, in its type."""
        return f"({self.made}){self.source.requantize(self.number, self.layer, channel, biased)}"

    def declare(self, type_: str, name: str, values: Sequence[int | str]) -> None:
        """A constant array of the layer."""
        self.source.declare(self.number, type_, f"{name}_{self.number}", values)

    def function(self, body: Sequence[str]) -> None:
        """The layer's function."""
        self.source.function(self.number, self.layer, inside(body), self.title)


@dataclass(frozen=True)
class Blocks:
    """What one turn of the loops makes: so many outputs, from the channel ``first`` on, at so many places.

    ``weights`` is what the pointer ``w`` moves by from one block of outputs to the next.
    """

    outputs: int
    places: int
    weights: int
    first: int = 0


def nest(task: Task, blocks: Blocks, block: Callable[[int], Lines]) -> Lines:
    """Loops over blocks of output channels, over rows, and over places of a line.

    In the innermost, ``a`` is the window's first number, ``q`` the first output, ``w`` the block's weights, ``o`` the
    output channel; ``block`` gets the number of places, which is 1 for the rest of a line.
    """
    window = task.window
    count = (window.outputs - blocks.first) // blocks.outputs
    if not count:
        return []
    inner: Lines = []
    whole, rest = divmod(window.line, blocks.places)
    for turns, width in ((whole, blocks.places), (rest, 1)):
        if turns == 0:
            continue
        moves = [f"a += {width * window.steps[1]};", f"q += {width * window.made[1]};"]
        body = [*block(width), *(moves if window.line > 1 else [])]
        inner += loops([("p", turns)], body, 0) if turns > 1 else ["{", *inside(body), "}"] if inner else body
    begin = f"in {signed(window.start)}" if window.start else "in"
    if window.groups > 1:
        begin += f" + o / {window.outputs // window.groups} * {window.group_reads}"
    row = (f" + y * {window.steps[0]}", f"y * {window.made[0]} + ") if window.rows > 1 else ("", "")
    rows = [f"const {task.taken} *a = {begin}{row[0]};", f"{task.made} *q = out + {row[1]}o;", *inner]
    end = blocks.first + count * blocks.outputs
    return [
        f"for (int o = {blocks.first}; o < {end}; o += {blocks.outputs}) {{",
        *inside(loops([("y", window.rows)], rows, 0)),
        f"    w += {blocks.weights};",
        "}",
    ]


def over_runs(window: Window, body: Sequence[str]) -> Lines:
    """The body once a run; it leaves the pointer ``x`` into the input where the run began."""
    (outer, apart), (inner, next_) = window.runs
    lines = list(body)
    if inner > 1:
        lines = loops([("kx", inner)], [*lines, f"x += {next_};"], 0)
        apart -= inner * next_
    if outer > 1:
        lines = loops([("ky", outer)], [*lines, *([f"x += {apart};"] if apart else [])], 0)
    return lines


def steps(length: int, step: int, one: Callable[[int], Lines], *, behind: bool = False) -> Lines:
    """A run's steps, some in one turn of a loop; ``behind``: the pointer ``v`` stands behind the run afterwards."""
    turns, rest = divmod(length, step)
    lines: Lines = []
    loop = turns > 1 or (turns == 1 and rest > 0)
    if loop:
        turn = [line for at in range(step) for line in one(at)]
        lines += loops([("i", turns)], [*turn, f"x += {step};", f"v += {step};"], 0)
    left = rest if loop else length
    lines += [line for at in range(left) for line in one(at)]
    if behind:
        back = length - left
        lines += [f"x -= {back};"] if back else []
        lines += [f"v += {left};"] if left else []
    return lines


def left_over(length: int, most: int) -> int:
    """How far behind the pointers of `steps` the end of a run is."""
    step = unrolled(length, most)
    turns, rest = divmod(length, step)
    return rest if turns > 1 or (turns == 1 and rest > 0) else length


def inside(lines: Sequence[str]) -> Lines:
    """One level deeper."""
    return ["    " + line if line else "" for line in lines]


def signed(number: int) -> str:
    """A number behind another one in a sum."""
    return f"+ {number}" if number >= 0 else f"- {-number}"
