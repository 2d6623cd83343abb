"""What `flowlab sweep` calls: the cells of a sweep as runs, on one merged plan, on the engine that was asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from flowlab.config.sweep import Sweep
from flowlab.contracts import Progress
from flowlab.engine import server
from flowlab.engine.drive import Begin, Ended, Tell, drive
from flowlab.engine.execute import execute, gather, silent
from flowlab.engine.local import ATTEMPTS, Done, Execute
from flowlab.engine.session import Asked, Session, Silent, fetcher, session_of, starts_whole
from flowlab.engine.sweep_plan import SweepPlan, plan_sweep
from flowlab.engine.sweep_result import CellResult, SweepResult, cell_result, files_of, sweep_result
from flowlab.engine.work import Step
from flowlab.errors import FlowlabError, GateError, StageError
from flowlab.plan import Shared
from flowlab.store.objects import DamagedObject
from flowlab.store.records import Record
from flowlab.store.run_folder import RunFolder
from flowlab.store.runs import run_name
from flowlab.store.store import open_store

FOLDER = "sweeps"  # in artifacts/, beside the datasets' folders
NO_ENGINE = "none"  # what the result says when everything was cached and nothing had to be started
DONE, CACHED, FAILED, DROPPED = "done", "cached", "failed", "dropped"
STATES = (DONE, CACHED, FAILED, DROPPED)  # how a node ends; dropped: no cell needs it any more


class SweepWatch(Protocol):
    """Who looks at a sweep while it goes on. `progress` is called from the threads of the nodes."""

    def planned(self, counts: Mapping[str, int], cells: int) -> None:
        """How many nodes each stage has, and how many cells there are; before the first starts."""
        ...

    def started(self, stage: str, name: str, about: str) -> None:
        """A node is begun."""
        ...

    def progress(self, name: str, what: str, fraction: float) -> None:
        """A node says what it does and how much of it is done (0..1)."""
        ...

    def ended(self, stage: str, name: str, state: str, seconds: float) -> None:
        """A node has ended: ``done``, ``cached``, ``failed``, or ``dropped``, because no cell needs it any more."""
        ...

    def cell(self, result: CellResult) -> None:
        """A cell is through, or has failed."""
        ...

    def said(self, text: str) -> None:
        """Something takes its time before the first node."""
        ...


class SilentSweep:
    """Nobody looks."""

    def planned(self, counts: Mapping[str, int], cells: int) -> None:
        """See `SweepWatch.planned`."""

    def started(self, stage: str, name: str, about: str) -> None:
        """See `SweepWatch.started`."""

    def progress(self, name: str, what: str, fraction: float) -> None:
        """See `SweepWatch.progress`."""

    def ended(self, stage: str, name: str, state: str, seconds: float) -> None:
        """See `SweepWatch.ended`."""

    def cell(self, result: CellResult) -> None:
        """See `SweepWatch.cell`."""

    def said(self, text: str) -> None:
        """See `SweepWatch.said`."""


def survey_sweep(sweep: Sweep, catalogue: Any, asked: Asked) -> tuple[SweepPlan, dict[str, Record]]:
    """The merged plan, and the records of what is in the store already; nothing runs.

    Raises:
        ConfigError: where cells cannot be run.
    """
    store = open_store(asked.store, asked.artifacts)
    plan = plan_sweep(sweep, catalogue, store)
    cached = plan.cached()
    store.close()
    return plan, cached


def run_sweep(
    sweep: Sweep, catalogue: Any, asked: Asked, watch: SweepWatch | None = None, jobs: int = 1
) -> SweepResult:
    """Run a sweep and return what there is to say; cells that failed are in it.

    When everything is cached no engine starts, unless one was named on the command line or by ``PREFECT_API_URL``.

    Args:
        sweep: as it was read.
        catalogue: what is installed.
        asked: what stands on the command line besides.
        watch: who looks on.
        jobs: nodes that run at once, at most; of those that use torch one.

    Raises:
        FlowlabError: where nothing can run: cells cannot be planned, or Prefect's server does not answer.
    """
    named = server.api_url() if asked.engine != "local" else None
    engine = asked.engine or ("prefect" if named else None)
    running = begin_sweep(sweep, catalogue, asked, watch or SilentSweep(), jobs=jobs)
    try:
        if engine is None and running.take_cached():
            return running.finish()
        with running.somewhere():
            if engine == "local":
                running.engine = engine
                with running.in_threads() as begin:
                    running.drive(begin)
                return running.finish()
            from flowlab.engine.on_prefect import sweep_on_prefect

            return sweep_on_prefect(running, home=asked.artifacts / ".prefect")
    except BaseException:
        running.give_up()
        raise


def begin_sweep(
    sweep: Sweep, catalogue: Any, asked: Asked, watch: SweepWatch, *, jobs: int, name: str | None = None
) -> SweepRun:
    """Plan a sweep and give every cell a run."""
    store = open_store(asked.store, asked.artifacts)
    if asked.runner is not None:
        from flowlab.engine import on_dask

        on_dask.check(asked.runner, store)
    while True:
        plan = plan_sweep(sweep, catalogue, store, fetcher(store, _Downloads(watch)))
        with store.keeping():
            whole = all(map(starts_whole, plan.cells))
            running = SweepRun(plan, asked, watch, jobs, name or run_name())
            if whole:
                _with_runs(running, catalogue)
        if whole:
            for session in running.sessions:
                session.tell_start()
            return running


def _with_runs(running: SweepRun, catalogue: Any) -> None:
    plan = running.plan
    for number, prepared in enumerate(plan.cells):
        about: dict[str, Any] = {
            "sweep": plan.sweep.name,
            "sweep_run": running.name,
            "cell": dict(plan.cell(number).labels),
        }
        running.sessions.append(session_of(prepared, catalogue, running.asked, Silent(), **about))


class _Downloads(Silent):
    """What a download says and shows before the first node."""

    def __init__(self, watch: SweepWatch) -> None:
        self._watch = watch

    def said(self, text: str) -> None:
        """See `flowlab.engine.session.Watch.said`."""
        self._watch.said(text)


@dataclass
class SweepRun:
    """A sweep while it goes on, the same for every engine. All but `perform` is called from one thread.

    Args:
        plan: what is done.
        asked: what stands on the command line.
        watch: who looks on.
        jobs: nodes that run at once, at most.
        name: of this asking; its folder's too.
        sessions: a run for each cell.
        engine: what runs the nodes.
        stopped: set by Ctrl-C; nodes that tell how far they are end then.
        results: by the cell's place, of those that are through or have failed.
    """

    plan: SweepPlan
    asked: Asked
    watch: SweepWatch
    jobs: int
    name: str
    sessions: list[Session] = field(default_factory=list)
    engine: str = NO_ENGINE
    stopped: threading.Event = field(default_factory=threading.Event)
    results: dict[int, CellResult] = field(default_factory=dict)
    _records: dict[str, Record] = field(default_factory=dict)
    _states: dict[str, str] = field(default_factory=dict)  # of nodes, by recipe
    _started: dict[str, float] = field(default_factory=dict)
    _damaged: set[int] = field(default_factory=set)  # cells in which an object was
    _does: dict[int, Execute] = field(default_factory=dict)  # by cell: what does its nodes elsewhere

    @property
    def folder(self) -> Path:
        """Where the sweep's table, page and plots lie."""
        return RunFolder(self.asked.artifacts / FOLDER, self.plan.sweep.name, self.name).path

    def alive(self) -> set[int]:
        """The cells that go on."""
        return set(range(len(self.sessions))).difference(self.results)

    def take_cached(self) -> bool:
        """Whether every node is in the store; if so, the cells have them."""
        clock = time.monotonic()
        records = self.plan.cached()
        if len(records) < len(self.plan.nodes):
            return False
        seconds = round((time.monotonic() - clock) / len(records), 3)
        self._planned(self.plan.nodes)
        for node in self.plan.nodes:
            self._note(node, records[node.recipe], True, seconds)
        return not self._damaged

    def drive(self, begin: Begin) -> None:
        """Do all nodes, as ``begin`` starts them; a damaged object is made again by the node that makes it."""
        for _ in range(ATTEMPTS):
            for number in self._damaged:
                del self.results[number]
            self._damaged = set()
            nodes = [node for node in self.plan.nodes if self.alive().intersection(node.plans)]
            self._planned(nodes)
            drive(nodes, self.jobs, self._admitted(begin), self._ended, self.alive, here=not self._does)
            if not self._damaged:
                return

    @contextmanager
    def somewhere(self) -> Iterator[None]:
        """Let the nodes run where ``--runner`` says."""
        if self.asked.runner is None:
            yield
            return
        from flowlab.engine import on_dask

        with on_dask.running(self.asked.runner, self.plan.store, self.watch.said) as far:
            self._does = {number: far(cell) for number, cell in enumerate(self.plan.cells)}
            yield

    @contextmanager
    def in_threads(self) -> Iterator[Begin]:
        """How nodes are started in threads of this process."""
        pool = ThreadPoolExecutor(self.jobs, thread_name_prefix="flowlab-sweep")

        def begin(node: Shared, tell: Tell) -> None:
            records = {recipe: self._records[recipe] for recipe in node.reads}
            future = pool.submit(self._perform, node, records, silent)
            future.add_done_callback(lambda one: tell(lambda: one.exception() or one.result()))

        try:
            yield begin
        except BaseException:
            self.stopped.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def steps(self) -> dict[str, Step]:
        """The nodes as a flow sees them, by recipe."""
        names = self.plan.names
        return {
            node.recipe: Step(
                names[node.recipe],
                tuple(names[recipe] for recipe in node.reads),
                tuple(dict.fromkeys(names[recipe] for waits in node.after.values() for recipe in waits)),
                node.node.stage.torch,
                self.plan.about(node),
            )
            for node in self.plan.nodes
        }

    def perform(
        self, name: str, upstream: Mapping[str, Mapping[str, Any]], progress: Progress
    ) -> tuple[dict[str, Any], bool]:
        """Do one node by its name; records go in and out as plain JSON."""
        node = self._named[name]
        records = {one: Record.from_json(record) for one, record in upstream.items()}
        record, cached = self._perform(node, records, progress)
        return record.to_json(), cached

    @cached_property
    def _named(self) -> dict[str, Shared]:
        return {self.plan.names[node.recipe]: node for node in self.plan.nodes}

    def _perform(self, node: Shared, records: Mapping[str, Record], progress: Progress) -> tuple[Record, bool]:
        name = self.plan.names[node.recipe]

        def tell(what: str, fraction: float) -> None:
            if self.stopped.is_set():
                raise StageError(f"{name}: stopped")
            self.watch.progress(name, what, fraction)
            progress(what, fraction)

        sources = self.plan.cells[node.plans[0]].sources
        does = self._does.get(node.plans[0], execute)
        return does(node.node, gather(node.node, records, sources), self.plan.store, tell)

    def _planned(self, nodes: Sequence[Shared]) -> None:
        counts: dict[str, int] = {}
        for node in nodes:
            counts[node.node.name] = counts.get(node.node.name, 0) + 1
        self.watch.planned(counts, len(self.alive()))

    def _admitted(self, begin: Begin) -> Begin:
        """Ask every cell first whether it can use what was made; a node that no cell is left for does not start."""

        def admitted(node: Shared, tell: Tell) -> None:
            name = self.plan.names[node.recipe]
            records = {self._records[recipe].stage: self._records[recipe] for recipe in node.reads}
            refused: FlowlabError | None = None
            for number in sorted(self.alive().intersection(node.plans)):
                try:
                    self.plan.cells[number].check(node.node, records)
                except FlowlabError as error:
                    self._fail(number, name, error)
                    refused = error
            self._started[node.recipe] = time.monotonic()
            if refused is not None and not self.alive().intersection(node.plans):
                reason = refused
                tell(lambda: reason)
                return
            self.watch.started(node.node.name, name, self.plan.about(node))
            begin(node, tell)

        return admitted

    def _ended(self, node: Shared, outcome: Ended | None) -> None:
        if outcome is None:
            self._say(node, DROPPED, 0.0)
            return
        seconds = round(time.monotonic() - self._started.pop(node.recipe), 3)
        if not isinstance(outcome, BaseException):
            self._note(node, *outcome, seconds)
            return
        if not isinstance(outcome, Exception):  # Ctrl-C
            raise outcome
        self._say(node, FAILED, seconds)
        for number in self.alive().intersection(node.plans):
            self.sessions[number].tell_failure(node.node.name, seconds, outcome)
            self._fail(number, self.plan.names[node.recipe], outcome)

    def _say(self, node: Shared, state: str, seconds: float) -> None:
        self._states[node.recipe] = state
        self.watch.ended(node.node.name, self.plan.names[node.recipe], state, seconds)

    def _note(self, node: Shared, record: Record, cached: bool, seconds: float) -> None:
        """A node has its result: for the first of its cells it was made, the others found it in the store."""
        self._records[node.recipe] = record
        self._say(node, CACHED if cached else DONE, seconds)
        for place, number in enumerate(sorted(self.alive().intersection(node.plans))):
            session = self.sessions[number]
            done = Done(record, cached or place > 0, 0.0 if place else seconds)
            session.done[node.node.name] = done
            with session.telling(node.node.name):  # of a cell: what is done once was not begun for each
                session.tell_stage(node.node.name, done)
            if not cached:  # so that the store's clean-up, and who looks at a killed run, know it
                session.write("Running")
            if len(session.done) == len(session.prepared.plan):
                self._finish_cell(number)

    def _finish_cell(self, number: int) -> None:
        """A cell has all its nodes: its copies, its gates, its numbers."""
        session = self.sessions[number]
        try:
            result = session.finish(self.engine)
        except GateError as error:
            self._fail(number, "gates", error)
            return
        except FlowlabError as error:
            self._fail(number, "result", error)
            return
        self.results[number] = cell_result(self.plan.cell(number), result, session)
        self.watch.cell(self.results[number])

    def _fail(self, number: int, where: str, error: Exception) -> None:
        """The first that goes wrong in a cell ends it; its run is Failed."""
        session = self.sessions[number]
        if isinstance(error, DamagedObject):  # it is moved aside: the next attempt makes it again
            self._damaged.add(number)
            session.done.clear()
        session.about["engine"] = self.engine
        result = error.result if isinstance(error, GateError) else None
        self.results[number] = cell_result(self.plan.cell(number), result, session, where, error)
        if result is None:  # else it has written its end
            with suppress(OSError):
                session.write("Failed", str(error))
        self.watch.cell(self.results[number])

    def finish(self) -> SweepResult:
        """The sweep's table, page and plots, written and returned."""
        counts = {stage: dict.fromkeys(STATES, 0) for stage in self.plan.by_stage()}
        for node in self.plan.nodes:
            counts[node.node.name][self._states[node.recipe]] += 1
        cells = [self.results[number] for number in range(len(self.sessions))]
        sweep = self.plan.sweep
        result = sweep_result(sweep, self.name, self.engine, cells, nodes=counts, folder=self.folder)
        write_folder(RunFolder(self.asked.artifacts / FOLDER, sweep.name, self.name), files_of(result, sweep))
        self.plan.store.close()
        return result

    def give_up(self) -> None:
        """The sweep itself ends with an error: its runs do not go on."""
        self.stopped.set()
        for number in self.alive():
            with suppress(OSError):
                self.sessions[number].write("Failed")
        with suppress(OSError):
            self.plan.store.close()


def write_folder(folder: RunFolder, files: Mapping[str, str]) -> None:
    """Write a sweep's files, all or none, and let ``latest`` lead to them."""
    folder.path.parent.mkdir(parents=True, exist_ok=True)
    staged = folder.path.parent / f".{folder.path.name}.part"
    staged.mkdir(exist_ok=True)
    for name, text in files.items():
        (staged / name).write_text(text, encoding="utf-8")
    staged.replace(folder.path)
    folder.becomes_latest()
