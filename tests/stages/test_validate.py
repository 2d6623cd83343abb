"""Validation: the ONNX read back, three executions equal in every integer, and what is said where they are not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flowlab.compiler import interpreter
from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.ir import Graph
from flowlab.compiler.text import parse_graph, print_graph
from flowlab.contracts import NoOptions, NumberFormat, Requantize, StageJob, StageResult
from flowlab.errors import AgreementError, DataError, GraphError
from flowlab.signal import features_file
from flowlab.stages import validate
from flowlab_tinpu.devices import TARGETS

TARGET = next(target for target in TARGETS if target.rules())
FORMAT = NumberFormat("wide", {8: Requantize(multiplier_bits=8, shift=(0, 31), bias_bits=32)})
COUNT = 40

AWKWARD = parse_graph(
    """
    graph 1
    input %input: float32[3, 10, 1]
    %quantize: int8[3, 10, 1] scale 0.1 = quantize(%input) high=127 low=-128
      bias: float32[3] = 0.1 0.2 0.3
      multiplier: int32[3] = 400 -500 600
      shift: int32[3] = 4 5 4
    %conv: int32[5, 5, 1] scale 0.0 = conv(%quantize) groups=1 padding=(1, 0, 1, 0) stride=(2, 1) weight_bits=8
      weight: int8[5, 3, 3, 1] = 5 -6 7 8 -9 10 11 -12 13 14 15 -16 17 18 19 -20 21 22 23 24 -25 26 27 28 -29 30 31 32 -33 34 35 36 37 -38 39 40 41 42 -43 44 45 46 47 48 49
    %conv.bnorm: uint8[5, 5, 1] scale 0.1 = requantize(%conv) bias_before_multiply=true high=255 low=0 rounding="floor"
      bias: int32[5] = 100 -200 300 400 500
      multiplier: int32[5] = 1 2 3 4 5
      shift: int32[5] = 4 5 6 7 8
    %table: uint8[5, 5, 1] scale 0.1 = table(%conv.bnorm)
      entries: uint8[256] = 7*56 3*100 9*100
    %pool: int32[5, 1, 1] scale 0.1 = sum_pool(%table)
    %pool.bnorm: uint8[5, 1, 1] scale 0.1 = requantize(%pool) bias_before_multiply=true high=255 low=0 rounding="floor"
      bias: int32[5] = 0 1 2 3 4
      multiplier: int32[5] = 1*5
      shift: int32[5] = 1 0 1 0 1
    %flat: uint8[5] scale 0.1 = flatten(%pool.bnorm)
    %fc: int32[2] scale 0.0 = linear(%flat) weight_bits=8
      weight: int8[2, 5] = 9 -8 7 6 5 -4 3 -2 1 2
    %fc.bnorm: int8[2] scale 0.5 = requantize(%fc) bias_before_multiply=true high=127 low=-128 rounding="floor"
      bias: int32[2] = 0 50
      multiplier: int32[2] = 1 1
      shift: int32[2] = 3 2
    output "output" = %fc.bnorm
    """  # noqa: E501 - a weight stands on one line
)


def job_of(
    folder: Path, graph: Graph = AWKWARD, exported: Graph = AWKWARD, spoiled: int | None = None, count: int = COUNT
) -> StageJob:
    """Files as the stages before leave them; ``spoiled`` changes torch's output of that vector."""
    features = (np.random.default_rng(0).normal(size=(count, 3, 10, 1)) * 3).astype(np.float32)
    labels = np.arange(count, dtype=np.int64) % 3
    out = folder / "out"
    out.mkdir()
    (folder / "graph.txt").write_text(print_graph(graph))
    (folder / "best_model.onnx").write_bytes(export_onnx(exported, {}))
    outputs = interpreter.outputs(graph, features)["output"].astype(np.int32)
    if spoiled is not None:
        outputs[spoiled, 1] += 1
    np.savez(folder / "torch_outputs.npz", output=outputs)
    zeros = np.zeros(count, np.int32)
    meta = {"classes": ["a", "b", "c"], "split": "test", "provenance": "made"}
    features_file.write(folder / "features.arrow", features, labels, zeros, np.arange(count), meta)
    names = {
        "graph": "graph.txt",
        "quantized_onnx": "best_model.onnx",
        "torch_outputs": "torch_outputs.npz",
        "features_test": "features.arrow",
    }
    inputs = {role: {name: folder / name} for role, name in names.items()}
    options = validate.ValidateOptions(FORMAT)
    return StageJob(inputs, options, {"target": TARGET}, {"target": NoOptions()}, out, folder, lambda what, done: None)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    return validate.run(job_of(tmp_path_factory.mktemp("validate")))


def only(result: StageResult, role: str) -> Path:
    (path,) = result.files[role].values()
    return path


def test_three_executions_are_counted_over_all_vectors(result: StageResult) -> None:
    agreement = result.metrics["agreement"]
    assert (agreement["vectors"], agreement["mismatches"]) == (COUNT, 0)
    assert [row["name"] for row in agreement["executions"]] == ["ONNX Runtime", "interpreter", "torch"]


def test_the_placed_graph_is_padded_and_placed(result: StageResult) -> None:
    placed = parse_graph(only(result, "placed_graph").read_text())
    assert placed.node("quantize").type.shape == (4, 10, 1)
    assert placed.node("conv").attributes["channels"] == 5
    assert (placed.node("conv").attributes["unit"], placed.node("conv").attributes["layer"]) == ("npu", "GCONV")
    assert placed.node("table").attributes["unit"] == "cpu"
    assert placed.node("fc").constants["weight"].shape == (2, 16)


def test_the_placement_says_reason_cure_and_the_cost_of_padding(result: StageResult) -> None:
    found = json.loads(only(result, "placement").read_text())
    rows = {row["name"]: row for row in found["layers"]}
    assert rows["table"]["reason"] == "the NPU has no layer for 'table'."
    assert "ReLU" in rows["table"]["cure"]
    assert rows["fc"]["padding"].startswith("5 -> 16 input features: +22 MACs")
    assert found["padding"]["macs"] == 16 * 4 * 3 * 5 - 5 * 3 * 3 * 5 + 22
    assert found["npu_share"] == 1.0
    assert result.metrics["cpu_layers"] == ["table"]
    assert any("layer 'table'" in warning for warning in result.warnings)
    assert found["warnings"] == list(result.warnings)


def test_the_golden_vectors_are_of_all_classes_and_those_of_onnx_runtime(result: StageResult) -> None:
    with np.load(only(result, "golden"), allow_pickle=False) as golden:
        assert golden["index"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
        assert golden["inputs"].shape == golden["features"].shape == (8, 3, 10, 1)
        assert golden["inputs"].dtype == np.int8
        assert golden["output/output"].dtype == np.int32
        values = interpreter.run(AWKWARD, golden["features"])
        np.testing.assert_array_equal(golden["output/output"], values["fc.bnorm"])
        np.testing.assert_array_equal(golden["inputs"], values["quantize"])


def test_checksums_are_those_of_the_unpadded_graph(result: StageResult) -> None:
    from flowlab.compiler.trace import layer_crcs

    features = features_file.read(Path(only(result, "golden").parent.parent / "features.arrow")).features
    expected = layer_crcs(AWKWARD, interpreter.run(AWKWARD, features))
    with np.load(only(result, "interpreter_outputs"), allow_pickle=False) as found:
        assert {name for name in found.files if name.startswith("crc/")} == {f"crc/{name}" for name in expected}
        for name, crc in expected.items():
            np.testing.assert_array_equal(found[f"crc/{name}"], crc, err_msg=name)


def test_the_same_inputs_give_the_same_bytes(result: StageResult, tmp_path: Path) -> None:
    again = validate.run(job_of(tmp_path))
    for role in validate.STAGE.makes:
        assert only(again, role).read_bytes() == only(result, role).read_bytes(), role


def test_one_integer_of_one_vector_fails_the_stage_and_is_named(tmp_path: Path) -> None:
    message = r"torch and ONNX Runtime differ in 1 of 40 vectors; vector 23, output 'output'"
    with pytest.raises(AgreementError, match=message):
        validate.run(job_of(tmp_path, spoiled=23))


def changed(graph: Graph, name: str, key: str) -> Graph:
    """One number of one constant, one larger."""

    def change(node):
        if node.name != name:
            return node
        array = node.constants[key].copy()
        array.flat[0] += 1
        return replace(node, constants={**node.constants, key: array})

    return replace(graph, nodes=tuple(change(node) for node in graph.nodes))


@pytest.mark.parametrize(("name", "key"), [("conv", "weight"), ("conv.bnorm", "bias"), ("fc.bnorm", "shift")])
def test_an_onnx_with_another_number_is_not_the_graph(name: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(AgreementError, match=r"the exported ONNX is not the quantizer's graph: line \d+ .*" + key):
        validate.run(job_of(tmp_path, exported=changed(AWKWARD, name, key)))


def test_a_graph_outside_the_number_format_is_refused(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    narrow = NumberFormat("narrow", {8: Requantize(multiplier_bits=2, shift=(0, 31), bias_bits=32)})
    with pytest.raises(GraphError, match=r"node 'conv.bnorm' .* multiplier 4 of channel 3 is not in 0 \.\. 3"):
        validate.run(replace(job, options=validate.ValidateOptions(narrow)))


def test_no_test_vector_is_no_agreement(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the test split has no windows"):
        validate.run(job_of(tmp_path, count=0))


def test_the_first_layer_that_differs_is_found() -> None:
    feature = np.ones((1, 3, 10, 1), np.float32)
    other = export_onnx(changed(AWKWARD, "pool.bnorm", "shift"), {})
    assert validate.first_layer(AWKWARD, export_onnx(AWKWARD, {}), feature) is None
    assert validate.first_layer(AWKWARD, export_onnx(changed(AWKWARD, "conv", "weight"), {}), feature) == "conv.bnorm"
    assert validate.first_layer(AWKWARD, other, feature) == "pool.bnorm"


def test_mismatches_are_counted_at_none_one_and_all() -> None:
    right = {"output": np.arange(12, dtype=np.int32).reshape(4, 3)}
    one = {"output": right["output"].copy()}
    one["output"][2, 1] += 1
    assert validate.mismatches(right, right, "x").sum() == 0
    assert validate.mismatches(one, right, "x").tolist() == [False, False, True, False]
    assert validate.mismatches({"output": right["output"] + 1}, right, "x").sum() == 4


def test_outputs_that_cannot_be_compared_are_refused() -> None:
    right = {"output": np.zeros((4, 3), np.int32)}
    with pytest.raises(AgreementError, match=r"has the outputs \['other'\]"):
        validate.mismatches({"other": right["output"]}, right, "x")
    with pytest.raises(AgreementError, match=r"has shape \(4, 2\)"):
        validate.mismatches({"output": np.zeros((4, 2), np.int32)}, right, "x")


def test_golden_rows_take_the_first_of_every_class_in_turn() -> None:
    labels = np.array([2, 2, 2, 2, 2, 2, 2, 2, 0, 1])
    assert validate.golden_rows(labels, 4).tolist() == [0, 1, 8, 9]
    assert validate.golden_rows(labels).tolist() == [0, 1, 2, 3, 4, 5, 8, 9]
    assert validate.golden_rows(labels[:2]).tolist() == [0, 1]
