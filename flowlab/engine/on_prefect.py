"""Run a session's stages as the tasks of a Prefect flow.

This module imports Prefect only inside its functions, after the environment is prepared.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowlab.engine import server
from flowlab.engine.result import RunResult
from flowlab.engine.session import Session
from flowlab.engine.work import offered, work_of

WRITTEN_TIMEOUT_S = 10


def run_on_prefect(session: Session, home: Path) -> RunResult:
    """Run the flow; every stage is a task run, also where the store has its result already.

    Args:
        session: what to do.
        home: the folder of Prefect's database where no API is named.

    Raises:
        FlowlabError: as the stage raised it (the flow run is then Failed), or if no API answers.
    """
    results: list[RunResult] = []
    with server.running(home, session.watch.said) as api, _interruptible() as stopped:
        from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        from flowlab.engine import flows

        server.wait_until_healthy(api.url, home)
        work = work_of(session, results, stopped)
        # The heartbeat's thread would cost up to 1 s at the end; only temporary settings can switch it off.
        settings = {PREFECT_API_URL: api.url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
        with temporary_settings(settings), _quiet(), offered(work):
            try:
                flows.pipeline(
                    config={name: dict(keys) for name, keys in session.config.given.items()}, run=session.name
                )
            finally:
                _send_events()
                if api.kind == "temporary":
                    _wait_until_written(api.url, session.name)
    return results[0]


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


def _send_events() -> None:
    """Prefect reports task runs as events in the background: send them before the server stops."""
    from prefect.events.worker import EventsWorker

    EventsWorker.drain_all(timeout=10)


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
def _quiet() -> Iterator[None]:
    """Keep Prefect's own log lines off the terminal: an error is said once, by the command line."""
    logger = logging.getLogger("prefect")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
