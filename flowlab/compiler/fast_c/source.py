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
from flowlab.compiler.program import Container, Layer, Tensor
from flowlab.errors import ProgramError

Style = Literal["pairs", "quads", "bytes"]
STYLES: tuple[Style, ...] = ("pairs", "quads", "bytes")
"""``pairs``: activations of 16 bits, two of them in one multiply of a core with DSP, a function each layer.

``quads``: activations of 8 bits, taken apart for the same multiply, one function for all layers: slower, and small.
``bytes``: activations of 8 bits for cores without DSP, a function each layer.
"""

HELPERS = {
    "zero": """\
/* The zeros around a tensor. */
static void zero(value *to, int count)
{
    for (int i = 0; i < count; i++) {
        to[i] = 0;
    }
}
""",
    "unsigned8": """\
static inline int32_t unsigned8(int32_t number)
{
#ifdef __ARM_FEATURE_SAT
    return (int32_t)__usat(number, 8);
#else
    return number < 0 ? 0 : number > 255 ? 255 : number;
#endif
}
""",
    "signed8": """\
static inline int32_t signed8(int32_t number)
{
#ifdef __ARM_FEATURE_SAT
    return __ssat(number, 8);
#else
    return number < -128 ? -128 : number > 127 ? 127 : number;
#endif
}
""",
    "clip": """\
static inline int32_t clip(int32_t number, int32_t low, int32_t high)
{
    return number < low ? low : number > high ? high : number;
}
""",
    "clip_wide": """\
static inline int32_t clip_wide(int64_t number, int32_t low, int32_t high)
{
    return number < low ? low : number > high ? high : (int32_t)number;
}
""",
    "mac2": """\
/* Two products of 16-bit numbers, and a sum. */
static inline int32_t mac2(word x, word y, int32_t sum)
{
#ifdef __ARM_FEATURE_DSP
    return __smlad((int16x2_t)x, (int16x2_t)y, sum);
#else
    return sum + (int16_t)x * (int16_t)y + (int16_t)(x >> 16) * (int16_t)(y >> 16);
#endif
}
""",
    "mac4": """\
static inline int32_t mac4(words x, words y, int32_t sum)
{
    return mac2((word)(x >> 32), (word)(y >> 32), mac2((word)x, (word)y, sum));
}
""",
    "pair_at": """\
/* Two numbers that need not begin where a word does. */
static inline word pair_at(const value *from)
{
    word both;
    __builtin_memcpy(&both, from, sizeof both);
    return both;
}
""",
}
HELPERS["window"] = """\
/* What becomes of a sum: one for each output channel. */
typedef struct {
    int32_t bias;
    uint8_t multiplier, shift;
} channel;

/* A layer: its constants, how many outputs and places it has, and how far apart in input and output they lie. */
typedef struct {
    const word *weights;
    const channel *channels;
    int16_t outputs, rows, line, row_step, step, made_row, made_step, runs, apart, words, odd, offset, high, is_signed;
} window;

/* Four numbers that need not begin where a word does. */
static inline word word_at(const uint8_t *from)
{
    word all;
    __builtin_memcpy(&all, from, sizeof all);
    return all;
}

/* The first and the third of four bytes as numbers of 16 bits: for the others the word is turned by a byte. */
static inline word wide_signed(word bytes)
{
#ifdef __ARM_FEATURE_SIMD32
    return (word)__sxtb16((int8x4_t)bytes);
#else
    return ((word)(int8_t)bytes & 0xFFFFu) | (word)(int8_t)(bytes >> 16) << 16;
#endif
}

static inline word wide_unsigned(word bytes)
{
    return bytes & 0x00FF00FFu;
}

static inline word turned(word bytes)
{
    return bytes >> 8 | bytes << 24;
}

/* Two neighbouring windows side by side, their numbers 16 bits wide. */
static word *gather(const window *layer, const uint8_t *x, int second, word *to)
{
    for (int run = 0; run < layer->runs; run++) {
        for (int i = 0; i < layer->words; i++) {
            const word x0 = word_at(x), x1 = word_at(x + second);
            if (layer->is_signed) {
                to[0] = wide_signed(x0), to[1] = wide_signed(turned(x0));
                to[2] = wide_signed(x1), to[3] = wide_signed(turned(x1));
            } else {
                to[0] = wide_unsigned(x0), to[1] = wide_unsigned(turned(x0));
                to[2] = wide_unsigned(x1), to[3] = wide_unsigned(turned(x1));
            }
            x += 4;
            to += 4;
        }
        x += layer->apart;
    }
    for (int i = 0; i < layer->odd; i++) {
        *to++ = 0;
    }
    return to;
}

static inline uint8_t scaled(const window *layer, const channel *c, int32_t sum)
{
    (void)layer;
    const int32_t level = unsigned8((SCALE(sum, c) >> c->shift) + OFFSET(layer));
    return (uint8_t)(LIMIT(level, layer->high) - OFFSET(layer));
}

/* Four sums, and four numbers of both windows. In this order: what is loaded too early needs a register too many. */
#define STEP(at) \\
    do { \\
        const word even0 = from[4 * at], odd0 = from[4 * at + 1], even1 = from[4 * at + 2], odd1 = from[4 * at + 3]; \\
        word w = v[2 * at], even = wide_signed(w), odd = wide_signed(turned(w)); \\
        s00 = mac2(odd0, odd, mac2(even0, even, s00)); \\
        s01 = mac2(odd1, odd, mac2(even1, even, s01)); \\
        __asm__ volatile("" ::: "memory"); \\
        w = v[2 * at + 1], even = wide_signed(w), odd = wide_signed(turned(w)); \\
        s10 = mac2(odd0, odd, mac2(even0, even, s10)); \\
        s11 = mac2(odd1, odd, mac2(even1, even, s11)); \\
        __asm__ volatile("" ::: "memory"); \\
    } while (0)

/* Sums of two outputs in both windows. A function of its own: its loop needs every register that the core has. */
static __attribute__((noinline)) const word *
dot(const word *from, const word *const end, const word *v, const channel *c, int32_t sums[4])
{
    int32_t s00 = c[0].bias, s01 = s00, s10 = c[1].bias, s11 = s10;
    for (; from != end; from += 8, v += 4) {
        STEP(0);
        STEP(1);
    }
    sums[0] = s00, sums[1] = s10, sums[2] = s01, sums[3] = s11;
    return v;
}

static void windows(const window *layer, const uint8_t *in, uint8_t *out)
{
    word wide[WIDEST];
    for (int y = 0; y < layer->rows; y++) {
        const uint8_t *x = in + y * layer->row_step;
        uint8_t *line = out + y * layer->made_row;
        for (int p = 0; p < layer->line; p += 2) {
            const int two = p + 1 < layer->line;
            const word *const end = gather(layer, x, two ? layer->step : 0, wide);
            const word *v = layer->weights;
            const channel *c = layer->channels;
            uint8_t *q = line, *r = two ? line + layer->made_step : line;
            for (int left = layer->outputs; left > 0; left -= 2, c += 2, q += 2, r += 2) {
                int32_t sums[4];
                v = dot(wide, end, v, c, sums);
                r[0] = scaled(layer, c, sums[2]);
                q[0] = scaled(layer, c, sums[0]);
                if (left > 1) {
                    r[1] = scaled(layer, c + 1, sums[3]);
                    q[1] = scaled(layer, c + 1, sums[1]);
                }
            }
            x += 2 * layer->step;
            line += 2 * layer->made_step;
        }
    }
}
"""
SIZES = {"int8_t": 1, "uint8_t": 1, "int16_t": 2, "int32_t": 4, "uint32_t": 4, "int64_t": 8, "channel": 8}
NEEDS = {
    "mac4": ("mac2",),
    "window": ("mac2", "unsigned8"),
}


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
