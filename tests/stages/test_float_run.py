"""The stages on a float network: placement, law, memory and what is said, without a C compiler."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from float_bench import COUNT, DEVICE, GRAPH, OFF, Bench

from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.ir import Graph, Node
from flowlab.config import load_mapping
from flowlab.contracts import StageResult
from flowlab.engine import result as run_result
from flowlab.errors import AgreementError, FlowlabError, StageError
from flowlab.plugins import load
from flowlab.signal import features_file
from flowlab.stages import choice, inspect, quantize, validate
from flowlab.stages import compile as compile_stage
from flowlab.stages import simulate as simulate_stage
from flowlab_generic.host import HostCore, HostTarget


def read(result: StageResult, role: str) -> dict[str, Any]:
    (path,) = result.files[role].values()
    found: dict[str, Any] = json.loads(path.read_text())
    return found


# --- validate -------------------------------------------------------------------------------------


def test_every_layer_is_on_the_cpu_with_the_reason_and_no_warning(tmp_path: Path) -> None:
    result = Bench(tmp_path).validate()
    rows = read(result, "placement")["layers"]
    assert [row["name"] for row in rows] == ["conv", "pool", "fc"]
    assert {(row["unit"], row["reason"]) for row in rows} == {("cpu", OFF)}
    assert result.metrics["cpu_layers"] == ["conv", "pool", "fc"]
    assert result.metrics["npu_share"] == 0.0
    assert result.warnings == ()


def test_weights_count_four_bytes_each_and_nothing_is_padded(tmp_path: Path) -> None:
    result = Bench(tmp_path).validate()
    found = read(result, "placement")
    assert {row["name"]: row["weight_bytes"] for row in found["layers"]} == {"conv": 96, "pool": 0, "fc": 48}
    assert found["padding"] == {"layers": [], "macs": 0, "weight_bytes": 0}


def test_the_rows_say_float_and_how_far_apart_they_are(tmp_path: Path) -> None:
    agreement = Bench(tmp_path).validate().metrics["agreement"]
    assert (agreement["vectors"], agreement["mismatches"], agreement["comparison"]) == (COUNT, 0, "float")
    assert [(row["name"], row["comparison"]) for row in agreement["executions"]] == [
        ("ONNX Runtime", "float"), ("interpreter", "float"), ("torch", "float"),
    ]  # fmt: skip
    assert all(0 <= row["largest_difference"] < 1e-5 for row in agreement["executions"][1:])


def test_golden_vectors_are_floats_of_onnx_runtime(tmp_path: Path) -> None:
    run = Bench(tmp_path)
    run.validate()
    with np.load(run.inputs["golden"]["golden.npz"]) as golden:
        assert set(golden.files) == {"features", "inputs", "index", "output/output"}
        np.testing.assert_array_equal(golden["inputs"], golden["features"])
        runtime = validate.run_onnx(export_onnx(GRAPH, {}), golden["features"], ["output"])
        assert golden["output/output"].dtype == np.float32
        np.testing.assert_array_equal(golden["output/output"], runtime["output"])


def test_the_reference_of_simulate_is_onnx_runtime_itself(tmp_path: Path) -> None:
    run = Bench(tmp_path)
    run.validate()
    table = features_file.read(run.inputs["features_test"]["features.arrow"])
    with np.load(run.inputs["interpreter_outputs"]["interpreter_outputs.npz"]) as kept:
        runtime = validate.run_onnx(export_onnx(GRAPH, {}), table.features, ["output"])
        np.testing.assert_array_equal(kept["reference/output"], runtime["output"])


def test_a_torch_output_that_breaks_the_law_is_an_error_with_vector_and_numbers(tmp_path: Path) -> None:
    run = Bench(tmp_path)
    path = run.inputs["torch_outputs"]["torch_outputs.npz"]
    with np.load(path) as found:
        outputs = found["output"].copy()
    outputs[7, 2] += 1e-3
    np.savez(path, output=outputs)
    with pytest.raises(AgreementError, match=r"torch and ONNX Runtime differ in 1 of 40 vectors; vector 7"):
        run.validate()


def test_an_onnx_with_another_bit_in_a_weight_is_an_error(tmp_path: Path) -> None:
    run = Bench(tmp_path)
    run.inputs["quantized_onnx"]["best_model.onnx"].write_bytes(export_onnx(_nudged("fc"), {}))
    with pytest.raises(AgreementError, match="is not the quantizer's graph"):
        run.validate()


def _nudged(name: str, factor: float = 1 + 2**-23) -> Graph:
    def change(node: Node) -> Node:
        if node.name != name:
            return node
        weight = node.constants["weight"].copy()
        weight.flat[0] *= np.float32(factor)
        return replace(node, constants={**node.constants, "weight": weight})

    return replace(GRAPH, nodes=tuple(change(node) for node in GRAPH.nodes))


def test_the_first_layer_that_differs_is_found_by_its_values(tmp_path: Path) -> None:
    features = np.ones((1, 2, 12, 1), np.float32)
    assert validate.first_layer(GRAPH, export_onnx(GRAPH, {}), features) is None
    assert validate.first_layer(GRAPH, export_onnx(_nudged("conv", 1.5), {}), features) == "conv"
    assert validate.first_layer(GRAPH, export_onnx(_nudged("fc", 1.5), {}), features) == "fc"


# --- compile --------------------------------------------------------------------------------------


def test_a_device_gets_c_vectors_a_header_and_the_vendor_s_call(tmp_path: Path) -> None:
    run = Bench(tmp_path)
    run.validate()
    files = run.compile(target="c, ti-npu type=hard skip_normalize=true output_int=true").files["program"]
    assert set(files) == {
        "model.c", "model.h", "test_vector.c", "test_vector.h", "main.c", "host_runner.c", "user_input_config.h",
        "compiler_call.txt",
    }  # fmt: skip
    call, header = files["compiler_call.txt"].read_text(), files["user_input_config.h"].read_text()
    assert '--target="c, ti-npu type=soft skip_normalize=false output_int=false"' in call
    assert "#define SKIP_NORMALIZE 0\n#define OUTPUT_INT 0" in header
    assert "#define FE_NN_OUT_SIZE 3" in header


def test_memory_counts_floats_and_says_whether_they_fit(tmp_path: Path) -> None:
    run = Bench(tmp_path)
    run.validate()
    memory = read(run.compile(), "memory")
    assert memory["regions"]["flash"] == {"norm": 4 * 4, "conv": 4 * (24 + 4), "fc": 4 * (12 + 3)}
    assert memory["regions"]["ram"] == {"arena": 4 * (24 + 24), "input": 4 * 24, "output": 4 * 3}
    assert (memory["packed_bytes"], memory["program_bytes"], memory["fits"]) == (4 * 36, None, True)


def test_the_host_takes_a_float_network_too(tmp_path: Path) -> None:
    run = Bench(tmp_path, HostTarget(), HostCore())
    result = run.validate(off="")
    assert {row["reason"] for row in read(result, "placement")["layers"]} == {""}
    assert "compiler_call.txt" not in run.compile().files["program"]


# --- simulate -------------------------------------------------------------------------------------


def test_executions_that_run_integers_only_say_so_and_an_absent_one_its_own_reason() -> None:
    rows = {row["name"]: row["reason"] for row in simulate_stage._not_run(DEVICE, floats=True)}
    assert rows["simulator"] == "it runs integers only"
    assert rows["emulated core"] == "no open compiler or emulator for C28x"
    assert "simulator" not in {row["name"] for row in simulate_stage._not_run(DEVICE, floats=False)}


def test_where_nothing_runs_floats_the_run_fails_with_all_reasons(tmp_path: Path) -> None:
    run = Bench(tmp_path)
    run.validate()
    run.compile()
    run.target = _without_floats()
    with pytest.raises(StageError, match=r"no execution of .* runs here: .*it runs integers only"):
        run.simulate()


def _without_floats() -> Any:
    from flowlab_tinpu.executions import Simulator

    class Integers(HostTarget):
        def executions(self) -> tuple[Any, ...]:
            return (Simulator(),)

    return Integers()


# --- what the config chooses ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def catalogue() -> Any:
    return load()


def config(catalogue: Any, device: str = "F28P55", **training: Any) -> Any:
    values = {section: dict(keys) for section, keys in catalogue.preset("example", "demo").values.items()}
    values["common"]["target_device"] = device
    values["compilation"] = {}
    values["training"] = {**values["training"], "quantization": 0, **training}
    return load_mapping(values, catalogue)


def test_quantization_0_needs_no_number_format_and_switches_the_accelerator_off(catalogue: Any) -> None:
    asked = config(catalogue)
    assert choice.chosen_format(asked, catalogue) == choice.NO_FORMAT
    assert choice.accelerator_off(asked, catalogue) == OFF


def test_a_quantizer_for_cpus_switches_the_accelerator_off_with_its_own_words(catalogue: Any) -> None:
    asked = config(catalogue, quantization=1)
    assert choice.accelerator_off(asked, catalogue) == "quantization: 1; set 2 for the NPU"


def test_an_accelerator_of_another_name_than_npu_is_used_by_its_own_quantizer(
    catalogue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(catalogue, quantization=2)
    quantizer = catalogue.get("quantizer", asked.quantizer_name(catalogue))
    monkeypatch.setattr(type(quantizer), "format", "dsp")
    assert choice.accelerator_off(asked, catalogue) == ""


@pytest.mark.parametrize("device", ["host", "F28P65"])
def test_a_device_without_an_accelerator_needs_no_reason(catalogue: Any, device: str) -> None:
    assert choice.accelerator_off(config(catalogue, device), catalogue) == ""


def test_bits_are_32_and_nothing_is_calibrated_whatever_was_asked_for(catalogue: Any) -> None:
    plain = config(catalogue)
    other = config(catalogue, quantization_weight_bitwidth=4, quantization_calibration_count=17)
    for stage in (inspect, quantize):
        assert stage.options(plain, catalogue) == stage.options(other, catalogue)
    found = quantize.options(plain, catalogue)
    assert (found.weight_bits, found.activation_bits, found.calibration_count, found.output_int) == (32, 32, 0, False)
    assert compile_stage.options(plain, catalogue).skip_normalize is False


def test_integers_asked_for_where_there_are_none_are_an_error(catalogue: Any) -> None:
    with pytest.raises(FlowlabError, match="output_int: true asks for integers"):
        quantize.options(config(catalogue, output_int=True), catalogue)


def test_the_summary_says_that_floats_were_compared() -> None:
    said = {"vectors": 9, "mismatches": 0, "executions": ["host C"], "not_run": []}
    text = run_result._agreement_text({**said, "comparison": "float"})
    assert text == "0 mismatches in 9 vectors, float, within 1e-5 of the largest output (host C)"
    assert "float" not in run_result._agreement_text({**said, "comparison": "bit for bit"})


def test_a_hair_s_breadth_is_a_mismatch_of_integers_and_none_of_floats() -> None:
    left, right = np.array([[1.0]]), np.array([[1.0 + 1e-7]])
    assert validate._differs(left, right, floats=False).all()
    assert not validate._differs(left, right, floats=True).any()
