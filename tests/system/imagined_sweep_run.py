"""Runs a sweep over the imagined stages as `flowlab sweep` does: `python imagined_sweep_run.py [words]`.

Only the stages are imagined; command line, config, engine, store and server are the real ones.
With ``--deployed SWEEP.yaml`` it calls the flow as a worker does, which gets the sweep as JSON and nothing else.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))

import imagined_sweep

import flowlab.cli
import flowlab.stages


def deployed(path: Path) -> int:
    from flowlab.config.sweep import load_sweep
    from flowlab.engine import server

    given = json.loads(json.dumps(load_sweep(path).given))
    server.prepare_environment(Path("artifacts") / ".prefect")
    from flowlab.engine.flows import sweep

    result = sweep(sweep=given)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    flowlab.stages.STAGES = imagined_sweep.stages()
    if sys.argv[1] == "--deployed":
        sys.exit(deployed(Path(sys.argv[2])))
    sys.exit(flowlab.cli.main(["sweep", *sys.argv[1:]]))
