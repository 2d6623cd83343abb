"""`execute`: the one unit of work, the same on every engine.

A result is looked up by its fingerprint; if it is not there it is made once, under a lock, and recorded.
Objects are stored before the record that names them, so a killed process leaves no record of what is not there.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from flowlab import __version__
from flowlab.canonical import plain
from flowlab.config.environment import from_environment
from flowlab.contracts import GOES_ON, Progress, Stage, StageJob, StageResult
from flowlab.engine.source import InputFile, RoleFiles, files_digest
from flowlab.errors import DataError, StageError
from flowlab.faults import fault_point
from flowlab.plan import Node
from flowlab.store.records import Record, Stored
from flowlab.store.store import Store

# Two trainings in threads of one process share torch's generator and thread count.
_TORCH = threading.Lock()


class Run(Protocol):
    """What a stage's declaration names as ``run``."""

    def __call__(self, job: StageJob) -> StageResult:
        """Do the work."""
        ...


def silent(what: str, fraction: float) -> None:
    """A progress that shows nothing."""


def gather(node: Node, records: Mapping[str, Record], sources: Mapping[str, RoleFiles]) -> dict[str, RoleFiles]:
    """The input files of a node, by role.

    Args:
        node: whose inputs.
        records: of the stages that make them, under any keys; others do not matter.
        sources: the roles that no stage makes.

    Raises:
        StageError: when a role is in none of them.
    """
    made = {(role, record.stage): record for record in records.values() for role in record.outputs}
    inputs: dict[str, RoleFiles] = {}
    for role in node.needs:
        version = (role, node.versions.get(role, ""))
        if version in made:
            files = made[version].outputs[role]
            inputs[role] = {name: InputFile(stored.sha256, stored.size) for name, stored in files.items()}
        elif role in sources:
            inputs[role] = sources[role]
        else:
            raise StageError(f"stage {node.name}: no record has its input '{role}'")
    return inputs


def fingerprint_of(node: Node, inputs: Mapping[str, RoleFiles]) -> str:
    """The key of the node's result for these inputs."""
    return node.fingerprint({role: files_digest(files) for role, files in inputs.items()})


def lookup(node: Node, inputs: Mapping[str, RoleFiles], store: Store) -> Record | None:
    """The record of the node's result, if it was made here and every object of it is as it was written."""
    record = store.records.read(node.name, fingerprint_of(node, inputs))
    return record if record is not None and _is_whole(record, node.stage.writes, store) else None


def _is_whole(record: Record, writes: Iterable[str], store: Store) -> bool:
    """Whether it is our own, has the roles that its stage writes, and every object of it is in the store."""
    if record.imported:
        return False
    objects = [stored.sha256 for files in record.outputs.values() for stored in files.values()]
    return set(record.outputs) == set(writes) and all(store.objects.holds(sha) for sha in objects)


def execute(
    node: Node, inputs: Mapping[str, RoleFiles], store: Store, progress: Progress = silent
) -> tuple[Record, bool]:
    """Return the result of a node and whether it was in the store; make and record it if it was not.

    Args:
        node: what to do.
        inputs: its input files by role, from `gather`.
        store: where results are.
        progress: called by the stage with (what is being done, fraction done).

    Raises:
        DamagedObject: an input is lost or wrong; it is moved aside, and a new run makes it again.
        StageError: the stage broke its contract, or its input changed under it.
        FlowlabError: as the stage raised it.
    """
    record = lookup(node, inputs, store)
    if record is not None:
        return record, True
    turn: AbstractContextManager[Any] = _TORCH if node.stage.torch else nullcontext()
    with store.lock(fingerprint_of(node, inputs), _Waiting(progress)):
        record = lookup(node, inputs, store)
        if record is not None:
            return record, True
        store.sweep()
        with turn, store.workspace() as place, store.no_empty_scratch(fingerprint_of(node, inputs)):
            record = _make(node, inputs, store, progress, place)
        fault_point("record-scratch")
        store.drop_scratch(record.fingerprint)
    store.stats.save()
    return record, False


class _Waiting:
    """Says once that another run does this stage; a progress that raises (Ctrl-C) ends the waiting."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._what = f"{GOES_ON} when another run has done this stage"

    def __call__(self) -> None:
        self._progress(self._what, 0.0)
        self._what = "another run does this stage"


def _make(node: Node, inputs: Mapping[str, RoleFiles], store: Store, progress: Progress, place: Path) -> Record:
    """Run the stage's function, take its files in, write the record."""
    document = node.document({role: files_digest(files) for role, files in inputs.items()})
    fingerprint = fingerprint_of(node, inputs)
    out = place / "out"
    out.mkdir()
    started = datetime.now(UTC)
    clock = time.monotonic()
    job = StageJob(
        inputs={role: _paths(files, store, place / "in" / role) for role, files in inputs.items()},
        options=node.options,
        plugins={kind: plugin for kind, (plugin, _) in node.plugins.items()},
        plugin_options={
            kind: from_environment(options, f"options of {kind.replace('_', ' ')} '{plugin.name}'")
            for kind, (plugin, options) in node.plugins.items()
        },
        out=out,
        scratch=store.scratch(fingerprint),
        progress=progress,
    )
    result = _function(node.stage)(job)
    _check_sources(node, inputs, store)
    _check_result(node.stage, result)
    _check_rewritten(node.stage, job, result)
    metrics = _json(node.stage, result.metrics)
    with store.keeping():  # until the record is there nothing names the objects
        outputs = _taken_in(result, store, out)
        fault_point("object-record")
        aside = {
            "seconds": round(time.monotonic() - clock, 3),
            "host": os.uname().nodename,
            "started": started.isoformat(timespec="seconds"),
            "flowlab": __version__,
        }
        record = Record(node.name, fingerprint, document, outputs, metrics, tuple(result.warnings), aside)
        return _commit(record, store)


def _taken_in(result: StageResult, store: Store, out: Path) -> dict[str, dict[str, Stored]]:
    """Store the files of a result; those in ``out`` are moved, and one may stand under several names."""
    stored: dict[Path, Stored] = {}
    outputs: dict[str, dict[str, Stored]] = {}
    for role, files in sorted(result.files.items()):
        outputs[role] = {}
        for name, path in sorted(files.items()):
            if path not in stored:
                stored[path] = Stored(*store.objects.add(path, move=_is_inside(path, out)))
            outputs[role][name] = stored[path]
    return outputs


def _commit(record: Record, store: Store) -> Record:
    """Create the record; one that is there stays if all of its objects are there.

    They are where they were lost and came back equal, and where another machine was first.
    """
    standing = store.records.read(record.stage, record.fingerprint)
    if standing is not None and not _is_whole(standing, record.outputs, store):
        return store.records.replace(record, standing)
    return store.records.create(record)


def _function(stage: Stage) -> Run:
    module, _, name = stage.run.partition(":")
    function: Run = getattr(importlib.import_module(module), name)
    return function


def _paths(files: RoleFiles, store: Store, folder: Path) -> dict[str, Path]:
    """Where a stage finds a role's files: under their names, verified."""
    inside = {name: file.sha256 for name, file in files.items() if file.path is None}
    return {**{name: file.path for name, file in files.items() if file.path}, **store.links(folder, inside)}


def _check_sources(node: Node, inputs: Mapping[str, RoleFiles], store: Store) -> None:
    """A file outside the store must still be what the fingerprint says."""
    for files in inputs.values():
        for name, file in files.items():
            if file.path is not None and store.stats.sha256(file.path) != file.sha256:
                raise DataError(f"{name}: the file changed while stage {node.name} read it. Start the run again")


def _check_result(stage: Stage, result: StageResult) -> None:
    if set(result.files) != set(stage.writes):
        made, said = sorted(result.files), sorted(stage.writes)
        raise StageError(f"stage {stage.name} made the roles {made}, but declares {said}")
    for role, files in result.files.items():
        for name, path in files.items():
            if not path.is_file():
                raise StageError(f"stage {stage.name}: {role}/{name} was declared, but {path.name} is not there")
            if name.startswith("/") or ".." in name.split("/"):
                raise StageError(f"stage {stage.name}: {role} has a file named '{name}'; a name stays inside its role")


def _check_rewritten(stage: Stage, job: StageJob, result: StageResult) -> None:
    """Who reads a role finds the files by their names, whatever version it is."""
    for role in stage.rewrites:
        found, expected = sorted(result.files[role]), sorted(job.inputs[role])
        if found != expected:
            raise StageError(f"stage {stage.name} rewrote {role} as {found}, and it had {expected}: names stay")


def _json(stage: Stage, metrics: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {name: plain(value, f"metrics.{name}") for name, value in metrics.items()}
    except TypeError as error:
        raise StageError(f"stage {stage.name}: {error}; metrics are JSON values") from None


def _is_inside(path: Path, folder: Path) -> bool:
    return not path.is_symlink() and path.resolve().is_relative_to(folder.resolve())
