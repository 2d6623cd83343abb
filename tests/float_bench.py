"""The files of a made-up float run, and the stages behind quantize on them: what several tests share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from flowlab.compiler import interpreter
from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.ir import Graph
from flowlab.compiler.text import parse_graph, print_graph
from flowlab.contracts import NoOptions, StageJob, StageResult
from flowlab.signal import features_file
from flowlab.stages import choice, validate
from flowlab.stages import compile as compile_stage
from flowlab.stages import simulate as simulate_stage
from flowlab_cores.cores import CORES
from flowlab_tinpu.devices import TARGETS

OFF = "quantization: 0; set 2 for the NPU"
CLASSES = ["a", "b", "c"]
COUNT = 40
DEVICE = next(target for target in TARGETS if target.name == "F28P55")
CORE = next(core for core in CORES if core.name == DEVICE.core)
GRAPH = parse_graph(
    """
    graph 1
    input %input: float32[2, 12, 1]
    %norm: float32[2, 12, 1] = batch_norm(%input) epsilon=1e-05
      bias: float32[2] = 0.5 -0.25
      mean: float32[2] = 1.0 -2.0
      variance: float32[2] = 4.0 9.0
      weight: float32[2] = 1.5 0.75
    %conv: float32[4, 6, 1] = conv(%norm) groups=1 padding=(1, 0, 1, 0) stride=(2, 1)
      bias: float32[4] = 0.1 0.2 0.3 0.4
      weight: float32[4, 2, 3, 1] = 0.5 -0.25 0.125 1.0 -1.0 0.75 0.3 0.2 0.1 -0.1 -0.2 -0.3 0.9 0.8 -0.7 0.6 0.5 -0.4 0.3 -0.2 0.1 0.7 -0.6 0.5
    %relu: float32[4, 6, 1] = relu(%conv)
    %pool: float32[4, 1, 1] = average_pool(%relu)
    %flat: float32[4] = flatten(%pool)
    %fc: float32[3] = linear(%flat)
      bias: float32[3] = 0.5 -0.25 0.125
      weight: float32[3, 4] = 1.0 -1.0 0.5 0.25 0.75 -0.5 1.5 -1.25 0.1 0.2 0.3 0.4
    output "output" = %fc
    """  # noqa: E501 - a weight stands on one line
)


class Bench:
    """Files of a made-up float run, and the stages behind quantize."""

    def __init__(self, folder: Path, target: Any = DEVICE, core: Any = CORE, graph: Graph = GRAPH) -> None:
        self.folder, self.target, self.core = folder, target, core
        self.inputs: dict[str, dict[str, Path]] = {}
        features = (np.random.default_rng(0).normal(size=(COUNT, 2, 12, 1)) * 3).astype(np.float32)
        labels = np.arange(COUNT, dtype=np.int64) % 3
        zeros, meta = np.zeros(COUNT, np.int32), {"classes": CLASSES, "split": "test", "provenance": "made"}
        self.put("graph", "graph.txt").write_text(print_graph(graph))
        self.put("quantized_onnx", "best_model.onnx").write_bytes(export_onnx(graph, {}))
        np.savez(self.put("torch_outputs", "torch_outputs.npz"), **interpreter.outputs(graph, features))
        features_file.write(
            self.put("features_test", "features.arrow"), features, labels, zeros, np.arange(COUNT), meta
        )
        windows, rows = features.reshape(COUNT, 1, -1), np.arange(COUNT)
        features_file.write(self.put("windows", "windows.arrow"), windows, labels, zeros, rows, meta, index=rows)
        spec = {"shape": [2, 12, 1], "classes": CLASSES, "options": {}}
        self.put("feature_spec", "feature_spec.json").write_text(json.dumps(spec))

    def put(self, role: str, name: str) -> Path:
        self.inputs[role] = {name: self.folder / name}
        return self.folder / name

    def stage(self, module: Any, options: Any) -> StageResult:
        name = module.STAGE.name
        (self.folder / name).mkdir()
        plugins = {"target": self.target, "core": self.core}
        job = StageJob(
            self.inputs, options, plugins, dict.fromkeys(plugins, NoOptions()), self.folder / name,
            self.folder / f"{name}-scratch", lambda what, done: None,
        )  # fmt: skip
        result: StageResult = module.run(job)
        self.inputs.update({role: dict(files) for role, files in result.files.items()})
        return result

    def validate(self, off: str = OFF) -> StageResult:
        return self.stage(validate, validate.ValidateOptions(choice.NO_FORMAT, off))

    def compile(self, **settings: str) -> StageResult:
        return self.stage(compile_stage, compile_stage.CompileOptions(False, settings))

    def simulate(self) -> StageResult:
        return self.stage(simulate_stage, simulate_stage.SimulateOptions("classification"))
