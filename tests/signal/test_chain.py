from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from flowlab.errors import NotBuiltYet, OptionError
from flowlab.signal import chain
from flowlab.signal.chain import FftOptions

ARC = FftOptions(
    feat_ext_transform=("FFT_FE", "FFT_POS_HALF", "WINDOWING", "BINNING", "NORMALIZE", "ABS", "LOG_DB", "CONCAT"),
    frame_size=1024,
    feature_size_per_frame=256,
    log_mul=10,
    log_base="e",
    log_threshold=1e-12,
)
MOTOR = FftOptions(
    feat_ext_transform=("FFT_FE", "FFT_POS_HALF", "DC_REMOVE", "ABS", "BINNING", "LOG_DB", "CONCAT"),
    frame_size=256,
    feature_size_per_frame=16,
    num_frame_concat=8,
    normalize_bin=True,
)


@pytest.mark.parametrize(
    ("options", "channels", "shape"),
    [
        (ARC, 1, (1, 256, 1)),
        (replace(ARC, min_bin=122, analysis_bandwidth=2), 1, (1, 256, 1)),
        (replace(ARC, feature_size_per_frame=64, num_frame_concat=4, analysis_bandwidth=2), 1, (1, 256, 1)),
        (replace(ARC, feature_size_per_frame=32, num_frame_concat=8, analysis_bandwidth=4), 1, (1, 256, 1)),
        (MOTOR, 3, (3, 128, 1)),
        (replace(MOTOR, stacking="1D"), 3, (1, 384, 1)),
        (FftOptions(("FFT_FE", "FFT_POS_HALF", "ABS", "DC_REMOVE", "LOG_DB", "CONCAT"), 512), 1, (1, 256, 1)),
        (FftOptions(("RAW_FE", "CONCAT"), 128), 3, (3, 128, 1)),
        (FftOptions((), 256, scale=4096.0), 3, (3, 256, 1)),
        (FftOptions(("FFT_FE", "ABS"), 100), 1, (1, 100, 1)),
    ],
)
def test_shapes_are_those_of_the_worked_examples(options: FftOptions, channels: int, shape: tuple[int, ...]) -> None:
    assert chain.shape((channels, options.frame_size * options.frames), options) == shape


def test_the_list_is_a_set_and_the_order_is_said_once() -> None:
    steps = ("WINDOWING", "FFT_FE", "NORMALIZE", "FFT_POS_HALF", "ABS", "BINNING", "LOG_DB", "CONCAT")
    assert ARC.steps == steps
    (note,) = chain.notes(ARC)
    assert "run as WINDOWING, FFT_FE" in note
    assert "(FFT_FE, FFT_POS_HALF, WINDOWING" in note
    assert chain.notes(replace(ARC, feat_ext_transform=steps)) == ()
    assert chain.notes(FftOptions()) == ()
    for order in itertools.islice(itertools.permutations(steps), 0, 40_000, 999):
        assert replace(ARC, feat_ext_transform=order).steps == steps


def test_a_misspelt_transform_gets_a_suggestion() -> None:
    with pytest.raises(OptionError, match=r"feat_ext_transform: no transform 'WINDOWNG'. Did you mean 'WINDOWING'\?"):
        chain.shape((1, 256), FftOptions(("WINDOWNG",), 256))


@pytest.mark.parametrize("name", chain.NOT_BUILT)
def test_steps_that_are_to_come_say_so(name: str) -> None:
    with pytest.raises(NotBuiltYet, match=f"'{name}' is not built yet"):
        chain.shape((1, 256), FftOptions((name,), 256))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (FftOptions(("RAW_FE",)), "frame_size: found 1, expected"),
        (replace(MOTOR, num_frame_concat=2, frame_size=128), "does not hold 2 frames of frame_size 128"),
        (replace(MOTOR, feature_size_per_frame=None), "BINNING needs feature_size_per_frame"),
        (replace(MOTOR, feature_size_per_frame=200), "more than the 128 values of half a spectrum"),
        (replace(ARC, min_bin=600, analysis_bandwidth=1, feat_ext_transform=("ABS", "BINNING")), "end beyond"),
        (replace(MOTOR, feat_ext_transform=("RAW_FE",)), "num_frame_concat: 8 needs CONCAT"),
        (FftOptions(("FFT_FE",), 256), "add ABS"),
        (FftOptions(("FFT_POS_HALF",), 256), "add FFT_FE"),
        (FftOptions(("RAW_FE", "LOG_DB"), 256), "add ABS"),
        (FftOptions(("ABS", "LOG_DB"), 256, log_base=1), "log_base: 1;"),
        (FftOptions(("ABS", "LOG_DB"), 256, log_base="two"), "log_base: 'two' is no number"),
        (FftOptions(("ABS", "LOG_DB"), 256, log_threshold=0), "log_threshold: 0;"),
        (FftOptions((), 256, stacking="3D"), "stacking: '3D'. Known: 2D1, 1D"),
        (FftOptions((), 256, analysis_bandwidth=0), "analysis_bandwidth: 0"),
    ],
)
def test_a_chain_that_makes_no_sense_names_the_key(options: FftOptions, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        chain.shape((1, 256 * 4 if "does not hold" in message else options.frame_size * options.frames), options)


def test_an_offset_says_what_to_use_instead() -> None:
    with pytest.raises(NotBuiltYet, match="use SimpleWindow"):
        chain.shape((1, 256), FftOptions((), 256, offset=3))
