from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = "from flowlab.faults import fault_point\nfor _ in range(3):\n    fault_point('epoch')\n    print('alive')"


@pytest.mark.parametrize(
    ("fault", "alive", "code"), [("", 3, 0), ("epoch", 0, -9), ("epoch:3", 2, -9), ("epoch:4", 3, 0), ("other", 3, 0)]
)
def test_a_process_dies_at_the_point_and_the_time_that_the_environment_names(fault: str, alive: int, code: int) -> None:
    environment = {**os.environ, "FLOWLAB_FAULT": fault, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout.count("alive"), done.returncode) == (alive, code)
