"""`flowlab store gc`: remove what no kept run needs, beside runs that go on, and killed at any point.

What is kept starts from runs. Every hash in a kept run's ``run.json`` is a root: the records of these fingerprints, and
all objects that those name. A run that goes on says in ``asks`` what decides its results: every record that it can
ever look up or make is kept, also one that no ``run.json`` names yet. What is between a file and the record that will
name it holds `Store.keeping`; a run writes its ``run.json`` under it. So a clean-up, which looks once more under
`Store.cleaning` before it takes anything, meets a run either before it has looked anything up, or with all it needs.

Things go by rename into ``tmp/``, in the order in which one names the next: runs, records, objects. A clean-up that is
killed leaves a store in which nothing names what is not there; the next run sweeps ``tmp/``.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flowlab.errors import plural
from flowlab.faults import fault_point
from flowlab.store.files import sync_folder
from flowlab.store.inventory import Contents, contents, download_of, named_by, size_of
from flowlab.store.runs import state_of
from flowlab.store.store import Store

ORPHAN_S = 86_400  # so long what no run at all names is kept: a command that writes no run.json may be at work
RUNNING = "it goes on"


@dataclass(frozen=True)
class Collected:
    """What a clean-up did or would do. ``kept`` says of each run that stays why; ``removed`` is paths in the store."""

    kept: Mapping[str, str]
    removed: Mapping[str, tuple[str, ...]]  # by kind: runs, records, objects, downloads, scratch, aside
    freed: int
    dry: bool
    said: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "dry_run": self.dry,
            "freed_bytes": self.freed,
            "kept": dict(self.kept),
            "removed": {kind: list(paths) for kind, paths in self.removed.items()},
            "said": list(self.said),
        }

    def lines(self) -> list[str]:
        """For people."""
        found = [f"keeps {run}: {why}" for run, why in self.kept.items()]
        removes = "would remove" if self.dry else "removed"
        counts = [
            plural(len(paths), one, many)
            for kind, (one, many) in NAMES.items()
            if (paths := self.removed.get(kind, ()))
        ]
        what = ", ".join(counts) or "nothing"
        return [*found, *self.said, f"{removes} {what}: {self.freed:,} bytes"]


NAMES = {
    "runs": ("run", "runs"),
    "records": ("record", "records"),
    "downloads": ("download", "downloads"),
    "objects": ("object", "objects"),
    "scratch": ("folder of checkpoints", "folders of checkpoints"),
    "aside": ("damaged file", "damaged files"),
}


@dataclass(frozen=True)
class _Condemned:
    """Paths that go, by kind, in the order in which they go."""

    kept: Mapping[str, str]
    paths: Mapping[str, tuple[Path, ...]]
    said: tuple[str, ...]


def collect(
    store: Store, artifacts: Path, keep_last: int, *, dry: bool = False, waits: Callable[[], None] = lambda: None
) -> Collected:
    """Remove what no kept run needs.

    Kept are: runs that go on; runs that a link beside the run folders leads to (``latest``, ``promoted``); of each
    dataset the newest ``keep_last`` completed runs, and what came after the oldest of them.

    Args:
        store: what to clean.
        artifacts: the folder of this project's run folders; those of other projects stand in ``run.json``.
        keep_last: 1 or more.
        dry: only say what would go.
        waits: called again and again while a run is between a file and its record.
    """
    before = contents(store)  # without the lock: to read all records takes a while, and runs would wait
    if dry or not store.root.is_dir():
        return _result(store, _condemned(store, artifacts, keep_last, before), dry=dry)
    with store.workspace() as trash:
        with store.cleaning(waits):
            condemned = _condemned(store, artifacts, keep_last, contents(store, before))
            result = _result(store, condemned, dry=False)
            for kind, paths in condemned.paths.items():
                _away(store, kind, paths, trash / kind)
        store.sweep()
        shutil.rmtree(trash, ignore_errors=True)
    return result


def _result(store: Store, condemned: _Condemned, *, dry: bool) -> Collected:
    removed = {
        kind: tuple(path.relative_to(store.root).as_posix() for path in paths)
        for kind, paths in condemned.paths.items()
        if paths
    }
    freed = sum(size_of(path) for paths in condemned.paths.values() for path in paths)
    return Collected(condemned.kept, removed, freed, dry, condemned.said)


def _away(store: Store, kind: str, paths: Iterable[Path], trash: Path) -> None:
    """Rename into the trash; that these names are gone is on disk before what they named goes."""
    trash.mkdir()
    folders = set()
    for number, path in enumerate(paths):
        if kind == "scratch":
            with store.checkpoints(path.name) as free:
                if free:
                    path.rename(trash / str(number))
            continue
        try:
            path.rename(trash / str(number))
        except FileNotFoundError:  # moved aside by who found it damaged
            continue
        folders.add(path.parent)
        fault_point(f"gc-{kind}")
    for folder in folders:
        sync_folder(folder)


# --- what is kept -------------------------------------------------------------------------------


def _condemned(store: Store, artifacts: Path, keep_last: int, found: Contents) -> _Condemned:
    kept = kept_runs(found.runs, artifacts, keep_last)
    running = {name: run for name, run in found.runs.items() if run is not None and kept.get(name) == RUNNING}
    silent = sorted(name for name, run in running.items() if not isinstance(run.get("asks"), Mapping))
    if silent:
        said = f"{silent[0]} goes on and does not say what it needs, as an older flowlab wrote it: nothing is removed"
        return _Condemned(kept, {}, (said,))
    damaged = sorted(name for name, run in found.runs.items() if run is None and _has_words(store, name))
    if damaged:
        said = (
            f"runs/{damaged[0]}/run.json is damaged: nothing is removed, for it may need all. Remove its folder first"
        )
        return _Condemned(kept, {}, (said,))
    asks = {ask for run in running.values() for ask in run["asks"].values()}
    return _Condemned(kept, _paths(store, found, kept, asks), ())


def _has_words(store: Store, run: str) -> bool:
    """A folder without any run.json was claimed by a run that never began, or begins just now."""
    return (store.root / "runs" / run / "run.json").exists()


def _paths(store: Store, found: Contents, kept: Mapping[str, str], asks: set[str]) -> dict[str, tuple[Path, ...]]:
    young = time.time() - ORPHAN_S
    of_any = frozenset[str]().union(*map(named_by, found.runs.values()))
    roots = frozenset[str]().union(*(named_by(found.runs[name]) for name in kept))
    records = [
        one
        for one in found.records
        if one.fingerprint in roots or one.ask in asks or (one.fingerprint not in of_any and one.changed > young)
    ]
    staying = {one.path for one in records}
    downloads = dict(_downloads(store, found, kept, roots))
    needed = roots.union(*(one.hashes for one in records), (sha for sha, stays in downloads.values() if stays and sha))
    of_any = of_any.union(*(one.hashes for one in found.records), (sha for sha, _ in downloads.values() if sha))
    oldest = min(map(moment, kept), default=time.time())
    return {
        "runs": tuple(
            store.root / "runs" / name for name, run in found.runs.items() if name not in kept and run is not None
        ),
        "records": tuple(one.path for one in found.records if one.path not in staying),
        "downloads": tuple(folder for folder, (_, stays) in downloads.items() if not stays),
        "objects": tuple(
            one.path for sha, one in found.objects.items() if sha not in needed and (sha in of_any or one.came <= young)
        ),
        "scratch": tuple(_left_before(store.root / "scratch", oldest)),
        "aside": tuple(_left_before(store.root / "aside", oldest)),
    }


def kept_runs(runs: Mapping[str, Mapping[str, Any] | None], artifacts: Path, keep_last: int) -> dict[str, str]:
    """Which runs stay, newest first, and why."""
    linked = dict(_links(runs, artifacts))
    completed: dict[str, int] = {}
    kept = {}
    for name in sorted(runs, reverse=True):
        run = runs[name]
        if run is None:
            continue
        dataset = str(run["dataset"])
        newer = completed.get(dataset, 0)
        completed[dataset] = newer + (run.get("state") == "Completed")
        if state_of(run) == "Running":
            kept[name] = RUNNING
        elif name in linked:
            kept[name] = f"'{linked[name]}' leads to it"
        elif newer < keep_last:
            kept[name] = f"one of the newest of '{dataset}'"
    return kept


def _links(runs: Mapping[str, Mapping[str, Any] | None], artifacts: Path) -> Iterator[tuple[str, str]]:
    """Runs that a link beside the run folders leads to, here and where other projects keep theirs."""
    places = {artifacts.absolute()}
    places |= {Path(place) for run in runs.values() if run and isinstance(place := run.get("artifacts"), str)}
    for place in sorted(places):
        for folder in (one for one in _entries(place) if one.is_dir() and not one.name.startswith(".")):
            for link in _entries(folder):
                if link.is_symlink() and (name := link.readlink().name) in runs:
                    yield name, link.name


def _downloads(
    store: Store, found: Contents, kept: Mapping[str, str], roots: frozenset[str]
) -> Iterator[tuple[Path, tuple[str | None, bool]]]:
    """Each download's folder, with its object and whether it stays.

    A run of an older flowlab does not say which archive it read: then all stay.
    """
    silent = any("objects" not in (found.runs[name] or {}) for name in kept)
    young = time.time() - ORPHAN_S
    for folder in _entries(store.root / "downloads"):
        sha = download_of(folder)
        fresh = folder.lstat().st_mtime > young
        yield folder, (sha, silent or fresh or sha in roots)


def _left_before(folder: Path, moment: float) -> Iterator[Path]:
    for path in _entries(folder):
        with suppress(FileNotFoundError):  # who trains replaces its checkpoints meanwhile: it is not left behind
            times = [one.lstat().st_mtime for one in (path, *(path.rglob("*") if path.is_dir() else ()))]
            if max(times) < moment and path.lstat().st_ctime < moment:
                yield path


def moment(run: str) -> float:
    """When a run began, by its name, in seconds since 1970; 0 where the name says nothing: nothing is older."""
    try:
        return datetime.strptime(run.partition("Z-")[0], "%Y%m%dT%H%M%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
