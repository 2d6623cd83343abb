"""One run while it goes on, the same for every engine: what was asked, who looks on, what is done so far."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from flowlab.canonical import digest
from flowlab.config.address import shown
from flowlab.config.redaction import redacted
from flowlab.engine.gates import Gate, gates_of
from flowlab.engine.local import Done, Prepared, prepare
from flowlab.engine.result import RunResult, agreement_of, result_of
from flowlab.engine.source import Fetch, keep_notes
from flowlab.errors import AgreementError, GateError
from flowlab.store.downloads import Download
from flowlab.store.records import Record
from flowlab.store.run_folder import RunFolder
from flowlab.store.runs import State, this_process
from flowlab.store.store import Store, open_store

GATE = "inspect"  # the stage whose warnings cannot wait


@dataclass(frozen=True)
class Asked:
    """What stands on the command line besides the config.

    Args:
        engine: ``prefect``, ``local``, or None when it was not said.
        store: the store's folder or address, or None for the default.
        require: executions of the program that must have run here.
        artifacts: where runs and the default store go.
        runner: ``dask://host:port`` where the stages run elsewhere, else None.
    """

    engine: str | None = None
    store: str | None = None
    require: tuple[str, ...] = ()
    artifacts: Path = Path("artifacts")
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
    _writing: Lock = field(default_factory=Lock, init=False, repr=False)
    _ended: bool = field(default=False, init=False, repr=False)
    _asks: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._asks = {node.name: digest(node.asked) for node in self.prepared.plan}

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
        record, cached = self.prepared.perform(
            stage, records, lambda what, fraction: self.watch.progress(stage, what, fraction)
        )
        self.note(stage, Done(record, cached, round(time.monotonic() - clock, 3)))
        return record.to_json(), cached

    def note(self, stage: str, done: Done) -> None:
        """A stage has its result; one that was made now is noted at once, so that a killed run is known by it."""
        self.done[stage] = done
        if not done.cached:
            self.write("Running")
        self.watch.finished(stage, done.cached, done.seconds)
        if stage == GATE and not done.cached:  # before an hour of training, and once more at the end
            for sentence in done.record.warnings:
                self.watch.said(f"  {sentence}")

    def write(self, state: State) -> None:
        """Write ``run.json``: written first, it is what the store's clean-up starts from, and what lists of runs read.

        It has the config as it was given, but for secrets, and in the end metrics, sizes and gates. A run that has
        ended stays so: of one that is cancelled, a stage may still finish in its thread.
        """
        with self._writing:
            if state == "Running" and self._ended:
                return
            self._ended = state != "Running"
            self._write(state)

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
            self.write("Failed")
            self.store.close()
            error = GateError("\n".join(missed))
            error.result = result
            raise error
        self.write("Completed")
        folder.becomes_latest()
        self.store.close()
        return result


def begin(config: Any, catalogue: Any, asked: Asked, watch: Watch, name: str | None = None) -> Session:
    """Plan a run; without a name it gets one."""
    from flowlab.stages import STAGES

    store = open_store(asked.store, asked.artifacts)
    if asked.runner is not None:
        from flowlab.engine import on_dask

        on_dask.check(asked.runner, store)  # before a trace of the run is written
    while True:
        prepared = prepare(STAGES, config, catalogue, store, _fetch(store, watch))
        with store.keeping():
            if (session := _written(prepared, catalogue, asked, watch, name)) is not None:
                return session


def _written(prepared: Prepared, catalogue: Any, asked: Asked, watch: Watch, name: str | None) -> Session | None:
    """The session, with its ``run.json``; None where a clean-up took what the run starts from."""
    config, store = prepared.config, prepared.store
    keep_notes(config, store)
    inside = [file.sha256 for files in prepared.sources.values() for file in files.values() if file.path is None]
    if not all(map(store.objects.holds, inside)):
        return None
    about = {
        "started": _now(),
        "process": this_process(),
        "engine": asked.engine,
        "model": config.training.model_name,
        "device": config.common.target_device,
        "config": redacted(config.given),
        "objects": inside,
        "artifacts": str(asked.artifacts.absolute()),
    }
    session = Session(config, catalogue, asked, watch, name or store.runs.claim(), prepared, about=about)
    session.write("Running")
    return session


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _fetch(store: Store, watch: Watch) -> Fetch:
    """How this run downloads: it says so, and shows how far it is."""

    def fetch(address: str, key: str, pinned: str | None) -> Download:
        from flowlab.engine.download import into_store

        watch.said(f"Downloading {shown(address)}.")
        return into_store(address, key, store, lambda what, fraction: watch.progress("ingest", what, fraction), pinned)

    return fetch
