from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlab.config import loading
from flowlab.errors import DataError, OptionError
from flowlab.signal import windowing
from flowlab.signal.windowing import WindowOptions

COLUMNS = ("de_g", "fe_g", "load")


def samples(length: int, columns: int = 3) -> np.ndarray:
    """Value 1000 x sample + column: each cell tells where it comes from."""
    return (1000 * np.arange(length)[:, None] + np.arange(columns)).astype(np.float32)


def reference(x: np.ndarray, o: WindowOptions) -> list[np.ndarray]:
    """Facts 3.3, steps 2, 3, 6 and 25, in their words: window, flatten, frame again, concatenate, skip."""
    if "Downsample" in o.data_proc_transforms:
        x = x[:: int(o.sampling_rate // o.new_sr)]
    if "SimpleWindow" in o.data_proc_transforms:
        hop = int(o.frame_size * o.stride_size) or o.frame_size
        pieces = [x[i : i + o.frame_size] for i in range(0, len(x) - o.frame_size + 1, hop)]
        x = np.concatenate(pieces) if pieces else x[:0]
    frames = [x[i * o.frame_size : (i + 1) * o.frame_size] for i in range(len(x) // o.frame_size)]
    k = o.num_frame_concat
    return [np.concatenate(frames[i - k + 1 : i + 1]).T for i in range(k - 1, len(frames)) if i % o.frame_skip == 0]


@given(
    st.integers(0, 120),
    st.integers(2, 12),
    st.sampled_from([0, 0.01, 0.25, 0.5, 1.0, 1.5]),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([(), ("SimpleWindow",), ("Downsample",), ("Downsample", "SimpleWindow")]),
)
def test_windows_are_those_of_the_reference(
    length: int, frame: int, stride: float, concat: int, skip: int, names: tuple[str, ...]
) -> None:
    options = WindowOptions(names, 3, 3, 1, frame, stride, concat, skip)
    windows, start = windowing.cut(samples(length), (0, 1, 2), options)
    expected = reference(samples(length), options)
    assert windows.shape == (len(expected), 3, frame * concat)
    assert windows.dtype == np.float32
    assert np.array_equal(windows, np.array(expected).reshape(windows.shape))
    assert np.array_equal(windows[:, 0, 0], 1000 * start) if len(windows) else len(start) == 0


def test_stride_size_is_a_fraction_of_the_frame() -> None:
    assert windowing.STRIDES == loading.STRIDES  # what the config warns of is what cuts
    assert WindowOptions(("SimpleWindow",), frame_size=256, stride_size=0.25).hop == 64
    assert WindowOptions(("SimpleWindow",), frame_size=256, stride_size=0.001).hop == 256
    assert WindowOptions((), frame_size=256, stride_size=0.25).hop == 256


@pytest.mark.parametrize(
    ("variables", "chosen"),
    [
        (1, (0,)),
        (3, (0, 1, 2)),
        ([0], (0,)),
        ((2, 0), (2, 0)),
        (("fe_g",), (1,)),
        (["load", "de_g"], (2, 0)),
    ],
)
def test_variables_are_a_count_indices_or_names(variables: object, chosen: tuple[int, ...]) -> None:
    assert windowing.choose(COLUMNS, variables) == chosen  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (4, "variables: 4 columns are asked for. The recordings have 3 columns: de_g, fe_g, load"),
        ([3], r"variables: no column 3 \(they count from 0\)"),
        ([-1], "no column -1"),
        (["de-g"], "no column 'de-g'. Did you mean 'de_g'?"),
        ([], "names no column, or one twice"),
        ([1, 1], "names no column, or one twice"),
    ],
)
def test_variables_that_are_not_there_are_named(variables: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        windowing.choose(COLUMNS, variables)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (WindowOptions(), "frame_size: found 1, expected"),
        (WindowOptions(("SimpleWindows",), frame_size=8), "Did you mean 'SimpleWindow'?"),
        (WindowOptions(frame_size=8, stride_size=-0.5), "stride_size: -0.5"),
        (WindowOptions(frame_size=8, frame_skip=0), "frame_skip: 0"),
    ],
)
def test_windows_that_cannot_be_cut_name_the_key(options: WindowOptions, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        windowing.check(options)


def test_downsampling_to_a_higher_rate_is_an_error() -> None:
    with pytest.raises(OptionError, match="sampling_rate 1 // new_sr 2 is below 1"):
        windowing.cut(samples(20), (0,), WindowOptions(("Downsample",), sampling_rate=1, new_sr=2, frame_size=4))


def test_windows_are_their_own_memory() -> None:
    x = samples(16)
    windows, _ = windowing.cut(x, (0,), WindowOptions(frame_size=8))
    windows[:] = -1
    assert x[0, 0] == 0
