"""Runs the real `flowlab`: `python watched_run.py COMMAND [words]`.

Every call of a stage's function is a line in the file that WATCHED_LOG names: its process, and the stage.
WATCHED_HOLD=<stage> keeps that stage from ending, so that who kills the process finds it in the middle of its work.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import flowlab.cli
from flowlab.contracts import Stage, StageJob, StageResult
from flowlab.engine import execute

_function = execute._function


def watched(stage: Stage) -> Any:
    with Path(os.environ["WATCHED_LOG"]).open("a") as log:
        log.write(f"{os.getpid()} {stage.name}\n")
    function = _function(stage)

    def run(job: StageJob) -> StageResult:
        result = function(job)
        while os.environ.get("WATCHED_HOLD") == stage.name:
            time.sleep(0.01)
        return result

    return run


if __name__ == "__main__":
    execute._function = watched
    sys.exit(flowlab.cli.main(sys.argv[1:]))
