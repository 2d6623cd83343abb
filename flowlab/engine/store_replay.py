"""`flowlab store replay`: run an exported or stored run's config here, into a store of its own, and compare."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flowlab.config.redaction import HIDDEN
from flowlab.engine.local import Done, prepare, run_local
from flowlab.engine.session import Watch
from flowlab.engine.status import Change, changes
from flowlab.engine.store_archive import Data, opened
from flowlab.engine.store_import import data_of
from flowlab.engine.which_run import IMPORT, which_run
from flowlab.errors import ConfigError, StoreError, plural
from flowlab.plan import Node
from flowlab.store.records import Record
from flowlab.store.store import Store

SHOWN = 4  # fields that a person reads; --json has all


@dataclass(frozen=True)
class Original:
    """The run to be replayed: what its run.json says, its records, and its data (None: where the config says)."""

    run: Mapping[str, Any]
    records: Mapping[str, Record]
    data: Path | None = None

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.run["run"])

    @property
    def warnings(self) -> tuple[str, ...] | None:
        """What its config had to say, also of keys that nobody reads and no run.json keeps."""
        said = self.run.get("warnings")
        return tuple(map(str, said)) if isinstance(said, list) else None


@dataclass(frozen=True)
class Difference:
    """One file of a role that came out otherwise; an empty hash is one that is not there."""

    role: str
    name: str
    before: str
    now: str

    def text(self) -> str:
        """For people."""
        return f"{self.name} ({self.role}): {self.before[:12] or 'nothing'} -> {self.now[:12] or 'nothing'}"


@dataclass(frozen=True)
class StageReplay:
    """One stage: the files that differ, and the fields in which what decided it differs, inputs of other stages last.

    ``same`` is about files alone: other code may give the same bytes.
    """

    stage: str
    files: int
    differences: tuple[Difference, ...]
    fields: tuple[Change, ...]

    @property
    def same(self) -> bool:
        """Whether every file came out with its hash."""
        return not self.differences

    def lines(self) -> Iterator[str]:
        """For people."""
        fields = "; ".join(one.full() for one in self.fields[:SHOWN])
        more = f"; and {len(self.fields) - SHOWN} more" if len(self.fields) > SHOWN else ""
        if self.same:
            said = f" (though this differs: {fields}{more})" if fields else ""
            yield f"{self.stage:<10} same, {plural(self.files, 'file', 'files')}{said}"
            return
        others = f"; and {len(self.differences) - 1} more files" if len(self.differences) > 1 else ""
        yield f"{self.stage:<10} differs: {self.differences[0].text()}{others}"
        yield f"{'':<10} {f'what decides it differs: {fields}{more}' if fields else 'from equal code and inputs'}"

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.stage,
            "same": self.same,
            "files": self.files,
            "differences": [vars(one) for one in self.differences],
            "fields": [one.to_json() for one in self.fields],
        }


@dataclass(frozen=True)
class Replayed:
    """All stages in order."""

    run: str
    stages: tuple[StageReplay, ...]

    @property
    def first(self) -> StageReplay | None:
        """The first stage that differs."""
        return next((one for one in self.stages if not one.same), None)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        first = self.first
        return {
            "run": self.run,
            "same": first is None,
            "first": first.stage if first else None,
            "stages": [one.to_json() for one in self.stages],
        }

    def lines(self) -> list[str]:
        """For people."""
        said = [line for one in self.stages for line in one.lines()]
        if (first := self.first) is None:
            return [*said, f"run {self.run}: replayed to the same hashes, {len(self.stages)} stages"]
        return [*said, f"run {self.run}: the first that differs is {first.stage}, {first.differences[0].text()}"]


def replay(
    asked: str, store: str | None, artifacts: Path, *, data: Path | None, catalogue: Any, watch: Watch
) -> Replayed:
    """Run what a run ran, from nothing, and compare every file of every stage.

    Args:
        asked: an exported archive, or a run as in `which_run`.
        store: the store's folder for the latter, or None for the default.
        artifacts: where runs and the default store are.
        data: the data, where they lie elsewhere than the config says and are not in the archive.
        catalogue: what is installed.
        watch: looks on.

    Raises:
        StoreError: where there is no such run, or something of it is gone.
        FlowlabError: of the stage that failed here.
    """
    with tempfile.TemporaryDirectory(prefix="flowlab-replay-") as folder:
        place = Path(folder)
        with _original(asked, store, artifacts, data, place) as original:
            done = _run(original, catalogue, place, watch)
        return Replayed(original.name, tuple(_compared(original.records, done)))


@contextmanager
def _original(asked: str, store: str | None, artifacts: Path, data: Path | None, place: Path) -> Iterator[Original]:
    if data is not None and not data.exists():
        raise StoreError(f"--data {data}: nothing is there. Name the file or folder that the run read")
    if asked.endswith(".zip"):
        with opened(Path(asked)) as archive:
            found = archive.exported()
            if found.data.included and data is None:
                archive.needs_room(place)
                for name in found.data.files or {}:
                    archive.unpack(f"data/{name}", _inside(found.data, place, name))
            yield Original(found.run, found.records, _at(found.data, place, data))
        return
    run = which_run(asked, store, artifacts)
    value = run.store.runs.read(run.name) or {}
    if not isinstance(value.get("config"), Mapping):
        raise StoreError(f"run {run.name} was written by an older flowlab, without its config. Run it again")
    for stage in value.get("stages") or {}:
        run.record(stage)  # raises where it is gone
    kept = value.get("data")
    if isinstance(kept, Mapping) and data is None:
        brought, files, said = data_of(run.store, kept)
        if files is None:
            raise StoreError(f"run {run.name}: {said[0]}. Give the data by --data")
        for name, file in files.items():
            link = _inside(brought, place, name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(run.store.objects.verified(file.sha256))
        yield Original(value, run.records, _at(brought, place, None))
    else:
        path = str((value["config"].get("dataset") or {}).get("input_data_path") or "")
        yield Original(value, run.records, _at(Data("", Path(path).name), place, data))


def _inside(data: Data, place: Path, name: str) -> Path:
    """Where a file of the data goes, so that file or folder has its name again: a dataset may be called by it."""
    return place / "data" / data.name / name if data.folder else place / "data" / name


def _at(data: Data, place: Path, given: Path | None) -> Path | None:
    """The data's path: what was unpacked, or what is given under the name that it had."""
    path = place / "data" / (data.name or (given.name if given is not None else "data"))
    if given is None:
        return path if data.included and data.files else None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(given.absolute())
    return path


def _run(original: Original, catalogue: Any, place: Path, watch: Watch) -> dict[str, Done]:
    from flowlab.config import load_mapping
    from flowlab.engine.session import fetcher
    from flowlab.stages import STAGES

    if hidden := sorted(_hidden(original.run["config"])):
        raise ConfigError(
            f"run {original.name}: its config was kept without the secret under {hidden[0]}, so it cannot run again. "
            "A config that names it as ${NAME} can"
        )
    if IMPORT in original.records:
        raise StoreError(
            f"run {original.name} has no config to replay: `flowlab compile` made it, from a network that was trained "
            "elsewhere. Call that again, with a --store of its own"
        )
    given = {name: dict(keys) for name, keys in original.run["config"].items()}
    if original.data is not None:
        given.setdefault("dataset", {})["input_data_path"] = str(original.data)
    config = load_mapping(given, catalogue, source=f"config of run {original.name}")
    if original.data is not None:  # under the name that it had: loading followed the link
        config = replace(config, dataset=replace(config.dataset, input_data_path=str(original.data)))
    if original.warnings is not None:
        config = replace(config, warnings=original.warnings)
    store = Store(place / "store")
    prepared = prepare(STAGES, config, catalogue, store, fetcher(store, watch))
    return run_local(prepared, lambda node: _progress(watch, node), _finished(watch))


def _progress(watch: Watch, node: Node) -> Callable[[str, float], None]:
    return lambda what, fraction: watch.progress(node.name, what, fraction)


def _finished(watch: Watch) -> Callable[[Node, Done], None]:
    return lambda node, done: watch.finished(node.name, done.cached, done.seconds)


def _hidden(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _hidden(one, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _hidden(one, key)
    elif isinstance(value, str) and HIDDEN in value:
        yield key


def _compared(records: Mapping[str, Record], done: Mapping[str, Done]) -> Iterator[StageReplay]:
    """Each stage of the plan here, then those that only the original had."""
    for stage, one in done.items():
        before = records.get(stage)
        if before is not None:
            yield _stage(before, one.record)
    for stage in records.keys() - done.keys():
        gone = tuple(_differences(records[stage], None))
        yield StageReplay(stage, 0, gone, ())


def _stage(before: Record, now: Record) -> StageReplay:
    count = sum(len(files) for files in before.outputs.values())
    return StageReplay(now.stage, count, tuple(_differences(before, now)), changes(before.document, now.document))


def _differences(before: Record, now: Record | None) -> Iterator[Difference]:
    there = now.outputs if now is not None else {}
    for role in sorted({*before.outputs, *there}):
        old, new = before.outputs.get(role, {}), there.get(role, {})
        for name in sorted({*old, *new}):
            first = old[name].sha256 if name in old else ""
            second = new[name].sha256 if name in new else ""
            if first != second:
                yield Difference(role, name, first, second)
