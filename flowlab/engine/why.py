"""`flowlab why`: what differs between a stage now and the run that had it last, and what that comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowlab.engine.local import Prepared
from flowlab.engine.status import Status, statuses
from flowlab.errors import ConfigError, unknown_name


@dataclass(frozen=True)
class Why:
    """One stage's status, against which run, and the statuses of the stages that it waits for, causes first."""

    status: Status
    against: str | None
    causes: tuple[Status, ...]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            **self.status.to_json(),
            "against": self.against,
            "causes": [cause.to_json() for cause in self.causes],
        }

    def lines(self) -> list[str]:
        """For people: the first field that differs with both values, then the others, then what it comes from."""
        status = self.status
        if status.state == "cached":
            said = [f"{status.stage} is cached{f': made {status.made}' if status.made else ''}."]
            return said + ([f"Against run {self.against}, this differs:", *self._changes()] if status.changes else [])
        said = [f"{status.stage} {'will run' if status.state == 'will run' else 'depends on stages that will run'}."]
        if status.changes:
            said[0] += f" Against run {self.against}, this differs first:" if self.against else " This differs first:"
            said += self._changes()
        elif status.reason:
            said.append(f"  {status.reason}")
        for cause in self.causes:
            what = cause.changes[0].full() if cause.changes else cause.reason
            more = f"; and {len(cause.changes) - 1} more" if len(cause.changes) > 1 else ""
            said.append(f"It waits for {cause.stage}, which will run: {what}{more}")
        return said

    def _changes(self) -> list[str]:
        first, *others = self.status.changes
        return [f"  {first.full()}", *(["and then:"] if others else []), *(f"  {one.full()}" for one in others)]


def why(stage: str, prepared: Prepared, dataset: str, run: Mapping[str, Any] | None = None) -> Why:
    """Ask the plan about one stage; nothing runs.

    Args:
        stage: its name.
        prepared: the plan of the config.
        dataset: whose last run to compare with.
        run: the content of another run's ``run.json`` to compare with instead.

    Raises:
        ConfigError: for a stage that is not in the plan.
    """
    names = [node.name for node in prepared.plan]
    if stage not in names:
        raise ConfigError(unknown_name("stage", stage, names))
    found = {status.stage: status for status in statuses(prepared, dataset, run)}
    status = found[stage]
    waiting, causes = list(status.waits_for), []
    while waiting:
        above = found[waiting.pop(0)]
        if above.state == "will run" and above not in causes:
            causes.append(above)
        waiting += [name for name in above.waits_for if found[name] not in causes]
    causes.sort(key=lambda cause: names.index(cause.stage))
    return Why(status, _against(prepared, dataset, stage, run), tuple(causes))


def _against(prepared: Prepared, dataset: str, stage: str, run: Mapping[str, Any] | None) -> str | None:
    runs = [run] if run is not None else prepared.store.runs.newest_first(dataset)
    for one in runs:
        stages = one.get("stages")
        if isinstance(stages, Mapping) and stage in stages:
            return str(one.get("run"))
    return None
