"""What the emitters of fast C share: constants, loops over a frame, and requantization."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from flowlab.compiler.bounds import Range, largest_sums, value_ranges
from flowlab.compiler.emit_c import array
from flowlab.compiler.fast_c.layout import Frame, Layout
from flowlab.compiler.fast_c.support import NEEDS
from flowlab.compiler.program import Container, Layer, Tensor
from flowlab.errors import ProgramError

Style = Literal["pairs", "quads", "bytes"]
STYLES: tuple[Style, ...] = ("pairs", "quads", "bytes")
"""``pairs``: activations of 16 bits, two of them in one multiply of a core with DSP, a function each layer.

``quads``: activations of 8 bits, taken apart for the same multiply, one function for all layers: slower, and small.
``bytes``: activations of 8 bits for cores without DSP, a function each layer.
"""

SIZES = {"int8_t": 1, "uint8_t": 1, "int16_t": 2, "int32_t": 4, "uint32_t": 4, "int64_t": 8, "channel": 8}


@dataclass
class Source:
    """Collects constants, functions and the calls of ``model_run``; helpers come in when they are used."""

    container: Container
    layout: Layout
    style: Style
    constants: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    helpers: set[str] = field(default_factory=set)
    widest: int = 0  # words of two windows side by side
    multiplied: bool = False  # whether the function of all layers multiplies a sum
    limited: bool = False  # and holds it against a limit below that of 8 bits
    moved: bool = False  # and makes signed numbers too

    flash: dict[str, int] = field(default_factory=dict)  # bytes of constants by layer

    def __post_init__(self) -> None:
        self.ranges = value_ranges(self.container)

    def declare(self, number: int, type_: str, name: str, values: Sequence[int | str]) -> None:
        """A constant array of a layer, once; words are aligned to two of them."""
        text = array(type_, name, values)
        if type_ == "uint32_t":
            text = text.replace("[] =", "[] ALIGNED =")
        if text not in self.constants:
            self.constants.append(text)
            layer = self.container.layers[number].name
            self.flash[layer] = self.flash.get(layer, 0) + len(values) * SIZES[type_]

    def use(self, *names: str) -> None:
        """These helpers, and those that they call."""
        for name in names:
            self.helpers.add(name)
            self.use(*NEEDS.get(name, ()))

    def tensor(self, at: int) -> Tensor:
        """The tensor."""
        return self.container.tensors[at]

    def frame(self, at: int) -> Frame:
        """Its frame."""
        return self.layout.frames[at]

    def type_of(self, at: int) -> str:
        """The C type of its numbers."""
        return "value" if self.style == "pairs" else f"{self.tensor(at).dtype}_t"

    def pointer(self, at: int) -> str:
        """The C expression of its first number."""
        frame = self.frame(at)
        start = f"({self.type_of(at)} *)(arena + {frame.offset // 4})"
        return f"{start} + {frame.first}" if frame.first else start

    def given(self, layer: Layer) -> Range:
        """The range of what a layer reads."""
        ranges = [self.ranges[at] for at in layer.inputs]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    def function(self, number: int, layer: Layer, body: Sequence[str], title: str) -> None:
        """A function of a layer's inputs and output, and its call."""
        names = ("in",) if len(layer.inputs) == 1 else ("left", "right")
        taken = [f"const {self.type_of(at)} *{name}" for at, name in zip(layer.inputs, names, strict=True)]
        made = f"{self.type_of(layer.output)} *out"
        lines = [title, f"static void layer_{number}({', '.join([*taken, made])})", "{"]
        zeros = self.zeros(layer.output)
        lies_over = any(self.frame(at).meets(self.frame(layer.output)) for at in layer.inputs)
        lines += [*body, *zeros, "}", ""] if lies_over else [*zeros, *body, "}", ""]
        self.functions.append("\n".join(lines))
        arguments = [self.pointer(at) for at in (*layer.inputs, layer.output)]
        self.calls.append(f"layer_{number}({', '.join(arguments)});")

    def zeros(self, at: int) -> list[str]:
        """Lines that write the zeros around a tensor whose first number is ``out``."""
        frame = self.frame(at)
        if not any(frame.padding):
            return []
        self.use("zero")
        _, left, bottom, right = frame.padding
        own = frame.width * frame.channels
        kind = "" if self.style == "pairs" else "(value *)"
        lines = [f"    zero({kind}(out - {frame.first}), {frame.first});"] if frame.first else []
        if left + right and frame.height > 1:
            lines += [
                f"    for (int y = 0; y < {frame.height - 1}; y++) {{",
                f"        zero({kind}(out + y * {frame.by_row} + {own}), {(left + right) * frame.channels});",
                "    }",
            ]
        last = (frame.height - 1) * frame.by_row + own
        behind = right * frame.channels + bottom * frame.by_row
        return [*lines, *([f"    zero({kind}(out + {last}), {behind});"] if behind else [])]

    def requantize(self, number: int, layer: Layer, channel: str, biased: str) -> str:
        """The C expression that turns a sum with its bias into the layer's output; declares its constants.

        Raises:
            ProgramError: if the accumulator could leave 32 bits, or a product 64.
        """
        sums, products = largest_sums(layer, self.tensor(layer.inputs[0]), self.given(layer))
        assert layer.multiplier is not None and layer.shift is not None and layer.bias is not None
        biggest = sums + int(np.abs(layer.bias.astype(np.int64)).max(initial=0))
        if biggest >= 1 << 31 or products >= 1 << 62:
            raise ProgramError(
                f"layer '{layer.name}': accumulator up to {biggest}, product up to {products}: too wide for C"
            )
        left = np.maximum(-layer.shift.astype(np.int64), 0)
        multiplier = layer.multiplier.astype(np.int64) << left
        wide = products >= 1 << 31
        term = f"(int64_t)({biased})" if wide else biased
        if (multiplier != 1).any():
            small = multiplier.min() >= 0 and multiplier.max() <= 255
            type_ = "uint8_t" if small else "int64_t" if wide else "int32_t"
            factor = self.per_channel(number, "multiplier", type_, multiplier.tolist(), channel)
            term = f"({term}) * {factor}"
        shift = self.per_channel(number, "shift", "uint8_t", np.maximum(layer.shift, 0).tolist(), channel)
        shifted = f"(({term}) >> {shift})"
        limits = (layer.low, layer.high)
        known = {(0, 255): "unsigned8", (-128, 127): "signed8"}
        if limits in known and not wide:
            self.use(known[limits])
            return f"{known[limits]}{shifted}" if shifted.startswith("((") else f"{known[limits]}({shifted})"
        name = "clip_wide" if wide else "clip"
        self.use(name)
        return f"{name}({shifted}, {layer.low}, {layer.high})"

    def bias(self, number: int, layer: Layer, channel: str) -> str:
        """A layer's bias in C."""
        assert layer.bias is not None
        return self.per_channel(number, "bias", "int32_t", np.asarray(layer.bias, np.int64).tolist(), channel)

    def per_channel(self, number: int, name: str, type_: str, values: Sequence[int], channel: str) -> str:
        """One number a channel: an array, or the number where all are the same."""
        if len(set(values)) == 1:
            return str(values[0]) if values[0] >= 0 else f"({values[0]})"
        self.declare(number, type_, f"{name}_{number}", values)
        return f"{name}_{number}[{channel}]"


AXES = ("y", "x", "c")


def index(frame: Frame, names: Sequence[str] = AXES) -> str:
    """The place of a number in its frame, by the names of row, column and channel; axes of one place are left out."""
    sizes = (frame.height, frame.width, frame.channels)
    strides = (frame.by_row, frame.by_column, 1)
    terms = [
        name if stride == 1 else f"{name} * {stride}"
        for name, size, stride in zip(names, sizes, strides, strict=True)
        if size > 1
    ]
    return " + ".join(terms) or "0"


def loops(axes: Sequence[tuple[str, int]], body: Sequence[str], depth: int = 1) -> list[str]:
    """Nested loops; a loop of one turn is none, and its name must not be in the body."""
    kept = [(name, count) for name, count in axes if count > 1]
    lines = [
        f"{'    ' * (depth + level)}for (int {name} = 0; {name} < {count}; {name}++) {{"
        for level, (name, count) in enumerate(kept)
    ]
    inside = "    " * (depth + len(kept))
    lines += [inside + line for line in body]
    return [*lines, *("    " * (depth + level) + "}" for level in reversed(range(len(kept))))]


def over(frame: Frame) -> list[tuple[str, int]]:
    """The axes of a frame, as loops go over them."""
    return [("y", frame.height), ("x", frame.width), ("c", frame.channels)]


def channel_name(frame: Frame) -> str:
    """The channel in loops over a frame."""
    return "c" if frame.channels > 1 else "0"


def unrolled(length: int, most: int) -> int:
    """Steps of one turn of a loop: all of them, or the most that leave no rest, or ``most`` and a rest."""
    if length <= most:
        return length
    fitting = [count for count in range(most, most // 2, -1) if length % count == 0]
    return fitting[0] if fitting else most


def chunks(length: int, each: int) -> list[int]:
    """A length cut into pieces."""
    return [min(each, length - at) for at in itertools.takewhile(lambda at: at < length, itertools.count(0, each))]
