from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from integer_graphs import Builder, example_graph, features_of, narrow_graph

from flowlab.compiler import interpreter
from flowlab.compiler.ir import Graph
from flowlab.compiler.lower import lower
from flowlab.compiler.number_format import GENERIC
from flowlab.compiler.program import parse
from flowlab.compiler.trace import layer_crcs
from flowlab.config import load_mapping
from flowlab.contracts import Golden, LowerJob
from flowlab.errors import ProgramError
from flowlab.plugins import load
from flowlab.testing import check_target
from flowlab_cores.cores import CORES
from flowlab_tinpu.compiler_call import COMPRESS, SOFT, presets, target_string
from flowlab_tinpu.device_table import ROWS
from flowlab_tinpu.devices import TARGETS, Device, DeviceOptions
from flowlab_tinpu.lower import check_format
from flowlab_tinpu.number_format import NPU

DEVICES = {target.name: target for target in TARGETS}
CORE = {core.name: core for core in CORES}


def job_for(device: str, graph, out: Path, **changes) -> LowerJob:
    features = features_of(graph, 2)
    values = interpreter.run(graph, features)
    outputs = {name: values[value] for name, value in graph.outputs.items()}
    golden = Golden(features, values["quantize"], outputs, layer_crcs(graph, values), np.ones((2, 1, 100), np.float32))
    spec = {
        "shape": list(features.shape[1:]),
        "window": [1, 64],
        "options": {
            "feat_ext_transform": ["FFT_FE", "BINNING", "LOG_DB"],
            "frame_size": 64,
            "feature_size_per_frame": 16,
            "log_base": "e",
            "scale": None,
        },
    }
    job = LowerJob(graph, golden, True, CORE[DEVICES[device].core], None, ("a", "b"), "ab" * 32, out)
    return replace(job, feature_spec=spec, **changes)


def test_every_device_names_a_core_that_exists() -> None:
    assert {row.core for row in ROWS} == set(CORE)


def test_only_a_device_with_an_npu_has_rules_formats_and_quantizers() -> None:
    for device in TARGETS:
        has = bool(device.rules()), bool(device.passes()), "npu" in device.formats, bool(device.quantizers)
        assert set(has) == {device.row.npu}, device.name
        assert device.formats["cpu"] == GENERIC


@pytest.mark.parametrize("name", DEVICES)
def test_a_device_passes_the_checks_for_strangers(name: str) -> None:
    check_target(DEVICES[name], networks=0)


def test_the_reference_device_has_the_memory_that_its_maker_states() -> None:
    assert DEVICES["F28P55"].memory == {"flash": 1088 * 1024, "ram": 133 * 1024}
    assert DEVICES["F29P58"].memory == {}


def test_an_npu_device_runs_on_a_simulator_and_says_why_there_is_no_core() -> None:
    executions = {one.name: one for one in DEVICES["F28P55"].executions()}
    assert set(executions) == {"simulator", "host C", "emulated core"}
    assert executions["simulator"].missing() is None
    assert executions["emulated core"].missing() == "no open compiler or emulator for C28x"


def test_a_program_is_files_for_the_simulator_the_device_and_ti_s_compiler(tmp_path: Path) -> None:
    settings = {"target": "c, ti-npu type=hard skip_normalize=false output_int=false opt_for_space=true"}
    made = DEVICES["F28P55"].lower(job_for("F28P55", example_graph(), tmp_path, settings=settings))
    assert set(made.files) == {
        "model.flnp", "model.c", "model.h", "test_vector.c", "test_vector.h", "main.c", "host_runner.c",
        "user_input_config.h", "compiler_call.txt",
    }  # fmt: skip
    assert len(parse(made.files["model.flnp"].read_bytes()).golden.features) == 2
    assert made.packed_bytes == 8 * 5 + 8 * 8 * 3 + 16 * 8 * 5 + 2 * 16
    call = made.files["compiler_call.txt"].read_text()
    assert '--target="c, ti-npu type=hard skip_normalize=true output_int=true opt_for_space=true"' in call
    assert "--target-c-mcpu=c28" in call and "ab" * 32 in call
    header = made.files["user_input_config.h"].read_text()
    for line in (
        "FE_FFT",
        "FE_LOG",
        "FE_FRAME_SIZE 64",
        "FE_VARIABLES 1",
        "FE_FFT_STAGES 6",
        "FE_FFT_BIN_SIZE 2",
        "FE_LOG_BASE 2.718281828459045",
        "SKIP_NORMALIZE 1",
        "OUTPUT_INT 1",
    ):
        assert f"#define {line}\n" in header
    assert "FE_SCALE" not in header and "None" not in header
    assert {row.unit for row in made.layers if row.layer == "GCONV"} == {"npu"}


def test_vectors_may_be_left_out_of_the_program_and_stay_beside_it(tmp_path: Path) -> None:
    sizes = {}
    for golden in (True, False):
        options = DeviceOptions(golden=golden)
        made = DEVICES["F28P55"].lower(job_for("F28P55", example_graph(), tmp_path / str(golden), options=options))
        found = parse(made.files["model.flnp"].read_bytes())
        assert (found.golden is not None) == golden
        assert "TEST_VECTORS 2" in made.files["test_vector.h"].read_text()
        sizes[golden] = made.files["model.flnp"].stat().st_size
    assert sizes[False] < sizes[True]


@pytest.mark.parametrize(("kernels", "first"), [("speed", "mac4"), ("size", "windows("), ("plain", "least8")])
def test_a_device_s_c_is_of_the_kernels_that_were_asked_for(kernels: str, first: str, tmp_path: Path) -> None:
    options = DeviceOptions(kernels=kernels)
    made = DEVICES["AM13E2"].lower(job_for("AM13E2", example_graph(), tmp_path, options=options))
    assert first in made.files["model.c"].read_text()
    assert "device_runner.c" in made.files and "device.json" in made.files


def test_kernels_that_do_not_fit_the_device_give_way_to_smaller_ones(tmp_path: Path) -> None:
    row = next(row for row in ROWS if row.name == "CC1352")
    builder = Builder((1, 4096, 1), 3).conv("one", 10, (5, 1), unit="cpu").conv("two", 4, (3, 1), (4, 1), unit="cpu")
    graph = builder.flatten().linear("fc", 2, unit="cpu").graph()
    made = Device(row).lower(job_for("CC1352", graph, tmp_path))  # 16-bit activations: 80 kB and more
    assert "windows(" in made.files["model.c"].read_text()
    assert made.memory["ram"]["arena"] < 80 * 1024


def test_the_call_leaves_the_npu_alone_where_integers_are_those_of_any_cpu(tmp_path: Path) -> None:
    for name, wanted in ((NPU.name, "type=hard"), (GENERIC.name, "type=soft")):
        graph = replace(example_graph(), metadata={"number_format": name})
        made = DEVICES["F28P55"].lower(job_for("F28P55", graph, tmp_path / name))
        assert f'--target="c, ti-npu {wanted} ' in made.files["compiler_call.txt"].read_text()


def test_the_same_job_makes_the_same_bytes(tmp_path: Path) -> None:
    one = DEVICES["F28P55"].lower(job_for("F28P55", example_graph(), tmp_path / "a"))
    two = DEVICES["F28P55"].lower(job_for("F28P55", example_graph(), tmp_path / "b"))
    for name in one.files:
        assert one.files[name].read_bytes() == two.files[name].read_bytes(), name


def test_a_soft_target_switches_the_npu_off_where_there_is_one() -> None:
    soft = {"target": "c, ti-npu type=soft skip_normalize=true output_int=true"}
    assert "every layer on the CPU" in DEVICES["F28P55"].accelerator_off(soft)
    assert DEVICES["F28P55"].accelerator_off({"target": "c, ti-npu type=hard"}) == ""
    assert DEVICES["F28P55"].accelerator_off({}) == ""
    assert DEVICES["F28P65"].accelerator_off(soft) == ""


def test_a_program_that_is_too_large_says_what_is_largest(tmp_path: Path) -> None:
    graph = Builder((1, 16384, 1), 0).conv("wide", 4, (3, 1), layer="FCONV").sum_pool("p").flatten().linear("fc", 2)
    with pytest.raises(ProgramError, match=r"MSPM0G5187: does not fit: needs .* of 32\.0 kB ram; largest: arena"):
        DEVICES["MSPM0G5187"].lower(job_for("MSPM0G5187", graph.graph(), tmp_path))


def test_a_multiplier_that_the_npu_does_not_have_is_refused(tmp_path: Path) -> None:
    graph = Builder((1, 16, 1), 0, multiplier=True).conv("conv", 4, (3, 1), layer="FCONV").graph()
    with pytest.raises(ProgramError, match=r"'conv.bnorm': multiplier \d+ is outside 1 \.\. 1"):
        DEVICES["F28P55"].lower(job_for("F28P55", graph, tmp_path))


def narrow_bias(graph: Graph, change: int = 0) -> Graph:
    """The graph with one bias of its first layer widened by so much."""
    first = next(node for node in graph.nodes if node.op == "requantize")
    bias = first.constants["bias"].copy()
    bias[0] += change
    wide = replace(first, constants={**first.constants, "bias": bias})
    return replace(graph, nodes=tuple(wide if node is first else node for node in graph.nodes))


@pytest.mark.parametrize("bits", [4, 2])
def test_the_npu_takes_narrow_weights_with_multipliers_and_16_bits_of_bias(bits: int, tmp_path: Path) -> None:
    graph = narrow_graph((bits, 8), unit="npu")
    made = DEVICES["F28P55"].lower(job_for("F28P55", graph, tmp_path / "a"))
    assert made.packed_bytes == sum(math.ceil(count * bits / 8) for count in (5 * 3, 7 * 5 * 3, 3 * 7 * 5))
    shipped = parse(made.files["model.flnp"].read_bytes())
    assert {layer.weight_bits for layer in shipped.layers if layer.weight is not None} == {bits}
    with pytest.raises(ProgramError, match=rf"bias \d+ is outside -32768 \.\. 32767 \({bits}-bit weights"):
        DEVICES["F28P55"].lower(job_for("F28P55", narrow_bias(graph, 1 << 16), tmp_path / "b"))


def test_weights_take_twice_the_flash_where_a_char_has_16_bits(tmp_path: Path) -> None:
    beside = {}
    for device, unit, times in (("F28P55", "npu", 1), ("F28P55", "cpu", 2), ("F28P65", "cpu", 2)):
        made = DEVICES[device].lower(job_for(device, narrow_graph(unit=unit), tmp_path / device / unit))
        assert made.flash_weights == made.packed_bytes * times  # where nothing runs on the NPU the C is all there is
        beside[device, unit] = sum(made.memory["flash"].values()) - made.flash_weights
    channels = 5 + 7 + 3
    assert beside["F28P65", "cpu"] - beside["F28P55", "npu"] == channels  # a shift is a char; all else has 16 bits
    assert beside["F28P65", "cpu"] == beside["F28P55", "cpu"]


@pytest.mark.parametrize("device", ["F28P55", "F28P65"])
def test_what_does_not_fit_names_tensors_by_layer(device: str, tmp_path: Path) -> None:
    small = Device(DEVICES[device].row)
    small.memory = {"ram": 50}
    char_bytes = 1 if device == "F28P55" else 2
    conv1, conv2 = (channels * 11 * char_bytes for channels in (5, 7))
    said = f"largest tensors that the arena holds at once: conv2 {conv2} B, conv1 {conv1} B. "
    with pytest.raises(ProgramError, match=re.escape(said)):
        small.lower(job_for(device, narrow_graph(unit="npu" if device == "F28P55" else "cpu"), tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("device", ["F28P55", "F28P65", "CC1352"])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_every_device_takes_the_generic_numbers_on_its_cpu(device: str, bits: int, tmp_path: Path) -> None:
    graph = narrow_bias(narrow_graph((bits, bits)), 1 << 30)
    made = DEVICES[device].lower(job_for(device, graph, tmp_path))
    simulated = DEVICES[device].executions()[0]
    features = features_of(graph, 4)
    found = simulated.run(made.files, features, tmp_path / "scratch")
    assert simulated.name == "simulator" and {row.unit for row in made.layers} == {"cpu"}
    np.testing.assert_array_equal(found.outputs["output"], interpreter.run(graph, features)["fc.bnorm"])


@pytest.mark.parametrize(
    ("multiplier", "bias", "fits"), [(1, 1 << 20, True), (200, 1 << 10, True), (200, 1 << 20, False)]
)
def test_a_pool_obeys_the_widths_of_one_kind_of_weights(multiplier: int, bias: int, fits: bool) -> None:
    container = lower(Builder((1, 8, 1), 0).sum_pool("pool").graph(), "ab" * 32)
    pool = replace(container.layers[1], multiplier=np.array([multiplier]), bias=np.array([bias]))
    if fits:
        check_format(pool, NPU)
    else:
        with pytest.raises(ProgramError, match=r"layer 'pool\.bnorm'"):
            check_format(pool, NPU)


def test_the_compiler_s_flags_are_set_where_they_stand() -> None:
    row = DEVICES["CC2755"].row
    text = target_string(row, {"target": "c, ti-npu type=m33cde"}, skip_normalize=True, output_int=True)
    assert text == "c, ti-npu type=m33cde"


def test_presets_are_those_of_ti_s_tool() -> None:
    found = {(one.name, one.when["target_device"][0]) for one in presets(ROWS)}
    assert {name for name, device in found if device == "F28P55"} == {"default_preset", SOFT, COMPRESS}
    assert {name for name, device in found if device == "F28P65"} == {"default_preset"}
    for one in presets(ROWS):
        assert set(one.values) == {"target", "target_c_mcpu", "cross_compiler", "cross_compiler_options"}


def test_a_compile_preset_of_other_devices_leaves_the_default_and_the_device_s_are_listed() -> None:
    catalogue = load()
    sections = {
        "common": {"task_type": "generic_timeseries_classification", "target_device": "MSPM0G3507"},
        "dataset": {"dataset_name": "synfft"},
        "training": {"model_name": "CLS_4k_NPU", "quantization": 1},
        "compilation": {"preset_name": "compress_npu_layer_data"},
    }
    config = load_mapping(sections, catalogue)
    (said,) = [one for one in config.warnings if "preset_name" in one]
    assert "'compress_npu_layer_data' is not made for task" in said and "on MSPM0G3507: the device's default is" in said
    assert said.endswith("It has default_preset")
    assert config.compilation.target is None and "compile" not in config.presets
    sections["common"]["target_device"] = "F28P55"
    assert not [one for one in load_mapping(sections, catalogue).warnings if "preset_name" in one]
