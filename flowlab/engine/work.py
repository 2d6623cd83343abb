"""What a flow run does, without Prefect: a session's stages as steps, offered to the flow that shows them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from flowlab.engine.result import RunResult
from flowlab.engine.session import Asked, Session, Silent, begin
from flowlab.errors import StageError

ENGINE = "prefect"

Record = dict[str, Any]
Perform = Callable[[str, Mapping[str, Record]], tuple[Record, bool]]
"""``(stage, records of the stages that it reads) -> (record, cached)``, records as plain JSON."""


@dataclass(frozen=True)
class Step:
    """One stage as the flow sees it: its name, the stages whose records it reads, those that it only waits for."""

    name: str
    reads: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """What a flow run does: its steps in order, the function that does one, and what is done when all are through.

    What ``finish`` raises fails the flow run.
    """

    steps: Sequence[Step]
    perform: Perform
    finish: Callable[[], None] = lambda: None


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


def work_of(session: Session, results: list[RunResult], stopped: threading.Event | None = None) -> Work:
    """What the flow does for a session; ``results`` gets what the run has to say."""
    plan = session.prepared.plan
    steps = []
    for node in plan:
        makers = {maker.name for role in node.needs if (maker := plan.maker(role))}
        waits_for = [other.name for other in plan.waits_for(node)]
        reads = tuple(name for name in waits_for if name in makers)
        steps.append(Step(node.name, reads, tuple(name for name in waits_for if name not in makers)))

    if stopped is not None:
        session.watch = _Stoppable(session.watch, stopped)
    return Work(steps, session.perform, lambda: results.append(session.finish(ENGINE)))


def planned(config: Mapping[str, Any]) -> Work:
    """What a deployment's flow run does: it gets only the config, in a process of its own."""
    from flowlab.config import load_mapping
    from flowlab.plugins import load

    catalogue = load()
    return work_of(begin(load_mapping(config, catalogue), catalogue, Asked(), Silent()), [])


class _Stoppable:
    """Lets Ctrl-C reach a stage in another thread, at the next time that it says how far it is."""

    def __init__(self, watch: Any, stopped: threading.Event) -> None:
        self._watch = watch
        self._stopped = stopped

    def progress(self, stage: str, what: str, fraction: float) -> None:
        if self._stopped.is_set():
            raise StageError(f"{stage}: stopped")
        self._watch.progress(stage, what, fraction)

    def finished(self, stage: str, cached: bool, seconds: float) -> None:
        self._watch.finished(stage, cached, seconds)

    def said(self, text: str) -> None:
        self._watch.said(text)
