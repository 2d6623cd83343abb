"""Run a plan's stages as the tasks of a Prefect flow.

This module imports Prefect only inside its functions, after the environment is prepared.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowlab.engine import server

if TYPE_CHECKING:
    from flowlab.engine.flows import Perform, Record, Step


def run_on_prefect(
    steps: Sequence[Step],
    perform: Perform,
    *,
    config: Mapping[str, Any],
    run: str,
    home: Path,
) -> dict[str, Record]:
    """Run the flow and return the stages' records by name.

    Args:
        steps: the stages in order.
        perform: does one stage, or finds it in the store.
        config: small JSON, kept by Prefect as the flow run's parameter.
        run: the flow run's name.
        home: the folder of Prefect's database where no API is named.

    Raises:
        FlowlabError: as the stage raised it (the flow run is then Failed), or if no API answers.
    """
    with server.running(home) as url:
        from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        from flowlab.engine import flows

        server.wait_until_healthy(url, home)
        # The heartbeat's thread would cost up to 1 s at the end; only temporary settings can switch it off.
        settings = {PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
        with temporary_settings(settings), _quiet(), flows.offered(flows.Work(steps, perform)):
            try:
                records: dict[str, Record] = flows.pipeline(config=dict(config), run=run)
            finally:
                _send_events()
        return records


def _send_events() -> None:
    """Prefect reports task runs as events in the background: send them before the server stops."""
    from prefect.events.worker import EventsWorker

    EventsWorker.drain_all(timeout=10)


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
