"""A machine without a C compiler: PyPI's ziglang brings one, and every integer of its C is right."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AGREES = """
import json, sys
from pathlib import Path
import numpy as np
from integer_graphs import narrow_graph, features_of
from flowlab.compiler import interpreter, emit_c, emit_runner
from flowlab.compiler.lower import lower
from flowlab.compiler.trace import layer_crcs
from flowlab.cpu.host_c import HostC

folder = Path(sys.argv[1])
rows = []
for bits in ((4, 4), (2, 8)):
    graph = narrow_graph(bits)
    container = lower(graph, "ab" * 32)
    texts = emit_c.emit_c(container, skip_normalize=True) | emit_runner.emit_runner(container, skip_normalize=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    features = features_of(graph, 50)
    values = interpreter.run(graph, features)
    found = HostC().run({name: folder / name for name in texts}, features, folder / "scratch")
    crcs = layer_crcs(graph, values)
    same = all((found.trace[name] == crc).all() for name, crc in crcs.items())
    rows.append(bool(same and (found.outputs["output"] == values["fc.bnorm"]).all()))
left = sorted(path.name for path in (folder / "scratch").iterdir())
print(json.dumps({"version": HostC().version(), "same": rows, "left": left}))
"""


@pytest.fixture(scope="module")
def zig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with ziglang as pip installs it, of the versions that the extra names."""
    folder = tmp_path_factory.mktemp("zig")
    extra = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("zig = "))
    (wanted,) = json.loads(extra.partition(" = ")[2].partition("#")[0])
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", folder, wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("pip cannot install ziglang here")
    yield folder
    shutil.rmtree(folder)  # 400 MB


def test_without_cc_the_host_s_c_runs_by_zig_and_agrees(zig: Path, tmp_path: Path) -> None:
    places = os.pathsep.join(map(str, (zig, ROOT / "tests")))
    caches = ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")
    outside = {name: value for name, value in os.environ.items() if name not in caches}
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", AGREES, tmp_path],
        env={**outside, "PATH": "", "PYTHONPATH": places, "HOME": str(home), "XDG_CACHE_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["version"].startswith("ziglang 0.")
    assert said["same"] == [True, True]
    assert said["left"] == [] and list(home.iterdir()) == []  # its caches went with the scratch folder


def dry_run(path: str, venv: Path) -> str:
    make = shutil.which("make")
    if make is None:
        pytest.skip("no make on PATH")
    done = subprocess.run(
        [make, "--dry-run", f"VENV={venv}", f"{venv}/.installed"],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "MAKEFLAGS": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return next(line for line in done.stdout.splitlines() if " pip install " in line)


def test_make_installs_zig_where_there_is_no_compiler_and_only_there(tmp_path: Path) -> None:
    assert dry_run("", tmp_path / "venv").endswith("-e '.[test,zig]'")
    compiler = tmp_path / "gcc"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    assert dry_run(str(tmp_path), tmp_path / "venv").endswith("-e '.[test]'")
