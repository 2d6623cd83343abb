"""Float graph -> C99: one file a person can read, no heap, float32 throughout.

Order of operations, which is all that decides the last bits: a sum runs over input channels, kernel rows and kernel
columns in this order, from zero, and the bias comes last; an average is the sum in order, divided by the area; a batch
norm is ``x * scale + shift`` with constants that flowlab computed. Compile without contraction of products and sums
(``-ffp-contract=off``) to get the same bits everywhere that the C library's functions are the same.
Layout is (channel, height, width). ``FLOWLAB_TRACE(node, values, count)`` compiles to nothing unless it is defined.
"""

from __future__ import annotations

from collections.abc import Callable

from flowlab.compiler.emit_c import array, float_literal, identifier, text_literal, times
from flowlab.compiler.float_plan import FloatPlan, constants, elements
from flowlab.compiler.infer import dilation_of, integer, integers
from flowlab.compiler.ir import Node
from flowlab.errors import ProgramError

EXPRESSIONS = {
    "sigmoid": "1.0F / (1.0F + expf(-x))",
    "tanh": "tanhf(x)",
    "silu": "x / (1.0F + expf(-x))",
    "gelu": "0.5F * x * (1.0F + erff(x * 0x1.6a09e6p-1F))",  # 1 / sqrt 2
    "relu6": "x < 0.0F ? 0.0F : x > 6.0F ? 6.0F : x",
    "hardtanh": "x < {low} ? {low} : x > {high} ? {high} : x",
    "leaky_relu": "x > 0.0F ? x : {alpha} * x",
    "elu": "x > 0.0F ? x : {alpha} * expm1f(x)",
    "softplus": "softplus(x)",
    "softsign": "x / (1.0F + fabsf(x))",
    "mish": "x * tanhf(softplus(x))",
    "hardsigmoid": "hard_sigmoid(x)",
    "hardswish": "x * hard_sigmoid(x)",
}
"""What an activation function computes of ``x``, by its name in the graph."""
MATH = ("expf", "tanhf", "erff", "expm1f", "log1pf", "fabsf")  # the functions of math.h that stand in them
DEFAULTS = {"leaky_relu": {"alpha": 0.01}, "elu": {"alpha": 1.0}, "hardtanh": {"low": -1.0, "high": 1.0}}

_HELPERS = {
    "softplus": """\
/* log(1 + e^x) without overflow. */
static float softplus(float x)
{
    return (x > 0.0F ? x : 0.0F) + log1pf(expf(-fabsf(x)));
}
""",
    "hard_sigmoid": """\
static float hard_sigmoid(float x)
{
    const float line = x / 6.0F + 0.5F;
    return line < 0.0F ? 0.0F : line > 1.0F ? 1.0F : line;
}
""",
}


class _Source:
    """Collects constants, functions and the calls of ``model_run``."""

    def __init__(self, plan: FloatPlan) -> None:
        self.plan = plan
        self.constants: list[str] = []
        self.functions: list[str] = []
        self.calls: list[str] = []

    def shape(self, value: str) -> tuple[int, ...]:
        return self.plan.graph.type_of(value).shape

    def pointer(self, value: str) -> str:
        return f"arena + {self.plan.offsets[value]}" if value in self.plan.offsets else "features"

    def constant(self, number: int, node: Node, key: str) -> str:
        name = f"{key}_{number}"
        values = constants(node)[key].ravel()
        self.constants.append(array("float", name, [float_literal(float(value)) for value in values]))
        return name

    def function(self, number: int, node: Node, body: str) -> None:
        names = ("in",) if len(node.inputs) == 1 else ("left", "right")
        parameters = ", ".join(f"const float *{name}" for name in names)
        self.functions.append(
            f"{_title(self, node)}\nstatic void layer_{number}({parameters}, float *out)\n{{\n{body}}}\n"
        )
        arguments = [self.pointer(value) for value in (*node.inputs, node.name)]
        self.calls.append(f"layer_{number}({', '.join(arguments)});")
        count = elements(node.type.shape)
        self.calls.append(f"FLOWLAB_TRACE({text_literal(node.name)}, ({self.pointer(node.name)}), {count});")


def emit_float_c(plan: FloatPlan, source_sha256: str) -> dict[str, str]:
    """``model.c`` and ``model.h`` of a float program, by file name.

    Raises:
        ProgramError: naming the node that C has no form for, or a number that is not finite.
    """
    source = _Source(plan)
    for number, node in enumerate(plan.graph.nodes):
        emit = _EMITTERS.get(node.op)
        if emit is None:
            raise ProgramError(f"node '{node.name}': a float program has no operation '{node.op}'")
        emit(source, number, node)
    for field, value in output_fields(plan).values():
        source.calls += [
            f"for (long i = 0; i < {elements(source.shape(value))}; i++) {{",
            f"    outputs->{field}[i] = ({source.pointer(value)})[i];",
            "}",
        ]
    return {"model.h": _header(plan, source_sha256), "model.c": _body(source)}


def output_fields(plan: FloatPlan) -> dict[str, tuple[str, str]]:
    """For each output name its field in ``model_outputs`` and its value."""
    fields: dict[str, tuple[str, str]] = {}
    for name, value in plan.graph.outputs.items():
        field = identifier(name)
        if field in {known for known, _ in fields.values()}:
            raise ProgramError(f"outputs '{name}' and another one have one name in C: {field}")
        fields[name] = (field, value)
    return fields


# --- files --------------------------------------------------------------------------------------


def _shape(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def _title(source: _Source, node: Node) -> str:
    shapes = f"{_shape(source.shape(node.inputs[0]))} -> {_shape(node.type.shape)}"
    return f"/* {node.name.replace('*/', '* /')}: {node.op}, {shapes} */"


def _header(plan: FloatPlan, source_sha256: str) -> str:
    shapes = {field: plan.graph.type_of(value).shape for field, value in output_fields(plan).values()}
    fields = "\n".join(f"    float {field}[{elements(made)}]; /* {_shape(made)} */" for field, made in shapes.items())
    shape = plan.input.type.shape
    return f"""\
/* Made by flowlab from the float network with SHA-256 {source_sha256}. */
#ifndef MODEL_H
#define MODEL_H

#define MODEL_FEATURES {elements(shape)} /* float {_shape(shape)} */
#define MODEL_ARENA {max(1, plan.arena)} /* floats of activations */

typedef struct {{
{fields}
}} model_outputs;

/* The network, from float features to float outputs. Not reentrant: activations are static. */
void model_run(const float *features, model_outputs *outputs);

#endif
"""


def _body(source: _Source) -> str:
    functions = "\n".join(source.functions)
    helpers = [text for name, text in _HELPERS.items() if f"{name}(x)" in functions]
    uses_math = any(f"{name}(" in text for name in MATH for text in (functions, *helpers))
    calls = "\n".join(f"    {call}" for call in source.calls)
    pieces = [*source.constants, *helpers, functions]
    return (
        '#include "model.h"\n\n'
        + ("#include <math.h>\n\n" if uses_math else "")
        + ("#include <stdint.h>\n\n" if any("int_least32_t" in text for text in source.constants) else "")
        + "#ifndef FLOWLAB_TRACE\n#define FLOWLAB_TRACE(node, values, count) ((void)0)\n#endif\n\n"
        + ("static float arena[MODEL_ARENA];\n\n" if source.plan.arena else "")
        + "\n".join(piece for piece in pieces if piece)
        + f"\nvoid model_run(const float *features, model_outputs *outputs)\n{{\n{calls}\n}}\n"
    )


# --- layers -------------------------------------------------------------------------------------


def _with_bias(source: _Source, number: int, node: Node) -> str:
    return f"acc + {source.constant(number, node, 'bias')}[o]" if "bias" in node.constants else "acc"


def _conv(source: _Source, number: int, node: Node) -> None:
    out, inner, kernel_h, kernel_w = node.constants["weight"].shape
    _, height, width = source.shape(node.inputs[0])
    _, rows, columns = node.type.shape
    top, left, _, _ = integers(node, "padding", 4)
    down, across = integers(node, "stride", 2)
    groups = integer(node, "groups")
    high, wide = dilation_of(node)
    weight, result = source.constant(number, node, "weight"), _with_bias(source, number, node)
    first = f"(o / {out // groups} * {inner} + i)" if groups > 1 else "i"
    source.function(number, node, f"""\
    for (long o = 0; o < {out}; o++) {{
        for (long y = 0; y < {rows}; y++) {{
            for (long x = 0; x < {columns}; x++) {{
                float acc = 0.0F;
                for (long i = 0; i < {inner}; i++) {{
                    for (long ky = 0; ky < {kernel_h}; ky++) {{
                        const long iy = y * {down} + {times("ky", high)} - {top};
                        if (iy < 0 || iy >= {height}) {{
                            continue;
                        }}
                        for (long kx = 0; kx < {kernel_w}; kx++) {{
                            const long ix = x * {across} + {times("kx", wide)} - {left};
                            if (ix < 0 || ix >= {width}) {{
                                continue;
                            }}
                            const long w = ((o * {inner} + i) * {kernel_h} + ky) * {kernel_w} + kx;
                            acc += {weight}[w] * in[({first} * {height} + iy) * {width} + ix];
                        }}
                    }}
                }}
                out[(o * {rows} + y) * {columns} + x] = {result};
            }}
        }}
    }}
""")  # fmt: skip


def _linear(source: _Source, number: int, node: Node) -> None:
    out, inner = node.constants["weight"].shape
    weight, result = source.constant(number, node, "weight"), _with_bias(source, number, node)
    source.function(number, node, f"""\
    for (long o = 0; o < {out}; o++) {{
        float acc = 0.0F;
        for (long i = 0; i < {inner}; i++) {{
            acc += {weight}[o * {inner} + i] * in[i];
        }}
        out[o] = {result};
    }}
""")  # fmt: skip


def _average_pool(source: _Source, number: int, node: Node) -> None:
    channels, height, width = source.shape(node.inputs[0])
    area = height * width
    source.function(number, node, f"""\
    for (long c = 0; c < {channels}; c++) {{
        float sum = 0.0F;
        for (long i = c * {area}; i < (c + 1) * {area}; i++) {{
            sum += in[i];
        }}
        out[c] = sum / {area}.0F;
    }}
""")  # fmt: skip


def _max_pool(source: _Source, number: int, node: Node) -> None:
    _, height, width = source.shape(node.inputs[0])
    channels, rows, columns = node.type.shape
    top, left, _, _ = integers(node, "padding", 4)
    down, across = integers(node, "stride", 2)
    kernel_h, kernel_w = integers(node, "kernel", 2)
    source.function(number, node, f"""\
    for (long c = 0; c < {channels}; c++) {{
        for (long y = 0; y < {rows}; y++) {{
            for (long x = 0; x < {columns}; x++) {{
                float best = 0.0F;
                int seen = 0;
                for (long ky = 0; ky < {kernel_h}; ky++) {{
                    for (long kx = 0; kx < {kernel_w}; kx++) {{
                        const long iy = y * {down} + ky - {top};
                        const long ix = x * {across} + kx - {left};
                        if (iy >= 0 && iy < {height} && ix >= 0 && ix < {width}) {{
                            const float value = in[(c * {height} + iy) * {width} + ix];
                            best = !seen || value > best ? value : best;
                            seen = 1;
                        }}
                    }}
                }}
                out[(c * {rows} + y) * {columns} + x] = best;
            }}
        }}
    }}
""")  # fmt: skip


def _flatten(source: _Source, number: int, node: Node) -> None:
    source.calls.append(f"{_title(source, node)[:-3]}: the same numbers */")


def _each(source: _Source, number: int, node: Node, expression: str) -> None:
    source.function(number, node, f"""\
    for (long i = 0; i < {elements(node.type.shape)}; i++) {{
        const float x = in[i];
        out[i] = {expression};
    }}
""")  # fmt: skip


def _relu(source: _Source, number: int, node: Node) -> None:
    _each(source, number, node, "x > 0.0F ? x : 0.0F")


def _activation(source: _Source, number: int, node: Node) -> None:
    function = str(node.attributes["function"])
    if function not in EXPRESSIONS:
        raise ProgramError(f"node '{node.name}': a float program has no activation '{function}'")
    numbers = {
        key: float_literal(float(str(node.attributes.get(key, default))))
        for key, default in DEFAULTS.get(function, {}).items()
    }
    _each(source, number, node, EXPRESSIONS[function].format(**numbers))


def _batch_norm(source: _Source, number: int, node: Node) -> None:
    channels, area = node.type.shape[0], elements(node.type.shape[1:])
    scale, shift = (source.constant(number, node, key) for key in ("scale", "shift"))
    source.function(number, node, f"""\
    for (long c = 0; c < {channels}; c++) {{
        for (long i = c * {area}; i < (c + 1) * {area}; i++) {{
            const float product = in[i] * {scale}[c];
            out[i] = product + {shift}[c];
        }}
    }}
""")  # fmt: skip


def _add(source: _Source, number: int, node: Node) -> None:
    source.function(number, node, f"""\
    for (long i = 0; i < {elements(node.type.shape)}; i++) {{
        out[i] = left[i] + right[i];
    }}
""")  # fmt: skip


def _multiply(source: _Source, number: int, node: Node) -> None:
    left, right = (source.shape(name) for name in node.inputs)
    channels, area = left[0], elements(left[1:])
    source.function(number, node, f"""\
    for (long c = 0; c < {channels}; c++) {{
        for (long i = c * {area}; i < (c + 1) * {area}; i++) {{
            out[i] = left[i] * right[{"i" if left == right else "c"}];
        }}
    }}
""")  # fmt: skip


def _concat(source: _Source, number: int, node: Node) -> None:
    left, right = (elements(source.shape(name)) for name in node.inputs)
    source.function(number, node, f"""\
    for (long i = 0; i < {left}; i++) {{
        out[i] = left[i];
    }}
    for (long i = 0; i < {right}; i++) {{
        out[{left} + i] = right[i];
    }}
""")  # fmt: skip


def _take(source: _Source, number: int, node: Node) -> None:
    """Each number of the result from its place; a place of -1 is a zero."""
    index = [int(place) for place in node.constants["index"]]
    source.constants.append(array("int_least32_t", f"index_{number}", index))
    read = f"in[index_{number}[i]]"
    source.function(number, node, f"""\
    for (long i = 0; i < {len(index)}; i++) {{
        out[i] = {f"index_{number}[i] < 0 ? 0.0F : {read}" if min(index) < 0 else read};
    }}
""")  # fmt: skip


_EMITTERS: dict[str, Callable[[_Source, int, Node], None]] = {
    "conv": _conv,
    "linear": _linear,
    "average_pool": _average_pool,
    "max_pool": _max_pool,
    "flatten": _flatten,
    "relu": _relu,
    "activation": _activation,
    "batch_norm": _batch_norm,
    "add": _add,
    "multiply": _multiply,
    "concat": _concat,
    "take": _take,
    "reshape": _flatten,
}
