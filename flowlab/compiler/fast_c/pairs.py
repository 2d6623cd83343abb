"""Kernels of cores with DSP: two numbers of 16 bits in one multiplication, two outputs at two places at once."""

from __future__ import annotations

import numpy as np

from flowlab.compiler.fast_c.layout import Frame
from flowlab.compiler.fast_c.source import loops, unrolled
from flowlab.compiler.fast_c.task import Blocks, Lines, Task, inside, nest, over_runs
from flowlab.compiler.fast_c.windows import Window

PAIR, WORDS = 2, 4  # numbers of 16 bits in a word, and in two, which one load takes
UNROLLED = 5  # steps in one turn, as measured on emulated cores
TOGETHER = 2  # outputs, and places
FEW = 3  # words of one output's weights: that many stay in registers from place to place
ONE_BY_ONE = '__asm__ volatile("" ::: "memory");'  # what is loaded too early needs a register too many
FARTHEST = 126  # numbers to the next place that one load reaches on every core: 8 bits of bytes


def emit(task: Task) -> None:
    """A layer's function."""
    window = task.window
    aligned = _even(window, task.source.frame(task.layer.inputs[0]))
    task.declare("uint32_t", "weight", [f"{word:#x}u" for word in _packed(window, aligned)])
    each = -(-window.length // PAIR) * window.weight.shape[1]
    body = [f"const word *w = (const word *)weight_{task.number};", ""]
    whole = _in_twos(window)
    for outputs, first, last in ((TOGETHER, 0, whole), (1, whole, window.outputs)):
        if first < last:
            part = _Part(task, outputs, aligned)
            body += nest(task, Blocks(outputs, TOGETHER, outputs * each, first), part.block)
    task.function(body)


def _in_twos(window: Window) -> int:
    """Outputs that are made two at once: a pair must not lie in two groups."""
    if window.groups > 1 and window.outputs // window.groups % TOGETHER:
        return 0
    return window.outputs // TOGETHER * TOGETHER


def _even(window: Window, given: Frame) -> bool:
    """Whether every run begins where a word does."""
    begins = [given.first + window.start, window.group_reads if window.groups > 1 else 0]
    begins += [apart for _, apart in window.runs]
    begins += [window.steps[0] if window.rows > 1 else 0, window.steps[1] if window.line > 1 else 0]
    return all(at % PAIR == 0 for at in begins)


def _packed(window: Window, aligned: bool) -> list[int]:
    """Weights as words, in the order in which `_Part.block` reads them."""
    count = -(-window.length // PAIR)
    padded = np.zeros((*window.weight.shape[:2], count * PAIR), np.int64)
    padded[:, :, : window.length] = window.weight
    words = (padded[:, :, 0::2] & 0xFFFF) | (padded[:, :, 1::2] & 0xFFFF) << 16  # out, run, pair
    whole = _in_twos(window)
    together = 2 if aligned else 1  # words of one output in one load
    packed: list[int] = []
    for first, last, outputs in ((0, whole, TOGETHER), (whole, window.outputs, 1)):
        for block in range(first, last, outputs):
            for run in range(words.shape[1]):
                part = words[block : block + outputs, run]
                even = count // together * together
                packed += part[:, :even].reshape(outputs, -1, together).transpose(1, 0, 2).ravel().tolist()
                packed += part[:, even:].T.ravel().tolist()
    return packed


class _Part:
    """The kernel for blocks of so many outputs; ``aligned``: it loads two words at once."""

    def __init__(self, task: Task, outputs: int, aligned: bool) -> None:
        self.task, self.outputs, self.aligned = task, outputs, aligned
        self.numbers = WORDS if aligned else PAIR  # of the input in a step
        self.each = outputs * self.numbers // PAIR  # words of weights in a step

    def block(self, places: int) -> Lines:
        """Sums of the block's outputs at so many places, and the results."""
        task, window = self.task, self.task.window
        sums = [[f"s{o}{p}" for p in range(places)] for o in range(self.outputs)]
        lines = [
            f"int32_t {', '.join(f'{name} = {task.bias(_plus(o))}' for name in row)};" for o, row in enumerate(sums)
        ]
        lines += ["const value *x = a;", "const word *v = w;", *over_runs(window, self._run(sums))]
        for p in range(places):
            for o in range(self.outputs):
                lines.append(f"q[{p * window.made[1] + o}] = {task.result(_plus(o), sums[o][p])};")
        return lines

    def _run(self, sums: list[list[str]]) -> Lines:
        window = self.task.window
        count = -(-window.length // PAIR)
        few = count * window.weight.shape[1] <= FEW
        if self.aligned and len(sums) == len(sums[0]) == TOGETHER and not few and window.steps[1] <= FARTHEST:
            return self._moving(count, sums)
        whole = count // 2 if self.aligned else count
        step = unrolled(whole, UNROLLED) if whole else 1
        turns, rest = divmod(whole, step)
        loop = turns > 1
        lines: Lines = []
        if loop:
            turn = [line for at in range(step) for line in self._step(at, sums, few)]
            lines += loops([("i", turns)], [*turn, f"x += {step * self.numbers};", f"v += {step * self.each};"], 0)
        left = rest if loop else whole
        lines += [line for at in range(left) for line in self._step(at, sums, few)]
        behind = left * self.each
        if self.aligned and count % 2:
            lines += self._last(left * self.numbers, behind, sums)
            behind += self.outputs
        if window.weight.shape[1] > 1:
            back = turns * step * self.numbers if loop else 0
            lines += [f"x -= {back};"] if back else []
            lines += [f"v += {behind};"] if behind else []
        return lines

    def _moving(self, count: int, sums: list[list[str]]) -> Lines:
        """A run of so many words, in steps that move both pointers on."""
        self.task.source.use("mac4", "STEP")
        whole, odd = divmod(count, 2)
        step = unrolled(whole, UNROLLED) if whole else 1
        turns, rest = divmod(whole, step)
        one = f"STEP({self.task.window.steps[1]});"
        lines = loops([("i", turns)], [one] * step, 0) if turns > 1 else []
        lines += [one] * (rest if turns > 1 else whole)
        lines += self._last(0, 0, sums) if odd else []
        if self.task.window.weight.shape[1] > 1:
            lines += [f"x -= {whole * self.numbers};"] if whole else []
            lines += [f"v += {self.outputs};"] if odd else []
        return lines

    def _step(self, at: int, sums: list[list[str]], few: bool) -> Lines:
        places = range(len(sums[0]))
        first = [at * self.numbers + p * self.task.window.steps[1] for p in places]
        width = self.numbers // PAIR
        word, call = ("words", "mac4") if self.aligned else ("word", "mac2")
        self.task.source.use(*(("mac4",) if self.aligned else ("mac2", "pair_at")))
        read = "*(const words *)(x + {})" if self.aligned else "pair_at(x + {})"
        lines = [f"const {word} x{p} = {read.format(first[p])};" for p in places]
        for o in range(self.outputs):
            lines.append(f"const {word} w{o} = *(const {word} *)(v + {at * self.each + o * width});")
            lines += [f"{sums[o][p]} = {call}(x{p}, w{o}, {sums[o][p]});" for p in places]
            lines += [] if few else [ONE_BY_ONE]
        return ["{", *inside(lines), "}"]

    def _last(self, numbers: int, weights: int, sums: list[list[str]]) -> Lines:
        """The word that is left of a run of an odd number of them."""
        self.task.source.use("mac2")
        places = range(len(sums[0]))
        first = [numbers + p * self.task.window.steps[1] for p in places]
        reads = [f"const word x{p} = *(const word *)(x + {first[p]});" for p in places]
        macs = [
            f"{sums[o][p]} = mac2(x{p}, v[{weights + o}], {sums[o][p]});" for o in range(self.outputs) for p in places
        ]
        return ["{", *inside([*reads, *macs]), "}"]


def _plus(more: int) -> str:
    return f"o + {more}" if more else "o"
