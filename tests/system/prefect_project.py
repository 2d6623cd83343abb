"""A project of its own with imagined stages: `flowlab` commands in it, its server, and what Prefect's API says."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

CHILD = Path(__file__).parent / "imagined_run.py"
STAGES = ["ingest", "train", "simulate", "report"]
LIMIT_S = 240


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Ours without Prefect's settings; Prefect's home is inside the folder."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {**outside, "IMAGINED_LOG": str(folder / "log"), **more}


def start(folder: Path, command: str, *words: str, epochs: int = 3, **more: str) -> subprocess.Popen[str]:
    """Start a flowlab command in a folder; `run` has the imagined stages."""
    data = folder / "data" / "idle"
    data.mkdir(parents=True, exist_ok=True)
    (data / "1.csv").write_text("1\n2\n")
    program = [str(CHILD), "data", str(epochs)] if command == "run" else ["-m", "flowlab.cli"]
    return subprocess.Popen(
        [sys.executable, *program, command, *words],
        cwd=folder,
        env=environment(folder, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def flowlab(folder: Path, command: str, *words: str, code: int = 0, **more: Any) -> str:
    """Run a flowlab command to its end; what it printed, and its errors where it failed as it should."""
    process = start(folder, command, *words, **more)
    out, error = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code, f"{out[-2000:]}\n{error[-3000:]}"
    assert "Traceback" not in error
    return out if code == 0 else error


def run(folder: Path, *words: str, **more: Any) -> dict[str, Any]:
    """The result of `flowlab run --json`."""
    result: dict[str, Any] = json.loads(flowlab(folder, "run", *words, "--json", **more))
    return result


def status(folder: Path) -> dict[str, Any]:
    """What `flowlab status --json` says."""
    result: dict[str, Any] = json.loads(flowlab(folder, "status", "--json"))
    return result


@contextlib.contextmanager
def server_of(folder: Path) -> Iterator[str]:
    """`flowlab up`, and its API's URL; stopped at the end, by `flowlab down` or by its number."""
    flowlab(folder, "up", "--port", str(free_port()))
    found = status(folder)
    try:
        yield found["api"]
    finally:
        flowlab(folder, "down")
        if is_alive(found["pid"]):
            os.kill(found["pid"], signal.SIGKILL)


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def asked(api: str, path: str, **body: Any) -> list[dict[str, Any]]:
    """The answer of one of the API's filters."""
    answer = httpx.post(f"{api}/{path}/filter", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


def flow_run(api: str, name: str) -> dict[str, Any]:
    """The only flow run of a name."""
    (found,) = asked(api, "flow_runs", flow_runs={"name": {"any_": [name]}})
    return found


def task_runs(api: str, run: dict[str, Any], settled: int = len(STAGES)) -> dict[str, dict[str, Any]]:
    """The task runs by name; Prefect's server writes their last states a moment later."""
    deadline = time.monotonic() + 60
    while True:
        found = asked(api, "task_runs", flow_runs={"id": {"any_": [run["id"]]}})
        final = [one for one in found if one["state_type"] in ("COMPLETED", "FAILED", "CRASHED")]
        if len(final) >= settled or time.monotonic() > deadline:
            return {one["name"]: one for one in found}
        time.sleep(0.3)


def task_states(api: str, run: dict[str, Any], settled: int = len(STAGES)) -> dict[str, str]:
    """The task runs' states by name."""
    return {name: one["state_name"] for name, one in task_runs(api, run, settled).items()}


def is_alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_line(folder: Path, line: str) -> None:
    """Wait until an imagined stage has noted this."""
    log = folder / "log"
    deadline = time.monotonic() + 180
    while not (log.exists() and line in log.read_text().splitlines()):
        assert time.monotonic() < deadline, f"no stage noted '{line}'"
        time.sleep(0.02)
