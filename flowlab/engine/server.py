"""Where Prefect's API is: the one that ``PREFECT_API_URL`` names, or Prefect's own temporary server.

The temporary server is Prefect's application with its database inside the project, so a later dashboard shows the run.
It is a child process that ends with its parent, however the parent ends (`flowlab.engine.server_process`).
It starts while this process imports Prefect, which saves seconds.
`prepare_environment` must have been called before Prefect is imported: Prefect freezes its settings at import.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowlab.errors import StageError

STARTUP_TIMEOUT_S = 120  # Prefect's 20 s are too few on a loaded machine (PrefectHQ/prefect#16397)
NAMED_TIMEOUT_S = 10  # a server that the user names is up already
LOG = "server.log"

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
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
}
"""No telemetry, no prompts, no second voice on the terminal: flowlab's own lines say what happens."""


def api_url() -> str | None:
    """The API that the user's environment names, or None."""
    return os.environ.get("PREFECT_API_URL") or None


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
def running(home: Path) -> Iterator[str]:
    """Yield the URL of an API: the named one as it is, else that of a temporary server which stops at the end.

    Raises:
        StageError: if the temporary server does not answer; the text ends with the last lines of its log.
    """
    prepare_environment(home)
    named = api_url()
    if named is not None:
        yield named
        return
    with temporary_server(home) as url:
        yield url


@contextmanager
def temporary_server(home: Path) -> Iterator[str]:
    """Start Prefect's server on a free port of this machine; yield its API's URL at once, stop it at the end.

    The port is open before the process runs, so clients may connect at once and are answered when it is up.
    """
    home.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        port = listening.getsockname()[1]
        process = _spawn(listening.fileno(), home)
    try:
        yield f"http://127.0.0.1:{port}/api"
    finally:
        _stop(process)


def wait_until_healthy(url: str, home: Path) -> None:
    """Return when the API answers.

    Raises:
        StageError: with the temporary server's last words, if nothing answers in time.
    """
    import httpx

    deadline = time.monotonic() + (STARTUP_TIMEOUT_S if url != api_url() else NAMED_TIMEOUT_S)
    problem = ""
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", timeout=max(1.0, deadline - time.monotonic())).status_code == 200:
                return
        except httpx.HTTPError as error:
            problem = f"{type(error).__name__}: {error}"
            if "refused" in problem and url != api_url():
                break  # the port was open from the start: the process is gone
        time.sleep(0.1)
    log = home / LOG
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:]) if log.is_file() else ""
    raise StageError(
        f"Prefect's API at {url} does not answer ({problem or 'not healthy'}). "
        f"`flowlab run --engine local` needs no server.{chr(10) + tail if tail else ''}"
    )


def _spawn(port_fd: int, home: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        **QUIET,
        "PREFECT_HOME": str(home.resolve()),
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
    }
    environment.pop("PREFECT_API_URL", None)
    with (home / LOG).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "flowlab.engine.server_process", str(port_fd)],
            env=environment,
            stdin=subprocess.PIPE,  # its end of file is the parent's death
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(port_fd,),
            start_new_session=True,  # Ctrl-C is for us; we stop the server when the flow has ended
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask first: the server writes the last states of task runs on its way out."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        if process.stdin is not None:
            process.stdin.close()
