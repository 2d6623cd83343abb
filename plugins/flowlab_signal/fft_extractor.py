"""The FFT family as an extractor: the list of transforms in the config is its options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowlab.contracts import FeatureExtractor
from flowlab.signal import chain
from flowlab.signal.chain import FftOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class FftExtractor(FeatureExtractor):
    """Window function, FFT, magnitude, bins, logarithm, concatenation; with an empty list the raw window."""

    name = "fft"
    summary = "window, FFT, magnitude, bins, logarithm and concatenation of frames; an empty list gives the raw window"
    Options = FftOptions
    libraries = ("numpy",)
    code = ("flowlab.signal.chain", "flowlab.signal.transforms", "flowlab_signal.fft_extractor")

    def shape(self, window: tuple[int, int], options: Any) -> tuple[int, int, int]:
        """(channel, length) -> (channel, height, 1). Raises `OptionError` where the chain makes no sense."""
        return chain.shape(window, options)

    def extract(self, windows: NDArray[np.float32], options: Any) -> NDArray[np.float32]:
        """float32 (window, channel, length) -> float32 (window, channel, height, 1)."""
        from flowlab.signal.transforms import extract

        return extract(windows, options)

    def notes(self, options: Any) -> tuple[str, ...]:
        """A sentence where the file lists the steps in another order than the one in which they run."""
        return chain.notes(options)
