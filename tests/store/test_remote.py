"""A store at an address: memory:// stands for the bucket, and every machine has a folder of its own."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from flowlab.canonical import digest
from flowlab.errors import NotBuiltYet, StoreError
from flowlab.store.objects import DamagedObject
from flowlab.store.records import Record, Stored, written
from flowlab.store.remote import RemoteFiles, checked
from flowlab.store.store import Store, open_store, store_address, store_root


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"memory://{tmp_path.name}-{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]}"


@pytest.fixture
def one(tmp_path: Path, address: str) -> Store:
    return Store(tmp_path / "one", address)


@pytest.fixture
def other(tmp_path: Path, address: str) -> Store:
    return Store(tmp_path / "other", address)


def bucket(address: str) -> dict[str, bytes]:
    """All that lies at the address."""
    system, root = fsspec.core.url_to_fs(address)
    return {path.removeprefix(f"{root}/"): system.cat_file(path) for path in system.find(root)}


def put(address: str, path: str, data: bytes | None) -> None:
    system, root = fsspec.core.url_to_fs(address)
    system.rm_file(f"{root}/{path}") if data is None else system.pipe_file(f"{root}/{path}", data)


def key(sha256: str) -> str:
    return f"objects/{sha256[:2]}/{sha256}"


def record(made: str = "a", **more: Any) -> Record:
    document = {"stage": "train", "of": "one"}
    files = {"float_model": {"best_model.pt": Stored(hashlib.sha256(made.encode()).hexdigest(), len(made))}}
    return Record("train", digest(document), document, files, aside={"host": made}, **more)


# --- which store ---------------------------------------------------------------------------------


def test_an_address_is_a_store_with_a_folder_beside_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store("s3://bucket/prefix/", tmp_path)
    assert store.address == store.place == "s3://bucket/prefix"
    assert store.root.parent == tmp_path / ".remote-stores"
    assert store.root != open_store("s3://bucket/other", tmp_path).root
    monkeypatch.setenv("FLOWLAB_STORE", "s3://bucket/prefix")
    monkeypatch.setenv("FLOWLAB_CACHE", str(tmp_path / "cache"))
    assert open_store(None, tmp_path).root == tmp_path / "cache" / store.root.name
    assert not store.root.exists(), "opening touches nothing"


def test_a_file_address_is_a_folder(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/a%20store", tmp_path)
    assert (store.root, store.address) == (tmp_path / "a store", None)
    with pytest.raises(StoreError, match="write the folder's whole path"):
        open_store("file://store", tmp_path)


@pytest.mark.parametrize(
    "asked",
    ["s3://AKIA:verysecret@bucket/x", "s3://bucket/x?secret=verysecret", "s3://verysecret@bucket", "s3://b#verysecret"],
)
def test_no_secret_stands_in_an_address(asked: str) -> None:
    with pytest.raises(StoreError, match=r"holds no user, key or query\. Credentials come from") as caught:
        store_address(asked)
    assert "verysecret" not in str(caught.value)


@pytest.mark.parametrize("asked", ["s3://", "://bucket", "s3://buc\tket"])
def test_an_address_without_a_place_is_refused(asked: str) -> None:
    with pytest.raises(StoreError, match="it names no place"):
        checked(asked)


def test_what_works_on_folders_only_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotBuiltYet, match="store s3://bucket: this works on stores in folders only"):
        store_root("s3://bucket", tmp_path)


def test_a_missing_driver_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"].__dict__["_registry"], "s3", raising=False)
    with pytest.raises(StoreError, match=r"its driver is not installed here. Write: pip install 'flowlab\[s3\]'"):
        RemoteFiles("s3://bucket").read("x")


def test_a_scheme_that_nobody_opens_is_named() -> None:
    with pytest.raises(StoreError, match="nothing here opens thing://"):
        RemoteFiles("thing://bucket").read("x")


class Plain(fsspec.AbstractFileSystem):
    """It writes in place."""

    protocol = "plain"


@pytest.mark.parametrize("scheme", ["http", "https", "plain"])
def test_a_file_system_without_whole_writes_is_refused(scheme: str) -> None:
    fsspec.register_implementation("plain", Plain, clobber=True)
    with pytest.raises(StoreError, match=f"{scheme}:// cannot write a file whole, and only where none is"):
        RemoteFiles(f"{scheme}://127.0.0.1:1/x").read("x")


def test_what_a_driver_raises_is_worded_without_secrets(one: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(reason: Exception) -> None:
        def raises(*args: object, **more: object) -> None:
            raise reason

        system = fsspec.filesystem("memory", use_listings_cache=False)
        monkeypatch.setattr(type(system), "cat_file", raises)

    said = []
    for reason in (
        PermissionError(13, "Access Denied"),
        ConnectionRefusedError("https://me:verysecret@host/x?token=verysecret refuses"),
        ValueError("odd"),
    ):
        refuse(reason)
        with pytest.raises(StoreError) as caught:
            one.records.read("train", "0" * 64)
        said.append(str(caught.value))
    assert "no permission to read: Access Denied. Credentials come from" in said[0]
    assert "nobody answers (https://host/x?... refuses)" in said[1]
    assert said[2].endswith("ValueError: odd")
    assert all(one.place in text and "verysecret" not in text for text in said)


# --- objects -------------------------------------------------------------------------------------


def test_an_object_is_put_once_and_fetched_where_it_is_needed(one: Store, other: Store, address: str) -> None:
    sha, size = one.objects.add_bytes(b"weights")
    assert bucket(address) == {key(sha): b"weights"}
    assert size == 7
    assert other.objects.holds(sha)
    assert not other.objects.path(sha).exists(), "to be held is not to be fetched"
    assert other.objects.verified(sha).read_bytes() == b"weights"
    put(address, key(sha), None)
    assert other.objects.fetched(sha).read_bytes() == b"weights", "from this machine's own copy"


def test_a_copy_that_is_damaged_here_is_fetched_again(one: Store, address: str) -> None:
    sha, _ = one.objects.add_bytes(b"weights")
    path = one.objects.path(sha)
    path.chmod(0o644)
    path.write_bytes(b"weightz")
    assert one.objects.verified(sha).read_bytes() == b"weights"


def test_an_object_that_is_flipped_at_the_address_is_moved_aside(one: Store, other: Store, address: str) -> None:
    sha, _ = one.objects.add_bytes(b"weights")
    put(address, key(sha), b"weightz")
    with pytest.raises(DamagedObject, match="has another hash"):
        other.objects.verified(sha)
    assert not other.objects.holds(sha)
    assert not other.objects.path(sha).exists()
    assert [path.split(".")[0] for path in bucket(address)] == [f"aside/{sha}"]


def test_what_is_lost_at_the_address_is_put_again_by_who_has_it(
    one: Store, other: Store, address: str, tmp_path: Path
) -> None:
    sha, _ = one.objects.add_bytes(b"weights")
    put(address, key(sha), None)
    with pytest.raises(DamagedObject, match="it is not in the store"):
        other.objects.fetched(sha)
    assert Store(tmp_path / "one", address).objects.holds(sha)
    assert bucket(address) == {key(sha): b"weights"}


def test_half_an_object_at_the_address_is_put_again(one: Store, address: str, tmp_path: Path) -> None:
    sha, _ = one.objects.add_bytes(b"weights")
    put(address, key(sha), b"wei")
    assert Store(tmp_path / "one", address).objects.holds(sha)
    assert bucket(address) == {key(sha): b"weights"}


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64])
def test_no_name_leads_out_of_the_objects(one: Store, name: str) -> None:
    assert not one.objects.holds(name)
    with pytest.raises(DamagedObject, match="no name of an object"):
        one.objects.fetched(name)


# --- records -------------------------------------------------------------------------------------


def test_who_loses_the_race_gets_the_winners_record(one: Store, other: Store, address: str) -> None:
    first, second = record("a"), record("b")
    assert one.records.create(first) == first
    assert other.records.create(second) == first
    assert list(bucket(address)) == [f"records/train/{first.fingerprint}.json"]
    assert other.records.read("train", first.fingerprint) == first


@pytest.mark.parametrize("flip", [0, 40, -2])
def test_a_damaged_record_is_none_and_gets_a_next_generation(one: Store, address: str, flip: int) -> None:
    first, second = record("a"), record("b")
    one.records.create(first)
    (path,) = bucket(address)
    data = bytearray(bucket(address)[path])
    data[flip] ^= 1
    put(address, path, bytes(data))
    assert one.records.read("train", first.fingerprint) is None
    assert one.records.create(second) == second
    assert one.records.read("train", first.fingerprint) == second
    assert bucket(address)[path] == bytes(data), "nothing is overwritten"
    assert set(bucket(address)) == {path, path.replace(".json", ".1.json")}


def test_a_record_is_replaced_by_one_machine_only(one: Store, other: Store) -> None:
    first, second, third = record("a"), record("b"), record("c")
    one.records.create(first)
    assert one.records.replace(second, first) == second
    assert other.records.replace(third, first) == second, "who is late adopts"
    assert other.records.read("train", first.fingerprint) == second
    assert other.records.replace(third, second) == third


def test_a_record_under_another_name_is_none(one: Store, address: str) -> None:
    put(address, f"records/train/{'0' * 64}.json", written(record()))
    assert one.records.read("train", "0" * 64) is None
    assert one.records.read("../train", "0" * 64) is None
    assert one.records.read("train", "../" + "0" * 61) is None


def test_a_fingerprint_is_known_without_its_stage(one: Store) -> None:
    made = one.records.create(replace(record(), stage="train"))
    assert one.records.names(made.fingerprint)
    assert not one.records.names("0" * 64)


# --- runs and downloads --------------------------------------------------------------------------


def test_runs_are_seen_by_every_machine(one: Store, other: Store, address: str) -> None:
    names = [one.runs.claim(), other.runs.claim()]
    one.runs.write(names[0], "tones", "Running", stages={})
    other.runs.write(names[1], "tones", "Completed", stages={})
    assert [run["run"] for run in one.runs.newest_first("tones")] == sorted(names, reverse=True)
    assert other.runs.read(names[0]) == {"run": names[0], "dataset": "tones", "state": "Running", "stages": {}}
    assert json.loads(bucket(address)[f"runs/{names[1]}/run.json"])["state"] == "Completed"


def test_a_claimed_run_that_was_never_written_is_no_run(one: Store) -> None:
    one.runs.claim()
    assert list(one.runs.newest_first()) == []


def test_no_two_runs_have_one_name(one: Store, other: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["20260101T000000Z-0000", "20260101T000000Z-0000", "20260101T000000Z-0001"])
    monkeypatch.setattr("flowlab.store.shared.run_name", lambda: next(drawn))
    assert [one.runs.claim(), other.runs.claim()] == ["20260101T000000Z-0000", "20260101T000000Z-0001"]


def test_what_one_machine_downloaded_another_does_not(one: Store, other: Store) -> None:
    from flowlab.store.downloads import Download, key_of

    sha, size = one.objects.add_bytes(b"PK")
    known = Download(sha, size, "https://host/data.zip", "2026-01-01")
    one.downloads.write(key_of("https://host/data.zip"), known)
    assert other.downloads.read(key_of("https://host/data.zip")) == known


def test_only_what_speeds_this_machine_up_lies_in_its_folder(one: Store, address: str) -> None:
    one.objects.add_bytes(b"weights")
    one.records.create(record())
    with one.lock("x"), one.workspace():
        one.scratch("0" * 64)
    one.stats.save()
    assert {path.split("/")[0] for path in bucket(address)} == {"objects", "records"}
    assert {path.name for path in one.root.iterdir()} == {"objects", "locks", "tmp", "scratch", "stat_cache.json"}
