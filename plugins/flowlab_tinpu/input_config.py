"""``user_input_config.h``: the feature extraction of a config in the words of TI's feature library.

Flags say which transforms run, values their parameters; ``SKIP_NORMALIZE`` and ``OUTPUT_INT`` say what the compiled
network takes and gives. What an extractor does not tell is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FLAGS: Mapping[str, tuple[str, ...]] = {
    "RAW_FE": ("FE_RAW",),
    "WINDOWING": ("FE_WIN",),
    "FFT_FE": ("FE_FFT",),
    "FFT_POS_HALF": ("FE_MAG",),
    "NORMALIZE": ("FE_NORMALIZE",),
    "DOWNSAMPLE": (),
    "SIMPLE_WINDOW": (),
    "ABS": ("FE_MAG",),
    "DC_REMOVE": ("FE_DC_REM",),
    "BINNING": ("FE_BIN",),
    "LOG_DB": ("FE_LOG",),
    "CONCAT": ("FE_CONCAT",),
}
"""TI's transform names and the flags that switch them on."""

VALUES: Mapping[str, str] = {
    "variables": "FE_VARIABLES",
    "frame_size": "FE_FRAME_SIZE",
    "feature_size_per_frame": "FE_FEATURE_SIZE_PER_FRAME",
    "num_frame_concat": "FE_NUM_FRAME_CONCAT",
    "min_bin": "FE_MIN_FFT_BIN",
    "fft_bin_size": "FE_FFT_BIN_SIZE",
    "analysis_bandwidth": "",
    "log_mul": "FE_LOG_MUL",
    "log_base": "FE_LOG_BASE",
    "log_threshold": "FE_LOG_TOL",
    "bin_offset": "FE_BIN_OFFSET",
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
    transforms = options.get("feat_ext_transform") or ()
    defined = {flag: "" for name in transforms for flag in FLAGS.get(str(name), ())}
    for key, word in VALUES.items():
        value = _number(options.get(key))
        if word and value is not None:
            defined[word] = value
    shape = list(spec.get("shape") or ())
    if len(shape) == 3:
        defined["FE_STACKING_CHANNELS"], defined["FE_STACKING_FRAME_WIDTH"] = str(shape[0]), str(shape[1] * shape[2])
    defined["FE_NN_OUT_SIZE"] = str(outputs)
    defined.setdefault("FE_CONCAT", "")
    defined.setdefault("FE_NUM_FRAME_CONCAT", "1")
    defined["SKIP_NORMALIZE"], defined["OUTPUT_INT"] = str(int(skip_normalize)), str(int(output_int))
    lines = "\n".join(f"#define {name} {value}".rstrip() for name, value in defined.items())
    return f"#ifndef USER_INPUT_CONFIG_H\n#define USER_INPUT_CONFIG_H\n\n{lines}\n\n#endif\n"


def _number(value: Any) -> str | None:
    """A C literal, or None for what is no number."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list | tuple):
        return str(len(value))  # variables as a list of columns
    return None
