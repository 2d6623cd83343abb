"""Feature presets of TI's toolchain: the float FFT family and raw windows, as rows.

Source: tinyml-modelmaker, timeseries presets, read for the fact sheet (section 3.1). Of those whose steps are not
built only the names stand here, each with what it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from flowlab.contracts import Preset

CLASSIFICATION = ("generic_timeseries_classification",)
ARC_FAULT = ("arc_fault",)
MOTOR = ("motor_fault", "blower_imbalance")

ARC_STEPS = ("FFT_FE", "FFT_POS_HALF", "WINDOWING", "BINNING", "NORMALIZE", "ABS", "LOG_DB", "CONCAT")
BIN_STEPS = ("FFT_FE", "FFT_POS_HALF", "DC_REMOVE", "ABS", "BINNING", "LOG_DB", "CONCAT")
FFT_STEPS = ("FFT_FE", "FFT_POS_HALF", "ABS", "DC_REMOVE", "LOG_DB", "CONCAT")
RAW_STEPS = ("RAW_FE", "CONCAT")
FRAME_STEPS = ("CONCAT",)  # upstream lists FE_DECIMATE and FE_Q15 too, which none of its code does anything for

ARC: Mapping[str, Any] = {
    "feat_ext_transform": ARC_STEPS,
    "log_mul": 10,
    "log_base": "e",
    "log_threshold": 1e-12,
    "variables": 1,
    "sampling_rate": 1,
    "new_sr": 1,
}
DECIBEL: Mapping[str, Any] = {"log_mul": 20, "log_base": 10, "log_threshold": 1e-100}
GENERIC: Mapping[str, Any] = {
    "normalize_bin": True,
    "dc_remove": True,
    "offset": 0,
    "scale": 1,
    "sampling_rate": 1,
    "frame_skip": 1,
}


class Row(NamedTuple):
    """One preset: steps, samples and features of a frame, frames of a window, columns, stacking, task types."""

    name: str
    steps: tuple[str, ...]
    frame: int
    size: int
    frames: int
    variables: int
    stacking: str
    tasks: tuple[str, ...]


def _arc(frame: int, size: int, frames: int, first: int, bandwidth: int) -> dict[str, Any]:
    return {
        **ARC,
        "frame_size": frame,
        "feature_size_per_frame": size,
        "num_frame_concat": frames,
        "min_bin": first,
        "analysis_bandwidth": bandwidth,
        "frame_skip": 1,
    }


def _generic(row: Row) -> dict[str, Any]:
    return {
        **GENERIC,
        **(DECIBEL if "LOG_DB" in row.steps else {}),
        "feat_ext_transform": row.steps,
        "frame_size": row.frame,
        "feature_size_per_frame": row.size,
        "num_frame_concat": row.frames,
        "variables": row.variables,
        "stacking": row.stacking,
    }


ARC_ROWS = (  # name, frame, features a frame, frames, first bin, bandwidth
    ("1024Input_256Feature_1Frame_Full_Bandwidth", 1024, 256, 1, 1, 1),
    ("1024Input_256Feature_1Frame_Half_Bandwidth", 1024, 256, 1, 122, 2),
    ("1024Input_64Feature_4Frame_Half_Bandwidth", 1024, 64, 4, 1, 2),
    ("1024Input_32Feature_8Frame_Quarter_Bandwidth", 1024, 32, 8, 1, 4),
)
GENERIC_ROWS = (
    Row("Input256_FFTBIN_16Feature_8Frame_3InputChannel_removeDC_1D", BIN_STEPS, 256, 16, 8, 3, "1D", MOTOR),
    Row("Input256_FFTBIN_16Feature_8Frame_3InputChannel_removeDC_2D1", BIN_STEPS, 256, 16, 8, 3, "2D1", MOTOR),
    Row("Input256_FFT_128Feature_1Frame_3InputChannel_removeDC_2D1", FFT_STEPS, 256, 128, 1, 3, "2D1", MOTOR),
    Row("Input128_RAW_128Feature_1Frame_3InputChannel_removeDC_2D1", RAW_STEPS, 128, 128, 1, 3, "2D1", MOTOR),
    Row(
        "MotorFault_128Input_RAW_128Feature_1Frame_3InputChannel_removeDC_2D1",
        FRAME_STEPS,
        128,
        128,
        1,
        3,
        "2D1",
        MOTOR,
    ),
    Row("Generic_1024Input_FFTBIN_64Feature_8Frame", BIN_STEPS, 1024, 64, 8, 1, "2D1", CLASSIFICATION),
    Row("Generic_512Input_FFTBIN_32Feature_8Frame", BIN_STEPS, 512, 32, 8, 1, "2D1", CLASSIFICATION),
    Row("Generic_256Input_FFTBIN_16Feature_8Frame", BIN_STEPS, 256, 16, 8, 1, "2D1", CLASSIFICATION),
    Row("Generic_32Input_FFTBIN_4Feature_8Frame", BIN_STEPS, 32, 4, 8, 1, "2D1", CLASSIFICATION),
    Row("Generic_1024Input_FFT_512Feature_1Frame", FFT_STEPS, 1024, 512, 1, 1, "2D1", CLASSIFICATION),
    Row("Generic_512Input_FFT_256Feature_1Frame", FFT_STEPS, 512, 256, 1, 1, "2D1", CLASSIFICATION),
    Row("Generic_256Input_FFT_128Feature_1Frame", FFT_STEPS, 256, 128, 1, 1, "2D1", CLASSIFICATION),
    Row("Generic_512Input_RAW_512Feature_1Frame", RAW_STEPS, 512, 512, 1, 1, "2D1", CLASSIFICATION),
    Row("Generic_256Input_RAW_256Feature_1Frame", RAW_STEPS, 256, 256, 1, 1, "2D1", CLASSIFICATION),
    Row("Generic_128Input_RAW_128Feature_1Frame", RAW_STEPS, 128, 128, 1, 1, "2D1", CLASSIFICATION),
)
CUSTOM_ROWS: tuple[tuple[str, Mapping[str, Any], tuple[str, ...]], ...] = (  # frames and bins come from the file
    ("Custom_ArcFault", {**ARC, "analysis_bandwidth": 1, "frame_skip": 1}, ARC_FAULT),
    (
        "Custom_MotorFault",
        {
            "feat_ext_transform": (),
            "normalize_bin": True,
            "frame_skip": 1,
            "variables": 3,
            "sampling_rate": 1,
            "new_sr": 1,
        },
        MOTOR,
    ),
    (
        "Custom_Default",
        {
            "feat_ext_transform": (),
            "normalize_bin": True,
            "frame_skip": 1,
            "variables": 1,
            "sampling_rate": 1,
            "new_sr": 1,
        },
        CLASSIFICATION,
    ),
    (
        "HandGesture256Input_RangeNormalize_1Frame",
        {
            "data_proc_transforms": ("SimpleWindow",),
            "feat_ext_transform": (),
            "frame_size": 256,
            "scale": 4096.0,
            "stride_size": 0.25,
            "variables": 3,
            "sampling_rate": 1,
            "new_sr": 1,
        },
        CLASSIFICATION,
    ),
    (
        "Generic_8Input_ABS_8Feature_1Frame",
        {
            "feat_ext_transform": ("ABS", "LOG_DB", "CONCAT"),
            "frame_size": 8,
            "feature_size_per_frame": 8,
            "num_frame_concat": 1,
            "normalize_bin": True,
            "frame_skip": 1,
            "variables": 11,
            "sampling_rate": 1,
            "new_sr": 1,
        },
        ("generic_timeseries_regression",),
    ),
    (
        "ECG2500Input_Roundoff_1Frame",
        {"feat_ext_transform": ("ROUND_OFF",), "frame_size": 2500, "variables": 1},
        ("ecg_classification",),
    ),
)


def _preset(name: str, values: Mapping[str, Any], tasks: tuple[str, ...]) -> Preset:
    """Not restricted to its tasks: TI's own examples use presets across them."""
    steps = ", ".join(values["feat_ext_transform"]) or "raw windows"
    return Preset("feature_extraction", name, values, summary=f"{steps} (made for {', '.join(tasks)})")


PRESETS: tuple[Preset, ...] = (
    *(_preset(f"FFT{name}", _arc(*row), CLASSIFICATION) for name, *row in ARC_ROWS),
    *(_preset(f"ArcFault_{name}", _arc(*row), ARC_FAULT) for name, *row in ARC_ROWS),
    *(_preset(row.name, _generic(row), row.tasks) for row in GENERIC_ROWS),
    *(_preset(*row) for row in CUSTOM_ROWS),
)

FIXED_POINT = "it needs FFT_Q15, the fixed-point FFT of the vendor's DSP library, equal to the bit"
SENSOR = "it needs PIR_FE, 25 statistics of each stretch of a motion sensor's samples"
IMAGES = "it is for images"
NOT_BUILT: tuple[Preset, ...] = tuple(
    Preset("feature_extraction", name, {}, not_built=reason)
    for reason, names in {
        FIXED_POINT: (
            "Custom_ArcFault_MSPM0",
            "Custom_MotorFault_MSPM0",
            "Custom_Default_MSPM0",
            "FFT256Input_FE_RFFT_16Feature_8Frame_removeDC_Full_Bandwidth",
            "ArcFault_1024Input_FE_RFFT_128Feature_8Frame_1InputChannel_removeDC_Full_Bandwidth",
            "ArcFault_512Input_FE_RFFT_32Feature_8Frame_1InputChannel_removeDC_Full_Bandwidth",
            "MotorFault_256Input_FE_RFFT_16Feature_8Frame_3InputChannel_removeDC_1D",
            "MotorFault_256Input_FE_RFFT_16Feature_8Frame_3InputChannel_removeDC_2D1",
            "FallDetection_256Input_FE_RFFT_8Feature_8Frame_3InputChannel_removeDC_2D1",
        ),
        SENSOR: ("PIRDetection_125Input_25Feature_25Frame_1InputChannel_2D",),
        f"{SENSOR}, in fixed point": ("PIRDetection_125Input_25Feature_25Frame_1InputChannel_2D_FixedPoint",),
        IMAGES: (
            "Mnist_Default",
            "CoffeeBean_Default",
            "CoffeeBean_Augmentation_Default",
            "MachineReadable_Default",
        ),
        "it is for audio": ("GoogleSpeechCommands_MFCC_Default",),
    }.items()
    for name in names
)
