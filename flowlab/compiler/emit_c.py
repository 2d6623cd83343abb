"""Program -> C99: one file a person can read, no heap, no libraries.

It assumes nothing about ``char``: every array has a least-width type, and an arena byte holds 0 .. 255 even where the
smallest addressable unit has 16 bits; a signed value v lies in it as v + 256 where it is negative. Weights of 4 and 2
bits stay packed, two or four in such a byte, and are unpacked where they are multiplied.
Sums are 32 bits wide, and so are products where the real weights prove that it is enough; else those have 64.
Layout is (channel, height, width). ``FLOWLAB_TRACE`` compiles to nothing unless it is defined; it gets a layer's name,
its first value, how many channels, rows and columns there are, and how far apart they lie.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from flowlab.compiler.bounds import given_range, largest_sums, value_ranges
from flowlab.compiler.c_helpers import HELPERS, NEEDS
from flowlab.compiler.lower import index_bytes
from flowlab.compiler.program import OUTSIDE, REQUANTIZED, Container, Layer, Tensor, pack_stream
from flowlab.errors import ProgramError

RESERVED = {  # what no field of C can be called
    "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum", "extern", "float",
    "for", "goto", "if", "inline", "int", "long", "register", "restrict", "return", "short", "signed", "sizeof",
    "static", "struct", "switch", "typedef", "union", "unsigned", "void", "volatile", "while",
}  # fmt: skip
LEVELS = {"floor": "floor_shift_wide", "half_up": "half_up_shift", "nearest_even": "nearest_even"}
LINE = 116  # characters of a line of numbers
NO_TRACE = """\
#ifndef FLOWLAB_TRACE
#define FLOWLAB_TRACE(node, values, channels, rows, columns, by_channel, by_row, by_column) ((void)0)
#endif
"""


def identifier(name: str) -> str:
    """A name as a C identifier."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"_{plain}" if not plain or plain[0].isdigit() or plain in RESERVED else plain


def text_literal(name: str) -> str:
    """A name as a C string literal."""
    parts = [chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in name.encode()]
    return '"' + "".join(parts) + '"'


def float_literal(value: float) -> str:
    """A float32 as a C99 literal without loss."""
    exact = float(np.float32(value))
    if not np.isfinite(exact):
        raise ProgramError(f"{value} is no number that C can hold")
    digits, power = exact.hex().split("p")
    return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits}p{power}F"


def array(type_: str, name: str, values: Iterable[int | str], *, shape: str = "") -> str:
    """A constant array over as many lines as it takes."""
    lines, line = [], "   "
    for value in values:
        item = f" {value},"
        if len(line) + len(item) > LINE:
            lines.append(line)
            line = "   "
        line += item
    declared = f"static const {type_} {name}[{shape}] = {{"
    if not lines and len(declared) + len(line) <= LINE:
        return f"{declared}{line.rstrip(',').removeprefix('   ')} }};\n"
    return declared + "\n" + "\n".join([*lines, line.rstrip(",")]) + "\n};\n"


class _Source:
    """Collects constants, functions and the calls of ``model_run``; helpers come in when they are used."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.ranges = value_ranges(container)
        self.constants: list[str] = []
        self.functions: list[str] = []
        self.calls: list[str] = []
        self.helpers: set[str] = set()

    def use(self, *names: str) -> None:
        self.helpers.update(names)
        for name in names:
            self.helpers.update(NEEDS.get(name, ()))

    def is_input(self, tensor: Tensor) -> bool:
        """Whether a tensor is the quantized input (or it under another shape), which lies with the caller."""
        return tensor.offset == OUTSIDE and tensor.dtype != "float32"

    def pointer(self, tensor: Tensor) -> str:
        return "input" if self.is_input(tensor) else f"arena + {tensor.offset}"

    def pointer_type(self, tensor: Tensor) -> str:
        return "int_least8_t" if self.is_input(tensor) else "uint_least8_t"

    def read(self, tensor: Tensor, array_: str, index: str) -> str:
        element = f"{array_}[{index}]"
        if tensor.dtype == "int8" and not self.is_input(tensor):
            self.use("signed8")
            return f"signed8({element})"
        return element

    def meaning(self, tensor: Tensor, array_: str, index: str) -> str:
        """A value less its zero point."""
        element = self.read(tensor, array_, index)
        return f"({element} - {tensor.zero_point})" if tensor.zero_point else element

    def weight(self, number: int, layer: Layer, index: str) -> str:
        """The C expression for one weight; declares them, packed in the order (out, in, kernel_h, kernel_w)."""
        assert layer.weight is not None
        name = f"weight_{number}"
        if layer.weight_bits == 8:
            self.constants.append(array("int_least8_t", name, _values(layer.weight)))
            return f"(int_least32_t){name}[{index}]"
        helper = f"weight{layer.weight_bits}"
        self.use(helper)
        self.constants.append(array("uint_least8_t", name, pack_stream(layer.weight, layer.weight_bits).tolist()))
        return f"(int_least32_t){helper}({name}, {index})"

    def store(self, tensor: Tensor, index: str, value: str) -> str:
        if tensor.dtype == "int8":
            self.use("to_byte")
            return f"out[{index}] = to_byte({value});"
        return f"out[{index}] = (uint_least8_t){value};"


def emit_c(container: Container, *, skip_normalize: bool) -> dict[str, str]:
    """``model.c`` and ``model.h`` of a program, by file name.

    Args:
        container: the program.
        skip_normalize: True where the device's entry point takes the quantized input, False where it takes features.

    Raises:
        ProgramError: where an accumulator could leave 32 bits, or a product 64.
    """
    source = _Source(container)
    for number, layer in enumerate(container.layers):
        _EMITTERS[layer.op](source, number, layer)
    _copy_outputs(source)
    return {"model.h": header(container, skip_normalize, container.arena), "model.c": _body(source, skip_normalize)}


# --- files --------------------------------------------------------------------------------------


def output_fields(container: Container) -> dict[str, tuple[str, Tensor]]:
    """For each output name its field in ``model_outputs`` and its tensor."""
    fields: dict[str, tuple[str, Tensor]] = {}
    for name, at in container.outputs.items():
        field = identifier(name)
        if field in {known for known, _ in fields.values()}:
            raise ProgramError(f"outputs '{name}' and another one have one name in C: {field}")
        fields[name] = (field, container.tensors[at])
    return fields


def _c_type(tensor: Tensor) -> str:
    return {"float32": "float", "int8": "int_least8_t", "uint8": "uint_least8_t"}[tensor.dtype]


def header(container: Container, skip_normalize: bool, arena: int) -> str:
    """``model.h``; ``arena``: bytes of activations."""
    features, quantized = container.tensors[container.first().inputs[0]], container.tensors[container.first().output]
    fields = "\n".join(
        f"    {_c_type(tensor)} {field}[{tensor.size}]; /* {_shape(tensor)}, scale {tensor.scale!r} */"
        for field, tensor in output_fields(container).values()
    )
    entry = "const int_least8_t *input" if skip_normalize else "const float *features"
    takes = "the quantized input" if skip_normalize else "float features"
    return f"""\
/* Made by flowlab from the network with SHA-256 {container.source_sha256}. */
#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

#define MODEL_FEATURES {features.size} /* float {_shape(features)} */
#define MODEL_INPUTS {quantized.size} /* int8 {_shape(quantized)} */
#define MODEL_ARENA {max(1, arena)} /* bytes of activations */

typedef struct {{
{fields}
}} model_outputs;

/* The input step: leading batch norm and first quantization. */
void model_quantize_input(const float *features, int_least8_t *input);

/* The network, from {takes} to outputs. Not reentrant: activations are static. */
void model_run({entry}, model_outputs *outputs);

#endif
"""


def _shape(tensor: Tensor) -> str:
    return "(" + ", ".join(map(str, tensor.shape)) + ")"


def _body(source: _Source, skip_normalize: bool) -> str:
    container = source.container
    helpers = "\n".join(text for name, text in HELPERS.items() if name in source.helpers)
    arena = "static uint_least8_t arena[MODEL_ARENA];\n\n" if container.arena else ""
    pieces = [*source.constants, helpers, "\n".join(source.functions)]
    return (
        f'#include "model.h"\n\n{NO_TRACE}\n'
        + arena
        + "\n".join(piece for piece in pieces if piece)
        + "\n"
        + entry_point(source.calls, skip_normalize)
    )


def entry_point(calls: Sequence[str], skip_normalize: bool) -> str:
    """``model_run``: the layers' calls in their order, behind the input step where it takes features."""
    start = (
        "void model_run(const int_least8_t *input, model_outputs *outputs)\n{"
        if skip_normalize
        else "void model_run(const float *features, model_outputs *outputs)\n{\n"
        "    static int_least8_t input[MODEL_INPUTS];\n\n"
        "    model_quantize_input(features, input);"
    )
    return "\n".join([start, *(f"    {call}" for call in calls), "}\n"])


class InputStep:
    """The input step by itself, for an emitter that has other layers than these."""

    def __init__(self, container: Container) -> None:
        source = _Source(container)
        _emit_quantize(source, 0, container.first())
        helpers = [text for name, text in HELPERS.items() if name in source.helpers]
        self.constants = source.constants
        self.text = "\n".join([*helpers, *source.functions])


# --- layers -------------------------------------------------------------------------------------


def title(container: Container, layer: Layer) -> str:
    """The comment above a layer."""
    tensors = container.tensors
    shapes = f"{_shape(tensors[layer.inputs[0]])} -> {_shape(tensors[layer.output])}"
    name = layer.name.replace("*/", "* /")
    return f"/* {name}: {layer.kind.replace('*/', '')} on the {layer.unit.upper()}, {shapes} */"


def _trace(tensor: Tensor, layer: Layer, pointer: str) -> str:
    _, height, width = (*tensor.shape, 1, 1)[:3]
    sizes = f"{tensor.channels}, {height}, {width}, {height * width}, {width}, 1"
    return f"FLOWLAB_TRACE({text_literal(layer.name)}, {pointer}, {sizes});"


def _emit_quantize(source: _Source, number: int, layer: Layer) -> None:
    tensors = source.container.tensors
    features = tensors[layer.inputs[0]]
    assert layer.bias is not None and layer.multiplier is not None and layer.shift is not None
    source.use("floor_float")
    variables, each = features.shape[0], features.size // features.shape[0]
    quantized = tensors[layer.output]
    zeros = ""
    if quantized.size > features.size:
        zeros = (
            f"    for (long i = {features.size}; i < {quantized.size}; i++) {{\n"
            "        input[i] = 0; /* channels that padding added */\n    }\n"
        )
    if np.asarray(layer.shift).min() < 0:
        raise ProgramError(f"layer '{layer.name}': an input step shifts to the right")
    source.constants += [
        array("float", "input_bias", [float_literal(float(x)) for x in np.asarray(layer.bias, np.float32)]),
        array("float", "input_multiplier", [float_literal(float(x)) for x in layer.multiplier]),
        array("float", "input_step", [float_literal(2.0 ** -int(x)) for x in layer.shift]),
    ]
    source.functions.append(f"""\
{title(source.container, layer)}
void model_quantize_input(const float *features, int_least8_t *input)
{{
    for (long v = 0; v < {variables}; v++) {{
        for (long i = v * {each}; i < (v + 1) * {each}; i++) {{
            const float sum = features[i] + input_bias[v];
            const float product = sum * input_multiplier[v];
            const float level = floor_float(floor_float(product) * input_step[v]); /* a power of two: exact */
            if (level >= {layer.high}.0F) {{
                input[i] = {layer.high};
            }} else if (level > {layer.low}.0F) {{
                input[i] = (int_least8_t)level;
            }} else {{
                input[i] = {layer.low};
            }}
        }}
    }}
{zeros}    {_trace(tensors[layer.output], layer, "input")}
}}
""")


def _emit_quantize_linear(source: _Source, number: int, layer: Layer) -> None:
    tensors = source.container.tensors
    features, made = tensors[layer.inputs[0]], tensors[layer.output]
    source.use("nearest_float")
    zero = made.zero_point
    low, high = layer.low - zero, layer.high - zero
    source.functions.append(f"""\
{title(source.container, layer)}
void model_quantize_input(const float *features, int_least8_t *input)
{{
    for (long i = 0; i < {features.size}; i++) {{
        float level = features[i] / {float_literal(made.scale)};
        level = level > {low}.0F ? level < {high}.0F ? level : {high}.0F : {low}.0F;
        input[i] = (int_least8_t)(nearest_float(level) + {zero});
    }}
    {_trace(made, layer, "input")}
}}
""")


def _values(array_: NDArray[np.generic] | None) -> list[int]:
    assert array_ is not None
    return [int(value) for value in np.asarray(array_).ravel()]


def _requantize(source: _Source, number: int, layer: Layer, channel: str) -> str:
    """The C expression that turns ``acc`` into the layer's output; declares its constants."""
    given = given_range(source.container, layer, source.ranges)
    sums, products = largest_sums(layer, source.container.tensors[layer.inputs[0]], given)
    if sums >= 1 << 31 or products >= 1 << 62:
        raise ProgramError(f"layer '{layer.name}': accumulator up to {sums}, product up to {products}: too wide for C")
    if not layer.plain or source.container.tensors[layer.output].zero_point:
        return _requantize_otherwise(source, number, layer, channel)
    assert layer.multiplier is not None and layer.shift is not None
    left = np.maximum(-layer.shift.astype(np.int64), 0)
    multiplier = [m << s for m, s in zip(_values(layer.multiplier), left.tolist(), strict=True)]
    shift = np.maximum(layer.shift, 0)
    wide = products >= 1 << 31
    number_type = "int_least64_t" if wide else "int_least32_t"
    source.use("clip", "floor_shift_wide" if wide else "floor_shift")
    source.constants.append(array("int_least32_t", f"bias_{number}", _values(layer.bias)))
    value = f"{'(int_least64_t)' if wide else ''}acc + bias_{number}[{channel}]"
    if any(m != 1 for m in multiplier):
        small = min(multiplier) >= 0 and max(multiplier) <= 255
        source.constants.append(array("uint_least8_t" if small else number_type, f"multiplier_{number}", multiplier))
        value = f"({value}) * multiplier_{number}[{channel}]"
    source.constants.append(array("uint_least8_t", f"shift_{number}", _values(shift)))
    call = f"floor_shift{'_wide' if wide else ''}({value}, shift_{number}[{channel}])"
    return f"clip({call}, {layer.low}, {layer.high})"


def _requantize_otherwise(source: _Source, number: int, layer: Layer, channel: str) -> str:
    """The same for other roundings, a bias behind the shift, and zero points."""
    zero = source.container.tensors[layer.output].zero_point
    assert layer.multiplier is not None and layer.shift is not None
    constants = {"bias": layer.bias, "multiplier": layer.multiplier, "shift": layer.shift}
    types = {"bias": "int_least32_t", "multiplier": "int_least32_t", "shift": "int_least8_t"}
    for key, values in constants.items():
        source.constants.append(array(types[key], f"{key}_{number}", _values(values)))
    bias, multiplier, shift = (f"{key}_{number}[{channel}]" for key in constants)
    value = "acc" if layer.bias_last else f"acc + {bias}"
    source.use("clip", LEVELS[layer.rounding])
    if layer.rounding == "nearest_even":
        made = f"nearest_even({value}, {multiplier}, {shift})"
    else:
        product = f"((int_least64_t){value}) * {multiplier}"
        if int(layer.shift.min()) < 0:
            product = f"({product}) * ((int_least64_t)1 << ({shift} < 0 ? -{shift} : 0))"
            shift = f"({shift} < 0 ? 0 : {shift})"
        made = f"{LEVELS[layer.rounding]}({product}, {shift})"
    after = f" + {bias}" if layer.bias_last else ""
    return f"clip({made}{after}{f' + {zero}' if zero else ''}, {layer.low}, {layer.high})"


def _function(source: _Source, number: int, layer: Layer, body: str) -> None:
    tensors = source.container.tensors
    inputs, output = [tensors[at] for at in layer.inputs], tensors[layer.output]
    names = ("in",) if len(inputs) == 1 else ("left", "right")
    types = [f"const {source.pointer_type(item)} *{name}" for item, name in zip(inputs, names, strict=True)]
    head = f"static void layer_{number}({', '.join(types)}, uint_least8_t *out)"
    source.functions.append(f"{title(source.container, layer)}\n{head}\n{{\n{body}}}\n")
    arguments = [source.pointer(item) for item in (*inputs, output)]
    source.calls.append(f"layer_{number}({', '.join(arguments)});")
    source.calls.append(_trace(output, layer, f"(arena + {output.offset})"))


def _emit_conv(source: _Source, number: int, layer: Layer) -> None:
    tensors = source.container.tensors
    given, made = tensors[layer.inputs[0]], tensors[layer.output]
    assert layer.weight is not None
    out, inner, kernel_h, kernel_w = layer.weight.shape
    _, height, width = given.shape
    top, left, _, _ = layer.padding
    weight = source.weight(number, layer, "w")
    result = source.store(
        made, f"(o * {made.shape[1]} + y) * {made.shape[2]} + x", _requantize(source, number, layer, "o")
    )
    first = f"(o / {out // layer.groups} * {inner} + i)" if layer.groups > 1 else "i"
    read = source.meaning(given, "in", f"({first} * {height} + iy) * {width} + ix")
    _function(source, number, layer, f"""\
    for (long o = 0; o < {out}; o++) {{
        for (long y = 0; y < {made.shape[1]}; y++) {{
            for (long x = 0; x < {made.shape[2]}; x++) {{
                int_least32_t acc = 0;
                for (long i = 0; i < {inner}; i++) {{
                    for (long ky = 0; ky < {kernel_h}; ky++) {{
                        const long iy = y * {layer.stride[0]} + {times("ky", layer.dilation[0])} - {top};
                        if (iy < 0 || iy >= {height}) {{
                            continue;
                        }}
                        for (long kx = 0; kx < {kernel_w}; kx++) {{
                            const long ix = x * {layer.stride[1]} + {times("kx", layer.dilation[1])} - {left};
                            if (ix < 0 || ix >= {width}) {{
                                continue;
                            }}
                            const long w = ((o * {inner} + i) * {kernel_h} + ky) * {kernel_w} + kx;
                            acc += {weight} * {read};
                        }}
                    }}
                }}
                {result}
            }}
        }}
    }}
""")  # fmt: skip


def _emit_linear(source: _Source, number: int, layer: Layer) -> None:
    tensors = source.container.tensors
    given, made = tensors[layer.inputs[0]], tensors[layer.output]
    weight = source.weight(number, layer, f"o * {given.size} + i")
    result = source.store(made, "o", _requantize(source, number, layer, "o"))
    _function(source, number, layer, f"""\
    for (long o = 0; o < {made.size}; o++) {{
        int_least32_t acc = 0;
        for (long i = 0; i < {given.size}; i++) {{
            acc += {weight} * {source.meaning(given, "in", "i")};
        }}
        {result}
    }}
""")  # fmt: skip


def _emit_sum_pool(source: _Source, number: int, layer: Layer) -> None:
    tensors = source.container.tensors
    given, made = tensors[layer.inputs[0]], tensors[layer.output]
    area = given.size // given.shape[0]
    result = source.store(made, "c", _requantize(source, number, layer, "c"))
    _function(source, number, layer, f"""\
    for (long c = 0; c < {made.size}; c++) {{
        int_least32_t acc = 0;
        for (long i = c * {area}; i < (c + 1) * {area}; i++) {{
            acc += {source.meaning(given, "in", "i")};
        }}
        {result}
    }}
""")  # fmt: skip


def _emit_add(source: _Source, number: int, layer: Layer) -> None:
    tensors = source.container.tensors
    left, right = (tensors[at] for at in layer.inputs)
    made = tensors[layer.output]
    area = made.size // made.shape[0]
    reads = source.meaning(left, "left", "i"), source.meaning(right, "right", "i")
    result = source.store(made, "i", _requantize(source, number, layer, "c"))
    _function(source, number, layer, f"""\
    for (long c = 0; c < {made.shape[0]}; c++) {{
        for (long i = c * {area}; i < (c + 1) * {area}; i++) {{
            const int_least32_t acc = (int_least32_t){reads[0]} + {reads[1]};
            {result}
        }}
    }}
""")  # fmt: skip


def _emit_multiply(source: _Source, number: int, layer: Layer) -> None:
    tensors = source.container.tensors
    left, right = (tensors[at] for at in layer.inputs)
    made = tensors[layer.output]
    area = made.size // made.shape[0]
    reads = source.meaning(left, "left", "i"), source.meaning(right, "right", "i" if right.shape == left.shape else "c")
    result = source.store(made, "i", _requantize(source, number, layer, "c"))
    _function(source, number, layer, f"""\
    for (long c = 0; c < {made.shape[0]}; c++) {{
        for (long i = c * {area}; i < (c + 1) * {area}; i++) {{
            const int_least32_t acc = (int_least32_t){reads[0]} * {reads[1]};
            {result}
        }}
    }}
""")  # fmt: skip


def _emit_add_float(source: _Source, number: int, layer: Layer) -> None:
    """Every step is a statement of its own, so that no compiler fuses two of them."""
    tensors = source.container.tensors
    left, right = (tensors[at] for at in layer.inputs)
    made = tensors[layer.output]
    source.use("clip", "nearest_float")
    zero = made.zero_point
    low, high = layer.low - zero, layer.high - zero
    result = source.store(made, "i", f"clip(nearest_float(level) + {zero}, {layer.low}, {layer.high})")
    _function(source, number, layer, f"""\
    for (long i = 0; i < {made.size}; i++) {{
        const float one = (float){source.meaning(left, "left", "i")} * {float_literal(left.scale)};
        const float other = (float){source.meaning(right, "right", "i")} * {float_literal(right.scale)};
        const float sum = one + other;
        float level = sum / {float_literal(made.scale)};
        level = level > {low}.0F ? level < {high}.0F ? level : {high}.0F : {low}.0F;
        {result}
    }}
""")  # fmt: skip


def _emit_concat(source: _Source, number: int, layer: Layer) -> None:
    tensors = source.container.tensors
    left, right = (tensors[at] for at in layer.inputs)
    made = tensors[layer.output]
    stores = (
        source.store(made, "i", source.read(left, "left", "i")),
        source.store(made, f"{left.size} + i", source.read(right, "right", "i")),
    )
    _function(source, number, layer, f"""\
    for (long i = 0; i < {left.size}; i++) {{
        {stores[0]}
    }}
    for (long i = 0; i < {right.size}; i++) {{
        {stores[1]}
    }}
""")  # fmt: skip


def _emit_take(source: _Source, number: int, layer: Layer) -> None:
    """Each number of the result from its place; a place of -1 is a zero."""
    tensors = source.container.tensors
    given, made = tensors[layer.inputs[0]], tensors[layer.output]
    type_ = "int_least16_t" if index_bytes(layer) == 2 else "int_least32_t"
    source.constants.append(array(type_, f"index_{number}", _values(layer.index)))
    read = source.read(given, "in", f"index_{number}[i]")
    if min(_values(layer.index)) < 0:
        read = f"index_{number}[i] < 0 ? {given.zero_point} : {read}"
    _function(source, number, layer, f"""\
    for (long i = 0; i < {made.size}; i++) {{
        const int value = {read};
        {source.store(made, "i", "value")}
    }}
""")  # fmt: skip


def times(name: str, gap: int) -> str:
    """A place of the kernel times the dilation, in C."""
    return name if gap == 1 else f"{name} * {gap}"


def _emit_max_pool(source: _Source, number: int, layer: Layer) -> None:
    tensors = source.container.tensors
    given, made = tensors[layer.inputs[0]], tensors[layer.output]
    channels, height, width = given.shape
    top, left, _, _ = layer.padding
    read = source.read(given, "in", f"(c * {height} + iy) * {width} + ix")
    result = source.store(made, f"(c * {made.shape[1]} + y) * {made.shape[2]} + x", "best")
    _function(source, number, layer, f"""\
    for (long c = 0; c < {channels}; c++) {{
        for (long y = 0; y < {made.shape[1]}; y++) {{
            for (long x = 0; x < {made.shape[2]}; x++) {{
                int best = {-128 if given.dtype == "int8" else 0};
                for (long ky = 0; ky < {layer.kernel[0]}; ky++) {{
                    for (long kx = 0; kx < {layer.kernel[1]}; kx++) {{
                        const long iy = y * {layer.stride[0]} + ky - {top};
                        const long ix = x * {layer.stride[1]} + kx - {left};
                        if (iy >= 0 && iy < {height} && ix >= 0 && ix < {width}) {{
                            const int value = {read};
                            best = value > best ? value : best;
                        }}
                    }}
                }}
                {result}
            }}
        }}
    }}
""")  # fmt: skip


def _emit_table(source: _Source, number: int, layer: Layer) -> None:
    tensors = source.container.tensors
    given, made = tensors[layer.inputs[0]], tensors[layer.output]
    source.constants.append(array("int_least16_t", f"table_{number}", _values(layer.entries)))
    index = source.read(given, "in", "i") + (" + 128" if given.dtype == "int8" else "")
    _function(source, number, layer, f"""\
    for (long i = 0; i < {made.size}; i++) {{
        {source.store(made, "i", f"table_{number}[{index}]")}
    }}
""")  # fmt: skip


def _emit_flatten(source: _Source, number: int, layer: Layer) -> None:
    source.calls.append(f"{title(source.container, layer)[:-3]}: the same bytes */")


def _emit_dequantize(source: _Source, number: int, layer: Layer) -> None:
    tensors = source.container.tensors
    given = tensors[layer.inputs[0]]
    for field, tensor in output_fields(source.container).values():
        if tensor is tensors[layer.output]:
            read = source.meaning(given, f"({source.pointer(given)})", "i")
            source.calls += [
                title(source.container, layer),
                f"for (long i = 0; i < {given.size}; i++) {{",
                f"    outputs->{field}[i] = (float){read} * {float_literal(layer.scale)};",
                "}",
            ]


def _copy_outputs(source: _Source) -> None:
    for field, tensor in output_fields(source.container).values():
        if tensor.dtype != "float32":
            read = source.read(tensor, f"({source.pointer(tensor)})", "i")
            source.calls += [
                f"for (long i = 0; i < {tensor.size}; i++) {{",
                f"    outputs->{field}[i] = ({_c_type(tensor)}){read};",
                "}",
            ]


_EMITTERS = {
    "quantize": _emit_quantize,
    "quantize_linear": _emit_quantize_linear,
    "add_float": _emit_add_float,
    "conv": _emit_conv,
    "linear": _emit_linear,
    "sum_pool": _emit_sum_pool,
    "add": _emit_add,
    "multiply": _emit_multiply,
    "concat": _emit_concat,
    "take": _emit_take,
    "reshape": _emit_flatten,
    "max_pool": _emit_max_pool,
    "table": _emit_table,
    "flatten": _emit_flatten,
    "dequantize": _emit_dequantize,
}
assert set(REQUANTIZED) <= set(_EMITTERS)
