"""Which bytes each turn of a layer's loops reads, and which it then writes: what lets an output lie over its input.

Said of kernels that go over the places of their output from the first to the last, and write a place as soon as they
have read what it is made of: the function of all layers (two places a turn), depthwise convolutions and max pools (one
number a turn). The others go over their input once for every block of output channels. Zeros around an output that lies
over its input are written behind the loops.
"""

from __future__ import annotations

from collections.abc import Iterator

from flowlab.compiler.allocate import Piece, Turn
from flowlab.compiler.fast_c import dots, windows
from flowlab.compiler.fast_c.layout import Frame, clipped
from flowlab.compiler.fast_c.source import Source
from flowlab.compiler.fast_c.task import Task
from flowlab.compiler.program import Layer

MOST_TURNS = 50_000  # of a layer: what is checked byte by byte shall take no minutes


def turns(source: Source) -> dict[int, tuple[Turn, ...]]:
    """By layer, its turns in their order; a layer of which nothing is known is left out."""
    found = {}
    for number, layer in enumerate(source.container.layers):
        made = tuple(_turns(source, number, layer))
        if made:
            found[number] = made
    return found


def _turns(source: Source, number: int, layer: Layer) -> Iterator[Turn]:
    if layer.op not in ("conv", "linear", "max_pool"):
        return
    given, made = source.frame(layer.inputs[0]), source.frame(layer.output)
    if layer.op == "max_pool":
        yield from _numbers(layer, given, made, inside=clipped(layer, source.tensor(layer.inputs[0])))
        return
    convolution = layer.op == "conv"
    window = windows.convolution(layer, given, made) if convolution else windows.fully_connected(layer, given)
    if dots.is_depthwise(window):
        yield from _numbers(layer, given, made, inside=False)
    elif dots.is_gathered(Task(source, number, layer, window, "")):
        yield from _pairs(window, given, made)


def _pairs(window: windows.Window, given: Frame, made: Frame) -> Iterator[Turn]:
    """Two neighbouring places a turn, all outputs."""
    (runs, apart), _ = window.runs
    if window.rows * window.line > MOST_TURNS:
        return
    for y in range(window.rows):
        for p in range(0, window.line, 2):
            both = range(p, min(p + 2, window.line))
            starts = [given.first + window.start + y * window.steps[0] + each * window.steps[1] for each in both]
            ends = [made.first + y * window.made[0] + each * window.made[1] for each in both]
            yield Turn(
                tuple(_bytes(given, start + run * apart, window.length) for start in starts for run in range(runs)),
                tuple(_bytes(made, end, window.outputs) for end in ends),
            )


def _numbers(layer: Layer, given: Frame, made: Frame, *, inside: bool) -> Iterator[Turn]:
    """One number a turn, row by row, column by column, channel by channel; ``inside``: none of the zeros around."""
    if made.height * made.width * made.channels > MOST_TURNS:
        return
    for y in range(made.height):
        rows = _taps(y, layer.stride[0], layer.padding[0], layer.kernel[0], layer.dilation[0])
        for x in range(made.width):
            columns = _taps(x, layer.stride[1], layer.padding[1], layer.kernel[1], layer.dilation[1])
            taps = [
                given.first + row * given.by_row + column * given.by_column
                for row in rows
                for column in columns
                if not inside or (0 <= row < given.height and 0 <= column < given.width)
            ]
            end = made.first + y * made.by_row + x * made.by_column
            for channel in range(made.channels):
                yield Turn(tuple(_bytes(given, tap + channel, 1) for tap in taps), (_bytes(made, end + channel, 1),))


def _taps(place: int, stride: int, padding: int, count: int, gap: int) -> list[int]:
    return [place * stride - padding + tap * gap for tap in range(count)]


def _bytes(frame: Frame, first: int, count: int) -> Piece:
    return first * frame.bytes, (first + count) * frame.bytes
