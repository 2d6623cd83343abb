"""A stage for a run whose driver is elsewhere, without a cluster: two folders are two machines."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flowlab.canonical import canonical_json
from flowlab.config import load_mapping
from flowlab.engine import far_stage, on_dask
from flowlab.engine.execute import execute, fingerprint_of, gather, silent
from flowlab.engine.far_stage import answer_of, job_of, perform, result_of
from flowlab.engine.local import Prepared, prepare
from flowlab.engine.source import keep_notes
from flowlab.errors import ConfigError, DataError, StageError
from flowlab.plan import Node
from flowlab.plugins import load
from flowlab.stages import STAGES
from flowlab.store.objects import DamagedObject
from flowlab.store.store import Store

CATALOGUE = load()
INGEST: Any = SimpleNamespace(name="ingest")


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """A run of recordings on this machine, over a store at an address."""
    for number, name in enumerate(("low", "high")):
        for turn in range(4):
            path = tmp_path / "data" / "classes" / name / f"{turn}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{turn + 10 * number + step % 7}\n" for step in range(64)))
    monkeypatch.chdir(tmp_path)
    config = load_mapping(
        {
            "common": {"task_type": "generic_timeseries_classification", "target_device": "F28P55"},
            "dataset": {"dataset_name": "tones", "input_data_path": "data"},
            "data_processing_feature_extraction": {"frame_size": 32, "stride_size": 1.0, "variables": 1},
            "training": {"model_name": "CLS_1k_NPU"},
        },
        CATALOGUE,
    )
    address = f"memory://{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:16]}"
    made = prepare(STAGES, config, CATALOGUE, Store(tmp_path / "driver", address))
    keep_notes(made.config, made.store)
    return made


def ingest(prepared: Prepared) -> tuple[Node, dict[str, Any]]:
    node = prepared.plan.node("ingest")
    inputs = gather(node, {}, prepared.sources)
    return node, job_of(prepared, node, inputs)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "worker"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def test_a_worker_makes_the_record_that_the_driver_would(prepared: Prepared, elsewhere: Path, tmp_path: Path) -> None:
    node, job = ingest(prepared)
    assert str(tmp_path) not in json.dumps(job), "no path of the driver crosses"
    answer = json.dumps(answer_of(json.dumps(job), silent))
    inputs = gather(node, {}, prepared.sources)
    record, cached = result_of(answer, node, fingerprint_of(node, inputs))
    alone = replace(prepared, store=Store(tmp_path / "alone"))
    (tmp_path / "data").rename(elsewhere / "gone")
    mine = {**inputs, "source": {n: replace(f, path=elsewhere / "gone" / n) for n, f in inputs["source"].items()}}
    here, _ = execute(node, mine, alone.store)
    assert (record.fingerprint, record.outputs, cached) == (here.fingerprint, here.outputs, False)
    assert execute(node, inputs, prepared.store)[1], "the driver finds it"
    assert perform(job, silent)[1], "and a second worker too"


def test_one_archive_goes_as_a_file(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.chdir(tmp_path)
    shutil.make_archive("packed", "zip", "data")
    config = load_mapping(
        {**prepared.config.given, "dataset": {"dataset_name": "tones", "input_data_path": "packed.zip"}}, CATALOGUE
    )
    packed = prepare(STAGES, config, CATALOGUE, prepared.store)
    _, job = ingest(packed)
    assert (job["source"], list(job["inputs"]["source"])) == ("file", ["packed.zip"])
    assert perform(job, silent)[0].metrics


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"libraries": {"numpy": "1.0", "pyarrow": "2.0"}}, "libraries.numpy: '1.0' -> '"),
        ({"threads": 4}, "threads: 4 -> nothing"),
        ({"code": {}}, "code.flowlab.config: nothing -> "),
    ],
)
def test_a_worker_that_differs_refuses_and_names_it(
    prepared: Prepared, elsewhere: Path, change: dict[str, Any], said: str
) -> None:
    _, job = ingest(prepared)
    job["asked"] |= change
    with pytest.raises(StageError, match="would make another result than the run asks for: ") as caught:
        perform(job, silent)
    assert said in str(caught.value)
    assert not list((elsewhere / "artifacts").glob("*/records")), "nothing was done"


def test_a_worker_without_a_plugin_says_so(prepared: Prepared, elsewhere: Path) -> None:
    _, job = ingest(prepared)
    job["config"]["training"] = {"model_name": "brought_by_a_plugin"}
    answer = answer_of(json.dumps(job), silent)
    assert answer["error"]["kind"] == "ConfigError"
    assert "no model named 'brought_by_a_plugin'" in answer["error"]["text"]


def test_a_stage_that_a_worker_does_not_have_is_named(prepared: Prepared, elsewhere: Path) -> None:
    _, job = ingest(prepared)
    with pytest.raises(StageError, match="has no stage 'augment'. Install the same flowlab and plugins"):  # noqa: RUF043
        perform({**job, "stage": "augment"}, silent)
    with pytest.raises(StageError, match="another version of flowlab"):
        perform({**job, "version": 0}, silent)


def test_a_secret_that_is_written_out_does_not_travel(prepared: Prepared) -> None:
    node = prepared.plan.node("ingest")
    given = {**prepared.config.given, "dataset": {"input_data_path": "https://me:verysecret@host/data.zip"}}
    told = replace(prepared, config=replace(prepared.config, given=given))
    with pytest.raises(ConfigError, match=r"dataset\.input_data_path: a secret is written out") as caught:
        job_of(told, node, gather(node, {}, prepared.sources))
    assert "verysecret" not in str(caught.value)


def test_a_file_that_changed_is_noticed(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "data" / "classes" / "low" / "0.csv").write_text("9\n")
    with pytest.raises(DataError, match=r"classes/low/0\.csv: the file changed since it was hashed"):
        ingest(prepared)


def test_an_input_that_a_worker_finds_lost_is_told(prepared: Prepared, elsewhere: Path) -> None:
    node, job = ingest(prepared)
    job["inputs"]["source"] = {name: ["0" * 64, size] for name, (_, size) in job["inputs"]["source"].items()}
    answer = json.dumps(answer_of(json.dumps(job), silent))
    with pytest.raises(DamagedObject, match="it is not in the store") as caught:
        result_of(answer, node, "0" * 64)
    assert caught.value.sha256 == "0" * 64


@pytest.mark.parametrize("answer", ["", "[]", "{}", '{"record": {}}', '{"record": null, "error": null}', "\0"])
def test_an_answer_that_is_none_is_refused(answer: str) -> None:
    with pytest.raises(StageError, match="its worker gave no answer that can be read"):
        result_of(answer, INGEST, "0" * 64)


def test_a_record_of_another_stage_is_refused(prepared: Prepared, elsewhere: Path) -> None:
    node, job = ingest(prepared)
    answer = json.dumps(answer_of(json.dumps(job), silent))
    with pytest.raises(StageError, match="did another stage than was asked for"):
        result_of(answer, node, "0" * 64)


@pytest.mark.parametrize("kind", ["StageError", "DataError", "SystemExit", "did_you_mean", "__name__", None])
def test_only_errors_of_ours_come_back(kind: str | None) -> None:
    answer = canonical_json({"error": {"kind": kind, "text": "broken"}}).decode()
    with pytest.raises((StageError, DataError), match="broken"):
        result_of(answer, INGEST, "0" * 64)


def test_a_defect_is_an_answer_and_its_traceback_stays_here(capfd: pytest.CaptureFixture[str]) -> None:
    answer = answer_of("{}", silent)
    assert answer["error"]["text"].endswith("KeyError: 'version'. Its log has the traceback")
    assert "Traceback" in capfd.readouterr().err


def test_a_stage_has_a_process_of_its_own(tmp_path: Path) -> None:
    assert far_stage.__name__ == on_dask.MODULE
    pipe, log = subprocess.PIPE, (tmp_path / "log").open("wb")
    with log, subprocess.Popen([sys.executable, "-m", on_dask.MODULE], stdin=pipe, stdout=pipe, stderr=log) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"{}\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["error"]["kind"] == "StageError"


@pytest.mark.parametrize(
    ("runner", "address"),
    [("dask://", None), ("dask://10.0.0.1:8786", "tcp://10.0.0.1:8786"), ("dask://host", "tcp://host:8786")],
)
def test_a_runner_is_an_address(runner: str, address: str | None) -> None:
    assert on_dask.scheduler(runner) == address


@pytest.mark.parametrize("runner", ["dask", "ray://x:1", "dask://x:y", "dask://:1", "dask://u:p@h:1", "dask://h:1/x"])
def test_what_is_no_runner_is_refused(runner: str) -> None:
    with pytest.raises(ConfigError, match="write dask://HOST:PORT"):
        on_dask.scheduler(runner)


def test_workers_elsewhere_need_a_store_that_they_see(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"its workers do not see .* Name a store that they reach"):
        on_dask.check("dask://host:1", Store(tmp_path))
    with pytest.raises(ConfigError, match="a store in memory is of one process"):
        on_dask.check("dask://", Store(tmp_path, "memory://x"))
    on_dask.check("dask://", Store(tmp_path))
    on_dask.check("dask://host:1", Store(tmp_path, "s3://bucket"))


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, prepared: Prepared) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    store = Store(prepared.store.root)
    with (
        pytest.raises(ConfigError, match=r"Dask is not installed. Write: pip install 'flowlab\[dask\]'"),
        on_dask.running("dask://", store, lambda text: None),
    ):
        pass
