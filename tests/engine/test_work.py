"""What a deployment's flow run does, without Prefect: it gets a config alone, and its end stands in ``run.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowlab.engine.work import planned
from flowlab.errors import DataError
from flowlab.store.runs import Runs

NAME = "20261125T000000Z-0000"
CONFIG: dict[str, dict[str, Any]] = {
    "common": {"task_type": "generic_timeseries_classification", "target_device": "F28P55"},
    "dataset": {"dataset_name": "tones", "input_data_path": "data"},
    "data_processing_feature_extraction": {"data_proc_transforms": ["SimpleWindow"], "frame_size": 32, "variables": 1},
    "training": {"model_name": "CLS_1k_NPU", "batch_size": 16},
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with recordings that nobody can read, which only shows when the first stage runs."""
    for name in ("low", "high"):
        path = tmp_path / "data" / "classes" / name / "1.csv"
        path.parent.mkdir(parents=True)
        path.write_text("1.0\n2.0\nno number\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def state(project: Path) -> Any:
    run = Runs(project / "artifacts" / ".store").read(NAME)
    assert run is not None
    return run["state"]


def test_a_stage_that_fails_makes_the_deployments_run_failed(project: Path) -> None:
    work = planned(CONFIG, NAME)
    assert state(project) == "Running"
    with pytest.raises(DataError, match=r"1\.csv"), work.recorded():
        work.perform("ingest", {}, lambda what, fraction: None)
    assert state(project) == "Failed"
    assert isinstance(work.outcome.error, DataError)


def test_a_stage_that_finishes_after_its_run_was_cancelled_does_not_make_it_running_again(project: Path) -> None:
    for path in (project / "data" / "classes").glob("*/1.csv"):
        for one in range(2, 6):
            rows = [f"{one * (at % 5)}.{len(path.parent.name)}{at}" for at in range(100)]
            path.with_name(f"{one}.csv").write_text("\n".join(rows) + "\n")
        path.unlink()
    work = planned(CONFIG, NAME)
    with pytest.raises(KeyboardInterrupt), work.recorded():
        raise KeyboardInterrupt
    _, cached = work.perform("ingest", {}, lambda what, fraction: None)  # as its thread does, which nobody can stop
    assert not cached
    assert state(project) == "Failed"


def test_a_deployments_run_that_is_stopped_is_failed(project: Path) -> None:
    work = planned(CONFIG, NAME)
    with pytest.raises(KeyboardInterrupt), work.recorded():
        raise KeyboardInterrupt
    assert state(project) == "Failed"
