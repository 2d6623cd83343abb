"""The two last working stages on a small network, from files to files, as the engine calls them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from integer_graphs import awkward_graph, example_graph, features_of, moving_graph

from flowlab.compiler import interpreter
from flowlab.compiler.place import place
from flowlab.compiler.program import encode, parse
from flowlab.compiler.text import print_graph
from flowlab.compiler.trace import layer_crcs
from flowlab.contracts import Costs, Execution, FeatureExtractor, NoOptions, StageJob, StageResult, Target
from flowlab.cpu import host_compiler
from flowlab.cpu.host_c import HostC
from flowlab.errors import AgreementError, StageError
from flowlab.signal import features_file
from flowlab.stages import compile as compile_stage
from flowlab.stages import simulate as simulate_stage
from flowlab_cores.cores import CORES
from flowlab_tinpu.devices import TARGETS
from flowlab_tinpu.executions import Absent

F28P55 = next(target for target in TARGETS if target.name == "F28P55")
CLASSES = ["calm", "wild", "wilder"]
COUNT = 30


@dataclass
class Bench:
    """Files of a made-up run, and the jobs of both stages."""

    folder: Path
    inputs: dict[str, dict[str, Path]]
    target: Any = F28P55

    def job(self, stage: str, options: Any) -> StageJob:
        out = self.folder / f"{stage}-out"
        out.mkdir()
        core = next(core for core in CORES if core.name == self.target.core)
        return StageJob(
            self.inputs, options, {"target": self.target, "core": core}, {"target": NoOptions(), "core": NoOptions()},
            out, self.folder / f"{stage}-scratch", lambda what, done: None,
        )  # fmt: skip

    def compile(self) -> StageResult:
        result = compile_stage.run(self.job("compile", compile_stage.CompileOptions(True, {})))
        self.inputs.update({role: dict(files) for role, files in result.files.items()})
        return result

    def simulate(self) -> StageResult:
        return simulate_stage.run(self.job("simulate", simulate_stage.SimulateOptions("classification")))


def bench(folder: Path, graph, pool: Path | None = None) -> Bench:
    features = features_of(graph, COUNT)
    values = interpreter.run(graph, features)
    outputs = {f"output/{name}": values[value] for name, value in graph.outputs.items()}
    crcs = {f"crc/{name}": crc for name, crc in layer_crcs(graph, values).items()}
    labels = np.arange(COUNT, dtype=np.int64) % len(CLASSES)
    recording, start = np.zeros(COUNT, np.int32), np.zeros(COUNT, np.int64)
    meta = {"classes": CLASSES, "split": "test", "provenance": "test"}
    files = {
        "placed_graph": "graph.txt", "golden": "golden.npz", "windows": "windows.arrow", "quantized_onnx": "m.onnx",
        "feature_spec": "feature_spec.json", "features_test": "features.arrow",
        "interpreter_outputs": "interpreter_outputs.npz",
    }  # fmt: skip
    paths = {role: folder / name for role, name in files.items()}
    paths["placed_graph"].write_text(print_graph(graph))
    paths["quantized_onnx"].write_bytes(b"onnx")
    paths["feature_spec"].write_text(json.dumps({"shape": list(features.shape[1:]), "classes": CLASSES, "options": {}}))
    np.savez(paths["interpreter_outputs"], **outputs, **crcs)
    chosen = np.array([1, 5])
    some = {key: value[chosen] for key, value in {**outputs, **crcs}.items()}
    np.savez(paths["golden"], features=features[chosen], inputs=values["quantize"][chosen], index=chosen, **some)
    features_file.write(paths["features_test"], features, labels, recording, start, meta)
    windows = np.arange(10 * 8, dtype=np.float32).reshape(10, 1, 8)
    rows = np.arange(10)
    features_file.write(paths["windows"], windows, labels[:10], recording[:10], start[:10], meta, index=rows)
    return Bench(folder, {role: {path.name: path} for role, path in paths.items()})


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_compiler, "find", lambda: None)


@pytest.mark.parametrize("graph", [example_graph(), awkward_graph(), moving_graph()])
def test_a_compiled_program_agrees_on_every_vector(graph, tmp_path: Path, no_compiler: None) -> None:
    run = bench(tmp_path, graph)
    if "integers" in graph.outputs:  # 8-bit multipliers: no format of this NPU, so its CPU-only sister takes it
        run.target = next(target for target in TARGETS if target.name == "AM13E2")
        run.target = _relaxed(run.target)
    compiled = run.compile()
    assert set(compiled.files) == set(compile_stage.STAGE.makes)
    result = run.simulate()
    assert set(result.files) == set(simulate_stage.STAGE.makes)
    agreement = json.loads(result.files["agreement"]["agreement.json"].read_text())
    assert agreement["vectors"] == COUNT
    assert agreement["mismatches"] == 0
    emulated = run.target.name == "AM13E2"  # there is no emulator of the other one's core
    assert [row["name"] for row in agreement["executions"]] == ["simulator", *["emulated core"] * emulated]
    assert {row["name"] for row in agreement["not_run"]} == {"host C", *["emulated core"] * (not emulated)}
    assert all(row["reason"] for row in agreement["not_run"])
    costs = json.loads(result.files["costs"]["costs.json"].read_text())
    assert set(costs["measured"]) == {"emulated core"} if emulated else costs["measured"] == {}
    metrics = json.loads(result.files["metrics_simulate"]["metrics_simulate.json"].read_text())
    assert sum(map(sum, metrics["confusion"])) == COUNT
    assert result.metrics["simulated"] == metrics["test"]


def _relaxed(target: Any) -> Any:
    from dataclasses import replace

    from flowlab.contracts import Requantize
    from flowlab_tinpu.devices import Device

    relaxed = Device(target.row)
    relaxed.formats = {"npu": replace(target.formats["npu"], by_weight_bits={8: Requantize(8, (0, 31), 24)})}
    return relaxed


def test_the_golden_vectors_ship_with_their_raw_windows(tmp_path: Path) -> None:
    run = bench(tmp_path, example_graph())
    result = run.compile()
    assert result.warnings == ()
    assert "TEST_VECTORS 2" in result.files["program"]["test_vector.h"].read_text()
    assert "raw_input_test[2 * 8] = {\n    0x1p+3F, 0x1.2p+3F," in result.files["program"]["test_vector.c"].read_text()


def test_memory_is_held_against_the_device(tmp_path: Path) -> None:
    memory = json.loads(bench(tmp_path, example_graph()).compile().files["memory"]["memory.json"].read_text())
    assert memory["fits"] is True
    assert memory["needed"]["ram"] == 512 + 64
    assert memory["available"]["ram"] == 133 * 1024
    assert memory["program_bytes"] > memory["packed_bytes"] == 904


def test_the_record_says_that_an_open_model_stands_for_the_npu_where_it_is_used(tmp_path: Path) -> None:
    for name, graph, said in (("npu", example_graph(), True), ("cpu", moving_graph(), False)):
        (tmp_path / name).mkdir()
        placed = graph if said else place(graph, ()).graph
        result = bench(tmp_path / name, placed).compile()
        memory = json.loads(result.files["memory"]["memory.json"].read_text())
        assert ("runs on an open model of it" in memory["silicon"]) == said
        assert "is not installed" in result.metrics["tools"]["ti_mcu_nnc"]


def test_costs_count_what_runs_on_the_npu(tmp_path: Path, no_compiler: None) -> None:
    run = bench(tmp_path, example_graph())
    run.compile()
    costs = json.loads(run.simulate().files["costs"]["costs.json"].read_text())
    assert costs["macs_npu"] == 8 * 5 * 32 + 8 * 8 * 3 * 32 + 16 * 8 * 5 * 8 + 32
    assert (costs["macs_cpu"], costs["npu_share"], costs["cycles"]) == (0, 1.0, None)


def test_three_costs_are_kept_apart(tmp_path: Path, no_compiler: None) -> None:
    """What was counted, what the model NPU takes, what is estimated: each in its place, or with a reason, or None."""
    run = bench(tmp_path, example_graph())
    run.compile()
    costs = json.loads(run.simulate().files["costs"]["costs.json"].read_text())
    assert costs["measured"] == {}
    model, estimate = costs["model"], costs["estimate"]
    assert model["name"] == "model NPU" and model["macs_a_cycle"] == 16
    assert model["cycles"] == sum(model["by_layer"].values()) > costs["macs_npu"] / 16
    layers = {node.name for node in example_graph().nodes if "layer" in node.attributes}
    assert set(model["by_layer"]) == layers
    assert estimate["cycles"] != model["cycles"] and 0 < estimate["band"] < 1 and estimate["reason"] == ""


class Silent(type(F28P55)):
    """A device whose plugin says nothing of costs."""

    def costs(self, graph: Any) -> Costs:
        return Target.costs(self, graph)


def test_a_target_need_not_know_any_costs(tmp_path: Path, no_compiler: None) -> None:
    run = bench(tmp_path, example_graph())
    run.target = Silent(F28P55.row)
    run.compile()
    costs = json.loads(run.simulate().files["costs"]["costs.json"].read_text())
    assert costs["model"] is None and costs["estimate"] is None


@pytest.mark.parametrize(("accelerator", "share"), [(True, 0.0), (False, None)])
def test_a_share_of_none_means_that_there_is_no_accelerator(accelerator: bool, share: float | None) -> None:
    on_cpu = place(awkward_graph(), ()).graph
    costs = simulate_stage.costs(on_cpu, None, {}, accelerator=accelerator)
    assert (costs["macs_npu"], costs["npu_share"]) == (0, share)
    assert costs["macs_cpu"] > 0


def test_a_program_that_differs_stops_the_run_and_names_the_layer(tmp_path: Path, no_compiler: None) -> None:
    run = bench(tmp_path, example_graph())
    run.compile()
    with np.load(run.inputs["interpreter_outputs"]["interpreter_outputs.npz"]) as found:
        values = {name: found[name].copy() for name in found.files}
    values["crc/pool"][7] ^= 1
    np.savez(run.inputs["interpreter_outputs"]["interpreter_outputs.npz"], **values)
    with pytest.raises(AgreementError, match=r"differs .* on 1 of 30 vectors; vector 7 parts first at pool"):
        run.simulate()


def test_one_bit_of_a_weight_in_the_shipped_bytes_stops_the_stage(tmp_path: Path, no_compiler: None) -> None:
    run = bench(tmp_path, example_graph())
    run.compile()
    program = run.inputs["program"]["model.flnp"]
    container = parse(program.read_bytes())
    layer = next(one for one in container.layers if one.name == "conv1.bnorm")
    weight = layer.weight.copy()
    weight.flat[3] ^= 64
    layers = tuple(replace(layer, weight=weight) if one is layer else one for one in container.layers)
    changed = tmp_path / "changed"
    changed.mkdir()
    run.inputs["program"] = {**run.inputs["program"], "model.flnp": changed / "model.flnp"}
    (changed / "model.flnp").write_bytes(encode(replace(container, layers=layers)))
    with pytest.raises(AgreementError, match=r"'simulator' differs .* parts first at conv1\.bnorm"):
        run.simulate()


class Bare(type(F28P55)):
    """A device that only a compiler and an emulator could run."""

    def __init__(self) -> None:
        super().__init__(F28P55.row)
        self.name = "bare"

    def executions(self) -> tuple[Execution, ...]:
        return (HostC(), Absent("emulated core", "no emulator of it"))


def test_where_nothing_runs_the_run_fails_with_all_reasons(tmp_path: Path, no_compiler: None) -> None:
    run = bench(tmp_path, example_graph())
    run.compile()
    run.target = Bare()
    with pytest.raises(StageError, match=r"no execution of bare runs here: .*no C compiler.*no emulator of it"):
        run.simulate()


def test_tools_say_which_compiler_counts_or_that_it_is_absent(no_compiler: None) -> None:
    class Config:
        class common:
            target_device = "F28P55"

    class Catalogue:
        def get(self, kind: str, name: str) -> Any:
            return F28P55

    assert simulate_stage.tools(Config, Catalogue()) == {
        "simulator": "", "host C": "absent", "emulated core": "absent",
    }  # fmt: skip


class WithC(FeatureExtractor):
    name = "with_c"

    def shape(self, window: tuple[int, int], options: Any) -> tuple[int, int, int]:
        return (*window, 1)

    def extract(self, windows: Any, options: Any) -> Any:
        return windows[..., None]

    def emit_c(self, shape: tuple[int, int], options: Any) -> str:
        return f"/* {shape} {options} */\n"


def test_an_extractors_own_c_ships_with_the_program(tmp_path: Path) -> None:
    run = bench(tmp_path, example_graph())
    spec = run.inputs["feature_spec"]["feature_spec.json"]
    spec.write_text(json.dumps({**json.loads(spec.read_text()), "window": [1, 8]}))
    job = run.job("compile", compile_stage.CompileOptions(True, {}))
    brought = {**job.plugins, "feature_extractor": WithC()}
    options = {**job.plugin_options, "feature_extractor": NoOptions()}
    made = compile_stage.run(replace(job, plugins=brought, plugin_options=options))
    assert made.files["program"]["feature_extraction.c"].read_text() == "/* (1, 8) NoOptions() */\n"
