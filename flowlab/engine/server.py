"""Where Prefect's API is: the one that ``PREFECT_API_URL`` names, the project's (`flowlab up`), or a temporary one.

The temporary server is Prefect's application with its database inside the project, so a later dashboard shows the run.
It is a child process that ends with its parent, however the parent ends (`flowlab.engine.server_process`).
It starts while this process imports Prefect, which saves seconds.
`prepare_environment` must have been called before Prefect is imported: Prefect freezes its settings at import.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from flowlab.config.address import problem as wrong_with
from flowlab.config.address import shown
from flowlab.errors import ConfigError, StageError

if TYPE_CHECKING:
    import socket  # a run that is wholly cached comes here too: what starts or asks a server is imported when it does
    import subprocess

STARTUP_TIMEOUT_S = 120  # Prefect's 20 s are too few on a loaded machine (PrefectHQ/prefect#16397)
NAMED_TIMEOUT_S = 10  # a server that the user names is up already
LOG = "server.log"
UP_LOG = "up.log"

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(STARTUP_TIMEOUT_S),
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_ROOT_LEVEL": "CRITICAL",
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
}
"""No telemetry, no prompts, no second voice on the terminal: flowlab's own lines say what happens."""


@dataclass(frozen=True)
class Api:
    """Where Prefect's API is, and whose it is: named by the user, the project's own, or of this run alone."""

    url: str
    kind: Literal["named", "project", "temporary"]

    @property
    def log(self) -> str:
        """The name of its log in the folder of its database."""
        return UP_LOG if self.kind == "project" else LOG


def api_url() -> str | None:
    """The API that the user's environment names, or None; it may hold a password, so people see `shown` of it.

    Raises:
        ConfigError: where it is no address. What it holds may be a secret, and is not said.
    """
    named = os.environ.get("PREFECT_API_URL") or None
    if named is not None and wrong_with(named):
        raise ConfigError(
            "PREFECT_API_URL holds no address of a server, as in http://127.0.0.1:4200/api. Correct or unset it; "
            "`flowlab run --engine local` needs no server"
        )
    return named


def prepare_environment(home: Path) -> None:
    """Set what Prefect reads when it is imported; children inherit it.

    Args:
        home: the folder for Prefect's database, inside the project; used unless ``PREFECT_API_URL`` names a server.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if api_url() is None:
        home.mkdir(parents=True, exist_ok=True)
        os.environ["PREFECT_HOME"] = str(home.resolve())
        os.environ.setdefault("PREFECT_PROFILES_PATH", str(home.resolve() / "profiles.toml"))


@contextmanager
def running(home: Path, said: Callable[[str], None] = lambda text: None) -> Iterator[Api]:
    """Yield an API: the named one as it is, else the project's, else a temporary server which stops at the end.

    Args:
        home: the folder of the project's Prefect database.
        said: is told what takes its time, and of a server of the project that is gone.

    Raises:
        StageError: if the project's server holds the database and does not answer.
    """
    prepare_environment(home)
    named = api_url()
    if named is not None:
        yield Api(named, "named")
        return
    from flowlab.engine import claim

    found = claim.find_or_share(home)
    if isinstance(found, claim.Standing):
        wait_until_healthy(found.api, home, UP_LOG)
        yield Api(found.api, "project")
        return
    if found.gone is not None:
        said(f"The server of `flowlab up` (pid {found.gone.pid}) is gone; this run has one of its own.")
    first = "" if (home / "prefect.db").is_file() else "; the first time it makes its database, which takes longer"
    said(f"Starting Prefect's temporary server{first}.")
    with found, temporary_server(home, found.descriptor) as url:
        yield Api(url, "temporary")


@contextmanager
def temporary_server(home: Path, hold: int | None = None) -> Iterator[str]:
    """Start Prefect's server on a free port of this machine; yield its API's URL at once, stop it at the end.

    The port is open before the process runs, so clients may connect at once and are answered when it is up.

    Args:
        home: the folder of its database and its log.
        hold: a descriptor that the process keeps as long as it lives: the claim on the database.
    """
    import socket

    home.mkdir(parents=True, exist_ok=True)
    hidden = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening, (home / LOG).open("wb") as log:
        port = listening.getsockname()[1]
        process = spawn("temporary", listening, home, log, more=hidden, holds=() if hold is None else (hold,))
    try:
        yield f"http://127.0.0.1:{port}/api"
    finally:
        _stop(process)


def spawn(
    kind: Literal["temporary", "up"],
    listening: socket.socket,
    home: Path,
    log: IO[bytes],
    *,
    more: Mapping[str, str],
    holds: tuple[int, ...],
) -> subprocess.Popen[bytes]:
    """Start a server's process on an open socket; it keeps the descriptors ``holds`` as long as it lives."""
    import subprocess

    from flowlab.engine import claim

    environment = {**os.environ, **QUIET, "PREFECT_HOME": str(home.resolve()), **more}
    environment.pop("PREFECT_API_URL", None)
    return subprocess.Popen(
        [sys.executable, "-m", claim.MODULE, kind, str(listening.fileno()), str(home.resolve())],
        env=environment,
        # for the temporary server its end of file is the parent's death
        stdin=subprocess.PIPE if kind == "temporary" else subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        pass_fds=(listening.fileno(), *holds),
        start_new_session=True,  # Ctrl-C is for us; we stop the server when the flow has ended
    )


def wait_until_healthy(url: str, home: Path, log: str = LOG) -> None:
    """Return when the API answers.

    Raises:
        StageError: with the last words of the server's log in ``home``, if nothing answers in time.
    """
    named = url == api_url()
    deadline = time.monotonic() + (NAMED_TIMEOUT_S if named else STARTUP_TIMEOUT_S)
    problem: str | None = "not asked"
    while time.monotonic() < deadline:
        problem = problem_of(url, max(1.0, deadline - time.monotonic()))
        if problem is None:
            return
        if "refused" in problem and not named:
            break  # the port was open from the start: the process is gone
        time.sleep(0.1)
    raise StageError(
        f"Prefect's API at {shown(url)} does not answer ({problem}). "
        f"`flowlab run --engine local` needs no server.{tail_of(home / log) if not named else ''}"
    )


def problem_of(url: str, timeout_s: float) -> str | None:
    """None where the API at a URL is healthy, else what is wrong in a few words. Imports nothing that is heavy."""
    import http.client

    try:
        status, _ = exchange(url, "GET", "/health", timeout_s=timeout_s)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    return None if status == 200 else f"status {status}"


def exchange(
    url: str, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float
) -> tuple[int, bytes]:
    """One request to the API at a URL; returns the status and the answer.

    Raises:
        OSError, ValueError, HTTPException: where nothing answers, or the URL is none.
    """
    import http.client
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, f"{parts.path}{path}", text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def tail_of(log: Path) -> str:
    """The last lines of a log, each after a line break, or an empty text."""
    lines = log.read_text(errors="replace").splitlines()[-8:] if log.is_file() else []
    return "".join(f"\n{line}" for line in lines)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask first: the server writes the last states of task runs on its way out."""
    import subprocess

    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        if process.stdin is not None:
            process.stdin.close()
