"""Runs the imagined stages as `flowlab run` does: `python imagined_run.py INPUT EPOCHS COMMAND [words]`.

Only the config and the stages are imagined; command line, engine, store and server are the real ones.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))

import imagined

import flowlab.cli
import flowlab.stages
from flowlab.contracts import NoOptions, Stage, StageJob, StageResult
from flowlab.errors import StageError


def simulate(job: StageJob) -> StageResult:
    imagined.note("simulate")
    gate = os.environ.get("IMAGINED_GATE")
    while gate and not Path(gate).exists():  # so long the stage is in the middle of its work
        time.sleep(0.01)
    if os.environ.get("IMAGINED_NOISE"):
        os.write(1, b"a library speaks\n")
    if os.environ.get("IMAGINED_FAILURE"):
        raise StageError("stage simulate: broken on purpose. Unset IMAGINED_FAILURE")
    said = {
        "vectors": 7,
        "mismatches": int(os.environ.get("IMAGINED_MISMATCHES", "0")),
        "executions": [{"name": "simulator", "vectors": 7, "mismatches": 0, "first_difference": None}],
        "not_run": [{"name": "host C", "reason": "no compiler"}],
    }
    agreement = job.out / "agreement.json"
    agreement.write_text(json.dumps(said))
    return StageResult(
        {"agreement": {"agreement.json": agreement}}, metrics={"agreement": said, "simulated": {"accuracy": 0.875}}
    )


def stages() -> tuple[Stage, ...]:
    made = Stage(
        "simulate", "imagined_run:simulate", ("float_model",), ("agreement",), lambda config, catalogue: NoOptions(),
        after=("ingest",),
    )  # fmt: skip
    return (*imagined.stages(), made)


def config(data: Path, epochs: int) -> Any:
    made = imagined.config(data, epochs)
    made.dataset_name = os.environ.get("IMAGINED_DATASET", "imagined")
    made.given = {"training": {"training_epochs": epochs}}
    made.training.model_name = "imagined"
    made.common = SimpleNamespace(target_device="none")
    limit = os.environ.get("IMAGINED_DROP")
    made.testing = SimpleNamespace(enable=True, max_accuracy_drop=float(limit) if limit else None)
    return made


def main(arguments: list[str]) -> int:
    data, epochs, command, *words = arguments
    sys.path.insert(0, str(Path(__file__).parent))
    flowlab.stages.STAGES = stages()
    catalogue = SimpleNamespace(broken={}, find=lambda kind, name: None)
    flowlab.cli._config = lambda arguments: (config(Path(data), int(epochs)), catalogue)  # type: ignore[assignment]
    return flowlab.cli.main([command, *words, "imagined.yaml"])


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it, and so would this
    sys.exit(main(sys.argv[1:]))
