from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from integer_graphs import awkward_graph, example_graph, features_of, moving_graph, narrow_graph

from flowlab.cli import main
from flowlab.compiler import interpreter
from flowlab.compiler.ir import Graph
from flowlab.compiler.lower import lower
from flowlab.compiler.program import encode, reseal
from flowlab.contracts import NumberFormat, Requantize
from flowlab.engine.show_program import accelerators, show, signed_bits
from flowlab.errors import DataError
from flowlab.plugins import load

GRAPHS = {"awkward": awkward_graph, "moving": moving_graph}


@pytest.fixture(params=GRAPHS)
def graph(request: pytest.FixtureRequest) -> Graph:
    return GRAPHS[request.param]()


@pytest.fixture
def file(graph: Graph, tmp_path: Path) -> Path:
    path = tmp_path / "model.flnp"
    path.write_bytes(encode(lower(graph, "ab" * 32)))
    return path


def test_every_layer_is_a_row_and_the_numbers_are_those_of_the_file(graph: Graph, file: Path) -> None:
    shown = show(file, bounds=False)
    found = shown.to_json()
    assert found["bytes"] == file.stat().st_size
    assert [row["layer"] for row in found["layers"]] == [layer.name for layer in shown.container.layers]
    text = "\n".join(shown.lines())
    assert all(layer.name in text for layer in shown.container.layers)
    assert f"{file.stat().st_size:,} bytes, version 5.0" in text
    assert "bounds" not in found


def test_no_sum_of_any_input_leaves_its_bound(graph: Graph, file: Path) -> None:
    bounds = {one.layer: one for one in show(file, bounds=True).bounds}
    values = interpreter.run(graph, features_of(graph, 200) * np.float32(20))
    seen = 0
    for node in graph.nodes:
        if node.op == "requantize":
            sums = values[node.inputs[0]].astype(np.int64)
            assert np.abs(sums).max() <= bounds[node.name].accumulator
            assert np.abs(node.constants["bias"]).max() == bounds[node.name].bias
            seen += 1
    assert seen == len(bounds)


@pytest.mark.parametrize(("magnitude", "bits"), [(0, 1), (1, 2), (127, 8), (128, 9), (2**31 - 1, 32)])
def test_the_sign_is_a_bit_too(magnitude: int, bits: int) -> None:
    assert signed_bits(magnitude) == bits


def test_the_command_prints_layers_or_bounds_and_json(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["show", str(file)]) == 0
    assert "operation" in capsys.readouterr().out
    assert main(["show", str(file), "--bounds", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bounds"][0]["accumulator"]["available"] == 32


@pytest.mark.parametrize(("weight_bits", "register"), [(8, 24), (4, 16), (2, 16)])
def test_a_bias_is_held_against_the_register_of_its_layers_unit(
    weight_bits: int, register: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = example_graph() if weight_bits == 8 else narrow_graph((weight_bits, weight_bits), unit="npu")
    path = tmp_path / "model.flnp"
    path.write_bytes(encode(lower(graph, "ab" * 32)))
    units = {layer.name: layer.unit for layer in show(path, bounds=False).container.layers}
    assert "npu" in units.values()
    for device in ([], ["--target", "F28P55"]):
        assert main(["show", str(path), "--bounds", "--json", *device]) == 0
        bounds = json.loads(capsys.readouterr().out)["bounds"]
        found = {one["layer"]: one["bias"]["available"] for one in bounds}
        wanted = {name: register if units[name] == "npu" else 32 for name in found}
        assert found == wanted
    assert main(["show", str(path), "--bounds"]) == 0
    assert f" of {register}" in capsys.readouterr().out


def test_a_bias_register_that_nobody_states_or_two_state_otherwise_is_not_made_up(tmp_path: Path) -> None:
    path = tmp_path / "model.flnp"
    path.write_bytes(encode(lower(example_graph(), "ab" * 32)))
    other = NumberFormat("other", {8: Requantize(multiplier_bits=0, shift=(0, 31), bias_bits=20)})
    own = accelerators(load(), "F28P55")
    assert accelerators(load(), "F28P65") == [] and len(own) == 1
    for formats, bits in (((), None), ((*own, other), None), ((other,), 20)):
        shown = show(path, bounds=True, formats=formats)
        units = {layer.name: layer.unit for layer in shown.container.layers}
        assert {one.bias_bits for one in shown.bounds if units[one.layer] == "npu"} == {bits}
    assert " of ?" in "\n".join(show(path, bounds=True).lines())


def test_what_is_no_program_is_refused_with_the_files_name(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = file.read_bytes()
    damaged = bytearray(data)
    damaged[100] ^= 1
    cases = {
        "cut": (data[:-1], "truncated"),
        "damaged": (bytes(damaged), "the checksum does not fit"),
        "newer": (reseal(data[:4] + b"\x09\x00" + data[6:]), "compile it again"),
        "empty": (b"", "not a program"),
    }
    for name, (content, said) in cases.items():
        (tmp_path / name).write_bytes(content)
        assert main(["show", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert said in error and name in error and "Traceback" not in error
    for path in (tmp_path / "absent", tmp_path, tmp_path / "a\0b"):
        with pytest.raises(DataError, match="cannot be read"):
            show(path, bounds=False)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.flnp"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    with pytest.raises(DataError, match="are no program for a microcontroller"):
        show(path, bounds=False)
