"""What a run would do and why: every stage cached, changed, or waiting for one that runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flowlab import __version__
from flowlab.engine.execute import gather, lookup
from flowlab.engine.local import Prepared
from flowlab.engine.source import files_digest
from flowlab.plan import Node
from flowlab.store.records import Record

HASHED = {"code", "inputs"}  # fields whose values are hashes, which tell people nothing
ORDER = ("options", "plugins", "threads", "inputs", "tools", "libraries")  # of changes; then code
LONGEST = 60  # characters of a value that a person reads
HASH_DIGITS = 64
IMPORTED_TEXT = "its result was imported, and a run makes its own"
SHOWN = 3  # fields that a person reads; --json has all


@dataclass(frozen=True)
class Change:
    """One field of a fingerprint's document: what the last record has, and what is asked for now."""

    field: str
    before: Any
    now: Any

    def text(self) -> str:
        """For people: short values as they are, hashes and code by name alone."""
        if self.before is None:
            return f"{self.field}: new"
        if self.now is None:
            return f"{self.field}: gone"
        parts = self.field.split(".")
        if parts[0] in HASHED or (parts[0] == "plugins" and HASHED & set(parts[2:3])):
            return f"{self.field}: changed"
        return f"{self.field}: {_short(self.before)} -> {_short(self.now)}"

    def full(self) -> str:
        """For people who ask why: both values, of hashes the beginning."""
        return f"{self.field}: {_seen(self.before)} -> {_seen(self.now)}"

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {"field": self.field, "before": self.before, "now": self.now}


@dataclass(frozen=True)
class Status:
    """What a run would do with one stage.

    ``state`` is ``cached``, ``will run`` (with ``reason``, and ``changes`` against the last record) or ``depends``
    (on ``waits_for``, stages that will run; it may still be cached when they give the same bytes again).
    """

    stage: str
    state: Literal["cached", "will run", "depends"]
    reason: str = ""
    changes: tuple[Change, ...] = ()
    waits_for: tuple[str, ...] = ()
    made: str = ""  # of a cached one: when, and in which time

    def text(self) -> str:
        """One line for people."""
        if self.state == "cached":
            return "cached"
        if self.state == "depends":
            return f"depends on {', '.join(self.waits_for)}"
        return f"will run: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.stage,
            "state": self.state,
            "reason": self.reason,
            "changes": [one.to_json() for one in self.changes],
            "waits_for": list(self.waits_for),
        }


def statuses(prepared: Prepared, dataset: str, run: Mapping[str, Any] | None = None) -> tuple[Status, ...]:
    """Look every stage up, in order; nothing runs.

    Args:
        prepared: the plan and what it starts from.
        dataset: whose last run to compare with.
        run: the content of another run's ``run.json``: cached stages are compared with it too.

    Raises:
        FlowlabError: where cached stages make known that the next one cannot use the config.
    """
    records: dict[str, Record] = {}
    found = []
    for node in prepared.plan:
        makers = [maker.name for role in node.needs if (maker := prepared.plan.maker(role, node))]
        missing = tuple(sorted({name for name in makers if name not in records}, key=makers.index))
        last = prepared.store.last_record(node.name, dataset) if run is None else _of(run, node.name, prepared)
        if missing:
            found.append(_depends(node, missing, last))
            continue
        if prepared.waiting and "source" in node.needs:
            found.append(Status(node.name, "will run", prepared.waiting))
            continue
        inputs = gather(node, records, prepared.sources)
        record = lookup(node, inputs, prepared.store)
        if record is not None:
            records[node.name] = record
            differs = changes(last.document, record.document) if run is not None and last is not None else ()
            found.append(Status(node.name, "cached", changes=differs, made=_made(record)))
        else:
            prepared.check(node, records)
            digests = {role: files_digest(files) for role, files in inputs.items()}
            found.append(_will_run(node, node.document(digests), last))
    return tuple(found)


def _depends(node: Node, missing: tuple[str, ...], last: Record | None) -> Status:
    """A stage whose inputs are not known yet; what differs of its own is known."""
    if last is None:
        return Status(node.name, "depends", waits_for=missing)
    own = changes({key: value for key, value in last.document.items() if key != "inputs"}, node.asked)
    return Status(node.name, "will run" if own else "depends", _shown(own) + _upgraded(own, last), own, missing)


def _will_run(node: Node, document: Mapping[str, Any], last: Record | None) -> Status:
    if last is None:
        return Status(node.name, "will run", "it has not run in this store yet")
    found = changes(last.document, document)
    reason = _shown(found) or (IMPORTED_TEXT if last.imported else "a file of its result is lost or damaged")
    return Status(node.name, "will run", reason + _upgraded(found, last), found)


def _upgraded(found: Sequence[Change], last: Record) -> str:
    """Where code changed because flowlab is another one than that which made the last record: both versions."""
    before = last.aside.get("flowlab")
    return f" (flowlab {before} -> {__version__})" if before not in (None, __version__) and _any_code(found) else ""


def _any_code(found: Sequence[Change]) -> bool:
    return any(map(_is_code, found))


def _of(run: Mapping[str, Any], stage: str, prepared: Prepared) -> Record | None:
    stages = run.get("stages")
    fingerprint = stages.get(stage) if isinstance(stages, Mapping) else None
    return prepared.store.records.read(stage, fingerprint) if isinstance(fingerprint, str) else None


def _made(record: Record) -> str:
    started, seconds, version = (record.aside.get(name) for name in ("started", "seconds", "flowlab"))
    by = f", by flowlab {version}" if version not in (None, __version__) else ""
    return f"{started}, in {seconds} s{by}" if started and seconds is not None else ""


def _shown(found: Sequence[Change]) -> str:
    """What a line has room for; code by the number of modules, since one edit changes many."""
    code = [change for change in found if _is_code(change)]
    others = [change.text() for change in found if not _is_code(change)]
    if code:
        more = f" and {len(code) - 1} more modules" if len(code) > 1 else ""
        others.append(f"{code[0].text()}{more}")
    more = f"; and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
    return "; ".join(others[:SHOWN]) + more


def _is_code(change: Change) -> bool:
    parts = change.field.split(".")
    return parts[0] == "code" or (parts[0] == "plugins" and parts[2:3] == ["code"])


def changes(before: Any, now: Any) -> tuple[Change, ...]:
    """The fields in which two documents differ: what a person set first, then data, versions, and code last."""
    return tuple(sorted(differences(before, now), key=_importance))


def _importance(change: Change) -> int:
    if _is_code(change):
        return len(ORDER)
    first = change.field.partition(".")[0]
    return ORDER.index(first) if first in ORDER else 0


def differences(before: Any, now: Any, place: str = "") -> list[Change]:
    """The fields in which two plain JSON values differ, by their place, in order."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        found = []
        for key in sorted({*before, *now}):
            found += differences(before.get(key), now.get(key), f"{place}.{key}" if place else str(key))
        return found
    same = before == now and isinstance(before, bool) == isinstance(now, bool)
    return [] if same else [Change(place, before, now)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _seen(value: Any) -> str:
    if value is None:
        return "nothing"
    is_hash = isinstance(value, str) and len(value) == HASH_DIGITS and not set(value) - set("0123456789abcdef")
    return f"{value[:12]}..." if is_hash else repr(value)
