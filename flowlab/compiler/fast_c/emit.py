"""Program -> C for one kind of core: ``model.c`` and ``model.h``, layer by layer as fast as the core allows.

Same entry points and the same integers as the plain form of `flowlab.compiler.emit_c`, which any C99 compiler takes.
This one needs a ``char`` of 8 bits, two's complement, shifts that keep the sign, and gcc or clang. Without the DSP
instructions that it is made for it computes the same in plain C, so that it runs on the host too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowlab.compiler import emit_c
from flowlab.compiler.fast_c import dots, rest, windows
from flowlab.compiler.fast_c.layout import plan
from flowlab.compiler.fast_c.overlap import turns
from flowlab.compiler.fast_c.source import Source, Style
from flowlab.compiler.fast_c.support import HELPERS
from flowlab.compiler.fast_c.task import Task
from flowlab.compiler.lower import constant_bytes
from flowlab.compiler.program import RENAMES, Container, Layer
from flowlab.errors import ProgramError

if TYPE_CHECKING:
    from flowlab.contracts import Core

BYTE = 8  # bits
_TYPES = {
    "pairs": """\
typedef int16_t MAY_ALIAS value; /* an activation */
typedef uint32_t MAY_ALIAS word; /* two of them */
typedef uint64_t __attribute__((may_alias, aligned(4))) words; /* four */
""",
    "quads": """\
typedef uint8_t value; /* an activation; signed ones are read as such */
typedef uint32_t MAY_ALIAS word; /* four of them, or four weights */
""",
    "bytes": "typedef uint8_t value; /* an activation; signed ones are read as such */\n",
}
_HEAD = """\
#include "model.h"

#if defined(__ARM_FEATURE_DSP) || defined(__ARM_FEATURE_SAT)
#include <arm_acle.h>
#endif

#define MAY_ALIAS __attribute__((may_alias))
#define ALIGNED __attribute__((aligned(8)))
"""


@dataclass(frozen=True)
class FastC:
    """``model.c`` and ``model.h`` by file name; bytes of activations, and of constants by layer."""

    texts: Mapping[str, str]
    arena: int
    constants: Mapping[str, int]


def emit(container: Container, style: Style, *, skip_normalize: bool) -> FastC:
    """The C of a program.

    Args:
        container: the program.
        style: `flowlab.compiler.fast_c.source.Style`.
        skip_normalize: True where the device's entry point takes the quantized input, False where it takes features.

    Raises:
        ProgramError: where an accumulator could leave 32 bits, or a product 64; for another tool's arithmetic.
    """
    if not container.plain:
        raise ProgramError("these kernels have no zero points and round down alone")
    size = 2 if style == "pairs" else 1
    apart = Source(container, plan(container, size), style)
    layout = plan(container, size, turns(apart))
    source = Source(container, layout, style)
    plain = emit_c.InputStep(container)
    rest.load_input(source, container.first().output)
    for number, layer in enumerate(container.layers):
        _layer(source, number, layer)
    rest.outputs(source)
    arena = f"static uint32_t arena[{-(-layout.arena // 4)}];\n"
    helpers = [text for name, text in HELPERS.items() if name in source.helpers]
    if source.widest:
        arena += (
            f"\n#define WIDEST {source.widest}\n"
            f"#define SCALE(sum, channel) {'(sum) * (channel)->multiplier' if source.multiplied else '(sum)'}\n"
            f"#define OFFSET(layer) {'(layer)->offset' if source.moved else '0'}\n"
            f"#define LIMIT(level, high) {'((level) > (high) ? (high) : (level))' if source.limited else '(level)'}\n"
        )
    pieces = [
        _HEAD + emit_c.NO_TRACE + _TYPES[style] + arena,
        *helpers,
        *plain.constants,
        *source.constants,
        plain.text,
        *source.functions,
        emit_c.entry_point(source.calls, skip_normalize),
    ]
    texts = {"model.h": emit_c.header(container, skip_normalize, layout.arena), "model.c": "\n".join(pieces)}
    step = container.first()
    return FastC(texts, layout.arena, {step.name: constant_bytes(step), **source.flash})


def style_for(core: Core, kernels: str) -> Style | None:
    """Which kernels suit a core, or None where the plain C is for it.

    Args:
        core: its ``char`` and its instructions decide; one that no open compiler builds for gets plain C.
        kernels: ``speed``, ``size`` or ``plain``. Without DSP instructions nothing is smaller than plain C, which
            keeps weights of 4 and 2 bits packed.
    """
    if kernels == "plain" or core.char_bits != BYTE or not core.cross_flags:
        return None
    if kernels == "size":
        return "quads" if core.has_dsp else None
    return "pairs" if core.has_dsp else "bytes"


def _layer(source: Source, number: int, layer: Layer) -> None:
    if layer.op in ("quantize", "dequantize"):
        return  # the input step is the plain one; what is multiplied by a scale is when it leaves
    title = emit_c.title(source.container, layer)
    made = source.frame(layer.output)
    if layer.op == "conv":
        window = windows.convolution(layer, source.frame(layer.inputs[0]), made)
        dots.emit(Task(source, number, layer, window, title))
    elif layer.op == "linear":
        window = windows.fully_connected(layer, source.frame(layer.inputs[0]))
        dots.emit(Task(source, number, layer, window, title))
    else:
        rest.EMITTERS[layer.op](source, number, layer, title)
    if layer.op not in RENAMES:
        tensor = source.tensor(layer.output)
        sizes = f"{tensor.channels}, {made.height}, {made.width}, 1, {made.by_row}, {made.by_column}"
        name = emit_c.text_literal(layer.name)
        source.calls.append(f"FLOWLAB_TRACE({name}, ({source.pointer(layer.output)}), {sizes});")
