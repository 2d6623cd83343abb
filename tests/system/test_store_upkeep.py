"""The store's clean-up beside runs, and killed: all in processes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent

# Without the day in which everything stays: what is kept then is kept by what runs say and by the lock.
CLEANING = """\
import sys
from pathlib import Path
from flowlab.store import collect
from flowlab.store.store import Store
collect.ORPHAN_S = -60
store = Store(Path("artifacts/.store"))
print("ready", flush=True)
turns = taken = 0
while not Path("enough").exists():
    found = collect.collect(store, Path("artifacts"), 1)
    turns, taken = turns + 1, taken + sum(map(len, found.removed.values()))
print(turns, taken)
"""


def started(folder: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, epochs: int, **environment: str) -> subprocess.Popen[str]:
    """Start the imagined stages, which take no time."""
    words = (str(HERE / "imagined_run.py"), "data", str(epochs), "run", "--engine", "local", "--json")
    return started(folder, *words, IMAGINED_LOG=str(folder / "log"), **environment)


def ended(child: subprocess.Popen[str], code: int = 0) -> str:
    out, error = child.communicate(timeout=300)
    assert child.returncode == code, error[-3000:]
    return out


def store(folder: Path, *words: str, code: int = 0, **environment: str) -> dict[str, Any]:
    """`flowlab store ... --json`."""
    child = started(folder, "-m", "flowlab.cli", "store", *words, "--json", **environment)
    out = ended(child, code)
    return json.loads(out) if out else {}


def files(result: dict[str, Any]) -> dict[str, list[str]]:
    return {role: [one["sha256"] for one in found] for role, found in result["artifacts"].items()}


def log(folder: Path) -> list[str]:
    return [line for line in (folder / "log").read_text().splitlines() if not line.startswith("epoch")]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "data" / "idle").mkdir(parents=True)
    (tmp_path / "data" / "idle" / "1.csv").write_text("1\n2\n")
    return tmp_path


def test_runs_beside_a_clean_up_that_never_rests_lose_nothing(project: Path) -> None:
    epochs = (3, 30, 3, 31, 4, 30, 3, 32)
    cleaner = started(project, "-c", CLEANING)
    try:
        assert cleaner.stdout is not None and cleaner.stdout.readline() == "ready\n"
        found = {}
        for first, second in zip(epochs[::2], epochs[1::2], strict=True):
            (project / "log").write_text("")
            both = {count: run(project, count) for count in (first, second)}
            results = {count: json.loads(ended(child)) for count, child in both.items()}
            for count, result in results.items():
                found.setdefault(count, files(result))
                assert files(result) == found[count]  # made again after a clean-up: the same
            stages = log(project)
            # Nothing that a run had made or found was taken from it, or it would have started that stage once more.
            assert all(stages.count(stage) <= 2 for stage in ("train", "simulate", "report")), stages
            assert stages.count("ingest") <= 1, stages
            assert store(project, "verify")["findings"] == []
    finally:
        (project / "enough").touch()
    turns, taken = map(int, ended(cleaner).split())
    assert turns > 20 and taken > 10
    store(project, "gc", "--keep-last", "1")  # the last turn may have been before the last run ended
    left = store(project, "ls")
    (latest,) = (project / "artifacts").glob("*/latest")  # of two at once the one that ended last
    assert {one["run"] for one in left["runs"]} == {left["runs"][0]["run"], latest.readlink().name}


@pytest.mark.parametrize(
    "fault", ["gc-runs:1", "gc-runs:2", "gc-records:1", "gc-records:4", "gc-objects:1", "gc-objects:5"]
)
def test_a_clean_up_killed_at_any_point_leaves_a_valid_store(project: Path, fault: str) -> None:
    for epochs in (3, 4, 5):
        last = json.loads(ended(run(project, epochs)))
    store(project, "gc", "--keep-last", "1", code=-9, FLOWLAB_FAULT=fault)
    assert store(project, "verify")["findings"] == []
    again = json.loads(ended(run(project, 5)))
    assert all(stage["cached"] for stage in again["stages"]) and files(again) == files(last)
    store(project, "gc", "--keep-last", "1")
    assert store(project, "verify")["findings"] == []
    assert list((project / "artifacts" / ".store" / "tmp").iterdir()) == []
    assert [one["run"] for one in store(project, "ls")["runs"]] == [again["run"]]


def test_a_clean_up_killed_at_random_moments_leaves_a_valid_store(project: Path) -> None:
    draw = random.Random(11)
    for turn in range(6):
        for epochs in (3 + turn, 20 + turn):
            last = json.loads(ended(run(project, epochs)))
        cleaner = started(project, "-c", CLEANING)
        assert cleaner.stdout is not None and cleaner.stdout.readline() == "ready\n"
        time.sleep(draw.uniform(0.0, 0.03))
        cleaner.kill()
        cleaner.communicate()
        assert store(project, "verify")["findings"] == []
        again = json.loads(ended(run(project, 20 + turn)))
        assert all(stage["cached"] for stage in again["stages"]) and files(again) == files(last)


def test_what_is_damaged_is_an_exit_code_and_a_line_with_the_run(project: Path) -> None:
    made = json.loads(ended(run(project, 3)))
    (model,) = made["artifacts"]["float_model"]
    path = project / "artifacts" / ".store" / "objects" / model["sha256"][:2] / model["sha256"]
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    child = started(project, "-m", "flowlab.cli", "store", "verify")
    out = ended(child, 1)
    assert f"run {made['run']}, train: best_model.pt (float_model)" in out
    assert out.splitlines()[-1].endswith("1 thing is not as it was written; nothing was changed")
    healed = json.loads(ended(run(project, 3)))
    assert files(healed) == files(made)
    assert store(project, "verify")["findings"] == []


def test_a_run_that_is_killed_beside_a_clean_up_goes_on_from_its_records(project: Path) -> None:
    child = run(project, 6, FLOWLAB_FAULT="epoch:4")
    ended(child, -9)
    store(project, "gc", "--keep-last", "1")
    (project / "log").write_text("")
    result = json.loads(ended(run(project, 6)))
    assert {one["name"]: one["cached"] for one in result["stages"]}["ingest"]
    epochs = [line for line in (project / "log").read_text().splitlines() if line.startswith("epoch")]
    assert epochs == ["epoch 4", "epoch 5"]  # its checkpoints were kept too
