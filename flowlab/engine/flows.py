"""The Prefect flow that `flowlab run` starts and that a deployment serves.

What crosses Prefect is small JSON: the config as a mapping, names of stages, records.
Every stage is a task run; the futures of its inputs are its parameters, which gives the edges.
Prefect only shows: the store decides what is cached (`NO_CACHE`, no persisted results).
Importing this module imports Prefect: call `flowlab.engine.server.prepare_environment` before.
"""

# No ``from __future__ import annotations`` here: Prefect reads the parameters' types.
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from flowlab.engine.work import Work, offered, offered_work, planned
from flowlab.errors import StageError

FLOW_NAME = "flowlab"


@task(name="stage", cache_policy=NO_CACHE, persist_result=False, retries=0)
def stage(name: str, upstream: dict[str, Any]) -> Any:
    """Do one stage; a hit in the store is shown as the state Cached."""
    work = offered_work()
    if work is None:
        raise StageError(f"stage {name}: it runs outside the flow that planned it")
    record, cached = work.perform(name, upstream)
    return Completed(name="Cached", message="found in the store", data=record) if cached else record


@flow(name=FLOW_NAME, flow_run_name="{run}", persist_result=False, validate_parameters=False)
def pipeline(config: dict[str, Any], run: str = "flowlab") -> dict[str, Any]:
    """From recordings to a report: the stages of the plan as tasks; returns their records by name.

    Args:
        config: the sections of the YAML file.
        run: shown as the flow run's name.

    Raises:
        FlowlabError: of the first stage that failed; the flow run is then Failed.
    """
    work = offered_work() or planned(config)
    with offered(work):
        records = _submit_all(work)
    work.finish()
    return records


def _submit_all(work: Work) -> dict[str, Any]:
    futures: dict[str, Any] = {}
    for step in work.steps:
        futures[step.name] = stage.with_options(name=step.name, task_run_name=step.name).submit(
            name=step.name,
            upstream={name: futures[name] for name in step.reads},
            wait_for=[futures[name] for name in step.after],
            return_state=False,
        )
    for future in futures.values():
        future.wait()
    for name, future in futures.items():
        if not future.state.is_completed() and future.state.name != "NotReady":
            raise _reason(name, future.state)
    return {name: future.result() for name, future in futures.items()}


def _reason(name: str, state: Any) -> BaseException:
    found = state.result(raise_on_failure=False)
    return found if isinstance(found, BaseException) else StageError(f"{name}: {state.message}")
