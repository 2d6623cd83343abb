"""Why a stage runs again: which field of its fingerprint's document differs from the last time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flowlab.engine.execute import gather, lookup
from flowlab.engine.local import Prepared
from flowlab.engine.source import files_digest
from flowlab.plan import Node
from flowlab.store.records import Record
from flowlab.store.store import Store

SHOWN = 3  # differences; more are counted
_HASHED = ("code", "inputs")  # their values are hashes, which tell people nothing


@dataclass(frozen=True)
class Status:
    """What a run would do with one stage, and why."""

    stage: str
    state: Literal["cached", "will run", "depends"]
    why: str = ""


def statuses(prepared: Prepared, dataset: str) -> list[Status]:
    """What a run would do with every stage, in order; it runs nothing.

    Args:
        prepared: the plan and what it starts from.
        dataset: whose last run to compare with.
    """
    records: dict[str, Record] = {}
    found = []
    for node in prepared.plan:
        makers = [maker.name for role in node.needs if (maker := prepared.plan.maker(role))]
        waits = sorted({name for name in makers if name not in records}, key=makers.index)
        last = last_record(node.name, dataset, prepared.store)
        if waits:
            own = [text for text in _own_changes(node, last) if text]
            found.append(Status(node.name, "will run", _shown(own)) if own else _depends(node, waits))
            continue
        inputs = gather(node, records, prepared.sources)
        record = lookup(node, inputs, prepared.store)
        if record is not None:
            records[node.name] = record
            found.append(Status(node.name, "cached"))
        else:
            document = node.document({role: files_digest(files) for role, files in inputs.items()})
            found.append(Status(node.name, "will run", explain_miss(document, last)))
    return found


def explain_miss(document: Mapping[str, Any], last: Record | None) -> str:
    """One line: ``options.training_epochs: 30 -> 20``.

    Args:
        document: of the fingerprint that has no record.
        last: the record to compare with, if there is one.
    """
    if last is None:
        return "it has not run in this store yet"
    return _shown(list(differences(last.document, document))) or "a file of its result is lost or damaged"


def last_record(stage: str, dataset: str, store: Store) -> Record | None:
    """The record of a stage in the dataset's latest run that has one, else the last that was written."""
    for run in store.runs.newest_first(dataset):
        fingerprint = run.get("stages", {}).get(stage)
        if fingerprint:
            record = store.records.read(stage, fingerprint)
            if record is not None:
                return record
    return store.records.latest(stage)


def differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """Every field in which two documents differ, one sentence each."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            where = f"{place}.{key}" if place else str(key)
            if key not in old:
                yield f"{where}: new" if _is_hash(where) else f"{where}: {_text(new[key])} is new"
            elif key not in new:
                yield f"{where}: gone"
            else:
                yield from differences(old[key], new[key], where)
    elif old != new or type(old) is not type(new):
        yield f"{place}: changed" if _is_hash(place) else f"{place}: {_text(old)} -> {_text(new)}"


def _own_changes(node: Node, last: Record | None) -> list[str]:
    """What differs in a node whose inputs are not known yet."""
    if last is None:
        return []
    old = {key: value for key, value in last.document.items() if key != "inputs"}
    return list(differences(old, node.asked))


def _depends(node: Node, waits: list[str]) -> Status:
    return Status(node.name, "depends", f"on {', '.join(waits)}")


def _shown(texts: list[str]) -> str:
    more = f"; and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more


def _is_hash(place: str) -> bool:
    return any(part in place.split(".")[:3] for part in _HASHED) and not place.startswith("options")


def _text(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
