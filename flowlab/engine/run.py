"""What `flowlab run` and `flowlab plan` call: from a config to a result, on the engine that was asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flowlab.engine import server
from flowlab.engine.local import Done, prepare, run_local
from flowlab.engine.result import RunResult
from flowlab.engine.session import Asked, Session, Silent, Watch, begin
from flowlab.errors import StoreError
from flowlab.plan import Node
from flowlab.store.objects import DamagedObject
from flowlab.store.store import open_store

if TYPE_CHECKING:
    from flowlab.engine.graph_states import States  # what only some commands need is imported by them
    from flowlab.engine.status import Status
    from flowlab.engine.why import Why

NO_ENGINE = "none"  # what the result says when everything was cached and nothing had to be started


def run(config: Any, catalogue: Any, asked: Asked, watch: Watch | None = None) -> RunResult:
    """Run a config's stages and return what there is to say.

    When everything is cached no engine starts, unless one was named on the command line or by ``PREFECT_API_URL``.

    Raises:
        FlowlabError: of the stage that failed, or of a gate; what finished before stays in the store.
    """
    named = server.api_url() if asked.engine != "local" else None  # one that is no address ends here, without a trace
    engine = asked.engine or ("prefect" if named else None)
    session = begin(config, catalogue, asked, watch or Silent())
    try:
        if engine is None and _take_cached(session):
            return session.finish(NO_ENGINE)
        with _somewhere(session):
            if engine == "local":
                _run_here(session)
                return session.finish("local")
            return _run_on_prefect(session)
    except BaseException:
        with suppress(OSError, StoreError):  # a full disk, a store that is gone: the first error is the one to tell
            session.write("Failed")
            session.store.close()
        raise


def survey(config: Any, catalogue: Any, asked: Asked) -> tuple[Status, ...]:
    """What a run would do with every stage, and why; nothing runs.

    Raises:
        FlowlabError: for what no stage could use, where cached stages before it say so.
    """
    from flowlab.engine.status import statuses
    from flowlab.stages import STAGES

    store = open_store(asked.store, asked.artifacts)
    found = statuses(prepare(STAGES, config, catalogue, store), str(config.dataset_name))
    store.close()
    return found


def graph_states(config: Any, catalogue: Any, asked: Asked, *, constants: bool) -> States:
    """The network of a config that has run, in every state: `flowlab.engine.graph_states`.

    Raises:
        StoreError: where training or quantization is not in the store.
    """
    from flowlab.engine.graph_states import graph_states
    from flowlab.stages import STAGES

    store = open_store(asked.store, asked.artifacts)
    try:
        return graph_states(config, catalogue, prepare(STAGES, config, catalogue, store), constants=constants)
    finally:
        store.close()


def quantization(config: Any, catalogue: Any) -> dict[str, str | int]:
    """What a run would quantize with, and the widths: what is asked for and what will be done; as in a run's JSON.

    Empty where the stages do not quantize.
    """
    from flowlab.stages import STAGES
    from flowlab.stages.quantize import STAGE, options, trained_method

    if STAGE not in STAGES:
        return {}
    asked = options(config, catalogue)
    quantizer = catalogue.get("quantizer", config.quantizer_name(catalogue))
    return {
        "quantizer": quantizer.name,
        "method": trained_method(asked, trains=quantizer.trains),
        "weight_bits": asked.weight_bits,
        "activation_bits": asked.activation_bits,
        "requested_activation_bits": asked.requested_activation_bits,
    }


def explain(stage: str, config: Any, catalogue: Any, asked: Asked, run: str | None = None) -> Why:
    """Why a run would do one stage, against the dataset's last run or the one that is named; nothing runs.

    Raises:
        ConfigError: for a stage that is not in the plan.
        StoreError: for a run that is not in the store.
    """
    from flowlab.engine.why import why
    from flowlab.stages import STAGES

    store = open_store(asked.store, asked.artifacts)
    other = None
    if run is not None:
        from flowlab.engine.which_run import which_run

        named = which_run(run, asked.store, asked.artifacts)
        other = named.store.runs.read(named.name)
    found = why(stage, prepare(STAGES, config, catalogue, store), str(config.dataset_name), other)
    store.close()
    return found


def first_lines(config: Any, catalogue: Any) -> tuple[str, ...]:
    """What must be said before anything else: that data are synthetic, and how the user's own take their place."""
    dataset = config.dataset
    if getattr(dataset, "input_data_path", None):
        return ()
    plugin = catalogue.find("dataset", dataset.dataset_name)
    if plugin is None or not plugin.synthetic:
        return ()
    return (
        f"The data are synthetic: '{dataset.dataset_name}' is made by a generator, not measured.",
        "A path in dataset.input_data_path takes their place.",
    )


def _take_cached(session: Session) -> bool:
    """Whether every stage is in the store; if so, the session has them."""
    clock = time.monotonic()
    records = session.prepared.cached()
    if len(records) < len(session.prepared.plan):
        return False
    try:
        session.prepared.fetch(records.values())
    except DamagedObject:  # an engine makes it again
        return False
    seconds = round((time.monotonic() - clock) / len(records), 3)
    for stage, record in records.items():
        with session.telling(stage):
            session.note(stage, Done(record, True, seconds))
    return True


@contextmanager
def _somewhere(session: Session) -> Iterator[None]:
    """Let the stages run where ``--runner`` says."""
    if session.asked.runner is None:
        yield
        return
    from flowlab.engine import on_dask

    with on_dask.running(session.asked.runner, session.store, session.watch.said) as far:
        session.prepared = replace(session.prepared, does=far(session.prepared))
        yield


def _run_here(session: Session) -> None:
    def progress(node: Node) -> Any:
        return lambda what, fraction: session.watch.progress(node.name, what, fraction)

    run_local(
        session.prepared,
        progress,
        lambda node, done: session.note(node.name, done),
        lambda node: session.telling(node.name),
    )


def _run_on_prefect(session: Session) -> RunResult:
    from flowlab.engine.on_prefect import run_on_prefect

    return run_on_prefect(session, home=session.asked.artifacts / ".prefect")
