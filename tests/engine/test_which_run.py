"""Which run is meant, and what is said of one that is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowlab.engine.which_run import which_run
from flowlab.errors import StoreError
from flowlab.store.store import Store


def write(store: Store, name: str, dataset: str = "tones", state: Any = "Completed", **more: Any) -> None:
    store.runs.write(name, dataset, state, **more)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "artifacts" / ".store")
    write(found, "20250101T000000Z-aaaa")
    write(found, "20250102T000000Z-bbbb")
    write(found, "20250103T000000Z-cccc", state="Failed")
    write(found, "20250104T000000Z-dddd", dataset="other")
    write(found, "20250105T000000Z-eeee", dataset="broken", state="Running")
    return found


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("latest", "20250104T000000Z-dddd"),
        ("tones", "20250102T000000Z-bbbb"),
        ("other", "20250104T000000Z-dddd"),
        ("latest~1", "20250102T000000Z-bbbb"),
        ("tones~1", "20250101T000000Z-aaaa"),
        ("20250101T000000Z-aaaa", "20250101T000000Z-aaaa"),
        ("20250103T000000Z-cccc", "20250103T000000Z-cccc"),
    ],
)
def test_a_run_is_found_by_its_name_its_dataset_or_as_the_latest(asked: str, name: str, store: Store) -> None:
    assert which_run(asked, None, store.root.parent).name == name


@pytest.mark.parametrize("asked", ["latest~3", "latest~x", "tones~-1", "latest~" + "9" * 5000])
def test_a_run_further_back_than_the_first_is_unknown(asked: str, store: Store) -> None:
    with pytest.raises(StoreError, match="no run"):
        which_run(asked, None, store.root.parent)


def test_a_run_is_found_by_its_folder_wherever_that_lies(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store.root.parent / "tones" / "20250101T000000Z-aaaa"
    folder.mkdir(parents=True)
    (folder.parent / "latest").symlink_to(folder.name)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for asked in (str(folder), str(folder.parent / "latest"), "../artifacts/tones/latest"):
        assert which_run(asked, None, Path("artifacts")).name == folder.name
    monkeypatch.chdir(folder.parent)
    assert which_run("./latest", None, Path("artifacts")).name == folder.name


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("tonse", "Did you mean 'tones'"),
        ("broken", "no completed run of 'broken'"),
        ("../../no/such/folder", "no run"),
        ("", "no run"),
    ],
)
def test_a_run_that_is_not_there_is_an_error_that_says_which_are(asked: str, text: str, store: Store) -> None:
    with pytest.raises(StoreError, match=text) as raised:
        which_run(asked, None, store.root.parent)
    assert "20250105T000000Z-eeee" in str(raised.value)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("asked", ["latest~9", "tones~9", "tones~000009", "tones~9999999"])
def test_a_run_before_the_oldest_is_an_error_that_says_how_many_there_are(asked: str, store: Store) -> None:
    name = asked.partition("~")[0]
    with pytest.raises(StoreError, match=f"no run '{asked}': the store .* has [2-4] completed runs") as raised:
        which_run(asked, None, store.root.parent)
    oldest = str(raised.value).rpartition(" is ")[2].strip("'")
    assert oldest.startswith(f"{name}~")
    assert which_run(oldest, None, store.root.parent).name == "20250101T000000Z-aaaa"


def test_a_store_without_runs_says_how_one_is_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="flowlab run"):
        which_run("latest", None, tmp_path)


def test_a_stage_that_the_run_never_had_is_named(store: Store) -> None:
    run = which_run("tones", None, store.root.parent)
    with pytest.raises(StoreError, match="20250102T000000Z-bbbb has no result of stage 'compile'"):
        run.record("compile")


@pytest.mark.parametrize("stages", [{"../..": "0" * 64}, {"compile": "../../secret"}, {"compile": 3}, ["compile"]])
def test_nothing_outside_the_records_is_touched_for_a_forged_run(stages: Any, store: Store) -> None:
    secrets = (store.root.parent / f"{'0' * 64}.json", store.root / "secret.json")
    for secret in secrets:
        secret.write_text("mine")
    write(store, "20250106T000000Z-ffff", stages=stages)
    assert which_run("20250106T000000Z-ffff", None, store.root.parent).records == {}
    assert [secret.read_text() for secret in secrets] == ["mine", "mine"]


def test_a_damaged_note_of_a_run_is_no_run(store: Store) -> None:
    (store.root / "runs" / "20250101T000000Z-aaaa" / "run.json").write_text('{"run": 3}')
    with pytest.raises(StoreError, match="no run"):
        which_run("20250101T000000Z-aaaa", None, store.root.parent)
