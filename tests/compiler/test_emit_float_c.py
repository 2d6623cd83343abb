"""The text of float C: every number exact, every operation there, nothing that is not needed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from flowlab.compiler import interpreter
from flowlab.compiler.emit_float_c import DEFAULTS, EXPRESSIONS, emit_float_c
from flowlab.compiler.float_plan import plan
from flowlab.compiler.ir import Graph, Input, Node, TensorType, is_float
from flowlab.compiler.lower_float import lower_float
from flowlab.compiler.text import parse_graph
from flowlab.contracts import Core, Golden, LowerJob
from flowlab.errors import ProgramError

from .random_graphs import random_graph

SMALL = parse_graph(
    """
    graph 1
    input %input: float32[2]
    %fc: float32[2] = linear(%input)
      bias: float32[2] = 0.5 -0.1
      weight: float32[2, 2] = 1.0 -2.0 0.0 3.25
    %relu: float32[2] = relu(%fc)
    output "output" = %relu
    """
)
MODEL_C = """\
#include "model.h"

#ifndef FLOWLAB_TRACE
#define FLOWLAB_TRACE(node, values, count) ((void)0)
#endif

static float arena[MODEL_ARENA];

static const float weight_0[] = { 0x1p+0F, -0x1p+1F, 0x0p+0F, 0x1.ap+1F };

static const float bias_0[] = { 0x1p-1F, -0x1.99999ap-4F };

/* fc: linear, (2) -> (2) */
static void layer_0(const float *in, float *out)
{
    for (long o = 0; o < 2; o++) {
        float acc = 0.0F;
        for (long i = 0; i < 2; i++) {
            acc += weight_0[o * 2 + i] * in[i];
        }
        out[o] = acc + bias_0[o];
    }
}

/* relu: relu, (2) -> (2) */
static void layer_1(const float *in, float *out)
{
    for (long i = 0; i < 2; i++) {
        const float x = in[i];
        out[i] = x > 0.0F ? x : 0.0F;
    }
}

void model_run(const float *features, model_outputs *outputs)
{
    layer_0(features, arena + 0);
    FLOWLAB_TRACE("fc", (arena + 0), 2);
    layer_1(arena + 0, arena + 0);
    FLOWLAB_TRACE("relu", (arena + 0), 2);
    for (long i = 0; i < 2; i++) {
        outputs->output[i] = (arena + 0)[i];
    }
}
"""


def activation(function: str, **attributes: float) -> Graph:
    type_ = TensorType("float32", (4,))
    node = Node("act", "activation", ("input",), type_, {"function": function, **attributes})
    return Graph((Input("input", type_),), (node,), {"output": "act"})


def job(graph: Graph, folder: Path) -> LowerJob:
    features = np.ones((2, *graph.inputs[0].type.shape), np.float32)
    outputs = interpreter.outputs(graph, features)
    golden = Golden(features, features, outputs, {}, np.ones((2, 1, 5), np.float32))
    return LowerJob(graph, golden, False, Core(), None, ("a", "b"), "ab" * 32, folder)


def test_a_small_network_as_a_person_reads_it() -> None:
    files = emit_float_c(plan(SMALL), "ab" * 32)
    assert files["model.c"] == MODEL_C
    assert "#define MODEL_FEATURES 2 /* float (2) */" in files["model.h"]
    assert "    float output[2]; /* (2) */" in files["model.h"]


def test_every_constant_is_the_float_that_it_was() -> None:
    graph = random_graph(3, quantized=False)
    text = emit_float_c(plan(graph), "")["model.c"]
    written = [float.fromhex(word) for word in re.findall(r"(-?0x[0-9a-f.]+p[-+]\d+)F[, \n]", text)]
    weights = [node.constants["weight"] for node in graph.nodes if node.op in ("conv", "linear")]
    assert weights
    for weight in weights:
        values = weight.ravel().tolist()
        assert any(written[at : at + len(values)] == values for at in range(len(written)))


def test_c_has_every_activation_that_the_interpreter_has() -> None:
    assert set(EXPRESSIONS) == set(interpreter.FUNCTIONS)
    for function, numbers in DEFAULTS.items():
        assert all(f"{{{key}}}" in EXPRESSIONS[function] for key in numbers)


@pytest.mark.parametrize("function", EXPRESSIONS)
def test_math_h_comes_in_only_where_a_function_needs_it(function: str) -> None:
    text = emit_float_c(plan(activation(function)), "")["model.c"]
    assert ("#include <math.h>" in text) == bool(re.search(r"\b(expf|tanhf|erff|expm1f|log1pf|fabsf)\(", text))


def test_a_parameter_of_a_function_stands_in_the_c() -> None:
    assert "x > 0.0F ? x : 0x1p-2F * x" in emit_float_c(plan(activation("leaky_relu", alpha=0.25)), "")["model.c"]


def test_an_unknown_activation_is_refused_by_its_node() -> None:
    with pytest.raises(ProgramError, match=r"node 'act'.*'swoosh'"):
        emit_float_c(plan(activation("swoosh")), "")


def test_outputs_that_c_cannot_tell_apart_are_refused() -> None:
    graph = Graph(SMALL.inputs, SMALL.nodes, {"a b": "relu", "a.b": "relu"})
    with pytest.raises(ProgramError, match="one name in C: a_b"):
        emit_float_c(plan(graph), "")


def test_a_number_that_is_not_finite_is_refused() -> None:
    node = SMALL.nodes[0]
    constants = {**node.constants, "bias": np.array([np.inf, 0], np.float32)}
    broken = Graph(
        SMALL.inputs, (Node("fc", "linear", ("input",), node.type, {}, constants), SMALL.nodes[1]), SMALL.outputs
    )
    with pytest.raises(ProgramError, match="inf is no number"):
        emit_float_c(plan(broken), "")


def test_what_ships_has_vectors_a_test_and_layer_rows(tmp_path: Path) -> None:
    found = lower_float(job(SMALL, tmp_path))
    assert set(found.texts) == {"model.c", "model.h", "test_vector.c", "test_vector.h", "main.c", "host_runner.c"}
    assert "extern const float golden_output[2 * 2];" in found.texts["test_vector.h"]
    assert [(row.name, row.layer, row.unit, row.weight_bytes, row.macs) for row in found.layers] == [
        ("fc", "linear", "cpu", 16, 4)
    ]
    assert found.weight_bytes == 16


def test_golden_vectors_that_lack_an_output_are_refused(tmp_path: Path) -> None:
    good = job(SMALL, tmp_path)
    lacking = LowerJob(
        **{**vars(good), "golden": Golden(**{**vars(good.golden), "outputs": {}})},
    )
    with pytest.raises(ProgramError, match="lack the output 'output'"):
        lower_float(lacking)


def test_a_graph_is_float_where_every_value_is() -> None:
    assert is_float(SMALL)
    assert is_float(random_graph(1, quantized=False))
    assert not is_float(random_graph(1, quantized=True))
