"""Running exported files: their outputs, their bytes, and how fast ONNX Runtime is with them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from flowlab.stages.validate import session_of

FED_S = 0.2  # of feeding, in each round


def exported(graph: Any) -> bytes:
    """A graph as its ONNX, without further metadata."""
    from flowlab.compiler.export_onnx import export_onnx

    return export_onnx(graph, {})


def packed_bytes(graph: Any) -> int:
    """Bytes of a graph's weights at their bits."""
    bits = sum(
        node.constants["weight"].size * node.attributes.get("weight_bits", 8)
        for node in graph.nodes
        if "weight" in node.constants
    )
    return -(-int(bits) // 8)


def outputs_of(model: bytes, features: Any, batch: int = 256) -> Any:
    """A file's first output on all windows, float32 or integers (window, ...)."""
    import numpy as np

    session = session_of(model)
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: features[at : at + batch]})[0] for at in range(0, len(features), batch)]
    return np.concatenate(parts)


def speeds(models: Sequence[bytes], features: Any, batch: int, rounds: int) -> list[float]:
    """How many times as fast as the first each is: the median over rounds in which they take turns."""
    sessions = [session_of(model) for model in models]
    windows = features[:batch]
    ratios: list[list[float]] = [[] for _ in models]
    for at in range(rounds + 1):
        taken = [_per_call(session, windows) for session in sessions]
        if at:  # the first round warms up
            for one, seconds in zip(ratios, taken, strict=True):
                one.append(taken[0] / seconds)
    return [median(one) for one in ratios]


def _per_call(session: Any, windows: Any) -> float:
    feed, calls, start = {session.get_inputs()[0].name: windows}, 0, time.process_time()
    while time.process_time() - start < FED_S:
        for _ in range(16):
            session.run(None, feed)
        calls += 16
    return (time.process_time() - start) / calls
