"""Several runs at once do each stage once; a run that is killed anywhere costs no finished stage. All in processes."""

from __future__ import annotations

import ast
import fcntl
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowlab import faults
from flowlab.engine import server

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
STAGES = ["ingest", "extract", "inspect", "train", "quantize", "validate", "compile", "simulate", "report"]
IMAGINED = ["ingest", "train", "simulate", "report"]
WAITS = "goes on when another run has done this stage"

# Where a run is killed: in every stage, in those that train and in their checkpoints, and behind the last stage.
IN_EVERY_STAGE = ("object-record", "record-write", "record-scratch")
IN_TRAINING = dict.fromkeys(("train", "quantize"), ("batch", "epoch", "checkpoint-write", "checkpoint-rename"))
IN_UPKEEP = {  # with the test that kills there
    "gc-runs": "test_store_upkeep.py",
    "import-objects": "test_store_replay.py",
    "import-records": "test_store_replay.py",
}
BEHIND_THE_STAGES = ("latest",)

CONFIG = """\
common: {task_type: generic_timeseries_classification, target_device: F28P55}
dataset: {dataset_name: tones, input_data_path: data}
data_processing_feature_extraction:
  data_proc_transforms: [SimpleWindow]
  frame_size: 32
  stride_size: 1.0
  variables: 1
training: {model_name: CLS_1k_NPU, training_epochs: 3, batch_size: 16, quantization: 2, quantization_epochs: 2}
"""


def project(folder: Path) -> Path:
    """A folder with a small config of nine real stages, and its recordings: two tones in noise."""
    draw = random.Random(5)
    for name, waves in (("low", 3), ("high", 9)):
        for turn in range(6):
            path = folder / "data" / "classes" / name / f"{turn}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            angles = (math.tau * waves * step / 64 + turn for step in range(512))
            path.write_text("".join(f"{100 * math.sin(angle) + draw.gauss(0, 20):.1f}\n" for angle in angles))
    (folder / "tones.yaml").write_text(CONFIG)
    return folder


def started(command: list[str], folder: Path, **environment: str) -> subprocess.Popen[str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**outside, "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def real(folder: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    """Start the nine real stages."""
    command = [str(HERE / "watched_run.py"), "run", "tones.yaml", "--engine", "local", *words]
    return started(command, folder, WATCHED_LOG=str(folder / "log"), **environment)


def imagined(folder: Path, *words: str, epochs: int = 3, **environment: str) -> subprocess.Popen[str]:
    """Start the imagined stages, which take no time."""
    data = folder / "data" / "idle"
    data.mkdir(parents=True, exist_ok=True)
    (data / "1.csv").write_text("1\n2\n")
    command = [str(HERE / "imagined_run.py"), "data", str(epochs), "run", *words]
    return started(command, folder, IMAGINED_LOG=str(folder / "log"), **environment)


def ended(child: subprocess.Popen[str], code: int = 0) -> str:
    """What the child printed, when it has ended as it should."""
    out, error = child.communicate(timeout=300)
    assert child.returncode == code, error[-3000:]
    return out


def result(child: subprocess.Popen[str], code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ended(child, code))
    return found


def cached(found: dict[str, Any]) -> dict[str, bool]:
    return {stage["name"]: stage["cached"] for stage in found["stages"]}


def noted(folder: Path) -> list[str]:
    """The stages that were started, in order, since this was asked last."""
    log = folder / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [line.split()[-1] for line in lines if not line.startswith("epoch")]


def records(folder: Path) -> dict[str, list[Any]]:
    """What the store's records say, by stage, but for what decides nothing."""
    found: dict[str, list[Any]] = {}
    for path in sorted((folder / "artifacts" / ".store" / "records").glob("*/*.json")):
        record = json.loads(path.read_text())
        del record["aside"], record["check"]
        found.setdefault(path.parent.name, []).append(record)
    return found


def states(folder: Path) -> Counter[str]:
    """What `flowlab runs` says of the runs."""
    out = ended(started(["-m", "flowlab.cli", "runs", "--json"], folder))
    return Counter(one["state"] for one in json.loads(out)["runs"])


def assert_nothing_is_left(folder: Path) -> None:
    store = folder / "artifacts" / ".store"
    assert list((store / "tmp").iterdir()) == []
    assert list((store / "scratch").iterdir()) == []
    assert list((folder / "artifacts").glob("*/.*/.latest*")) + list((folder / "artifacts").glob("*/.latest*")) == []
    for path in (store / "locks").iterdir():
        with path.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where somebody holds it


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, f"in vain waited for: {what}"
        time.sleep(0.005)


def until_started(folder: Path, stage: str, times: int = 1) -> None:
    log = folder / "log"
    until(
        lambda: log.exists() and [line.split()[-1] for line in log.read_text().splitlines()].count(stage) >= times,
        f"the start of {stage}",
    )


def until_it_waits(child: subprocess.Popen[str], stage: str) -> None:
    """Read the lines of a run until it says that another one has its stage."""
    assert child.stdout is not None
    for line in child.stdout:
        if line.split(maxsplit=1) == [stage, f"{WAITS}\n"]:
            return
    raise AssertionError(f"the run ended without a word of waiting: {child.communicate()[1]}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The result and the records of the nine stages in peace."""
    folder = project(tmp_path_factory.mktemp("undisturbed"))
    found = result(real(folder, "--json"))
    assert noted(folder) == STAGES
    return found, records(folder)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real Prefect server."""
    home = tmp_path_factory.mktemp("prefect")
    with server.temporary_server(home) as url:
        server.wait_until_healthy(url, home)
        yield url


# --- at once -------------------------------------------------------------------------------------


def test_two_real_runs_at_once_do_each_stage_once(
    tmp_path: Path, undisturbed: tuple[dict[str, Any], dict[str, list[Any]]]
) -> None:
    folder = project(tmp_path)
    first, second = (result(child) for child in [real(folder, "--json"), real(folder, "--json")])
    assert sorted(noted(folder)) == sorted(STAGES)
    assert all(cached(first)[stage] != cached(second)[stage] for stage in STAGES)
    assert records(folder) == undisturbed[1]
    assert states(folder) == {"Completed": 2}
    assert (folder / "artifacts" / "tones" / "latest").readlink().name in (first["run"], second["run"])
    assert_nothing_is_left(folder)


def test_two_imagined_runs_at_once_do_each_stage_once(tmp_path: Path) -> None:
    children = [imagined(tmp_path, "--engine", "local", "--json", epochs=40) for _ in range(2)]
    first, second = (result(child) for child in children)
    assert sorted(noted(tmp_path)) == sorted(IMAGINED)
    assert all(cached(first)[stage] != cached(second)[stage] for stage in IMAGINED)
    assert {stage: len(found) for stage, found in records(tmp_path).items()} == dict.fromkeys(IMAGINED, 1)
    assert states(tmp_path) == {"Completed": 2}
    assert_nothing_is_left(tmp_path)


def test_eight_runs_on_overlapping_configs_do_each_node_once(tmp_path: Path) -> None:
    """Four trainings, under two limits each: a limit is in no fingerprint."""
    together, alone = tmp_path / "together", tmp_path / "alone"
    asked = [(epochs, limit) for epochs in (20, 21, 22, 23) for limit in ("0.5", "0.01")]
    children = [
        imagined(together, "--engine", "local", "--json", epochs=epochs, IMAGINED_DROP=limit) for epochs, limit in asked
    ]
    found = [result(child, code=3 if limit == "0.01" else 0) for child, (_, limit) in zip(children, asked, strict=True)]
    assert Counter(noted(together)) == {"ingest": 1, "train": 4, "simulate": 4, "report": 4}
    done = Counter(stage for one in found for stage, was_there in cached(one).items() if not was_there)
    assert done == {"ingest": 1, "train": 4, "simulate": 4, "report": 4}
    assert len({one["run"] for one in found}) == 8
    assert states(together) == {"Completed": 4, "Failed": 4}
    assert_nothing_is_left(together)
    for epochs in (20, 21, 22, 23):
        result(imagined(alone, "--engine", "local", "--json", epochs=epochs))
    assert records(together) == records(alone)


@pytest.mark.parametrize("engines", [("local", "prefect"), ("prefect", "local")], ids=" then ".join)
def test_a_run_waits_for_the_stage_of_another_on_any_engine(tmp_path: Path, api: str, engines: tuple[str, str]) -> None:
    gate = tmp_path / "gate"
    first = imagined(tmp_path, "--engine", engines[0], "--json", IMAGINED_GATE=str(gate), PREFECT_API_URL=api)
    until_started(tmp_path, "simulate")
    second = imagined(tmp_path, "--engine", engines[1], PREFECT_API_URL=api)
    until_it_waits(second, "simulate")
    gate.touch()
    assert not cached(result(first))["simulate"]
    said = ended(second)
    assert "simulate   cached\n" in said  # whoever came first has made the report
    assert f"engine {engines[1]}" in said
    assert sorted(noted(tmp_path)) == sorted(IMAGINED)
    assert states(tmp_path) == {"Completed": 2}
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("engine", ["local", "prefect"])
def test_a_run_that_waits_can_be_stopped_and_the_other_goes_on(tmp_path: Path, api: str, engine: str) -> None:
    gate = tmp_path / "gate"
    first = imagined(tmp_path, "--engine", "local", "--json", IMAGINED_GATE=str(gate))
    until_started(tmp_path, "simulate")
    second = imagined(tmp_path, "--engine", engine, PREFECT_API_URL=api)
    until_it_waits(second, "simulate")
    second.send_signal(signal.SIGINT)
    ended(second, code=130)
    gate.touch()
    assert cached(result(first)) == dict.fromkeys(IMAGINED, False)
    assert noted(tmp_path).count("simulate") == 1
    assert_nothing_is_left(tmp_path)


# --- killed --------------------------------------------------------------------------------------


def test_a_run_that_waits_for_a_killed_one_goes_on_at_once(tmp_path: Path) -> None:
    first = imagined(tmp_path, "--engine", "local", IMAGINED_GATE=str(tmp_path / "never"))
    until_started(tmp_path, "simulate")
    second = imagined(tmp_path, "--engine", "local")
    until_it_waits(second, "simulate")
    assert second.poll() is None
    first.kill()
    first.communicate()
    ended(second)
    assert Counter(noted(tmp_path)) == {"ingest": 1, "train": 1, "simulate": 2, "report": 1}
    assert states(tmp_path) == {"Killed": 1, "Completed": 1}
    assert_nothing_is_left(tmp_path)


def test_kill_in_every_real_stage_costs_that_stage_alone(
    tmp_path: Path, undisturbed: tuple[dict[str, Any], dict[str, list[Any]]]
) -> None:
    folder, draw = project(tmp_path), random.Random(3)
    seconds = {stage["name"]: stage["seconds"] for stage in undisturbed[0]["stages"]}
    for number, stage in enumerate(STAGES):
        child = real(folder, WATCHED_HOLD=stage)
        until_started(folder, stage)
        time.sleep(draw.uniform(0.0, seconds[stage]))
        child.kill()
        child.communicate()
        assert noted(folder) == STAGES[max(number - 1, 0) : number + 1], "the one killed before, and this one"
        assert set(records(folder)) == set(STAGES[:number])
        assert not (folder / "artifacts" / "tones").exists()
    last = result(real(folder, "--json"))
    assert cached(last) == {**dict.fromkeys(STAGES, True), "report": False}
    assert noted(folder) == ["report"]
    assert records(folder) == undisturbed[1]
    assert states(folder) == {"Killed": 9, "Completed": 1}
    assert_nothing_is_left(folder)


def test_kill_at_every_fault_point_of_every_real_stage_costs_that_stage_alone(
    tmp_path: Path, undisturbed: tuple[dict[str, Any], dict[str, list[Any]]]
) -> None:
    folder, kills = project(tmp_path), 0
    for number, stage in enumerate(STAGES):
        for point in (*IN_TRAINING.get(stage, ()), *IN_EVERY_STAGE):
            ended(real(folder, FLOWLAB_FAULT=point), code=-signal.SIGKILL)
            kills += 1
            assert noted(folder) == [stage], point
            is_recorded = point == "record-scratch"
            assert set(records(folder)) == set(STAGES[: number + is_recorded]), point
    for point in BEHIND_THE_STAGES:
        ended(real(folder, FLOWLAB_FAULT=point), code=-signal.SIGKILL)
        assert noted(folder) == []
    assert not (folder / "artifacts" / "tones" / "latest").exists()
    last = result(real(folder, "--json"))
    assert cached(last) == dict.fromkeys(STAGES, True)
    assert (folder / "artifacts" / "tones" / "latest").readlink().name == last["run"]
    assert records(folder) == undisturbed[1]
    assert kills == 35
    assert states(folder) == {"Killed": 35, "Completed": 2}, "killed before `latest` moved, a run was complete"
    assert_nothing_is_left(folder)


def test_no_fault_point_is_without_a_kill() -> None:
    found = set()
    for path in [*(ROOT / "flowlab").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id == "fault_point":
                found |= {ast.unparse(node.args[0])}
            found |= {ast.unparse(one.value) for one in node.keywords if one.arg == "fault"}
    found = {
        one.replace("f'gc-{kind}'", "'gc-runs'") for one in found if one != "fault"
    }  # `LocalFiles` hands its own on
    named = {ast.literal_eval(one) for one in found}
    assert named == {
        *IN_EVERY_STAGE,
        *(point for points in IN_TRAINING.values() for point in points),
        *BEHIND_THE_STAGES,
        *IN_UPKEEP,
    }
    for point, test in IN_UPKEEP.items():
        assert f'"{point}' in (ROOT / "tests" / "system" / test).read_text(encoding="utf-8")
    assert faults.__doc__ is not None
    assert {point for point in named if f"``{point}``" not in faults.__doc__} == set()
