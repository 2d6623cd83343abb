"""The FFT family's chain as data: its options, the one order of its steps, and the shapes that come out. Light.

A list of transforms is a set: each step runs if its name is in it, in the order of `ORDER`, however the file lists
them. An empty list gives the raw window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flowlab.errors import NotBuiltYet, OptionError, did_you_mean

ORDER = (
    "WINDOWING",
    "RAW_FE",
    "FFT_FE",
    "NORMALIZE",
    "ROUND_OFF",
    "FFT_POS_HALF",
    "ABS",
    "DC_REMOVE",
    "BINNING",
    "LOG_DB",
    "CONCAT",
)
NOT_BUILT = (
    "TO_Q15",
    "FFT_Q15",
    "Q15_SCALE",
    "Q15_MAG",
    "BIN_Q15",
    "FE_Q15",
    "FE_DECIMATE",
    "KURT_FE",
    "ENT_FE",
    "ZCR_FE",
    "DOM_FE",
    "SLOPE_FE",
    "PIR_FE",
    "PIR_FE_Q15",
    "RANGE_NORMALIZE",
    "ECG_NORMALIZE",
    "HAAR",
    "HADAMARD",
)
PREPARATION = ("Downsample", "SimpleWindow")  # steps of `flowlab.signal.windowing`


@dataclass(frozen=True)
class FftOptions:
    """Keys of the feature section that decide what a window becomes.

    ``scale`` divides the samples; ``analysis_bandwidth`` divides the size of a bin, ``min_bin`` is where the first bin
    starts; ``stacking`` ``2D1`` keeps channels, ``1D`` lays them one behind the other.
    """

    feat_ext_transform: tuple[str, ...] = ()
    frame_size: int = 1
    feature_size_per_frame: int | None = None
    num_frame_concat: int = 1
    min_bin: int | None = 1
    normalize_bin: bool = False
    analysis_bandwidth: int = 1
    dc_remove: bool = True
    log_mul: float | None = None
    log_base: float | str | None = None
    log_threshold: float | str | None = None
    stacking: str = "2D1"
    scale: float | None = None
    offset: float = 0

    @property
    def steps(self) -> tuple[str, ...]:
        """The transforms that run, in order."""
        return tuple(name for name in ORDER if name in self.feat_ext_transform)

    @property
    def frames(self) -> int:
        """How many frames one window holds."""
        return max(1, self.num_frame_concat)

    @property
    def bin_size(self) -> int:
        """How many values one bin sums."""
        assert self.feature_size_per_frame
        return self.frame_size // 2 // self.feature_size_per_frame // self.analysis_bandwidth

    @property
    def first_bin(self) -> int:
        """Where the first bin starts."""
        return self.min_bin or 0

    @property
    def half(self) -> int:
        """How many values of a spectrum are its positive half, as the family counts it."""
        return self.frame_size // 2 + (self.min_bin or 1)


def check_names(transforms: Sequence[str], key: str, known: Sequence[str]) -> None:
    """Raise `OptionError` for a misspelt transform, `NotBuiltYet` for one of a family that is to come."""
    for name in transforms:
        if name in NOT_BUILT:
            raise NotBuiltYet(
                f"{key}: '{name}' is not built yet (fixed-point, PIR and decimating steps come later). "
                f"Built: {', '.join(known)}"
            )
        if name not in known:
            raise OptionError(
                f"{key}: no transform '{name}'.{did_you_mean(name, (*known, *NOT_BUILT))} Known: {', '.join(known)}"
            )


def notes(options: FftOptions) -> tuple[str, ...]:
    """A sentence where the file's order is another than the one in which the steps run."""
    listed = tuple(dict.fromkeys(options.feat_ext_transform))
    if listed == options.steps:
        return ()
    return (
        f"feat_ext_transform is a set: the steps run as {', '.join(options.steps)}, "
        f"whatever the order in the file ({', '.join(listed)})",
    )


def shape(window: tuple[int, int], options: FftOptions) -> tuple[int, int, int]:
    """(channel, length) of a window -> (channel, height, width) of its feature.

    Raises:
        OptionError: where the chain makes no sense, naming the key.
        NotBuiltYet: for steps that are to come.
    """
    channels, length = window
    _check(options)
    if length != options.frame_size * options.frames:
        raise OptionError(
            f"a window of {length} samples does not hold {options.frames} frames of frame_size {options.frame_size}"
        )
    height = frame_height(options) * options.frames
    return (1, channels * height, 1) if options.stacking == "1D" else (channels, height, 1)


def frame_height(options: FftOptions) -> int:
    """How many values one frame of one channel becomes."""
    height = options.frame_size
    if "FFT_POS_HALF" in options.steps:
        height = min(height, options.half)
    if "DC_REMOVE" in options.steps:
        height -= 1
    if "BINNING" in options.steps:
        height = _binned(height, options)
    return height


def _binned(height: int, options: FftOptions) -> int:
    size = options.feature_size_per_frame
    if not size:
        raise OptionError("BINNING needs feature_size_per_frame: the number of bins")
    if options.bin_size < 1:
        raise OptionError(
            f"feature_size_per_frame: {size} bins with analysis_bandwidth {options.analysis_bandwidth} are more than "
            f"the {options.frame_size // 2} values of half a spectrum"
        )
    if options.first_bin + (size - 1) * options.bin_size >= height:
        raise OptionError(
            f"min_bin: {size} bins of {options.bin_size} from {options.first_bin} on end beyond the {height} values "
            "that there are, so the last bins would be empty"
        )
    return size


def _check(options: FftOptions) -> None:
    check_names(options.feat_ext_transform, "feat_ext_transform", ORDER)
    steps = options.steps
    if options.frame_size < 2:
        raise OptionError(f"frame_size: found {options.frame_size}, expected the samples of a window, at least 2")
    if options.analysis_bandwidth < 1:
        raise OptionError(f"analysis_bandwidth: {options.analysis_bandwidth}, at least 1")
    if options.stacking not in ("2D1", "1D"):
        raise OptionError(f"stacking: '{options.stacking}'. Known: 2D1, 1D")
    if options.offset:
        raise NotBuiltYet(f"offset: {options.offset} is not built yet; use SimpleWindow with stride_size for overlap")
    if options.frames > 1 and "CONCAT" not in steps:
        raise OptionError(f"num_frame_concat: {options.frames} needs CONCAT in feat_ext_transform")
    if "FFT_FE" in steps and "ABS" not in steps:
        raise OptionError("FFT_FE gives complex numbers: add ABS to feat_ext_transform")
    if "FFT_POS_HALF" in steps and "FFT_FE" not in steps:
        raise OptionError("FFT_POS_HALF takes half of a spectrum: add FFT_FE to feat_ext_transform")
    if "LOG_DB" in steps:
        if "ABS" not in steps:
            raise OptionError("LOG_DB needs values that are not negative: add ABS to feat_ext_transform")
        log_numbers(options)


def log_numbers(options: FftOptions) -> tuple[float, float, float]:
    """(factor, base, threshold) of LOG_DB. Raises `OptionError` for a base or threshold that has no logarithm."""
    factor = 20.0 if options.log_mul is None else float(options.log_mul)
    base = 10.0 if options.log_base is None else _number("log_base", options.log_base)
    threshold = 1e-100 if options.log_threshold is None else _number("log_threshold", options.log_threshold)
    if base <= 0 or base == 1:
        raise OptionError(f"log_base: {base:g}; a positive number that is not 1, or 'e'")
    if threshold <= 0:
        raise OptionError(f"log_threshold: {threshold:g}; a positive number, added before the logarithm")
    return factor, base, threshold


def _number(key: str, value: float | str) -> float:
    if value == "e":
        return 2.718281828459045
    try:
        return float(value)
    except ValueError:
        raise OptionError(f"{key}: '{value}' is no number") from None
