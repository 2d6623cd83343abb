"""Float C, compiled and run for real: the float law against ONNX Runtime on random networks, and what breaks it."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compiler.random_graphs import random_features, random_graph

from flowlab.compiler import interpreter
from flowlab.compiler.emit_float_c import EXPRESSIONS
from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.ir import Graph, Input, Node, TensorType
from flowlab.compiler.lower_float import lower_float, write
from flowlab.contracts import Core, Golden, LowerJob, Outcome
from flowlab.cpu import host_compiler
from flowlab.cpu.host_c import HostC
from flowlab.cpu.process import run_tool
from flowlab.errors import AgreementError
from flowlab.stages.simulate import compare_floats
from flowlab.stages.validate import check_import, run_onnx

STRICT = (*host_compiler.FLAGS, "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wdouble-promotion")
SANITIZED = ("-fsanitize=undefined", "-fno-sanitize-recover=all")
SEEDS = range(24)
VECTORS = 50


def program(graph: Graph, features: np.ndarray, folder: Path) -> dict[str, Path]:
    outputs = run_onnx(export_onnx(graph), features[:3], list(graph.outputs))
    golden = Golden(features[:3], features[:3], outputs, {}, np.ones((3, 1, 5), np.float32))
    job = LowerJob(graph, golden, False, Core(), None, ("a",), "ab" * 32, folder)
    return dict(write(lower_float(job), job).files)


def clear(graph: Graph, features: np.ndarray) -> np.ndarray:
    """The vectors whose outputs are no small rest of large numbers: there the last bits of float32 are the output."""
    last = graph.nodes[-1]
    read = np.abs(interpreter.run(graph, features, np.float64)[last.inputs[0]])
    sums = read @ np.abs(last.constants["weight"].astype(np.float64)).T + np.abs(last.constants["bias"])
    outputs = np.abs(interpreter.outputs(graph, features)["output"])
    return outputs.max(axis=1) > 0.1 * sums.max(axis=1)


@pytest.mark.parametrize("seed", SEEDS)
def test_c_and_interpreter_obey_the_float_law_on_random_networks(compiler, seed: int, tmp_path: Path) -> None:
    graph = random_graph(seed, quantized=False)
    features = random_features(graph, seed, VECTORS)
    features = features[clear(graph, features)]
    assert len(features) > VECTORS // 3
    model = export_onnx(graph)
    live = [node for node in graph.nodes if graph.users(node.name) or node.name in graph.outputs.values()]
    assert live
    check_import(graph, model)
    reference = Outcome(dict(run_onnx(model, features, ["output"])), {})
    assert (
        compare_floats("interpreter", reference, Outcome(interpreter.outputs(graph, features), {}))["mismatches"] == 0
    )
    outcome = HostC().run(program(graph, features, tmp_path / "p"), features, tmp_path / "scratch")
    row = compare_floats("host C", reference, outcome)
    assert (row["vectors"], row["mismatches"], row["comparison"]) == (len(features), 0, "float")
    assert outcome.trace == {}


@pytest.mark.parametrize("function", EXPRESSIONS)
def test_c_computes_every_activation_as_onnx_runtime_does(compiler, function: str, tmp_path: Path) -> None:
    type_ = TensorType("float32", (1,))  # each value is an output of its own, held against its own size
    node = Node("act", "activation", ("input",), type_, {"function": function})
    graph = Graph((Input("input", type_),), (node,), {"output": "act"})
    features = np.linspace(-8, 8, 160, dtype=np.float32).reshape(-1, 1)
    wanted = interpreter.run(graph, features, np.float64)["act"]
    outcome = HostC().run(program(graph, features, tmp_path / "p"), features, tmp_path / "scratch")
    runtime = run_onnx(export_onnx(graph), features, ["output"])["output"]
    np.testing.assert_allclose(outcome.outputs["output"], wanted, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(outcome.outputs["output"], runtime, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("function", EXPRESSIONS)
def test_no_activation_overflows_into_something_that_is_no_number(compiler, function: str, tmp_path: Path) -> None:
    type_ = TensorType("float32", (4,))
    node = Node("act", "activation", ("input",), type_, {"function": function})
    graph = Graph((Input("input", type_),), (node,), {"output": "act"})
    calm = np.ones((3, 4), np.float32)
    features = np.array([[-1e4, -200, 200, 1e4]], np.float32)
    outcome = HostC().run(program(graph, calm, tmp_path / "p"), features, tmp_path / "scratch")
    assert np.isfinite(outcome.outputs["output"]).all()


@pytest.mark.parametrize("seed", [0, 3, 5, 12])
def test_float_c_is_clean_under_strict_warnings_and_the_sanitizer(
    compiler, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = random_graph(seed, quantized=False)
    features = random_features(graph, seed, 3)
    files = program(graph, features, tmp_path / "p")
    monkeypatch.setattr(
        host_compiler.HostCompiler, "compile", _with_flags(host_compiler.HostCompiler.compile, (*STRICT, *SANITIZED))
    )
    outcome = HostC().run(files, features, tmp_path / "scratch")
    np.testing.assert_allclose(
        outcome.outputs["output"], interpreter.outputs(graph, features)["output"], rtol=1e-3, atol=1e-3
    )


def _with_flags(compile_, flags: tuple[str, ...]):
    def compile_strictly(self, source: Path, out: Path, **others) -> None:
        compile_(self, source, out, **{**others, "flags": flags})

    return compile_strictly


def test_the_known_answer_test_holds_the_float_law(compiler, tmp_path: Path) -> None:
    graph = random_graph(5, quantized=False)
    features = random_features(graph, 5, VECTORS)
    files = program(graph, features[clear(graph, features)], tmp_path)
    sources = [files[name] for name in ("main.c", "model.c", "test_vector.c")]
    build = [*compiler.command, *STRICT, *sources, "-o", tmp_path / "main", "-lm"]
    run_tool(build, timeout_s=60)
    assert run_tool([tmp_path / "main"], timeout_s=10) == "pass: 3 of 3 vectors\n"
    text = files["test_vector.c"].read_text()
    first = re.search(r"golden_output\[[^]]*\] = \{\s*(-?0x[0-9a-f.]+p[-+]\d+)F", text)
    assert first is not None
    changed = (float.fromhex(first[1]) * 1.001).hex()
    files["test_vector.c"].write_text(text[: first.start(1)] + changed + text[first.end(1) :])
    run_tool(build, timeout_s=60)
    wrong = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (1, "fail: 2 of 3 vectors\n")


def test_one_changed_weight_in_the_c_is_found_and_its_vector_named(compiler, tmp_path: Path) -> None:
    graph = random_graph(5, quantized=False)
    features = random_features(graph, 5, VECTORS)
    features = features[clear(graph, features)]
    files = program(graph, features, tmp_path / "p")
    reference = Outcome(dict(run_onnx(export_onnx(graph), features, ["output"])), {})
    assert compare_floats("host C", reference, HostC().run(files, features, tmp_path / "s"))["mismatches"] == 0
    last = len(graph.nodes) - 1
    text = files["model.c"].read_text()
    first = re.search(rf"weight_{last}\[\] = \{{\s*(-?0x[0-9a-f.]+p[-+]\d+)F", text)
    assert first is not None
    changed = (float.fromhex(first[1]) * 1.25).hex()
    files["model.c"].write_text(text[: first.start(1)] + changed + text[first.end(1) :])
    with pytest.raises(AgreementError, match=r"execution 'host C' differs from ONNX Runtime on \d+ of .*; vector \d+"):
        compare_floats("host C", reference, HostC().run(files, features, tmp_path / "s"))


def test_a_wrong_class_within_the_tolerance_is_an_error_too(compiler, tmp_path: Path) -> None:
    """Both numbers of each vector move by less than the tolerance allows, and the class turns."""
    type_ = TensorType("float32", (2,))
    weight = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    node = Node("fc", "linear", ("input",), type_, {}, {"weight": weight, "bias": np.zeros(2, np.float32)})
    graph = Graph((Input("input", type_),), (node,), {"output": "fc"})
    turned = replace(graph, nodes=(replace(node, constants={**node.constants, "bias": np.float32([8e-5, -8e-5])}),))
    far = np.full((3, 2), [10.0, 10.00015], np.float32)
    tie = np.full((3, 2), [10.0, 10.00005], np.float32)
    for features, agrees in ((far, False), (tie, True)):
        reference = Outcome(dict(run_onnx(export_onnx(graph), features, ["output"])), {})
        outcome = HostC().run(program(turned, features, tmp_path / f"{agrees}"), features, tmp_path / "s")
        assert (outcome.outputs["output"].argmax(axis=1) != reference.outputs["output"].argmax(axis=1)).all()
        if agrees:
            assert compare_floats("host C", reference, outcome)["mismatches"] == 0
        else:
            with pytest.raises(AgreementError, match="or in its class; vector 0, output 'output'"):
                compare_floats("host C", reference, outcome)
