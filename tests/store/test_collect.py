"""What `flowlab store gc` takes, and what it leaves."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowlab.canonical import digest
from flowlab.store import collect as collecting
from flowlab.store.collect import ORPHAN_S, Collected, collect
from flowlab.store.downloads import Download, key_of
from flowlab.store.records import Record
from flowlab.store.runs import this_process
from flowlab.store.store import Store
from flowlab.store.verify import verify

Made = Callable[..., Record]
Ran = Callable[..., str]


def swept(store: Store, keep_last: int = 1, **more: Any) -> Collected:
    return collect(store, store.root.parent, keep_last, **more)


def names(store: Store, kind: str) -> set[str]:
    return {path.stem for path in (store.root / kind).glob("*/*")}


def weights(store: Store, run: str) -> bool:
    """Whether the run's own record and its object are there."""
    value = store.runs.read(run)
    return value is not None and store.records.read("train", value["stages"]["train"]) is not None


def old(store: Store) -> None:
    """Let everything be older than what is kept only because it is new."""
    for path in (store.root / "records").rglob("*.json"):
        os.utime(path, (0, 0))


def everything_is_older(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object's time is when it came here, which nobody can set: so the bound is moved."""
    monkeypatch.setattr(collecting, "ORPHAN_S", -60)


def test_the_newest_runs_of_each_dataset_stay_with_all_that_they_need(store: Store, ran: Ran) -> None:
    first, second, third = ran(1), ran(2), ran(3)
    other = ran(1 + 9, "fan")
    found = swept(store, 2)
    assert set(found.kept) == {second, third, other}
    assert found.removed["runs"] == (f"runs/{first}",)
    assert len(found.removed["records"]) == len(found.removed["objects"]) == 1  # ingest is everybody's
    assert found.freed > 0
    assert not weights(store, first) and weights(store, second) and weights(store, third) and weights(store, other)
    assert verify(store).findings == ()


def test_a_dry_run_says_the_same_and_removes_nothing(store: Store, ran: Ran) -> None:
    for day in (1, 2, 3):
        ran(day)
    before = sorted(store.root.rglob("*"))
    said = swept(store, dry=True)
    assert sorted(store.root.rglob("*")) == before
    found = swept(store)
    assert found.removed == said.removed and found.freed == said.freed and found.kept == said.kept
    assert said.lines()[-1].startswith("would remove 2 runs, 2 records, 2 objects: ")
    assert found.lines()[-1].startswith("removed 2 runs")


def test_what_a_link_leads_to_stays_in_whatever_project(store: Store, ran: Ran, tmp_path: Path) -> None:
    promoted, elsewhere, gone, newest = ran(1), ran(2, artifacts=str(tmp_path / "other")), ran(3), ran(4)
    for place, name in (("artifacts/motor/promoted", promoted), ("other/motor/latest", elsewhere)):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).symlink_to(name)
    found = swept(store)
    assert set(found.kept) == {promoted, elsewhere, newest} and gone not in found.kept
    assert found.kept[promoted] == "'promoted' leads to it"
    assert weights(store, promoted) and weights(store, elsewhere)


def test_failed_and_killed_runs_stay_while_they_are_newer_than_the_kept_ones(store: Store, ran: Ran) -> None:
    before, completed, after = ran(1, state="Failed"), ran(2), ran(3, state="Failed")
    killed = ran(4, state="Running", process={**this_process(), "start": -1})
    assert set(swept(store).kept) == {completed, after, killed}
    assert store.runs.read(before) is None


def test_every_record_that_a_living_run_can_ask_for_stays_named_or_not(store: Store, ran: Ran, made: Made) -> None:
    ran(1)
    ran(2)
    asked = {"stage": "train", "seed": 1}
    looked_up = made("train", "weights 20260101T000000Z-aaaa", seed=1)
    living = ran(0 + 5, state="Running", process=this_process(), asks={"train": digest(asked)})
    store.runs.write(living, "motor", "Running", stages={}, objects=[], process=this_process(),
                     asks={"train": digest(asked)})  # fmt: skip
    unnamed = made("train", "of other inputs", seed=1, inputs={"recordings": "0" * 64})
    strange = made("train", "nobody's", seed=77)
    old(store)
    found = swept(store)
    assert found.kept[living] == "it goes on"
    for record in (looked_up, unnamed):
        assert store.records.read("train", record.fingerprint) is not None
        assert all(store.objects.holds(one.sha256) for one in record.outputs["float_model"].values())
    assert store.records.read("train", strange.fingerprint) is None


def test_what_a_living_run_starts_from_stays(store: Store, ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    everything_is_older(monkeypatch)
    notes, _ = store.objects.add_bytes(b"notes")
    lost, _ = store.objects.add_bytes(b"nobody's")
    ran(1)
    store.runs.write("20260102T000000Z-aaaa", "motor", "Running", stages={}, asks={}, objects=[notes],
                     process=this_process())  # fmt: skip
    swept(store)
    assert store.objects.holds(notes) and not store.objects.holds(lost)


def test_beside_a_living_run_that_does_not_say_what_it_needs_nothing_goes(store: Store, ran: Ran) -> None:
    for day in (1, 2):
        ran(day)
    ran(3, state="Running", process=this_process())
    found = swept(store)
    assert found.removed == {} and "does not say what it needs" in found.lines()[-2]
    assert len(names(store, "records")) == 4


def test_what_no_run_names_stays_for_a_day(store: Store, ran: Ran, made: Made) -> None:
    ran(1)
    young, aged = made("compile", "young"), made("compile", "aged", other=1)
    path = store.root / "records" / "compile" / f"{aged.fingerprint}.json"
    os.utime(path, (path.stat().st_mtime - ORPHAN_S - 60,) * 2)
    half, _ = store.objects.add_bytes(b"objects of which the record is not written yet")
    swept(store)
    assert store.records.read("compile", young.fingerprint) == young
    assert store.records.read("compile", aged.fingerprint) is None
    assert store.objects.holds(half)


def test_records_of_another_version_keep_their_objects_while_their_run_stays(store: Store, ran: Ran) -> None:
    ran(1)
    kept = ran(2)
    fingerprint = (store.runs.read(kept) or {})["stages"]["train"]
    path = store.root / "records" / "train" / f"{fingerprint}.json"
    before = names(store, "objects")
    path.write_text(path.read_text().replace('"schema":1', '"schema":99'))
    found = swept(store)
    assert path.exists()
    assert len(before - names(store, "objects")) == len(found.removed["objects"]) == 1


def test_a_damaged_run_may_need_everything(store: Store, ran: Ran) -> None:
    first = ran(1)
    ran(2)
    (store.root / "runs" / first / "run.json").write_text("{")
    found = swept(store)
    assert found.removed == {} and f"runs/{first}/run.json is damaged" in found.said[0]
    shutil.rmtree(store.root / "runs" / first)
    old(store)
    assert len(swept(store).removed["records"]) == 1


def test_a_run_that_is_claimed_and_not_begun_is_no_damage(store: Store, ran: Ran) -> None:
    ran(1)
    claimed = store.runs.claim()
    assert swept(store).said == ()
    assert (store.root / "runs" / claimed).is_dir()


def test_a_download_stays_with_the_runs_that_read_it(store: Store, ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    everything_is_older(monkeypatch)
    read, _ = store.objects.add_bytes(b"read")
    unread, size = store.objects.add_bytes(b"unread")
    for name, sha in (("read", read), ("unread", unread)):
        store.downloads.write(key_of(name), Download(sha, size, name, ""))
        store.downloads.link(key_of(name), "data.zip", sha)
    run = ran(1)
    value = dict(store.runs.read(run) or {})
    store.runs.write(run, "motor", "Completed", stages=value["stages"])
    swept(store)
    assert store.downloads.read(key_of("unread")) is not None  # an older flowlab did not say what it read
    store.runs.write(run, "motor", "Completed", stages=value["stages"], objects=[read])
    swept(store)
    assert store.downloads.read(key_of("read")) is not None
    assert store.downloads.read(key_of("unread")) is None and not store.objects.holds(unread)


def test_checkpoints_and_damaged_files_go_when_they_are_older_than_every_kept_run(
    store: Store, ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(1)
    for kind in ("scratch", "aside"):
        (store.root / kind / ("a" * 64)).mkdir(parents=True)
        (store.root / kind / ("b" * 64)).mkdir()
    assert swept(store).removed == {}  # the kept run is of 2026-01-01, they are of today
    monkeypatch.setattr(collecting, "moment", lambda run: 4e9)
    with store.lock("b" * 64):  # somebody is at work in it
        swept(store)
    assert [path.name[0] for path in (store.root / "scratch").iterdir()] == ["b"]
    assert list((store.root / "aside").iterdir()) == []


def test_nothing_goes_while_objects_wait_for_their_record(store: Store, ran: Ran) -> None:
    for day in (1, 2):
        ran(day)
    waited = threading.Event()
    with store.keeping():
        thread = threading.Thread(target=lambda: swept(store, waits=waited.set))
        thread.start()
        assert waited.wait(10)
        assert len(names(store, "records")) == 3
    thread.join(10)
    assert len(names(store, "records")) == 2


def test_a_run_that_begins_while_the_store_is_looked_through_is_seen(
    store: Store, ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = ran(1), ran(2)
    looks: list[int] = []
    look = collecting.contents

    def contents(*words: Any) -> Any:
        found = look(*words)
        if not looks:
            value = store.runs.read(first) or {}
            asks = {"train": digest({"stage": "train", "seed": 1})}
            store.runs.write("20260109T000000Z-bbbb", "motor", "Running", stages={}, objects=[], asks=asks,
                             process=this_process())  # fmt: skip
            assert value["stages"]
        looks.append(1)
        return found

    monkeypatch.setattr(collecting, "contents", contents)
    found = swept(store)
    assert looks == [1, 1]
    assert "records" not in found.removed  # what the first run made is what the new one is going to look up
    assert found.removed["runs"] == (f"runs/{first}",)


def test_a_store_that_is_not_there_is_empty(tmp_path: Path) -> None:
    for dry, said in ((True, "would remove nothing: 0 bytes"), (False, "removed nothing: 0 bytes")):
        found = collect(Store(tmp_path / "nowhere"), tmp_path, 1, dry=dry)
        assert (found.removed, found.freed, found.lines()) == ({}, 0, [said])
    assert not (tmp_path / "nowhere").exists()
