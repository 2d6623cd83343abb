"""The Prefect flow that `flowlab run` starts and that a deployment serves.

What crosses Prefect is small JSON: the config as a mapping, names of stages, records.
Every stage is a task run; the futures of its inputs are its parameters, which gives the edges.
Prefect only shows: the store decides what is cached (`NO_CACHE`, no persisted results).
Importing this module imports Prefect: call `flowlab.engine.server.prepare_environment` before.
"""

# No ``from __future__ import annotations`` here: Prefect reads the parameters' types.
from typing import TYPE_CHECKING, Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed

from flowlab.engine.drive import Begin, Ended, Tell
from flowlab.engine.local import ATTEMPTS
from flowlab.engine.on_prefect import mark_ended
from flowlab.engine.parameters import as_given, typed_config
from flowlab.engine.publish import ProgressArtifact, publish
from flowlab.engine.result import RunResult
from flowlab.engine.shown import key_of, shown_of, sweep_shown
from flowlab.engine.sweep_result import SweepResult
from flowlab.engine.sweep_work import SWEEP_FLOW, SweepWork, planned_sweep
from flowlab.engine.work import FLOW_NAME, Step, Work, offered, offered_work, planned
from flowlab.errors import GateError, StageError
from flowlab.plan import Shared
from flowlab.plugins import load
from flowlab.store.objects import DamagedObject
from flowlab.store.records import Record
from flowlab.store.runs import run_name

if TYPE_CHECKING:
    Config = Any
else:
    Config = typed_config([name for name in load().sections() if name.isidentifier()])  # a parameter's name


@task(name="stage", cache_policy=NO_CACHE, persist_result=False, retries=0)
def stage(name: str, upstream: dict[str, Any], trains: bool = False) -> Any:
    """Do one stage; a hit in the store is shown as the state Cached."""
    work = offered_work()
    if work is None:
        raise StageError(f"stage {name}: it runs outside the flow that planned it")
    progress = ProgressArtifact(key_of(work.dataset, name), f"Stage {name} of run {work.name}") if trains else None
    record, cached = work.perform(name, upstream, progress or _unseen)
    if progress is not None:
        progress.close()
    return Completed(name="Cached", message="found in the store", data=record) if cached else record


def _unseen(what: str, fraction: float) -> None:
    """Progress of a stage that is through before anyone looks."""


def _name() -> str:
    """A flow run is named as the run in the store."""
    work = offered_work()
    return work.name if work is not None else run_name()


@flow(name=FLOW_NAME, flow_run_name=_name, persist_result=False)
def pipeline(config: Config, promote: bool = False) -> dict[str, Any]:
    """From recordings to a report: the stages of the plan as tasks; returns their records by name.

    Args:
        config: the sections of the YAML file. A path counts from the folder of the deployment.
        promote: take the place of the dataset's promoted run, if it is not worse on the same test windows.

    Raises:
        FlowlabError: of the first stage that failed, or of a gate; the flow run is then Failed.
    """
    work = offered_work() or _deployed(config, promote)
    with offered(work), work.recorded():
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return _all_of(work)
            except DamagedObject:  # moved aside: the stage that makes it is not cached any more
                if attempt == ATTEMPTS:
                    raise
    raise AssertionError("unreachable")


def _deployed(config: Any, promote: bool) -> Work:
    """The work of a deployment's run; who asks for a run in a process of its own has looked after those before."""
    work = planned(as_given(config), _given_name(), promote=promote)
    url = PREFECT_API_URL.value()
    if url and work.runs is not None:
        mark_ended(url, work.runs)
    return work


@flow(name=SWEEP_FLOW, flow_run_name=_name, persist_result=False)
def sweep(sweep: dict[str, Any]) -> dict[str, Any]:
    """A matrix of configs as one plan in which equal work is one task; returns the result, as `flowlab sweep --json`.

    Args:
        sweep: sections of a config, ``matrix`` and what else a sweep's file has. A path counts from the folder of the
            deployment.

    Raises:
        FlowlabError: where a cell failed or missed a gate; the flow run is then Failed, and the others are complete.
    """
    work = offered_work() or planned_sweep(sweep, _given_name())
    assert isinstance(work, SweepWork)
    with offered(work), work.recorded():
        work.running.drive(_in_tasks(work))
        result = work.finish_sweep()
        _show_sweep(result)
        result.check()
        return result.to_json()


def _in_tasks(work: SweepWork) -> Begin:
    """How the nodes of a sweep are started as task runs.

    They wait for nothing: a node is begun when what it reads is there. Its edges are futures that have ended well; one
    that has not would keep it from running, though another cell passed its gate.
    """
    steps = work.running.steps()
    futures: dict[str, Any] = {}

    def begin(node: Shared, tell: Tell) -> None:
        step = steps[node.recipe]
        future = _submit(step, futures)

        def ended() -> Ended:
            future.wait()
            if not future.state.is_completed():
                return _reason(step.name, future.state)
            futures[step.name] = future
            return Record.from_json(future.result()), future.state.name == "Cached"

        future.add_done_callback(lambda one: tell(ended))

    return begin


def _show_sweep(result: SweepResult) -> None:
    """The table as an artifact, and the lines that the command line prints, as a log."""
    logger = get_run_logger()
    try:
        publish(sweep_shown(result))
    except Exception as error:  # noqa: BLE001 - the sweep is complete: what a dashboard draws of it decides nothing
        logger.warning("its table was not drawn: %s: %s", type(error).__name__, error)
    for line in result.lines():
        logger.info(line)


def _all_of(work: Work) -> dict[str, Any]:
    records = _submit_all(work)
    try:
        work.outcome.result = work.finish()
    except GateError as error:
        if error.result is not None:
            _show(error.result)
        raise
    _show(work.outcome.result)
    return records


def _given_name() -> str:
    """The name that `_name` gave this flow run."""
    context = FlowRunContext.get()
    return context.flow_run.name if context is not None and context.flow_run is not None else run_name()


def _show(result: RunResult) -> None:
    """Artifacts, also where every stage was cached; and the lines that the command line prints, as a log."""
    logger = get_run_logger()
    try:
        publish(shown_of(result))
    except Exception as error:  # noqa: BLE001 - the run is complete: what a dashboard draws of it decides nothing
        logger.warning("its tables and pictures were not drawn: %s: %s", type(error).__name__, error)
    for warning in result.warnings:
        logger.warning(warning)
    for name, text in result.summary():
        logger.info("%s: %s", name, text)


def _submit_all(work: Work) -> dict[str, Any]:
    futures: dict[str, Any] = {}
    for step in work.steps:
        futures[step.name] = _submit(step, futures)
    for future in futures.values():
        future.wait()
    for name, future in futures.items():
        if not future.state.is_completed() and future.state.name != "NotReady":
            raise _reason(name, future.state)
    return {name: future.result() for name, future in futures.items()}


def _submit(step: Step, futures: dict[str, Any]) -> Any:
    name = f"{step.name}: {step.about}" if step.about else step.name
    return stage.with_options(name=step.name, task_run_name=name.replace("{", "(").replace("}", ")")).submit(
        name=step.name,
        upstream={name: futures[name] for name in step.reads},
        trains=step.trains,
        wait_for=[futures[name] for name in step.after if name in futures],
        return_state=False,
    )


def _reason(name: str, state: Any) -> BaseException:
    found = state.result(raise_on_failure=False)
    return found if isinstance(found, BaseException) else StageError(f"{name}: {state.message}")
