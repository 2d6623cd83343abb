from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from flowlab.contracts import StageJob, StageResult
from flowlab.engine.execute import execute, gather, silent
from flowlab.engine.local import Done, Prepared, prepare, run_local
from flowlab.engine.source import InputFile
from flowlab.errors import ConfigError, DataError, StageError
from flowlab.plan import Node
from flowlab.store.objects import DamagedObject
from flowlab.store.records import Record
from flowlab.store.store import Store


def prepared(tmp_path: Path, epochs: int = 3) -> Prepared:
    import imagined

    return prepare(imagined.stages(), imagined.config(tmp_path / "data", epochs), None, Store(tmp_path / "store"))


def run(tmp_path: Path, epochs: int = 3) -> dict[str, Done]:
    return run_local(prepared(tmp_path, epochs), lambda node: silent)


def recorded(tmp_path: Path, stage: str) -> list[Path]:
    """The records of a stage."""
    return list((tmp_path / "store" / "records" / stage).glob("*.json"))


def cached(done: Mapping[str, Done]) -> dict[str, bool]:
    return {name: one.cached for name, one in done.items()}


def damage(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def test_a_second_run_finds_everything(tmp_path: Path, data: Path) -> None:
    first = run(tmp_path)
    second = run(tmp_path)
    assert cached(first) == {"ingest": False, "train": False, "report": False}
    assert cached(second) == {"ingest": True, "train": True, "report": True}
    assert [one.record for one in first.values()] == [one.record for one in second.values()]


def test_what_is_cached_is_known_without_a_run(tmp_path: Path, data: Path) -> None:
    assert prepared(tmp_path).cached() == {}
    run(tmp_path)
    assert list(prepared(tmp_path).cached()) == ["ingest", "train", "report"]
    assert list(prepared(tmp_path, epochs=4).cached()) == ["ingest"]


def test_a_changed_option_runs_its_stage_and_what_follows(tmp_path: Path, data: Path) -> None:
    run(tmp_path)
    assert cached(run(tmp_path, epochs=4)) == {"ingest": True, "train": False, "report": False}
    assert cached(run(tmp_path, epochs=3)) == {"ingest": True, "train": True, "report": True}


def test_a_changed_byte_of_an_input_is_noticed(tmp_path: Path, data: Path) -> None:
    run(tmp_path)
    damage(data / "arc" / "2.csv")
    assert cached(run(tmp_path)) == {"ingest": False, "train": False, "report": False}


def test_a_hidden_file_of_an_input_folder_does_not_count(tmp_path: Path, data: Path) -> None:
    run(tmp_path)
    damage(data / ".hidden")
    assert all(cached(run(tmp_path)).values())


def test_a_changed_byte_of_an_object_is_noticed_and_the_object_made_again(tmp_path: Path, data: Path) -> None:
    first = run(tmp_path)
    stored = first["train"].record.outputs["float_model"]["best_model.pt"]
    path = Store(tmp_path / "store").objects.path(stored.sha256)
    content = path.read_bytes()
    damage(path)
    second = run(tmp_path)
    assert cached(second) == {"ingest": True, "train": False, "report": True}
    assert path.read_bytes() == content
    assert second["train"].record == first["train"].record


def test_rot_that_no_stat_shows_is_found_when_a_stage_reads(tmp_path: Path, data: Path) -> None:
    first = run(tmp_path)
    store = Store(tmp_path / "store")
    stored = first["ingest"].record.outputs["recordings"]["recordings.txt"]
    path = store.objects.path(stored.sha256)
    assert store.objects.holds(stored.sha256)
    damage(path)
    stat = path.stat()
    store.close()
    cache = tmp_path / "store" / "stat_cache.json"
    read = json.loads(cache.read_text())
    read["files"][str(path)][:4] = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    cache.write_text(json.dumps(read))
    asked = prepared(tmp_path, epochs=4)
    records = asked.cached()
    assert list(records) == ["ingest"]
    node = asked.plan.node("train")
    with pytest.raises(DamagedObject, match="made again by the stage"):
        execute(node, gather(node, records, asked.sources), asked.store)
    assert cached(run(tmp_path, epochs=4)) == {"ingest": False, "train": False, "report": False}


def test_a_run_repairs_what_it_finds_damaged_on_its_way(tmp_path: Path, data: Path) -> None:
    run(tmp_path)
    asked = prepared(tmp_path, epochs=4)
    objects = asked.store.objects
    recordings = asked.cached()["ingest"].outputs["recordings"]["recordings.txt"].sha256

    def rot(node: Node) -> Any:
        """Between the check of ingest and the start of train, once."""
        if node.name == "train" and not (tmp_path / "rotten").exists():
            (tmp_path / "rotten").touch()
            damage(objects.path(recordings))
        return silent

    done = run_local(asked, rot)
    assert cached(done)["ingest"] is False
    assert objects.holds(recordings)


def test_a_lost_object_is_made_again_under_its_record(tmp_path: Path, data: Path) -> None:
    first = run(tmp_path)
    stored = first["report"].record.outputs["report"]["report.html"]
    Store(tmp_path / "store").objects.path(stored.sha256).unlink()
    second = run(tmp_path)
    assert cached(second) == {"ingest": True, "train": True, "report": False}
    assert second["report"].record == first["report"].record


def test_a_record_whose_object_comes_back_otherwise_is_moved_aside(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import imagined

    first = run(tmp_path)["report"].record
    store = Store(tmp_path / "store")
    store.objects.path(first.outputs["report"]["report.html"].sha256).unlink()

    def otherwise(job: StageJob) -> StageResult:
        page = job.out / "report.html"
        page.write_text("otherwise")
        return StageResult({"report": {"report.html": page}})

    monkeypatch.setattr(imagined, "report", otherwise)
    second = run(tmp_path)["report"].record
    assert second.fingerprint == first.fingerprint
    assert second.outputs != first.outputs
    assert [path.name.startswith(first.fingerprint) for path in (store.root / "aside").iterdir()] == [True]
    assert all(cached(run(tmp_path)).values())


def test_a_flipped_bit_of_a_record_moves_it_aside_and_the_stage_runs(tmp_path: Path, data: Path) -> None:
    first = run(tmp_path)["train"].record
    path = tmp_path / "store" / "records" / "train" / f"{first.fingerprint}.json"
    text = path.read_text()
    path.write_text(text.replace("0.30000000000000004", "0.30000000000000005"))
    assert path.read_text() != text
    second = run(tmp_path)
    assert cached(second) == {"ingest": True, "train": False, "report": True}
    assert second["train"].record.outputs == first.outputs


def test_metrics_come_back_to_the_bit(tmp_path: Path, data: Path) -> None:
    run(tmp_path)
    assert run(tmp_path)["train"].record.metrics == {"accuracy": 0.1 + 0.2, "test": {"accuracy": 0.9}}


def test_equal_results_of_other_code_cut_off_what_follows(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (Path(__file__).parent / "imagined.py").read_text()
    code = tmp_path / "code"
    code.mkdir()
    monkeypatch.syspath_prepend(str(code))
    module = code / "other_ingest.py"
    module.write_text(source)

    def asked() -> dict[str, bool]:
        import imagined

        stages = [
            replace(stage, code=("other_ingest",)) if stage.name == "ingest" else stage for stage in imagined.stages()
        ]
        store = Store(tmp_path / "store")
        return cached(
            run_local(prepare(stages, imagined.config(tmp_path / "data", 3), None, store), lambda node: silent)
        )

    asked()
    assert all(asked().values())
    module.write_text(source + "\n# another byte\n")
    assert asked() == {"ingest": False, "train": True, "report": True}


def test_a_changed_byte_of_a_plugins_code_is_noticed(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import imagined

    package = tmp_path / "code" / "strangers_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "table.csv").write_text("1,2")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(imagined.Network, "code", ("strangers_package",))
    run(tmp_path)
    assert all(cached(run(tmp_path)).values())
    (package / "table.csv").write_text("1,3")
    assert cached(run(tmp_path)) == {"ingest": True, "train": False, "report": True}


def test_a_stage_that_makes_other_roles_than_it_declares_is_refused(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import imagined

    monkeypatch.setattr(imagined, "train", lambda job: StageResult({}))
    with pytest.raises(StageError, match=r"stage train made the roles \[\], but declares \['float_model'\]"):
        run(tmp_path)


def test_a_metric_that_json_cannot_say_is_refused(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import imagined

    real = imagined.train
    monkeypatch.setattr(imagined, "train", lambda job: replace(real(job), metrics={"accuracy": float("nan")}))
    with pytest.raises(StageError, match=r"stage train: metrics\.accuracy: nan"):
        run(tmp_path)


def test_a_file_that_changes_while_it_is_read_stops_the_run(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import imagined

    real = imagined.ingest

    def slow(job: StageJob) -> StageResult:
        result: StageResult = real(job)
        damage(data / "arc" / "2.csv")
        return result

    monkeypatch.setattr(imagined, "ingest", slow)
    with pytest.raises(DataError, match=r"arc/2.csv: the file changed while stage ingest read it"):
        run(tmp_path)
    assert not recorded(tmp_path, "ingest")


def test_a_stage_that_fails_leaves_no_record_and_no_temporary_files(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import imagined

    def fails(job: StageJob) -> StageResult:
        (job.out / "half").write_text("half")
        raise StageError("no")

    monkeypatch.setattr(imagined, "train", fails)
    with pytest.raises(StageError, match="no"):
        run(tmp_path)
    store = Store(tmp_path / "store")
    assert not recorded(tmp_path, "train")
    assert recorded(tmp_path, "ingest")
    assert list((store.root / "tmp").iterdir()) == []


def test_torch_stages_run_one_at_a_time_in_a_process(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import imagined

    real, inside, most = imagined.train, [], []

    def watched(job: StageJob) -> StageResult:
        inside.append(1)
        most.append(len(inside))
        result: StageResult = real(job)
        inside.pop()
        return result

    monkeypatch.setattr(imagined, "train", watched)
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda epochs: run(tmp_path, epochs), (3, 4, 5)))  # raises what a thread raised
    assert most == [1, 1, 1]
    assert sorted(cached(one)["ingest"] for one in done) == [False, True, True]


def test_an_input_that_nobody_made_is_named(tmp_path: Path, data: Path) -> None:
    node = prepared(tmp_path).plan.node("train")
    with pytest.raises(StageError, match="stage train: no record has its input 'recordings'"):
        gather(node, {}, {})


def test_records_cross_an_engine_as_json(tmp_path: Path, data: Path) -> None:
    done = run(tmp_path)
    asked = prepared(tmp_path)
    sent = {name: json.loads(json.dumps(one.record.to_json())) for name, one in done.items()}
    records = {name: Record.from_json(value) for name, value in sent.items()}
    assert asked.perform("report", records, silent) == (done["report"].record, True)


def test_a_stage_finds_its_inputs_under_their_names(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import imagined

    real, seen = imagined.report, {}

    def looks(job: StageJob) -> StageResult:
        seen.update({role: [path.name for path in files.values()] for role, files in job.inputs.items()})
        return real(job)

    monkeypatch.setattr(imagined, "report", looks)
    run(tmp_path)
    assert seen == {"float_model": ["best_model.pt"], "notes": ["notes.json"]}


def test_the_fingerprint_knows_no_paths(tmp_path: Path, data: Path) -> None:
    first = run(tmp_path)
    data.rename(tmp_path / "elsewhere")
    import imagined

    moved = prepare(imagined.stages(), imagined.config(tmp_path / "elsewhere", 3), None, Store(tmp_path / "store2"))
    second = run_local(moved, lambda node: silent)
    assert [one.record.fingerprint for one in first.values()] == [one.record.fingerprint for one in second.values()]
    assert str(tmp_path) not in json.dumps([one.record.to_json() for one in first.values()])


def test_input_files_say_where_they_are_only_outside_the_store(tmp_path: Path, data: Path) -> None:
    found = prepared(tmp_path).sources
    assert sorted(found["source"]) == ["arc/2.csv", "idle/1.csv"]
    assert found["source"]["arc/2.csv"].path == data / "arc" / "2.csv"
    assert found["notes"]["notes.json"] == InputFile(
        found["notes"]["notes.json"].sha256, found["notes"]["notes.json"].size
    )


@dataclass(frozen=True)
class Account:
    """Options of a plugin that asks somebody for something."""

    token: str
    where: tuple[str, ...] = ("https://me:${PASSWORD}@host/a",)
    more: Mapping[str, Any] = field(default_factory=lambda: {"user": "${WHO}", "times": 3})


def asks(folder: Path, seen: list[Any]) -> Prepared:
    """The imagined stages, the training's plugin with options of its own; ``seen`` gets them as the stage does."""
    import imagined

    def train(job: StageJob) -> StageResult:
        seen.append(job.plugin_options["model"])
        return imagined.train(job)

    imagined.asking = train
    stages = tuple(
        replace(
            one,
            run="imagined:asking",
            plugins=lambda config, catalogue: {"model": (imagined.Network(), Account("${TOKEN}"))},
        )
        if one.name == "train"
        else one
        for one in imagined.stages()
    )
    return prepare(stages, imagined.config(folder / "data", 3), None, Store(folder / "store"))


def test_a_stage_has_the_environments_values_and_its_record_their_names(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TOKEN": "t0ken", "PASSWORD": "passw0rd", "WHO": "wh0"}.items():
        monkeypatch.setenv(name, value)
    seen: list[Any] = []
    done = run_local(asks(tmp_path, seen), lambda node: silent)
    assert seen == [Account("t0ken", ("https://me:passw0rd@host/a",), {"user": "wh0", "times": 3})]
    assert done["train"].record.document["plugins"]["model"]["options"]["token"] == "${TOKEN}"
    for path in (path for path in (tmp_path / "store").rglob("*") if path.is_file()):
        assert not any(value in path.read_bytes() for value in (b"t0ken", b"passw0rd", b"wh0")), path
    monkeypatch.setenv("TOKEN", "another")
    assert all(cached(run_local(asks(tmp_path, seen), lambda node: silent)).values()), "a secret decides no result"


def test_a_name_that_is_not_set_is_said_with_its_option(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOKEN", raising=False)
    with pytest.raises(ConfigError, match=r"^options of model 'imagined'\.token: '\$\{TOKEN\}' is not set"):
        run_local(asks(tmp_path, []), lambda node: silent)


def test_a_record_without_a_role_that_the_stage_makes_is_a_miss(tmp_path: Path, data: Path) -> None:
    """As another version wrote it: what reads the role would find nothing."""
    run(tmp_path)
    store = Store(tmp_path / "store")
    (path,) = (store.root / "records" / "train").iterdir()
    whole = store.records.read("train", path.stem)
    assert whole is not None
    store.records.replace(replace(whole, outputs={"graph": whole.outputs["float_model"]}), whole)
    done = run(tmp_path)
    assert cached(done) == {"ingest": True, "train": False, "report": True}
    assert store.records.read("train", path.stem) == replace(whole, aside=done["train"].record.aside)
