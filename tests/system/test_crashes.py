"""kill -9 of the flow process, of a deployment's worker and of Prefect's server, in every one of the nine stages.

One project, one store, one server, nine real stages, and kills one after the other. Before each, what the store has of
the stage that is to be hit and of those behind it is taken away; the stage is then held, so that the kill finds it in
its work, at a moment that is drawn. ``FLOWLAB_CRASH_SEED`` draws others; the seed and what was hit are printed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import prefect_project as prefect
from test_two_at_once import STAGES, assert_nothing_is_left, noted, project, records

SEED = int(os.environ.get("FLOWLAB_CRASH_SEED", "2026"))
WORKER_KILLS, SERVER_KILLS = 4, 5
KILLS = len(STAGES) + 2 + WORKER_KILLS + SERVER_KILLS  # two more of the flow process
LIMIT_S = 240
Found = dict[str, Any]


@dataclass
class Place:
    """A project with a server that is up and a deployment on it."""

    folder: Path
    port: int
    seconds: dict[str, float] = field(default_factory=dict)  # of an undisturbed run, by stage
    expected: dict[str, list[Any]] = field(default_factory=dict)  # its records
    draw: random.Random = field(default_factory=lambda: random.Random(SEED))
    hits: Counter[tuple[str, str]] = field(default_factory=Counter)
    killed: dict[str, str] = field(default_factory=dict)  # runs, by how Prefect has to show them at the end

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def server(self) -> int:
        return int(json.loads(self.flowlab("status", "--json"))["pid"])

    @property
    def environment(self) -> dict[str, str]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        watched = {
            "PYTHONPATH": str(Path(__file__).parent / "watched_everywhere"),
            "WATCHED_LOG": str(self.folder / "log"),
            "WATCHED_HOLD": str(self.folder / "hold"),
        }
        return {**outside, **watched, "PREFECT_WORKER_QUERY_SECONDS": "1"}

    def flowlab(self, *words: str) -> str:
        """A command of flowlab to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "flowlab.cli", *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    def up(self) -> None:
        self.flowlab("up", "--port", str(self.port))

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        """A command in the project, its stages watched; what it says goes to a file."""
        with (self.folder / "said").open("a") as said:
            return subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=self.folder,
                env={**self.environment, **more},
                stdout=said,
                stderr=said,
                text=True,
                start_new_session=True,
            )

    def run(self) -> subprocess.Popen[str]:
        return self.start("flowlab.cli", "run", "tones.yaml", "--engine", "prefect")

    def worker(self) -> subprocess.Popen[str]:
        home = {"PREFECT_API_URL": self.api, "PREFECT_HOME": str(self.folder / "worker"), "DO_NOT_TRACK": "1"}
        return self.start("prefect", "worker", "start", "--pool", "flowlab", **home)

    def ask(self) -> str:
        """Ask the deployment for a run; its id. Like every client of Prefect's, again where its database is busy."""
        found = httpx.get(f"{self.api}/deployments/name/flowlab/on-demand", timeout=60).json()
        deadline = time.monotonic() + LIMIT_S
        while True:
            asked = {"state": {"type": "SCHEDULED"}}
            answer = httpx.post(f"{self.api}/deployments/{found['id']}/create_flow_run", json=asked, timeout=60)
            if answer.status_code == 201:
                return str(answer.json()["id"])
            assert answer.status_code == 503 and time.monotonic() < deadline, answer.text
            time.sleep(1)

    def state(self, run: str) -> str:
        return str(httpx.get(f"{self.api}/flow_runs/{run}", timeout=60).json()["state_type"])

    def hold(self, stage: str) -> None:
        """Forget the stage and what follows, and keep it from ending."""
        noted(self.folder)
        for name in STAGES[STAGES.index(stage) :]:
            shutil.rmtree(self.folder / "artifacts" / ".store" / "records" / name, ignore_errors=True)
        (self.folder / "hold").write_text(stage)

    def let_go(self) -> None:
        (self.folder / "hold").unlink()

    def is_in(self, stage: str) -> int:
        """Wait until a process has started the stage, then for as long as is drawn; that process."""
        log = self.folder / "log"
        self.until(lambda: log.exists() and stage in log.read_text(), f"no process started {stage}")
        pid = next(int(line.split()[0]) for line in log.read_text().splitlines() if line.endswith(f" {stage}"))
        time.sleep(self.draw.uniform(0.0, min(1.0, self.seconds[stage])))
        return pid

    def until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not true():
            assert time.monotonic() < deadline, f"{what}: {(self.folder / 'said').read_text()[-3000:]}"
            time.sleep(0.02)

    def newest_run(self) -> str:
        return max(path.name for path in (self.folder / "artifacts" / ".store" / "runs").iterdir())

    def is_complete(self, run: str) -> bool:
        text = (self.folder / "artifacts" / ".store" / "runs" / run / "run.json").read_text()
        return bool(json.loads(text)["state"] == "Completed")

    def did(self, *stages: str) -> None:
        """Every stage was started as often as is said, and no other one."""
        assert Counter(noted(self.folder)) == Counter(stages)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = project(tmp_path_factory.mktemp("crashes"))
    place = Place(folder, prefect.free_port())
    undisturbed = json.loads(place.flowlab("run", "tones.yaml", "--engine", "local", "--json"))
    place.seconds = {stage["name"]: stage["seconds"] for stage in undisturbed["stages"]}
    place.expected = records(folder)
    place.up()
    try:
        place.flowlab("deploy", "tones.yaml")
        yield place
    finally:
        place.flowlab("down")


def killed(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    child.wait(timeout=30)


def gone(pid: int) -> bool:
    return not prefect.is_alive(pid)


def stages_for(place: Place, count: int) -> list[str]:
    return place.draw.sample(STAGES, count)


def test_a_killed_flow_process_costs_the_stage_that_it_was_in(place: Place) -> None:
    for stage in [*STAGES, *stages_for(place, 2)]:
        place.hold(stage)
        there = set(records(place.folder))
        child = place.run()
        place.is_in(stage)
        killed(child)
        place.hits["flow process", stage] += 1
        place.killed[place.newest_run()] = "CRASHED"
        place.did(*(one for one in STAGES[: STAGES.index(stage) + 1] if one not in there))
        assert set(records(place.folder)) == set(STAGES[: STAGES.index(stage)])
    place.let_go()
    assert place.run().wait(timeout=LIMIT_S) == 0
    place.did(*STAGES[STAGES.index(stage) :])
    assert records(place.folder) == place.expected


def test_a_killed_worker_costs_at_most_the_stage_that_its_run_was_in(place: Place) -> None:
    """Its run may go on for a while, or to its end: a worker's death is no order to stop."""
    worker = place.worker()
    try:
        for stage in stages_for(place, WORKER_KILLS):
            place.hold(stage)
            asked = place.ask()
            process = place.is_in(stage)
            name = place.newest_run()
            killed(worker)
            place.hits["worker", stage] += 1
            place.let_go()
            place.until(lambda pid=process: gone(pid), "the run's process goes on")  # type: ignore[misc]
            begun, there = noted(place.folder), set(records(place.folder))
            assert begun == STAGES[STAGES.index(stage) :][: len(begun)]
            assert set(begun[:-1]) <= there
            worker = place.worker()
            again = place.ask()
            place.until(lambda run=again: place.state(run) == "COMPLETED", "no run")  # type: ignore[misc]
            place.did(*(one for one in STAGES if one not in there))
            assert records(place.folder) == place.expected
            has_ended = "report" in there and place.is_complete(name)
            place.killed[name] = "COMPLETED" if has_ended else "CRASHED"
            assert place.state(asked) == place.killed[name]
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(timeout=60)


def test_a_killed_server_costs_no_stage(place: Place) -> None:
    for number, stage in enumerate(stages_for(place, SERVER_KILLS)):
        place.hold(stage)
        child = place.run()
        place.is_in(stage)
        os.kill(pid := place.server, signal.SIGKILL)
        place.until(lambda pid=pid: gone(pid), "the server lives")  # type: ignore[misc]
        place.hits["server", stage] += 1
        comes_back = number > 0  # the first one only when the run has ended
        if comes_back:
            place.up()
        place.let_go()
        code = child.wait(timeout=LIMIT_S)
        assert code in ((0,) if comes_back else (0, 1))
        if not comes_back:
            place.up()
        place.killed[place.newest_run()] = "FAILED" if code else "COMPLETED"
        done = Counter(noted(place.folder))
        assert done[stage] == 1
        if code:  # what was not finished when Prefect's client gave up
            assert place.run().wait(timeout=LIMIT_S) == 0
            done += Counter(noted(place.folder))
        assert done == Counter(STAGES[STAGES.index(stage) :])
        assert records(place.folder) == place.expected


def test_every_stage_was_hit_and_nothing_that_died_is_shown_as_running(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.run().wait(timeout=LIMIT_S) == 0  # the next start
    place.did()
    unended = {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}
    assert [one["name"] for one in prefect.asked(place.api, "flow_runs", flow_runs=unended)] == []
    assert [one["name"] for one in prefect.asked(place.api, "task_runs", task_runs=unended)] == []
    runs = json.loads(place.flowlab("runs", "--json"))["runs"]
    shown = {one["run"]: one["state"] for one in runs}
    assert "Running" not in shown.values()
    for name, state in place.killed.items():  # a run that Prefect stops because its worker died notes that it failed
        assert prefect.flow_run(place.api, name)["state_type"] == state, name
        assert shown[name] in {"CRASHED": ("Killed", "Failed")}.get(state, (state.capitalize(),)), name
    assert_nothing_is_left(place.folder)
    with capsys.disabled():
        print(f"\nseed {SEED}, {place.hits.total()} kills:")
        for stage in STAGES:
            counts = ", ".join(f"{what} {count}" for (what, hit), count in place.hits.items() if hit == stage)
            print(f"  {stage:<10} {counts}")
    assert place.hits.total() == KILLS
    assert {stage for _, stage in place.hits} == set(STAGES)
