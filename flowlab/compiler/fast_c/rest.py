"""Everything in fast C but sums of products: pools, sums and products of two tensors, tables, and moved numbers."""

from __future__ import annotations

import numpy as np

from flowlab.compiler.emit_c import float_literal, output_fields
from flowlab.compiler.fast_c.layout import Frame, clipped
from flowlab.compiler.fast_c.source import Source, channel_name, index, loops, over
from flowlab.compiler.program import Layer, Tensor

CHANNELS_FIRST = ("c", "y", "x")


def load_input(source: Source, at: int) -> None:
    """The quantized input, (channel, height, width) as the caller has it, into its frame."""
    frame = source.frame(at)
    flat = _flat(frame)
    lines = loops(_channels_first(frame), [f"out[{index(frame)}] = ({source.type_of(at)})in[{flat}];"])
    body = [*source.zeros(at), *lines]
    title = "/* The quantized input, channels last. */"
    kind = source.type_of(at)
    source.functions.append(
        "\n".join([title, f"static void load_input(const int_least8_t *in, {kind} *out)", "{", *body, "}", ""])
    )
    source.calls.append(f"load_input(input, {source.pointer(at)});")


def _channels_first(frame: Frame) -> list[tuple[str, int]]:
    sizes = {"y": frame.height, "x": frame.width, "c": frame.channels}
    return [(name, sizes[name]) for name in CHANNELS_FIRST]


def _flat(frame: Frame) -> str:
    """The place of a number in the order (channel, height, width)."""
    terms = [("c", frame.channels, frame.height * frame.width), ("y", frame.height, frame.width), ("x", frame.width, 1)]
    return " + ".join(name if stride == 1 else f"{name} * {stride}" for name, size, stride in terms if size > 1) or "0"


def sum_pool(source: Source, number: int, layer: Layer, title: str) -> None:
    """A channel's sum over all places."""
    given, made = source.frame(layer.inputs[0]), source.frame(layer.output)
    channel = channel_name(given)
    add = loops([("y", given.height), ("x", given.width)], [f"sum += in[{index(given)}];"], 0)
    result = source.requantize(number, layer, channel, "sum")
    body = [f"int32_t sum = {source.bias(number, layer, channel)};", *add]
    body.append(f"out[{channel}] = ({source.type_of(layer.output)}){result};")
    source.function(number, layer, loops([("c", made.channels)], body), title)


def max_pool(source: Source, number: int, layer: Layer, title: str) -> None:
    """The largest number of each window; zeros around unsigned numbers are never larger than those."""
    given, made = source.frame(layer.inputs[0]), source.frame(layer.output)
    kind = source.type_of(layer.output)
    channel = channel_name(made)
    high, wide = layer.kernel
    start = -layer.padding[0] * given.by_row - layer.padding[1] * given.by_column
    places = [start + ky * given.by_row + kx * given.by_column for ky in range(high) for kx in range(wide)]
    base = f"y * {layer.stride[0] * given.by_row} + x * {layer.stride[1] * given.by_column} + {channel}"
    begin = f"const {source.type_of(layer.inputs[0])} *a = in + {base};"
    together = _together(source, layer)
    if clipped(layer, source.tensor(layer.inputs[0])):
        body = [*_clipped_window(layer, given, channel), f"out[{index(made)}] = ({kind})best;"]
        inner = loops([("c", made.channels)], body, 0)
    elif together > 1 and made.channels % together == 0:
        larger = "larger" if together == 2 else "larger4"
        source.use(larger)
        body = [begin, f"word best = *(const word *)(a + {places[0]});"]
        body += [f"best = {larger}(*(const word *)(a + {at}), best);" for at in places[1:]]
        body.append(f"*(word *)(out + {index(made)}) = best;")
        inner = [f"for (int c = 0; c < {made.channels}; c += {together}) {{", *("    " + line for line in body), "}"]
    else:
        body = [begin, f"int32_t best = a[{places[0]}];"]
        body += [f"best = a[{at}] > best ? a[{at}] : best;" for at in places[1:]]
        inner = loops([("c", made.channels)], [*body, f"out[{index(made)}] = ({kind})best;"], 0)
    lines = [
        f"    for (int y = 0; y < {made.height}; y++) {{",
        f"        for (int x = 0; x < {made.width}; x++) {{",
        *("            " + line for line in inner),
        "        }",
        "    }",
    ]
    source.function(number, layer, lines, title)


def _together(source: Source, layer: Layer) -> int:
    """Channels of which one instruction finds the larger ones."""
    if source.style == "pairs":
        return 2
    return 4 if source.style == "quads" and source.tensor(layer.inputs[0]).dtype == "uint8" else 1


def _clipped_window(layer: Layer, given: Frame, channel: str) -> list[str]:
    top, left, _, _ = layer.padding
    place = f"iy * {given.by_row} + ix * {given.by_column} + {channel}"
    return [
        "int32_t best = -128;",
        f"for (int ky = 0; ky < {layer.kernel[0]}; ky++) {{",
        f"    for (int kx = 0; kx < {layer.kernel[1]}; kx++) {{",
        f"        const int iy = y * {layer.stride[0]} + ky - {top}, ix = x * {layer.stride[1]} + kx - {left};",
        f"        if (iy >= 0 && iy < {given.height} && ix >= 0 && ix < {given.width} && in[{place}] > best) {{",
        f"            best = in[{place}];",
        "        }",
        "    }",
        "}",
    ]


def two(source: Source, number: int, layer: Layer, title: str) -> None:
    """A sum or a product, number by number; the second factor may have one number a channel."""
    left, right = (source.frame(at) for at in layer.inputs)
    made = source.frame(layer.output)
    same = (right.height, right.width) == (left.height, left.width)
    channel = channel_name(made)
    other = index(right) if same else channel
    sign = "+" if layer.op == "add" else "*"
    biased = f"(int32_t)left[{index(left)}] {sign} right[{other}] + {source.bias(number, layer, channel)}"
    result = source.requantize(number, layer, channel, f"({biased})")
    line = f"out[{index(made)}] = ({source.type_of(layer.output)}){result};"
    source.function(number, layer, loops(over(made), [line]), title)


def concat(source: Source, number: int, layer: Layer, title: str) -> None:
    """The channels of one behind those of the other, or one series behind the other."""
    left, right = (source.frame(at) for at in layer.inputs)
    made, kind = source.frame(layer.output), source.type_of(layer.output)
    lines = []
    for name, frame, first in (("left", left, 0), ("right", right, left.channels)):
        to = _without_channel(made) if frame.channels == 1 else index(made)
        lines += loops(over(frame), [f"out[{to} + {first}] = ({kind}){name}[{index(frame)}];"])
    source.function(number, layer, lines, title)


def _without_channel(frame: Frame) -> str:
    terms = [("y", frame.height, frame.by_row), ("x", frame.width, frame.by_column)]
    return " + ".join(f"{name} * {stride}" for name, size, stride in terms if size > 1) or "0"


def table(source: Source, number: int, layer: Layer, title: str) -> None:
    """Each number by its entry."""
    given, made = source.frame(layer.inputs[0]), source.frame(layer.output)
    assert layer.entries is not None
    source.declare(number, "int16_t", f"table_{number}", [int(one) for one in layer.entries])
    offset = " + 128" if source.tensor(layer.inputs[0]).dtype == "int8" else ""
    line = f"out[{index(made)}] = ({source.type_of(layer.output)})table_{number}[in[{index(given)}]{offset}];"
    source.function(number, layer, loops(over(made), [line]), title)


def take(source: Source, number: int, layer: Layer, title: str) -> None:
    """Each number from its place; a place of -1 is a zero."""
    given, made = source.frame(layer.inputs[0]), source.frame(layer.output)
    assert layer.index is not None
    places = _places(given)
    order = np.arange(layer.index.size).reshape(made.channels, made.height, made.width).transpose(1, 2, 0).ravel()
    wanted = layer.index[order]
    taken = np.where(wanted < 0, -1, places[np.maximum(wanted, 0)])
    kind = "int16_t" if taken.max(initial=0) < 2**15 else "int32_t"
    source.declare(number, kind, f"index_{number}", taken.tolist())
    read = "in[*from]" if (taken >= 0).all() else "*from < 0 ? 0 : in[*from]"
    inner = loops(over(made), [f"out[{index(made)}] = ({source.type_of(layer.output)})({read});", "from++;"])
    source.function(number, layer, [f"    const {kind} *from = index_{number};", "", *inner], title)


def _places(frame: Frame) -> np.ndarray:
    """Where in a frame each number lies, in the order (channel, height, width)."""
    channel, row, column = np.meshgrid(
        np.arange(frame.channels), np.arange(frame.height), np.arange(frame.width), indexing="ij"
    )
    found: np.ndarray = (channel + row * frame.by_row + column * frame.by_column).ravel()
    return found


def rename(source: Source, number: int, layer: Layer, title: str) -> None:
    """The same numbers under another shape, moved where their order changes."""
    if layer.output in source.layout.aliases:
        source.calls.append(f"{title[:-3]}: the same numbers */")
        return
    given, made = source.frame(layer.inputs[0]), source.frame(layer.output)
    area = made.height * made.width
    to = (
        f"i / {area} + i % {area} / {made.width} * {made.by_row} + i % {made.width} * {made.by_column}"
        if area > 1
        else "i"
    )
    move = [f"out[{to}] = ({source.type_of(layer.output)})in[{index(given)}];", "i++;"]
    source.function(number, layer, ["    int i = 0;", "", *loops(_channels_first(given), move)], title)


def outputs(source: Source) -> None:
    """From frames to the caller's arrays, in the order (channel, height, width)."""
    made_by = {layer.output: layer for layer in source.container.layers}
    for at, (field, tensor) in zip(
        source.container.outputs.values(), output_fields(source.container).values(), strict=True
    ):
        layer = made_by[at]
        dequantized = tensor.dtype == "float32"
        origin = layer.inputs[0] if dequantized else at
        frame = source.frame(origin)
        read = f"from[{index(frame)}]"
        value = f"(float){read} * {float_literal(layer.scale)}" if dequantized else f"({_outside(tensor)}){read}"
        lines = loops(_channels_first(frame), [f"outputs->{field}[{_flat(frame)}] = {value};"], 1)
        source.calls += ["{", f"    const {source.type_of(origin)} *from = {source.pointer(origin)};", *lines, "}"]


def _outside(tensor: Tensor) -> str:
    return {"int8": "int_least8_t", "uint8": "uint_least8_t"}[tensor.dtype]


EMITTERS = {
    "sum_pool": sum_pool,
    "max_pool": max_pool,
    "add": two,
    "multiply": two,
    "concat": concat,
    "table": table,
    "take": take,
    "flatten": rename,
    "reshape": rename,
}
