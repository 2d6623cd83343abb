"""Trains and quantizes in one store after another, in forked processes that may be killed at a fault point.

`python killed_training.py`: reads a line of JSON for each run from standard input, ``{"config", "store", "fault"}``,
and answers with one: ``{"signal", "said", "epochs"}`` and, of a run that came to its end, the sha256 of its files.
A fork is a process of its own, and torch is imported once.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from flowlab.config import load_mapping
from flowlab.engine.local import prepare, run_local
from flowlab.plugins import load
from flowlab.stages import STAGES
from flowlab.store.store import Store

UP_TO = 5  # ingest, extract, inspect, train, quantize


def run(config: dict[str, Any], store: str, answer: int) -> None:
    """Run the stages; what they say of epochs, and in the end their files, are lines in ``answer``."""
    catalogue = load()
    prepared = prepare(STAGES[:UP_TO], load_mapping(config, catalogue), catalogue, Store(Path(store)))

    def tell(**what: Any) -> None:
        os.write(answer, json.dumps(what).encode() + b"\n")

    def progress(node: Any) -> Any:
        return lambda what, done: tell(stage=node.name, said=what)

    done = run_local(prepared, progress)
    tell(
        files={
            f"{name}.{role}": sorted(stored.sha256 for stored in files.values())
            for name, one in done.items()
            for role, files in one.record.outputs.items()
        }
    )


def main() -> None:
    """Fork for each line."""
    import onnx  # noqa: F401 - what takes long is imported once for all
    import pyarrow  # noqa: F401
    import torch.fx  # noqa: F401

    import flowlab.learn.loop
    import flowlab.learn.trace
    import flowlab.quant.qat  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        reads, writes = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reads)
            os.environ["FLOWLAB_FAULT"] = asked["fault"]
            code = 1
            try:
                run(asked["config"], asked["store"], writes)
                code = 0
            finally:
                os._exit(code)
        os.close(writes)
        with os.fdopen(reads) as told:
            lines = [json.loads(one) for one in told]
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "lines": lines}), flush=True)


if __name__ == "__main__":
    main()
