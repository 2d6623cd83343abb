"""Float program -> the C files around it: vectors with a known-answer test, and a runner for the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowlab.compiler.agreement import TOLERANCE
from flowlab.compiler.emit_c import array, float_literal, text_literal
from flowlab.compiler.emit_float_c import output_fields
from flowlab.compiler.emit_runner import runner_main
from flowlab.compiler.float_plan import FloatPlan, elements
from flowlab.errors import ProgramError

if TYPE_CHECKING:
    from flowlab.contracts import Golden


def emit_float_vectors(plan: FloatPlan, golden: Golden) -> dict[str, str]:
    """``test_vector.c`` and ``test_vector.h``: the golden vectors, with the raw windows behind them.

    Raises:
        ProgramError: if the vectors lack an output of the program.
    """
    count = len(golden.features)
    tables = {"raw_input_test": golden.windows, "model_features_test": golden.features}
    for name, (field, _) in output_fields(plan).items():
        if name not in golden.outputs:
            raise ProgramError(f"golden vectors lack the output '{name}'; run validate again")
        tables[f"golden_{field}"] = golden.outputs[name]
    rows = {name: np.asarray(values, np.float32).reshape(count, -1) for name, values in tables.items()}
    declared = "\n".join(f"extern const float {name}[{count} * {found.shape[1]}];" for name, found in rows.items())
    header = f"#ifndef TEST_VECTOR_H\n#define TEST_VECTOR_H\n\n#define TEST_VECTORS {count}\n\n{declared}\n\n#endif\n"
    arrays = [
        array(
            "float", name, [float_literal(float(x)) for x in found.ravel()], shape=f"{count} * {found.shape[1]}"
        ).removeprefix("static ")
        for name, found in rows.items()
    ]
    return {"test_vector.h": header, "test_vector.c": '#include "test_vector.h"\n\n' + "\n".join(arrays)}


def emit_float_main(plan: FloatPlan) -> dict[str, str]:
    """``main.c``: runs every golden vector, holds it by the float law, prints pass or fail, returns 0 or 1."""
    checks = "\n".join(
        f"        wrong += breaks_the_law(outputs.{field}, golden_{field} + v * {size}, {size});"
        for field, size in _fields(plan)
    )
    return {"main.c": f"""\
/* Known-answer test: outputs within {TOLERANCE:g} of the vector's largest, and the same class where it is clear. */
#include "model.h"
#include "test_vector.h"

#include <stdio.h>

static long largest(const float *values, long count)
{{
    long best = 0;
    for (long i = 1; i < count; i++) {{
        best = values[i] > values[best] ? i : best;
    }}
    return best;
}}

static float size_of(float value)
{{
    return value < 0.0F ? -value : value;
}}

static int breaks_the_law(const float *found, const float *golden, long count)
{{
    const long best = largest(golden, count), other = largest(found, count);
    float limit = 0.0F;
    for (long i = 0; i < count; i++) {{
        limit = size_of(golden[i]) > limit ? size_of(golden[i]) : limit;
    }}
    limit *= {float_literal(TOLERANCE)};
    for (long i = 0; i < count; i++) {{
        if (!(size_of(found[i] - golden[i]) <= limit)) {{
            return 1;
        }}
    }}
    for (long i = 0; i < count; i++) {{
        if (i != best && golden[best] - golden[i] <= limit) {{
            return 0; /* a tie */
        }}
    }}
    return best != other;
}}

int main(void)
{{
    static model_outputs outputs;
    long failed = 0;

    for (long v = 0; v < TEST_VECTORS; v++) {{
        long wrong = 0;
        model_run(model_features_test + v * MODEL_FEATURES, &outputs);
{checks}
        failed += wrong != 0;
    }}
    printf("%s: %ld of %ld vectors\\n", failed ? "fail" : "pass", TEST_VECTORS - failed, (long)TEST_VECTORS);
    return failed ? 1 : 0;
}}
"""}  # fmt: skip


def _fields(plan: FloatPlan) -> list[tuple[str, int]]:
    return [(field, elements(plan.graph.type_of(value).shape)) for field, value in output_fields(plan).values()]


def emit_float_runner(plan: FloatPlan) -> dict[str, str]:
    """``host_runner.c``: float features from a file, float outputs to a file; includes ``model.c``.

    Called and read as the runner of an integer program (`flowlab.compiler.emit_runner`); it keeps no layer checksums.
    """
    layout = [
        f'    puts("output float32 {",".join(map(str, plan.graph.type_of(value).shape))} " {text_literal(name)});'
        for name, (_, value) in output_fields(plan).items()
    ]
    writes = "\n".join(
        f"        fwrite(outputs.{field}, sizeof(float), {size}, results);" for field, size in _fields(plan)
    )
    loop = f"        model_run(features, &outputs);\n{writes}"
    return {"host_runner.c": f"""\
/* Runs the float program on the host: features from a file, outputs to a file. */
#include <stdio.h>

#include "model.c"

{runner_main(layout, "    static model_outputs outputs;", loop)}"""}  # fmt: skip
