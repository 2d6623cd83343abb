"""Run a session's stages as the tasks of a Prefect flow.

This module imports Prefect only inside its functions, after the environment is prepared.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flowlab.config.address import shown
from flowlab.config.redaction import redacted
from flowlab.engine import server
from flowlab.engine.result import RunResult
from flowlab.engine.session import Session
from flowlab.engine.work import FLOW_NAME, Work, offered, work_of
from flowlab.errors import FlowlabError, StageError
from flowlab.store.runs import KILLED, Runs, is_gone, state_of

if TYPE_CHECKING:
    from flowlab.engine.sweep import SweepRun
    from flowlab.engine.sweep_result import SweepResult
    from flowlab.engine.sweep_work import SweepWork

W = TypeVar("W", bound=Work)
R = TypeVar("R")

WRITTEN_TIMEOUT_S = 10
UNSENT_TIMEOUT_S = 20
ANSWER_TIMEOUT_S = 5
UNENDED = ["RUNNING", "PENDING"]
RUN_LOGS = ("prefect.flow_runs", "prefect.task_runs")
RETRIES = 3  # of a request, 2 + 4 + 8 s apart: our own server is there, or it is gone


def run_on_prefect(session: Session, home: Path) -> RunResult:
    """Run the flow; every stage is a task run, also where the store has its result already.

    Args:
        session: what to do.
        home: the folder of Prefect's database where no API is named.

    Raises:
        FlowlabError: as the stage raised it (the flow run is then Failed), or if no API answers.
    """
    given = redacted({name: dict(keys) for name, keys in session.config.given.items()})

    def start(flows: Any) -> None:
        flows.pipeline.with_options(validate_parameters=False)(config=given)

    def make(stopped: threading.Event) -> Work:
        return work_of(session, stopped)

    def result_of(work: Work) -> RunResult | None:
        return work.outcome.result

    runs, said = session.store.runs, session.watch.said
    return _on_prefect(home, runs, said, make=make, start=start, result_of=result_of)


def sweep_on_prefect(running: SweepRun, home: Path) -> SweepResult:
    """Run the flow of a sweep; every node of the merged plan is a task run. Raises like `run_on_prefect`."""
    from flowlab.engine.sweep_work import sweep_work_of

    given = redacted(dict(running.plan.sweep.given))

    def make(stopped: threading.Event) -> SweepWork:
        running.stopped = stopped
        return sweep_work_of(running)

    def start(flows: Any) -> None:
        flows.sweep.with_options(validate_parameters=False)(sweep=given)

    def result_of(work: SweepWork) -> SweepResult | None:
        return work.end.result

    runs, said = running.plan.store.runs, running.watch.said
    return _on_prefect(home, runs, said, make=make, start=start, result_of=result_of, kept=(FlowlabError,))


def _on_prefect(
    home: Path,
    runs: Runs,
    said: Callable[[str], None],
    *,
    make: Callable[[threading.Event], W],
    start: Callable[[Any], None],
    result_of: Callable[[W], R | None],
    kept: tuple[type[Exception], ...] = (),
) -> R:
    """Start a flow with what it does at hand, on the server that there is; its result.

    Args:
        home: as for `run_on_prefect`.
        runs: of the store.
        said: says what takes its time.
        make: what the flow does; its argument is set by Ctrl-C.
        start: calls the flow; its argument is the module of the flows.
        result_of: what the flow's body has left.
        kept: what the body may raise beside a result, which is then returned.
    """
    with server.running(home, said) as api, _interruptible() as stopped:
        from prefect.settings import (
            PREFECT_API_URL,
            PREFECT_CLIENT_MAX_RETRIES,
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
            PREFECT_LOGGING_TO_API_ENABLED,
            temporary_settings,
        )

        from flowlab.engine import flows

        server.wait_until_healthy(api.url, home, api.log)
        mark_ended(api.url, runs)
        # The heartbeat's thread would cost up to 1 s at the end; only temporary settings can switch it off.
        settings: dict[Any, Any] = {PREFECT_API_URL: api.url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
        if api.kind != "named":
            settings[PREFECT_CLIENT_MAX_RETRIES] = RETRIES
        shown = api.kind != "temporary"
        settings[PREFECT_LOGGING_TO_API_ENABLED] = shown
        work = make(stopped)
        with temporary_settings(settings), _quiet(shown), offered(work):
            try:
                start(flows)
            except Exception as error:  # noqa: BLE001 - Prefect's client raises what it likes
                if not (isinstance(work.outcome.error, kept) and result_of(work) is not None):
                    _tell(error, work, api, said, done=result_of(work) is not None)
            finally:
                if server.problem_of(api.url, ANSWER_TIMEOUT_S) is not None:
                    _drop_unsent()
                _send_unsent()
                if api.kind == "temporary":
                    _wait_until_written(api.url, work.name)
    found = result_of(work)
    assert found is not None
    return found


def _tell(error: Exception, work: Work, api: server.Api, said: Callable[[str], None], *, done: bool) -> None:
    """Raise what is to be told of a flow run that raised; return where the run itself is complete.

    When Prefect's server dies, Prefect's client raises in place of what the flow's body raised or returned.
    """
    if work.outcome.error is not None:
        raise work.outcome.error from None
    if server.problem_of(api.url, ANSWER_TIMEOUT_S) is None:
        raise error
    if not done:
        raise StageError(
            f"Prefect's server at {shown(api.url)} stopped answering in the middle of the run. "
            "Finished stages are in the store: the next run goes on from there"
        ) from None
    said(f"Prefect's server at {shown(api.url)} stopped answering; no dashboard shows how this run ended.")


def mark_ended(url: str, runs: Runs) -> None:
    """Let Prefect know how flow runs ended that it believes to be running, but whose process is gone.

    A process that was killed says nothing, and a server that was down hears nothing: what the store says of a run
    decides, and of a stage whether the run had its result. Only runs of this store whose record says which process
    they were. Nothing depends on it but what a dashboard shows.
    """
    asked = {"flows": {"name": {"any_": [FLOW_NAME]}}, "flow_runs": {"state": {"type": {"any_": UNENDED}}}}
    with suppress(OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        for one in _filtered(url, "flow_runs", asked):
            run = runs.read(str(one["name"]))
            if run is not None and is_gone(run):
                of_run = {
                    "flow_runs": {"id": {"any_": [one["id"]]}},
                    "task_runs": {"state": {"type": {"any_": UNENDED}}},
                }
                for task in _filtered(url, "task_runs", of_run):
                    _set(
                        url, f"task_runs/{task['id']}", _ended("Completed" if task["name"] in run["stages"] else KILLED)
                    )
                _set(url, f"flow_runs/{one['id']}", _ended(state_of(run)))


def _ended(state: str) -> Mapping[str, str]:
    """Prefect's words for the end that the store knows of."""
    if state == KILLED:
        return {"type": "CRASHED", "message": "the process of the run was gone when the next run started"}
    return {"type": state.upper(), "name": state, "message": "Prefect's server was gone when this ended"}


def _filtered(url: str, what: str, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    status, answer = server.exchange(url, "POST", f"/{what}/filter", asked, timeout_s=ANSWER_TIMEOUT_S)
    return list(json.loads(answer)) if status == 200 else []


def _set(url: str, what: str, state: Mapping[str, str]) -> None:
    server.exchange(url, "POST", f"/{what}/set_state", {"state": state, "force": True}, timeout_s=ANSWER_TIMEOUT_S)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets; the second one ends the process at once.

    Prefect waits for its threads; without this a training would go on to its end.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def stop(number: int, frame: Any) -> None:
        if stopped.is_set():
            os._exit(128 + number)
        stopped.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


def _send_unsent() -> None:
    """Prefect reports task runs and log lines in the background: send them before the server stops."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all(timeout=UNSENT_TIMEOUT_S)
    APILogWorker.drain_all(timeout=UNSENT_TIMEOUT_S)


def _drop_unsent() -> None:
    """Forget what cannot be sent any more: Prefect would try for seconds with each event, and end no sooner."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for kind in (EventsWorker, APILogWorker):
        for worker in tuple(getattr(kind, "_instances", {}).values()):
            with suppress(AttributeError, queue.Empty):  # Prefect has no public way
                while True:
                    worker._queue.get_nowait()


def _wait_until_written(url: str, run: str) -> None:
    """Prefect's server writes the states of task runs a moment later: wait for the last before it stops.

    Nothing depends on it but what a later dashboard shows, so a time-out is no error.
    """
    import httpx

    asked = {"flow_runs": {"name": {"any_": [run]}}}
    deadline = time.monotonic() + WRITTEN_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            tasks = httpx.post(f"{url}/task_runs/filter", json=asked, timeout=WRITTEN_TIMEOUT_S).json()
        except (httpx.HTTPError, ValueError):
            return
        if not any(task["state_name"] in ("Pending", "Running") for task in tasks):
            return
        time.sleep(0.05)


@contextmanager
def _quiet(to_api: bool) -> Iterator[None]:
    """Keep Prefect's own log lines off the terminal: an error is said once, by the command line.

    Args:
        to_api: whether lines of flow and task runs go to the dashboard's log instead.
    """
    levels = dict.fromkeys(("prefect", "prefect._internal", "prefect._internal.concurrency"), logging.CRITICAL + 1)
    if to_api:
        levels |= dict.fromkeys(RUN_LOGS, logging.INFO)
    before = [(logger := logging.getLogger(name), logger.level, logger.propagate) for name in (*levels, *RUN_LOGS)]
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    for name in RUN_LOGS:
        logging.getLogger(name).propagate = False
    raises, logging.raiseExceptions = logging.raiseExceptions, False  # or lines that cannot be sent go to stderr
    try:
        yield
    finally:
        logging.raiseExceptions = raises
        for logger, level, propagates in before:
            logger.setLevel(level)
            logger.propagate = propagates
