"""Retraining for real: recordings arrive in a folder, a run is compared with the promoted one on its test windows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.system

CONFIG = """
common: {task_type: generic_timeseries_classification, target_device: F28P55}
dataset: {dataset_name: shaking, input_data_path: recordings}
data_processing_feature_extraction:
  {data_proc_transforms: [SimpleWindow], frame_size: 128, stride_size: 1, variables: 1}
training: {model_name: CLS_500_NPU, training_epochs: 6, batch_size: 16, quantization_epochs: 3}
"""


def record(folder: Path, count: int, first: int = 0) -> None:
    """Recordings of two classes that a small network tells apart."""
    for label, rate in (("calm", 3.0), ("shaking", 40.0)):
        place = folder / "recordings" / "classes" / label
        place.mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            rng = np.random.default_rng([number, int(rate)])
            time = np.arange(1024) / 256
            wave = np.sin(2 * np.pi * (rate + rng.normal()) * time + rng.uniform(0, 6)) + 0.1 * rng.normal(size=1024)
            np.savetxt(place / f"{label}{number}.csv", wave[:, None], header="x", comments="", fmt="%.5f")


def run(folder: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "flowlab.cli", "run", "config.yaml", "--engine", "local", "--json", "--promote", *words],
        cwd=folder, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_new_recordings_are_learned_from_and_the_better_run_is_promoted(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    record(tmp_path, 10)
    promoted = tmp_path / "artifacts" / "shaking" / "promoted"

    untrained = run(tmp_path, "--set", "training.training_epochs=0", "--set", "training.quantization_method=PTQ")
    assert untrained["promotion"]["promoted"] is True
    assert promoted.resolve().name == untrained["run"]

    record(tmp_path, 4, first=10)
    trained = run(tmp_path)
    found = trained["promotion"]
    assert found["before"] == untrained["run"]
    assert found["limit"] is not None, found["reason"]
    assert found["promoted"] is True and found["value"] >= found["limit"]
    assert promoted.resolve().name == trained["run"]

    again = run(tmp_path)
    assert all(stage["cached"] for stage in again["stages"])
    assert again["promotion"]["promoted"] is False
    assert "has this very program" in again["promotion"]["reason"]

    record(tmp_path, 4, first=14)
    worse = run(tmp_path, "--set", "training.training_epochs=0", "--set", "training.quantization_method=PTQ")
    assert worse["promotion"]["promoted"] is False, worse["promotion"]["reason"]
    assert worse["promotion"]["limit"] > worse["promotion"]["value"]
    assert promoted.resolve().name == trained["run"]
    kept = json.loads((tmp_path / "artifacts" / ".store" / "runs" / worse["run"] / "run.json").read_text())
    assert (kept["state"], kept["promotion"]) == ("Completed", worse["promotion"])
