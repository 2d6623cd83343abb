"""The network that breaks a rule, needs padding and has a CPU layer, through every execution that there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import rule_breaker
from networks.tones import tones
from networks.training import outputs, quantize_job, trained

from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.text import parse_graph, print_graph
from flowlab.contracts import NoOptions, StageJob, StageResult
from flowlab.cpu import host_compiler
from flowlab.signal import features_file
from flowlab.stages import compile as compile_stage
from flowlab.stages import simulate, validate
from flowlab_cores.cores import CORES
from flowlab_tinpu.devices import TARGETS
from flowlab_tinpu.number_format import NPU
from flowlab_tinpu.quantizers import QUANTIZERS

CLASSES = ["low", "middle", "high"]
DEVICE = next(target for target in TARGETS if target.name == "F28P55")
CORE = next(core for core in CORES if core.name == DEVICE.core)


class Run:
    """Files by role, and the stages that make more of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inputs: dict[str, dict[str, Path]] = {}

    def put(self, role: str, name: str) -> Path:
        self.inputs[role] = {name: self.folder / name}
        return self.folder / name

    def stage(self, module: Any, options: Any) -> StageResult:
        name = module.STAGE.name
        out, scratch = self.folder / name, self.folder / f"{name}-scratch"
        out.mkdir()
        plugins = {"target": DEVICE, "core": CORE}
        job = StageJob(
            self.inputs, options, plugins, dict.fromkeys(plugins, NoOptions()), out, scratch, lambda what, done: None
        )
        result: StageResult = module.run(job)
        self.inputs.update({role: dict(files) for role, files in result.files.items()})
        return result


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda quantizer: quantizer.name)
@pytest.mark.parametrize("output_int", [True, False], ids=["integers", "floats"])
def test_all_five_executions_give_equal_integers(quantizer, output_int: bool, tmp_path: Path) -> None:
    if host_compiler.find() is None:
        pytest.skip("no C compiler on PATH")
    features, labels = tones(60, 4)
    quantized = quantizer.quantize(quantize_job(trained(), epochs=1, output_int=output_int), NoOptions())
    run = Run(tmp_path)
    run.put("graph", "graph.txt").write_text(print_graph(quantized.graph))
    run.put("quantized_onnx", "best_model.onnx").write_bytes(export_onnx(quantized.graph, {}))
    converted = outputs(quantized.module, features)
    np.savez(
        run.put("torch_outputs", "torch_outputs.npz"),
        output=converted.astype(np.int32) if output_int else converted,
    )
    meta = {"classes": CLASSES, "split": "test", "provenance": "tones"}
    rows = np.zeros(len(labels), np.int32), np.zeros(len(labels), np.int64)
    features_file.write(run.put("features_test", "features.arrow"), features, labels, *rows, meta)
    windows = features.reshape(len(features), 1, -1)
    features_file.write(run.put("windows", "windows.arrow"), windows, labels, *rows, meta, index=np.arange(len(labels)))
    spec = {"shape": list(rule_breaker.SHAPE), "classes": CLASSES, "options": {}}
    run.put("feature_spec", "feature_spec.json").write_text(json.dumps(spec))

    run.stage(validate, validate.ValidateOptions(NPU))
    placed = parse_graph(run.inputs["placed_graph"]["graph.txt"].read_text())
    units = {node.attributes.get("unit") for node in placed.nodes if "layer" in node.attributes}
    assert units == {"npu", "cpu"}
    assert any("channels" in node.attributes for node in placed.nodes)
    run.stage(compile_stage, compile_stage.CompileOptions(True, {}))
    result = run.stage(simulate, simulate.SimulateOptions("classification"))
    agreement = result.metrics["agreement"]
    assert (agreement["vectors"], agreement["mismatches"]) == (len(labels), 0)
    assert [row["name"] for row in agreement["executions"]] == ["simulator", "host C"]
    assert result.metrics["simulated"]["accuracy"] > 0.5
