"""What predict says, and whether what made the features is still what it was; whole runs are in tests/system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowlab.engine.facts import DiskFacts
from flowlab.engine.predict import Prediction, Said, Window, changed, runs_of
from flowlab.engine.which_run import StoredRun, which_run
from flowlab.errors import StoreError
from flowlab.plugins import load
from flowlab.stages.extract import STAGE
from flowlab.store.records import Record
from flowlab.store.store import Store


def windows(labels: str, length: int = 10) -> tuple[Window, ...]:
    return tuple(Window(i * length, (i + 1) * length, label, 3, (1, 4)) for i, label in enumerate(labels))


def prediction(rate: float | None, samples: int = 60) -> Prediction:
    said = Said("one.csv", samples, windows("aabbba"), {"a": 3, "b": 3}, "a", True, ("one.csv: mended",))
    return Prediction("run1", "tones", "device", "simulator", ("a", "b"), rate, (said,))


def test_windows_of_one_class_that_follow_each_other_are_one_line() -> None:
    assert [(run[0].label, len(run)) for run in runs_of(windows("aabbba"))] == [("a", 2), ("b", 3), ("a", 1)]
    assert prediction(None).lines() == (
        "run run1 of tones: its program for device, run by: simulator",
        "",
        "one.csv: a (3 of 6 windows, a tie; a 3, b 3)",
        "   samples 0-19  a (2 windows)",
        "  samples 20-49  b (3 windows)",
        "  samples 50-59  a (1 window)",
        "  mended: one.csv: mended",
    )


def test_times_are_in_seconds_where_the_rate_is_known() -> None:
    assert prediction(100).lines()[3:6] == (
        "  0.000-0.200 s  a (2 windows)",
        "  0.200-0.500 s  b (3 windows)",
        "  0.500-0.600 s  a (1 window)",
    )


def test_samples_after_the_last_window_are_said() -> None:
    assert "  the last 3 samples fill no window" in prediction(None, samples=63).lines()


def test_the_json_says_seconds_only_where_the_rate_is_known() -> None:
    with_rate, without = (prediction(rate).to_json()["recordings"][0]["windows"][2] for rate in (100.0, None))
    assert (with_rate["start"], with_rate["start_s"], with_rate["stop_s"]) == (20, 0.2, 0.3)
    assert (without["start"], without["start_s"], without["stop_s"]) == (20, None, None)


# --- what made the features -------------------------------------------------------------------------


def stored(store: Store, **changes: Any) -> tuple[StoredRun, Any]:
    """A run whose stage extract was made by the code that is here now, but for ``changes``."""
    extractor = load().get("feature_extractor", "fft")
    facts = DiskFacts(store)
    plugin = {
        "code": dict(facts.code((type(extractor).__module__, *extractor.code))) | changes.get("code", {}),
        "libraries": {name: facts.version(name) for name in extractor.libraries} | changes.get("libraries", {}),
    }
    document = {
        "plugins": {"feature_extractor": plugin},
        "code": dict(facts.code((STAGE.run.partition(":")[0], *STAGE.code))),
        "libraries": {name: facts.version(name) for name in STAGE.libraries} | changes.get("libraries", {}),
    }
    return StoredRun("run1", "tones", {"extract": Record("extract", "0" * 64, document, {})}, store), extractor


def test_a_run_of_today_is_not_warned_of(tmp_path: Path) -> None:
    assert changed(*stored(Store(tmp_path))) == ()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"code": {"flowlab_signal.fft_extractor": "0" * 64}}, "flowlab_signal.fft_extractor"),
        ({"code": {"flowlab_signal.gone": "0" * 64}}, "flowlab_signal.gone"),
        ({"libraries": {"numpy": "0.1"}}, "numpy (0.1, now "),
    ],
)
def test_code_or_libraries_that_are_others_now_are_one_sentence(changes: Any, named: str, tmp_path: Path) -> None:
    (sentence,) = changed(*stored(Store(tmp_path), **changes))
    assert named in sentence
    assert sentence.startswith("since run run1 was made")


# --- which run --------------------------------------------------------------------------------------


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
        ("20250101T000000Z-aaaa", "20250101T000000Z-aaaa"),
        ("20250103T000000Z-cccc", "20250103T000000Z-cccc"),
    ],
)
def test_a_run_is_found_by_its_name_its_dataset_or_as_the_latest(asked: str, name: str, store: Store) -> None:
    assert which_run(asked, None, store.root.parent).name == name


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
        ("../../etc", "no run"),
        ("", "no run"),
    ],
)
def test_a_run_that_is_not_there_is_an_error_that_says_which_are(asked: str, text: str, store: Store) -> None:
    with pytest.raises(StoreError, match=text) as raised:
        which_run(asked, None, store.root.parent)
    assert "20250105T000000Z-eeee" in str(raised.value)
    assert raised.value.exit_code == 2


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
