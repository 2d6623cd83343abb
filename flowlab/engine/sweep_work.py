"""What the flow of a sweep does, without Prefect: a sweep that is begun, offered to the flow that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowlab.engine.result import RunResult
from flowlab.engine.session import Asked
from flowlab.engine.sweep import SilentSweep, SweepRun, begin_sweep
from flowlab.engine.sweep_result import SweepResult
from flowlab.engine.work import ENGINE, Work
from flowlab.errors import StageError

SWEEP_FLOW = "flowlab-sweep"
DEPLOYED_JOBS = 2  # nodes at once of a deployment's run: one that uses torch, one that does not


@dataclass
class SweepEnd:
    """How a sweep ended."""

    result: SweepResult | None = None


@dataclass(frozen=True)
class SweepWork(Work):
    """The work of a flow run whose steps are the nodes of a sweep."""

    running: SweepRun = field(kw_only=True)
    end: SweepEnd = field(default_factory=SweepEnd, kw_only=True)

    def finish_sweep(self) -> SweepResult:
        """Write table, page and plots."""
        self.end.result = self.running.finish()
        return self.end.result


def sweep_work_of(running: SweepRun) -> SweepWork:
    """What the flow does for a sweep of this process."""
    running.engine = ENGINE
    return SweepWork(
        running.name,
        running.plan.sweep.name,
        tuple(running.steps().values()),
        running.perform,
        _no_run,
        running.give_up,
        running=running,
    )


def planned_sweep(given: Mapping[str, Any], name: str) -> SweepWork:
    """What a deployment's flow run does: it gets only the sweep, in a process of its own.

    Args:
        given: as `flowlab.config.sweep.Sweep.given`; relative paths count from the working directory, where results
            go too.
        name: the flow run's.

    Raises:
        FlowlabError: for a sweep that cannot be used.
    """
    from flowlab.config.sweep import load_sweep_mapping
    from flowlab.plugins import load

    catalogue = load()
    sweep = load_sweep_mapping(given, catalogue=catalogue)
    return sweep_work_of(begin_sweep(sweep, catalogue, Asked(), SilentSweep(), jobs=DEPLOYED_JOBS, name=name))


def _no_run() -> RunResult:
    raise StageError("a sweep has many runs, and each has ended by itself")
