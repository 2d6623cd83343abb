"""`flowlab up`, `down` and `status`: Prefect's server and dashboard in the background, for one project.

It listens on 127.0.0.1 only; its database, its log and its pages lie in the project's ``artifacts/.prefect``.
Later runs in the project find it without any setting (`flowlab.engine.claim`).
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flowlab.config.address import shown
from flowlab.engine import claim, server
from flowlab.engine.claim import Standing
from flowlab.errors import ConfigError, StageError

USUAL_PORT = 4200  # Prefect's own; where it is taken and none is asked for, a free one
DATABASE = "prefect.db"
STOP_TIMEOUT_S = 15
ASK_TIMEOUT_S = 5
RECENT = timedelta(days=1)


def up(home: Path, port: int | None, said: Callable[[str], None]) -> tuple[str, ...]:
    """Start the project's server, or find it; returns lines for people.

    Args:
        home: the folder of its database.
        port: asked for, or None for Prefect's usual port or a free one.
        said: is told what takes its time.

    Raises:
        ConfigError: where ``PREFECT_API_URL`` names another server, or the port is taken.
        StageError: where a run with a temporary server uses the database, or the server does not come up.
    """
    named = server.api_url()
    found = claim.find(home) if named else claim.find_or_take(home)
    if isinstance(found, Standing) and named in (None, found.api):
        server.wait_until_healthy(found.api, home, server.UP_LOG)
        other = f"; it keeps its port, {found.port}" if port not in (None, found.port) else ""
        return (f"Prefect's server is up already: {found.url} (pid {found.pid}){other}", *_hints(home))
    if named is not None:
        raise ConfigError(
            f"PREFECT_API_URL names {shown(named)}: runs go there, and would not see a server of this project. "
            "Unset it, then write `flowlab up` again"
        )
    assert isinstance(found, claim.Hold)
    first = "" if (home / DATABASE).is_file() else " The first time it makes its database, which takes longer."
    said(f"Starting Prefect's server.{first}")
    with found as hold:
        standing = _start(home, port, hold)
    server.wait_until_healthy(standing.api, home, server.UP_LOG)
    return (f"Prefect's server is up: {standing.url} (pid {standing.pid})", *_hints(home))


def down(home: Path) -> tuple[str, ...]:
    """Stop the project's server; returns lines for people, the last of what is left behind."""
    standing = claim.find(home)
    if standing is None:
        named = server.api_url()
        other = f" PREFECT_API_URL names {shown(named)}, which is not flowlab's to stop." if named else ""
        return (f"No server of this project is up.{other}", *_left(home))
    if not claim.is_ours(standing.pid, home):
        raise StageError(
            f"{home / claim.FILE}: process {standing.pid} is no server of this project; nothing was stopped. "
            "End the process that holds this file, then remove the file"
        )
    running = _count(standing.api, {"state": {"type": {"any_": ["RUNNING"]}}})
    lost = f" {running} runs were going on; what they finished is in the store." if running else ""
    _end(standing.pid)
    found = claim.find_or_take(home)
    if isinstance(found, claim.Hold):
        with found as hold:
            hold.note(None)
    return (f"Stopped Prefect's server {standing.url} (pid {standing.pid}).{lost}", *_left(home))


@dataclass(frozen=True)
class ServerStatus:
    """What `flowlab status` says. ``source`` is ``flowlab up``, ``PREFECT_API_URL``, or empty where there is none."""

    source: str
    url: str | None
    api: str | None
    reachable: bool
    problem: str | None
    pid: int | None
    uptime_s: float | None
    version: str | None
    runs: Mapping[str, int | None]
    database: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """What `flowlab status --json` prints; every key is always there. An address's secrets are left out."""
        return {**asdict(self), "api": None if self.api is None else shown(self.api)}

    def lines(self) -> tuple[tuple[str, str], ...]:
        """A name and a text each, for people."""
        database = (
            "database",
            f"{self.database['path']}, {_size(self.database['bytes'])}" if self.database["bytes"] else "none yet",
        )
        if self.api is None:
            return (("server", "none is up; `flowlab up` starts one. A run has a temporary one of its own"), database)
        pid = f", pid {self.pid}" if self.pid is not None else ""
        up_for = f", up for {_span(self.uptime_s)}" if self.uptime_s is not None else ""
        rows = [("server", f"{self.url} ({self.source}{pid}{up_for})")]
        if self.reachable:
            rows.append(("answers", f"yes, Prefect {self.version or 'of an unknown version'}"))
            rows.append(("runs", f"{self.runs['running']} running, {self.runs['recent']} in the last 24 hours"))
        else:
            rows.append(("answers", f"no: {self.problem}"))
        return (*rows, database) if self.pid is not None else tuple(rows)


def status(home: Path) -> ServerStatus:
    """What server runs of this project would use, and how it is."""
    standing, named = claim.find(home), server.api_url()
    path = home / DATABASE
    database = {"path": str(path), "bytes": _bytes(path) if path.is_file() else 0}
    if named is not None and (standing is None or named != standing.api):
        source, api, standing = "PREFECT_API_URL", named, None
    elif standing is not None:
        source, api = "flowlab up", standing.api
    else:
        return ServerStatus("", None, None, False, None, None, None, None, {"running": None, "recent": None}, database)
    problem = server.problem_of(api, ASK_TIMEOUT_S)
    well = problem is None
    since = (datetime.now(UTC) - RECENT).isoformat()
    return ServerStatus(
        source=source,
        url=shown(api).removesuffix("/api"),
        api=api,
        reachable=well,
        problem=problem,
        pid=standing.pid if standing else None,
        uptime_s=round(time.time() - standing.started, 1) if standing else None,
        version=_ask(api, "GET", "/admin/version") if well else None,
        runs={
            "running": _count(api, {"state": {"type": {"any_": ["RUNNING"]}}}) if well else None,
            "recent": _count(api, {"start_time": {"after_": since}}) if well else None,
        },
        database=database,
    )


def _start(home: Path, port: int | None, hold: claim.Hold) -> Standing:
    with _listening(port) as listening, (home / server.UP_LOG).open("ab") as log:
        number = listening.getsockname()[1]
        more = {
            "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
            "PREFECT_SERVER_UI_ENABLED": "true",
            "PREFECT_UI_API_URL": f"http://127.0.0.1:{number}/api",
            # by default Prefect writes its pages among the installed packages, which may be read-only
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home.resolve() / "ui"),
        }
        process = server.spawn("up", listening, home, log, more=more, holds=(hold.descriptor,))
    standing = Standing(process.pid, number, round(time.time(), 3))
    hold.note(standing)
    process.returncode = 0  # it outlives this process: nobody waits for it here
    return standing


def _listening(port: int | None) -> socket.socket:
    if port is not None:
        if not 0 < port < 65536:
            raise ConfigError(f"--port {port}: a port is a number from 1 to 65535. Leave it out for a free one")
        try:
            return socket.create_server(("127.0.0.1", port), backlog=128)
        except OSError as error:
            raise ConfigError(f"--port {port}: {error.strerror}. Leave it out for a free one") from None
    try:
        return socket.create_server(("127.0.0.1", USUAL_PORT), backlog=128)
    except OSError:
        return socket.create_server(("127.0.0.1", 0), backlog=128)


def _end(pid: int) -> None:
    """Ask first; after a while without asking."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while time.monotonic() < deadline:
            if not _lives(pid):
                return
            time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _hints(home: Path) -> tuple[str, ...]:
    return (
        f"Runs that start in this folder use it. Its database is {home / DATABASE}.",
        "`flowlab deploy` gives it deployments; `flowlab down` stops it.",
    )


def _left(home: Path) -> tuple[str, ...]:
    """What a stopped server leaves behind."""
    path = home / DATABASE
    if not path.is_file():
        return ()
    logs = ", ".join(str(log) for log in (home / server.UP_LOG, home / server.LOG) if log.is_file())
    return (f"Left behind: the database {path} ({_size(_bytes(path))}){f' and logs: {logs}' if logs else ''}.",)


def _bytes(path: Path) -> int:
    """The size of the database with the journals beside it."""
    return sum(one.stat().st_size for one in path.parent.glob(f"{path.name}*") if one.is_file())


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _span(seconds: float | None) -> str:
    whole = int(seconds or 0)
    return str(timedelta(seconds=whole))


def _count(api: str, flow_runs: Mapping[str, Any]) -> int | None:
    found = _ask(api, "POST", "/flow_runs/count", {"flow_runs": flow_runs})
    return found if isinstance(found, int) else None


def _ask(api: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """The API's JSON answer, or None: what is asked here is for people only."""
    try:
        status, answer = server.exchange(api, method, path, body, timeout_s=ASK_TIMEOUT_S)
        return json.loads(answer) if status == 200 else None
    except (OSError, ValueError, http.client.HTTPException):
        return None
