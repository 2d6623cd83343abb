"""Which run is meant: by name, by dataset, by ``latest``, or by its folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from flowlab.errors import StoreError, did_you_mean, plural
from flowlab.store.objects import DamagedObject
from flowlab.store.records import Record
from flowlab.store.store import Store, open_store

LATEST = "latest"
IMPORT = "import"  # the stage in place of recordings, features and training (`flowlab.stages.own`)
SHOWN = 5  # names in an error
MOST_DIGITS = 6  # of how many runs back
HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StoredRun:
    """A run in a store: its name, its dataset, and the records of its stages, by stage."""

    name: str
    dataset: str
    records: Mapping[str, Record]
    store: Store

    def record(self, stage: str) -> Record:
        """The record of a stage. Raises `StoreError` where the run never came so far, or the record is gone."""
        if stage not in self.records and IMPORT in self.records:
            raise StoreError(
                f"run {self.name} has no stage '{stage}': `flowlab compile` made it, from a network that was trained "
                "elsewhere. Name a run of a config"
            )
        if stage not in self.records:
            raise StoreError(
                f"run {self.name} has no result of stage '{stage}': it was stopped before, its config leaves the stage "
                "out, or its record is no longer in the store. Run its config again"
            )
        return self.records[stage]

    def file(self, stage: str, role: str, name: str) -> Path:
        """One file of a role, its bytes verified. Raises `StoreError` where it is gone."""
        files = self.record(stage).outputs.get(role, {})
        if name not in files:
            raise StoreError(f"run {self.name}: no file {name} among its {role}. Run its config again")
        try:
            return self.store.objects.verified(files[name].sha256)
        except DamagedObject as error:
            raise StoreError(f"run {self.name}: {name} ({role}) cannot be used: {error} Run its config again") from None


def which_run(asked: str, store: str | None, artifacts: Path) -> StoredRun:
    """Find a run.

    Args:
        asked: a run's name or the beginning of only one, a dataset's name or ``latest`` (the newest completed run of
            it, or of all; ``latest~1`` is the one before), or a folder.
        store: the store's folder, or None for the default.
        artifacts: where runs and the default store are. A run's folder given as a path has its own.

    Raises:
        StoreError: where there is no such run, or more than one that begins so; it says which there are.
    """
    name = asked
    folder = _folder(asked)
    if folder is not None:
        name, artifacts = folder.name, folder.parent.parent
    found = open_store(store, artifacts)
    value = _named(found, name)
    if value is None and folder is None:
        value = _newest(found, asked) or _begun(found, asked)
    if value is None:
        raise StoreError(_unknown(asked, found))
    return StoredRun(str(value["run"]), str(value["dataset"]), _records(value, found), found)


def _folder(asked: str) -> Path | None:
    """The run's folder, ``latest`` followed to where it leads; None where it is no path of a folder."""
    path = Path(asked)
    try:
        if len(path.parts) < 2 and not path.is_symlink():
            return None
        return path.resolve() if path.is_dir() else None
    except (OSError, ValueError):  # no name that a file system takes
        return None


def _named(store: Store, name: str) -> Mapping[str, Any] | None:
    if not name or "/" in name or name.startswith(".") or "\0" in name:
        return None
    run = store.runs.read(name)
    return run if run is not None and all(isinstance(run.get(key), str) for key in ("run", "dataset")) else None


def _newest(store: Store, asked: str) -> Mapping[str, Any] | None:
    """The newest completed run; ``~1`` behind it means the one before, as in git."""
    name, _, back = asked.partition("~")
    if back and not (back.isdecimal() and len(back) <= MOST_DIGITS):
        return None
    runs = store.runs.newest_first(None if name == LATEST else name)
    completed = (run for run in runs if run.get("state") == "Completed")
    return next(islice(completed, int(back or 0), None), None)


def _begun(store: Store, asked: str) -> Mapping[str, Any] | None:
    """The only run whose name begins so."""
    runs = [run for run in store.runs.newest_first() if asked and str(run.get("run")).startswith(asked)]
    if len(runs) > 1:
        names = ", ".join(str(run.get("run")) for run in runs[:SHOWN])
        raise StoreError(f"{len(runs)} runs begin with '{asked}': {names}{', ...' if len(runs) > SHOWN else ''}")
    return runs[0] if runs else None


def _records(value: Mapping[str, Any], store: Store) -> dict[str, Record]:
    stages = value.get("stages")
    found = {}
    for stage, fingerprint in stages.items() if isinstance(stages, dict) else ():
        if not (str(stage).isidentifier() and isinstance(fingerprint, str) and HASH.fullmatch(fingerprint)):
            continue  # whatever wrote it: nothing outside the records is touched
        record = store.records.read(stage, fingerprint)
        if record is not None:
            found[stage] = record
    return found


def _unknown(asked: str, store: Store) -> str:
    runs = list(store.runs.newest_first())
    completed = [run for run in runs if run.get("state") == "Completed"]
    datasets = list(dict.fromkeys(str(run.get("dataset")) for run in completed))
    names = [str(run.get("run")) for run in runs]
    name, _, back = asked.partition("~")
    of_it = [run for run in completed if name in (LATEST, run.get("dataset"))]
    if of_it and back.isdecimal():
        whose = "" if name == LATEST else f" of '{name}'"
        held = plural(len(of_it), f"completed run{whose}", f"completed runs{whose}")
        oldest = f"{name}~{len(of_it) - 1}" if len(of_it) > 1 else name
        return f"no run '{asked}': the store {store.place} has {held}, so the oldest is '{oldest}'"
    if not runs:
        return f"no run '{asked}': the store {store.place} has no runs. `flowlab run config.yaml` makes one"
    if any(run.get("dataset") == asked for run in runs) or (asked == LATEST and not completed):
        return f"no completed run of '{asked}' in the store {store.place}; name one of: {', '.join(names[:SHOWN])}"
    more = ", ..." if len(names) > SHOWN else ""
    return (
        f"no run '{asked}' in the store {store.place}.{did_you_mean(asked, [*names, *datasets])} "
        f"Runs: {', '.join(names[:SHOWN])}{more}. Datasets: {', '.join(datasets) or 'none'}"
    )
