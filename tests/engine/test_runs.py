"""What is known of past runs, of those too that an older version wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowlab.canonical import digest
from flowlab.engine.compare import compare
from flowlab.engine.runs import TABLE, past_run, past_runs
from flowlab.engine.which_run import which_run
from flowlab.errors import StoreError
from flowlab.store.records import Record
from flowlab.store.runs import KILLED, state_of, this_process
from flowlab.store.store import Store


def record(stage: str, document: dict[str, Any], **metrics: Any) -> Record:
    return Record(stage, digest(document), document, {}, metrics, (), {"started": stage, "seconds": 1.0})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two runs: an old one without anything but fingerprints, and a new one."""
    made = Store(tmp_path / "store")
    old = [
        record(
            "train",
            {"stage": "train", "options": {"epochs": 3}, "plugins": {"model": {"name": "net"}}},
            test={"accuracy": 0.5},
        ),
        record("compile", {"stage": "compile"}, program_bytes=123, packed_bytes=45),
    ]
    new = [record("train", {"stage": "train", "options": {"epochs": 4}}, test={"accuracy": 0.6}), old[1]]
    for one in (*old, new[0]):
        made.records.create(one)
    made.runs.write("20250101T000000Z-aaaa", "gears", "Completed", stages={one.stage: one.fingerprint for one in old})
    made.runs.write(
        "20250102T000000Z-bbbb",
        "gears",
        "Completed",
        stages={one.stage: one.fingerprint for one in new},
        config={"training": {"training_epochs": 4}},
        model="net",
        device="chip",
        started="2025-01-02T00:00:00+00:00",
        metrics={"float": {"accuracy": 0.6}, "quantized": None, "simulated": {"accuracy": 0.55}},
        sizes={"program_bytes": 100},
        process=this_process(),
    )
    made.runs.write("20250103T000000Z-cccc", "bearings", "Failed", stages={})
    return made


def test_runs_are_listed_newest_first_and_by_dataset(store: Store) -> None:
    assert [one.run[-4:] for one in past_runs(store)] == ["cccc", "bbbb", "aaaa"]
    assert [one.run[-4:] for one in past_runs(store, "gears")] == ["bbbb", "aaaa"]
    assert past_runs(store, "none") == ()


def test_the_time_of_a_run_is_told_in_utc_whatever_its_zone(store: Store) -> None:
    value = {"run": "x", "dataset": "gears", "state": "Completed", "config": None}
    for started, told in (
        ("2025-01-02T01:30:00+02:00", "2025-01-01 23:30:00"),
        ("2025-01-02T01:30:00", "2025-01-02T01:30:00"),  # no zone: nobody knows
        ("yesterday", "yesterday"),
    ):
        assert past_run({**value, "started": started}, store).row()[TABLE.index("when (UTC)")] == told


def test_a_run_says_when_what_and_how_well(store: Store) -> None:
    row = dict(zip(TABLE, past_runs(store, "gears")[0].row(), strict=True))
    assert row["when (UTC)"] == "2025-01-02 00:00:00"
    assert (row["model"], row["device"], row["float"], row["simulated"]) == ("net", "chip", "0.6000", "0.5500")
    assert row["program"] == "100 bytes"


def test_an_old_run_is_told_from_its_records_and_its_name(store: Store) -> None:
    old = past_runs(store, "gears")[1]
    assert (old.model, old.started) == ("net", "2025-01-01T00:00:00+00:00")
    assert old.metrics["float"] == {"accuracy": 0.5}
    assert old.sizes == {"packed_bytes": 45, "program_bytes": 123}
    assert old.config is None


@pytest.mark.parametrize(
    "damaged", [{}, {"run": 3, "stages": [], "metrics": "x", "gates": ["y"], "process": 7}, {"gates": 5}]
)
def test_a_damaged_run_hurts_no_list(store: Store, damaged: dict[str, Any]) -> None:
    assert len(past_run(damaged, store).row()) == len(TABLE)


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"run": "x"}', '{"dataset": 3}', "[" * 100_000, '{"dataset": "gears", "a": ' + "[" * 99_000]
)
def test_a_damaged_file_of_a_run_is_no_run_and_the_others_are_found(store: Store, text: str) -> None:
    (store.root / "runs" / "20250103T000000Z-cccc" / "run.json").write_text(text)
    assert [one.run[:8] for one in past_runs(store)] == ["20250102", "20250101"]
    with pytest.raises(StoreError, match="no run 'None'"):
        which_run("None", str(store.root), store.root)


def test_a_run_has_the_name_of_its_folder_whatever_its_file_says(store: Store) -> None:
    store.runs.write("20250104T000000Z-dddd", "gears", "Completed", stages={})
    file = store.root / "runs" / "20250104T000000Z-dddd" / "run.json"
    file.write_text(file.read_text().replace("20250104T000000Z-dddd", "../../elsewhere"))
    assert past_runs(store)[0].run == "20250104T000000Z-dddd"


@pytest.mark.parametrize(("stage", "fingerprint"), [("../../..", "mine"), ("train", "../../../mine"), ("train", "x")])
def test_a_stage_that_leads_out_of_the_store_moves_nothing(
    store: Store, tmp_path: Path, stage: str, fingerprint: str
) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text("{}")
    store.runs.write("20250104T000000Z-dddd", "gears", "Completed", stages={stage: fingerprint})
    assert len(past_runs(store)) == 4
    assert store.last_record("train", "gears") is not None
    assert mine.read_text() == "{}"
    assert not (store.root / "aside").exists()


def test_a_run_whose_process_is_gone_was_killed() -> None:
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            "import json; from flowlab.store.runs import this_process; print(json.dumps(this_process()))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    import json

    gone = {"state": "Running", "process": json.loads(child.stdout)}
    assert state_of(gone) == KILLED
    assert state_of({**gone, "state": "Completed"}) == "Completed"
    assert state_of({"state": "Running", "process": this_process()}) == "Running"
    reused = {**this_process(), "start": 1}  # the number belongs to another process now
    assert state_of({"state": "Running", "process": reused}) == KILLED
    elsewhere = {**gone["process"], "host": f"not-{os.uname().nodename}"}
    assert state_of({"state": "Running", "process": elsewhere}) == "Running"
    assert state_of({"state": "Running"}) == "Running"  # of an older version


def test_two_runs_are_compared_down_to_the_stage(store: Store) -> None:
    first, second = past_runs(store, "gears")[::-1]
    found = compare(first, second, (store, store))
    assert found.metrics[0].text() == "float.accuracy: 0.5 -> 0.6"
    assert [one.text() for one in found.sizes] == ["packed_bytes: gone", "program_bytes: 123 -> 100"]
    assert list(found.stages) == ["train"]
    assert found.stages["train"][0].text() == "options.epochs: 3 -> 4"
    assert found.config is None
    said = "\n".join(found.lines())
    assert "config: one of the runs was made by a version that kept no config" in said
    same = compare(second, second, (store, store))
    assert same.lines()[1:] == [
        "config: the same",
        "metrics: the same",
        "sizes: the same",
        "layers: the same",
        "stages: the same",
    ]


def test_a_run_is_found_by_how_its_name_begins_if_only_one_does(store: Store) -> None:
    assert which_run("20250102", str(store.root), Path("artifacts")).name == "20250102T000000Z-bbbb"
    with pytest.raises(StoreError, match="3 runs begin with '2025'"):
        which_run("2025", str(store.root), Path("artifacts"))
