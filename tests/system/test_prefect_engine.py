"""What Prefect's API says of a run, on a real server; and that nothing outlives a killed run."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flowlab.engine import server

sys.path.insert(0, str(Path(__file__).parent))

from prefect_project import CHILD, STAGES, flow_run, task_runs

KILLS = 3


def start(
    folder: Path, *words: str, epochs: int = 3, api: str | None = None, **environment: str
) -> subprocess.Popen[str]:
    """Start `flowlab run` with imagined stages in a folder; stdout and stderr are pipes."""
    data = folder / "data" / "idle"
    data.mkdir(parents=True, exist_ok=True)
    (data / "1.csv").write_text("1\n2\n")
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    if api is not None:
        outside["PREFECT_API_URL"] = api
    return subprocess.Popen(
        [sys.executable, str(CHILD), "data", str(epochs), "run", *words],
        cwd=folder,
        env={**outside, "IMAGINED_LOG": str(folder / "log"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(child: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, error = child.communicate(timeout=240)
    assert child.returncode == code, error[-3000:]
    return out, error


def run(folder: Path, *words: str, **more: Any) -> dict[str, Any]:
    out, _ = finish(start(folder, *words, "--json", **more))
    result: dict[str, Any] = json.loads(out)
    return result


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real server."""
    home = tmp_path_factory.mktemp("prefect")
    with server.temporary_server(home) as url:
        server.wait_until_healthy(url, home)
        yield url


@pytest.fixture(scope="module")
def first(api: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    return folder, run(folder, api=api)


def test_every_stage_is_a_completed_task_run(api: str, first: tuple[Path, dict[str, Any]]) -> None:
    _, result = first
    found = flow_run(api, result["run"])
    assert found["state_type"] == "COMPLETED"
    tasks = task_runs(api, found)
    assert sorted(tasks) == sorted(STAGES)
    assert {task["state_name"] for task in tasks.values()} == {"Completed"}
    assert result["engine"] == "prefect"
    assert not any(stage["cached"] for stage in result["stages"])


def test_edges_are_the_futures_in_the_inputs(api: str, first: tuple[Path, dict[str, Any]]) -> None:
    tasks = task_runs(api, flow_run(api, first[1]["run"]))
    names = {task["id"]: name for name, task in tasks.items()}
    reads = {name: {names[edge["id"]] for edge in task["task_inputs"]["upstream"]} for name, task in tasks.items()}
    waits = {
        name: {names[edge["id"]] for edge in task["task_inputs"].get("wait_for", ())} for name, task in tasks.items()
    }
    assert reads == {"ingest": set(), "train": {"ingest"}, "simulate": {"train"}, "report": {"train", "simulate"}}
    assert waits == {"ingest": set(), "train": set(), "simulate": {"ingest"}, "report": set()}


def test_only_small_json_crosses_prefect(api: str, first: tuple[Path, dict[str, Any]]) -> None:
    found = flow_run(api, first[1]["run"])
    assert found["parameters"] == {"config": {"training": {"training_epochs": 3}}, "promote": False}
    assert found["name"] == first[1]["run"]


def test_a_named_api_shows_a_cached_run_with_every_stage_cached(api: str, first: tuple[Path, dict[str, Any]]) -> None:
    again = run(first[0], api=api)
    assert again["engine"] == "prefect"
    assert all(stage["cached"] for stage in again["stages"])
    tasks = task_runs(api, flow_run(api, again["run"]))
    assert {name: task["state_name"] for name, task in tasks.items()} == dict.fromkeys(STAGES, "Cached")


def test_both_engines_make_the_same_records(first: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    local = run(tmp_path, "--engine", "local")
    assert {role: [one["sha256"] for one in files] for role, files in local["artifacts"].items()} == {
        role: [one["sha256"] for one in files] for role, files in first[1]["artifacts"].items()
    }
    assert not any(stage["cached"] for stage in local["stages"])
    again = run(tmp_path, "--engine", "local", "--store", str(first[0] / "artifacts" / ".store"))
    assert all(stage["cached"] for stage in again["stages"])


def test_a_failed_stage_fails_the_flow_run_and_our_error_is_all_that_is_said(api: str, tmp_path: Path) -> None:
    child = start(tmp_path, api=api, IMAGINED_FAILURE="1")
    out, error = finish(child, code=1)
    assert error == "flowlab: stage simulate: broken on purpose. Unset IMAGINED_FAILURE\n"
    assert "Traceback" not in out
    (record,) = (tmp_path / "artifacts" / ".store" / "runs").iterdir()
    found = flow_run(api, record.name)
    assert found["state_type"] == "FAILED"
    assert "broken on purpose" in found["state"]["message"]
    states = {name: task["state_type"] for name, task in task_runs(api, found, settled=3).items()}
    assert states["simulate"] == "FAILED"
    assert states["train"] == "COMPLETED"
    assert not (tmp_path / "artifacts" / "imagined" / "latest").exists()


def test_a_gate_fails_the_flow_run_of_cached_stages_too(api: str, first: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = first
    child = start(folder, "--require", "host C", api=api, IMAGINED_DROP="0.01")
    out, error = finish(child, code=3)
    assert error.endswith(
        "flowlab: --require host C did not run here: no compiler. Ran: simulator\n"
        "testing.max_accuracy_drop: accuracy falls by 0.025 (float 0.9000, simulated 0.8750), and the limit is 0.01. "
        "Try more training.quantization_epochs, quantization_method QAT, or wider weights\n"
    )
    assert "0 run, 4 cached" in out
    newest = max(path.name for path in (folder / "artifacts" / ".store" / "runs").iterdir())
    assert flow_run(api, newest)["state_type"] == "FAILED"


def test_a_dead_api_is_one_clear_error(tmp_path: Path) -> None:
    child = start(tmp_path, api="http://127.0.0.1:9/api")
    _, error = finish(child, code=1)
    assert error.startswith("flowlab: Prefect's API at http://127.0.0.1:9/api does not answer")
    assert "--engine local" in error
    assert "Traceback" not in error


# --- the temporary server ------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def server_of(child: subprocess.Popen[str]) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for pid in children(child.pid):
            if b"flowlab.engine.server_process" in (Path("/proc") / str(pid) / "cmdline").read_bytes():
                return pid
        time.sleep(0.05)
    raise AssertionError("no temporary server was started")


def wait_for_end(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not is_alive(pid)


def wait_for_line(folder: Path, line: str) -> None:
    """Wait until an imagined stage has noted this."""
    log = folder / "log"
    deadline = time.monotonic() + 180
    while not (log.exists() and line in log.read_text().splitlines()):
        assert time.monotonic() < deadline, f"no stage noted '{line}'"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A project whose Prefect database is made, and a finished run in it."""
    folder = tmp_path_factory.mktemp("warm")
    return folder, run(folder, epochs=40)


def test_without_an_api_the_database_is_inside_the_project(warm: tuple[Path, dict[str, Any]]) -> None:
    folder, result = warm
    assert result["engine"] == "prefect"
    with closing(sqlite3.connect(folder / "artifacts" / ".prefect" / "prefect.db")) as database:
        runs = database.execute("select name, state_type from flow_run").fetchall()
        tasks = database.execute("select name, state_name from task_run").fetchall()
    assert (result["run"], "COMPLETED") in runs
    assert sorted(tasks) == sorted((name, "Completed") for name in STAGES)


def test_when_all_is_cached_no_engine_starts_unless_it_is_asked_for(warm: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = warm
    before = (folder / "artifacts" / ".prefect" / "server.log").stat().st_mtime_ns
    quick = run(folder, epochs=40)
    assert quick["engine"] == "none"
    assert all(stage["cached"] for stage in quick["stages"])
    assert (folder / "artifacts" / ".prefect" / "server.log").stat().st_mtime_ns == before
    shown = run(folder, "--engine", "prefect", epochs=40)
    assert shown["engine"] == "prefect"
    with closing(sqlite3.connect(folder / "artifacts" / ".prefect" / "prefect.db")) as database:
        states = database.execute(
            "select task_run.name, task_run.state_name from task_run join flow_run on flow_run.id = flow_run_id "
            "where flow_run.name = ?",
            [shown["run"]],
        ).fetchall()
    assert dict(states) == dict.fromkeys(STAGES, "Cached")


def test_killed_runs_leave_no_server_and_the_next_run_ends_with_the_same_hashes(
    warm: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = warm
    undisturbed = run(folder, "--engine", "local", "--store", "undisturbed", epochs=400)
    draw = random.Random(11)
    for _ in range(KILLS):
        (folder / "log").unlink(missing_ok=True)
        child = start(folder, epochs=400)
        process = server_of(child)
        wait_for_line(folder, "train")
        time.sleep(draw.uniform(0.0, 0.8))
        child.kill()
        child.communicate()
        assert wait_for_end(process), "the temporary server outlives its parent"
    (folder / "log").unlink()
    resumed = run(folder, epochs=400)
    noted = (folder / "log").read_text().splitlines()
    assert "epoch 0" not in noted, "the training began anew"
    assert "ingest" not in noted, "a finished stage was repeated"
    assert {role: [one["sha256"] for one in files] for role, files in resumed["artifacts"].items()} == {
        role: [one["sha256"] for one in files] for role, files in undisturbed["artifacts"].items()
    }


def test_ctrl_c_ends_a_run_cleanly(warm: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = warm
    (folder / "log").unlink(missing_ok=True)
    child = start(folder, epochs=4000)
    process = server_of(child)
    wait_for_line(folder, "epoch 3")
    child.send_signal(signal.SIGINT)
    _, error = finish(child, code=130)
    assert error == "flowlab: stopped. Finished stages are in the store: the next run goes on from there.\n"
    assert wait_for_end(process)
