"""What a killed server, and a killed run, leave behind: no finished stage is lost, and nothing runs for ever."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import prefect_project as project

BOUND_S = 150  # Prefect's client asks a dead server again and again, by default for minutes


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    while project.is_alive(pid):
        time.sleep(0.05)


@pytest.mark.parametrize(("line", "epochs"), [("epoch 5", 600), ("simulate", 3)])
def test_a_server_that_dies_in_the_middle_of_a_run_costs_no_finished_stage(
    tmp_path: Path, line: str, epochs: int
) -> None:
    project.flowlab(tmp_path, "up", "--port", str(project.free_port()))
    server = project.status(tmp_path)["pid"]
    gate = tmp_path / "gate"  # `simulate` waits for it: the run cannot end before the server dies
    child = project.start(tmp_path, "run", epochs=epochs, IMAGINED_GATE=str(gate))
    project.wait_for_line(tmp_path, line)
    kill(server)
    gate.touch()
    try:
        out, error = child.communicate(timeout=BOUND_S)
    finally:
        child.kill()
    assert "Traceback" not in error
    assert "EventsWorker" not in error
    if child.returncode == 0:
        assert "stopped answering; no dashboard shows how this run ended" in out
        assert "engine prefect" in out
    else:
        assert child.returncode == 1, error
        assert "stopped answering in the middle of the run. Finished stages are in the store" in error
    done = [name for name in project.STAGES if f"\n{name} " in f"\n{out}"]
    assert "train" in done, "the stage that ran when the server died did not finish"
    (tmp_path / "log").unlink()
    again = project.run(tmp_path, "--engine", "prefect", epochs=epochs)
    assert {stage["name"] for stage in again["stages"] if stage["cached"]} >= set(done)
    noted = (tmp_path / "log").read_text().splitlines() if (tmp_path / "log").exists() else []
    assert not set(noted) & set(done), "a finished stage ran again"


def test_a_run_that_was_killed_is_shown_as_crashed_when_the_next_one_starts(tmp_path: Path) -> None:
    with project.server_of(tmp_path) as api:
        child = project.start(tmp_path, "run", epochs=4000)
        project.wait_for_line(tmp_path, "epoch 5")
        (killed,) = [path.name for path in (tmp_path / "artifacts" / ".store" / "runs").iterdir()]
        assert project.flow_run(api, killed)["state_type"] == "RUNNING"
        child.kill()
        child.communicate()
        result = project.run(tmp_path, epochs=3)
        found = project.flow_run(api, killed)
        assert found["state_type"] == "CRASHED"
        assert "was gone when the next run started" in found["state"]["message"]
        assert project.flow_run(api, result["run"])["state_type"] == "COMPLETED"


def test_a_run_that_goes_on_is_not_marked_by_another(tmp_path: Path) -> None:
    with project.server_of(tmp_path) as api:
        going_on = project.start(tmp_path, "run", epochs=20000)
        try:
            project.wait_for_line(tmp_path, "epoch 5")
            (name,) = [path.name for path in (tmp_path / "artifacts" / ".store" / "runs").iterdir()]
            project.run(tmp_path, epochs=3)
            assert going_on.poll() is None
            assert project.flow_run(api, name)["state_type"] == "RUNNING"
        finally:
            going_on.kill()
            going_on.communicate()
