"""Wavelet packet energies in numpy: the mean square of every node of one level, in order of frequency."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pywt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowlab_wavelet.plugin import PacketOptions

FLOOR = 1e-8  # of an energy before its logarithm: eight levels of float32 leave 1e-12 of a wave of size 1


def extract(windows: NDArray[np.float32], options: PacketOptions) -> NDArray[np.float32]:
    """float32 (window, channel, length) -> float32 (window, channel, node, 1)."""
    nodes = [windows]
    for _ in range(options.level):
        nodes = [half for place, node in enumerate(nodes) for half in halves(node, options.wavelet, place)]
    energies = np.stack([np.square(node, dtype=np.float64).mean(axis=-1) for node in nodes], axis=-1)
    if options.log:
        energies = np.log(energies + FLOOR)
    return energies[..., None].astype(np.float32)


def halves(node: NDArray[np.float32], wavelet: str, place: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lower and upper half of a node's band; at odd places the band is mirrored, so its halves change places."""
    low, high = pywt.dwt(node, wavelet, mode="periodization", axis=-1)
    return (high, low) if place % 2 else (low, high)
