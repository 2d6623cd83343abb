"""`flowlab up`, `down`, `status`: a real server in the background, and runs that find it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import prefect_project as project


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose server is up."""
    made = tmp_path_factory.mktemp("project")
    with project.server_of(made):
        yield made


def test_two_commands_at_once_start_one_server(tmp_path: Path) -> None:
    both = [project.start(tmp_path, "up", "--port", str(project.free_port())) for _ in range(2)]
    said = [one.communicate(timeout=project.LIMIT_S) for one in both]
    try:
        assert [one.returncode for one in both] == [0, 0], said
        texts = sorted(next(line for line in out.splitlines() if "server is up" in line) for out, _ in said)
        assert texts[0].startswith("Prefect's server is up already: http://127.0.0.1:")
        assert texts[1].startswith("Prefect's server is up: http://127.0.0.1:")
        found = project.status(tmp_path)
        assert all(f"(pid {found['pid']})" in text for text in texts)
    finally:
        out = project.flowlab(tmp_path, "down")
    assert "Left behind: the database artifacts/.prefect/prefect.db (" in out
    assert "artifacts/.prefect/up.log" in out
    assert not project.is_alive(found["pid"])
    assert project.status(tmp_path)["source"] == ""
    assert "No server of this project is up." in project.flowlab(tmp_path, "down")


def test_a_run_uses_the_projects_server_without_configuration(folder: Path) -> None:
    result = project.run(folder)
    found = project.status(folder)
    assert result["engine"] == "prefect"
    run = project.flow_run(found["api"], result["run"])
    assert run["state_type"] == "COMPLETED"
    assert project.task_states(found["api"], run) == dict.fromkeys(project.STAGES, "Completed")
    assert not (folder / "artifacts" / ".prefect" / "server.log").exists(), "a temporary server was started"
    assert found["runs"]["recent"] >= 1
    assert found["reachable"] is True
    assert found["version"]
    assert found["uptime_s"] > 0
    assert found["database"]["bytes"] > 0


def test_it_listens_on_this_machine_only(folder: Path) -> None:
    port = int(project.status(folder)["api"].rsplit(":", 1)[1].split("/")[0])
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [fields[1] for fields in lines if fields[3] == "0A" and fields[1].endswith(f":{port:04X}")]
    assert listening == [f"0100007F:{port:04X}"]


def test_its_pages_lie_in_the_project_and_are_served(folder: Path) -> None:
    import httpx

    assert (folder / "artifacts" / ".prefect" / "ui").is_dir()
    page = httpx.get(project.status(folder)["url"], follow_redirects=True, timeout=60)
    assert page.status_code == 200
    assert "<html" in page.text


def test_a_server_that_was_killed_is_said_and_a_run_has_one_of_its_own(tmp_path: Path) -> None:
    project.flowlab(tmp_path, "up", "--port", str(project.free_port()))
    pid = project.status(tmp_path)["pid"]
    os.kill(pid, signal.SIGKILL)
    while project.is_alive(pid):
        time.sleep(0.05)
    out = project.flowlab(tmp_path, "run")
    assert f"The server of `flowlab up` (pid {pid}) is gone; this run has one of its own." in out
    assert "engine prefect" in out
    assert project.status(tmp_path)["source"] == ""
    assert "is gone" not in project.flowlab(tmp_path, "run", epochs=4)
