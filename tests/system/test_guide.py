"""The guide: every command of every page is run, in the order of its index, in one folder as a reader would."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import object_store
import pytest

import flowlab
from flowlab.config.reference import OWN, markdown, rows

GUIDE = Path(flowlab.__file__).parent / "guide"
ROOT = Path(__file__).resolve().parents[2]
PAGES = re.findall(r"\]\(([\w-]+\.md)\)", (GUIDE / "README.md").read_text())
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"#\s*exit code (\d+)\s*$")
EXPORT = re.compile(r"export (\w+)=(.*)")
STOP_TIMEOUT_S = 10
MANY = "many-machines.md"  # it needs a bucket


@dataclass(frozen=True)
class Command:
    """One command: the shell's text, and the exit code that the page promises."""

    text: str
    code: int = 0

    @property
    def stays(self) -> bool:
        """Whether it goes on in the background, as in a second terminal."""
        return self.text.endswith("&")


def commands(block: str) -> Iterator[Command]:
    for line in block.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            promised = CODE.search(line)
            yield Command(CODE.sub("", line[2:]).strip(), int(promised[1]) if promised else 0)


def write_recordings(folder: Path) -> None:
    """Two classes that a small network tells apart: a slow swing, and a fast one over it."""
    rng = np.random.default_rng(7)
    for label, rate in (("calm", 3.0), ("shaking", 40.0)):
        place = folder / "recordings" / "classes" / label
        place.mkdir(parents=True)
        for number in range(10):
            time = np.arange(2048) / 256
            wave = np.sin(2 * np.pi * (rate + rng.normal()) * time + rng.uniform(0, 6))
            channels = np.stack([wave, 0.5 * wave], axis=1) + 0.1 * rng.normal(size=(2048, 2))
            np.savetxt(place / f"{label}{number}.csv", channels, delimiter=",", header="x,y", comments="", fmt="%.5f")
    first = next((folder / "recordings" / "classes" / "shaking").glob("*.csv"))
    (folder / "new.csv").write_bytes(first.read_bytes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("guide")
    write_recordings(place)
    (place / "flows").symlink_to(ROOT / "flows")
    yield place
    subprocess.run([sys.executable, "-m", "flowlab.cli", "down"], cwd=place, check=False, capture_output=True)


def shell(text: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End what a second terminal would have: asked once, and then with all that it started."""
    process.terminate()
    try:
        process.wait(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:  # a worker whose server is down goes on asking
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_page(page: str, folder: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    background = []
    try:
        for language, name, content in BLOCK.findall((GUIDE / page).read_text()):
            if name:
                (folder / name).write_text(content)
            if language != "console":
                continue
            for command in commands(content):
                if exported := EXPORT.match(command.text):
                    environment[exported[1]] = shell(f"echo {exported[2]}", folder, environment).stdout.strip()
                    continue
                if command.stays:
                    words = shlex.split(command.text.removesuffix("&"))
                    background.append(subprocess.Popen(words, cwd=folder, env=environment, start_new_session=True))
                    continue
                done = shell(command.text, folder, environment)
                assert done.returncode == command.code, f"{page}: $ {command.text}\n{done.stdout}\n{done.stderr}"
                assert "Traceback" not in done.stderr, f"{page}: $ {command.text}\n{done.stderr}"
    finally:
        for process in background:
            stop(process)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_does_what_it_promises(
    page: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page != MANY:
        run_page(page, folder)
        return
    with object_store.served(tmp_path, "my-bucket") as endpoint:
        for name, value in object_store.environment(endpoint).items():
            monkeypatch.setenv(name, value)
        run_page(page, folder)


def test_the_index_names_every_page() -> None:
    assert set(PAGES) == {path.name for path in GUIDE.glob("*.md")} - {"README.md"}


def test_the_table_of_keys_in_the_guide_is_the_one_that_the_code_makes() -> None:
    assert markdown() in (GUIDE / "from-ti.md").read_text()


def test_keys_of_our_own_exist() -> None:
    assert set(OWN) <= {f"{row.section}.{row.key}" for row in rows()}
