"""Runs of several machines over one store at an address: memory:// is the bucket, a folder each is a machine."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import fsspec
import pytest

from flowlab.contracts import StageJob, StageResult
from flowlab.engine import execute as executing
from flowlab.engine.execute import silent
from flowlab.engine.local import Done, Prepared, prepare, run_local
from flowlab.store.store import Store


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"memory://{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:16]}"


def prepared(tmp_path: Path, machine: str, address: str) -> Prepared:
    import imagined

    store = Store(tmp_path / machine, address)
    return prepare(imagined.stages(), imagined.config(tmp_path / "data", 3), None, store)


def run(tmp_path: Path, machine: str, address: str) -> dict[str, Done]:
    return run_local(prepared(tmp_path, machine, address), lambda node: silent)


def cached(done: dict[str, Done]) -> list[str]:
    return [name for name, one in done.items() if one.cached]


def files(done: dict[str, Done]) -> dict[str, str]:
    roles = [role for one in done.values() for role in one.record.outputs.values()]
    return {name: stored.sha256 for role in roles for name, stored in role.items()}


def objects(address: str) -> dict[str, str]:
    """Where each object lies, by its sha256."""
    system, root = fsspec.core.url_to_fs(address)
    return {path.rpartition("/")[2]: path for path in system.find(f"{root}/objects")}


def records(address: str) -> list[str]:
    system, root = fsspec.core.url_to_fs(address)
    return sorted(path.split("/")[-2] for path in system.find(f"{root}/records"))


def test_another_machine_finds_everything(tmp_path: Path, data: Path, address: str) -> None:
    first = run(tmp_path, "one", address)
    second = run(tmp_path, "other", address)
    assert (cached(first), cached(second)) == ([], ["ingest", "train", "report"])
    assert [one.record for one in first.values()] == [one.record for one in second.values()]
    store = Store(tmp_path / "other", address)
    assert all(store.objects.path(sha).is_file() for sha in files(second).values()), "all was fetched"


def test_the_results_are_those_of_a_store_in_a_folder(tmp_path: Path, data: Path, address: str) -> None:
    import imagined

    local = prepare(imagined.stages(), imagined.config(data, 3), None, Store(tmp_path / "store"))
    assert files(run_local(local, lambda node: silent)) == files(run(tmp_path, "one", address))


def test_a_plan_fetches_nothing(tmp_path: Path, data: Path, address: str) -> None:
    run(tmp_path, "one", address)
    assert list(prepared(tmp_path, "other", address).cached()) == ["ingest", "train", "report"]
    notes = list((tmp_path / "other" / "objects").glob("*/*")) if (tmp_path / "other" / "objects").exists() else []
    assert notes == []


@pytest.mark.parametrize("name", ["recordings.txt", "best_model.pt", "report.html"])
@pytest.mark.parametrize("harm", ["lost", "flipped"])
def test_an_object_that_is_gone_is_made_again(tmp_path: Path, data: Path, address: str, name: str, harm: str) -> None:
    first = run(tmp_path, "one", address)
    path = objects(address)[files(first)[name]]
    system = fsspec.filesystem("memory", use_listings_cache=False)
    before = system.cat_file(path)
    system.rm_file(path) if harm == "lost" else system.pipe_file(path, bytes([before[0] ^ 1]) + before[1:])
    second = run(tmp_path, "other", address)
    assert system.cat_file(path) == before
    assert files(second) == files(first)
    assert [one.record for one in second.values()] == [one.record for one in first.values()], "equal bytes: it stays"
    assert cached(run(tmp_path, "third", address)) == ["ingest", "train", "report"]


def test_two_machines_that_race_leave_one_record_which_both_use(
    tmp_path: Path, data: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are in the middle of training at once, and their weights differ: only one may count."""
    meet, mine = threading.Barrier(2, timeout=60), iter([b"one", b"other"])
    honest = executing._function

    def racing(stage: Any) -> Any:
        function = honest(stage)
        return function if stage.name != "train" else different

    def different(job: StageJob) -> StageResult:
        meet.wait()
        model = job.out / "best_model.pt"
        model.write_bytes(next(mine))
        return StageResult({"float_model": {"best_model.pt": model}}, metrics={"accuracy": 0.5})

    monkeypatch.setattr(executing, "_function", racing)
    monkeypatch.setattr(executing, "_TORCH", Free())
    ends: dict[str, dict[str, Done]] = {}

    def machine(name: str) -> None:
        ends[name] = run(tmp_path, name, address)

    threads = [threading.Thread(target=machine, args=(name,)) for name in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends["one"]["train"].record == ends["other"]["train"].record
    assert [done["train"].cached for done in ends.values()] == [False, False]
    assert files(ends["one"]) == files(ends["other"])
    assert records(address) == ["ingest", "report", "train"]


class Free:
    """A lock that nobody waits for: two machines share none."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *raised: object) -> None:
        return None
