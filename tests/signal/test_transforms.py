"""The vectorised chain against a slow reference that follows facts 3.3 window by window, step by step."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowlab.errors import OptionError
from flowlab.signal import chain, transforms
from flowlab.signal.chain import FftOptions
from tests.signal.test_chain import ARC, MOTOR


def one_frame(x: np.ndarray, o: FftOptions) -> np.ndarray:
    """One frame of one channel, as the reference toolchain's loop does it."""
    names = o.feat_ext_transform
    n = o.frame_size
    if "WINDOWING" in names:
        x = x * np.hanning(n)
    if "RAW_FE" in names and o.dc_remove:
        x = x - np.mean(x)
    if "FFT_FE" in names:
        x = np.fft.fft(x)
    if "NORMALIZE" in names:
        x = x / n
    if "ROUND_OFF" in names:
        x = np.round(x)
    if "FFT_POS_HALF" in names:
        x = x[: n // 2 + (o.min_bin or 1)]
    if "ABS" in names:
        x = np.abs(x)
    if "DC_REMOVE" in names:
        x = x[1:]
    if "BINNING" in names:
        b = n // 2 // o.feature_size_per_frame // o.analysis_bandwidth
        first = o.min_bin or 0
        sums = [x[first + j * b : first + (j + 1) * b].sum() for j in range(o.feature_size_per_frame)]
        x = np.array(sums) / (b if o.normalize_bin else 1)
    if "LOG_DB" in names:
        factor = 20 if o.log_mul is None else o.log_mul
        base = {None: 10.0, "e": math.e}.get(o.log_base, o.log_base)
        threshold = 1e-100 if o.log_threshold is None else float(o.log_threshold)
        x = factor * np.log(x + threshold) / np.log(base)
    return x


def reference(windows: np.ndarray, o: FftOptions) -> np.ndarray:
    out = []
    for window in windows.astype(np.float64) / (o.scale or 1):
        channels = []
        for channel in window:
            frames = channel.reshape(o.num_frame_concat, o.frame_size)
            channels.append(np.concatenate([one_frame(frame, o) for frame in frames]))
        stacked = np.stack(channels)
        out.append(stacked.reshape(1, -1) if o.stacking == "1D" else stacked)
    return np.array(out)[..., None]


CASES = {
    "arc": ARC,
    "arc half bandwidth": replace(ARC, min_bin=122, analysis_bandwidth=2),
    "arc quarter bandwidth": replace(ARC, feature_size_per_frame=32, num_frame_concat=8, analysis_bandwidth=4),
    "motor": MOTOR,
    "motor 1D": replace(MOTOR, stacking="1D"),
    "fft": FftOptions(("FFT_FE", "FFT_POS_HALF", "ABS", "DC_REMOVE", "LOG_DB", "CONCAT"), 256),
    "raw": FftOptions(("RAW_FE", "CONCAT"), 128),
    "raw with mean": FftOptions(("RAW_FE", "CONCAT"), 128, dc_remove=False),
    "no transform": FftOptions((), 64, scale=4096.0),
    "rounded": FftOptions(("ROUND_OFF",), 125),
    "odd frame": FftOptions(("WINDOWING", "FFT_FE", "ABS", "LOG_DB"), 125, log_base=2),
    "all of a spectrum": FftOptions(("FFT_FE", "ABS"), 64),
    "more than half": FftOptions(("FFT_FE", "FFT_POS_HALF", "ABS"), 64, min_bin=20),
    "more than all": FftOptions(("FFT_FE", "FFT_POS_HALF", "ABS"), 15, min_bin=40),
    "no first bin": FftOptions(("ABS", "BINNING", "CONCAT"), 64, feature_size_per_frame=4, min_bin=0),
    "short last bin": replace(MOTOR, num_frame_concat=1, min_bin=7),
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_chain_equals_the_slow_reference(options: FftOptions, channels: int) -> None:
    length = options.frame_size * options.num_frame_concat
    rng = np.random.default_rng(channels)
    windows = rng.normal(3.0, 2.0, size=(7, channels, length)).astype(np.float32)
    features = transforms.extract(windows, options)
    assert features.dtype == np.float32
    assert features.shape == (7, *chain.shape((channels, length), options))
    np.testing.assert_allclose(features, reference(windows, options), rtol=1e-6, atol=1e-6)


@settings(max_examples=60)
@given(st.data())
def test_any_chain_equals_the_slow_reference(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(chain.ORDER), unique=True), label="transforms")
    options = FftOptions(
        feat_ext_transform=tuple(names),
        frame_size=data.draw(st.integers(2, 40), label="frame_size"),
        feature_size_per_frame=data.draw(st.integers(1, 8)),
        num_frame_concat=data.draw(st.integers(1, 3)),
        min_bin=data.draw(st.integers(0, 9)),
        normalize_bin=data.draw(st.booleans()),
        analysis_bandwidth=data.draw(st.integers(1, 2)),
        log_mul=data.draw(st.sampled_from([None, 10.0])),
        log_base=data.draw(st.sampled_from([None, "e", 2.0])),
        log_threshold=1e-3,
        stacking=data.draw(st.sampled_from(["1D", "2D1"])),
        scale=data.draw(st.sampled_from([None, 2.5])),
    )
    windows = np.random.default_rng(0).normal(size=(3, 2, options.frame_size * options.frames)).astype(np.float32)
    try:
        features = transforms.extract(windows, options)
    except OptionError:
        return
    np.testing.assert_allclose(features, reference(windows, options), rtol=1e-6, atol=1e-5)


def test_a_window_does_not_depend_on_its_neighbours() -> None:
    windows = np.random.default_rng(0).normal(size=(50, 1, 1024)).astype(np.float32)
    together = transforms.extract(windows, ARC)
    assert np.array_equal(together[17:18], transforms.extract(windows[17:18], ARC))
    assert np.array_equal(together[::-1], transforms.extract(windows[::-1], ARC))


def test_silence_gives_the_floor_and_no_infinity() -> None:
    features = transforms.extract(np.zeros((1, 1, 1024), np.float32), ARC)
    np.testing.assert_allclose(features, 10 * math.log(1e-12), rtol=1e-6)


def test_all_windows_take_less_time_than_one_by_one() -> None:
    windows = np.random.default_rng(0).normal(size=(400, 1, 1024)).astype(np.float32)

    def seconds(count: int) -> float:
        begin = time.perf_counter()
        for part in np.array_split(windows, count):
            transforms.extract(part, ARC)
        return time.perf_counter() - begin

    seconds(1)
    assert min(seconds(1) for _ in range(3)) < min(seconds(400) for _ in range(3))
