"""One run as one zip: written whole or not at all, and read from anywhere without trust."""

from __future__ import annotations

import json
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlab.canonical import digest
from flowlab.engine import store_archive
from flowlab.engine.store_export import Written, export
from flowlab.engine.store_import import import_run
from flowlab.engine.which_run import which_run
from flowlab.errors import DataError, StoreError
from flowlab.store.records import Record, Stored
from flowlab.store.runs import this_process
from flowlab.store.store import Store
from flowlab.store.verify import verify

RUN = "20260101T000000Z-aaaa"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "x", "../x", "a" * 64]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "../b"]), inner, max_size=2),
    max_leaves=4,
)


def filled(root: Path, content: str = "weights") -> Store:
    """A store with one run of two stages, which make one file equally."""
    store = Store(root)
    records = []
    for stage, role, name, text in (
        ("ingest", "recordings", "deep/recordings.bin", content),
        ("ingest", "splits", "splits.json", "{}"),
        ("train", "float_model", "model.bin", content),
    ):
        sha, size = store.objects.add_bytes(text.encode())
        records.append((stage, role, name, Stored(sha, size)))
    stages = {}
    for stage in ("ingest", "train"):
        document = {"stage": stage, "inputs": {"source": "0" * 64}, "code": {"m": "1"}, "libraries": {"numpy": "2.0"}}
        outputs: dict[str, dict[str, Stored]] = {}
        for _, role, name, stored in (one for one in records if one[0] == stage):
            outputs.setdefault(role, {})[name] = stored
        stages[stage] = store.records.create(Record(stage, digest(document), document, outputs)).fingerprint
    store.runs.write(RUN, "motor", "Completed", stages=stages, config={"training": {}}, objects=[], artifacts="/x",
                     process=this_process())  # fmt: skip
    return store


def exported(store: Store, out: Path, **more: Any) -> Written:
    return export(which_run(RUN, str(store.root), store.root.parent), out, None, **more)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("archive")
    exported(filled(place / "store"), place / "out.zip")
    return place / "out.zip"


def rewritten(archive: Path, out: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The archive with other contents."""
    with zipfile.ZipFile(archive) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    change(contents)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in contents.items():
            file.writestr(name, data)
    return out


def with_manifest(archive: Path, out: Path, change: Callable[[Any], None]) -> Path:
    def changed(contents: dict[str, bytes]) -> None:
        manifest = json.loads(contents["manifest.json"])
        change(manifest)
        contents["manifest.json"] = json.dumps(manifest).encode()

    return rewritten(archive, out, changed)


def assert_refused(archive: Path, tmp_path: Path, text: str | None = None) -> None:
    store = Store(tmp_path / "other")
    with pytest.raises(StoreError, match=text) as raised:
        import_run(archive, store)
    assert str(archive) in str(raised.value)
    left = [path for path in store.root.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []
    assert not (tmp_path / "evil").exists()


def test_a_run_comes_back_whole_in_another_store(archive: Path, tmp_path: Path) -> None:
    other, first = Store(tmp_path / "other"), filled(tmp_path / "first")
    found = import_run(archive, other)
    assert (found.run, found.records, found.objects, found.there) == (RUN, 2, 2, False)
    assert verify(other).findings == ()
    value, before = other.runs.read(RUN), first.runs.read(RUN)
    assert value is not None and before is not None
    assert value["stages"] == before["stages"] and "process" not in value and "artifacts" not in value
    for stage, fingerprint in value["stages"].items():
        taken, own = other.records.read(stage, fingerprint), first.records.read(stage, fingerprint)
        assert taken is not None and own is not None and taken.imported and not own.imported
        assert replace(taken, aside=own.aside) == own
    assert import_run(archive, other).there


def test_a_person_finds_the_runs_files_by_stage_role_and_name(archive: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        names = file.namelist()
        manifest = json.loads(file.read("manifest.json"))
    assert names[:2] == ["manifest.json", "config.yaml"]
    assert [name for name in names if name.startswith("files/")] == [
        "files/ingest/recordings/deep/recordings.bin",
        "files/ingest/splits/splits.json",
    ]  # the model has the bytes of the recordings, and each content stands once
    assert manifest["libraries"] == {"numpy": "2.0"} and set(manifest["code"]) == {"ingest", "train"}
    assert manifest["data"] == {"digest": "0" * 64, "name": "", "folder": False, "files": None, "included": False}


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    store = filled(tmp_path / "store")
    first, second = exported(store, tmp_path / "1.zip"), exported(store, tmp_path / "2.zip")
    assert first.path.read_bytes() == second.path.read_bytes()


def test_what_cannot_be_exported_leaves_nothing(tmp_path: Path) -> None:
    store = filled(tmp_path / "store")
    out = tmp_path / "out" / "out.zip"
    with pytest.raises(StoreError, match=r"there is no folder .*out\. Make it"):
        exported(store, out)
    out.parent.mkdir()
    with pytest.raises(DataError, match=r"--with-data: the data that the run read are not here"):
        exported(store, out, with_data=True)
    record = store.records.read("train", (store.runs.read(RUN) or {})["stages"]["train"])
    assert record is not None
    path = store.objects.path(record.outputs["float_model"]["model.bin"].sha256)
    path.chmod(0o644)
    path.write_text("weighty")
    with pytest.raises(StoreError, match=r"object [0-9a-f]{12}: its content"):
        exported(store, out)
    assert list(out.parent.iterdir()) == []
    out.touch()
    with pytest.raises(StoreError, match=r"there is a file of this name"):
        exported(store, out)
    shutil.rmtree(store.root / "records" / "train")
    with pytest.raises(StoreError, match=r"no result of stage 'train'"):
        exported(store, out.with_name("b.zip"))


def test_a_run_that_goes_on_is_not_exported(tmp_path: Path) -> None:
    store = filled(tmp_path / "store")
    store.runs.write(RUN, "motor", "Running", stages={}, config={}, process=this_process())
    with pytest.raises(StoreError, match=r"goes on\. Export it when it has ended"):
        exported(store, tmp_path / "out.zip")


@pytest.mark.parametrize(
    "name",
    ["../evil", "/tmp/evil", "a/../../evil", "a\\..\\evil", "C:evil", "a//b", "folder/", "a\x1bb", "./a", "a\x00b"],
)
def test_a_name_that_leaves_its_folder_is_refused(archive: Path, tmp_path: Path, name: str) -> None:
    bad = rewritten(archive, tmp_path / "bad.zip", lambda contents: None)
    with zipfile.ZipFile(bad, "a") as file:
        info = zipfile.ZipInfo("placeholder")
        info.filename = name  # past what the constructor mends
        file.writestr(info, b"evil")
    assert_refused(bad, tmp_path, "is none of a file inside a folder")


def test_links_duplicates_and_strangers_are_refused(archive: Path, tmp_path: Path) -> None:
    for kind, text in ((stat.S_IFLNK, "is a link"), (stat.S_IFIFO, "is a link or a device")):
        bad = rewritten(archive, tmp_path / "bad.zip", lambda contents: None)
        with zipfile.ZipFile(bad, "a") as file:
            info = zipfile.ZipInfo("files/link")
            info.external_attr = (kind | 0o777) << 16
            file.writestr(info, "/etc/passwd")
        assert_refused(bad, tmp_path, text)
    bad = rewritten(archive, tmp_path / "bad.zip", lambda contents: None)
    with zipfile.ZipFile(bad, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("config.yaml", b"other: {}")
    assert_refused(bad, tmp_path, "'config.yaml' stands in it twice")
    bad = rewritten(archive, tmp_path / "bad.zip", lambda contents: contents.update({"more.txt": b""}))
    assert_refused(bad, tmp_path, "'more.txt' is in it and not in its manifest")
    bad = rewritten(archive, tmp_path / "bad.zip", lambda contents: contents.pop("config.yaml") and None)
    assert_refused(bad, tmp_path, "'config.yaml' is in its manifest and not in it")


def test_contents_are_held_against_sizes_and_hashes(archive: Path, tmp_path: Path) -> None:
    name = "files/ingest/recordings/deep/recordings.bin"
    bad = rewritten(archive, tmp_path / "bad.zip", lambda contents: contents.update({name: b"weighty"}))
    assert_refused(bad, tmp_path, "does not have the hash that the manifest says")
    bad = rewritten(archive, tmp_path / "bad.zip", lambda contents: contents.update({name: b"0" * 1_000_000}))
    assert_refused(bad, tmp_path, "has 1,000,000 bytes, and its manifest says 7")


def test_what_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_archive, "MAX_BYTES", 100)
    assert_refused(archive, tmp_path, r"it unpacks to [\d,]+ bytes, at most 100 are taken")
    monkeypatch.undo()
    monkeypatch.setattr(store_archive.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 0, 9))  # type: ignore[attr-defined]
    assert_refused(archive, tmp_path, "has 9 free")
    monkeypatch.undo()
    monkeypatch.setattr(store_archive, "MAX_FILES", 3)
    assert_refused(archive, tmp_path, "at most 3 are read")


def test_a_size_in_the_header_that_lies_is_found_while_it_is_unpacked(archive: Path, tmp_path: Path) -> None:
    """A bomb: a few bytes by its header and its manifest, and a megabyte when it is unpacked."""
    bad = tmp_path / "bad.zip"
    rewritten(archive, bad, lambda contents: contents.update({"config.yaml": b"0" * 1_000_000}))
    size = json.loads(zipfile.ZipFile(archive).read("manifest.json"))["files"]["config.yaml"]["size"]
    data = bad.read_bytes().replace(struct.pack("<L", 1_000_000), struct.pack("<L", size))
    bad.write_bytes(data)
    with zipfile.ZipFile(bad) as file:
        assert file.getinfo("config.yaml").file_size == size
    found = Store(tmp_path / "found")
    with store_archive.opened(bad) as one, pytest.raises(StoreError, match=r"cannot be unpacked|longer than|the hash"):
        one.unpack("config.yaml", tmp_path / "unpacked")
    assert (tmp_path / "unpacked").stat().st_size <= size and not found.root.exists()


def test_files_that_overlap_are_refused(archive: Path, tmp_path: Path) -> None:
    bad = rewritten(archive, tmp_path / "bad.zip", lambda contents: None)
    with zipfile.ZipFile(bad, "a") as file:
        file.writestr(zipfile.ZipInfo("big"), bytes(range(256)) * 64)
        for number in range(5):
            copy = zipfile.ZipInfo(f"copy{number}")
            for key in ("header_offset", "CRC", "compress_size", "file_size"):
                setattr(copy, key, getattr(file.getinfo("big"), key))
            file.filelist.append(copy)
    assert_refused(bad, tmp_path, "overlap")


def test_an_encrypted_file_is_refused(archive: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.zip"
    data = bytearray(archive.read_bytes())
    place = data.find(b"PK\x01\x02")
    data[place + 8] |= 1
    bad.write_bytes(data)
    assert_refused(bad, tmp_path, "is encrypted")


def test_a_truncated_archive_is_refused_wherever_it_ends(archive: Path, tmp_path: Path) -> None:
    data, bad = archive.read_bytes(), tmp_path / "bad.zip"
    for end in range(0, len(data), 37):
        bad.write_bytes(data[:end])
        assert_refused(bad, tmp_path)


def test_a_flipped_bit_is_refused_or_changes_nothing(archive: Path, tmp_path: Path) -> None:
    data, bad = archive.read_bytes(), tmp_path / "bad.zip"
    whole = Store(tmp_path / "whole")
    import_run(archive, whole)
    for place in range(0, len(data), 11):
        flipped = bytearray(data)
        flipped[place] ^= 1 << (place % 8)
        bad.write_bytes(flipped)
        store = Store(tmp_path / "other")
        try:
            import_run(bad, store)
        except StoreError:
            assert [one for one in store.root.rglob("*") if one.is_file() and one.suffix != ".lock"] == []
        else:  # a date, a mode
            assert verify(store).findings == () and store.runs.read(RUN) == whole.runs.read(RUN)
        shutil.rmtree(store.root, ignore_errors=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run", "../../evil"), ("run", "latest"), ("dataset", "../evil"), ("dataset", ""), ("dataset", 7),
        ("state", "Running"), ("config", None), ("stages", {"train": "x"}), ("stages", {"../x": "0" * 64}),
        ("stages", {"train": "0" * 64}), ("stages", None), ("stages", {"a" * 300: "0" * 64}),
        ("config", {"training": 5}), ("metrics", {"loss": float("nan")}), ("model", "\ud800"), ("no word", 1),
    ],
)  # fmt: skip
def test_a_manifest_that_describes_no_run_is_refused(archive: Path, tmp_path: Path, key: str, value: Any) -> None:
    bad = with_manifest(archive, tmp_path / "bad.zip", lambda manifest: manifest["run"].update({key: value}))
    assert_refused(bad, tmp_path)


@given(key=st.sampled_from(["run", "data", "objects", "files", "flowlab", "flowlab_export"]), value=JSON)
def test_whatever_stands_in_the_manifest_is_no_other_error(
    archive: Path, tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    place = tmp_path_factory.mktemp("place")
    bad = with_manifest(archive, place / "bad.zip", lambda manifest: manifest.update({key: value}))
    store = Store(place / "other")
    try:
        import_run(bad, store)
    except StoreError:
        assert not (store.root / "runs").exists()
    else:
        assert verify(store).findings == ()


def test_an_export_of_another_format_says_so(archive: Path, tmp_path: Path) -> None:
    bad = with_manifest(archive, tmp_path / "bad.zip", lambda manifest: manifest.update(flowlab_export=2))
    assert_refused(bad, tmp_path, "it is an export of format 2, this flowlab reads 1")
    bad = rewritten(archive, tmp_path / "bad.zip", lambda contents: contents.pop("manifest.json") and None)
    assert_refused(bad, tmp_path, "it was not made by `flowlab store export`")
    with pytest.raises(StoreError, match="no file is there"):
        import_run(tmp_path / "nowhere.zip", Store(tmp_path / "other"))


def test_other_results_are_never_mixed_into_a_store(archive: Path, tmp_path: Path) -> None:
    store = filled(tmp_path / "store", content="other weights")
    with pytest.raises(StoreError, match=r"has other results in this store, for the same fingerprint"):
        shutil.rmtree(store.root / "runs")
        import_run(archive, store)
    assert not (store.root / "runs").exists() and len(list((store.root / "objects").glob("*/*"))) == 2


def test_another_run_of_the_same_name_stays_as_it_is(archive: Path, tmp_path: Path) -> None:
    store = filled(tmp_path / "store")
    store.runs.write(RUN, "fan", "Completed", stages={})
    with pytest.raises(StoreError, match=r"the store has another run"):
        import_run(archive, store)
    assert (store.runs.read(RUN) or {})["dataset"] == "fan"
