"""Windows that share samples with a window of another split: measured on the windows that are really cut.

Two windows share samples where they overlap in one recording, also in one that was cut by time, or where both hold a
stretch that stands in two recordings (`flowlab.signal.overlap`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flowlab.errors import plural
from flowlab.signal import windowing

if TYPE_CHECKING:
    from flowlab.signal.recordings_file import RecordingTable

Rows = NDArray[np.int32]
Starts = NDArray[np.int64]


@dataclass(frozen=True)
class Leak:
    """Windows of each split that share samples with another split; windows that cutting by time left out."""

    shared: Mapping[str, int]
    windows: Mapping[str, int]
    across_cuts: int
    cut_recordings: int

    def to_json(self) -> dict[str, object]:
        """For ``feature_spec.json`` and the record."""
        return {
            "windows_in_two_splits": dict(self.shared),
            "windows_across_cuts": self.across_cuts,
            "recordings_cut_by_time": self.cut_recordings,
        }

    def warnings(self) -> list[str]:
        """What people must know before they believe an accuracy."""
        found = []
        if any(self.shared.values()):
            counts = ", ".join(f"{count} of {self.windows[split]} of {split}" for split, count in self.shared.items())
            found.append(f"windows share samples with windows of another split: {counts}. Accuracies are too good")
        if self.cut_recordings:
            found.append(
                f"{plural(self.cut_recordings, 'recording is', 'recordings are')} cut by time into the splits: "
                f"{sum(self.shared.values())} windows share samples with another split; {self.across_cuts} that would "
                "lie across a cut are left out. "
                "Neighbours in time are alike, so new recordings may be classified worse"
            )
        return found


def measure(table: RecordingTable, cuts: Mapping[str, tuple[Rows, Starts]], options: windowing.WindowOptions) -> Leak:
    """Look at every window.

    Args:
        table: the recordings; ``pieces`` of its meta says where one was cut, and ``shared`` which samples
            ``[start, stop)`` of a row stand in another split too.
        cuts: of each split, the rows of the recordings and the first samples of its windows.
        options: how they were cut.
    """
    span = windowing.span(options)
    origin: Sequence[tuple[str, int]] = table.meta.get("pieces") or [(name, 0) for name in table.ids]
    sources = {name: number for number, name in enumerate(dict.fromkeys(source for source, _ in origin))}
    source_of = np.array([sources[source] for source, _ in origin], np.int64)
    offset = np.array([start for _, start in origin], np.int64)
    twice: Sequence[tuple[int, int, int]] = table.meta.get("shared") or ()
    places = {split: (source_of[rows], starts + offset[rows]) for split, (rows, starts) in cuts.items()}
    shared = {}
    for split, (rows, starts) in cuts.items():
        leaks = _overlapping(places, split, span)
        for row, begin, end in twice:
            leaks |= (rows == row) & (starts < end) & (starts + span > begin)
        shared[split] = int(leaks.sum())
    across, cut = _across(table, source_of, offset, options)
    return Leak(shared, {split: len(rows) for split, (rows, _) in cuts.items()}, across, cut)


def _overlapping(places: Mapping[str, tuple[Starts, Starts]], split: str, span: int) -> NDArray[np.bool_]:
    """Which windows of a split overlap one of another in the same recording."""
    sources, starts = places[split]
    found = np.zeros(len(starts), bool)
    for other, (other_sources, other_starts) in places.items():
        if other == split:
            continue
        for source in np.intersect1d(sources, other_sources):
            here = np.flatnonzero(sources == source)
            known = np.append(np.sort(other_starts[other_sources == source]), np.iinfo(np.int64).max)
            next_one = known[np.searchsorted(known, starts[here] - span, side="right")]  # the first that ends behind
            found[here] |= next_one < starts[here] + span
    return found


def _across(
    table: RecordingTable, source_of: Starts, offset: Starts, options: windowing.WindowOptions
) -> tuple[int, int]:
    """Windows of whole recordings that would hold samples of two pieces, and how many recordings are cut."""
    span = windowing.span(options)
    lengths = np.array([len(samples) for samples in table.samples], np.int64)
    across = cut = 0
    for source in np.unique(source_of):
        rows = source_of == source
        inner = np.sort(offset[rows])[1:]
        if not len(inner):
            continue
        cut += 1
        starts = windowing.starts(int((offset[rows] + lengths[rows]).max()), options)
        next_cut = np.append(inner, np.iinfo(np.int64).max)[np.searchsorted(inner, starts, side="right")]
        across += int((next_cut < starts + span).sum())
    return across, cut
