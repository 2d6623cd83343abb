from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from flowlab.cpu import host_compiler
from flowlab.cpu.process import run_tool
from flowlab.errors import StageError

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(60)
"""


def test_what_a_program_prints_comes_back() -> None:
    assert run_tool([sys.executable, "-c", "print(6 * 7)"], timeout_s=20) == "42\n"


def test_a_program_that_fails_is_quoted_with_its_exit_code() -> None:
    with pytest.raises(StageError, match=r"failed \(exit 3\):\nno such layer"):
        run_tool([sys.executable, "-c", "import sys; print('no such layer'); sys.exit(3)"], timeout_s=20)


def test_a_program_that_hangs_is_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(StageError, match=r"took longer than 2 s and was stopped"):
        run_tool([sys.executable, "-c", PARENT, pid_file], timeout_s=2)
    pid = int(pid_file.read_text())
    for _ in range(100):
        if not _runs(pid):
            return
        time.sleep(0.05)
    raise AssertionError("the grandchild survived")


def _runs(pid: int) -> bool:
    """Whether a process is there and is no zombie that waits for its parent."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_no_compiler_on_path_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert host_compiler.find() is None


def test_a_compiler_that_does_not_answer_has_an_unknown_version(tmp_path: Path) -> None:
    assert host_compiler.HostCompiler(str(tmp_path / "cc")).version() == "unknown"
