"""Deployments, for real: a server, a worker, a run on demand, a schedule that fires; from a folder with nothing in it.

flowlab comes from its wheel, in an environment of its own, so that nothing of the source tree is found.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

import prefect_project as project

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["ingest", "extract", "inspect", "train", "quantize", "validate", "compile", "simulate", "report"]
QUICK = [
    "training.training_epochs=1",
    "training.quantization_epochs=1",
    "training.quantization_method=PTQ",
    "data_processing_feature_extraction.stride_size=1.0",
]
FIRES_S = 180


@dataclass(frozen=True)
class Place:
    """An empty folder, an environment with the wheel, a server that is up, deployments on it, and a worker."""

    folder: Path
    bin: Path
    api: str
    said: str

    def run(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [self.bin / words[0], *words[1:]],
            cwd=self.folder,
            env=environment(self.folder, PREFECT_API_URL=self.api),
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def deployment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.api}/deployments/name/flowlab/{name}", timeout=60).json()
        return found

    def runs_of(self, name: str) -> list[dict[str, Any]]:
        return project.asked(
            self.api, "flow_runs", deployments={"name": {"any_": [name]}}, sort="EXPECTED_START_TIME_DESC"
        )

    def artifacts_of(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        return project.asked(self.api, "artifacts", artifacts={"flow_run_id": {"any_": [run["id"]]}})

    def recorded(self, run: dict[str, Any]) -> dict[str, Any]:
        """What the store says of a flow run, under the same name."""
        text = (self.folder / "artifacts" / ".store" / "runs" / run["name"] / "run.json").read_text()
        found: dict[str, Any] = json.loads(text)
        return found


def environment(folder: Path, **more: str) -> dict[str, str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTHON"))}
    home = {
        "PREFECT_HOME": str(folder.parent / "home"),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    return {**outside, **home, "PREFECT_WORKER_QUERY_SECONDS": "2", **more}


@pytest.fixture(scope="module")
def wheel_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment in which flowlab comes from its wheel, its dependencies from the test's own."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    home = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, str(wheel)], check=True)
    site = next((home / "lib").glob("python*/site-packages"))
    own = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(own) + "\n")
    script = home / "bin" / "prefect"
    script.write_text(f"#!{home / 'bin' / 'python'}\nimport sys\nfrom prefect.cli import app\nsys.exit(app())\n")
    script.chmod(0o755)
    return home / "bin"


@pytest.fixture(scope="module")
def place(wheel_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("deployed") / "empty"
    folder.mkdir()

    def flowlab(*words: str) -> str:
        return subprocess.run(
            [wheel_bin / "flowlab", *words],
            cwd=folder,
            env=environment(folder),
            capture_output=True,
            text=True,
            timeout=240,
            check=True,
        ).stdout

    flowlab("up", "--port", str(project.free_port()))
    worker = None
    try:
        api = json.loads(flowlab("status", "--json"))["api"]
        sets = [word for one in QUICK for word in ("--set", one)]
        said = flowlab("deploy", *sets)
        with (folder.parent / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                [wheel_bin / "prefect", "worker", "start", "--pool", "flowlab", "--name", "test"],
                cwd=folder.parent,  # not where results shall go
                env=environment(folder, PREFECT_API_URL=api),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        yield Place(folder, wheel_bin, api, said)
    finally:
        if worker is not None:
            os.killpg(worker.pid, signal.SIGTERM)
            try:
                worker.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
        flowlab("down")


def test_the_next_commands_are_printed_with_the_server(place: Place) -> None:
    assert f"export PREFECT_API_URL={place.api}" in place.said
    assert "prefect worker start --pool flowlab" in place.said
    assert "prefect deployment run flowlab/on-demand --watch" in place.said
    assert str(place.folder) in place.said


def test_a_run_on_demand_ends_completed_and_its_results_lie_where_deploy_was_called(place: Place) -> None:
    out = place.run("prefect", "deployment", "run", "flowlab/on-demand", "--watch")
    assert "Completed" in out
    (found,) = place.runs_of("on-demand")
    assert project.task_states(place.api, found, len(STAGES)) == dict.fromkeys(STAGES, "Completed")
    (dataset,) = [path for path in (place.folder / "artifacts").iterdir() if not path.name.startswith(".")]
    assert (dataset / found["name"] / "report.html").is_file()
    assert (dataset / "latest").resolve().name == found["name"]
    assert place.recorded(found)["state"] == "Completed"
    progress = {
        one["key"].rsplit("-", 1)[1]: one["data"] for one in place.artifacts_of(found) if one["type"] == "progress"
    }
    assert progress == {"train": 100.0}
    logs = project.asked(place.api, "logs", logs={"flow_run_id": {"any_": [found["id"]]}})
    assert any(line["message"].startswith("simulated:") for line in logs)


def test_a_run_in_which_all_is_cached_shows_it_and_has_all_artifacts(place: Place) -> None:
    place.run("prefect", "deployment", "run", "flowlab/on-demand", "--watch")
    found = place.runs_of("on-demand")[0]
    assert project.task_states(place.api, found, len(STAGES)) == dict.fromkeys(STAGES, "Cached")
    artifacts = place.artifacts_of(found)
    kinds = {one["key"].rsplit("-", 1)[1]: one["type"] for one in artifacts if one["key"]}
    assert kinds == {
        "metrics": "table",
        "summary": "markdown",
        "training": "markdown",
        "confusion": "markdown",
        "report": "markdown",
    }
    (report,) = [one for one in artifacts if one["key"] and one["key"].endswith("-report")]
    assert str(place.folder) in report["data"]


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"optimizer": "adamm"}, "'adamm' is not one of"),
        ({"epochs": 3}, "'epochs' was unexpected"),
        ({"batch_size": "many"}, "'many'"),
    ],
)
def test_a_config_that_cannot_be_is_refused_at_submit(place: Place, training: dict[str, Any], said: str) -> None:
    config = place.deployment("on-demand")["parameters"]["config"]
    config["training"] |= training
    before = len(place.runs_of("on-demand"))
    out = place.run(
        "prefect", "deployment", "run", "flowlab/on-demand", "--param", f"config={json.dumps(config)}", code=1
    )
    assert said in " ".join(out.split())
    assert len(place.runs_of("on-demand")) == before


def test_a_gate_that_is_missed_is_a_failed_run_with_its_metrics(place: Place) -> None:
    config = place.deployment("on-demand")["parameters"]["config"]
    config["compilation"] |= {"max_flash_bytes": 1}
    words = ["--param", f"config={json.dumps(config)}", "--watch"]
    place.run("prefect", "deployment", "run", "flowlab/on-demand", *words, code=1)
    found = place.runs_of("on-demand")[0]
    assert found["state_type"] == "FAILED"
    assert "max_flash_bytes" in found["state"]["message"]
    assert any(one["type"] == "table" for one in place.artifacts_of(found))
    assert place.recorded(found)["state"] == "Failed"
    assert place.recorded(found)["metrics"]


def test_a_run_with_a_key_changed_takes_the_rest_from_the_deployment(place: Place) -> None:
    before = place.deployment("on-demand")["parameters"]
    words = ["flowlab", "deploy", "run", "on-demand", "--set", "compilation.max_flash_bytes=1", "--watch"]
    out = place.run(*words, code=1)
    assert "max_flash_bytes: the program needs" in out
    found = place.runs_of("on-demand")[0]
    config = found["parameters"]["config"]
    assert config["compilation"].pop("max_flash_bytes") == 1
    assert config == before["config"]
    assert place.deployment("on-demand")["parameters"] == before
    out = place.run("flowlab", "deploy", "run", "on-demand", "--set", "training.batch_sise=1", code=2)
    assert "no key 'batch_sise'. Did you mean 'batch_size'?" in out
    out = place.run("flowlab", "deploy", "run", "on-demnd", code=2)
    assert "no deployment named 'on-demnd'. Did you mean 'on-demand'?" in out


def test_deploying_again_makes_nothing_twice_and_a_paused_schedule_stays_paused(place: Place) -> None:
    before = place.deployment("nightly")
    (schedule,) = before["schedules"]
    assert (schedule["slug"], schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == (
        "nightly",
        "0 2 * * *",
        "UTC",
    )
    assert before["global_concurrency_limit"]["limit"] == 1
    path = f"{place.api}/deployments/{before['id']}/schedules/{schedule['id']}"
    assert httpx.patch(path, json={"active": False}, timeout=60).status_code == 204
    place.run("flowlab", "deploy", *[word for one in QUICK for word in ("--set", one)], "--cron", "30 3 * * *")
    after = place.deployment("nightly")
    assert after["id"] == before["id"]
    assert [(one["slug"], one["schedule"]["cron"], one["active"]) for one in after["schedules"]] == [
        ("nightly", "30 3 * * *", False)
    ]
    path = f"{place.api}/deployments/{after['id']}/schedules/{after['schedules'][0]['id']}"
    assert httpx.patch(path, json={"active": True}, timeout=60).status_code == 204


def test_a_schedule_really_fires(place: Place) -> None:
    place.run("flowlab", "deploy", *[word for one in QUICK for word in ("--set", one)], "--cron", "* * * * *")
    deadline = time.monotonic() + FIRES_S
    done: list[dict[str, Any]] = []
    while not done and time.monotonic() < deadline:
        done = [one for one in place.runs_of("nightly") if one["state_type"] == "COMPLETED"]
        time.sleep(1)
    assert done, [one["state_name"] for one in place.runs_of("nightly")]
    assert done[0]["auto_scheduled"] is True


def test_the_file_for_prefects_own_command_makes_the_same_deployments(place: Place) -> None:
    """Last, since it changes them: the demo's config in place of the quick one."""
    flowlab = {name: place.deployment(name) for name in ("on-demand", "nightly")}
    place.run("flowlab", "deploy")
    ours = {name: place.deployment(name) for name in flowlab}
    (schedule,) = ours["nightly"]["schedules"]
    path = f"{place.api}/deployments/{ours['nightly']['id']}/schedules/{schedule['id']}"
    assert httpx.patch(path, json={"active": False}, timeout=60).status_code == 204
    place.run("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(ROOT / "flows" / "prefect.yaml"))
    for name, one in ours.items():
        other = place.deployment(name)
        for key in ("id", "entrypoint", "parameters", "work_pool_name", "job_variables", "description", "pull_steps"):
            assert other[key] == one[key], (name, key)
        assert other["parameter_openapi_schema"] == one["parameter_openapi_schema"]
        assert [(s["slug"], s["schedule"]) for s in other["schedules"]] == [
            (s["slug"], s["schedule"]) for s in one["schedules"]
        ]
    assert [one["active"] for one in place.deployment("nightly")["schedules"]] == [False], "it was paused"
    assert yaml.safe_load((ROOT / "flows" / "prefect.yaml").read_text())["deployments"][1]["name"] == "nightly"


def test_without_a_server_the_error_says_how_to_start_one(tmp_path: Path) -> None:
    error = project.flowlab(tmp_path, "deploy", code=2)
    assert "no server is up, and a deployment lives on one. Write `flowlab up`" in error
