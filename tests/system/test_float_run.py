"""The float network as a user runs it: nine stages on a device and on the host, and C that was tampered with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from float_bench import COUNT, OFF, Bench
from system.bearing_run import flowlab, placed

from flowlab.cpu import host_compiler
from flowlab.errors import AgreementError
from flowlab.quant.rebuild import rebuild_onnx

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["ingest", "extract", "inspect", "train", "quantize", "validate", "compile", "simulate", "report"]
NPU = {"common.target_device": "F28P55", "training.quantization": "0"}
HOST = {"common.target_device": "host", "compilation.preset_name": "null", "training.quantization": "0"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("float")


def needs_compiler() -> None:
    if host_compiler.find() is None:
        pytest.skip("no C compiler on PATH")


@pytest.mark.parametrize(("keys", "reason"), [(NPU, OFF), (HOST, "")], ids=["npu", "host"])
def test_quantization_0_runs_all_nine_stages(folder: Path, shared: Path, keys: dict[str, str], reason: str) -> None:
    needs_compiler()
    result = flowlab(folder, shared, keys)
    assert [stage["name"] for stage in result["stages"]] == STAGES
    assert result["metrics"]["quantized"] is None
    assert result["metrics"]["simulated"] == result["metrics"]["float"]
    agreement = result["agreement"]
    assert (agreement["mismatches"], agreement["comparison"]) == (0, "float")
    assert agreement["executions"] == ["ONNX Runtime", "interpreter", "torch", "host C"]
    integers_only = [row["name"] for row in agreement["not_run"] if row["reason"] == "it runs integers only"]
    assert integers_only == (["simulator"] if reason else [])
    assert {(row["unit"], row["reason"]) for row in placed(result)} == {("cpu", reason)}
    assert not any("runs on the CPU" in warning for warning in result["warnings"])
    assert result["sizes"]["program_bytes"] is None
    assert result["sizes"]["packed_bytes"] == sum(row["weight_bytes"] for row in placed(result))
    assert "model.flnp" not in {file["name"] for file in result["artifacts"]["program"]}
    assert Path(result["report"]).is_file()


def test_the_onnx_of_a_float_run_is_built_again_from_its_two_files(folder: Path, shared: Path) -> None:
    needs_compiler()
    result = flowlab(folder, shared, NPU)
    (config,), (weights,), (onnx,) = (
        result["artifacts"][role] for role in ("quantization_config", "quantized_weights", "quantized_onnx")
    )
    said = yaml.safe_load(Path(config["path"]).read_text(encoding="utf-8"))
    assert (said["quantizer"], said["number_format"], said["weight_bits"]) == ("none", "float32", 32)
    assert rebuild_onnx(Path(config["path"]), Path(weights["path"])) == Path(onnx["path"]).read_bytes()


def test_the_quantizer_by_its_name_is_the_same_run_as_quantization_0(folder: Path, shared: Path) -> None:
    needs_compiler()
    plain, named = (flowlab(folder, shared, {**NPU, **more}) for more in ({}, {"training.quantizer": "none"}))
    for role in ("float_model", "quantized_onnx", "placed_graph", "program", "outputs"):
        assert _shas(named, role) == _shas(plain, role), role


def _shas(result: dict[str, Any], role: str) -> dict[str, str]:
    return {file["name"]: file["sha256"] for file in result["artifacts"][role]}


# --- the stage itself -----------------------------------------------------------------------------


def ready(folder: Path) -> Bench:
    needs_compiler()
    run = Bench(folder)
    run.validate()
    run.compile()
    return run


def test_the_stage_compares_float_c_with_onnx_runtime(tmp_path: Path) -> None:
    result = ready(tmp_path).simulate()
    agreement = result.metrics["agreement"]
    assert (agreement["vectors"], agreement["mismatches"], agreement["comparison"]) == (COUNT, 0, "float")
    (row,) = agreement["executions"]
    assert (row["name"], row["comparison"], row["first_difference"]) == ("host C", "float", None)
    assert 0 <= row["largest_difference"] < 1e-5
    assert json.loads(result.files["costs"]["costs.json"].read_text())["npu_share"] == 0.0


def test_a_changed_weight_in_the_shipped_c_stops_the_run_and_names_the_vector(tmp_path: Path) -> None:
    run = ready(tmp_path)
    path = run.inputs["program"]["model.c"]
    text = path.read_text()
    weight = re.search(r"weight_\d+\[\] = \{\s*(-?0x[0-9a-f.]+p[-+]\d+)F", text)
    assert weight is not None
    changed = (float.fromhex(weight[1]) * 1.1).hex()
    path.write_text(text[: weight.start(1)] + changed + text[weight.end(1) :])
    with pytest.raises(
        AgreementError, match=r"'host C' differs from ONNX Runtime on \d+ of 40 vectors.*vector \d+, output"
    ):
        run.simulate()


def test_the_reference_is_onnx_runtime_and_not_the_interpreter(tmp_path: Path) -> None:
    import numpy as np

    run = ready(tmp_path)
    path = run.inputs["interpreter_outputs"]["interpreter_outputs.npz"]
    with np.load(path) as found:
        kept = {name: found[name].copy() for name in found.files}
    kept["output/output"][3] += 1
    np.savez(path, **kept)
    assert run.simulate().metrics["agreement"]["mismatches"] == 0
