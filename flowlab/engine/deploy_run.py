"""`flowlab deploy run NAME --set a.b=c`: a run of a deployment with keys of its config changed.

Prefect takes a parameter whole, so the keys are laid over the deployment's config here, and the whole is sent.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flowlab.config.address import shown
from flowlab.engine import claim, server
from flowlab.engine.deploy import parameters
from flowlab.engine.work import FLOW_NAME
from flowlab.errors import ConfigError, StageError, unknown_name

ANSWER_TIMEOUT_S = 30
ASK_AGAIN_S = 1.0
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def deploy_run(
    name: str,
    sets: Sequence[str],
    catalogue: Any,
    home: Path,
    *,
    watch: bool = False,
    said: Callable[[str], None] = lambda text: None,
) -> str:
    """Ask the server for a run; returns how it stands, in a line for people.

    Args:
        name: the deployment's: ``on-demand``, or ``flowlab/on-demand``.
        sets: ``section.key=value``, laid over the deployment's config.
        catalogue: what is installed.
        home: the folder of the project's server, where no other is named.
        watch: wait until the run has ended.
        said: is told the run's name before the waiting.

    Raises:
        ConfigError: if no server is up, it has no such deployment, or the config cannot be used with these keys.
        StageError: if the server does not answer or does not take it; with ``watch``, if the run did not complete.
    """
    from flowlab.config import load_mapping

    api = _api(home)
    deployment = _deployment(api, name.removeprefix(f"{FLOW_NAME}/"))
    given = dict(deployment["parameters"])
    if sets:
        config = load_mapping(given.get("config") or {}, catalogue, sets=sets, source=f"deployment {name}")
        given |= parameters(config)
    body = {"parameters": given, "state": {"type": "SCHEDULED", "message": "asked for by flowlab deploy run"}}
    run = _json(api, "POST", f"/deployments/{deployment['id']}/create_flow_run", body)
    if not watch:
        return f"Run {run['name']} of {FLOW_NAME}/{deployment['name']} is asked for; a worker will take it"
    said(f"Run {run['name']} of {FLOW_NAME}/{deployment['name']}: waiting for its end.")
    state = _end(api, str(run["id"]))
    line = f"Run {run['name']}: {state['name']}" + (f": {state['message']}" if state.get("message") else "")
    if state["type"] != "COMPLETED":
        raise StageError(line)
    return line


def _api(home: Path) -> str:
    named = server.api_url()
    standing = None if named else claim.find(home)
    if named is None and standing is None:
        raise ConfigError("no server is up. Write `flowlab up`, or name a server in PREFECT_API_URL")
    return named or (standing.api if standing else "")


def _deployment(api: str, name: str) -> Mapping[str, Any]:
    asked = {"flows": {"name": {"any_": [FLOW_NAME]}}}
    found = {str(one["name"]): one for one in _json(api, "POST", "/deployments/filter", asked)}
    if name not in found:
        raise ConfigError(f"{shown(api)}: {unknown_name('deployment', name, found)}. `flowlab deploy` makes them")
    known: Mapping[str, Any] = found[name]
    return known


def _end(api: str, run: str) -> Mapping[str, Any]:
    while True:
        state: Mapping[str, Any] = _json(api, "GET", f"/flow_runs/{quote(run)}")["state"]
        if state["type"] in ENDED:
            return state
        time.sleep(ASK_AGAIN_S)


def _json(api: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    try:
        status, answer = server.exchange(api, method, path, body, timeout_s=ANSWER_TIMEOUT_S)
        value = json.loads(answer)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise StageError(
            f"Prefect's API at {shown(api)} does not answer ({error}). `flowlab status` says more"
        ) from None
    if status >= http.client.BAD_REQUEST:
        detail = value.get("detail", "") if isinstance(value, dict) else ""
        raise StageError(f"Prefect's server did not take it: {json.dumps(detail)[:500]}")
    return value
