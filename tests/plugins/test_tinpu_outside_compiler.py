"""TI's compiler where it is installed: a package and a command of its names that write, fail, hang or write nothing."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from integer_graphs import example_graph
from plugins.test_tinpu_devices import job_for

from flowlab.contracts import Program
from flowlab.engine.gates import executions_of, gates_of
from flowlab_tinpu import outside_compiler
from flowlab_tinpu.compiler_call import compiler_words
from flowlab_tinpu.devices import TARGETS

F28P55 = next(one for one in TARGETS if one.name == "F28P55")
WRITES = """\
import os, sys
words = sys.argv[1:]
made = words[words.index("-o") + 1]
onnx = open(words[1], "rb").read()
open(made, "wb").write(b"library of " + onnx)
open(os.path.join(os.path.dirname(made), "tvmgen_default.h"), "w").write("/* header */")
open(os.path.join(os.path.dirname(made), "model.c"), "w").write("not flowlab's")
os.symlink("/etc/passwd", os.path.join(os.path.dirname(made), "link.h"))
open(os.environ["SEEN"], "w").write("\\n".join(words))
"""
FAILS = "import sys\nprint('reading')\nprint('GCONV layer NOT offloaded', file=sys.stderr)\nsys.exit(3)\n"
HANGS = """\
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(os.environ["SEEN"], "w").write(str(child.pid))
time.sleep(600)
"""
NOTHING = "print('no cross compiler')\n"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package ``ti_mcu_nnc`` 2.1.2 that must never be imported, and a folder on PATH for its command."""
    packages, commands = tmp_path / "packages", tmp_path / "bin"
    (packages / "ti_mcu_nnc").mkdir(parents=True)
    (packages / "ti_mcu_nnc" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (packages / "ti_mcu_nnc-2.1.2.dist-info").mkdir()
    (packages / "ti_mcu_nnc-2.1.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: ti_mcu_nnc\nVersion: 2.1.2\n"
    )
    commands.mkdir()
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    monkeypatch.setenv("C2000_CG_ROOT", "/tools/c2000")
    return commands


def command(folder: Path, body: str, name: str = "tvmc") -> None:
    (folder / name).write_text(f"#!{sys.executable}\n{body}")
    (folder / name).chmod(0o755)


def lowered(tmp_path: Path) -> Program:
    (tmp_path / "best_model.onnx").write_bytes(b"integers")
    job = replace(job_for("F28P55", example_graph(), tmp_path), onnx=tmp_path / "best_model.onnx")
    return F28P55.lower(job)


def test_where_it_is_absent_the_program_is_what_it_was(tmp_path: Path) -> None:
    assert F28P55.tools() == {"ti_mcu_nnc": "absent"}
    made = lowered(tmp_path)
    assert made.warnings == () and "is not installed" in made.tools["ti_mcu_nnc"]
    assert "mod.a" not in made.files


def test_it_is_found_without_being_imported(installed: Path) -> None:
    assert F28P55.tools() == {"ti_mcu_nnc": "2.1.2, cl2000 absent"}
    command(installed, "", "cl2000")
    assert F28P55.tools() == {"ti_mcu_nnc": "2.1.2, cl2000 found"}
    assert "ti_mcu_nnc" not in sys.modules


def test_what_it_makes_joins_the_program_s_files(installed: Path, tmp_path: Path) -> None:
    command(installed, WRITES)
    made = lowered(tmp_path)
    assert made.warnings == () and made.tools == {"ti_mcu_nnc": ""}
    assert made.files["mod.a"].read_bytes() == b"library of integers"
    assert made.files["tvmgen_default.h"].read_text() == "/* header */"
    assert "link.h" not in made.files and "not flowlab's" not in made.files["model.c"].read_text()
    words = (tmp_path / "seen").read_text().splitlines()
    assert words[:2] == ["compile", "best_model.onnx"]
    assert any(word.startswith("--cross-compiler-options=") and "-I/tools/c2000/include" in word for word in words)
    assert any(word.startswith("--target=c, ti-npu type=hard ") for word in words)


def test_the_call_for_people_has_the_words_that_are_run(tmp_path: Path) -> None:
    text = lowered(tmp_path).files["compiler_call.txt"].read_text()
    call = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    target = next(word for word in shlex.split(call) if word.startswith("--target=")).removeprefix("--target=")
    places = "training/quantization/best_model.onnx", "compilation/mod.a"
    assert shlex.split(call) == compiler_words(F28P55.row, {}, target, *places)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (FAILS, r"tvmc failed \(exit 3\): \| (reading \| )?GCONV layer NOT offloaded"),
        (NOTHING, r"tvmc ended without an error and made no mod\.a: is cl2000 on PATH\?"),
        (None, "its command tvmc is not on PATH"),
    ],
)  # fmt: skip
def test_its_failure_is_a_warning_with_its_last_words_and_what_to_do(
    body: str | None, said: str, installed: Path, tmp_path: Path
) -> None:
    if body is not None:
        command(installed, body)
    made = lowered(tmp_path)
    (warning,) = made.warnings
    assert warning.startswith("ti_mcu_nnc 2.1.2, cl2000 absent: ")
    assert warning.endswith("does not depend on it; compiler_call.txt has the call to run by hand")
    assert re.search(said, warning) and re.search(said, made.tools["ti_mcu_nnc"])
    assert "mod.a" not in made.files and "model.flnp" in made.files


def test_one_that_hangs_is_stopped_with_all_that_it_started(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(installed, HANGS)
    monkeypatch.setattr(outside_compiler, "TIMEOUT_S", 3.0)
    (warning,) = lowered(tmp_path).warnings
    assert "tvmc took longer than 3 s and was stopped" in warning
    child = int((tmp_path / "seen").read_text())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _runs(child):
        time.sleep(0.05)
    assert not _runs(child)


def _runs(process: int) -> bool:
    """Whether it runs; what nobody has waited for yet does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_it_can_be_required() -> None:
    assert "ti_mcu_nnc" in executions_of([F28P55])

    class Record:
        def __init__(self, reason: str) -> None:
            self.metrics = {"tools": {"ti_mcu_nnc": reason}}

    for reason, passed in (("", True), ("is not installed", False)):
        (gate,) = gates_of(None, {"compile": Record(reason)}, {"executions": [], "not_run": []}, ["ti_mcu_nnc"])  # type: ignore[dict-item]
        assert gate.passed == passed
        assert passed or gate.missed == "--require ti_mcu_nnc: is not installed"
