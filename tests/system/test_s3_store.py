"""A store in a bucket: nine real stages by machines that share nothing else. A machine is a folder, in processes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import object_store
import pytest
from object_store import BUCKET, SECRET, body, client, keys

from flowlab.store.store import Store

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from test_two_at_once import IMAGINED, STAGES, ended, imagined, project, result, started, until_started  # noqa: E402


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with object_store.served(tmp_path_factory.mktemp("s3")) as url:
        yield url


def real(folder: Path, endpoint: str, prefix: str, *words: str, **more: str) -> subprocess.Popen[str]:
    """Start the nine stages on a machine."""
    command = [str(HERE / "watched_run.py"), "run", "tones.yaml", *words, "--store", f"s3://{BUCKET}/{prefix}"]
    return started(command, folder, WATCHED_LOG=str(folder / "log"), **object_store.environment(endpoint), **more)


def machine(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return project(tmp_path / name)


def cached(found: dict[str, Any]) -> list[str]:
    return [stage["name"] for stage in found["stages"] if stage["cached"]]


def hashes(found: dict[str, Any]) -> dict[str, list[str]]:
    return {role: sorted(one["sha256"] for one in files) for role, files in found["artifacts"].items()}


def test_nine_stages_on_one_machine_are_cached_on_another(tmp_path: Path, endpoint: str) -> None:
    one, other, alone = (machine(tmp_path, name) for name in ("one", "other", "alone"))
    first = result(real(one, endpoint, "nine", "--engine", "local", "--json"))
    local = result(started(["-m", "flowlab.cli", "run", "tones.yaml", "--engine", "local", "--json"], alone))
    assert cached(first) == []
    assert hashes(first) == hashes(local), "where results are kept decides nothing"
    second = result(real(other, endpoint, "nine", "--json"))
    assert (cached(second), second["engine"]) == (STAGES, "none")
    assert hashes(second) == hashes(first)
    assert not (other / "log").exists(), "no stage was started"
    assert all(Path(one["path"]).is_file() for files in second["artifacts"].values() for one in files)
    assert Path(second["report"]).read_text() == Path(first["report"]).read_text()
    words = ["-m", "flowlab.cli", "runs", "--json", "--store", f"s3://{BUCKET}/nine"]
    listed = json.loads(ended(started(words, other, **object_store.environment(endpoint))))
    assert [run["run"] for run in listed["runs"]] == [second["run"], first["run"]]
    folders = {key.split("/")[0] for key in keys(endpoint, "nine")}
    assert folders == {"objects", "records", "runs"}
    assert not any(SECRET.encode() in body(endpoint, f"nine/{key}") for key in keys(endpoint, "nine"))
    assert not (other / "artifacts" / ".store").exists()


def test_a_lost_and_a_flipped_object_are_made_again_by_their_stages_alone(tmp_path: Path, endpoint: str) -> None:
    one, other, third = (machine(tmp_path, name) for name in ("one", "other", "third"))
    first = result(real(one, endpoint, "harm", "--engine", "local", "--json"))
    (model,) = first["artifacts"]["float_model"]
    graph = first["artifacts"]["features_train"][0]
    bad = client(endpoint)
    for sha, data in ((model["sha256"], None), (graph["sha256"], b"flipped")):
        key = f"harm/objects/{sha[:2]}/{sha}"
        bad.delete_object(Bucket=BUCKET, Key=key)
        if data is not None:
            bad.put_object(Bucket=BUCKET, Key=key, Body=data)
    second = result(real(other, endpoint, "harm", "--engine", "local", "--json"))
    made = sorted(set(STAGES) - set(cached(second)))
    assert made in (["extract", "train"], ["train"], ["extract"])  # whichever attempt was the last
    log = [line.split()[-1] for line in (other / "log").read_text().splitlines()]
    assert sorted(log) == ["extract", "train"], "each once, and no other"
    assert hashes(second) == hashes(first)
    for sha in (model["sha256"], graph["sha256"]):
        assert len(body(endpoint, f"harm/objects/{sha[:2]}/{sha}")) > 7
    assert cached(result(real(third, endpoint, "harm", "--json"))) == STAGES
    assert [key.split("/")[0] for key in keys(endpoint, "harm")].count("aside") == 1


def test_two_drivers_that_race_leave_one_record_of_each_stage_and_use_it(tmp_path: Path, endpoint: str) -> None:
    """Both are in the middle of one stage before either may end it."""
    gate, drivers = tmp_path / "gate", []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        words = ("--engine", "local", "--json", "--store", f"s3://{BUCKET}/race")
        more = {**object_store.environment(endpoint), "IMAGINED_GATE": str(gate)}
        drivers.append(imagined(tmp_path / name, *words, **more))
        until_started(tmp_path / name, "simulate")
    gate.touch()
    first, second = (result(driver) for driver in drivers)
    assert "simulate" not in cached(first) + cached(second), "both did it"
    assert hashes(first) == hashes(second)
    records = sorted(key.split("/")[1] for key in keys(endpoint, "race") if key.startswith("records/"))
    assert records == sorted(IMAGINED)
    runs = [json.loads(body(endpoint, f"race/runs/{found['run']}/run.json")) for found in (first, second)]
    assert runs[0]["stages"] == runs[1]["stages"]
    assert [run["state"] for run in runs] == ["Completed", "Completed"]


def test_many_writers_of_one_record_all_get_the_same(tmp_path: Path, endpoint: str) -> None:
    script = """
import hashlib, sys
from pathlib import Path
from flowlab.canonical import digest
from flowlab.store.records import Record, Stored
from flowlab.store.store import Store
mine, turns = sys.argv[3], int(sys.argv[4])
store = Store(Path(sys.argv[1]), sys.argv[2])
store.records.read("train", "0" * 64)
print("ready", flush=True)
sys.stdin.readline()
for turn in range(turns):
    document = {"turn": turn}
    made = hashlib.sha256(mine.encode()).hexdigest()
    record = Record("train", digest(document), document, {"float_model": {"m": Stored(made, 1)}})
    print(store.records.create(record).outputs["float_model"]["m"].sha256, flush=True)
"""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / str(one)), f"s3://{BUCKET}/many", str(one), "10"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **object_store.environment(endpoint)},
        )
        for one in range(3)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    found = [writer.communicate(timeout=120)[0].split() for writer in writers]
    assert len(found[0]) == 10
    assert found[0] == found[1] == found[2]
    assert len(keys(endpoint, "many")) == 10


def refused(folder: Path, store: str, code: int = 2, **environment: str) -> str:
    """What a run says of a store that cannot be used."""
    folder.mkdir(exist_ok=True)
    child = imagined(folder, "--engine", "local", "--store", store, **environment)
    _, error = child.communicate(timeout=120)
    assert child.returncode == code, error
    assert "Traceback" not in error
    assert SECRET not in error
    return error


def test_a_missing_bucket_is_named(tmp_path: Path, endpoint: str) -> None:
    said = refused(tmp_path / "x", "s3://no-such-bucket/x", **object_store.environment(endpoint))
    assert "flowlab: store s3://no-such-bucket/x: there is no bucket 'no-such-bucket'. Make it" in said


def test_nobody_who_answers_is_named(tmp_path: Path) -> None:
    said = refused(tmp_path / "x", f"s3://{BUCKET}/x", **object_store.environment("http://127.0.0.1:9"))
    assert f"flowlab: store s3://{BUCKET}/x: nobody answers (" in said
    assert "Look at the network and the endpoint" in said


def test_a_server_that_refuses_is_named(tmp_path: Path) -> None:
    with object_store.refusing() as endpoint:
        said = refused(tmp_path / "x", f"s3://{BUCKET}/x", **object_store.environment(endpoint))
    assert f"flowlab: store s3://{BUCKET}/x: no permission to " in said
    assert "Credentials come from the environment (for S3: AWS_ACCESS_KEY_ID" in said


def test_missing_credentials_are_named(tmp_path: Path, endpoint: str) -> None:
    files = dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), "/dev/null")
    nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    nothing = {**object_store.environment(endpoint), **files, **nobody, "HOME": str(tmp_path)}
    said = refused(tmp_path / "x", f"s3://{BUCKET}/x", **nothing)
    assert f"flowlab: store s3://{BUCKET}/x: no credentials were found" in said


def test_large_objects_come_back_as_they_went(tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one part."""
    for name, value in object_store.environment(endpoint).items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "large"
    file.write_bytes(random.Random(1).randbytes(1 << 20) * 120)
    sha, size = Store(tmp_path / "one", f"s3://{BUCKET}/large").objects.add(file)
    assert size == 120 << 20
    assert Store(tmp_path / "other", f"s3://{BUCKET}/large").objects.verified(sha).read_bytes() == file.read_bytes()


def test_imagined_stages_go_through_a_bucket_on_prefect_too(tmp_path: Path, endpoint: str) -> None:
    (tmp_path / "one").mkdir()
    words = ("--json", "--store", f"s3://{BUCKET}/prefect")
    found = result(imagined(tmp_path / "one", *words, "--engine", "prefect", **object_store.environment(endpoint)))
    assert sorted(stage["name"] for stage in found["stages"]) == sorted(IMAGINED)
    assert cached(found) == []
    assert cached(result(imagined(tmp_path / "one", *words, **object_store.environment(endpoint)))) == [
        stage["name"] for stage in found["stages"]
    ]
