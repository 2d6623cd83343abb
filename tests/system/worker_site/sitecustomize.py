"""On PYTHONPATH of a test's workers: what `watched_run.py` does for one process, for every process that they start.

Every call of a stage's function is a line in the file that WATCHED_LOG names: its process, its folder, and the stage.
A stage ends only when the file ``<WATCHED_HOLD>-<stage>`` is not there. WATCHED_ODD is a library of another version.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any


def _watch() -> None:
    from flowlab.engine import execute, facts

    function_of, version_of = execute._function, facts.DiskFacts.version

    def watched(stage: Any) -> Any:
        with Path(os.environ["WATCHED_LOG"]).open("a") as log:
            log.write(f"{os.getpid()} {Path.cwd().name} {stage.name}\n")
        function = function_of(stage)

        def run(job: Any) -> Any:
            result = function(job)
            while Path(f"{os.environ['WATCHED_HOLD']}-{stage.name}").exists():
                time.sleep(0.01)
            return result

        return run

    def version(self: Any, distribution: str) -> str:
        return "0.0" if distribution == os.environ.get("WATCHED_ODD") else version_of(self, distribution)

    execute._function = watched
    facts.DiskFacts.version = version  # type: ignore[method-assign]


if "flowlab.engine.far_stage" in sys.orig_argv:  # the stage's own process
    _watch()
