"""Convolutions and fully connected layers in fast C: sums of products over the numbers of a window as they lie.

Kernels of cores with DSP are in `flowlab.compiler.fast_c.pairs` and `flowlab.compiler.fast_c.quads`; here are those of
the others:

* one by one: one output, at four places where a line has them, so that a weight is loaded once for all;
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
PLACES = 4  # as many sums as a core without DSP has registers that it cannot multiply in, and keeps one by
REACHED = 32  # steps that one instruction reaches from where a pointer stands: 5 bits
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
    blocks, runs = Blocks(1, _together(task), window.weight[0].size), window.weight.shape[1]

    def block(places: int) -> Lines:
        bias = task.bias("o")
        alone = places > 1 and runs == 1  # the sums of the one run are those of the window
        names = _names("s" if alone else "sum", places)
        first = [] if alone else [f"int32_t {', '.join(f'{name} = {bias}' for name in names)};"]
        if places == 1:
            run = steps(window.length, step, _product, behind=runs > 1)
        else:
            run = _at_four_places(task, window.length, "BYTE", bias if alone else "0", behind=runs > 1)
            run += [] if alone else [f"{name} += s{p};" for p, name in enumerate(names)]
        return [
            *first,
            f"const {task.taken} *x = a;",
            "const int8_t *v = w;",
            *over_runs(window, run),
            *[f"q[{p * window.made[1]}] = {task.result('o', name)};" for p, name in enumerate(names)],
        ]

    task.function([f"const int8_t *w = weight_{task.number};", "", *nest(task, blocks, block)])


def _together(task: Task) -> int:
    """Places that are made at once."""
    return PLACES if task.source.style == "bytes" and task.window.line >= PLACES else 1


def _names(name: str, places: int) -> list[str]:
    """A variable for each place."""
    return [f"{name}{p}" for p in range(places)]


def _product(at: int) -> Lines:
    return [f"sum0 += v[{at}] * x[{at}];"]


def _at_four_places(task: Task, length: int, weight: str, first: str, *, behind: bool) -> Lines:
    """A run at all places, ``s0`` to ``s3``, which begin with ``first``.

    It leaves ``x`` where it was, and ``v`` behind the run where ``behind`` asks for that.
    """
    task.source.use("four")
    number = "SIGNED" if task.taken == "int8_t" else "UNSIGNED"
    apart = task.window.steps[1]
    each = unrolled(length, REACHED)
    turns, rest = divmod(length, each)
    if turns == 1 and not rest:
        turns, rest = 0, length

    def some(count: int) -> Lines:
        return [f"    STEP({weight}, {number}, {at})" for at in range(count)]

    begins = ", ".join(f"*x{p} = x + {p * apart}" if p else "*x0 = x" for p in range(PLACES))
    lines = [f"const {task.taken} {begins};", "int32_t s0, s1, s2, s3;"]
    lines.append(f"FOUR_PLACES({first}, x + {turns * each},")
    lines += [f"    TURNS({turns}, {weight}, {each},", *inside(some(each)), "    )"] if turns else []
    lines += [*some(rest), ");"]
    return [*lines, *([f"v += {rest};"] if behind and rest else [])]


# --- two outputs in one multiplication ------------------------------------------------------------


def _two_at_once(task: Task, length: int) -> None:
    window = task.window
    low, high = window.weight[0::2], window.weight[1::2]
    task.declare("int32_t", "weight", (low + high * 65536).ravel().tolist())
    pieces = chunks(window.length, length)
    single = len(pieces) == 1 and window.weight.shape[1] == 1

    def block(places: int) -> Lines:
        lines = [f"const {task.taken} *x = a;", "const int32_t *v = w;"]
        sums = [task.bias("o"), task.bias("o + 1")]
        pairs = [(f"s{p}", f"first{p}", f"second{p}") for p in range(places)]
        if single:
            lines += _piece(task, length, places, behind=False)
            for name, first, second in pairs:
                lines += [f"const int32_t {first} = {sums[0]} + (int16_t){name};"]
                lines += [f"const int32_t {second} = {sums[1]} + (({name} - (int16_t){name}) >> 16);"]
        else:
            lines += [f"int32_t {', '.join(f'{first} = {sums[0]}' for _, first, _ in pairs)};"]
            lines += [f"int32_t {', '.join(f'{second} = {sums[1]}' for _, _, second in pairs)};"]
            lines += over_runs(window, _pieces(task, pieces, places))
        for p, (_, first, second) in enumerate(pairs):
            lines.append(f"q[{p * window.made[1]}] = {task.result('o', first)};")
            lines.append(f"q[{p * window.made[1] + 1}] = {task.result('o + 1', second)};")
        return lines

    blocks = Blocks(2, _together(task), low[0].size)
    task.function([f"const int32_t *w = weight_{task.number};", "", *nest(task, blocks, block)])


def _piece(task: Task, length: int, places: int, *, behind: bool) -> Lines:
    """Sums of two outputs in one register for each place; ``behind``: both pointers stand behind them afterwards."""
    if places > 1:
        lines = _at_four_places(task, length, "WORD", "0", behind=behind)
        return [*lines, *([f"x += {length};"] if behind else [])]
    left = left_over(length, TWOS_UNROLLED)
    lines = [
        "int32_t s0 = 0;",
        *steps(length, unrolled(length, TWOS_UNROLLED), lambda at: [f"s0 += v[{at}] * x[{at}];"]),
    ]
    return [*lines, *([f"x += {left};", f"v += {left};"] if behind and left else [])]


def _pieces(task: Task, pieces: Sequence[int], places: int) -> Lines:
    """A run in pieces, after each of which both sums are taken apart; equal ones in a loop."""
    equal = sum(1 for one in pieces if one == pieces[0])

    def one(length: int) -> Lines:
        lines = _piece(task, length, places, behind=True)
        for p in range(places):
            lines += [f"first{p} += (int16_t)s{p};", f"second{p} += (s{p} - (int16_t)s{p}) >> 16;"]
        return lines

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
