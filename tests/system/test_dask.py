"""Stages on Dask workers that share nothing but a bucket: each has a folder of its own, which is all that it knows.

Prefect's server is behind it, on PostgreSQL where that is installed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import object_store
import postgres
import pytest
from object_store import BUCKET, SECRET

from flowlab.engine import server

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from test_two_at_once import STAGES, project, result, started, until  # noqa: E402

GONE_S = 30


@dataclass
class Cluster:
    """A scheduler and workers, as processes."""

    folder: Path
    address: str
    environment: dict[str, str]
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.folder / "stages"

    def calls(self) -> list[tuple[int, str, str]]:
        """Every start of a stage's function: its process, the worker's name, the stage."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(int(pid), worker, stage) for pid, worker, stage in map(str.split, lines)]

    def hold(self, stage: str) -> Path:
        return self.folder / f"hold-{stage}"

    def add(self, name: str, **more: str) -> None:
        """Start a worker in an empty folder of its own."""
        place = self.folder / name
        place.mkdir()
        command = ["-m", "distributed.cli.dask_worker", f"tcp://{self.address}", "--no-nanny", "--nthreads", "1"]
        options = ["--no-dashboard", "--local-directory", str(place / "dask"), "--name", name]
        watched = {
            "PYTHONPATH": str(HERE / "worker_site"),
            "WATCHED_LOG": str(self.log),
            "WATCHED_HOLD": str(self.folder / "hold"),
        }
        self.workers[name] = self._start([*command, *options], place, **watched, **more)

    def kill(self, name: str) -> None:
        self.workers[name].kill()
        self.workers.pop(name).wait()

    def stop(self) -> None:
        for process in self.workers.values():
            process.terminate()
        for process in self.workers.values():
            try:
                process.wait(timeout=GONE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, words: list[str], place: Path, **more: str) -> subprocess.Popen[bytes]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "AWS_"))}
        with (place / "log").open("wb") as log:
            environment = {**outside, **self.environment, "OMP_NUM_THREADS": "1", **more}
            return subprocess.Popen(
                [sys.executable, *words], cwd=place, env=environment, stdout=log, stderr=subprocess.STDOUT
            )


@contextmanager
def cluster(folder: Path, endpoint: str, *names: str, **more: str) -> Iterator[Cluster]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = Cluster(folder, f"127.0.0.1:{port}", object_store.environment(endpoint))
    (folder / "scheduler").mkdir()
    words = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    made.workers["scheduler"] = made._start(words, folder / "scheduler")
    try:
        until(lambda: _answers(port), "the scheduler")
        for name in names:
            made.add(name, **more)
        yield made
    finally:
        made.stop()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with object_store.served(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The hashes of the local engine."""
    folder = project(tmp_path_factory.mktemp("local"))
    words = ["-m", "flowlab.cli", "run", "tones.yaml", "--engine", "local", "--json"]
    return hashes(result(started(words, folder, OMP_NUM_THREADS="1")))


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Prefect's API with PostgreSQL behind it."""
    programs = postgres.programs()
    if programs is None:
        pytest.skip("no PostgreSQL (Debian's package postgresql)")
    home = tmp_path_factory.mktemp("prefect")
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        url = stack.enter_context(postgres.served(programs))
        patch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", url)
        found = stack.enter_context(server.temporary_server(home))
        server.wait_until_healthy(found, home)
        assert not (home / "prefect.db").exists(), "it is not SQLite that answers"
        yield found


def driver(folder: Path, made: Cluster, prefix: str, *words: str, **more: str) -> subprocess.Popen[str]:
    """Start a run whose stages are done by the cluster."""
    where = ["--runner", f"dask://{made.address}", "--store", f"s3://{BUCKET}/{prefix}", "--json"]
    environment = {**made.environment, "WATCHED_LOG": str(folder / "own-stages"), "OMP_NUM_THREADS": "1", **more}
    return started([str(HERE / "watched_run.py"), "run", "tones.yaml", *where, *words], folder, **environment)


def machine(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return project(tmp_path / name)


def hashes(found: dict[str, Any]) -> dict[str, list[str]]:
    return {role: sorted(one["sha256"] for one in files) for role, files in found["artifacts"].items()}


def times(made: Cluster) -> Counter[str]:
    return Counter(stage for _, _, stage in made.calls())


def test_nine_stages_on_workers_that_share_nothing_give_the_hashes_of_the_local_engine(
    tmp_path: Path, endpoint: str, api: str, local: dict[str, list[str]]
) -> None:
    with cluster(tmp_path, endpoint, "a", "b", "c") as made:
        folder = machine(tmp_path, "driver")
        found = result(driver(folder, made, "nine", "--engine", "prefect", PREFECT_API_URL=api))
    assert (found["engine"], [stage["cached"] for stage in found["stages"]]) == ("prefect", [False] * 9)
    assert hashes(found) == local
    assert times(made) == dict.fromkeys(STAGES, 1)
    assert not (folder / "own-stages").exists(), "the driver does no stage"
    for _, worker, _ in made.calls():
        assert {path.name for path in (tmp_path / worker).iterdir()} <= {"log", "dask", "artifacts"}
        assert [path.name for path in (tmp_path / worker / "artifacts").iterdir()] == [".remote-stores"]
        assert str(folder) not in (tmp_path / worker / "log").read_text()
    status, answer = server.exchange(api, "POST", "/task_runs/filter", {}, timeout_s=10)
    assert (status, sorted(one["name"] for one in json.loads(answer))) == (200, sorted(STAGES))
    assert {one["state_name"] for one in json.loads(answer)} == {"Completed"}
    for place in (tmp_path / "scheduler" / "log", *(tmp_path / name / "log" for name in "abc")):
        assert SECRET not in place.read_text()


def test_a_worker_killed_in_the_middle_costs_its_own_stage(
    tmp_path: Path, endpoint: str, local: dict[str, list[str]]
) -> None:
    with cluster(tmp_path, endpoint, "a", "b", "c") as made:
        folder = machine(tmp_path, "driver")
        made.hold("train").touch()
        child = driver(folder, made, "killed", "--engine", "local")
        until(lambda: times(made)["train"] == 1, "the training")
        pid, worker, _ = made.calls()[-1]
        made.kill(worker)
        until(lambda: times(made)["train"] == 2, "the training on another worker")
        assert made.calls()[-1][1] != worker
        until(lambda: not _lives(pid), "the end of the killed worker's stage")
        made.hold("train").unlink()
        found = result(child)
    assert times(made) == {**dict.fromkeys(STAGES, 1), "train": 2}
    assert hashes(found) == local


def _lives(pid: int) -> bool:
    try:
        return "Z" not in Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_a_worker_that_would_make_another_result_refuses_and_names_why(tmp_path: Path, endpoint: str) -> None:
    with cluster(tmp_path, endpoint, "odd", WATCHED_ODD="numpy") as made:
        folder = machine(tmp_path, "driver")
        _, error = (child := driver(folder, made, "odd", "--engine", "local")).communicate(timeout=120)
    assert child.returncode == 1, error
    assert "flowlab: stage ingest: the worker on " in error
    assert "would make another result than the run asks for: " in error
    assert "; libraries.numpy: '" in error
    assert "' -> '0.0'. Install the same flowlab" in error
    assert "Traceback" not in error
    assert times(made) == {}


def test_a_driver_that_is_stopped_leaves_the_workers_ready_and_a_next_one_goes_on(
    tmp_path: Path, endpoint: str, local: dict[str, list[str]]
) -> None:
    with cluster(tmp_path, endpoint, "a", "b") as made:
        folder = machine(tmp_path, "driver")
        made.hold("extract").touch()
        child = driver(folder, made, "stopped", "--engine", "local")
        until(lambda: times(made)["extract"] == 1, "the extraction")
        child.send_signal(signal.SIGKILL)
        child.communicate()
        made.hold("extract").unlink()
        found = result(driver(folder, made, "stopped", "--engine", "local"))
    assert times(made)["ingest"] == 1
    assert times(made)["extract"] <= 2
    assert hashes(found) == local


SWEEP = """\
config: tones.yaml
training: {training_epochs: 1, quantization_epochs: 1}
matrix:
  training.quantization_weight_bitwidth: [8, 4]
  training.seed: [0, 1]
"""


def outcome(record: bytes) -> tuple[str, str, str]:
    """What a record says of a result, but for what decides nothing."""
    value = json.loads(record)
    return value["stage"], value["fingerprint"], json.dumps(value["outputs"], sort_keys=True)


def test_a_sweep_on_workers_gives_the_records_of_the_local_engine(tmp_path: Path, endpoint: str) -> None:
    alone, folder = machine(tmp_path, "alone"), machine(tmp_path, "driver")
    for place in (alone, folder):
        (place / "sweep.yaml").write_text(SWEEP)
    words = ["-m", "flowlab.cli", "sweep", "sweep.yaml", "--engine", "local", "--json", "--jobs", "2"]
    result(started(words, alone, OMP_NUM_THREADS="1"))
    mine = {outcome(path.read_bytes()) for path in (alone / "artifacts" / ".store" / "records").glob("*/*.json")}
    with cluster(tmp_path, endpoint, "a", "b") as made:
        where = ["--runner", f"dask://{made.address}", "--store", f"s3://{BUCKET}/sweep"]
        result(started([*words, *where], folder, **made.environment, OMP_NUM_THREADS="1"))
    records = [key for key in object_store.keys(endpoint, "sweep") if key.startswith("records/")]
    assert {outcome(object_store.body(endpoint, f"sweep/{key}")) for key in records} == mine
    assert times(made) == Counter(stage for stage, _, _ in mine)
    assert times(made)["train"] == 2, "equal work is one stage"


def test_what_is_not_there_is_named(tmp_path: Path, endpoint: str) -> None:
    folder = machine(tmp_path, "driver")
    nobody = Cluster(tmp_path, "127.0.0.1:9", object_store.environment(endpoint))
    _, error = (child := driver(folder, nobody, "none", "--engine", "local")).communicate(timeout=120)
    assert (child.returncode, "Traceback" in error) == (1, False), error
    assert "flowlab: --runner dask://127.0.0.1:9: no scheduler answers" in error
