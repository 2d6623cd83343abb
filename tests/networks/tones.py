"""Windows of three classes that a small network learns in a second: tones of three frequencies in noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def tones(count: int, seed: int, length: int = 96) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features ``(count, 1, length, 1)`` and labels ``(count,)``."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    time = np.arange(length)[None, :]
    phase = random.uniform(0, 2 * np.pi, (count, 1))
    wave = np.sin(2 * np.pi * (0.05 + 0.1 * labels[:, None]) * time + phase)
    noise = random.normal(0, 0.3, (count, length))
    return (20 * (wave + noise) + 7).astype(np.float32).reshape(count, 1, length, 1), labels.astype(np.int64)
