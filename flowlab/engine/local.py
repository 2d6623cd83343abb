"""The engine without a server: stages one after the other in this process, and what every engine needs for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from flowlab.contracts import Progress, Stage
from flowlab.engine.execute import execute, gather, lookup
from flowlab.engine.facts import DiskFacts
from flowlab.engine.source import Fetch, RoleFiles, files_digest, keep_notes, located, sources
from flowlab.plan import Node, Plan, plan
from flowlab.store.objects import DamagedObject
from flowlab.store.records import Record
from flowlab.store.store import Store

ATTEMPTS = 3  # a damaged input is made again at most this often


Execute = Callable[[Node, Mapping[str, RoleFiles], Store, Progress], tuple[Record, bool]]
"""`execute`, or what does the same elsewhere (`flowlab.engine.on_dask`)."""


@dataclass(frozen=True)
class Prepared:
    """A plan with the files that it starts from, ready for any engine."""

    plan: Plan
    sources: Mapping[str, RoleFiles]
    store: Store
    config: Any = None  # as it was planned: with the path of what was downloaded
    waiting: str = ""  # why ``source`` is not known yet
    does: Execute = execute  # what does a stage, here or elsewhere

    def perform(self, stage: str, records: Mapping[str, Record], progress: Progress) -> tuple[Record, bool]:
        """Do one stage, or find it in the store. ``records`` are those of (at least) the stages that it reads.

        Raises:
            FlowlabError: of the stage, or where those before it make known that it cannot use the config.
        """
        node = self.plan.node(stage)
        self.check(node, records)
        return self.does(node, gather(node, records, self.sources), self.store, progress)

    def check(self, node: Node, records: Mapping[str, Record]) -> None:
        """Ask a node that has not run whether it can use what the stages that it reads have made."""
        makers = {maker.name for role in node.needs if (maker := self.plan.maker(role, node))}
        node.stage.check(self.config, {name: records[name].metrics for name in makers if name in records})

    def cached(self) -> dict[str, Record]:
        """The records of the stages that need not run, by stage, in order.

        A stage whose inputs are not known yet is not among them. All are cached when the lengths are equal.
        """
        records: dict[str, Record] = {}
        for node in self.plan:
            if any((maker := self.plan.maker(role, node)) and maker.name not in records for role in node.needs):
                continue
            record = lookup(node, gather(node, records, self.sources), self.store)
            if record is not None:
                records[node.name] = record
        return records

    def fetch(self, records: Iterable[Record]) -> None:
        """Bring every object of these records to this machine; where the store is a folder, all are here.

        Raises:
            DamagedObject: one is lost or wrong, and is made again by the next run.
        """
        for record in records:
            for files in record.outputs.values():
                for stored in files.values():
                    self.store.objects.fetched(stored.sha256)


@dataclass(frozen=True)
class Done:
    """One finished stage: its record, whether the store had it, and the seconds that it took now."""

    record: Record
    cached: bool
    seconds: float


@dataclass
class Known:
    """What several plans of one command find out once: hashes of code, versions, files of a source, equal nodes."""

    facts: DiskFacts
    files: dict[str, RoleFiles] = field(default_factory=dict)
    nodes: dict[Any, Node] = field(default_factory=dict)


def prepare(stages: Sequence[Stage], config: Any, catalogue: Any, store: Store, fetch: Fetch | None = None) -> Prepared:
    """Hash what the run starts from and make its plan. Reads files, writes only the notes and the stat cache.

    Args:
        stages: in their order.
        config: as it was loaded.
        catalogue: what is installed.
        store: where results are.
        fetch: downloads data that the store does not have; None downloads nothing, and the plan waits for them.
    """
    known = Known(DiskFacts(store))
    prepared = prepare_one(stages, config, catalogue, store, known=known, fetch=fetch)
    keep_notes(prepared.config, store)
    known.facts.save()
    store.stats.save()
    return prepared


def prepare_one(
    stages: Sequence[Stage], config: Any, catalogue: Any, store: Store, *, known: Known, fetch: Fetch | None = None
) -> Prepared:
    """The same for one of several configs; what they have in common is found out once, and nothing is written."""
    at_hand = located(config, store, fetch)
    found = sources(at_hand.config, store, at_hand.download, known.files)
    digests = {role: files_digest(files) for role, files in found.items()}
    made = plan(stages, at_hand.config, catalogue, sources=digests, facts=known.facts, known=known.nodes)
    return Prepared(made, found, store, at_hand.config, at_hand.waiting)


def run_local(
    prepared: Prepared,
    progress: Callable[[Node], Progress],
    finished: Callable[[Node, Done], None] = lambda node, done: None,
    around: Callable[[Node], AbstractContextManager[None]] = lambda node: nullcontext(),
) -> dict[str, Done]:
    """Run the plan; returns what was done by stage, in order.

    Args:
        prepared: what to do.
        progress: called when a stage starts or is found, for the function that shows how far it is.
        finished: called after each stage.
        around: what a stage runs in.

    Raises:
        FlowlabError: of the stage that failed; what finished before it stays in the store.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _run_once(prepared, progress, finished, around)
        except DamagedObject:  # moved aside: the stage that makes it is not cached any more
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _run_once(
    prepared: Prepared,
    progress: Callable[[Node], Progress],
    finished: Callable[[Node, Done], None],
    around: Callable[[Node], AbstractContextManager[None]],
) -> dict[str, Done]:
    done: dict[str, Done] = {}
    for node in prepared.plan:
        clock = time.monotonic()
        records = {name: item.record for name, item in done.items()}
        with around(node):
            record, cached = prepared.perform(node.name, records, progress(node))
        done[node.name] = Done(record, cached, round(time.monotonic() - clock, 3))
        finished(node, done[node.name])
    prepared.fetch(one.record for one in done.values())
    prepared.store.close()
    return done
