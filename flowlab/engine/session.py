"""One run while it goes on, the same for every engine: what was asked, who looks on, what is done so far."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from flowlab.canonical import digest
from flowlab.config.address import shown
from flowlab.config.redaction import redacted
from flowlab.contracts import RunEnded, RunStarted, StageEnded, StageFailed, StageStarted
from flowlab.engine.gates import Gate, gates_of
from flowlab.engine.local import Done, Prepared, prepare
from flowlab.engine.result import RunResult, agreement_of, result_of
from flowlab.engine.source import Fetch, keep_notes
from flowlab.engine.watchers import Watchers
from flowlab.errors import AgreementError, GateError
from flowlab.store.downloads import Download
from flowlab.store.records import Record
from flowlab.store.run_folder import RunFolder
from flowlab.store.runs import State, this_process
from flowlab.store.store import Store, open_store

if TYPE_CHECKING:
    from flowlab.engine.promote import Promotion

GATE = "inspect"  # the stage whose warnings cannot wait


@dataclass(frozen=True)
class Asked:
    """What stands on the command line besides the config.

    Args:
        engine: ``prefect``, ``local``, or None when it was not said.
        store: the store's folder or address, or None for the default.
        require: executions of the program that must have run here.
        artifacts: where runs and the default store go.
        promote: the run takes the place of the dataset's promoted one, if it is not worse.
        runner: ``dask://host:port`` where the stages run elsewhere, else None.
    """

    engine: str | None = None
    store: str | None = None
    require: tuple[str, ...] = ()
    artifacts: Path = Path("artifacts")
    promote: bool = False
    runner: str | None = None


class Watch(Protocol):
    """Who looks at a run while it goes on. Called from the thread that runs the stage."""

    def progress(self, stage: str, what: str, fraction: float) -> None:
        """A stage says what it does and how much of it is done (0..1)."""
        ...

    def finished(self, stage: str, cached: bool, seconds: float) -> None:
        """A stage has its result."""
        ...

    def said(self, text: str) -> None:
        """Something takes its time before the first stage, or what the gate found before training."""
        ...


class Silent:
    """Nobody looks."""

    def progress(self, stage: str, what: str, fraction: float) -> None:
        """See `Watch.progress`."""

    def finished(self, stage: str, cached: bool, seconds: float) -> None:
        """See `Watch.finished`."""

    def said(self, text: str) -> None:
        """See `Watch.said`."""


@dataclass
class Session:
    """One run while it goes on, the same for every engine."""

    config: Any
    catalogue: Any
    asked: Asked
    watch: Watch
    name: str
    prepared: Prepared
    done: dict[str, Done] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    watchers: Watchers = field(init=False, repr=False)
    _began: float = field(default_factory=time.monotonic, init=False, repr=False)
    _writing: Lock = field(default_factory=Lock, init=False, repr=False)
    _ended: bool = field(default=False, init=False, repr=False)
    _asks: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._asks = {node.name: digest(node.asked) for node in self.prepared.plan}
        self.watchers = Watchers(getattr(self.catalogue, "watchers", ()), self._say)

    def _say(self, text: str) -> None:
        self.watch.said(text)  # whoever looks by then

    @property
    def store(self) -> Store:
        """Where the results are."""
        return self.prepared.store

    @property
    def dataset(self) -> str:
        """The dataset's name."""
        return str(self.config.dataset_name)

    def perform(self, stage: str, upstream: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], bool]:
        """Do one stage; records go in and out as plain JSON."""
        clock = time.monotonic()
        records = {name: Record.from_json(record) for name, record in upstream.items()}
        with self.telling(stage):
            record, cached = self.prepared.perform(
                stage, records, lambda what, fraction: self.watch.progress(stage, what, fraction)
            )
        self.note(stage, Done(record, cached, round(time.monotonic() - clock, 3)))
        return record.to_json(), cached

    @contextmanager
    def telling(self, stage: str) -> Iterator[None]:
        """Tell who watches that a stage begins, and what it raises; `note` tells its end."""
        clock = time.monotonic()
        self.watchers.tell("flowlab_before_stage", StageStarted(self.name, stage))
        try:
            yield
        except BaseException as error:
            self.tell_failure(stage, round(time.monotonic() - clock, 3), error)
            raise

    def note(self, stage: str, done: Done) -> None:
        """A stage has its result; one that was made now is noted at once, so that a killed run is known by it."""
        self.done[stage] = done
        if not done.cached:
            self.write("Running")
        self.watch.finished(stage, done.cached, done.seconds)
        if stage == GATE and not done.cached:  # before an hour of training, and once more at the end
            for sentence in done.record.warnings:
                self.watch.said(f"  {sentence}")
        self.tell_stage(stage, done)

    def write(self, state: State, missed: str = "") -> None:
        """Write ``run.json``: written first, it is what the store's clean-up starts from, and what lists of runs read.

        It has the config as it was given, but for secrets, and in the end metrics, sizes and gates. A run that has
        ended stays so: of one that is cancelled, a stage may still finish in its thread. Who watches is told the end:
        what is being raised, or the gates that were ``missed``.
        """
        error = sys.exception()
        with ExitStack() as at_last, self._writing:
            if state == "Running" and self._ended:
                return
            if state != "Running" and not self._ended:
                at_last.callback(self._tell_end, state, missed, error)  # also where the disk is full
            self._ended = state != "Running"
            self._write(state)

    def tell_stage(self, stage: str, done: Done) -> None:
        """Tell who watches that a stage has its result."""
        record = done.record
        seen = StageEnded(
            self.name, stage, done.cached, done.seconds, record.fingerprint, record.metrics, record.warnings
        )
        self.watchers.tell("flowlab_after_stage", seen)

    def tell_failure(self, stage: str, seconds: float, error: BaseException) -> None:
        """Tell who watches that a stage raised."""
        self.watchers.tell("flowlab_stage_failed", StageFailed(self.name, stage, seconds, _said(error)))

    def tell_start(self) -> None:
        """Tell who watches that the run begins."""
        stages = tuple(node.name for node in self.prepared.plan)
        model, device = self.about["model"], self.about["device"]
        self.watchers.tell("flowlab_before_run", RunStarted(self.name, self.dataset, model, device, stages))

    def _tell_end(self, state: State, missed: str, error: BaseException | None) -> None:
        seconds = round(time.monotonic() - self._began, 3)
        said = missed or (_said(error) if error is not None else "")
        ended = RunEnded(self.name, self.dataset, state, seconds, self.about.get("metrics", {}), said)
        self.watchers.tell("flowlab_after_run", ended)

    def _write(self, state: State) -> None:
        stages = {name: one.record.fingerprint for name, one in dict(self.done).items()}
        recipes = {node.name: node.recipe for node in self.prepared.plan}
        finished = {"asks": self._asks} if state == "Running" else {"finished": _now()}
        self.store.runs.write(self.name, self.dataset, state, stages=stages, recipes=recipes, **self.about, **finished)

    def check(self) -> tuple[Gate, ...]:
        """The gates, passed or missed: they look at records, cached ones too, and are in no fingerprint.

        Raises:
            AgreementError: if executions differ.
        """
        records = {name: one.record for name, one in self.done.items()}
        agreement = agreement_of(records)
        if agreement["mismatches"]:
            raise AgreementError(
                f"{agreement['mismatches']} of {agreement['vectors']} vectors differ between executions"
            )
        return gates_of(self.config, records, agreement, self.asked.require)

    def finish(self, engine: str) -> RunResult:
        """Copies, ``latest``, and what there is to say.

        Raises:
            AgreementError: as `check` raises it.
            GateError: where a gate is missed, with the result; the run is Failed, its copies are there to look at.
        """
        self.store.sweep()
        gates = self.check()
        order = {node.name: self.done[node.name] for node in self.prepared.plan}
        folder = RunFolder(self.asked.artifacts, self.dataset, self.name)
        artifacts = folder.fill([one.record for one in order.values()], self.store.objects)
        about = {
            "dataset": self.dataset,
            "model": self.config.training.model_name,
            "device": self.config.common.target_device,
        }
        self.about["engine"] = engine
        result = result_of(
            self.name,
            engine,
            order,
            self.store,
            folder=folder.path,
            artifacts=artifacts,
            warnings=tuple(self.config.warnings),
            about=about,
            gates=gates,
        )
        self.about |= {
            "metrics": dict(result.metrics),
            "sizes": dict(result.sizes),
            "gates": [gate.to_json() for gate in gates],
        }
        if missed := [gate.missed for gate in gates if not gate.passed]:
            self.write("Failed", "\n".join(missed))
            self.store.close()
            error = GateError("\n".join(missed))
            error.result = self._with_complaints(result)
            raise error
        promotion = self._promoted(folder) if self.asked.promote else None
        if promotion is not None:
            self.about["promotion"] = promotion.to_json()
            result = replace(result, promotion=promotion)
        self.write("Completed")
        folder.becomes_latest()
        self.store.close()
        return self._with_complaints(result)

    def _with_complaints(self, result: RunResult) -> RunResult:
        """With what went wrong in packages that watch, the end of the run included."""
        return replace(result, warnings=(*result.warnings, *self.watchers.complaints))

    def _promoted(self, folder: RunFolder) -> Promotion:
        """Compare with the promoted run, and take its place where this one is not worse."""
        from flowlab.engine.promote import promote
        from flowlab.engine.which_run import StoredRun

        records = {name: one.record for name, one in self.done.items()}
        return promote(folder, StoredRun(self.name, self.dataset, records, self.store), self.catalogue)


def begin(config: Any, catalogue: Any, asked: Asked, watch: Watch, name: str | None = None) -> Session:
    """Plan a run; without a name it gets one."""
    from flowlab.stages import STAGES

    store = open_store(asked.store, asked.artifacts)
    if asked.runner is not None:
        from flowlab.engine import on_dask

        on_dask.check(asked.runner, store)  # before a trace of the run is written
    while True:
        prepared = prepare(STAGES, config, catalogue, store, fetcher(store, watch))
        with store.keeping():
            session = session_of(prepared, catalogue, asked, watch, name) if starts_whole(prepared) else None
        if session is not None:
            session.tell_start()
            return session


def starts_whole(prepared: Prepared, keep: Callable[[Any, Store], None] = keep_notes) -> bool:
    """Keep the notes, and say whether all that the run starts from is there; a clean-up may have taken it.

    Call it under `Store.keeping`, before `session_of`.
    """
    keep(prepared.config, prepared.store)
    return all(map(prepared.store.objects.holds, _inside(prepared)))


def _inside(prepared: Prepared) -> list[str]:
    """The objects of the store that the run starts from."""
    return [file.sha256 for files in prepared.sources.values() for file in files.values() if file.path is None]


def session_of(
    prepared: Prepared, catalogue: Any, asked: Asked, watch: Watch, name: str | None = None, **more: Any
) -> Session:
    """The session of a plan; its ``run.json`` is written, with ``more`` in it."""
    config = prepared.config
    about = {
        "started": _now(),
        "process": this_process(),
        "engine": asked.engine,
        "model": config.training.model_name,
        "device": config.common.target_device,
        "config": redacted(config.given),
        "warnings": list(config.warnings),
        "objects": _inside(prepared),
        "artifacts": str(asked.artifacts.absolute()),
        **more,
    }
    session = Session(config, catalogue, asked, watch, name or prepared.store.runs.claim(), prepared, about=about)
    session.write("Running")
    return session


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def fetcher(store: Store, watch: Watch) -> Fetch:
    """How this run downloads: it says so, and shows how far it is."""

    def fetch(address: str, key: str, pinned: str | None) -> Download:
        from flowlab.engine.download import into_store

        watch.said(f"Downloading {shown(address)}.")
        return into_store(address, key, store, lambda what, fraction: watch.progress("ingest", what, fraction), pinned)

    return fetch
