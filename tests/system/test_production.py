"""The guide's container image, as far as it goes without a container: its worker, in its folder, with its variables."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import pytest

import flowlab

sys.path.insert(0, str(Path(__file__).parent))

import prefect_project as project

PAGE = Path(flowlab.__file__).parent / "guide" / "production.md"
QUICK = ("training.training_epochs=1", "training.quantization_epochs=1", "training.quantization_method=PTQ")


@dataclass(frozen=True)
class Image:
    """What the page's Dockerfile says."""

    runs: tuple[str, ...]
    variables: dict[str, str]
    folder: str
    command: list[str]


def image() -> Image:
    (text,) = re.findall(r"^```dockerfile file=Dockerfile\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.partition(" ") for line in text.replace("\\\n", " ").splitlines() if line]
    assert {word for word, _, _ in lines} == {"FROM", "RUN", "USER", "WORKDIR", "ENV", "CMD"}
    said = {word: rest.strip() for word, _, rest in lines}
    return Image(
        tuple(rest.strip() for word, _, rest in lines if word == "RUN"),
        dict(pair.split("=", 1) for pair in shlex.split(said["ENV"])),
        said["WORKDIR"],
        json.loads(said["CMD"]),
    )


def test_the_image_installs_what_there_is() -> None:
    (install,) = [run for run in image().runs if run.startswith("pip install")]
    (wanted,) = [word for word in shlex.split(install) if word.startswith("flowlab")]
    name, extras = re.fullmatch(r"(\w+)\[([\w,]+)\]", wanted).groups()  # type: ignore[union-attr]
    assert name == "flowlab"
    assert set(extras.split(",")) <= set(distribution("flowlab").metadata.get_all("Provides-Extra") or ())


@pytest.fixture
def served(wheel_bin: Path, tmp_path: Path) -> Iterator[tuple[Path, Path, dict[str, str]]]:
    """The folder that is deployed from, the worker's, and the environment of the former."""
    here, there = tmp_path / "desk", tmp_path / "container"
    here.mkdir()
    there.mkdir()
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTHON"))}
    desk = {**outside, "PREFECT_HOME": str(tmp_path / "home"), "DO_NOT_TRACK": "1"}

    def desk_says(*words: str) -> str:
        done = subprocess.run(
            [wheel_bin / "flowlab", *words], cwd=here, env=desk, capture_output=True, text=True, timeout=300, check=True
        )
        return done.stdout

    desk_says("up", "--port", str(project.free_port()))
    worker = None
    try:
        desk["PREFECT_API_URL"] = json.loads(desk_says("status", "--json"))["api"]
        desk_says("deploy", "--folder", str(there), *(word for one in QUICK for word in ("--set", one)))
        found = image()
        # the tree is found through PATH in an image; the folder is another one here, for that one is root's
        variables = {
            **desk,
            **found.variables,
            "PREFECT_HOME": str(tmp_path / "far"),
            "PREFECT_WORKER_QUERY_SECONDS": "2",
        }
        with (tmp_path / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                [wheel_bin / found.command[0], *found.command[1:]],
                cwd=there, env=variables, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        yield here, there, desk
    finally:
        if worker is not None:
            os.killpg(worker.pid, signal.SIGTERM)
            try:
                worker.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
        desk.pop("PREFECT_API_URL", None)
        desk_says("down")


def test_the_images_worker_does_a_run_in_its_own_folder(
    served: tuple[Path, Path, dict[str, str]], wheel_bin: Path
) -> None:
    here, there, desk = served
    done = subprocess.run(
        [wheel_bin / "flowlab", "deploy", "run", "on-demand", "--set", "training.seed=3", "--watch"],
        cwd=here, env=desk, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr + (there.parent / "worker.log").read_text()[-2000:]
    (run,) = (there / "artifacts" / ".store" / "runs").iterdir()
    written = json.loads((run / "run.json").read_text())
    assert written["state"] == "Completed" and written["config"]["training"]["seed"] == 3
    assert not (here / "artifacts" / ".store" / "runs").exists()


def test_the_page_deploys_for_the_images_folder() -> None:
    assert f"flowlab deploy config.yaml --folder {image().folder}\n" in PAGE.read_text()
    assert f"--home-dir {image().folder} " in " ".join(image().runs)
