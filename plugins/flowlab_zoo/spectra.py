"""Sets on which quantizers are compared: spectra of made-up vibrations, and written digits as short series.

The vibrations have six kinds: harmonics of a turning shaft, plus one of nothing, narrow sidebands, wide sidebands, a
resonance, half harmonics, or a wandering frequency. Signature and noise are set so that a small network misses one
window in twenty in float: then a loss by quantization shows. The numbers are plausible, and none was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowlab.contracts import Recording
from flowlab.errors import DataError

FRAME = 1024  # samples of a vibration
BINS = 256  # of its log spectrum
SIGNATURE, NOISE = 0.80, 0.35
HARMONICS = 6
VIBRATIONS = (
    "0_plain", "1_narrow_sidebands", "2_wide_sidebands", "3_resonance", "4_half_harmonics", "5_wander",
)  # fmt: skip
VIBRATIONS_SPLIT = (("train", 6000), ("test", 2000))
DIGITS_TRAIN = 1347  # of 1797

Array = NDArray[np.floating[Any]]


def vibrations(seed: int) -> Iterator[Recording]:
    """8000 log spectra: float32, shape ``(256, 1)``; the same seed gives the same bytes."""
    rng = np.random.default_rng(seed)
    for split, count in VIBRATIONS_SPLIT:
        classes = rng.integers(0, len(VIBRATIONS), count)
        frames = np.stack([_frame(int(one), rng) for one in classes])
        for place, (spectrum, one) in enumerate(zip(log_spectra(frames), classes, strict=True)):
            yield _recording(f"{split}/{place:04d}", spectrum, VIBRATIONS[one], split)


def log_spectra(frames: Array) -> NDArray[np.float32]:
    """``(N, 1024)`` -> ``(N, 256)``: Hann window, magnitudes, sums of two bins without the mean's, ten logarithms."""
    magnitudes = np.abs(np.fft.rfft(frames * np.hanning(FRAME), axis=1) / FRAME)
    bins = magnitudes[:, 1 : 2 * BINS + 1].reshape(len(frames), BINS, 2).sum(2)
    return np.asarray(10 * np.log(1e-12 + bins)).astype(np.float32)


def digits(seed: int) -> Iterator[Recording]:
    """1797 written digits of 8 x 8 points in reading order: float32, shape ``(64, 1)``; ``seed`` orders them.

    Raises:
        DataError: where scikit-learn, which brings them, is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            f"the written digits come with scikit-learn, which is not installed ({error}). "
            "Write: pip install 'flowlab[bench]'"
        ) from error
    found = load_digits()
    for place, at in enumerate(np.random.default_rng(seed).permutation(len(found.target))):
        split = "train" if place < DIGITS_TRAIN else "test"
        yield _recording(f"{split}/{place:04d}", found.data[at].astype(np.float32), str(found.target[at]), split)


def _recording(name: str, series: NDArray[np.float32], label: str, split: str) -> Recording:
    return Recording(id=name, label=label, samples=series[:, None], columns=("value",), split=split)


def _frame(kind: int, rng: np.random.Generator) -> Array:
    """One vibration; what is drawn, and in which order, decides the bytes of all that follow."""
    time = np.arange(FRAME)
    turn = rng.uniform(40, 64) / FRAME * 2 * np.pi
    amplitude = np.exp(rng.normal(0, 0.5, HARMONICS)) / (1 + np.arange(HARMONICS))
    phases = rng.uniform(0, 2 * np.pi, HARMONICS)
    depth = np.exp(rng.normal(np.log(SIGNATURE), 0.55))
    phase, modulation, extra = _SIGNATURES.get(VIBRATIONS[kind], _plain)(time, turn, depth, rng)
    wave = np.zeros(FRAME)
    for order in range(HARMONICS):
        wave += amplitude[order] * np.cos((order + 1) * phase + phases[order])
    wave = wave * modulation + extra + rng.normal(0, np.exp(rng.normal(np.log(NOISE), 0.3)), FRAME)
    return np.asarray(wave * np.exp(rng.normal(0, 0.4)))


Parts = tuple[Array, Array, Array]  # of a vibration: the shaft's phase, a modulation of its harmonics, what is added
Signature = Callable[[NDArray[np.int64], float, float, np.random.Generator], Parts]


def _plain(time: NDArray[np.int64], turn: float, depth: float, rng: np.random.Generator) -> Parts:
    return turn * time, np.ones(FRAME), np.zeros(FRAME)


def _sidebands(least: float, most: float) -> Signature:
    def signature(time: NDArray[np.int64], turn: float, depth: float, rng: np.random.Generator) -> Parts:
        distance = rng.uniform(least, most)
        modulation = 1 + depth * np.cos(distance / FRAME * 2 * np.pi * time + rng.uniform(0, 6.28))
        return turn * time, modulation, np.zeros(FRAME)

    return signature


def _resonance(time: NDArray[np.int64], turn: float, depth: float, rng: np.random.Generator) -> Parts:
    carrier = rng.uniform(120, 420) / FRAME * 2 * np.pi
    envelope = np.convolve(rng.normal(0, 1, FRAME), np.hanning(61) / np.sqrt(61 * 0.375), "same")
    extra = 0.55 * depth * envelope * np.cos(carrier * time + rng.uniform(0, 6.28))
    return turn * time, np.ones(FRAME), extra


def _half_harmonics(time: NDArray[np.int64], turn: float, depth: float, rng: np.random.Generator) -> Parts:
    extra = depth * 0.6 * np.cos(turn / 2 * time + rng.uniform(0, 6.28))
    extra = extra + depth * 0.4 * np.cos(1.5 * turn * time + rng.uniform(0, 6.28))
    return turn * time, np.ones(FRAME), extra


def _wander(time: NDArray[np.int64], turn: float, depth: float, rng: np.random.Generator) -> Parts:
    drift = np.convolve(rng.normal(0, 1, FRAME), np.hanning(101) / 101, "same")
    return turn * time + 0.9 * depth * 2 * np.cumsum(drift) / 3, np.ones(FRAME), np.zeros(FRAME)


_SIGNATURES: dict[str, Signature] = {
    "1_narrow_sidebands": _sidebands(5.5, 8.0),
    "2_wide_sidebands": _sidebands(10.5, 14.0),
    "3_resonance": _resonance,
    "4_half_harmonics": _half_harmonics,
    "5_wander": _wander,
}
