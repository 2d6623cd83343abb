"""The FFT family, vectorised over all windows, channels and frames at once.

Computed in float64, as the reference does, and rounded to float32 once at the end.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowlab.errors import OptionError
from flowlab.signal.chain import FftOptions, log_numbers, shape

Array = NDArray[Any]


def extract(windows: NDArray[np.float32], options: FftOptions) -> NDArray[np.float32]:
    """Turn windows into features.

    Args:
        windows: float32 ``(window, channel, length)``; length is ``num_frame_concat`` frames of ``frame_size``.
        options: the chain.

    Returns:
        float32 ``(window, channel, height, 1)``; with ``stacking: 1D`` all channels in one.

    Raises:
        OptionError: where the chain makes no sense.
    """
    count, channels, length = windows.shape
    out = shape((channels, length), options)
    x: Array = windows.astype(np.float64)
    if options.scale:
        x = x / float(options.scale)
    x = x.reshape(count, channels, options.frames, options.frame_size)  # frames last but one: each step sees the last
    for step in options.steps:
        x = _STEPS[step](x, options)
    if np.iscomplexobj(x):
        raise OptionError("the chain ends in complex numbers: add ABS to feat_ext_transform")
    return x.astype(np.float32).reshape(count, *out)  # frames, then values: one behind the other


def _windowing(x: Array, options: FftOptions) -> Array:
    return x * np.hanning(options.frame_size)  # symmetric: 0 at both ends


def _raw(x: Array, options: FftOptions) -> Array:
    return x - x.mean(-1, keepdims=True) if options.dc_remove else x


def _fft(x: Array, options: FftOptions) -> Array:
    """All N values, or those that FFT_POS_HALF keeps: the rest is not computed."""
    spectrum: Array = np.fft.rfft(x)
    size = options.frame_size
    wanted = min(options.half, size) if "FFT_POS_HALF" in options.steps else size
    mirrored = spectrum[..., [size - k for k in range(spectrum.shape[-1], wanted)]].conj()
    return np.concatenate([spectrum[..., :wanted], mirrored], axis=-1) if mirrored.shape[-1] else spectrum[..., :wanted]


def _normalize(x: Array, options: FftOptions) -> Array:
    return x / options.frame_size


def _round_off(x: Array, options: FftOptions) -> Array:
    return np.asarray(np.round(x))


def _unchanged(x: Array, options: FftOptions) -> Array:
    """FFT_POS_HALF is done by the FFT, CONCAT by the final reshape."""
    return x


def _abs(x: Array, options: FftOptions) -> Array:
    return np.asarray(np.abs(x))


def _dc_remove(x: Array, options: FftOptions) -> Array:
    return x[..., 1:]


def _binning(x: Array, options: FftOptions) -> Array:
    """Sums of ``bin_size`` neighbours from ``first_bin`` on; the last bin may hold fewer."""
    assert options.feature_size_per_frame
    bins, size = options.feature_size_per_frame, options.bin_size
    x = x[..., options.first_bin : options.first_bin + bins * size]
    short = bins * size - x.shape[-1]
    if short:
        x = np.concatenate([x, np.zeros((*x.shape[:-1], short))], axis=-1)
    sums = x.reshape(*x.shape[:-1], bins, size).sum(-1)
    return np.asarray(sums / size if options.normalize_bin else sums)


def _log_db(x: Array, options: FftOptions) -> Array:
    factor, base, threshold = log_numbers(options)
    return np.asarray(factor * np.log(x + threshold) / math.log(base))


_STEPS = {
    "WINDOWING": _windowing,
    "RAW_FE": _raw,
    "FFT_FE": _fft,
    "NORMALIZE": _normalize,
    "ROUND_OFF": _round_off,
    "FFT_POS_HALF": _unchanged,
    "ABS": _abs,
    "DC_REMOVE": _dc_remove,
    "BINNING": _binning,
    "LOG_DB": _log_db,
    "CONCAT": _unchanged,
}
