"""``user_input_config.h``: the feature extraction of a config in the words of TI's feature library.

Flags say which transforms run, values their parameters; ``SKIP_NORMALIZE`` and ``OUTPUT_INT`` say what the compiled
network takes and gives. What an extractor does not tell is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

FLAGS: Mapping[str, str] = {
    "RAW_FE": "FE_RAW",
    "WINDOWING": "FE_WIN",
    "FFT_FE": "FE_FFT",
    "NORMALIZE": "FE_NORMALIZE",
    "ABS": "FE_MAG",
    "DC_REMOVE": "FE_DC_REM",
    "BINNING": "FE_BIN",
    "LOG_DB": "FE_LOG",
    "CONCAT": "FE_CONCAT",
}
"""TI's transform names and the flags that switch them on."""

VALUES: Mapping[str, str] = {
    "frame_size": "FE_FRAME_SIZE",
    "feature_size_per_frame": "FE_FEATURE_SIZE_PER_FRAME",
    "num_frame_concat": "FE_NUM_FRAME_CONCAT",
    "min_bin": "FE_MIN_FFT_BIN",
    "log_mul": "FE_LOG_MUL",
    "log_base": "FE_LOG_BASE",
    "log_threshold": "FE_LOG_TOL",
    "normalize_bin": "FE_BIN_NORMALIZE",
    "offset": "FE_OFFSET",
    "scale": "FE_SCALE",
    "sampling_rate": "SAMPLING_RATE",
}
"""Keys of the config's feature section and the library's names for them."""


def user_input_config(spec: Mapping[str, Any], outputs: int, *, skip_normalize: bool, output_int: bool) -> str:
    """The header's text.

    Args:
        spec: the role ``feature_spec``: shape, window and the extractor's options.
        outputs: elements of the network's output.
        skip_normalize: whether the network takes the quantized input.
        output_int: whether it gives integers.
    """
    options: Mapping[str, Any] = spec.get("options") or {}
    transforms = [str(name) for name in options.get("feat_ext_transform") or ()]
    defined = {flag: "" for name, flag in FLAGS.items() if name in transforms}
    window = list(spec.get("window") or ())
    if window:
        defined["FE_VARIABLES"] = str(window[0])
    for key, word in VALUES.items():
        value = _number(options.get(key))
        if value is not None:
            defined[word] = value
    defined |= _spectrum(options, transforms)
    shape = list(spec.get("shape") or ())
    if len(shape) == 3:
        defined["FE_STACKING_CHANNELS"], defined["FE_STACKING_FRAME_WIDTH"] = str(shape[0]), str(shape[1] * shape[2])
    defined["FE_NN_OUT_SIZE"] = str(outputs)
    defined.setdefault("FE_CONCAT", "")
    defined.setdefault("FE_NUM_FRAME_CONCAT", "1")
    defined["SKIP_NORMALIZE"], defined["OUTPUT_INT"] = str(int(skip_normalize)), str(int(output_int))
    lines = "\n".join(f"#define {name} {value}".rstrip() for name, value in defined.items())
    return f"#ifndef USER_INPUT_CONFIG_H\n#define USER_INPUT_CONFIG_H\n\n{lines}\n\n#endif\n"


def _spectrum(options: Mapping[str, Any], transforms: list[str]) -> dict[str, str]:
    """What follows from the sizes: stages of the FFT, values in one bin."""
    frame, features = options.get("frame_size"), options.get("feature_size_per_frame")
    found = {}
    if "FFT_FE" in transforms and isinstance(frame, int) and frame > 0:
        found["FE_FFT_STAGES"] = str(frame.bit_length() - 1)
        if "BINNING" in transforms and features:
            found["FE_FFT_BIN_SIZE"] = str(frame // 2 // features // (options.get("analysis_bandwidth") or 1))
    return found


def _number(value: Any) -> str | None:
    """A C literal, or None for what is no number."""
    if value == "e":
        return repr(math.e)
    if isinstance(value, bool):
        return str(int(value))
    return repr(value) if isinstance(value, int | float) else None
