"""Five small stages of a sweep as one could write them: two that every device shares, and three that it does not."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagined

from flowlab.contracts import NoOptions, Stage, StageJob, StageResult
from flowlab.errors import QuantizationError


@dataclass(frozen=True)
class Device:
    """Its name alone."""

    name: str


@dataclass(frozen=True)
class TrainOptions:
    """What trains."""

    training_epochs: int
    seed: int


@dataclass(frozen=True)
class Bits:
    """What quantizes; ``npu`` stands for a number format."""

    bits: int
    npu: bool
    seed: int


def config(data: Path) -> str:
    """The sections of a sweep's file over these stages."""
    return f"""
common: {{task_type: generic_timeseries_classification, target_device: F28P55}}
dataset: {{input_data_path: {data}, dataset_name: imagined}}
training: {{model_name: CLS_500_NPU, training_epochs: 2}}
"""


def inspect(job: StageJob) -> StageResult:
    imagined.note(f"inspect {job.options.name}")
    if job.options.name in os.environ.get("IMAGINED_REFUSED", "").split(","):
        raise QuantizationError(f"nothing of this runs on {job.options.name}. Choose another device")
    return one_file(job, "gate", "gate.json", {})


def train(job: StageJob) -> StageResult:
    imagined.note(f"train {job.options.seed}")
    state = job.input("recordings").read_bytes() + str(job.options).encode()
    model = job.out / "best_model.pt"
    model.write_bytes(hashlib.sha256(state).digest())
    metrics = job.out / "metrics_train.json"
    metrics.write_text(json.dumps({"test": {"accuracy": 0.9 + 0.01 * job.options.seed}, "parameters": 100}))
    return StageResult(
        {"float_model": {"best_model.pt": model}, "metrics_train": {"metrics_train.json": metrics}},
        metrics={"test": {"accuracy": 0.9 + 0.01 * job.options.seed}},
    )


def quantize(job: StageJob) -> StageResult:
    asked: Bits = job.options
    imagined.note(f"quantize {asked.bits}")
    if str(asked.bits) in os.environ.get("IMAGINED_BROKEN", "").split(","):
        raise QuantizationError(f"{asked.bits} bits are broken on purpose. Unset IMAGINED_BROKEN")
    accuracy = 0.9 + 0.01 * asked.seed - 0.1 / asked.bits
    return one_file(job, "metrics_quantize", "metrics_quantize.json", {"test": {"accuracy": accuracy}})


def place(job: StageJob) -> StageResult:
    imagined.note(f"compile {job.options.name}")
    return one_file(job, "memory", "memory.json", {"packed_bytes": 64}, {"needed": {"flash": 1000, "ram": 10}})


def report(job: StageJob) -> StageResult:
    page = job.out / "report.html"
    page.write_bytes(job.input("metrics_quantize").read_bytes() + job.input("notes").read_bytes())
    return StageResult({"report": {"report.html": page}})


def one_file(job: StageJob, role: str, name: str, value: Any, metrics: dict[str, Any] | None = None) -> StageResult:
    path = job.out / name
    path.write_text(json.dumps(value))
    return StageResult({role: {name: path}}, metrics=metrics or {})


def device(config: Any, catalogue: Any) -> Device:
    return Device(config.common.target_device)


def stages() -> tuple[Stage, ...]:
    ingest = next(one for one in imagined.stages() if one.name == "ingest")
    return (
        ingest,
        Stage("inspect", "imagined_sweep:inspect", ("recordings",), ("gate",), device),
        Stage(
            "train",
            "imagined_sweep:train",
            ("recordings",),
            ("float_model", "metrics_train"),
            lambda config, catalogue: TrainOptions(config.training.training_epochs, config.training.seed),
            after=("inspect",),
            torch=True,
        ),
        Stage(
            "quantize",
            "imagined_sweep:quantize",
            ("float_model",),
            ("metrics_quantize",),
            lambda config, catalogue: Bits(
                config.training.quantization_weight_bitwidth,
                config.common.target_device != "MSPM33C32",
                config.training.seed,
            ),
            torch=True,
        ),
        Stage("compile", "imagined_sweep:place", ("metrics_quantize",), ("memory",), device),
        Stage(
            "report",
            "imagined_sweep:report",
            ("metrics_quantize", "memory", "notes"),
            ("report",),
            lambda config, catalogue: NoOptions(),
        ),
    )
