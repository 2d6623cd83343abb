"""Stretches of samples that stand in two splits: parts of one measurement that were saved in several files.

Every aligned stretch of `LENGTH` samples of one split is looked for at every offset in the others, by a rolling hash
of 64 bits, and then compared sample by sample. So a common part of 2 * LENGTH - 1 samples or more is always found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

from flowlab.contracts import Recording
from flowlab.signal.layout import SPLITS

LENGTH = 64  # samples of a stretch
LEAST_DIFFERENT = 32  # rows of a stretch that must differ: silence and short periods repeat by themselves
_STEP = 0x9E3779B97F4A7C15  # an odd constant: 2^64 / golden ratio
_BACK = pow(_STEP, -1, 1 << 64)

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Shared:
    """A stretch of `LENGTH` samples that begins at ``at`` in one recording and at ``again_at`` in another."""

    recording: str
    at: int
    again: str
    again_at: int

    def text(self, split: str, other: str) -> str:
        """One sentence."""
        return (
            f"{LENGTH} samples from {self.at} of '{self.recording}' ({split}) "
            f"stand again from {self.again_at} of '{self.again}' ({other})"
        )


def shared_stretches(recordings: Sequence[Recording]) -> list[tuple[str, str, Shared]]:
    """What stands in two splits: (split, other split, stretch), in the order of the splits.

    Args:
        recordings: each with its split; ``samples`` float32 (time, column).
    """
    by_split = {split: [item for item in recordings if item.split == split] for split in SPLITS}
    found = []
    for split, other in combinations(SPLITS, 2):
        found += [(split, other, one) for one in _between(by_split[split], by_split[other])]
    return found


def places_elsewhere(recordings: Sequence[Recording]) -> dict[str, list[tuple[int, int]]]:
    """By recording: the samples ``[start, stop)`` that stand in another split too, apart from each other, in order.

    Args:
        recordings: each with its split; ``samples`` float32 (time, column).
    """
    by_split = {split: [item for item in recordings if item.split == split] for split in SPLITS}
    found: dict[str, set[int]] = {}
    for split, other in permutations(SPLITS, 2):  # both ways: only what is searched is found in every recording
        for one in _between(by_split[split], by_split[other]):
            found.setdefault(one.again, set()).add(one.again_at)
    return {name: _joined(sorted(starts)) for name, starts in found.items()}


def _joined(starts: Sequence[int]) -> list[tuple[int, int]]:
    """Stretches that touch become one."""
    joined: list[tuple[int, int]] = []
    for start in starts:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], start + LENGTH)
        else:
            joined.append((start, start + LENGTH))
    return joined


def _between(anchored: Sequence[Recording], searched: Sequence[Recording]) -> list[Shared]:
    anchors: dict[int, tuple[Recording, int]] = {}
    for item in anchored:
        rows = _rows(item.samples)
        for first, value in zip(range(0, len(rows), LENGTH), _rolling(rows)[::LENGTH], strict=False):
            if len(np.unique(rows[first : first + LENGTH])) >= LEAST_DIFFERENT:
                anchors.setdefault(int(value), (item, first))
    known = np.sort(np.fromiter(anchors, np.uint64, len(anchors)))
    found = []
    for item in searched:
        hashes = _rolling(_rows(item.samples))
        for start in map(int, np.flatnonzero(_contained(hashes, known))):
            other, at = anchors[int(hashes[start])]
            if np.array_equal(other.samples[at : at + LENGTH], item.samples[start : start + LENGTH]):
                found.append(Shared(other.id, at, item.id, start))
    return found


def _contained(values: Hashes, known: Hashes) -> NDArray[np.bool_]:
    if len(known) == 0:
        return np.zeros(len(values), bool)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.asarray(known[places] == values)


def _rows(samples: NDArray[np.float32]) -> Hashes:
    """One hash a row of samples, from the bits of its columns: uint64 (time,)."""
    bits = np.ascontiguousarray(samples, "<f4").view("<u4").astype(np.uint64)
    mixed = np.zeros(len(bits), np.uint64)
    for column in bits.T:
        mixed = (mixed ^ column) * np.uint64(_STEP)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _rolling(rows: Hashes) -> Hashes:
    """The hash of every stretch of `LENGTH` rows: sum of row[k] * step^k, from differences of its running sum."""
    count = len(rows) - LENGTH + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(rows * _powers(_STEP, len(rows)))])
    return np.asarray((sums[LENGTH:] - sums[:-LENGTH]) * _powers(_BACK, count))


def _powers(base: int, count: int) -> Hashes:
    steps = np.full(count, base, np.uint64)
    steps[0] = 1
    return np.asarray(np.cumprod(steps))
