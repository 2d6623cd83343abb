"""Every flipped byte, truncation and loss is found, with whom it hits; nothing is changed for it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlab.canonical import canonical_json, digest, read_json
from flowlab.store.collect import collect
from flowlab.store.downloads import Download, key_of
from flowlab.store.records import Record
from flowlab.store.store import Store
from flowlab.store.verify import Finding, verify

Made = Callable[..., Record]
Ran = Callable[..., str]


@pytest.fixture
def run(store: Store, ran: Ran) -> str:
    """One run, a download, and a stat cache that knows something."""
    sha, size = store.objects.add_bytes(b"archive")
    store.downloads.write(key_of("there"), Download(sha, size, "there", ""))
    store.downloads.link(key_of("there"), "data.zip", sha)
    name = ran(1)
    assert store.objects.verified(sha)
    store.close()
    return name


def tree(store: Store) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(store.root.rglob("*")) if path.is_file()}


def only(store: Store) -> Finding:
    (found,) = verify(store).findings
    return found


def the_object(store: Store, run: str) -> Path:
    """The weights of the run."""
    record = store.records.read("train", (store.runs.read(run) or {})["stages"]["train"])
    assert record is not None
    ((_, stored),) = record.outputs["float_model"].items()
    return store.objects.path(stored.sha256)


def test_a_whole_store_is_said_to_be_whole(store: Store, run: str) -> None:
    found = verify(store)
    assert found.findings == () and (found.runs, found.records, found.objects) == (1, 2, 3)
    assert found.lines()[-1].endswith("everything is as it was written")


def test_every_flipped_bit_of_every_file_is_found_and_nothing_is_changed(store: Store, run: str) -> None:
    files = tree(store)
    assert {path.relative_to(store.root).parts[0] for path in files} == {
        "objects", "records", "runs", "downloads", "stat_cache.json",
    }  # fmt: skip
    for path, content in files.items():
        mode = path.stat().st_mode
        path.chmod(0o644)
        for place in range(0, len(content), max(1, len(content) // 60)):
            data = bytearray(content)
            data[place] ^= 1 << (place % 8)
            path.write_bytes(data)
            before = tree(store)
            assert verify(store).findings, (path, place)
            assert tree(store) == before
        path.write_bytes(content)
        path.chmod(mode)
    assert verify(store).findings == ()


def test_a_damaged_object_names_run_record_role_and_file(store: Store, run: str) -> None:
    path = the_object(store, run)
    path.chmod(0o644)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:3])
    found = only(store)
    fingerprint = (store.runs.read(run) or {})["stages"]["train"]
    assert found.found == f"its content does not match its name (truncated at 3 of {size} bytes)"
    assert found.hits == (f"run {run}, train: weights {run}.bin (float_model), record {fingerprint[:12]}",)
    assert "the next run of its config makes it again" in found.line()
    path.write_bytes(b"x" * size)
    assert f"({size} bytes) does not match its name, it has the hash" in only(store).found
    path.unlink()
    assert (only(store).found, only(store).hits) == ("it is not there", found.hits)
    path.mkdir()
    assert "cannot be read" in only(store).found


def test_a_lost_record_names_its_run(store: Store, run: str) -> None:
    shutil.rmtree(store.root / "records" / "train")
    found = only(store)
    assert found.path.startswith("records/train/") and found.hits == (f"run {run}",)


def test_a_damaged_record_names_its_run_and_stays_where_it_is(store: Store, run: str) -> None:
    (path,) = (store.root / "records" / "train").iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    assert only(store).hits == (f"run {run}",) and path.exists()


def test_a_record_of_another_version_is_no_damage(store: Store, run: str) -> None:
    (path,) = (store.root / "records" / "train").iterdir()
    value = read_json(path.read_bytes())
    value |= {"schema": 99}
    del value["check"]
    path.write_bytes(canonical_json({**value, "check": digest(value)}))
    found = verify(store)
    assert found.findings == () and "of another version of flowlab" in found.notes[0]


def test_a_record_under_anothers_name_is_found(store: Store, run: str) -> None:
    (path,) = (store.root / "records" / "train").iterdir()
    path.rename(path.with_name(f"{'0' * 64}.json"))
    assert sorted(one.found.partition(" of ")[0] for one in verify(store).findings) == [
        "it is not there",
        "it is the record",
    ]


def test_a_run_under_anothers_name_is_found(store: Store, run: str) -> None:
    (store.root / "runs" / run).rename(store.root / "runs" / "20260109T000000Z-aaaa")
    assert only(store).found == f"it is run '{run}'"


def test_a_download_without_its_object_is_found(store: Store, run: str) -> None:
    known = store.downloads.read(key_of("there"))
    assert known is not None
    store.objects.path(known.sha256).unlink()
    found = only(store)
    assert found.path.startswith("downloads/") and "downloads the archive again" in found.cure


def test_a_stat_cache_that_is_wrong_about_a_file_is_found(store: Store, run: str) -> None:
    path = store.root / "stat_cache.json"
    value = read_json(path.read_bytes())
    next(iter(value["files"].values()))[4] = "0" * 64
    value["check"] = digest(value["files"])
    path.write_bytes(canonical_json(value))
    assert "it says another hash than the file has of " in only(store).found


def test_what_does_not_belong_among_objects_and_records_is_said(store: Store, run: str) -> None:
    (store.root / "objects" / "ab").mkdir(exist_ok=True)
    (store.root / "objects" / "ab" / "note.txt").touch()
    (store.root / "records" / "train" / "note.txt").touch()
    assert [one.found for one in verify(store).findings] == ["it is no object", "it is no record"]


@given(junk=st.binary(max_size=40))
def test_no_content_of_any_file_is_an_error(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    for name in ("runs/r/run.json", f"records/train/{'0' * 64}.json", f"objects/00/{'0' * 64}",
                 "downloads/k/entry.json", "imports.json", "stat_cache.json"):  # fmt: skip
        path = store.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(junk)
    assert len(verify(store).findings) >= 5


def test_a_clean_up_waits_for_it(store: Store, run: str, ran: Ran) -> None:
    for day in (2, 3):
        ran(day)
    with store.keeping():
        pass  # as any run of this version leaves it: the lock's file
    waiting = threading.Event()
    cleaners: list[threading.Thread] = []

    def progress(what: str, fraction: float) -> None:
        if not cleaners:
            words = (store, store.root.parent, 1)
            cleaners.append(threading.Thread(target=lambda: collect(*words, waits=waiting.set)))
            cleaners[0].start()
            assert waiting.wait(10)

    found = verify(store, progress)
    assert found.findings == () and found.runs == 3
    cleaners[0].join(10)
    assert verify(store).runs == 1


def test_a_store_that_is_not_there_is_whole(tmp_path: Path) -> None:
    assert verify(Store(tmp_path / "nowhere")).findings == ()
    assert not (tmp_path / "nowhere").exists()
