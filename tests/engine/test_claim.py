"""Who holds the project's Prefect database, with real locks and real processes, and without Prefect."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flowlab.engine import claim, daemon, server
from flowlab.engine.claim import Hold, Standing
from flowlab.errors import ConfigError, StageError

IMPOSSIBLE = (
    '{"pid": -1, "port": 1, "started": 1}',
    '{"pid": 1, "port": 70000, "started": 1}',
    '{"pid": 1, "port": 1, "started": NaN}',
    '{"pid": 1, "port": 1, "started": 1e308}',
)
NEVER = '{"pid": 1e400, "port": 1, "started": 1}'  # infinity is no number of a process
SLEEPER = "import sys, time; print('ready', flush=True); time.sleep(60)"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "PATIENCE_S", 0.3)


def held(home: Path, standing: Standing | None) -> subprocess.Popen[str]:
    """A process that holds the database alone, as the server of `flowlab up` does."""
    found = claim.find_or_take(home)
    assert isinstance(found, Hold)
    with found as hold:
        words = [sys.executable, "-c", SLEEPER, claim.MODULE, "up", str(home.resolve())]
        process = subprocess.Popen(words, pass_fds=(hold.descriptor,), stdout=subprocess.PIPE, text=True)
        hold.note(standing and Standing(process.pid, standing.port, standing.started))
    assert process.stdout is not None
    process.stdout.readline()
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_server_is_found_as_long_as_its_process_lives_and_never_after(tmp_path: Path) -> None:
    process = held(tmp_path, Standing(0, 4711, 1.0))
    try:
        assert claim.find(tmp_path) == Standing(process.pid, 4711, 1.0)
        assert claim.find_or_take(tmp_path) == claim.find(tmp_path)
        assert claim.is_ours(process.pid, tmp_path)
    finally:
        end(process)
    assert claim.find(tmp_path) is None
    assert not claim.is_ours(process.pid, tmp_path)


def test_the_note_of_a_dead_server_is_said_once_and_cleaned(tmp_path: Path) -> None:
    (tmp_path / claim.FILE).write_text(json.dumps({"pid": os.getpid(), "port": 4711, "started": 1.0}))
    found = claim.find_or_share(tmp_path)
    assert isinstance(found, Hold)
    with found as hold:
        assert hold.gone == Standing(os.getpid(), 4711, 1.0)
    again = claim.find_or_share(tmp_path)
    assert isinstance(again, Hold)
    with again as hold:
        assert hold.gone is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"pid": "x", "port": 1, "started": 1}', "\0" * 40, NEVER, "[" * 100_000, *IMPOSSIBLE]
)
def test_a_damaged_note_names_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / claim.FILE).write_text(content)
    found = claim.find_or_take(tmp_path)
    assert isinstance(found, Hold)
    with found as hold:
        assert hold.gone is None


def test_a_link_in_the_notes_place_is_refused_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text('{"pid": 1, "port": 1, "started": 1}')
    (tmp_path / claim.FILE).symlink_to(mine)
    with pytest.raises(OSError, match="symbolic links"):
        claim.find_or_take(tmp_path)
    assert mine.read_text()


def test_two_runs_share_the_database_and_keep_a_server_out(tmp_path: Path) -> None:
    first, second = claim.find_or_share(tmp_path), claim.find_or_share(tmp_path)
    assert isinstance(first, Hold)
    assert isinstance(second, Hold)
    with first, second, pytest.raises(StageError, match=r"a run with a temporary server(?s:.*)`flowlab up` again"):
        claim.find_or_take(tmp_path)
    found = claim.find_or_take(tmp_path)
    assert isinstance(found, Hold)
    with found:
        pass


def test_a_holder_that_does_not_say_who_it_is_is_an_error_and_no_second_server(tmp_path: Path) -> None:
    process = held(tmp_path, None)
    try:
        with pytest.raises(StageError, match="does not say which"):
            claim.find_or_share(tmp_path)
    finally:
        end(process)


def test_another_process_is_never_taken_for_the_server(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    process = held(other, Standing(0, 4711, 1.0))
    try:
        assert claim.is_ours(process.pid, other)
        assert not claim.is_ours(process.pid, tmp_path)
        assert not claim.is_ours(os.getpid(), tmp_path)
    finally:
        end(process)


def test_a_server_of_a_strangers_number_is_not_stopped(tmp_path: Path) -> None:
    """The lock is held, but the note names a process that is no server: this very test."""
    found = claim.find_or_take(tmp_path)
    assert isinstance(found, Hold)
    with found as hold:
        hold.note(Standing(os.getpid(), 4711, 1.0))
        with pytest.raises(StageError, match="no server of this project; nothing was stopped"):
            daemon.down(tmp_path)


def test_without_a_server_status_and_down_say_so(tmp_path: Path) -> None:
    status = daemon.status(tmp_path / "home")
    assert status.to_json()["reachable"] is False
    assert status.source == ""
    assert "flowlab up" in dict(status.lines())["server"]
    assert daemon.down(tmp_path / "home") == ("No server of this project is up.",)
    assert not (tmp_path / "home").exists()


def test_a_named_api_is_said_and_no_second_server_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(ConfigError, match=r"PREFECT_API_URL names http://127.0.0.1:9/api(?s:.*)Unset it"):
        daemon.up(tmp_path / "home", None, lambda text: None)
    status = daemon.status(tmp_path / "home")
    assert (status.source, status.reachable) == ("PREFECT_API_URL", False)
    assert "refused" in dict(status.lines())["answers"]
    assert "not flowlab's to stop" in daemon.down(tmp_path / "home")[0]
    assert not (tmp_path / "home").exists()


def test_the_password_of_a_named_api_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://me:pw@127.0.0.1:9/api")
    with pytest.raises(ConfigError, match=r"PREFECT_API_URL names http://127\.0\.0\.1:9/api") as caught:
        daemon.up(tmp_path / "home", None, lambda text: None)
    status = daemon.status(tmp_path / "home")
    assert status.api == "http://me:pw@127.0.0.1:9/api"  # asked for by `flowlab status --api`
    said = [caught.value, status.lines(), status.to_json(), daemon.down(tmp_path / "home")]
    assert "pw" not in str(said)


@pytest.mark.parametrize(
    "api", ["me:pw", "http://", "http://[::1", "file:///etc", " ", "http://a\nb", "http://h:99999"]
)
def test_a_named_api_that_is_no_address_is_an_error_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: str
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", api)
    for command in (server.api_url, lambda: daemon.status(tmp_path), lambda: daemon.down(tmp_path)):
        with pytest.raises(ConfigError, match=r"^PREFECT_API_URL holds no address .* unset it") as caught:
            command()
        assert "pw" not in str(caught.value)


@pytest.mark.parametrize("port", [-1, 70000])
def test_a_port_that_cannot_be_is_an_error_with_its_number(tmp_path: Path, port: int) -> None:
    with pytest.raises(ConfigError, match=f"--port {port}"):
        daemon.up(tmp_path, port, lambda text: None)


def test_a_taken_port_is_an_error_with_its_number(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: Address already in use"):
            daemon.up(tmp_path, port, lambda text: None)
    assert claim.find(tmp_path) is None


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "http://127.0.0.1:x/api", "nonsense", "http://[/api", ""])
def test_what_is_wrong_with_an_api_is_a_few_words(url: str) -> None:
    problem = server.problem_of(url, 1.0)
    assert problem
    assert "\n" not in problem
