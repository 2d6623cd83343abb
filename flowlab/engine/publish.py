"""Put what a run has to show on Prefect's dashboard, as artifacts of the flow run and of its task runs.

Nothing depends on it: where the API does not take it, the run goes on.
Importing this module imports Prefect.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from prefect import artifacts
from prefect.settings import PREFECT_API_URL

from flowlab.engine import server
from flowlab.engine.shown import Shown

ANSWER_TIMEOUT_S = 5.0
UPDATE_S = 2.0  # between two looks at a training nobody sees more
LOGGER = logging.getLogger("prefect.flowlab")


def publish(shown: Iterable[Shown]) -> None:
    """Create artifacts of the flow run in whose body this is called."""
    for one in shown:
        try:
            if _is_gone():
                return
            _create(one)
        except Exception as error:  # noqa: BLE001 - of a dashboard, never of the run
            LOGGER.warning("artifact %s was not published: %s", one.key, error)


def _is_gone() -> bool:
    """Whether nothing listens at the API's address: Prefect's client would ask again and again, for a long time."""
    problem = server.problem_of(PREFECT_API_URL.value() or "", ANSWER_TIMEOUT_S)
    return problem is not None and not problem.startswith("status")


def _create(one: Shown) -> None:
    if one.kind == "table":
        artifacts.create_table_artifact(one.value, key=one.key, description=one.description)
    elif one.kind == "markdown":
        artifacts.create_markdown_artifact(one.value, key=one.key, description=one.description)
    else:
        address, text = one.value
        artifacts.create_link_artifact(address, text, key=one.key, description=one.description)


class ProgressArtifact:
    """The progress of one task run, as an artifact that is brought up to date every few seconds.

    Args:
        key: the artifact's.
        what: said of it.
        clock: seconds that only grow.
    """

    def __init__(self, key: str, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._key, self._what, self._clock = key, what, clock
        self._artifact: Any = None
        self._last = -UPDATE_S
        self._fraction = 0.0
        self._broken = False
        self._lock = threading.Lock()

    def __call__(self, what: str, fraction: float) -> None:
        """A stage says how far it is; called in the task's own thread."""
        with self._lock:
            self._fraction = fraction
            if self._clock() - self._last >= UPDATE_S or (fraction >= 1.0 and self._artifact is not None):
                self._send()

    def close(self) -> None:
        """The stage has ended well."""
        with self._lock, suppress(Exception):
            if self._artifact is not None and not self._broken and not _is_gone():
                artifacts.update_progress_artifact(self._artifact, progress=100.0)

    def _send(self) -> None:
        if self._broken:
            return
        self._last = self._clock()
        percent = round(100.0 * min(max(self._fraction, 0.0), 1.0), 1)
        try:
            if _is_gone():
                self._broken = True
            elif self._artifact is None:
                self._artifact = artifacts.create_progress_artifact(percent, key=self._key, description=self._what)
            else:
                artifacts.update_progress_artifact(self._artifact, progress=percent)
        except Exception as error:  # noqa: BLE001 - of a dashboard, never of the training
            self._broken = True
            LOGGER.warning("progress of %s is not shown any more: %s", self._key, error)
