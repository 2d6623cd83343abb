"""What a flow run does, without Prefect: a session's stages as steps, offered to the flow that shows them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from flowlab.contracts import Progress
from flowlab.engine.result import RunResult
from flowlab.engine.session import Asked, Session, Silent, begin
from flowlab.errors import GateError, StageError, StoreError
from flowlab.store.runs import Runs

ENGINE = "prefect"
FLOW_NAME = "flowlab"

Record = dict[str, Any]
Perform = Callable[[str, Mapping[str, Record], Progress], tuple[Record, bool]]
"""``(stage, records of the stages that it reads, progress) -> (record, cached)``, records as plain JSON."""


@dataclass(frozen=True)
class Step:
    """One stage as the flow sees it: its name, the stages whose records it reads, those that it only waits for.

    ``trains`` says that it may take long and tells how far it is. ``about`` tells it from others of its stage.
    """

    name: str
    reads: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    trains: bool = False
    about: str = ""


@dataclass
class Outcome:
    """How a flow run's body ended: with a result, an error, or (a gate was missed) with both."""

    result: RunResult | None = None
    error: BaseException | None = None


@dataclass(frozen=True)
class Work:
    """What a flow run does: the run's name and dataset, its steps in order, and what does them.

    ``perform`` does one step, ``finish`` what is done when all are through, ``failed`` what is done when one is not.
    What ``finish`` raises fails the flow run. ``runs`` are those of its store, itself among them.
    """

    name: str
    dataset: str
    steps: Sequence[Step]
    perform: Perform
    finish: Callable[[], RunResult]
    failed: Callable[[], None] = lambda: None
    runs: Runs | None = None
    outcome: Outcome = field(default_factory=Outcome)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep what the body raises, so that it can be told even where Prefect's server is gone."""
        self.outcome.error = None
        try:
            yield
        except BaseException as error:
            self.outcome.error = error
            if isinstance(error, GateError):
                self.outcome.result = error.result
            self.failed()
            raise


_OFFERED: ContextVar[Work | None] = ContextVar("flowlab_work", default=None)


@contextmanager
def offered(work: Work) -> Iterator[None]:
    """Let flow and tasks of this process use a plan that is already made, with its progress bars."""
    token = _OFFERED.set(work)
    try:
        yield
    finally:
        _OFFERED.reset(token)


def offered_work() -> Work | None:
    """The plan that this process offers, or None in a deployment's run."""
    return _OFFERED.get()


def work_of(session: Session, stopped: threading.Event | None = None) -> Work:
    """What the flow does for a session of this process; ``stopped`` is set by Ctrl-C."""
    plan = session.prepared.plan
    steps = []
    for node in plan:
        makers = {maker.name for role in node.needs if (maker := plan.maker(role, node))}
        waits_for = [other.name for other in plan.waits_for(node)]
        reads = tuple(name for name in waits_for if name in makers)
        after = tuple(name for name in waits_for if name not in makers)
        steps.append(Step(node.name, reads, after, node.stage.torch))
    listening = _Listening(session.watch, stopped or threading.Event())
    session.watch = listening  # a session has one flow run

    def perform(stage: str, upstream: Mapping[str, Record], progress: Progress) -> tuple[Record, bool]:
        listening.listeners[stage] = progress
        return session.perform(stage, upstream)

    return Work(session.name, session.dataset, steps, perform, lambda: session.finish(ENGINE), runs=session.store.runs)


def planned(config: Mapping[str, Any], name: str, *, promote: bool = False) -> Work:
    """What a deployment's flow run does: it gets only the config, in a process of its own.

    Args:
        config: sections by name; relative paths count from the working directory, where results go too.
        name: the run's.
        promote: it takes the place of the dataset's promoted run, if it is not worse.

    Raises:
        FlowlabError: for a config that cannot be used.
    """
    from dataclasses import replace

    from flowlab.config import load_mapping
    from flowlab.plugins import load

    catalogue = load()
    session = begin(load_mapping(config, catalogue), catalogue, Asked(promote=promote), Silent(), name)

    def failed() -> None:
        with suppress(OSError, StoreError):
            session.write("Failed")
            session.store.close()

    return replace(work_of(session), failed=failed)


class _Listening:
    """Tells the flow's tasks, too, how far a stage is; and lets Ctrl-C reach a stage in another thread."""

    def __init__(self, watch: Any, stopped: threading.Event) -> None:
        self._watch = watch
        self._stopped = stopped
        self.listeners: dict[str, Progress] = {}

    def progress(self, stage: str, what: str, fraction: float) -> None:
        if self._stopped.is_set():
            raise StageError(f"{stage}: stopped")
        self._watch.progress(stage, what, fraction)
        if stage in self.listeners:
            self.listeners[stage](what, fraction)

    def finished(self, stage: str, cached: bool, seconds: float) -> None:
        self._watch.finished(stage, cached, seconds)

    def said(self, text: str) -> None:
        self._watch.said(text)
