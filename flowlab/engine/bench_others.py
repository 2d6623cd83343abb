"""Other tools that run pipelines, where they are installed: nine tasks in a chain, each of which appends a line.

Each is written as its own documentation begins: the shortest pipeline that is repeated only where something changed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

TASKS = 9
VERSION = re.compile(r"(?:^|\bversion )v?(\d+\.\d[\w.]*)", re.MULTILINE)
QUIET = {"DO_NOT_TRACK": "1", "KEDRO_DISABLE_TELEMETRY": "1", "DVC_NO_ANALYTICS": "1"}  # no telemetry

DOIT = """\
from pathlib import Path

def step(number):
    text = Path(f"{number - 1}.txt").read_text()
    Path(f"{number}.txt").write_text(text + f"task {number}\\n")

def task_step():
    for number in range(1, 10):
        yield {
            "name": str(number),
            "actions": [(step, [number])],
            "file_dep": [f"{number - 1}.txt"],
            "targets": [f"{number}.txt"],
        }
"""

SNAKEMAKE = """\
rule all:
    input: "9.txt"
""" + "".join(
    f"""
rule step{number}:
    input: "{number - 1}.txt"
    output: "{number}.txt"
    shell: "(cat {{input}}; echo task {number}) > {{output}}"
"""
    for number in range(1, TASKS + 1)
)

DVC = "stages:\n" + "".join(
    f"""\
  step{number}:
    cmd: (cat {number - 1}.txt; echo task {number}) > {number}.txt
    deps: [{number - 1}.txt]
    outs: [{number}.txt]
"""
    for number in range(1, TASKS + 1)
)

KEDRO = {
    "pyproject.toml": """\
[tool.kedro]
package_name = "steps"
project_name = "steps"
kedro_init_version = "VERSION"
source_dir = "src"
""",
    "conf/base/catalog.yml": "".join(
        f'"{number}":\n  type: steps.text.Text\n  filepath: {number}.txt\n' for number in range(TASKS + 1)
    ),
    "conf/local/.keep": "",
    "src/steps/__init__.py": "",
    "src/steps/settings.py": "",
    "src/steps/text.py": """\
from pathlib import Path

from kedro.io import AbstractDataset

class Text(AbstractDataset):
    def __init__(self, filepath):
        self._path = Path(filepath)

    def load(self):
        return self._path.read_text()

    def save(self, data):
        self._path.write_text(data)

    def _exists(self):
        return self._path.exists()

    def _describe(self):
        return {"filepath": str(self._path)}
""",
    "src/steps/pipeline_registry.py": """\
from kedro.pipeline import node, pipeline

def step(number):
    def append(text):
        return text + f"task {number}\\n"

    return node(append, inputs=str(number - 1), outputs=str(number), name=f"step{number}")

def register_pipelines():
    return {"__default__": pipeline([step(number) for number in range(1, 10)])}
""",
}


@dataclass(frozen=True)
class Tool:
    """One tool: its files, and the words that make everything, and that find nothing to do.

    Args:
        name: of its command.
        files: by path, ``VERSION`` standing for the tool's.
        fresh: words behind the command's name that run all tasks in a folder of these files.
        again: the same when everything is there.
        before: words that make the folder its project; not measured.
        note: what it does less, or more, than the others when nothing changed.
    """

    name: str
    files: Mapping[str, str]
    fresh: tuple[str, ...]
    again: tuple[str, ...]
    before: tuple[str, ...] = ()
    note: str = ""


TOOLS = (
    Tool("doit", {"dodo.py": DOIT}, ("-v0",), ("-v0",)),
    Tool("snakemake", {"Snakefile": SNAKEMAKE}, ("-c1", "-q"), ("-c1", "-q")),
    Tool(
        "kedro",
        KEDRO,
        ("run",),
        ("run", "--only-missing-outputs"),
        note="kedro asks only whether the files are there, not whether they are still right",
    ),
    Tool("dvc", {"dvc.yaml": DVC}, ("repro", "-q"), ("repro", "-q"), ("init", "--no-scm", "-q")),
)


def command_of(tool: str, which: Callable[[str], str | None] = shutil.which) -> str | None:
    """The tool's command beside this interpreter or on the PATH, or None."""
    beside = Path(sys.executable).parent / tool
    return str(beside) if beside.is_file() else which(tool)


def version_of(command: str) -> str:
    """The version that a tool says of itself, alone in a line or behind that word."""
    environment = {**os.environ, **QUIET}
    done = subprocess.run(
        [command, "--version"], capture_output=True, text=True, check=False, timeout=120, env=environment
    )
    found = VERSION.search(done.stdout)
    return found[1] if found else "unknown"


def lay_out(tool: Tool, version: str, folder: Path) -> None:
    """Write the tool's files, and the file that the chain starts from."""
    for name, text in tool.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("VERSION", version), encoding="utf-8")
    (folder / "0.txt").write_text("start\n", encoding="utf-8")


def is_whole(folder: Path) -> bool:
    """Whether the chain's end holds a line of every task."""
    last = folder / f"{TASKS}.txt"
    expected = ["start", *(f"task {number}" for number in range(1, TASKS + 1))]
    return last.is_file() and last.read_text(encoding="utf-8").splitlines() == expected
