"""How a convolution or a fully connected layer reads and writes: runs of numbers, and steps from place to place.

Channels are last, so a row of a window is one run of numbers, and the whole window is where it is as wide as the frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowlab.compiler.fast_c.layout import Frame
from flowlab.compiler.program import Layer

HALF = 1 << 15  # what a sum of 16 bits must stay below


@dataclass(frozen=True)
class Window:
    """How a layer reads and writes: runs of numbers in its input, steps from place to place.

    ``weight`` int64 (out, run, number): as they lie in the window. ``rows`` and ``line`` are the places, outer and
    inner; ``steps`` and ``made`` the numbers from one to the next in input and output.
    """

    weight: NDArray[np.int64]
    runs: tuple[tuple[int, int], tuple[int, int]]  # (how many, numbers apart), outer and inner
    rows: int
    line: int
    steps: tuple[int, int]
    made: tuple[int, int]
    groups: int
    group_reads: int  # numbers from one group's inputs to the next's
    start: int  # where the first window begins, from the first number of the input

    @property
    def length(self) -> int:
        """Numbers of a run."""
        return int(self.weight.shape[2])

    @property
    def outputs(self) -> int:
        """Output channels."""
        return int(self.weight.shape[0])


def convolution(layer: Layer, given: Frame, made: Frame) -> Window:
    """The windows of a convolution."""
    assert layer.weight is not None
    weight = layer.weight.astype(np.int64).transpose(0, 2, 3, 1)  # out, row, column, channel
    out, high, wide, inner = weight.shape
    down, across = layer.dilation
    apart = (down * given.by_row, across * given.by_column)
    runs = ((high, apart[0]), (wide, apart[1]))
    if wide == 1 or (across == 1 and layer.groups == 1):
        runs, weight = ((high, apart[0]), (1, 0)), weight.reshape(out, high, 1, wide * inner)
        if high == 1 or (given.by_row == wide * inner and down == 1 and layer.groups == 1):
            runs, weight = ((1, 0), (1, 0)), weight.reshape(out, 1, 1, high * wide * inner)
    steps = (layer.stride[0] * given.by_row, layer.stride[1] * given.by_column)
    places, written = (made.height, made.width), (made.by_row, made.by_column)
    if made.width == 1:
        places, steps, written = (1, made.height), (0, steps[0]), (0, written[0])
    start = -layer.padding[0] * given.by_row - layer.padding[1] * given.by_column
    return Window(
        weight.reshape(out, runs[0][0] * runs[1][0], -1), runs, *places, steps, written, layer.groups, inner, start
    )


def fully_connected(layer: Layer, given: Frame) -> Window:
    """A fully connected layer as one window; weights in the order in which its input lies."""
    assert layer.weight is not None
    weight = layer.weight.astype(np.int64).reshape(len(layer.weight), given.channels, given.height * given.width)
    flat = weight.transpose(0, 2, 1).reshape(len(weight), 1, -1)
    return Window(flat, ((1, 0), (1, 0)), 1, 1, (0, 0), (0, 0), 1, 0, 0)


def safe_length(weight: NDArray[np.int64], given: tuple[int, int]) -> int:
    """Numbers of a run whose products can be added, whatever the inputs, with every sum within 16 bits.

    Args:
        weight: (out, run, number).
        given: the least and the most input.

    Returns:
        The largest length such that every piece of it, cut from the start of a run, is safe; 0 where none is.
    """
    low, high = min(given[0], 0), max(given[1], 0)
    most = np.maximum(weight * high, weight * low)
    least = np.minimum(weight * high, weight * low)
    for length in range(weight.shape[2], 0, -1):
        starts = np.arange(0, weight.shape[2], length)
        top = np.add.reduceat(most, starts, axis=2).max()
        bottom = np.add.reduceat(least, starts, axis=2).min()
        if top < HALF and bottom > -HALF:  # both sums at -2^15 would leave the 32 bits that hold them
            return length
    return 0
