from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlab.signal import windowing
from flowlab.signal.leak import measure
from flowlab.signal.overlap import LENGTH
from flowlab.signal.recordings_file import RecordingTable
from flowlab.signal.windowing import WindowOptions

SPLITS = ("train", "val", "test")
HALF = WindowOptions(data_proc_transforms=("SimpleWindow",), frame_size=16, stride_size=0.5)


def table(lengths: list[int], splits: list[str], **meta: object) -> RecordingTable:
    samples = tuple(np.zeros((length, 1), np.float32) for length in lengths)
    ids = tuple(f"r{i}" for i in range(len(lengths)))
    return RecordingTable(ids, ("a",) * len(ids), tuple(splits), samples, {"columns": ["x"], "classes": ["a"], **meta})


def cuts(recordings: RecordingTable, options: WindowOptions) -> dict:
    found = {}
    for split in SPLITS:
        rows, starts = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        for row in recordings.of_split(split):
            _, at = windowing.cut(recordings.samples[row], (0,), options)
            rows.append(np.full(len(at), row, np.int32))
            starts.append(at)
        found[split] = np.concatenate(rows), np.concatenate(starts)
    return found


def test_recordings_that_are_cut_by_time_share_nothing_and_say_what_is_left_out() -> None:
    recordings = table([48, 32, 16], list(SPLITS), pieces=[["r", 0], ["r", 48], ["r", 80]])
    leak = measure(recordings, cuts(recordings, HALF), HALF)
    assert leak.shared == {"train": 0, "val": 0, "test": 0}
    assert leak.across_cuts == 2  # of the whole recording, those that start at 40 and at 72
    assert leak.cut_recordings == 1
    (warning,) = leak.warnings()
    assert "0 windows share samples with another split; 2 that would lie across a cut are left out" in warning


def test_whole_recordings_are_no_leak_and_nothing_is_said() -> None:
    recordings = table([48, 32, 16], list(SPLITS))
    leak = measure(recordings, cuts(recordings, HALF), HALF)
    assert leak.warnings() == []
    assert leak.across_cuts == leak.cut_recordings == 0


def test_pieces_that_overlap_are_counted_on_both_sides() -> None:
    recordings = table([48, 32], ["train", "test"], pieces=[["r", 0], ["r", 40]])
    leak = measure(recordings, cuts(recordings, HALF), HALF)
    assert leak.shared == {"train": 1, "val": 0, "test": 1}  # train's from 32 and test's from 40 hold samples 40 to 47
    assert "1 of 5 of train, 0 of 0 of val, 1 of 3 of test. Accuracies are too good" in leak.warnings()[0]


def test_windows_over_a_stretch_that_stands_in_two_recordings_are_counted() -> None:
    recordings = table([200, 200], ["train", "test"], shared=[[0, 0, LENGTH], [1, 100, 100 + LENGTH]])
    leak = measure(recordings, cuts(recordings, HALF), HALF)
    train = [start for start in range(0, 185, 8) if start < LENGTH]
    test = [start for start in range(0, 185, 8) if start + 16 > 100 and start < 100 + LENGTH]
    assert leak.shared == {"train": len(train), "val": 0, "test": len(test)}


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60), st.integers(0, 2)), min_size=1, max_size=6),
    st.integers(2, 9),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.integers(1, 3),
    st.integers(1, 2),
)
def test_the_counts_are_those_of_sets_of_samples(
    pieces: list[tuple[int, int, int]], frame: int, stride: float, frames: int, factor: int
) -> None:
    options = WindowOptions(
        ("SimpleWindow", "Downsample"), 1, factor, 1, frame_size=frame, stride_size=stride, num_frame_concat=frames
    )
    recordings = table(
        [length for _, length, _ in pieces],
        [SPLITS[split] for _, _, split in pieces],
        pieces=[["r", start] for start, _, _ in pieces],
    )
    found = cuts(recordings, options)
    held = {
        split: [
            set(range(pieces[row][0] + start, pieces[row][0] + start + windowing.span(options)))
            for row, start in zip(*found[split], strict=True)
        ]
        for split in SPLITS
    }
    expected = {
        split: sum(any(one & two for other in SPLITS if other != split for two in held[other]) for one in held[split])
        for split in SPLITS
    }
    assert measure(recordings, found, options).shared == expected


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("factor", [1, 3])
@pytest.mark.parametrize("length", [0, 15, 16, 17, 100, 101, 102])
def test_starts_are_those_of_the_windows_and_a_span_holds_each(frames: int, factor: int, length: int) -> None:
    options = WindowOptions(
        ("SimpleWindow", "Downsample"), 1, factor, 1, frame_size=16, stride_size=0.5, num_frame_concat=frames
    )
    samples = np.arange(length, dtype=np.float32)[:, None]
    windows, at = windowing.cut(samples, (0,), options)
    assert windowing.starts(length, options).tolist() == at.tolist()
    for window, start in zip(windows, at, strict=True):
        assert window[0, 0] == start
        assert window[0, -1] == start + windowing.span(options) - 1
