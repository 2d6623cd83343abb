"""What lies in a store, read as it is: nothing is changed, moved aside or healed. `flowlab store ls` shows it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowlab.canonical import canonical_json, digest, read_json
from flowlab.errors import plural
from flowlab.store.files import open_plain
from flowlab.store.objects import NAME
from flowlab.store.records import parsed
from flowlab.store.runs import state_of
from flowlab.store.store import Store

HASH = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
CACHES = ("stat_cache.json", "imports.json")
OTHERS = ("downloads", "scratch", "aside", "tmp")  # folders of which only the bytes are said


@dataclass(frozen=True)
class RecordFile:
    """One file of ``records/``. ``hashes`` is every sha256 in it, whatever wrote it; ``ask`` is as in run.json."""

    stage: str
    fingerprint: str
    path: Path
    size: int
    changed: float
    hashes: frozenset[str]
    ask: str = ""


@dataclass(frozen=True)
class ObjectFile:
    """One file of ``objects/``: its name, its bytes, and when it came here (its own time says nothing)."""

    sha256: str
    path: Path
    size: int
    came: float


@dataclass(frozen=True)
class Contents:
    """Runs, records and objects of a store at one moment, in the order in which one names the next."""

    runs: Mapping[str, Mapping[str, Any] | None]  # None: its run.json is damaged or not there
    records: tuple[RecordFile, ...]
    objects: Mapping[str, ObjectFile]


def contents(store: Store, known: Contents | None = None) -> Contents:
    """Look through a store. Records of ``known`` are not read again: they are created, and never overwritten."""
    runs = {path.name: store.runs.read(path.name) for path in _below(store.root / "runs")}
    before = {record.path: record for record in known.records} if known else {}
    records = tuple(one for path in _records(store.root) if (one := _record(path, before)) is not None)
    objects = {}
    for folder in _below(store.root / "objects"):
        for path in _below(folder):
            if NAME.fullmatch(path.name) and (found := _stat(path)) is not None:
                objects[path.name] = ObjectFile(path.name, path, found.st_size, found.st_ctime)
    return Contents(runs, records, objects)


def _records(root: Path) -> Iterator[Path]:
    for folder in _below(root / "records"):
        yield from (path for path in _below(folder) if path.suffix == ".json" and NAME.fullmatch(path.stem))


def _record(path: Path, known: Mapping[Path, RecordFile]) -> RecordFile | None:
    found = _stat(path)
    if found is None:
        return None
    before = known.get(path)
    if before is not None and (before.size, before.changed) == (found.st_size, found.st_mtime):
        return before
    try:
        with open_plain(path) as file:
            data = file.read()
    except OSError:
        data = b""  # whoever looks closer finds that it cannot be read
    record = parsed(data)
    ask = digest({key: value for key, value in record.document.items() if key != "inputs"}) if record else ""
    hashes = frozenset(match.decode() for match in HASH.findall(data))
    return RecordFile(path.parent.name, path.stem, path, found.st_size, found.st_mtime, hashes, ask)


def named_by(run: Mapping[str, Any] | None) -> frozenset[str]:
    """Every sha256 in a run's ``run.json``, under whatever key: fingerprints of records, and objects."""
    return frozenset(match.decode() for match in HASH.findall(canonical_json(run))) if run is not None else frozenset()


def download_of(folder: Path) -> str | None:
    """Which object an address became, or None where its entry is damaged."""
    try:
        with open_plain(folder / "entry.json") as file:
            value = read_json(file.read())
        check = value.pop("check", None)
        sha = value["download"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    good = isinstance(sha, str) and NAME.fullmatch(sha) and check in (None, digest(value))
    return sha if good else None


# --- flowlab store ls ---------------------------------------------------------------------------


@dataclass(frozen=True)
class RunSize:
    """A run, and what it holds: bytes of all objects that its records name, and of those that no other run needs."""

    run: str
    state: str
    dataset: str
    records: int
    size: int
    alone: int

    def row(self) -> tuple[str, ...]:
        """For people."""
        return self.run, self.state, self.dataset, str(self.records), f"{self.size:,}", f"{self.alone:,}"


@dataclass(frozen=True)
class Listing:
    """What `flowlab store ls` says. ``unnamed`` are objects that no record and no run names."""

    root: Path
    runs: tuple[RunSize, ...]
    records: tuple[Mapping[str, Any], ...]
    objects: tuple[Mapping[str, Any], ...]
    unnamed: int
    others: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For programs: every record and every object with its bytes."""
        return {
            "store": str(self.root),
            "runs": [vars(one) for one in self.runs],
            "records": [dict(one) for one in self.records],
            "objects": [dict(one) for one in self.objects],
            "unnamed_bytes": self.unnamed,
            "other_bytes": dict(self.others),
        }

    def totals(self) -> list[str]:
        """For people, below the table of runs."""
        objects = sum(one["size"] for one in self.objects)
        said = [
            f"{plural(len(self.runs), 'run', 'runs')}, {plural(len(self.records), 'record', 'records')} "
            f"({sum(one['size'] for one in self.records):,} bytes), "
            f"{plural(len(self.objects), 'object', 'objects')} ({objects:,} bytes), of which no record and no run "
            f"names {self.unnamed:,} bytes"
        ]
        return said + [f"{name}: {size:,} bytes" for name, size in self.others.items() if size]


TABLE = ("run", "state", "dataset", "records", "bytes", "of no other run")


def listing(store: Store) -> Listing:
    """Runs newest first, then records and objects with their bytes."""
    found = contents(store)
    by_fingerprint: dict[str, list[RecordFile]] = {}
    for record in found.records:
        by_fingerprint.setdefault(record.fingerprint, []).append(record)
    needs = {name: _needs(run, by_fingerprint, found) for name, run in found.runs.items()}
    users: dict[str, list[str]] = {}
    for name, needed in needs.items():
        for sha in needed:
            users.setdefault(sha, []).append(name)
    runs = [
        RunSize(
            name,
            state_of(run) if run is not None else "damaged",
            str(run["dataset"]) if run is not None else "",
            sum(len(by_fingerprint.get(sha, ())) for sha in named_by(run)),
            sum(found.objects[sha].size for sha in needs[name]),
            sum(found.objects[sha].size for sha in needs[name] if users[sha] == [name]),
        )
        for name, run in sorted(found.runs.items(), reverse=True)
    ]
    named = {sha for record in found.records for sha in record.hashes} | set(users)
    records = [{"stage": one.stage, "fingerprint": one.fingerprint, "size": one.size} for one in found.records]
    stored = [
        {"sha256": one.sha256, "size": one.size, "runs": sorted(users.get(one.sha256, ()))}
        for one in found.objects.values()
    ]
    unnamed = sum(one.size for sha, one in found.objects.items() if sha not in named)
    others = {name: size_of(store.root / name) for name in (*OTHERS, *CACHES)}
    return Listing(store.root, tuple(runs), tuple(records), tuple(stored), unnamed, others)


def _needs(
    run: Mapping[str, Any] | None, by_fingerprint: Mapping[str, list[RecordFile]], found: Contents
) -> frozenset[str]:
    named = named_by(run)
    records = [record for sha in named for record in by_fingerprint.get(sha, ())]
    return frozenset(sha for sha in named.union(*(one.hashes for one in records)) if sha in found.objects)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; nothing that is not there, and no link is followed."""
    if (found := _stat(path)) is None:
        return 0
    if not stat.S_ISDIR(found.st_mode):
        return found.st_size
    return sum(size_of(one) for one in _below(path))


def _below(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:  # it has just gone
        return None
