"""What flowlab_signal brings: readers, feature extractors and feature presets."""

from __future__ import annotations

from collections.abc import Sequence

from flowlab.contracts import FeatureExtractor, Preset, Reader
from flowlab.hookspecs import hookimpl
from flowlab_signal.csv_reader import CsvReader
from flowlab_signal.feature_presets import NOT_BUILT, PRESETS
from flowlab_signal.fft_extractor import FftExtractor
from flowlab_signal.npy_reader import NpyReader
from flowlab_signal.txt_reader import TxtReader


@hookimpl
def flowlab_readers() -> Sequence[Reader]:
    """Text tables and arrays."""
    return (CsvReader(), TxtReader(), NpyReader())


@hookimpl
def flowlab_feature_extractors() -> Sequence[FeatureExtractor]:
    """The FFT family, raw windows included."""
    return (FftExtractor(),)


@hookimpl
def flowlab_presets() -> Sequence[Preset]:
    """Feature presets of the float FFT family and of raw windows; of the others the names."""
    return (*PRESETS, *NOT_BUILT)
