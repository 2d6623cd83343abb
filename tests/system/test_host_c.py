"""The emitted C, compiled and run for real: strict warnings, no undefined behaviour, every integer right."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from compiler.random_graphs import random_features, random_graph
from integer_graphs import (
    Builder,
    awkward_graph,
    example_graph,
    features_of,
    moving_graph,
    narrow_graph,
    wide_input_graph,
)

from flowlab.compiler import emit_c, emit_runner, interpreter
from flowlab.compiler.lower import lower, with_golden
from flowlab.compiler.passes.pad_channels import PadChannels
from flowlab.compiler.passes.pad_linear_inputs import PadLinearInputs
from flowlab.compiler.trace import layer_crcs
from flowlab.contracts import Golden
from flowlab.cpu import host_c, host_compiler
from flowlab.cpu.host_c import HostC
from flowlab.cpu.process import run_tool
from flowlab.errors import StageError

STRICT = (*host_compiler.FLAGS, "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wno-sign-conversion")
SANITIZED = ("-fsanitize=undefined", "-fno-sanitize-recover=all")
SIXTEEN_BITS = """\
#include <stdint.h>
#define int_least8_t int_least16_t
#define uint_least8_t uint_least16_t
"""
GRAPHS = {
    "example": example_graph,
    "awkward": awkward_graph,
    "moving": moving_graph,
    "wide_input": wide_input_graph,
    "four_bits": lambda: narrow_graph((4, 4)),
    "two_bits": lambda: narrow_graph((2, 2)),
    "two_bits_of_weights": lambda: narrow_graph((2, 8)),
}


def write(graph, folder: Path, skip_normalize: bool = True, vectors: int = 3) -> dict[str, Path]:
    features = features_of(graph, vectors)
    values = interpreter.run(graph, features)
    outputs = {name: values[value] for name, value in graph.outputs.items()}
    golden = Golden(features, values["quantize"], outputs, layer_crcs(graph, values), np.ones((vectors, 1, 7)))
    container = with_golden(lower(graph, "ab" * 32), golden)
    texts = {
        **emit_c.emit_c(container, skip_normalize=skip_normalize),
        **emit_runner.emit_runner(container, skip_normalize=skip_normalize),
        **emit_runner.emit_vectors(container, np.ones((vectors, 1, 7), np.float32)),
        **emit_runner.emit_main(container, skip_normalize=skip_normalize),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {name: folder / name for name in texts}


def assert_agrees(graph, program: dict[str, Path], scratch: Path, count: int = 50) -> None:
    features = features_of(graph, count, seed=9)
    values = interpreter.run(graph, features)
    outcome = HostC().run(program, features, scratch)
    for name, value in graph.outputs.items():
        np.testing.assert_array_equal(outcome.outputs[name], values[value])
        assert outcome.outputs[name].dtype == (np.float32 if values[value].dtype == np.float32 else np.int32)
    for name, crc in layer_crcs(graph, values).items():
        np.testing.assert_array_equal(outcome.trace[name], crc)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("skip_normalize", [True, False])
def test_c_on_the_host_computes_what_the_interpreter_does(compiler, name: str, skip_normalize: bool, tmp_path) -> None:
    graph = GRAPHS[name]()
    assert_agrees(graph, write(graph, tmp_path, skip_normalize), tmp_path / "scratch")


@pytest.mark.parametrize("name", GRAPHS)
def test_c_is_clean_under_strict_warnings_and_the_sanitizer(
    compiler, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = GRAPHS[name]()
    program = write(graph, tmp_path)
    monkeypatch.setattr(
        host_compiler.HostCompiler.compile, "__kwdefaults__", {"flags": STRICT + SANITIZED, "timeout_s": 120}
    )
    assert_agrees(graph, program, tmp_path / "scratch")


def test_c_holds_where_the_smallest_unit_has_16_bits(compiler, tmp_path: Path) -> None:
    """What a C28x does: a byte array holds 16-bit words, and nothing wraps at 8 bits by itself."""
    for name, make in GRAPHS.items():
        folder = tmp_path / name
        folder.mkdir()
        graph = make()
        program = write(graph, folder)
        for file in ("model.h", "host_runner.c"):
            text = program[file].read_text().replace("#include <stdint.h>\n", SIXTEEN_BITS)
            program[file].write_text(text)
        assert_agrees(graph, program, folder / "scratch")


@pytest.mark.parametrize("skip_normalize", [True, False])
def test_the_known_answer_test_passes_and_sees_a_wrong_answer(compiler, skip_normalize: bool, tmp_path: Path) -> None:
    program = write(example_graph(), tmp_path, skip_normalize)
    sources = [program[name] for name in ("main.c", "model.c", "test_vector.c")]
    build = [*compiler.command, *STRICT, *sources, "-o", tmp_path / "main", "-lm"]
    run_tool(build, timeout_s=60)
    assert run_tool([tmp_path / "main"], timeout_s=10).splitlines()[-1] == "pass: 3 of 3 vectors"
    vectors = program["test_vector.c"].read_text()
    first, _, rest = vectors.partition("golden_output[3 * 2] = { ")
    value, _, tail = rest.partition(",")
    program["test_vector.c"].write_text(f"{first}golden_output[3 * 2] = {{ {int(value) + 1},{tail}")
    run_tool(build, timeout_s=60)
    wrong = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout.splitlines()[-1]) == (1, "fail: 2 of 3 vectors")


def test_features_beyond_the_range_are_clipped_and_nothing_overflows(compiler, tmp_path: Path) -> None:
    graph = Builder((2, 4, 1), 0).flatten().linear("fc", 2).graph()
    program = write(graph, tmp_path)
    features = np.array([3e38, -3e38, 1e10, -1e10, 0, 1e-40, np.inf, -np.inf], np.float32).reshape(1, 2, 4, 1)
    values = interpreter.run(graph, features)
    outcome = HostC().run(program, features, tmp_path / "scratch")
    np.testing.assert_array_equal(outcome.trace["quantize"], layer_crcs(graph, values)["quantize"])


def test_a_compiler_that_fails_is_quoted(compiler, tmp_path: Path) -> None:
    program = write(example_graph(), tmp_path)
    program["model.c"].write_text("int broken(void) { return nothing; }\n")
    with pytest.raises(StageError, match="nothing"):
        HostC().run(program, features_of(example_graph(), 1), tmp_path / "scratch")


def test_the_version_is_the_compiler_s_own_first_line(compiler) -> None:
    assert HostC().missing() is None
    assert HostC().version() == compiler.version() != "unknown"
    assert host_c.FILES == ("model.c", "model.h", "host_runner.c")


@pytest.mark.parametrize("seed", range(16))
def test_c_agrees_where_every_layer_has_a_width_of_its_own_padded_or_not(compiler, seed: int, tmp_path: Path) -> None:
    """The interpreter runs the network as it is; even seeds give C the program of the padded one."""
    graph = random_graph(seed, quantized=True)
    padded = PadLinearInputs().apply(PadChannels().apply(graph)) if seed % 2 == 0 else graph
    features = random_features(graph, seed, 50)
    values = interpreter.run(graph, features)
    outcome = HostC().run(write(padded, tmp_path), features, tmp_path / "scratch")
    np.testing.assert_array_equal(outcome.outputs["output"], values[graph.outputs["output"]])
    for name, crc in layer_crcs(graph, values).items():
        np.testing.assert_array_equal(outcome.trace[name], crc, err_msg=name)


def test_a_relative_scratch_folder_is_no_trap(compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = example_graph()
    program = write(graph, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert_agrees(graph, program, Path("scratch"), count=3)
    assert list((tmp_path / "scratch").iterdir()) == []  # nothing is left behind
