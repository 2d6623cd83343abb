"""What flowlab-webhook brings: a watcher of runs and stages.

``FLOWLAB_WEBHOOK_URL`` says where to; without it nothing is sent. The address may hold a secret, so it stands in no
message and no record. A webhook that does not take one message gets no more of this run: a run waits for it once.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

from flowlab.contracts import RunEnded, RunStarted, StageEnded, StageFailed, StageStarted
from flowlab.hookspecs import hookimpl

ADDRESS = "FLOWLAB_WEBHOOK_URL"
TIMEOUT_S = 5.0  # a run waits no longer

_given_up: set[str] = set()  # runs


def post(event: str, seen: Any) -> None:
    """Send one JSON object: the event's name, and its fields. Raises RuntimeError without the address."""
    address = os.environ.get(ADDRESS, "")
    if not address or seen.run in _given_up:
        return
    try:
        _send(address, json.dumps({"event": event, **asdict(seen)}).encode())
    except Exception as error:  # http.client and urllib raise many things, and some of them name the address
        _given_up.add(seen.run)
        raise RuntimeError(f"the webhook of {ADDRESS} {_reason(error)}; it gets no more of this run") from None


def _send(address: str, content: bytes) -> None:
    from urllib.request import Request, urlopen

    if not address.startswith(("http://", "https://")):
        raise ValueError("no http")
    request = Request(address, data=content, headers={"Content-Type": "application/json"}, method="POST")
    with urlopen(request, timeout=TIMEOUT_S):
        pass


def _reason(error: Exception) -> str:
    """What went wrong, in words that hold nothing of the address."""
    if isinstance(error, ValueError) and not hasattr(error, "reason"):
        return "is no http or https address"
    code = getattr(error, "code", None)
    if code is not None:
        return f"answers with status {code}"
    cause = getattr(error, "reason", error)
    return f"does not answer ({type(cause).__name__})"


@hookimpl
def flowlab_before_run(run: RunStarted) -> None:
    post("before_run", run)


@hookimpl
def flowlab_after_run(run: RunEnded) -> None:
    post("after_run", run)
    _given_up.discard(run.run)


@hookimpl
def flowlab_before_stage(stage: StageStarted) -> None:
    post("before_stage", stage)


@hookimpl
def flowlab_after_stage(stage: StageEnded) -> None:
    post("after_stage", stage)


@hookimpl
def flowlab_stage_failed(stage: StageFailed) -> None:
    post("stage_failed", stage)
