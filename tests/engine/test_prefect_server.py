"""Where Prefect's API is, without starting one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowlab.engine import server
from flowlab.errors import StageError


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PREFECT_") or name == "DO_NOT_TRACK":
            monkeypatch.delenv(name)
    for name in (*server.QUIET, "PREFECT_HOME", "PREFECT_PROFILES_PATH"):
        monkeypatch.setenv(name, "x")  # so that it is put back
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_settings")
def test_the_database_is_inside_the_project_and_telemetry_is_off(tmp_path: Path) -> None:
    server.prepare_environment(tmp_path / "artifacts" / ".prefect")
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "artifacts" / ".prefect")
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert os.environ["DO_NOT_TRACK"] == "1"
    assert os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] == "120"


@pytest.mark.usefixtures("no_settings")
def test_a_named_api_keeps_the_users_own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    with server.running(tmp_path / "home") as api:
        assert api == server.Api("http://127.0.0.1:1/api", "named")
    assert "PREFECT_HOME" not in os.environ
    assert not (tmp_path / "home").exists()


@pytest.mark.usefixtures("no_settings")
def test_what_the_user_has_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    server.prepare_environment(tmp_path)
    assert os.environ["PREFECT_LOGGING_LEVEL"] == "DEBUG"


@pytest.mark.usefixtures("no_settings")
def test_a_server_that_dies_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / server.LOG).write_text("the database is read-only\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(StageError, match=r"does not answer(?s:.*)--engine local(?s:.*)the database is read-only"):
        server.wait_until_healthy(f"http://127.0.0.1:{port}/api", tmp_path)


def test_the_servers_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """The watching thread alone, in a real process whose parent is really killed."""
    child = "import sys, time; from flowlab.engine.server_process import end_with_parent; end_with_parent()"
    parent = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    time.sleep(0.3)
    assert Path(f"/proc/{pid}").exists()
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
