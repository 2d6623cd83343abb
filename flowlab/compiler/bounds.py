"""How large a program's integers can become, from its clips, tables and real weights: which width in C is enough."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flowlab.compiler.program import RENAMES, Container, Layer, Tensor

Range = tuple[int, int]  # the least and the most value


def value_ranges(container: Container) -> Mapping[int, Range]:
    """By tensor the range of each 8-bit value: that of its clip, of its table, or of what it is taken from.

    An activation of 4 or 2 bits lies in a byte of its own; its range is that of its clip.
    """
    ranges: dict[int, Range] = {}
    for layer in container.layers:
        if container.tensors[layer.output].dtype == "float32":
            continue
        if layer.entries is not None:
            ranges[layer.output] = int(layer.entries.min()), int(layer.entries.max())
        elif layer.op in ("max_pool", "concat", "take", *RENAMES):
            zero = container.tensors[layer.output].zero_point
            ends = [ranges[at] for at in layer.inputs] + ([(zero, zero)] if layer.op == "take" else [])
            ranges[layer.output] = min(low for low, _ in ends), max(high for _, high in ends)
        else:
            ranges[layer.output] = layer.low, layer.high
        if layer.op == "quantize":  # channels that padding added are zeros
            low, high = ranges[layer.output]
            ranges[layer.output] = min(low, 0), max(high, 0)
    return ranges


def given_range(container: Container, layer: Layer, ranges: Mapping[int, Range]) -> Range:
    """What a layer reads, less its zero point: the widest range over its inputs."""
    zeros = {at: container.tensors[at].zero_point for at in layer.inputs}
    return min(ranges[at][0] - zeros[at] for at in zeros), max(ranges[at][1] - zeros[at] for at in zeros)


def largest_sums(layer: Layer, source: Tensor, given: Range) -> tuple[int, int]:
    """The largest magnitudes that an accumulator, and its product behind bias and multiplier, can have.

    Sums hold in any order and where zero padding leaves terms out. The second is the largest of ``|acc + bias|``,
    times ``|multiplier| * 2^left shift`` where that is more than 1.

    Args:
        layer: one of `flowlab.compiler.program.REQUANTIZED`.
        source: what it reads.
        given: the range of that, or of both that it adds, less their zero points (`given_range`).
    """
    assert layer.bias is not None and layer.multiplier is not None and layer.shift is not None
    low, high = min(given[0], 0), max(given[1], 0)
    if layer.op == "multiply":
        largest = max(abs(low), abs(high)) ** 2
        least, most = (np.full(layer.bias.size, end, np.int64) for end in (-largest, largest))
    elif layer.weight is not None:
        weights = layer.weight.astype(np.int64).reshape(len(layer.weight), -1)
        plus, minus = np.maximum(weights, 0).sum(axis=1), np.minimum(weights, 0).sum(axis=1)
        least, most = plus * low + minus * high, plus * high + minus * low
    else:
        fan_in = 2 if layer.op == "add" else source.size // source.shape[0]
        least, most = (np.full(layer.bias.size, fan_in * end, np.int64) for end in (low, high))
    bias = np.zeros_like(layer.bias, np.int64) if layer.bias_last else layer.bias.astype(np.int64)
    biased = np.maximum(np.abs(least + bias), np.abs(most + bias)).astype(object)
    left = np.maximum(-layer.shift.astype(np.int64), 0).astype(object)
    factor = np.maximum(np.abs(layer.multiplier.astype(object)) * (1 << left), 1)
    return int(max(-least.min(), most.max())), int(max(biased * factor))
