"""What a run would do and why: every stage cached, changed, or waiting for one that runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flowlab.engine.execute import gather, lookup
from flowlab.engine.local import Prepared
from flowlab.engine.source import files_digest
from flowlab.plan import Node
from flowlab.store.records import Record

HASHED = {"code", "inputs"}  # fields whose values are hashes, which tell people nothing
LONGEST = 60  # characters of a value that a person reads
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
            "changes": [{"field": one.field, "before": one.before, "now": one.now} for one in self.changes],
            "waits_for": list(self.waits_for),
        }


def statuses(prepared: Prepared, dataset: str) -> tuple[Status, ...]:
    """Look every stage up, in order; nothing runs.

    Args:
        prepared: the plan and what it starts from.
        dataset: whose last run to compare with.
    """
    records: dict[str, Record] = {}
    found = []
    for node in prepared.plan:
        makers = [maker.name for role in node.needs if (maker := prepared.plan.maker(role))]
        missing = tuple(sorted({name for name in makers if name not in records}, key=makers.index))
        last = prepared.store.last_record(node.name, dataset)
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
            found.append(Status(node.name, "cached"))
        else:
            digests = {role: files_digest(files) for role, files in inputs.items()}
            found.append(_will_run(node, node.document(digests), last))
    return tuple(found)


def _depends(node: Node, missing: tuple[str, ...], last: Record | None) -> Status:
    """A stage whose inputs are not known yet; what differs of its own is known."""
    if last is None:
        return Status(node.name, "depends", waits_for=missing)
    old = {key: value for key, value in last.document.items() if key != "inputs"}
    changes = tuple(differences(old, node.asked))
    return Status(node.name, "will run" if changes else "depends", _shown(changes), changes, missing)


def _will_run(node: Node, document: Mapping[str, Any], last: Record | None) -> Status:
    if last is None:
        return Status(node.name, "will run", "it has not run in this store yet")
    changes = tuple(differences(last.document, document))
    return Status(node.name, "will run", _shown(changes) or "a file of its result is lost or damaged", changes)


def _shown(changes: Sequence[Change]) -> str:
    more = f"; and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return "; ".join(change.text() for change in changes[:SHOWN]) + more


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
