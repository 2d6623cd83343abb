"""The nine stages, one file each: a light declaration ``STAGE``, and the function that does the work."""

from __future__ import annotations

import importlib

from flowlab.contracts import Stage

_NAMES = ("ingest", "extract", "inspect", "train", "quantize", "validate", "compile", "simulate", "report")


def _declared(name: str) -> Stage | None:
    try:
        module = importlib.import_module(f"flowlab.stages.{name}")
    except ModuleNotFoundError:  # its file is still being written
        return None
    stage: Stage = module.STAGE
    return stage


STAGES: tuple[Stage, ...] = tuple(stage for name in _NAMES if (stage := _declared(name)) is not None)
