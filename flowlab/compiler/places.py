"""The places that a take reads, as a program keeps them: as runs of equal steps, or one by one where that is less.

A piece is one word and what it announces, little-endian, in whole words::

    runs        the count of runs, then 8 bytes a run: first place (int32), step (int16), count (uint16)
    16 bits     0, then a place each (uint16; 65535 is a zero)
    32 bits     4294967295, then a place each (int32; -1 is a zero)

A run of zeros has the first place -1 and the step 0. A slice, a permutation or a split is a handful of runs, whatever
its size: a copy a run on the device.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from flowlab.errors import ProgramError

ZERO = -1  # the place of a zero
_RUN = np.dtype([("first", "<i4"), ("step", "<i2"), ("count", "<u2")])
_WORD = struct.Struct("<I")
_NARROW, _WIDE = 0, 0xFFFFFFFF  # in place of the count of runs
_NARROW_ZERO = 0xFFFF
_MOST_STEP, _MOST_COUNT = 2**15 - 1, 2**16 - 1
_NO_STEP = 1 << 40  # between a place and a zero: further than any step


def pack_places(index: NDArray[np.integer]) -> bytes:
    """int (place of the result) -> the shortest of the three forms; runs where it is no longer than another."""
    places = np.asarray(index, np.int64)
    narrow = int(places.max(initial=0)) < _NARROW_ZERO and int(places.min(initial=0)) >= ZERO
    plain = (places & _NARROW_ZERO).astype("<u2") if narrow else places.astype("<i4")
    runs = _runs(places, plain.nbytes // _RUN.itemsize)
    head = len(runs) if runs is not None else _NARROW if narrow else _WIDE
    body = (runs if runs is not None else plain).tobytes()
    return _WORD.pack(head) + body + b"\0" * (-len(body) % 4)


def piece_size(head: int, count: int) -> int:
    """Bytes of the piece that begins with the word ``head``, of ``count`` places."""
    size = {_NARROW: 2 * count, _WIDE: 4 * count}.get(head, _RUN.itemsize * head)
    return _WORD.size + size + -size % 4


def unpack_places(data: bytes, count: int) -> NDArray[np.int32]:
    """The inverse of `pack_places`: int32 (count).

    Raises:
        ProgramError: if its runs are other than ``count`` places, or leave 32 bits.
    """
    (head,) = _WORD.unpack_from(data)
    if head == _WIDE:
        return np.frombuffer(data, "<i4", count, _WORD.size).astype(np.int32)
    if head == _NARROW:
        places = np.frombuffer(data, "<u2", count, _WORD.size).astype(np.int32)
        return np.where(places == _NARROW_ZERO, np.int32(ZERO), places)
    runs = np.frombuffer(data, _RUN, head, _WORD.size)
    counts = runs["count"].astype(np.int64)
    if int(counts.sum()) != count:
        raise ProgramError(f"{head} runs of {int(counts.sum())} places; {count} are needed")
    first, step = (runs[key].astype(np.int64) for key in ("first", "step"))
    behind = np.arange(count) - np.repeat(np.cumsum(counts) - counts, counts)
    found = np.repeat(first, counts) + behind * np.repeat(step, counts)
    if not ZERO <= int(found.min(initial=0)) <= int(found.max(initial=0)) < 1 << 31:
        raise ProgramError(f"runs of places from {int(found.min())} to {int(found.max())}")
    return found.astype(np.int32)


def _runs(places: NDArray[np.int64], most: int) -> NDArray[np.void] | None:
    """Places as runs, each as long as it can be; None where they would be more than ``most``."""
    steps = np.diff(places)
    steps[(places[1:] == ZERO) != (places[:-1] == ZERO)] = _NO_STEP
    ends = np.append(np.flatnonzero(steps[1:] != steps[:-1]) + 1, len(steps))  # behind each stretch of equal steps
    runs: list[tuple[int, int, int]] = []
    at = stretch = 0
    while at < len(places):
        if len(runs) == most:
            return None
        while stretch < len(ends) and ends[stretch] <= at:
            stretch += 1
        step, count = (int(steps[at]), int(ends[stretch]) - at + 1) if at < len(steps) else (0, 1)
        if abs(step) > _MOST_STEP:
            step, count = 0, 1
        count = min(count, _MOST_COUNT)
        runs.append((int(places[at]), step if count > 1 else 0, count))
        at += count
    return np.array(runs, _RUN)
