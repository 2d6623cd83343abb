from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from flowlab import testing
from flowlab.config.sections import keys
from flowlab.contracts import Preset
from flowlab.errors import NotBuiltYet
from flowlab.plugins import load
from flowlab.signal import chain
from flowlab.signal.chain import FftOptions
from flowlab_signal.csv_reader import CsvReader
from flowlab_signal.feature_presets import NOT_BUILT, PRESETS
from flowlab_signal.fft_extractor import FftExtractor

# facts 3.1, column "out (C,W,1)"
SHAPES = {
    "FFT1024Input_256Feature_1Frame_Full_Bandwidth": (1, 256, 1),
    "FFT1024Input_256Feature_1Frame_Half_Bandwidth": (1, 256, 1),
    "FFT1024Input_64Feature_4Frame_Half_Bandwidth": (1, 256, 1),
    "FFT1024Input_32Feature_8Frame_Quarter_Bandwidth": (1, 256, 1),
    "ArcFault_1024Input_256Feature_1Frame_Full_Bandwidth": (1, 256, 1),
    "ArcFault_1024Input_256Feature_1Frame_Half_Bandwidth": (1, 256, 1),
    "ArcFault_1024Input_64Feature_4Frame_Half_Bandwidth": (1, 256, 1),
    "ArcFault_1024Input_32Feature_8Frame_Quarter_Bandwidth": (1, 256, 1),
    "ECG2500Input_Roundoff_1Frame": (1, 2500, 1),
    "HandGesture256Input_RangeNormalize_1Frame": (3, 256, 1),
    "Input256_FFTBIN_16Feature_8Frame_3InputChannel_removeDC_1D": (1, 384, 1),
    "Input256_FFTBIN_16Feature_8Frame_3InputChannel_removeDC_2D1": (3, 128, 1),
    "Input256_FFT_128Feature_1Frame_3InputChannel_removeDC_2D1": (3, 128, 1),
    "Input128_RAW_128Feature_1Frame_3InputChannel_removeDC_2D1": (3, 128, 1),
    "MotorFault_128Input_RAW_128Feature_1Frame_3InputChannel_removeDC_2D1": (3, 128, 1),
    "Generic_8Input_ABS_8Feature_1Frame": (11, 8, 1),
    "Generic_1024Input_FFTBIN_64Feature_8Frame": (1, 512, 1),
    "Generic_512Input_FFTBIN_32Feature_8Frame": (1, 256, 1),
    "Generic_256Input_FFTBIN_16Feature_8Frame": (1, 128, 1),
    "Generic_32Input_FFTBIN_4Feature_8Frame": (1, 32, 1),
    "Generic_1024Input_FFT_512Feature_1Frame": (1, 512, 1),
    "Generic_512Input_FFT_256Feature_1Frame": (1, 256, 1),
    "Generic_256Input_FFT_128Feature_1Frame": (1, 128, 1),
    "Generic_512Input_RAW_512Feature_1Frame": (1, 512, 1),
    "Generic_256Input_RAW_256Feature_1Frame": (1, 256, 1),
    "Generic_128Input_RAW_128Feature_1Frame": (1, 128, 1),
}


def options(preset: Preset) -> FftOptions:
    known = {item.name for item in fields(FftOptions)}
    return FftOptions(**{key: value for key, value in preset.values.items() if key in known})


def test_every_preset_but_the_custom_ones_has_its_shape_in_the_facts() -> None:
    assert {preset.name for preset in PRESETS} - set(SHAPES) == {
        "Custom_ArcFault",
        "Custom_Default",
        "Custom_MotorFault",
    }


@pytest.mark.parametrize("preset", [p for p in PRESETS if p.name in SHAPES], ids=lambda preset: preset.name)
def test_a_preset_gives_the_shape_of_the_facts(preset: Preset) -> None:
    chosen = options(preset)
    window = (preset.values["variables"], chosen.frame_size * chosen.frames)
    assert FftExtractor().shape(window, chosen) == SHAPES[preset.name]


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_a_preset_sets_keys_of_the_section_only(preset: Preset) -> None:
    assert preset.kind == "feature_extraction"
    assert set(preset.values) <= set(keys("data_processing_feature_extraction"))
    chain.check_names(preset.values["feat_ext_transform"], "feat_ext_transform", chain.ORDER)


def test_the_vendors_other_presets_are_known_and_say_what_they_need() -> None:
    catalogue = load()
    names = {preset.name for preset in NOT_BUILT}
    assert len(PRESETS) + sum("is for" not in preset.not_built for preset in NOT_BUILT) == 40  # facts 3.1
    assert not names & set(catalogue.preset_names("feature_extraction"))
    for preset in NOT_BUILT:
        with pytest.raises(NotBuiltYet, match=f"preset '{preset.name}' is not built yet: {preset.not_built}"):
            catalogue.preset("feature_extraction", preset.name, task_type="motor_fault", target_device="x")


def test_frames_without_steps_are_the_samples_themselves() -> None:
    import numpy as np

    (preset,) = (p for p in PRESETS if p.name.startswith("MotorFault_128Input_RAW"))
    windows = np.random.default_rng(0).standard_normal((4, 3, 128)).astype(np.float32)
    assert np.array_equal(FftExtractor().extract(windows, options(preset))[..., 0], windows)


def test_the_example_preset_lists_the_window_after_the_fft_and_that_is_said() -> None:
    (preset,) = (p for p in PRESETS if p.name == "FFT1024Input_256Feature_1Frame_Full_Bandwidth")
    (note,) = FftExtractor().notes(options(preset))
    assert note.startswith("feat_ext_transform is a set: the steps run as WINDOWING, FFT_FE, NORMALIZE")


def test_the_package_announces_reader_extractor_and_presets() -> None:
    catalogue = load()
    assert catalogue.get("feature_extractor", "fft").Options is FftOptions
    for suffix, name in {".csv": "csv", ".CSV": "csv", ".txt": "txt", ".npy": "npy"}.items():
        reader = catalogue.reader_for(suffix)
        assert reader is not None
        assert reader.name == name
    assert set(SHAPES) <= set(catalogue.preset_names("feature_extraction"))
    assert "flowlab:flowlab_signal" not in catalogue.broken


def test_reader_extractor_and_presets_pass_the_checks_for_strangers(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,b\n1,2\n3,4\n")
    testing.check_reader(CsvReader(), tmp_path / "1.csv")
    chosen = options(next(p for p in PRESETS if p.name == "Generic_256Input_FFT_128Feature_1Frame"))
    testing.check_feature_extractor(FftExtractor(), (1, 256), chosen)
    for preset in PRESETS:
        testing.check_preset(preset)
