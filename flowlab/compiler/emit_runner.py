"""Program -> the C files around it: vectors, a known-answer test, and what runs it on the host and on a core."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flowlab.compiler.emit_c import array, float_literal, output_fields, text_literal
from flowlab.compiler.program import Container

if TYPE_CHECKING:
    from flowlab.contracts import Core

PORT_AT = 0x7800_0000  # where the emulated core has the port of traces

_CRC = """\
static uint_least32_t crc;

static void crc_byte(unsigned value)
{
    crc ^= value & 255u;
    for (int bit = 0; bit < 8; bit++) {
        crc = (crc & 1u) ? (crc >> 1) ^ 0xEDB88320u : crc >> 1;
    }
}
"""

_CRC_WORD = """\
static void crc_word(int_least32_t word)
{
    for (int byte = 0; byte < 4; byte++) {
        crc_byte((unsigned)((uint_least32_t)word >> (8 * byte)));
    }
}
"""
_FLOAT_BITS = """
static int_least32_t float_bits(float number)
{
    union {
        float number;
        int_least32_t bits;
    } both;
    both.number = number;
    return both.bits;
}
"""
DIGITS = 16  # of the source's hash that a board prints


def emit_vectors(container: Container, windows: NDArray[np.float32]) -> dict[str, str]:
    """``test_vector.c`` and ``test_vector.h``: the golden vectors of a program, with the raw windows behind them.

    Args:
        container: a program with golden vectors.
        windows: float32 (vector, channel, length).
    """
    golden = container.golden
    assert golden is not None
    count = len(golden.features)
    raw = windows.reshape(count, -1)
    tables = [("float", "raw_input_test", raw.shape[1]), ("float", "model_features_test", golden.features.shape[1])]
    tables.append(("int_least8_t", "model_input_test", golden.inputs.shape[1]))
    bodies: list[Iterable[int | str]] = [
        [float_literal(float(x)) for x in raw.ravel()],
        [float_literal(float(x)) for x in golden.features.ravel()],
        golden.inputs.ravel().tolist(),
    ]
    for (field, tensor), words in zip(output_fields(container).values(), golden.outputs, strict=True):
        is_float = tensor.dtype == "float32"
        tables.append(("float" if is_float else "int_least16_t", f"golden_{field}", tensor.size))
        values = words.astype(np.int32)
        bodies.append([float_literal(float(x)) for x in values.view(np.float32).ravel()] if is_float else
                      values.ravel().tolist())  # fmt: skip
    declared = "\n".join(f"extern const {kind} {name}[{count} * {size}];" for kind, name, size in tables)
    header = (
        f"#ifndef TEST_VECTOR_H\n#define TEST_VECTOR_H\n\n#include <stdint.h>\n\n#define TEST_VECTORS {count}\n\n"
        f"{declared}\n\n#endif\n"
    )
    arrays = [
        array(kind, name, body, shape=f"{count} * {size}").removeprefix("static ")
        for (kind, name, size), body in zip(tables, bodies, strict=True)
    ]
    return {"test_vector.h": header, "test_vector.c": '#include "test_vector.h"\n\n' + "\n".join(arrays)}


def emit_main(container: Container, *, skip_normalize: bool) -> dict[str, str]:
    """``main.c``: runs every golden vector, prints each one's checksum and pass or fail, returns 0 or 1.

    What it prints is what `flowlab check-device` compares: the checksum is a CRC-32 of the outputs as little-endian
    words of 32 bits, floats by their bits.
    """
    bits = {"float32": "float_bits"}
    words = "\n".join(
        f"        for (long i = 0; i < {tensor.size}; i++) {{\n"
        f"            crc_word({bits.get(tensor.dtype, '(int_least32_t)')}(outputs.{field}[i]));\n"
        "        }"
        for field, tensor in output_fields(container).values()
    )
    floats = any(tensor.dtype == "float32" for _, tensor in output_fields(container).values())
    checks = "\n".join(
        f"        for (long i = 0; i < {tensor.size}; i++) {{\n"
        f"            wrong += outputs.{field}[i] != golden_{field}[v * {tensor.size} + i];\n        }}"
        for field, tensor in output_fields(container).values()
    )
    run = "model_run(input, &outputs);" if skip_normalize else "model_run(features, &outputs);"
    return {"main.c": f"""\
/* Known-answer test: the program must give the golden outputs, integer by integer. */
#include "model.h"
#include "test_vector.h"

#include <stdio.h>

{_CRC}
{_CRC_WORD}{_FLOAT_BITS if floats else ""}
int main(void)
{{
    static int_least8_t input[MODEL_INPUTS];
    static model_outputs outputs;
    long failed = 0;

    printf("network %s, %ld vectors\\n", "{container.source_sha256[:DIGITS]}", (long)TEST_VECTORS);
    for (long v = 0; v < TEST_VECTORS; v++) {{
        const float *features = model_features_test + v * MODEL_FEATURES;
        long wrong = 0;
        model_quantize_input(features, input);
        for (long i = 0; i < MODEL_INPUTS; i++) {{
            wrong += input[i] != model_input_test[v * MODEL_INPUTS + i];
        }}
        {run}
{checks}
        crc = 0xFFFFFFFFu;
{words}
        printf("vector %ld crc %08lx\\n", v, (unsigned long)((crc ^ 0xFFFFFFFFu) & 0xFFFFFFFFu));
        failed += wrong != 0;
    }}
    printf("%s: %ld of %ld vectors\\n", failed ? "fail" : "pass", TEST_VECTORS - failed, (long)TEST_VECTORS);
    return failed ? 1 : 0;
}}
"""}  # fmt: skip


def emit_runner(container: Container, *, skip_normalize: bool) -> dict[str, str]:
    """``host_runner.c``: float features from a file, outputs and layer CRCs to a file; includes ``model.c``.

    ``host_runner`` alone prints the layout: a line ``output NAME TYPE AXIS...`` or ``layer NAME``, names quoted as C
    strings. ``host_runner FEATURES RESULTS`` reads float32 vectors and writes, for each, the outputs (int32 or
    float32) and then one uint32 CRC a layer, all in the machine's byte order.
    """
    layout = [
        f'    puts("output {tensor.dtype} {",".join(map(str, tensor.shape))} " {text_literal(name)});'
        for name, (_, tensor) in output_fields(container).items()
    ]
    layout += [f'    puts("layer " {text_literal(layer.name)});' for layer in container.traced()]
    writes = "\n".join(
        f"        for (long i = 0; i < {tensor.size}; i++) {{\n"
        f"            const {'float' if tensor.dtype == 'float32' else 'int32_t'} value = outputs.{field}[i];\n"
        "            fwrite(&value, sizeof value, 1, results);\n        }"
        for field, tensor in output_fields(container).values()
    )
    run = "model_run(input, &outputs);" if skip_normalize else "model_run(features, &outputs);"
    quantize = "        model_quantize_input(features, input);\n" if skip_normalize else ""
    buffer = "    static int_least8_t input[MODEL_INPUTS];\n" if skip_normalize else ""
    traced = max(1, len(container.traced()))
    loop = f"""\
        layers = 0;
        memset(&outputs, 0, sizeof outputs);
{quantize}        {run}
{writes}
        fwrite(layer_crc, sizeof layer_crc[0], {len(container.traced())}, results);"""
    return {"host_runner.c": f"""\
/* Runs the program on the host: features from a file, outputs and a CRC-32 of each layer's output to a file. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

{_CRC}
static uint32_t layer_crc[{traced}];
static int layers;

#define FLOWLAB_TRACE(node, values, channels, rows, columns, by_channel, by_row, by_column) \\
    do {{ \\
        crc = 0xFFFFFFFFu; \\
        for (long c = 0; c < (channels); c++) {{ \\
            for (long y = 0; y < (rows); y++) {{ \\
                for (long x = 0; x < (columns); x++) {{ \\
                    crc_byte((unsigned)(values)[c * (by_channel) + y * (by_row) + x * (by_column)]); \\
                }} \\
            }} \\
        }} \\
        if (layers < {traced}) {{ \\
            layer_crc[layers++] = crc ^ 0xFFFFFFFFu; \\
        }} \\
    }} while (0)

#include "model.c"

{runner_main(layout, f"{buffer}    static model_outputs outputs;", loop)}"""}  # fmt: skip


def emit_device(
    container: Container,
    core: Core,
    memory: Mapping[str, int],
    *,
    skip_normalize: bool,
    optimize: str = "-O3",
    kernels: str = "",
) -> dict[str, str]:
    """``device_runner.c`` and ``device.json``: what runs the program on an emulated core.

    The emulator calls ``device_quantize``, ``device_run`` and ``device_results`` with the memory that it lends; a
    build with ``FLOWLAB_TRACED`` writes to a port where each layer's values lie.

    Args:
        container: the program.
        core: whose compiler flags, emulator model and instructions go into ``device.json``.
        memory: the device's bytes of ``flash`` and ``ram``; a region that is missing is large.
        skip_normalize: as for `flowlab.compiler.emit_c.emit_c`.
        optimize: what compilers are asked for.
        kernels: which ones ``model.c`` has, for people.
    """
    fields = output_fields(container)
    writes = "\n".join(
        f"    for (long i = 0; i < {tensor.size}; i++) {{\n        *results++ = "
        + (f"float_bits(outputs.{field}[i]);" if tensor.dtype == "float32" else f"outputs.{field}[i];")
        + "\n    }"
        for field, tensor in fields.values()
    )
    run = "model_run(input, &outputs);" if skip_normalize else "model_run(features, &outputs);"
    buffer = "static int_least8_t input[MODEL_INPUTS];\n" if skip_normalize else ""
    quantize = "model_quantize_input(features, input);" if skip_normalize else "(void)features;"
    port = "\n".join(
        f"        port[{at}] = (uint32_t)(uintptr_t){value}; \\"
        for at, value in enumerate((
            "&(values)[0]", "sizeof (values)[0]", "(channels)", "(rows)", "(columns)",
            "(by_channel)", "(by_row)", "(by_column)",
        ))
    )  # fmt: skip
    source = f"""\
/* Runs the program on an emulated core, which calls these functions and lends the memory behind their pointers. */
#include <stdint.h>

#ifdef FLOWLAB_TRACED
static volatile uint32_t *const port = (volatile uint32_t *){PORT_AT:#x}u;
#define FLOWLAB_TRACE(node, values, channels, rows, columns, by_channel, by_row, by_column) \\
    do {{ \\
        __asm__ volatile("" ::: "memory"); /* what a compiler keeps in registers lies in memory now */ \\
{port}
        port[8] = 0u; \\
        __asm__ volatile("" ::: "memory"); /* and nothing of a later layer does before the emulator has looked */ \\
    }} while (0)
#endif

#include "model.c"

{buffer}static model_outputs outputs;

static inline int32_t float_bits(float value)
{{
    union {{
        float number;
        int32_t bits;
    }} both;
    both.number = value;
    return both.bits;
}}

/* FLOWLAB_BARE: the network alone, to see how large it is. */
#ifndef FLOWLAB_BARE
__attribute__((used)) void device_quantize(const float *features)
{{
    {quantize}
}}
#endif

__attribute__((used)) void device_run(const float *features)
{{
    (void)features;
    {run}
}}

#ifndef FLOWLAB_BARE
__attribute__((used)) void device_results(int32_t *results)
{{
    (void)float_bits;
{writes}
}}
#endif

/* Keeps what the emulator calls; never run. */
void device_start(void)
{{
    device_run(0);
#ifndef FLOWLAB_BARE
    device_quantize(0);
    device_results(0);
#endif
}}
"""
    described = {
        "core": core.name,
        "emulated_as": core.emulated_as,
        "instructions": list(core.instructions),
        "flags": {name: list(flags) for name, flags in core.cross_flags.items()},
        "memory": dict(memory),
        "optimize": optimize,
        "kernels": kernels,
        "port_at": PORT_AT,
        "features": container.tensors[container.first().inputs[0]].size,
        "outputs": [[name, tensor.dtype, list(tensor.shape)] for name, (_, tensor) in fields.items()],
        "layers": [layer.name for layer in container.traced()],
    }
    return {"device_runner.c": source, "device.json": json.dumps(described, indent=1, sort_keys=True) + "\n"}


def runner_main(layout: Sequence[str], declarations: str, loop: str) -> str:
    """C of a runner: print the layout, or feed float32 vectors from the first file to ``loop``, which fills the second.

    ``loop`` sees ``features``, ``results`` and what ``declarations`` declare.
    """
    return f"""\
static void print_layout(void)
{{
{chr(10).join(layout)}
}}

int main(int argc, char **argv)
{{
    static float features[MODEL_FEATURES];
{declarations}
    FILE *given, *results;
    size_t found;

    if (argc != 3) {{
        print_layout();
        return 0;
    }}
    given = fopen(argv[1], "rb");
    results = given ? fopen(argv[2], "wb") : NULL;
    if (!given || !results) {{
        fputs("cannot open the files\\n", stderr);
        return 2;
    }}
    while ((found = fread(features, sizeof(float), MODEL_FEATURES, given)) == MODEL_FEATURES) {{
{loop}
    }}
    if (found != 0) {{
        fputs("the features are no whole vectors of this network\\n", stderr);
        return 4;
    }}
    fclose(given);
    return fclose(results) ? 3 : 0;
}}
"""
