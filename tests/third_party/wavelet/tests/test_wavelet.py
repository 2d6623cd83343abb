"""Own tests of flowlab-wavelet: run where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
import pywt

from flowlab.errors import OptionError
from flowlab.testing import check_feature_c, check_feature_extractor, check_package, check_plugin_is_light
from flowlab_wavelet.plugin import PacketOptions, WaveletPacket

SHAPES = [
    ((1, 256), PacketOptions()),
    ((3, 64), PacketOptions("haar", 1, log=False)),
    ((2, 96), PacketOptions("sym5", 5)),
    ((1, 8), PacketOptions("db8", 3)),  # taps beyond the window
]


def energies(windows: np.ndarray, options: PacketOptions) -> np.ndarray:
    return WaveletPacket().extract(windows.astype(np.float32), options)[..., 0]


def test_flowlab_finds_it() -> None:
    assert [item.name for item in check_package("flowlab_wavelet.plugin")] == ["wavelet_packet"]
    check_plugin_is_light("flowlab_wavelet.plugin")


@pytest.mark.parametrize(("window", "options"), SHAPES)
def test_the_chain_is_sound_and_its_c_computes_the_same(window: tuple[int, int], options: PacketOptions) -> None:
    check_feature_extractor(WaveletPacket(), window, options)
    check_feature_c(WaveletPacket(), window, options)


def test_bands_are_those_of_the_library_in_order_of_frequency() -> None:
    wave = np.random.default_rng(0).standard_normal(64)
    packets = pywt.WaveletPacket(wave, "db4", mode="periodization", maxlevel=3).get_level(3, order="freq")
    wanted = [np.mean(packet.data**2) for packet in packets]
    found = energies(wave[None, None], PacketOptions("db4", 3, log=False))
    np.testing.assert_allclose(found[0, 0], wanted, rtol=1e-5)


@pytest.mark.parametrize(("cycles", "band"), [(4, 0), (60, 3), (124, 7)])
def test_a_tone_has_most_of_its_energy_in_its_band(cycles: int, band: int) -> None:
    tone = np.sin(2 * np.pi * cycles * np.arange(256) / 256)
    assert energies(tone[None, None], PacketOptions("db8", 3)).argmax() == band


def test_an_orthogonal_transform_keeps_the_energy() -> None:
    wave = np.random.default_rng(1).standard_normal((2, 1, 128))
    found = energies(wave, PacketOptions("sym4", 4, log=False)).mean(axis=-1)
    np.testing.assert_allclose(found, np.mean(wave**2, axis=-1), rtol=1e-5)


def test_a_window_that_cannot_be_halved_is_refused_with_a_cure() -> None:
    with pytest.raises(OptionError, match="100 samples are no multiple of 16. Use 96 samples, or a lower level"):
        WaveletPacket().shape((1, 100), PacketOptions())


@pytest.mark.parametrize("options", [{"wavelet": "db44"}, {"level": 0}, {"level": 11}])
def test_options_without_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no wavelet named|give 1 to 10"):
        PacketOptions(**options)
