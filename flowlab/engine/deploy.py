"""`flowlab deploy`: a work pool of processes and two deployments of the flow, on the server of `flowlab up`.

``on-demand`` has no schedule; ``nightly`` has one. Both carry the config in its typed form, which the server checks.
The entry point is a module of the installed package, so nothing of the flow's code need lie in the folder.
Deploying again changes what is there: names and the schedule's slug stay, so nothing is made twice.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowlab.config.address import shown
from flowlab.config.redaction import written_out
from flowlab.engine import claim, server
from flowlab.engine.work import FLOW_NAME
from flowlab.errors import ConfigError, StageError

POOL = "flowlab"
ENTRYPOINT = "flowlab.engine.flows.pipeline"
ON_DEMAND, NIGHTLY = "on-demand", "nightly"
CRON = "0 2 * * *"
ANSWER_TIMEOUT_S = 10
DESCRIPTIONS = {
    ON_DEMAND: "From recordings to a report, when it is asked for.",
    NIGHTLY: "From recordings to a report, by a schedule. Stages whose inputs did not change are taken from the store.",
}


@dataclass(frozen=True)
class Asked:
    """What is deployed, and for which folder: results go to ``artifacts/`` in it.

    Args:
        config: a checked `flowlab.config.Config`.
        folder: the working directory of the runs.
        cron: when the scheduled deployment runs, in UTC.
        promote: its runs take the place of the dataset's promoted one, if they are not worse.
    """

    config: Any
    folder: Path
    cron: str = CRON
    promote: bool = False


def deploy(asked: Asked, home: Path, said: Callable[[str], None] = lambda text: None) -> tuple[str, ...]:
    """Create or change the work pool and both deployments; returns lines for people, with the next commands.

    Raises:
        ConfigError: if no server is up, the schedule is none, or the server would keep a secret in clear.
        StageError: if the server does not answer or does not take it.
    """
    given = parameters(asked.config) | ({"promote": True} if asked.promote else {})
    api = _api(home)
    problem = server.problem_of(api, ANSWER_TIMEOUT_S)
    if problem is not None:
        raise StageError(f"Prefect's API at {shown(api)} does not answer ({problem}). `flowlab status` says more")
    server.prepare_environment(home)
    said(f"Deploying to {shown(api)}.")

    import asyncio

    from prefect.settings import PREFECT_API_URL, temporary_settings

    schedule = _schedule(asked.cron)
    with temporary_settings({PREFECT_API_URL: api}):
        asyncio.run(_deploy(asked, given, schedule))
    return _next_steps(asked, api)


def parameters(config: Any) -> dict[str, Any]:
    """What a deployment's run takes: the whole config, in the typed form.

    Raises:
        ConfigError: if the server would keep a secret in clear.
    """
    from flowlab.engine.parameters import normalised

    found = normalised(config)
    if secrets := written_out(found):
        raise ConfigError(
            f"{', '.join(secrets)}: a secret is written out, and a deployment keeps its config in the server's "
            "database. Write ${NAME} in its place: a run reads it from its worker's environment"
        )
    return {"config": found}


def _api(home: Path) -> str:
    named = server.api_url()
    if named is not None:
        return named
    standing = claim.find(home)
    if standing is None:
        raise ConfigError(
            "no server is up, and a deployment lives on one. Write `flowlab up`, or name a server in PREFECT_API_URL"
        )
    return standing.api


def _schedule(cron: str) -> Any:
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    try:
        return CronSchedule(cron=cron, timezone="UTC")
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(
            f"--cron {cron!r}: {reason}. Five fields: minute, hour, day, month, weekday, as in '{CRON}'"
        ) from None


async def _deploy(asked: Asked, given: Mapping[str, Any], schedule: Any) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
    from prefect.exceptions import PrefectHTTPStatusError

    from flowlab.engine.flows import pipeline

    same: dict[str, Any] = {
        "work_pool_name": POOL,
        "entrypoint": ENTRYPOINT,
        "path": str(asked.folder),
        "parameters": dict(given),
        "parameter_openapi_schema": pipeline.parameters.model_dump_for_openapi(),
        "enforce_parameter_schema": True,
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(asked.folder)}}],
        "job_variables": {"env": {"DO_NOT_TRACK": "1", "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json"}},
    }
    try:
        async with get_client() as client:
            await _pool(client)
            flow = await client.create_flow(pipeline)
            await client.create_deployment(flow_id=flow, name=ON_DEMAND, description=DESCRIPTIONS[ON_DEMAND], **same)
            active = await _is_active(client)
            await client.create_deployment(
                flow_id=flow,
                name=NIGHTLY,
                description=DESCRIPTIONS[NIGHTLY],
                schedules=[DeploymentScheduleCreate(schedule=schedule, active=active, slug=NIGHTLY)],
                concurrency_limit=1,
                concurrency_options=ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
                **same,
            )
    except PrefectHTTPStatusError as error:
        raise StageError(f"Prefect's server did not take the deployment: {_detail(error)}") from None


async def _is_active(client: Any) -> bool:
    """Whether the schedule is active: a new one is, one that somebody has paused stays paused."""
    from prefect.exceptions import ObjectNotFound

    try:
        standing = await client.read_deployment_by_name(f"{FLOW_NAME}/{NIGHTLY}")
    except ObjectNotFound:
        return True
    return all(one.active for one in standing.schedules if one.slug == NIGHTLY)


async def _pool(client: Any) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    try:
        pool = await client.read_work_pool(POOL)
    except ObjectNotFound:
        from prefect.workers.process import ProcessWorker

        wanted = WorkPoolCreate(
            name=POOL,
            type=ProcessWorker.type,
            base_job_template=ProcessWorker.get_default_base_job_template(),
            description="flowlab's runs, each a process of its own beside the worker.",
        )
        try:
            await client.create_work_pool(work_pool=wanted)
            return
        except ObjectAlreadyExists:
            pool = await client.read_work_pool(POOL)
    if pool.type != "process":
        raise ConfigError(
            f"the server has a work pool '{POOL}' of type '{pool.type}', and flowlab needs one of type 'process'. "
            f"Remove it: prefect work-pool delete {POOL}"
        )


def _detail(error: Any) -> str:
    try:
        return json.dumps(error.response.json().get("detail", ""))[:500]
    except (ValueError, AttributeError):
        return str(error).splitlines()[0][:500]


def _next_steps(asked: Asked, api: str) -> tuple[str, ...]:
    export = () if server.api_url() else (f"  export PREFECT_API_URL={shlex.quote(api)}",)
    return (
        f"Deployed to {shown(api).removesuffix('/api')}, for the folder {asked.folder}:",
        f"  {FLOW_NAME}/{ON_DEMAND}   when it is asked for",
        f"  {FLOW_NAME}/{NIGHTLY}     by the schedule '{asked.cron}' (UTC)",
        f"Both run when a worker of the pool '{POOL}' is there:",
        *export,
        f"  prefect worker start --pool {POOL}",
        "Then, in a terminal of its own:",
        *export,
        f"  prefect deployment run {FLOW_NAME}/{ON_DEMAND} --watch",
    )
