from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flowlab.canonical import digest
from flowlab.store.records import Record
from flowlab.store.store import Store, store_root


def test_the_store_is_where_one_says_or_beside_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWLAB_STORE", raising=False)
    assert store_root(None, tmp_path) == tmp_path / ".store"
    monkeypatch.setenv("FLOWLAB_STORE", str(tmp_path / "env"))
    assert store_root(None, tmp_path) == tmp_path / "env"
    assert store_root(str(tmp_path / "said"), tmp_path) == tmp_path / "said"


def test_opening_a_store_touches_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.records.read("train", "0" * 64) is None
    assert not store.objects.holds("0" * 64)
    assert store.last_record("train", "dataset") is None
    store.sweep()
    store.close()
    assert not store.root.exists()


def test_a_workspace_is_empty_and_goes_away(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ZeroDivisionError), store.workspace() as place:
        assert list(place.iterdir()) == []
        (place / "file").touch()
        raise ZeroDivisionError
    assert not place.exists()


def test_what_a_dead_process_left_is_swept_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    store, host = Store(tmp_path), os.uname().nodename
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    for name in (f"{host}.{dead.pid}.aaaaaaaa", f"{host}.{os.getpid()}.bbbbbbbb", "elsewhere.1.cccccccc"):
        (tmp_path / "tmp" / name).mkdir(parents=True)
    os.utime(tmp_path / "tmp" / "elsewhere.1.cccccccc")
    (tmp_path / "tmp" / "elsewhere.2.dddddddd").touch()
    os.utime(tmp_path / "tmp" / "elsewhere.2.dddddddd", (0, 0))
    store.sweep()
    left = sorted(path.name for path in (tmp_path / "tmp").iterdir())
    assert left == sorted([f"{host}.{os.getpid()}.bbbbbbbb", "elsewhere.1.cccccccc"])


def test_a_lock_is_held_by_one_thread_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            with Store(tmp_path).lock("x"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 80


def test_who_waits_for_a_lock_is_asked_again_and_again_and_can_give_up(tmp_path: Path) -> None:
    asked: list[int] = []

    def waits() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt

    store = Store(tmp_path)
    with store.lock("x"), pytest.raises(KeyboardInterrupt), store.lock("x", waits):
        raise AssertionError("two hold one lock")
    with store.lock("x", waits):
        assert asked == [1, 1, 1]


def test_checkpoints_of_what_is_recorded_are_swept_unless_it_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    recorded = store.records.create(Record("train", digest({"epochs": 1}), {"epochs": 1}, {})).fingerprint
    unfinished = digest({"epochs": 2})
    for fingerprint in (recorded, unfinished):
        (store.scratch(fingerprint) / "checkpoint.pt").touch()
    with Store(tmp_path).lock(recorded):
        store.sweep()
    assert {path.name for path in (tmp_path / "scratch").iterdir()} == {recorded, unfinished}
    store.sweep()
    assert {path.name for path in (tmp_path / "scratch").iterdir()} == {unfinished}


def test_a_lock_is_let_go_when_its_holder_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from flowlab.store.store import Store\n"
        "with Store(Path(sys.argv[1])).lock('x'):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    taken = threading.Event()

    def wait() -> None:
        with Store(tmp_path).lock("x"):
            taken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not taken.wait(0.2)
    holder.kill()
    holder.communicate()
    thread.join(10)
    assert taken.is_set()


def test_the_last_record_is_that_of_the_datasets_latest_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    records = [Record("train", digest({"n": n}), {"n": n}, {}) for n in range(3)]
    for number, record in enumerate(records):
        store.records.create(record)
        os.utime(tmp_path / "records" / "train" / f"{record.fingerprint}.json", (number, number))
    store.runs.write("20260101T000000Z-aaaa", "motor", "Completed", stages={"train": records[1].fingerprint})
    store.runs.write("20260102T000000Z-aaaa", "motor", "Failed", stages={"ingest": "0" * 64})
    store.runs.write("20260103T000000Z-aaaa", "fan", "Completed", stages={"train": records[0].fingerprint})
    assert store.last_record("train", "motor") == records[1]
    assert store.last_record("train", "fan") == records[0]
    assert store.last_record("train", "pump") is None  # another dataset tells nothing of it
