from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flowlab.canonical import digest
from flowlab.errors import StoreError
from flowlab.store import runs
from flowlab.store.records import Record, Stored
from flowlab.store.run_folder import RunFolder
from flowlab.store.runs import run_name
from flowlab.store.store import Store, store_root


def record(store: Store, role: str, **files: bytes) -> Record:
    outputs = {role: {name: Stored(*store.objects.add_bytes(data)) for name, data in files.items()}}
    return Record("stage", "0" * 64, {}, outputs)


def test_people_find_copies_of_their_own(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made = record(store, "quantized_onnx", **{"best_model.onnx": b"onnx"})
    folder = RunFolder(tmp_path / "artifacts", "motor", "one")
    artifacts = folder.fill([made], store.objects)
    path = tmp_path / "artifacts" / "motor" / "one" / "training" / "quantization" / "best_model.onnx"
    assert [(one.name, one.path) for one in artifacts["quantized_onnx"]] == [("best_model.onnx", path)]
    sha = artifacts["quantized_onnx"][0].sha256
    assert path.stat().st_nlink == 1
    path.write_bytes(b"mine")
    assert store.objects.holds(sha)


def test_what_nobody_looks_at_stays_in_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made = record(store, "recordings", **{"recordings.arrow": b"x"})
    artifacts = RunFolder(tmp_path / "artifacts", "motor", "one").fill([made], store.objects)
    (one,) = artifacts["recordings"]
    assert one.path == store.objects.path(one.sha256)
    assert not (tmp_path / "artifacts" / "motor" / "one").exists()


def test_latest_leads_to_the_last_complete_run(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made = record(store, "report", **{"report.html": b"<html>"})
    for run in ("one", "two"):
        folder = RunFolder(tmp_path / "artifacts", "motor", run)
        folder.fill([made], store.objects)
        folder.becomes_latest()
    RunFolder(tmp_path / "artifacts", "motor", "three").fill([made], store.objects)
    latest = tmp_path / "artifacts" / "motor" / "latest"
    assert latest.readlink() == Path("two")
    assert (latest / "report.html").read_bytes() == b"<html>"
    assert sorted(path.name for path in latest.parent.iterdir()) == ["latest", "one", "three", "two"]


def test_a_link_that_a_killed_process_left_beside_latest_goes_away(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    folder = RunFolder(tmp_path, "motor", "one")
    folder.path.mkdir(parents=True)
    host = os.uname().nodename
    for name in (f".latest.{host}.{dead.pid}.aaaaaaaa", f".latest.{host}.{os.getpid()}.bbbbbbbb", ".mine"):
        (folder.path.parent / name).symlink_to("nowhere")
    folder.becomes_latest()
    left = {path.name for path in folder.path.parent.iterdir()}
    assert left == {"one", "latest", f".latest.{host}.{os.getpid()}.bbbbbbbb", ".mine"}


@pytest.mark.parametrize("name", ["", "a/b", "..", ".store", "latest"])
def test_a_name_that_is_no_folder_of_its_own_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="cannot name a folder"):
        RunFolder(tmp_path, name, "run")


def test_runs_are_named_by_time() -> None:
    name = run_name(datetime(2026, 11, 24, 23, 5, 9, tzinfo=UTC))
    assert re.fullmatch(r"20261124T230509Z-[0-9a-f]{4}", name)
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{4}", run_name())
    moments = [datetime(2026, 11, 24, 23, 5, 9, part, tzinfo=UTC) for part in (0, 40, 70_000, 500_000, 999_999)]
    names = [run_name(moment) for moment in moments]
    assert names == sorted(set(names)), "also within one second"
    assert (names[0], names[-1]) == ("20261124T230509Z-0000", "20261124T230509Z-ffff")


def test_runs_that_draw_one_name_get_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["20260131T120000Z-3f2a", "20260131T120000Z-3f2a", "20260131T120000Z-0001"])
    monkeypatch.setattr(runs, "run_name", lambda: next(drawn))
    store = Store(tmp_path)
    assert [store.runs.claim(), store.runs.claim()] == ["20260131T120000Z-3f2a", "20260131T120000Z-0001"]
    assert list(store.runs.newest_first()) == []


def test_a_run_is_written_first_and_again_at_its_end(tmp_path: Path) -> None:
    runs = Store(tmp_path).runs
    runs.write("one", "motor", "Running", config="${HOME}")
    assert runs.read("one") == {"run": "one", "dataset": "motor", "state": "Running", "config": "${HOME}"}
    runs.write("one", "motor", "Completed", stages={})
    read = runs.read("one")
    assert read is not None and read["state"] == "Completed"
    written = json.loads((tmp_path / "runs" / "one" / "run.json").read_text())
    assert written == {**read, "check": digest(read)}  # what `flowlab store verify` holds it against
    assert [run["run"] for run in runs.newest_first("motor")] == ["one"]
    assert list(runs.newest_first("fan")) == []


def test_a_damaged_run_is_passed_over(tmp_path: Path) -> None:
    runs = Store(tmp_path).runs
    runs.write("one", "motor", "Running")
    (tmp_path / "runs" / "one" / "run.json").write_text("{")
    assert runs.read("one") is None
    assert list(runs.newest_first("motor")) == []


def test_a_folder_in_the_place_of_latest_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "motor", "one")
    (tmp_path / "motor" / "latest" / "mine").mkdir(parents=True)
    with pytest.raises(StoreError, match="latest: cannot become a link"):
        folder.becomes_latest()
    assert [path.name for path in (tmp_path / "motor").iterdir()] == ["latest"]


def test_a_run_json_of_another_shape_is_passed_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.runs.write("one", "motor", "Completed", stages=["train"])
    assert store.last_record("train", "motor") is None


def test_a_home_that_nobody_has_is_an_error_that_names_the_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"store ~nobody_of_this_name/x: .*whole path"):
        store_root("~nobody_of_this_name/x", tmp_path)
