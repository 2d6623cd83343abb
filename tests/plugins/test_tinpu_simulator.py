from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compiler.random_graphs import random_features, random_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_graphs import (
    Builder,
    awkward_graph,
    example_graph,
    features_of,
    moving_graph,
    narrow_graph,
    wide_input_graph,
)

from flowlab.compiler import interpreter
from flowlab.compiler.lower import lower
from flowlab.compiler.passes.pad_channels import PadChannels
from flowlab.compiler.passes.pad_linear_inputs import PadLinearInputs
from flowlab.compiler.program import encode
from flowlab.compiler.trace import layer_crcs
from flowlab.errors import ProgramError, StageError
from flowlab_tinpu.executions import Absent, Simulator
from flowlab_tinpu.simulator import simulate

SHA = "ab" * 32


def assert_agrees(graph, count: int = 20) -> None:
    features = features_of(graph, count)
    values = interpreter.run(graph, features)
    found = simulate(encode(lower(graph, SHA)), features)
    for name, value in graph.outputs.items():
        np.testing.assert_array_equal(found[f"output/{name}"], values[value])
    crcs = layer_crcs(graph, values)
    assert {f"crc/{name}" for name in crcs} == {name for name in found if name.startswith("crc/")}
    for name, crc in crcs.items():
        np.testing.assert_array_equal(found[f"crc/{name}"], crc)


@pytest.mark.parametrize(
    "graph",
    [
        example_graph(),
        awkward_graph(),
        moving_graph(),
        wide_input_graph(),
        *(narrow_graph(bits) for bits in [(4, 4), (2, 2), (2, 8)]),
    ],
)
def test_the_simulator_computes_what_the_interpreter_does(graph) -> None:
    assert_agrees(graph, 300)  # more than one batch


@st.composite
def graphs(draw: st.DrawFn):
    """One of every kind of layer, in any geometry."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(6, 14)), draw(st.integers(1, 4)))
    bits = draw(st.sampled_from([8, 4, 2])), draw(st.sampled_from([8, 4, 2]))
    builder = Builder(shape, draw(st.integers(0, 2**16)), multiplier=draw(st.booleans()), bits=bits)
    for at in range(draw(st.integers(1, 3))):
        channels, height, width = builder.last.type.shape
        kernel = (draw(st.integers(1, min(4, height))), draw(st.integers(1, min(3, width))))
        stride = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
        pad = tuple(draw(st.integers(0, size - 1)) for size in kernel * 2)
        kind = draw(st.sampled_from(["conv", "grouped", "depthwise", "max_pool", "table"]))
        if kind == "max_pool":
            builder.max_pool(f"n{at}", kernel, stride, pad)
        elif kind == "table":
            builder.table(f"n{at}")
        else:
            out = {"conv": draw(st.integers(1, 9)), "grouped": 2 * channels, "depthwise": channels}[kind]
            groups = 1 if kind == "conv" else channels
            unsigned = draw(st.booleans())
            builder.conv(f"n{at}", out, kernel, stride, groups, unsigned=unsigned, padding=pad)
    if draw(st.booleans()):
        builder.sum_pool("sum")
    return builder.flatten().linear("fc", draw(st.integers(1, 5))).graph()


@settings(max_examples=40)
@given(graphs())
def test_the_simulator_agrees_on_any_network(graph) -> None:
    assert_agrees(graph, 3)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_the_simulator_agrees_where_every_layer_has_a_width_of_its_own_padded_or_not(seed: int, pad: bool) -> None:
    """The interpreter runs the network as it is, the simulator the program of the padded one."""
    graph = random_graph(seed, quantized=True)
    features = random_features(graph, seed, 5)
    values = interpreter.run(graph, features)
    padded = PadLinearInputs().apply(PadChannels().apply(graph)) if pad else graph
    found = simulate(encode(lower(padded, SHA)), features)
    np.testing.assert_array_equal(found["output/output"], values[graph.outputs["output"]])
    for name, crc in layer_crcs(graph, values).items():
        np.testing.assert_array_equal(found[f"crc/{name}"], crc, err_msg=name)


def test_features_beyond_the_input_s_range_are_clipped() -> None:
    graph = example_graph()
    features = np.zeros((3, 1, 64, 1), np.float32)
    features[0], features[1], features[2, 0, 0] = 3e38, -3e38, np.inf
    with np.errstate(over="ignore"):
        found = simulate(encode(lower(graph, SHA)), features)
        values = interpreter.run(graph, features)
    np.testing.assert_array_equal(found["output/output"], values["fc.bnorm"])


def test_features_of_another_shape_are_refused() -> None:
    with pytest.raises(ProgramError, match=r"the program takes \(1, 64, 1\)"):
        simulate(encode(lower(example_graph(), SHA)), np.zeros((1, 1, 32, 1), np.float32))


def test_an_accumulator_beyond_32_bits_is_an_error() -> None:
    builder = Builder((4, 40000, 1), 0).conv("conv", 1, (40000, 1), padding=(0, 0, 0, 0))
    container = lower(builder.graph(), SHA)
    layer = container.layers[1]
    wide = replace(layer, weight=np.full(layer.weight.shape, 127, np.int8))
    data = encode(replace(container, layers=(container.layers[0], wide)))
    multiplier = container.layers[0].multiplier.reshape(1, 4, 1, 1)
    features = np.ones((1, 4, 40000, 1), np.float32) * np.sign(multiplier) * np.float32(-1e6)
    with pytest.raises(ProgramError, match=r"'conv.bnorm': an accumulator leaves 32 bits"):
        simulate(data, features)


def test_the_execution_runs_in_a_fresh_process(tmp_path: Path) -> None:
    graph = example_graph()
    features = features_of(graph, 5)
    (tmp_path / "model.flnp").write_bytes(encode(lower(graph, SHA)))
    outcome = Simulator().run({"model.flnp": tmp_path / "model.flnp"}, features, tmp_path / "scratch")
    values = interpreter.run(graph, features)
    np.testing.assert_array_equal(outcome.outputs["output"], values["fc.bnorm"])
    assert outcome.trace["pool"].shape == (5,)


def test_the_simulator_needs_numpy_only() -> None:
    code = (
        "import sys, flowlab_tinpu.simulator\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'pyarrow', 'scipy', 'prefect', 'flowlab.compiler.ir',"
        " 'flowlab.compiler.interpreter'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_damaged_program_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    data = bytearray(encode(lower(example_graph(), SHA)))
    data[200] ^= 1
    (tmp_path / "model.flnp").write_bytes(bytes(data))
    features = features_of(example_graph(), 1)
    with pytest.raises(StageError, match="the checksum does not fit") as caught:
        Simulator().run({"model.flnp": tmp_path / "model.flnp"}, features, tmp_path / "scratch")
    assert "Traceback" not in str(caught.value)


def test_an_absent_execution_gives_its_reason() -> None:
    assert Absent("emulated core", "no emulator").missing() == "no emulator"


def test_it_stops_behind_a_layer_and_gives_what_the_layer_made() -> None:
    graph = moving_graph()
    features = features_of(graph, 300)
    values = interpreter.run(graph, features)
    container = lower(graph, SHA)
    data = encode(container)
    for layer in container.layers:
        found = simulate(data, features, trace=False, stop=layer.name)
        assert set(found) == {f"layer/{layer.name}"}
        np.testing.assert_array_equal(found[f"layer/{layer.name}"].reshape(len(features), -1),
                                      values[layer.name].reshape(len(features), -1))  # fmt: skip
    with pytest.raises(ProgramError, match="no layer 'none' to stop at; the program has quantize, "):
        simulate(data, features, stop="none")


def test_without_a_trace_it_gives_outputs_alone() -> None:
    graph = example_graph()
    features = features_of(graph, 3)
    data = encode(lower(graph, SHA))
    found, traced = simulate(data, features, trace=False), simulate(data, features)
    assert set(found) == {name for name in traced if name.startswith("output/")}
    assert all(np.array_equal(found[name], traced[name]) for name in found)


def test_sums_beyond_what_float32_holds_are_exact_too() -> None:
    """Weights and inputs at their limits over a long fan-in: 2^24 is passed."""
    builder = Builder((1, 4096, 1), 3).conv("one", 4, (1, 1), unit="cpu").flatten().linear("fc", 2, unit="cpu")
    graph = builder.graph()
    weights = next(node for node in graph.nodes if node.op == "linear").constants["weight"]
    weights[:] = np.where(np.random.default_rng(0).random(weights.shape) < 0.5, 127, -127)
    weights[0] = 127
    assert np.abs(weights.astype(np.int64)).sum(axis=1).max() * 255 > 1 << 24
    assert_agrees(graph)
