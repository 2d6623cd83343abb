"""What Prefect is told of runs whose process is gone; the API is a small server that keeps what it is sent."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flowlab.engine.on_prefect import mark_ended
from flowlab.store.runs import Runs, is_gone, state_of, this_process

TASKS = ["ingest", "train", "report"]


@pytest.fixture
def api() -> Iterator[tuple[str, dict[str, str]]]:
    """An API at which three stages of every run are running; its address, and the states that it was sent."""
    sent: dict[str, str] = {}
    names = ["killed", "completed", "failed", "alive", "ending", "elsewhere", "unknown"]

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            """Nothing."""

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer: list[dict[str, Any]] = []
            if self.path == "/api/flow_runs/filter":
                answer = [{"id": f"id-{name}", "name": name} for name in names]
            elif self.path == "/api/task_runs/filter":
                (of,) = asked["flow_runs"]["id"]["any_"]
                answer = [{"id": f"{of}.{task}", "name": task} for task in TASKS]
            else:
                sent[self.path.split("/")[-2].removeprefix("id-")] = asked["state"]["type"]
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api", sent
        server.shutdown()


def dead() -> dict[str, Any]:
    """A process of this host that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return {**this_process(), "pid": child.pid, "start": 1}


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    runs, done = Runs(tmp_path), {"ingest": "0" * 64}
    runs.write("killed", "tones", "Running", process=dead(), stages=done)
    runs.write("completed", "tones", "Completed", process=dead(), stages=dict.fromkeys(TASKS, "0" * 64))
    runs.write("failed", "tones", "Failed", process=dead(), stages=done)
    runs.write("alive", "tones", "Running", process=this_process(), stages=done)
    runs.write("ending", "tones", "Completed", process=this_process(), stages=done)
    runs.write("elsewhere", "tones", "Running", process={**dead(), "host": "another"}, stages=done)
    return runs


def test_runs_whose_process_is_gone_get_the_end_that_the_store_knows(
    api: tuple[str, dict[str, str]], runs: Runs
) -> None:
    url, sent = api
    mark_ended(url, runs)
    assert {name: state for name, state in sent.items() if "." not in name} == {
        "killed": "CRASHED",
        "completed": "COMPLETED",
        "failed": "FAILED",
    }


def test_so_do_their_stages(api: tuple[str, dict[str, str]], runs: Runs) -> None:
    url, sent = api
    mark_ended(url, runs)
    assert {name: state for name, state in sent.items() if name.startswith("killed.")} == {
        "killed.ingest": "COMPLETED",
        "killed.train": "CRASHED",
        "killed.report": "CRASHED",
    }
    assert {name.partition(".")[0] for name in sent} == {"killed", "completed", "failed"}


def test_a_server_that_does_not_answer_is_no_error(runs: Runs) -> None:
    mark_ended("http://127.0.0.1:9/api", runs)


def test_who_has_ended_is_told_by_its_number_and_its_start(runs: Runs) -> None:
    found = {str(run["run"]): (is_gone(run), state_of(run)) for run in runs.newest_first()}
    assert found == {
        "killed": (True, "Killed"),
        "completed": (True, "Completed"),
        "failed": (True, "Failed"),
        "alive": (False, "Running"),
        "ending": (False, "Completed"),
        "elsewhere": (False, "Running"),
    }
    assert is_gone({"process": {**this_process(), "start": 1}}), "the system gave the number out again"
    assert not is_gone({})
