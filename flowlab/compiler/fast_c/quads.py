"""The kernel of cores with DSP that is small: one function for all layers, which gets each layer's sizes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flowlab.compiler.bounds import largest_sums
from flowlab.compiler.fast_c.task import Task, signed
from flowlab.compiler.fast_c.windows import HALF
from flowlab.compiler.lower import macs

MOST_WIDE = 512  # words of two windows side by side, which lie on the stack
QUAD = 4  # numbers of 8 bits in a word
SMALL = 50  # the part of a network's products for which three more instructions an output are not paid by the others


def takes(task: Task) -> bool:
    """Whether the function can do it: one kind of run, 8-bit multipliers, products of 32 bits, and a usual clip."""
    layer, window, source = task.layer, task.window, task.source
    assert layer.multiplier is not None and layer.shift is not None
    narrow = layer.multiplier.min() >= 0 and layer.multiplier.max() <= 255 and layer.shift.min() >= 0
    _, products = largest_sums(layer, source.tensor(layer.inputs[0]), source.given(layer))
    sizes = (*window.steps, *window.made, window.outputs, window.rows, window.line, *window.runs[0], window.length)
    gathered = 4 * window.weight.shape[1] * -(-window.length // QUAD)
    fits = gathered <= MOST_WIDE and max(abs(one) for one in sizes) < HALF and products < 1 << 31
    everything = sum(macs(source.container, one) for one in source.container.layers)
    clip = layer.low == 0 or (layer.low == -128 and macs(source.container, layer) * SMALL > everything)
    return bool(window.groups == 1 and window.runs[1][0] == 1 and narrow and fits and clip)


def emit(task: Task) -> None:
    """A layer's constants, and the call of the function of all layers."""
    layer, window, source = task.layer, task.window, task.source
    assert layer.bias is not None and layer.multiplier is not None and layer.shift is not None
    (runs, apart), _ = window.runs
    words = -(-window.length // QUAD)
    odd = runs * words % 2  # the loop takes two words at a time
    outputs = window.outputs + window.outputs % 2
    padded = np.zeros((outputs, runs, words * QUAD), np.int64)
    padded[: window.outputs, :, : window.length] = window.weight
    packed = ((padded.reshape(outputs, runs, words, QUAD) & 255) << np.array([0, 8, 16, 24])).sum(axis=3)
    flat = np.pad(packed.reshape(outputs, runs * words), [(0, 0), (0, odd)])
    pairs = flat.reshape(outputs // 2, 2, runs * words + odd).transpose(0, 2, 1)
    rows = zip(*(_filled(values, outputs) for values in (layer.bias, layer.multiplier, layer.shift)), strict=True)
    task.declare("uint32_t", "weight", [f"{word:#x}u" for word in pairs.ravel().tolist()])
    task.declare("channel", "channel", [f"{{{b}, {m}, {s}}}" for b, m, s in rows])
    offset = 128 if layer.low else 0
    sizes = (
        window.outputs, window.rows, window.line, *window.steps, *window.made, runs,
        apart - words * QUAD if runs > 1 else 0, words, odd * QUAD, offset, layer.high + offset,
        int(source.tensor(layer.inputs[0]).dtype == "int8"),
    )  # fmt: skip
    source.use("window")
    source.widest = max(source.widest, 4 * (runs * words + odd))
    source.multiplied |= bool((layer.multiplier != 1).any())
    source.moved |= offset > 0
    source.limited |= layer.high + offset != 255
    task.function(
        [
            f"static const window layer = {{(const word *)weight_{task.number}, channel_{task.number},",
            f"    {', '.join(map(str, sizes))}}};",
            f"windows(&layer, (const uint8_t *)in {signed(window.start)}, (uint8_t *)out);",
        ]
    )


def _filled(values: NDArray[np.generic], count: int) -> list[int]:
    """One number an output, and a zero for the one that makes them even."""
    found = [int(one) for one in np.asarray(values, np.int64)]
    return found + [0] * (count - len(found))
