"""`flowlab store verify`: hash everything anew, and say what is damaged, whom it hits, and what to do.

Nothing is moved, healed or written: a run heals what it meets (`Objects.verified`, `Records.read`), and says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowlab.canonical import digest, read_json
from flowlab.errors import plural
from flowlab.store.downloads import VERSION as DOWNLOADS
from flowlab.store.files import open_plain
from flowlab.store.inventory import Contents, contents
from flowlab.store.objects import NAME
from flowlab.store.records import FORMAT, Record, parsed
from flowlab.store.stat_cache import VERSION as STATS
from flowlab.store.stat_cache import sha256_of
from flowlab.store.store import CLEANING, Store

AGAIN = "the next run of its config makes it again; `flowlab store import` brings it back from an export"
RUN_FOLDERS = "what its run folder under artifacts/ holds is a copy and stays"
MOST_HITS = 3  # of whom a person reads; --json has all


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it was written: its path in the store, what was found, whom it hits, what to do."""

    path: str
    found: str
    hits: tuple[str, ...]
    cure: str

    def line(self) -> str:
        """For people."""
        more = f" and {len(self.hits) - MOST_HITS} more" if len(self.hits) > MOST_HITS else ""
        hits = f" It hits {'; '.join(self.hits[:MOST_HITS])}{more}." if self.hits else " It hits no run."
        return f"{self.path}: {self.found}.{hits} To do: {self.cure}"


@dataclass(frozen=True)
class Verified:
    """All that was found; ``notes`` are no damage."""

    root: Path
    findings: tuple[Finding, ...]
    runs: int
    records: int
    objects: int
    size: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "store": str(self.root),
            "findings": [{**vars(one), "hits": list(one.hits)} for one in self.findings],
            "runs": self.runs,
            "records": self.records,
            "objects": self.objects,
            "bytes": self.size,
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """For people."""
        hashed = (
            f"hashed {plural(self.runs, 'run', 'runs')}, {plural(self.records, 'record', 'records')} and "
            f"{plural(self.objects, 'object', 'objects')} ({self.size:,} bytes)"
        )
        verdict = plural(len(self.findings), "thing is", "things are") if self.findings else "everything is"
        what = "not as it was written; nothing was changed" if self.findings else "as it was written"
        return [*(one.line() for one in self.findings), *self.notes, f"{hashed}: {verdict} {what}"]


@dataclass(frozen=True)
class _Use:
    """Who names an object: a record's role and file, with the size that it has there."""

    record: Record
    role: str
    name: str
    size: int


class _Names:
    """Whom a record or an object hits."""

    def __init__(self, found: Contents, records: Mapping[Path, Record]) -> None:
        self._runs: dict[str, list[str]] = {}  # by fingerprint
        for name, run in found.runs.items():
            for _, fingerprint in _stages(run):
                self._runs.setdefault(fingerprint, []).append(name)
        self.uses: dict[str, list[_Use]] = {}
        for record in records.values():
            for role, files in record.outputs.items():
                for name, stored in files.items():
                    self.uses.setdefault(stored.sha256, []).append(_Use(record, role, name, stored.size))
        self.sources: dict[str, list[str]] = {}
        for name, run in found.runs.items():
            objects = (run or {}).get("objects")
            for sha in objects if isinstance(objects, list) else ():
                self.sources.setdefault(str(sha), []).append(name)

    def of_record(self, fingerprint: str) -> tuple[str, ...]:
        return tuple(f"run {run}" for run in sorted(self._runs.get(fingerprint, ()), reverse=True))

    def of_object(self, sha256: str) -> tuple[str, ...]:
        said = []
        for use in self.uses.get(sha256, ()):
            what = f"{use.record.stage}: {use.name} ({use.role})"
            record = f"record {use.record.fingerprint[:12]}"
            runs = self.of_record(use.record.fingerprint)
            said += [f"{run}, {what}, {record}" for run in runs] or [f"no run, {what}, {record}"]
        said += [f"run {run}: what it started from" for run in self.sources.get(sha256, ())]
        return tuple(said)


def verify(store: Store, progress: Callable[[str, float], None] = lambda what, fraction: None) -> Verified:
    """Hash everything in a store past every cache. Writes nothing; a clean-up waits for it, a run does not.

    Args:
        store: which.
        progress: is told what is done, and how much of it (0..1).
    """
    lock = store.root / "locks" / f"{CLEANING}.lock"
    with store.keeping() if os.access(lock, os.W_OK) else nullcontext():
        return _verified(store, progress)


def _verified(store: Store, progress: Callable[[str, float], None]) -> Verified:
    found = contents(store)
    notes: list[str] = []
    records: dict[Path, Record] = {}
    findings = list(_runs(store, found))
    for one in found.records:
        record, problem = _record(one.path)
        if record is not None:
            records[one.path] = record
        elif problem is None and one.path.exists():
            notes.append(f"{_inside(store, one.path)}: of another version of flowlab; here it counts as not there")
    names = _Names(found, records)
    findings += _damaged_records(store, found, names)
    findings += _missing_records(found)
    findings += _objects(store, found, names, progress)
    findings += _missing_objects(found, names)
    findings += _downloads(store, found)
    findings += _caches(store)
    findings += _strangers(store)
    size = sum(one.size for one in found.objects.values()) + sum(one.size for one in found.records)
    return Verified(
        store.root, tuple(findings), len(found.runs), len(found.records), len(found.objects), size, tuple(notes)
    )


def _inside(store: Store, path: Path) -> str:
    return path.relative_to(store.root).as_posix()


def _stages(run: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    stages = (run or {}).get("stages")
    for stage, fingerprint in stages.items() if isinstance(stages, Mapping) else ():
        if isinstance(fingerprint, str):
            yield str(stage), fingerprint


def _runs(store: Store, found: Contents) -> Iterator[Finding]:
    """A ``run.json`` that cannot be read, or is not what its ``check`` says (an older flowlab wrote none)."""
    for name, run in found.runs.items():
        path = store.root / "runs" / name / "run.json"
        if not path.exists() and not path.is_symlink():
            continue  # claimed, and never begun
        cure = f"remove runs/{name}; {RUN_FOLDERS}"
        if run is None:
            yield Finding(_inside(store, path), "it cannot be read", (f"run {name}",), cure)
            continue
        value = _json(path)
        if not _holds(value, known="objects" not in value):
            yield Finding(_inside(store, path), "its content does not match its check", (f"run {name}",), cure)
        elif value.get("run") != name:
            yield Finding(_inside(store, path), f"it is run {value.get('run')!r}", (f"run {name}",), cure)


def _record(path: Path) -> tuple[Record | None, str | None]:
    """The record, or what is the matter with it; neither for one of another version."""
    try:
        with open_plain(path) as file:
            data = file.read()
    except FileNotFoundError:
        return None, None if not path.is_symlink() else "it leads nowhere"  # moved aside by a run that met it
    except OSError as error:
        return None, f"it cannot be read ({error.strerror or error})"
    record = parsed(data)
    if record is not None:
        named = record.stage == path.parent.name and record.fingerprint == path.stem
        return (record, None) if named else (None, f"it is the record of {record.stage} {record.fingerprint[:12]}")
    try:
        value = read_json(data)
        check = value.pop("check")
        other = check == digest(value) and value["schema"] != FORMAT
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        other = False
    return None, None if other else f"its content ({len(data):,} bytes) does not match its check"


def _damaged_records(store: Store, found: Contents, names: _Names) -> Iterator[Finding]:
    for one in found.records:
        _, problem = _record(one.path)
        if problem is not None:
            yield Finding(_inside(store, one.path), problem, names.of_record(one.fingerprint), AGAIN)


def _missing_records(found: Contents) -> Iterator[Finding]:
    there = {(one.stage, one.fingerprint) for one in found.records}
    for name, run in found.runs.items():
        for stage, fingerprint in _stages(run):
            if (stage, fingerprint) not in there:
                path = f"records/{stage}/{fingerprint}.json"
                yield Finding(path, "it is not there", (f"run {name}",), AGAIN)


def _objects(store: Store, found: Contents, names: _Names, progress: Callable[[str, float], None]) -> Iterator[Finding]:
    for number, (sha, one) in enumerate(found.objects.items()):
        progress("hashing objects", number / len(found.objects))
        try:
            now = sha256_of(one.path)
        except FileNotFoundError:
            continue  # removed since; if anything needs it, that is said below
        except OSError as error:
            yield Finding(
                _inside(store, one.path), f"it cannot be read ({error.strerror or error})", names.of_object(sha), AGAIN
            )
            continue
        if now != sha:
            yield Finding(_inside(store, one.path), _differs(one.path, sha, now, names), names.of_object(sha), AGAIN)
        elif sizes := sorted({use.size for use in names.uses.get(sha, ())} - {one.size}):
            said = f"it has {one.size:,} bytes, and a record says {sizes[0]:,}"
            yield Finding(_inside(store, one.path), said, names.of_object(sha), AGAIN)


def _differs(path: Path, sha: str, now: str, names: _Names) -> str:
    size = path.stat().st_size
    written = {use.size for use in names.uses.get(sha, ())}
    if written and size not in written:
        word = "truncated at" if size < min(written) else "it has"
        return f"its content does not match its name ({word} {size:,} of {min(written):,} bytes)"
    return f"its content ({size:,} bytes) does not match its name, it has the hash {now[:12]}"


def _missing_objects(found: Contents, names: _Names) -> Iterator[Finding]:
    for sha in names.uses:
        if sha not in found.objects:
            yield Finding(f"objects/{sha[:2]}/{sha}", "it is not there", names.of_object(sha), AGAIN)


def _downloads(store: Store, found: Contents) -> Iterator[Finding]:
    folder = store.root / "downloads"
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        entry = place / "entry.json"
        cure = f"remove downloads/{place.name}; the next run downloads the archive again"
        try:
            value = _json(entry)
            whole = _holds(value, known=set(value) == {"version", "download"}) and value["version"] == DOWNLOADS
            sha = value["download"]["sha256"]
        except (KeyError, TypeError):
            whole, sha = False, ""
        if not whole:
            yield Finding(_inside(store, entry), "it cannot be read, or does not match its check", (), cure)
        elif sha not in found.objects:
            yield Finding(_inside(store, entry), f"its object {sha[:12]} is not there", (), cure)
        for link in place.iterdir():
            if link.is_symlink() and link.readlink().name != sha and whole:
                yield Finding(_inside(store, link), "it leads elsewhere than to its object", (), cure)


def _caches(store: Store) -> Iterator[Finding]:
    """What was remembered about files: an entry whose file has not changed must have its hash."""
    cure = "remove it; it is only a memory, and is made anew"
    imports = store.root / "imports.json"
    if imports.exists():
        value = _json(imports)
        older = bool(value) and all(isinstance(one, list) for one in value.values())
        if not older and value.get("check") != digest(value.get("imports")):
            yield Finding("imports.json", "its content does not match its check", (), cure)
    stats = store.root / "stat_cache.json"
    if not stats.exists():
        return
    value = _json(stats)
    files = value.get("files")
    if value.get("version") != STATS or not isinstance(files, dict):
        yield Finding("stat_cache.json", "it cannot be read", (), cure)
        return
    if set(value) != {"version", "files"} and value.get("check") != digest(files):
        yield Finding("stat_cache.json", "its content does not match its check", (), cure)
    for name, entry in files.items():
        if wrong := _misremembered(Path(name), entry):
            yield Finding("stat_cache.json", f"it says {wrong} of {name}", (), cure)


def _misremembered(path: Path, entry: Any) -> str:
    if not (isinstance(entry, list) and len(entry) == 5 and NAME.fullmatch(str(entry[4]))):
        return "no hash"
    try:
        found = path.stat()
        same = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino] == entry[:4]
        return "another hash than the file has" if same and sha256_of(path) != entry[4] else ""
    except (OSError, ValueError):
        return ""  # the file is gone: what is remembered of it is never asked for


def _strangers(store: Store) -> Iterator[Finding]:
    """What lies among objects and records and is none."""
    cure = "flowlab never reads it; remove it if nobody knows it"
    for path in sorted((store.root / "objects").rglob("*")):
        expected = NAME.fullmatch(path.name) and path.parent.name == path.name[:2]
        if not expected and not (path.is_dir() and path.parent.name == "objects"):
            yield Finding(_inside(store, path), "it is no object", (), cure)
    for path in sorted((store.root / "records").rglob("*")):
        if not (path.suffix == ".json" and NAME.fullmatch(path.stem)) and path.parent.name != "records":
            yield Finding(_inside(store, path), "it is no record", (), cure)


def _holds(value: Mapping[str, Any], *, known: bool) -> bool:
    """Whether a value is what its ``check`` says. ``known`` is whether an older flowlab wrote such without a check."""
    if "check" not in value:
        return known
    return bool(value["check"] == digest({key: one for key, one in value.items() if key != "check"}))


def _json(path: Path) -> dict[str, Any]:
    try:
        with open_plain(path) as file:
            value = read_json(file.read())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
