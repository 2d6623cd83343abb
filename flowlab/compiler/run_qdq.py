"""Run a model in QDQ form in ONNX Runtime, and count where it differs from the exact integers.

The runtime's kernels are asked for their precise form (``session.x64quantprecision``): without it, processors of the
x64 family that lack 8-bit dot products saturate sums of two products at 16 bits, and the result is another network.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BATCH = 256


@dataclass(frozen=True)
class Differences:
    """Vectors that were run, those in which any output differs, and by how many steps of the output at most."""

    vectors: int
    different: int
    max_steps: int

    def to_json(self) -> dict[str, int]:
        """The same by name."""
        return asdict(self)


def run_qdq(model: bytes, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The model's output, float32 (vector, ...), for float32 features (vector, channel, height, width)."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    (source,), (output,) = session.get_inputs(), session.get_outputs()
    parts = [
        session.run([output.name], {source.name: np.ascontiguousarray(features[start : start + BATCH])})[0]
        for start in range(0, max(len(features), 1), BATCH)
    ]
    return np.concatenate(parts)


def differences(model: bytes, features: NDArray[np.float32], exact: NDArray[Any], step: float = 1.0) -> Differences:
    """Compare with the exact form's outputs, shape (vector, ...).

    Args:
        step: the output's scale where it is real numbers; 1 where it is integers.
    """
    if len(features) == 0:
        return Differences(0, 0, 0)
    found = run_qdq(model, features)
    steps = np.abs(np.rint((found.astype(np.float64) - exact.astype(np.float64)) / step))
    steps = steps.reshape(len(features), -1).max(axis=1, initial=0)
    return Differences(len(features), int((steps > 0).sum()), int(steps.max(initial=0)))
