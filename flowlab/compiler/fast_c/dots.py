"""Convolutions and fully connected layers in fast C: sums of products over the numbers of a window as they lie.

Kernels of cores with DSP are in `flowlab.compiler.fast_c.pairs` and `flowlab.compiler.fast_c.quads`; here are those of
the others:

* one by one: one output at one place;
* two at once: weights of 4 and 2 bits. One multiplication by ``low + high * 65536`` adds to two sums, as long as the
  lower one stays within 16 bits; how long that is follows from the real weights;
* one weight a channel, of depthwise convolutions, on every core.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowlab.compiler.fast_c import pairs, quads
from flowlab.compiler.fast_c.source import channel_name, chunks, loops, unrolled
from flowlab.compiler.fast_c.task import Blocks, Lines, Task, inside, left_over, nest, over_runs, signed, steps
from flowlab.compiler.fast_c.windows import Window, safe_length

ONES_UNROLLED, TWOS_UNROLLED = 40, 8  # steps in one turn, as measured on emulated cores
FEW_UNROLLED = 4  # where it shall be small
LEAST_RUN = 4  # numbers between two flushes below which two sums at once are not worth it


def emit(task: Task) -> None:
    """A layer's function, by the kernel that suits it."""
    window, style = task.window, task.source.style
    if is_depthwise(window):
        _depthwise(task)
    elif style == "pairs":
        pairs.emit(task)
    elif is_gathered(task):
        quads.emit(task)
    else:
        length = safe_length(window.weight, task.source.given(task.layer)) if task.layer.weight_bits < 8 else 0
        if window.outputs // window.groups % 2 == 0 and length >= LEAST_RUN:
            _two_at_once(task, length)
        else:
            _one_by_one(task)


def is_depthwise(window: Window) -> bool:
    """Whether every channel is a convolution by itself."""
    return window.groups > 1 and window.length == 1 and window.outputs == window.groups


def is_gathered(task: Task) -> bool:
    """Whether the function of all layers makes it, which reads two windows whole before it writes."""
    return not is_depthwise(task.window) and task.source.style == "quads" and quads.takes(task)


def _one_by_one(task: Task) -> None:
    window = task.window
    task.declare("int8_t", "weight", window.weight.ravel().tolist())
    step = unrolled(window.length, ONES_UNROLLED if task.source.style == "bytes" else FEW_UNROLLED)

    def block(_: int) -> Lines:
        run = steps(window.length, step, _product, behind=window.weight.shape[1] > 1)
        return [
            f"int32_t sum = {task.bias('o')};",
            f"const {task.taken} *x = a;",
            "const int8_t *v = w;",
            *over_runs(window, run),
            f"*q = {task.result('o', 'sum')};",
        ]

    task.function(
        [f"const int8_t *w = weight_{task.number};", "", *nest(task, Blocks(1, 1, window.weight[0].size), block)]
    )


def _product(at: int) -> Lines:
    return [f"sum += v[{at}] * x[{at}];"]


# --- two outputs in one multiplication ------------------------------------------------------------


def _two_at_once(task: Task, length: int) -> None:
    window = task.window
    low, high = window.weight[0::2], window.weight[1::2]
    task.declare("int32_t", "weight", (low + high * 65536).ravel().tolist())
    pieces = chunks(window.length, length)
    single = len(pieces) == 1 and window.weight.shape[1] == 1

    def block(_: int) -> Lines:
        lines = [f"const {task.taken} *x = a;", "const int32_t *v = w;"]
        sums = [task.bias("o"), task.bias("o + 1")]
        if single:
            lines += ["int32_t sum = 0;", *steps(length, unrolled(length, TWOS_UNROLLED), _product)]
            lines += ["const int32_t low = (int16_t)sum;"]
            lines += [f"const int32_t first = {sums[0]} + low, second = {sums[1]} + ((sum - low) >> 16);"]
        else:
            lines += [f"int32_t first = {sums[0]}, second = {sums[1]};"]
            lines += over_runs(window, _pieces(pieces))
        return [*lines, f"q[0] = {task.result('o', 'first')};", f"q[1] = {task.result('o + 1', 'second')};"]

    task.function([f"const int32_t *w = weight_{task.number};", "", *nest(task, Blocks(2, 1, low[0].size), block)])


def _pieces(pieces: Sequence[int]) -> Lines:
    """A run in pieces, after each of which both sums are taken apart; equal ones in a loop."""
    equal = sum(1 for one in pieces if one == pieces[0])

    def one(length: int) -> Lines:
        left = left_over(length, TWOS_UNROLLED)
        return [
            "int32_t sum = 0;",
            *steps(length, unrolled(length, TWOS_UNROLLED), _product),
            *([f"x += {left};", f"v += {left};"] if left else []),
            "const int32_t low = (int16_t)sum;",
            "first += low;",
            "second += (sum - low) >> 16;",
        ]

    lines = loops([("piece", equal)], one(pieces[0]), 0) if equal > 1 else ["{", *inside(one(pieces[0])), "}"]
    for length in pieces[equal:]:
        lines += ["{", *inside(one(length)), "}"]
    return [*lines, f"x -= {sum(pieces)};"]


# --- one weight a channel -------------------------------------------------------------------------


def _depthwise(task: Task) -> None:
    """A channel by itself: weights in the order (place of the kernel, channel)."""
    source, layer = task.source, task.layer
    given, made = source.frame(layer.inputs[0]), source.frame(layer.output)
    assert layer.weight is not None
    weight = layer.weight[:, 0].transpose(1, 2, 0)  # row, column, channel
    high, wide, channels = weight.shape
    task.declare("int8_t", "weight", weight.ravel().tolist())
    taps = [
        (ky * layer.dilation[0] * given.by_row + kx * layer.dilation[1] * given.by_column, (ky * wide + kx) * channels)
        for ky in range(high)
        for kx in range(wide)
    ]
    channel = channel_name(made)
    sums = [f"sum += w[{weights} + {channel}] * a[{at} + {channel}];" for at, weights in taps]
    lines = [f"int32_t sum = {task.bias(channel)};", *sums, f"q[{channel}] = {task.result(channel, 'sum')};"]
    down, across = layer.stride[0] * given.by_row, layer.stride[1] * given.by_column
    place = [
        f"const {task.taken} *a = in {signed(task.window.start)} + y * {down} + x * {across};",
        f"{task.made} *q = out + y * {made.by_row} + x * {made.by_column};",
        *loops([("c", channels)], lines, 0),
    ]
    task.function(
        [
            f"const int8_t *w = weight_{task.number};",
            "",
            f"for (int y = 0; y < {made.height}; y++) {{",
            f"    for (int x = 0; x < {made.width}; x++) {{",
            *inside(inside(place)),
            "    }",
            "}",
        ]
    )
