from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from flowlab.cpu.process import SHOWN, run_tool
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


def test_a_module_that_python_runs_is_called_by_its_name() -> None:
    with pytest.raises(StageError, match=r"^json\.tool failed \(exit [0-9]+\)"):
        run_tool([sys.executable, "-m", "json.tool", "no-such-file"], timeout_s=20)


def test_of_long_output_the_beginning_and_the_end_are_quoted() -> None:
    code = "import sys; print('first word'); print('x' * 9000); print('last word'); sys.exit(1)"
    with pytest.raises(StageError, match=r"(?s)first word.*\.\.\..*last word$") as caught:
        run_tool([sys.executable, "-c", code], timeout_s=20)
    assert len(str(caught.value)) < 2 * SHOWN + 100


def test_a_program_gets_the_variables_that_are_given_beside_its_parent_s() -> None:
    code = "import os; print(os.environ['GIVEN'], 'PATH' in os.environ)"
    assert run_tool([sys.executable, "-c", code], timeout_s=20, environment={"GIVEN": "yes"}) == "yes True\n"
