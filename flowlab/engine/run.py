"""What `flowlab run` and `flowlab plan` call: from a config to a result, on the engine that was asked for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from flowlab.engine import server
from flowlab.engine.local import ATTEMPTS, Done, Prepared, prepare, run_local
from flowlab.engine.result import RunResult, agreement_of, result_of
from flowlab.engine.status import Status, statuses
from flowlab.errors import AgreementError, StageError, did_you_mean
from flowlab.plan import Node
from flowlab.store.objects import DamagedObject
from flowlab.store.records import Record
from flowlab.store.run_folder import RunFolder
from flowlab.store.runs import State, run_name
from flowlab.store.store import Store, store_root

NO_ENGINE = "none"  # what the result says when everything was cached and nothing had to be started


@dataclass(frozen=True)
class Asked:
    """What stands on the command line besides the config.

    Args:
        engine: ``prefect``, ``local``, or None when it was not said.
        store: the store's folder, or None for the default.
        require: executions of the program that must have run here.
        artifacts: where runs and the default store go.
    """

    engine: str | None = None
    store: str | None = None
    require: tuple[str, ...] = ()
    artifacts: Path = Path("artifacts")


class Watch(Protocol):
    """Who looks at a run while it goes on. Called from the thread that runs the stage."""

    def progress(self, stage: str, what: str, fraction: float) -> None:
        """A stage says what it does and how much of it is done (0..1)."""
        ...

    def finished(self, stage: str, cached: bool, seconds: float) -> None:
        """A stage has its result."""
        ...

    def said(self, text: str) -> None:
        """Something takes its time before the first stage."""
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
        """A stage has its result."""
        self.done[stage] = done
        self.watch.finished(stage, done.cached, done.seconds)

    def write(self, state: State) -> None:
        """Write ``run.json``: written first, it is what the store's clean-up starts from."""
        stages = {name: one.record.fingerprint for name, one in self.done.items()}
        recipes = {node.name: node.recipe for node in self.prepared.plan}
        self.store.runs.write(self.name, self.dataset, state, stages=stages, recipes=recipes)

    def check(self) -> None:
        """Gates: they look at records, cached ones too, and are in no fingerprint.

        Raises:
            AgreementError: if executions differ.
            StageError: if an execution that was required did not run here.
        """
        records = {name: one.record for name, one in self.done.items()}
        agreement = agreement_of(records)
        if agreement["mismatches"]:
            raise AgreementError(
                f"{agreement['mismatches']} of {agreement['vectors']} vectors differ between executions"
            )
        ran = agreement["executions"]
        reasons = {one["name"]: one["reason"] for one in agreement["not_run"]}
        for name in self.asked.require:
            if name in ran:
                continue
            hint = "" if name in reasons else did_you_mean(name, [*ran, *reasons])
            reason = reasons.get(name, "there is no such execution").rstrip(".")
            raise StageError(f"--require {name} did not run here: {reason}.{hint} Ran: {', '.join(ran) or 'none'}")

    def finish(self, engine: str) -> RunResult:
        """Copies, ``latest``, and what there is to say. Raises what `check` raises."""
        self.check()
        order = {node.name: self.done[node.name] for node in self.prepared.plan}
        folder = RunFolder(self.asked.artifacts, self.dataset, self.name)
        artifacts = folder.fill([one.record for one in order.values()], self.store.objects)
        about = {
            "dataset": self.dataset,
            "model": self.config.training.model_name,
            "device": self.config.common.target_device,
        }
        result = result_of(
            self.name,
            engine,
            order,
            self.store,
            folder=folder.path,
            artifacts=artifacts,
            warnings=tuple(self.config.warnings),
            about=about,
        )
        self.write("Completed")
        folder.becomes_latest()
        self.store.close()
        return result


def run(config: Any, catalogue: Any, asked: Asked, watch: Watch | None = None) -> RunResult:
    """Run a config's stages and return what there is to say.

    When everything is cached no engine starts, unless one was named on the command line or by ``PREFECT_API_URL``.

    Raises:
        FlowlabError: of the stage that failed, or of a gate; what finished before stays in the store.
    """
    session = begin(config, catalogue, asked, watch or Silent())
    engine = asked.engine or ("prefect" if server.api_url() else None)
    try:
        if engine is None and _take_cached(session):
            return session.finish(NO_ENGINE)
        if engine == "local":
            _run_here(session)
            return session.finish("local")
        return _run_on_prefect(session)
    except BaseException:
        session.write("Failed")
        session.store.close()
        raise


def begin(config: Any, catalogue: Any, asked: Asked, watch: Watch) -> Session:
    """Plan a run and give it a name."""
    from flowlab.stages import STAGES

    store = Store(store_root(asked.store, asked.artifacts))
    session = Session(config, catalogue, asked, watch, run_name(), prepare(STAGES, config, catalogue, store))
    session.write("Running")
    return session


def survey(config: Any, catalogue: Any, asked: Asked) -> tuple[Status, ...]:
    """What a run would do with every stage, and why; nothing runs."""
    from flowlab.stages import STAGES

    store = Store(store_root(asked.store, asked.artifacts))
    found = statuses(prepare(STAGES, config, catalogue, store), str(config.dataset_name))
    store.close()
    return found


def first_lines(config: Any, catalogue: Any) -> tuple[str, ...]:
    """What must be said before anything else: that data are synthetic, and how the user's own take their place."""
    dataset = config.dataset
    if getattr(dataset, "input_data_path", None):
        return ()
    plugin = catalogue.find("dataset", dataset.dataset_name)
    if plugin is None or not plugin.synthetic:
        return ()
    return (
        f"The data are synthetic: '{dataset.dataset_name}' is made by a generator, not measured.",
        "A path in dataset.input_data_path takes their place.",
    )


def _take_cached(session: Session) -> bool:
    """Whether every stage is in the store; if so, the session has them."""
    clock = time.monotonic()
    records = session.prepared.cached()
    if len(records) < len(session.prepared.plan):
        return False
    seconds = round((time.monotonic() - clock) / len(records), 3)
    for stage, record in records.items():
        session.note(stage, Done(record, True, seconds))
    return True


def _run_here(session: Session) -> None:
    def progress(node: Node) -> Any:
        return lambda what, fraction: session.watch.progress(node.name, what, fraction)

    run_local(session.prepared, progress, lambda node, done: session.note(node.name, done))


def _run_on_prefect(session: Session) -> RunResult:
    """A damaged input was moved aside, so the same flow again makes it again."""
    from flowlab.engine.on_prefect import run_on_prefect

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return run_on_prefect(session, home=session.asked.artifacts / ".prefect")
        except DamagedObject:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")
