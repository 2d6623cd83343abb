"""DC arc faults, made from a seed: what a current sensor on a DC line could see with and without an arc.

One recording is one stretch of one load's current, sampled at `RATE_HZ`.
Without an arc there are the load's DC current, the ripple of its switching with harmonics, pink noise, the sensor's
white noise, and what a plant has anyway: commutation spikes and steps of the load.
With an arc there are besides: broadband noise whose spectrum falls slowly and has a broad hump, switched on and off by
ignition and extinction, a low-frequency burst at each ignition, and a jitter of the arc's voltage that smears the
ripple. Levels are drawn for each recording over ranges that overlap, so no single moment tells the classes apart.
The numbers are plausible, and none was measured: synthetic data prove a tool chain, not a detector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowlab.contracts import Recording

RATE_HZ = 250_000
LENGTH = 8 * 1024  # samples of a recording: 33 ms
CLASSES = ("arc", "normal")
LOG_FREQUENCY = np.log(np.maximum(np.fft.rfftfreq(LENGTH, 1 / RATE_HZ), 200.0))  # of coloured noise: flat below

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Load:
    """A load as its current shows it: amperes, hertz, and how it is split."""

    name: str
    current: tuple[float, float]  # A, least and most
    ripple_hz: tuple[float, float]
    ripple: tuple[float, float]  # amplitude, A
    harmonics: int
    noise: float  # pink noise relative to the common range
    spikes_hz: float  # commutations a second that leave a spike
    splits: tuple[tuple[str, int], ...]  # recordings a class, by split


SEEN = (("train", 96), ("val", 32), ("test", 24))
LOADS = (
    Load("resistive", (2.0, 9.0), (90.0, 130.0), (0.002, 0.02), 2, 0.8, 60.0, SEEN),
    Load("buck_converter", (1.0, 6.0), (18_000.0, 32_000.0), (0.02, 0.25), 4, 1.0, 300.0, SEEN),
    Load("string_inverter", (3.0, 12.0), (14_000.0, 22_000.0), (0.03, 0.3), 7, 1.3, 500.0, SEEN),
    Load("motor_drive", (1.0, 10.0), (7_000.0, 13_000.0), (0.03, 0.4), 9, 1.2, 900.0, SEEN),
    Load("led_driver", (0.5, 4.0), (38_000.0, 60_000.0), (0.02, 0.2), 2, 0.9, 200.0, (("test", 24),)),
)


def recordings(seed: int) -> Iterator[Recording]:
    """All recordings: loads in order, both classes; the same seed gives the same bytes.

    Samples are float32 amperes, shape ``(LENGTH, 1)``. Each recording has its own generator, drawn from the seed and
    its place, so that one can be made without the others.
    """
    place = 0
    for load in LOADS:
        for split, count in load.splits:
            for number in range(count):
                for label in CLASSES:
                    rng = np.random.Generator(np.random.PCG64([seed, place]))
                    place += 1
                    yield Recording(
                        id=f"{label}/{load.name}_{split}_{number:02d}",
                        label=label,
                        samples=current(load, label == "arc", rng).astype(np.float32)[:, None],
                        columns=("current_a",),
                        split=split,
                    )


def current(load: Load, arc: bool, rng: np.random.Generator) -> Array:
    """The current of one recording in amperes, shape ``(LENGTH,)``."""
    level = log_uniform(rng, 0.004, 0.01) * load.noise
    ripple = ripples(load, rng)
    added = log_uniform(rng, 0.02, 0.3) * coloured(rng, 2.4)  # what the load draws, slowly wandering
    added += level * log_uniform(rng, 0.3, 1.5) * coloured(rng, 1.0)
    added += level * log_uniform(rng, 0.2, 0.6) * rng.standard_normal(LENGTH)
    added += spikes(load.spikes_hz, level, rng) + steps(rng)
    if arc:
        burning = on_and_off(rng, on_s=0.012, off_s=0.0007)
        strength = level * log_uniform(rng, 2.35, 8.0)
        added += strength * burning * coloured(rng, 0.35, hump=True)
        added += ignitions(burning, rng)
        ripple *= 1 + 0.12 * burning * coloured(rng, 1.6)
    total: Array = rng.uniform(*load.current) + ripple + added
    return total


def log_uniform(rng: np.random.Generator, least: float, most: float) -> float:
    """A number whose logarithm is evenly spread."""
    return float(np.exp(rng.uniform(np.log(least), np.log(most))))


def coloured(rng: np.random.Generator, slope: float, hump: bool = False) -> Array:
    """Noise of unit variance whose power falls with ``frequency ** slope``, optionally with a broad hump."""
    amplitude = np.exp(-slope / 2 * LOG_FREQUENCY)
    if hump:
        middle, width = np.log(log_uniform(rng, 25_000.0, 60_000.0)), rng.uniform(0.25, 0.4)
        amplitude *= 1 + 2.0 * np.exp(-(((LOG_FREQUENCY - middle) / width) ** 2) / 2)
    amplitude[0] = 0
    parts = rng.standard_normal((2, len(amplitude))) * amplitude
    noise: Array = np.fft.irfft(parts[0] + 1j * parts[1], LENGTH)
    noise /= noise.std()
    return noise


def on_and_off(rng: np.random.Generator, on_s: float, off_s: float) -> Array:
    """1 while the arc burns, 0 while it is extinguished; stretches of exponential length."""
    state = np.ones(LENGTH)
    at = 0
    while at < LENGTH:
        at += 1 + int(rng.exponential(on_s) * RATE_HZ)
        off = 1 + int(rng.exponential(off_s) * RATE_HZ)
        state[at : at + off] = 0
        at += off
    return state


def ignitions(burning: Array, rng: np.random.Generator) -> Array:
    """A damped low-frequency burst wherever the arc strikes."""
    strikes = np.flatnonzero(np.diff(burning) > 0)
    out = np.zeros(LENGTH)
    for at in strikes:
        add_burst(out, int(at), 0.08 * rng.standard_normal(), rng)
    return out


def add_burst(out: Array, at: int, amplitude: float, rng: np.random.Generator) -> None:
    """A damped oscillation between 300 and 3000 Hz, added to ``out`` from sample ``at`` on."""
    t = np.arange(min(1200, LENGTH - at)) / RATE_HZ
    wave = np.exp(-t / 0.0008) * np.cos(2 * np.pi * rng.uniform(300, 3000) * t)
    out[at : at + len(t)] += amplitude * wave


def ripples(load: Load, rng: np.random.Generator) -> Array:
    """The switching frequency and its harmonics, with a little wander of the frequency."""
    t = np.arange(LENGTH) / RATE_HZ
    base, amplitude = rng.uniform(*load.ripple_hz), log_uniform(rng, *load.ripple)
    phase = 2 * np.pi * base * t + 0.02 * np.cumsum(coloured(rng, 1.0)) / 50
    wave = np.exp(1j * phase)
    power = np.ones_like(wave)
    out = np.zeros(LENGTH)
    for harmonic in range(1, load.harmonics + 1):
        if harmonic * base < RATE_HZ / 2:
            power *= wave
            height, turn = amplitude / harmonic * np.exp(rng.normal(0, 0.4)), rng.uniform(0, 2 * np.pi)
            out += (height * np.cos(turn)) * power.real - (height * np.sin(turn)) * power.imag
    return out


def spikes(rate_hz: float, level: float, rng: np.random.Generator) -> Array:
    """Commutation spikes: a few samples long, at random times."""
    out = np.zeros(LENGTH)
    at = rng.integers(0, LENGTH, rng.poisson(rate_hz * LENGTH / RATE_HZ))
    np.add.at(out, at, level * 1.5 * rng.standard_normal(len(at)))
    return np.convolve(out, np.exp(-np.arange(6) / 1.5), mode="full")[:LENGTH]


def steps(rng: np.random.Generator) -> Array:
    """Steps of the load, each with the damped burst that a filter answers with."""
    out = np.zeros(LENGTH)
    for _ in range(rng.poisson(6)):
        add_burst(out, int(rng.integers(0, LENGTH)), 0.08 * rng.standard_normal(), rng)
    return out
