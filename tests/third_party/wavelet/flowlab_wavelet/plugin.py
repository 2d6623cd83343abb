"""What flowlab-wavelet brings: one feature extractor. Light: PyWavelets is imported when it works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowlab.contracts import FeatureExtractor
from flowlab.errors import OptionError
from flowlab.hookspecs import hookimpl

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ORTHOGONAL = ("haar", *(f"{family}{order}" for family in ("db", "sym") for order in range(2, 9)))


@dataclass(frozen=True)
class PacketOptions:
    """Which packets.

    Args:
        wavelet: an orthogonal one, by PyWavelets' name.
        level: how often bands are halved; 2^level energies a channel.
        log: the natural logarithm of the energies, not they themselves.
    """

    wavelet: str = "db4"
    level: int = 4
    log: bool = True

    def __post_init__(self) -> None:
        """Refuse what makes no packets, in words."""
        if self.wavelet not in ORTHOGONAL:
            raise ValueError(f"no wavelet named '{self.wavelet}'. Known: {', '.join(ORTHOGONAL)}")
        if not 1 <= self.level <= 10:
            raise ValueError(f"level {self.level}: give 1 to 10")


class WaveletPacket(FeatureExtractor):
    """Energies of wavelet packets, lowest band first."""

    name = "wavelet_packet"
    summary = "mean energy of each wavelet packet of one level, lowest band first, as a logarithm"
    Options = PacketOptions
    libraries = ("numpy", "PyWavelets")
    code = ("flowlab_wavelet",)

    def shape(self, window: tuple[int, int], options: PacketOptions) -> tuple[int, int, int]:
        """(channel, length) -> (channel, 2^level, 1); the length is halved without a rest."""
        channels, length = window
        nodes = 2**options.level
        if length % nodes:
            raise OptionError(
                f"wavelet_packet: level {options.level} halves a window {options.level} times, and {length} samples "
                f"are no multiple of {nodes}. Use {max(length // nodes, 1) * nodes} samples, or a lower level"
            )
        return channels, nodes, 1

    def extract(self, windows: NDArray[np.float32], options: PacketOptions) -> NDArray[np.float32]:
        """float32 (window, channel, length) -> float32 (window, channel, 2^level, 1)."""
        from flowlab_wavelet.energies import extract

        return extract(windows, options)

    def emit_c(self, shape: tuple[int, int], options: PacketOptions) -> str:
        """The same as C99, for windows of ``shape`` = (channel, length)."""
        from flowlab_wavelet.c_source import emit_c

        return emit_c(shape, options)


@hookimpl
def flowlab_feature_extractors() -> Sequence[FeatureExtractor]:
    """One."""
    return (WaveletPacket(),)
