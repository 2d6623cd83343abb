"""A real child process is really killed; the next run goes on where it stopped."""

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

from flowlab.store.store import Store

CHILD = Path(__file__).parent / "imagined.py"
EPOCHS = 12


def start(tmp_path: Path, store: str = "store", fault: str = "") -> subprocess.Popen[str]:
    environment = {**os.environ, "IMAGINED_LOG": str(tmp_path / f"{store}.log"), "FLOWLAB_FAULT": fault}
    command = [sys.executable, str(CHILD), str(tmp_path / store), str(tmp_path / "data"), str(EPOCHS)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def finish(child: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


def kill(child: subprocess.Popen[str], after_s: float) -> None:
    """Kill the child so long after it has started its run."""
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(after_s)
    child.kill()
    child.communicate()


def started(tmp_path: Path, store: str = "store") -> list[str]:
    log = tmp_path / f"{store}.log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def finished(tmp_path: Path, store: str = "store") -> set[str]:
    """The stages that have a record."""
    return {path.parent.name for path in (tmp_path / store).glob("records/*/*.json")}


def hashes(result: dict[str, Any]) -> dict[str, Any]:
    return {stage: one["files"] for stage, one in result.items()}


@pytest.fixture(autouse=True)
def recordings_are_there(data: Path) -> None:
    """Every test here reads them."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("undisturbed")
    sys.path.insert(0, str(CHILD.parent))
    import imagined

    sys.path.remove(str(CHILD.parent))
    imagined.fill(place / "data")
    return hashes(finish(start(place)))


@pytest.mark.parametrize(
    "fault",
    ["epoch:1", "epoch:7", "object-record:1", "object-record:2", "object-record:3", "record-write:1", "record-write:2"],
)
def test_a_run_killed_at_a_fault_point_resumes_where_it_stopped(
    tmp_path: Path, undisturbed: dict[str, Any], fault: str
) -> None:
    child = start(tmp_path, fault=fault)
    child.communicate(timeout=60)
    assert child.returncode == -9
    before, done = started(tmp_path), finished(tmp_path)
    result = finish(start(tmp_path))
    after = started(tmp_path)
    assert {stage for stage, one in result.items() if one["cached"]} == done
    assert not done & set(after)
    assert hashes(result) == undisturbed
    if fault.startswith("epoch"):  # an epoch whose checkpoint is written is not repeated either
        assert [line for line in before + after if line.startswith("epoch")] == [f"epoch {n}" for n in range(EPOCHS)]
    assert list((tmp_path / "store" / "tmp").iterdir()) == []
    assert list((tmp_path / "store" / "scratch").iterdir()) == []


def test_runs_killed_at_random_times_end_with_the_hashes_of_an_undisturbed_run(
    tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    draw = random.Random(7)
    for turn in range(20):
        store = f"store{turn}"
        kill(start(tmp_path, store), draw.uniform(0.0, 0.2))
        done = finished(tmp_path, store)
        started(tmp_path, store)
        import imagined

        os.environ["IMAGINED_LOG"] = str(tmp_path / f"{store}.log")
        try:
            result = imagined.run(tmp_path / store, tmp_path / "data", EPOCHS)
        finally:
            del os.environ["IMAGINED_LOG"]
        assert not done & set(started(tmp_path, store))
        assert hashes(result) == undisturbed


def test_a_run_killed_again_and_again_comes_to_its_end(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    for _ in range(4):
        kill(start(tmp_path), 0.06)
    assert hashes(finish(start(tmp_path))) == undisturbed


def test_two_processes_at_once_do_the_work_once(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    children = [start(tmp_path), start(tmp_path), start(tmp_path)]
    results = [finish(child) for child in children]
    assert [hashes(result) for result in results] == [undisturbed] * 3
    lines = started(tmp_path)
    assert sorted(lines) == sorted(["ingest", "train", "report", *(f"epoch {n}" for n in range(EPOCHS))])


def test_the_next_run_removes_what_a_killed_one_left_in_tmp(tmp_path: Path, data: Path) -> None:
    child = start(tmp_path, fault="epoch:3")
    child.communicate(timeout=60)
    left = list((tmp_path / "store" / "tmp").iterdir())
    assert left != []
    Store(tmp_path / "store").sweep()
    assert list((tmp_path / "store" / "tmp").iterdir()) == []
