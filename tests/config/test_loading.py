from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from flowlab.config import Config, extractor_options, load, load_mapping
from flowlab.config.explained import explained, lines
from flowlab.config.loading import _fraction
from flowlab.config.reference import rows
from flowlab.errors import ConfigError, FlowlabError, NotBuiltYet, OptionError
from flowlab.plugins import Brought, Catalogue
from flowlab.signal.windowing import WindowOptions
from tests.config.conftest import WHOLE, ToyExtractor

Loaded = Callable[..., Config]
Write = Callable[..., Path]


def test_the_whole_example_loads_with_values_of_every_tier(loaded: Loaded) -> None:
    config = loaded()
    assert config.training.batch_size == 256  # the file
    assert config.training.learning_rate == 0.04  # the model
    assert config.training.optimizer == "sgd"  # built in
    assert config.data_processing_feature_extraction.frame_size == 1024  # preset over dataset
    assert config.data_processing_feature_extraction.num_frame_concat == 2  # dataset
    assert config.data_processing_feature_extraction.variables == 1  # file over dataset
    assert config.compilation.target == "c"  # compile preset
    assert config.dataset.split_factor == (0.6, 0.3, 0.1)
    assert config.warnings == ()
    assert config.presets == {
        "feature_extraction": "FFT1024Input_256Feature_1Frame_Full_Bandwidth",
        "compile": "compress_npu_layer_data",
    }


def test_every_value_says_where_it_comes_from(loaded: Loaded) -> None:
    config = loaded("training:\n  batch_size: 32\n", "training.seed=3")
    assert config.tier("training", "batch_size").endswith("part.yaml, line 2")
    assert config.tier("training", "seed") == "--set training.seed=3"
    assert config.tier("training", "learning_rate") == "model CLS_4k_NPU"
    assert config.tier("data_processing_feature_extraction", "num_frame_concat") == "dataset dc_arc_fault_example_dsk"
    assert config.tier("data_processing_feature_extraction", "frame_size").startswith("feature preset FFT1024")
    assert config.tier("compilation", "target") == "compile preset compress_npu_layer_data"
    assert config.tier("training", "optimizer") == "built-in"


def test_a_section_cannot_be_changed(loaded: Loaded) -> None:
    with pytest.raises(FrozenInstanceError):
        loaded().training.batch_size = 3  # type: ignore[misc]


def test_a_later_file_wins_key_by_key_and_lists_as_a_whole(loaded: Loaded) -> None:
    config = loaded("dataset:\n  split_factor: [0.5, 0.25, 0.25]\ntraining:\n  training_epochs: 3\n")
    assert config.dataset.split_factor == (0.5, 0.25, 0.25)
    assert config.training.training_epochs == 3
    assert config.training.batch_size == 256


@pytest.mark.parametrize("nothing", ["null", "''", "None", "~"])
def test_a_value_of_nothing_takes_the_key_back_to_its_default(loaded: Loaded, nothing: str) -> None:
    assert loaded(f"training:\n  batch_size: {nothing}\n").training.batch_size == 64


@pytest.mark.parametrize("section", ["testing:", "testing: {}", "testing: null"])
def test_an_empty_section_is_an_empty_section(loaded: Loaded, section: str) -> None:
    assert loaded(section).testing.enable is True


def test_an_empty_file_changes_nothing(loaded: Loaded) -> None:
    assert loaded("# only a comment\n") == loaded("")


@pytest.mark.parametrize("text", ["4e-5", "'4e-5'", "0.00004", "4.0e-5"])
def test_a_number_without_a_dot_is_a_number(loaded: Loaded, text: str) -> None:
    assert loaded(f"training:\n  weight_decay: {text}\n").training.weight_decay == 4e-5


@pytest.mark.parametrize("name", ["SGD", "sgd", "Sgd"])
def test_optimizers_are_told_apart_by_letters_and_not_by_case(loaded: Loaded, name: str) -> None:
    assert loaded(f"training:\n  optimizer: {name}\n").training.optimizer == "sgd"


def test_the_two_spellings_of_the_compile_preset_are_one_key(loaded: Loaded) -> None:
    whole = WHOLE.replace("  preset_name", "  compile_preset_name")
    assert loaded(whole=whole).compilation.preset_name == "compress_npu_layer_data"
    assert loaded("compilation:\n  compile_preset_name: None\n").compilation.preset_name is None
    both = "compilation:\n  preset_name: compress_npu_layer_data\n  compile_preset_name: compress_npu_layer_data\n"
    assert loaded(both).compilation.preset_name == "compress_npu_layer_data"


def test_two_spellings_with_two_values_are_an_error(loaded: Loaded) -> None:
    with pytest.raises(ConfigError, match=r"line 3: 'compile_preset_name' is 'b' and 'preset_name' \(line 2\) is 'a'"):
        loaded("compilation:\n  preset_name: a\n  compile_preset_name: b\n")


def test_a_misspelt_key_gets_a_suggestion_with_file_section_and_line(loaded: Loaded) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded("training:\n\n  quantization_weigth_bitwidth: 8\n")
    assert "part.yaml, training, line 3: no key 'quantization_weigth_bitwidth'." in str(caught.value)
    assert "Did you mean 'quantization_weight_bitwidth'?" in str(caught.value)


def test_a_key_in_a_wrong_section_is_sent_to_its_own(loaded: Loaded) -> None:
    with pytest.raises(ConfigError, match=r"no key 'batch_size'. It belongs under 'training:'"):
        loaded("common:\n  batch_size: 3\n")


def test_a_misspelt_section_gets_a_suggestion(loaded: Loaded) -> None:
    with pytest.raises(ConfigError, match=r"part\.yaml, line 1: no section 'trainings'. Did you mean 'training'\?"):
        loaded("trainings:\n  batch_size: 3\n")


def test_every_misspelt_key_of_a_file_is_said_at_once(loaded: Loaded) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded("training:\n  batchsize: 3\n  optimiser: sgd\n")
    assert len(str(caught.value).splitlines()) == 2


def test_a_repeated_key_is_an_error_that_names_both_lines(loaded: Loaded) -> None:
    with pytest.raises(ConfigError, match=r"training: 'batch_size' stands twice, in line 2 and in line 4"):
        loaded("training:\n  batch_size: 3\n  seed: 1\n  batch_size: 4\n")
    with pytest.raises(ConfigError, match=r"'training' stands twice, in line 1 and in line 3"):
        loaded("training:\n  batch_size: 3\ntraining:\n  seed: 4\n")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("training:\n  batch_size: many\n", r"training.batch_size, line 2: found 'many', expected a whole number, 1"),
        ("training:\n  batch_size: 0\n", "found 0, expected a whole number, 1 or more"),
        ("training:\n  batch_size: true\n", "found True, expected a whole number"),
        ("training:\n  batch_size: 2.5\n", r"found 2\.5, expected a whole number"),
        ("training:\n  batch_size: [3]\n", r"found \[3\], expected a whole number"),
        ("training:\n  training_epochs: -1\n", "found -1, expected a whole number, 0 or more"),
        ("training:\n  training_epochs: .inf\n", "found inf, expected a whole number"),
        ("training:\n  learning_rate: .nan\n", "found nan, expected a number above 0"),
        ("training:\n  optimizer: admw\n", r"expected one of sgd, .*\. Did you mean 'adamw'\?"),
        ("training:\n  quantization: 3\n", "found 3, expected 0 .float., 1"),
        ("training:\n  quantization_weight_bitwidth: 16\n", "found 16, expected 8, 4 or 2"),
        ("training:\n  quantization_method: QTA\n", "expected 'QAT' or 'PTQ'"),
        ("training:\n  output_int: maybe\n", "found 'maybe', expected True or False"),
        ("training:\n  seed: 4294967296\n", "expected a whole number between 0 and"),
        ("dataset:\n  split_factor: [0.5, 0.5]\n", "expected three fractions"),
        (
            "dataset:\n  split_factor: [0.5, 0.5, 0.1]\n",
            r"split_factor, line 2: found 0\.5, 0\.5, 0\.1, which add up to 1\.1",
        ),
        ("dataset:\n  split_factor: [1.0, 0.0, 0.0]\n", "expected three fractions above 0"),
        ("dataset:\n  dataset_name: 2024\n", "found 2024, expected a text .put a number in quotes."),
        ("dataset:\n  dataset_name: ../up\n", "found '../up', expected letters"),
        ("data_processing_feature_extraction:\n  variables: []\n", r"found \[\], expected how many columns"),
        ("data_processing_feature_extraction:\n  variables: 0\n", "found 0, expected how many columns"),
        ("data_processing_feature_extraction:\n  variables: [-1]\n", "expected how many columns"),
        ("data_processing_feature_extraction:\n  log_base: ten\n", "expected 'e' or a number above 0"),
        ("training: 3\n", "part.yaml, training, line 1: holds the value 3, expected keys"),
        ("training: [a]\n", "holds a list, expected keys"),
        ("- a\n- b\n", "part.yaml: holds a list, expected sections: common, dataset"),
        ("just text\n", "holds the value 'just text', expected sections"),
        ("include_files: x.yaml\n", "flowlab run base.yaml part.yaml"),
    ],
)
def test_a_wrong_value_is_named_with_place_and_what_is_expected(loaded: Loaded, part: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(part)


def test_names_are_looked_up_and_suggested_with_their_line(loaded: Loaded) -> None:
    cases = [
        ("training:\n  model_name: CLS_4k_NPO\n", r"training.model_name, line 2: no model named .* 'CLS_4k_NPU'\?"),
        ("common:\n  target_device: F28P56\n", r"common.target_device, line 2: no target named .* 'F28P55'\?"),
        (
            "common:\n  task_type: arc_falt\n",
            r"common.task_type, line 2: no task 'arc_falt'. Did you mean 'arc_fault'\?",
        ),
        ("dataset:\n  dataset_name: dc_arc_fault_example_dks\n", r"Did you mean 'dc_arc_fault_example_dsk'\?"),
        (
            "data_processing_feature_extraction:\n  feature_extraction_name: FFT1024Input_256Feature_1Frame\n",
            r"line 2: no feature preset or extractor named .* 'FFT1024Input_256Feature_1Frame_Full_Bandwidth'\?",
        ),
        ("data_processing_feature_extraction:\n  feature_extraction_name: toyy\n", r"Did you mean 'toy'\?"),
        ("data_processing_feature_extraction:\n  feature_extraction_name: only_motor\n", "is not made for task"),
        ("compilation:\n  preset_name: compress_npu\n", r"no compile preset .* 'compress_npu_layer_data'\?"),
        ("training:\n  model_name: REGR_2k\n", "model 'REGR_2k' is for regression"),
    ]
    for part, message in cases:
        with pytest.raises(ConfigError, match=message):
            loaded(part)


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ("training:\n  warmup_epochs: 3\n", "training.warmup_epochs"),
        ("training:\n  model_config: ''\n", "training.model_config"),
        ("training:\n  epochs: 20\n", "write 'training_epochs'"),
        ("dataset:\n  max_num_files: 3\n", "dataset.max_num_files"),
        ("data_processing_feature_extraction:\n  resampling_factor: 1\n", "resampling_factor"),
        ("data_processing:\n  variables: 1\n", "section data_processing"),
        ("common:\n  run_name: mine\n", "common.run_name"),
        ("training:\n  num_gpus: 1\n", "training.num_gpus"),
    ],
)
def test_a_key_that_nothing_reads_is_accepted_with_a_warning(loaded: Loaded, part: str, named: str) -> None:
    (warning,) = loaded(part).warnings
    assert named in warning
    assert "changes nothing" in warning
    assert "part.yaml" not in warning  # the file's name decides no result


def test_a_key_without_effect_is_silent_at_its_default(loaded: Loaded) -> None:
    assert loaded("training:\n  num_gpus: 0\ncommon:\n  run_name: '{date-time}/{model_name}'\n").warnings == ()


def test_set_wins_over_files_and_reads_yaml(loaded: Loaded) -> None:
    config = loaded(
        "training:\n  training_epochs: 3\n",
        "training.training_epochs=5",
        "data_processing_feature_extraction.variables=[0, 2]",
        "training.weight_decay=1e-5",
    )
    assert config.training.training_epochs == 5
    assert config.data_processing_feature_extraction.variables == (0, 2)
    assert config.training.weight_decay == 1e-5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.epoch=5", r"--set training.epoch=5, training: no key 'epoch'"),
        ("trainings.seed=5", r"no section 'trainings'. Did you mean 'training'\?"),
        ("training.seed", "expected section.key=value"),
        ("seed=5", "expected section.key=value"),
        ("training.seed=[", "not YAML"),
        ("training.seed=x", r"--set training.seed=x, training.seed: found 'x'"),
    ],
)
def test_a_wrong_set_is_named(loaded: Loaded, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded("", text)


def test_paths_count_from_the_file_and_in_set_from_the_working_directory(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    part = "dataset:\n  dataset_name: mine\n  input_data_path: data\n"
    assert loaded(part).dataset.input_data_path == str(tmp_path / "data")
    set_path = loaded(part, "dataset.input_data_path=data").dataset.input_data_path
    assert set_path == str(tmp_path / "elsewhere" / "data")


def test_data_that_are_not_there_are_named(loaded: Loaded, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset.input_data_path, line 2: no file or folder '.*none.zip'"):
        loaded("dataset:\n  input_data_path: none.zip\n")
    for hostile in ('"a\\0b"', "~nobody-of-this-name/x", "x" * 5000):
        with pytest.raises(ConfigError, match="no file or folder"):
            loaded(f"dataset:\n  input_data_path: {hostile}\n")
    (tmp_path / "x.csv").write_text("1\n")
    with pytest.raises(ConfigError, match=r"neither a folder nor a .zip"):
        loaded("dataset:\n  input_data_path: x.csv\n")
    with pytest.raises(ConfigError, match="nothing says where the data are"):
        loaded("dataset:\n  dataset_name: null\n")


def test_a_dataset_without_a_name_is_called_like_its_file(loaded: Loaded, tmp_path: Path) -> None:
    (tmp_path / "bearings").mkdir()
    config = loaded("dataset:\n  dataset_name: null\n  input_data_path: bearings\n")
    assert config.dataset_name == "bearings"


@pytest.mark.parametrize(
    ("section", "advice"), [("training", "training_epochs: 0"), ("dataset", "taken from the store")]
)
def test_a_run_without_data_or_model_says_what_to_use_instead(loaded: Loaded, section: str, advice: str) -> None:
    with pytest.raises(ConfigError, match=rf"{section}.enable, line 2: .*{advice}"):
        loaded(f"{section}:\n  enable: False\n")


def test_what_is_not_built_yet_is_said_so(loaded: Loaded, catalogue: Catalogue) -> None:
    for part, message in [
        ("common:\n  task_type: generic_timeseries_regression\n", "line 2: task .* is not built yet"),
    ]:
        with pytest.raises(NotBuiltYet, match=message):
            loaded(part)
    for part, message in [
        ("training:\n  partial_quantization: True\n", "partial quantization is not built yet"),
        ("training:\n  training_device: cuda\n", "training on a GPU is not built yet"),
    ]:
        config = loaded(part)  # such a file loads
        with pytest.raises(NotBuiltYet, match=message):
            config.quantizer_name(catalogue)


@pytest.mark.parametrize(
    "task",
    [
        "generic_timeseries_regression",
        "generic_timeseries_anomalydetection",
        "generic_timeseries_forecasting",
        "image_classification",
        "audio_classification",
        "radar_classification",
    ],
)
def test_a_task_that_is_not_built_is_said_first_and_alone(loaded: Loaded, task: str) -> None:
    wrong = (
        "training:\n  model_name: REGR_13k\n  modl_name: x\n  batch_size: -1\ncompilation:\n  preset_name: nowhere\n"
    )
    with pytest.raises(NotBuiltYet) as error:
        loaded(f"common:\n  task_type: {task}\n{wrong}")
    assert re.fullmatch(
        rf"\S+part.yaml, common.task_type, line 2: task '{task}' is not built yet. Use one of .*", said(error)
    )


def test_a_name_that_is_known_and_not_built_says_what_it_needs(loaded: Loaded) -> None:
    model = "training:\n  model_name: branched\n"
    with pytest.raises(
        NotBuiltYet, match=r"line 2: model 'branched' is not built yet: it adds two branches\. Known: CLS_4k, "
    ):
        loaded(model)
    preset = "data_processing_feature_extraction:\n  feature_extraction_name: fixed_point\n"
    with pytest.raises(NotBuiltYet, match=r"preset 'fixed_point' is not built yet: it needs FFT_Q15\. Known: FFT10"):
        loaded(preset)
    with pytest.raises(NotBuiltYet) as error:
        loaded(model + preset)
    assert len(said(error).splitlines()) == 2
    with pytest.raises(ConfigError, match="no model named 'branch'") as unknown:
        loaded("training:\n  model_name: branch\n")
    assert "branched" not in said(unknown)


def said(error: pytest.ExceptionInfo[FlowlabError]) -> str:
    return str(error.value)


def test_narrow_activations_run_as_bytes_with_one_warning(loaded: Loaded, catalogue: Catalogue) -> None:
    config = loaded("training:\n  quantization_weight_bitwidth: 4\n  quantization_activation_bitwidth: 4\n")
    (warning,) = config.warnings
    assert warning.startswith("activation bits 4 -> 8: the NPU stores bytes; 4 would save nothing and cost accuracy")
    assert config.training.quantization_activation_bitwidth == 4
    assert config.effective_activation_bits(catalogue) == 8


WINDOWED = "data_processing_feature_extraction:\n  frame_size: {frame}\n  data_proc_transforms: [{steps}]\n"


def windowed(loaded: Loaded, stride: object, frame: int = 256, steps: str = "SimpleWindow") -> tuple[str, ...]:
    """The warnings of a config with this stride; None leaves the key out."""
    key = "" if stride is None else f"  stride_size: {stride}\n"
    return loaded(WINDOWED.format(frame=frame, steps=steps) + key).warnings


@pytest.mark.parametrize("steps", ["", "Downsample"])
def test_a_stride_that_no_transform_reads_is_said(loaded: Loaded, steps: str) -> None:
    (warning,) = windowed(loaded, 0.5, steps=steps)
    assert warning == (
        "data_processing_feature_extraction.stride_size changes nothing: only SimpleWindow in data_proc_transforms "
        "reads it"
    )
    assert windowed(loaded, 0.01, steps=steps) == ()  # it is the default anyway
    assert windowed(loaded, None, steps=steps) == ()


@pytest.mark.parametrize("stride", [0, 0.25, 1])
def test_a_stride_within_a_frame_needs_no_word(loaded: Loaded, stride: float) -> None:
    assert windowed(loaded, stride) == ()


@pytest.mark.parametrize(
    ("stride", "frame", "left", "fraction"),
    [
        (64, 256, 16128, "0.25"),
        (64, 300, 18900, "0.214"),
        (7, 100, 600, "0.07"),
        (1000, 256, 255744, "3.91"),
        (2, 16777216, 16777216, "0.00000012"),
    ],
)
def test_a_stride_in_samples_is_told_apart_from_the_fraction_that_it_is(
    loaded: Loaded, stride: int, frame: int, left: int, fraction: str
) -> None:
    (warning,) = windowed(loaded, stride, frame)
    assert warning == (
        f"data_processing_feature_extraction.stride_size is a fraction of frame_size: {stride} leaves {left} samples "
        f"out between two frames. For a hop of {stride} samples write {fraction}"
    )
    assert WindowOptions(("SimpleWindow",), frame_size=frame, stride_size=stride).hop - frame == left
    assert WindowOptions(("SimpleWindow",), frame_size=frame, stride_size=float(fraction)).hop == stride


def test_the_fraction_that_is_advised_gives_the_hop_of_every_frame() -> None:
    for frame in range(2, 130):
        for hop in range(1, 2 * frame):
            advised = WindowOptions(("SimpleWindow",), frame_size=frame, stride_size=float(_fraction(hop, frame)))
            assert advised.hop == hop


def test_a_stride_above_a_frame_that_is_no_count_of_samples_gets_no_such_advice(loaded: Loaded) -> None:
    (warning,) = windowed(loaded, 1.5)
    assert warning.endswith("1.5 leaves 128 samples out between two frames")


def test_a_stride_of_less_than_a_sample_says_that_frames_follow_each_other(loaded: Loaded) -> None:
    (warning,) = windowed(loaded, 0.001)
    assert warning.endswith("0.001 of 256 samples is less than one, and counts as 1")
    assert WindowOptions(("SimpleWindow",), frame_size=256, stride_size=0.001).hop == 256


def test_a_stride_that_is_left_to_the_default_says_what_it_is(loaded: Loaded) -> None:
    (warning,) = windowed(loaded, None)
    assert warning.endswith(
        "stride_size is not given: SimpleWindow starts a frame every 0.01 of frame_size, here 2 samples"
    )
    assert windowed(loaded, None, frame=64) == ()  # less than a sample: frames follow each other


def test_an_extractor_with_a_stride_of_its_own_reads_it(write: Write, catalogue: Catalogue) -> None:
    class Striding(ToyExtractor):
        name = "striding"
        Options = WindowOptions

    brought = Catalogue((*catalogue.brought, Brought(Striding(), "flowlab")))
    for name, warnings in (("striding", 0), ("toy", 1)):
        part = f"data_processing_feature_extraction:\n  feature_extraction_name: {name}\n  stride_size: 0.5\n"
        config = load([write(WHOLE), write(part, "part.yaml")], (), brought)
        assert len(config.warnings) == warnings


def test_the_reference_says_the_unit_of_a_stride(loaded: Loaded) -> None:
    (row,) = (row for row in rows() if row.key == "stride_size")
    assert row.takes == "a fraction of frame_size, 0 or more, at most 1e+12; SimpleWindow reads it"
    with pytest.raises(ConfigError, match="found 'half', expected a fraction of frame_size"):
        windowed(loaded, "half")


@pytest.mark.parametrize("mode", [0, 1])
def test_narrow_activations_are_what_they_are_without_an_accelerator(
    loaded: Loaded, catalogue: Catalogue, mode: int
) -> None:
    config = loaded(f"training:\n  quantization: {mode}\n  quantization_activation_bitwidth: 2\n")
    assert config.warnings == ()
    assert config.effective_activation_bits(catalogue) == 2


def test_bits_by_layer_are_said_to_take_the_place_of_the_width(loaded: Loaded) -> None:
    text = "training:\n  quantization: 2\n  quantization_weight_bitwidth: 4\n"
    (warning,) = loaded(text + "  auto_quantization: true\n").warnings
    assert warning == "weight bits 4 -> chosen for each layer: 'auto_quantization' is on"
    assert loaded(text).warnings == ()


@pytest.mark.parametrize("key", ["auto_quantization_mean_bits", "autoquant_tolerance_classification"])
def test_a_budget_without_a_search_is_said_to_change_nothing(loaded: Loaded, key: str) -> None:
    (warning,) = loaded(f"training:\n  {key}: 2.5\n").warnings
    assert warning == f"training.{key} changes nothing without 'auto_quantization: true'"


def test_a_tolerance_that_is_not_read_is_said(loaded: Loaded) -> None:
    def told(keys: str) -> list[str]:
        config = loaded(f"training:\n  quantization: 2\n  auto_quantization: true\n{keys}")
        return [each for each in config.warnings if "autoquant" in each]

    assert told("  autoquant_tolerance_classification: 0.01\n") == []
    (warning,) = told("  autoquant_tolerance_regression: 0.01\n")
    assert warning.startswith("training.autoquant_tolerance_regression is of another task, and changes nothing")
    (warning,) = told("  autoquant_tolerance_classification: 0.01\n  auto_quantization_mean_bits: 3\n")
    assert warning.endswith("changes nothing beside 'auto_quantization_mean_bits', which is the budget")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("auto_quantization_mean_bits: 1.5", "a number between 2 and 8"),
        ("auto_quantization_mean_bits: 3\n  auto_quantization_weight_bytes: 900", "Leave one of the two out"),
    ],
)
def test_a_budget_of_bits_is_one_that_can_be_kept(loaded: Loaded, given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        loaded(f"training:\n  auto_quantization: true\n  {given}\n")


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("key", ["quantization_weight_bitwidth", "quantization_activation_bitwidth"])
def test_a_width_that_no_machine_has_is_refused_in_every_mode(loaded: Loaded, mode: int, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"training.{key}, line 3: found 3, expected "):
        loaded(f"training:\n  quantization: {mode}\n  {key}: 3\n")


def test_the_quantizer_follows_from_target_and_method(loaded: Loaded, catalogue: Catalogue) -> None:
    assert loaded().quantizer_name(catalogue) == "npu_qat"
    assert loaded("training:\n  quantization_method: ptq\n").quantizer_name(catalogue) == "npu_ptq"
    short = [(0, "QAT", "none"), (0, "PTQ", "none"), (1, "QAT", "generic_qat"), (1, "PTQ", "generic_ptq")]
    for mode, method, name in short:
        config = loaded(f"training:\n  quantization: {mode}\n  quantization_method: {method}\n")
        assert config.quantizer_name(catalogue) == name
        assert (config.output_int, config.skip_normalize) == (mode > 0, mode > 0)
    with pytest.raises(ConfigError, match="found QAT, but the quantizer 'npu_ptq' is PTQ"):
        loaded("training:\n  quantizer: npu_ptq\n").quantizer_name(catalogue)
    with pytest.raises(ConfigError, match=r"training.quantizer, line 2: no quantizer .* Did you mean 'npu_qat'\?"):
        loaded("training:\n  quantizer: npu_qta\n").quantizer_name(catalogue)


def test_a_quantizer_for_an_accelerator_of_any_name_is_the_targets_own_mode(
    loaded: Loaded, catalogue: Catalogue
) -> None:
    whole = WHOLE.replace("  quantization: 2\n", "")
    config = loaded("training:\n  quantization_method: PTQ\n  quantizer: dsp_ptq\n", whole=whole)
    assert (config.training.quantization, config.training.quantization_method) == (2, "PTQ")
    assert config.output_int and config.skip_normalize


def test_a_device_without_an_accelerator_names_the_mode_that_it_has(loaded: Loaded, catalogue: Catalogue) -> None:
    plain = "common:\n  target_device: plain\n"
    said = r"line 16: 'plain' has no quantizer of its own for QAT: it has no accelerator. Write 'quantization: 1'"
    with pytest.raises(ConfigError, match=f"training.quantization, {said}"):
        loaded(plain).quantizer_name(catalogue)
    assert loaded(f"{plain}training:\n  quantization: 1\n").quantizer_name(catalogue) == "generic_qat"


def test_a_models_own_mode_is_the_generic_one_on_a_device_without_an_accelerator(
    loaded: Loaded, catalogue: Catalogue
) -> None:
    whole = WHOLE.replace("  quantization: 2\n", "")
    config = loaded(whole=whole)
    assert (config.training.quantization, config.tier("training", "quantization")) == (2, "model CLS_4k_NPU")
    plain = "common:\n  target_device: plain\n"
    config = loaded(plain, whole=whole)
    assert config.quantizer_name(catalogue) == "generic_qat"
    assert config.training.quantization == 1
    tier = "model CLS_4k_NPU, for a device without an accelerator"
    assert config.tier("training", "quantization") == tier
    assert config.tier("training", "learning_rate") == "model CLS_4k_NPU"
    assert any(tier in line for line in lines(explained(config)))
    assert loaded(f"{plain}training:\n  quantization: 0\n", whole=whole).training.quantization == 0
    with pytest.raises(ConfigError, match=r"line 4: 'plain' has no quantizer of its own .* Write 'quantization: 1'"):
        loaded(f"{plain}training:\n  quantization: 2\n", whole=whole).quantizer_name(catalogue)


def test_a_quantizer_that_no_package_brings_is_named(loaded: Loaded, catalogue: Catalogue) -> None:
    lean = Catalogue(tuple(one for one in catalogue.brought if one.item.name != "generic_qat"))
    with pytest.raises(ConfigError, match=r"training.quantization, line 2: 1 needs 'generic_qat': no quantizer named"):
        loaded("training:\n  quantization: 1\n").quantizer_name(lean)


def test_a_plugin_may_be_chosen_with_options(loaded: Loaded, catalogue: Catalogue) -> None:
    config = loaded("training:\n  quantizer: {name: npu_qat, iterations: 20}\n")
    assert config.training.quantizer == "npu_qat"
    assert config.options_for("training", "quantizer") == {"iterations": 20}
    assert config.options_for("training", "model_name") == {}
    with pytest.raises(ConfigError, match=r"training.quantizer, line 2: found .*, and no 'name' that is a text"):
        loaded("training:\n  quantizer: {title: npu_qat}\n")


def test_the_options_of_a_plugin_are_given_by_set_too_one_by_one_or_as_a_whole(loaded: Loaded) -> None:
    part = "training:\n  quantizer: {name: npu_qat, iterations: 20}\n"
    config = loaded(part, "training.quantizer.tolerance=0.5")
    assert config.options_for("training", "quantizer") == {"iterations": 20, "tolerance": 0.5}
    assert config.tier("training", "quantizer") == "--set training.quantizer.tolerance=0.5"
    bare = loaded("", "training.quantizer=npu_qat", "training.quantizer.iterations=3")
    assert bare.options_for("training", "quantizer") == {"iterations": 3}
    named = loaded("", "training.quantizer.name=npu_qat", "training.quantizer.iterations=3")
    assert (named.training.quantizer, named.options_for("training", "quantizer")) == ("npu_qat", {"iterations": 3})
    whole = loaded(part, "training.quantizer={name: npu_qat, tolerance: 0.25}")
    assert whole.options_for("training", "quantizer") == {"tolerance": 0.25}
    later = loaded("", "training.quantizer.iterations=3", "training.quantizer=npu_qat")
    assert later.options_for("training", "quantizer") == {}
    with pytest.raises(ConfigError, match=r"found iterations, and no 'name' that is a text"):
        loaded("", "training.quantizer.iterations=3")


def test_only_a_key_that_chooses_a_plugin_has_options(loaded: Loaded) -> None:
    with pytest.raises(ConfigError, match=r"'batch_size' has no options; these have.*training.quantizer"):
        loaded("", "training.batch_size.name=3")
    with pytest.raises(ConfigError, match=r"no key 'quantiser'. Did you mean 'quantizer'\?"):
        loaded("", "training.quantiser.name=npu_qat")


@pytest.mark.parametrize(
    ("key", "name", "kind"),
    [
        ("training.quantizer", "npu_qat", "quantizer 'npu_qat'"),
        ("training.model_name", "CLS_4k", "model 'CLS_4k'"),
        ("common.target_device", "F28P55", "target 'F28P55'"),
        ("dataset.dataset_name", "dc_arc_fault_example_dsk", "dataset 'dc_arc_fault_example_dsk'"),
        ("data_processing_feature_extraction.feature_extraction_name", "toy", "feature extractor 'toy'"),
    ],
)
def test_every_kind_of_plugin_is_chosen_in_the_same_shape(loaded: Loaded, key: str, name: str, kind: str) -> None:
    section, _, word = key.partition(".")
    with pytest.raises((ConfigError, OptionError)) as caught:
        loaded(f"{section}:\n  {word}: {{name: {name}, no_such: 1}}\n")
    assert f"part.yaml, {key}, line 2: {kind}: no option 'no_such'." in str(caught.value)
    with pytest.raises((ConfigError, OptionError), match="no option 'no_such'"):
        loaded("", f"{key}={name}", f"{key}.no_such=1")


def test_a_misspelt_option_gets_a_suggestion_and_a_wrong_type_is_named(loaded: Loaded) -> None:
    with pytest.raises(ConfigError, match=r"no option 'iteration'. Did you mean 'iterations'\? Known: iterations, tol"):
        loaded("training:\n  quantizer: {name: npu_qat, iteration: 20}\n")
    with pytest.raises(ConfigError, match=r"quantizer 'npu_qat': option 'iterations': .* found 'many'"):
        loaded("training:\n  quantizer: {name: npu_qat, iterations: many}\n")


def test_a_dataset_that_nobody_brings_has_no_options(loaded: Loaded, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(ConfigError, match="no package brings a dataset 'mine', so it has no options"):
        loaded("dataset:\n  dataset_name: {name: mine, x: 1}\n  input_data_path: data\n")


def test_a_named_quantizer_decides_the_short_forms(loaded: Loaded) -> None:
    whole = WHOLE.replace("  quantization: 2\n  quantization_method: 'QAT'\n", "")
    config = loaded("training:\n  quantizer: slow_ptq\n", whole=whole)
    assert (config.training.quantization, config.training.quantization_method) == (2, "PTQ")
    assert config.tier("training", "quantization") == "quantizer slow_ptq"
    assert loaded("training:\n  quantizer: floats\n", whole=whole).training.quantization == 0


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (
            "  quantizer: slow_ptq\n",
            "training.quantization_method, line 17: found QAT, but the quantizer 'slow_ptq' is PTQ",
        ),
        (
            "  quantizer: floats\n",
            "training.quantization, line 16: found 2, but the quantizer 'floats' is a 'quantization: 0'. Leave",
        ),
        (
            "  quantizer: npu_qat\n  quantization: 1\n",
            "found 1, but the quantizer 'npu_qat' is a 'quantization: 2'. Leave one of the two",
        ),
    ],
)
def test_a_short_form_that_contradicts_the_named_quantizer_is_an_error(loaded: Loaded, part: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(f"training:\n{part}")
    assert said in str(caught.value)


def test_everything_that_is_wrong_is_said_at_once(loaded: Loaded) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(
            "common:\n  target_device: F28P56\n  task_type: arc_falt\n"
            "dataset:\n  dataset_name: nobodys\n"
            "data_processing_feature_extraction:\n  feature_extraction_name: FFT1024\n"
            "training:\n  batchsize: 3\n  training_epochs: many\n  model_name: CLS_4k_NPO\n  quantizer: npu_qta\n",
            "trainings.seed=3",
            "training.seed=x",
        )
    lines = str(caught.value).splitlines()
    for said in (
        "no key 'batchsize'",
        "no section 'trainings'",
        "no model named 'CLS_4k_NPO'",
        "no feature preset or extractor named 'FFT1024'",
        "no target named 'F28P56'",
        "no quantizer named 'npu_qta'",
        "training_epochs, line 10: found 'many'",
        "training.seed: found 'x'",
        "no dataset named 'nobodys'",
    ):
        assert len([line for line in lines if said in line]) == 1, said
    assert len(lines) == 9


def test_two_files_that_cannot_be_read_are_both_named(tmp_path: Path, catalogue: Catalogue) -> None:
    with pytest.raises(ConfigError) as caught:
        load([tmp_path / "one.yaml", tmp_path / "two.yaml"], [], catalogue)
    assert [Path(line.partition(":")[0]).name for line in str(caught.value).splitlines()] == ["one.yaml", "two.yaml"]


@pytest.mark.parametrize(
    ("wrong", "most"),
    [
        ("training.training_epochs=1e9", "100,000"),
        ("training.quantization_epochs=1e9", "100,000"),
        ("training.batch_size=1e12", "1,048,576"),
        ("training.learning_rate=1e6", "100"),
        ("training.threads=100000", "1,024"),
        ("training.weight_decay=1e300", "1e+12"),
        ("training.quantization_calibration_count=1e18", "1,000,000"),
        ("data_processing_feature_extraction.frame_size=1e15", "16,777,216"),
        ("data_processing_feature_extraction.num_frame_concat=1e15", "1,000,000"),
        ("compilation.max_flash_bytes=1e30", "1,099,511,627,776"),
    ],
)
def test_a_number_beyond_all_sense_is_refused_with_the_bound(loaded: Loaded, wrong: str, most: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded("", wrong)
    assert f"at most {most}." in str(caught.value)


def test_an_extractor_gets_the_keys_that_it_reads(loaded: Loaded) -> None:
    assert extractor_options(loaded(), ToyExtractor()) == {"frame_size": 1024, "log_base": "e"}
    part = "data_processing_feature_extraction:\n  feature_extraction_name: {name: toy, depth: 5}\n"
    assert extractor_options(loaded(part), ToyExtractor())["depth"] == 5
    with pytest.raises(OptionError, match="no option 'dept'"):
        extractor_options(loaded(part.replace("depth", "dept")), ToyExtractor())


def test_a_part_alone_says_what_is_missing(write: Write, catalogue: Catalogue) -> None:
    with pytest.raises(ConfigError, match=r"common.task_type, common.target_device are missing.*whole.yaml part.yaml"):
        load([write("training:\n  model_name: CLS_4k_NPU\n")], [], catalogue)
    with pytest.raises(ConfigError, match="no config file given"):
        load([], [], catalogue)


def test_what_the_user_gave_loads_again_to_the_same_values(loaded: Loaded, catalogue: Catalogue) -> None:
    config = loaded("training:\n  quantizer: {name: npu_qat, iterations: 20}\n  batch_size: '128'\n", "training.seed=2")
    again = load_mapping(json.loads(json.dumps(config.given)), catalogue)
    assert again.as_mapping() == config.as_mapping()
    assert again.plugin_options == config.plugin_options


def test_a_mapping_is_checked_like_a_file(catalogue: Catalogue) -> None:
    with pytest.raises(ConfigError, match=r"config, training: no key 'batchsize'. Did you mean 'batch_size'\?"):
        load_mapping({"training": {"batchsize": 3}}, catalogue)
    with pytest.raises(ConfigError, match="holds int, expected keys"):
        load_mapping({"training": 3}, catalogue)


def test_derived_values_follow_the_rule(loaded: Loaded) -> None:
    config = loaded()
    assert (config.output_int, config.skip_normalize, config.quantization_epochs) == (True, True, 10)
    assert loaded("training:\n  output_int: False\n").output_int is False
    assert loaded("training:\n  training_epochs: 100\n").quantization_epochs == 20
    assert loaded("training:\n  quantization_epochs: 4\n").quantization_epochs == 4
    assert loaded("training:\n  quantization: 0\n").output_int is False


def test_a_config_is_plain_json(loaded: Loaded) -> None:
    config = loaded()
    assert json.loads(json.dumps(config.as_mapping()))["dataset"]["split_factor"] == [0.6, 0.3, 0.1]


def test_loading_a_config_imports_nothing_heavy() -> None:
    code = (
        "import sys, flowlab.config\n"
        "heavy = {'numpy', 'torch', 'pyarrow', 'onnx', 'prefect', 'scipy', 'fsspec', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("wrong", ["data_dir=/etc", "data_dir=../x", "annotation_dir=a/../..", "dataset_name=latest"])
def test_names_that_lead_out_of_the_dataset_or_onto_latest_are_refused(loaded: Loaded, wrong: str) -> None:
    with pytest.raises(ConfigError, match=f"dataset.{wrong.partition('=')[0]}.*found .*, expected"):
        loaded("", f"dataset.{wrong}")


@pytest.mark.parametrize(
    ("part", "place"),
    [
        ("dataset:\n  data_dir: my_${PLACE}\n", "dataset.data_dir, line 2: '${PLACE}'"),
        ("dataset:\n  split_names: [train, '${PLACE}', test]\n", "dataset.split_names, line 2: '${PLACE}'"),
        (
            "data_processing_feature_extraction:\n  variables: ['${PLACE}']\n",
            "data_processing_feature_extraction.variables, line 2: '${PLACE}'",
        ),
    ],
)
def test_a_variable_of_the_environment_in_what_decides_results_is_refused_and_not_taken_as_it_stands(
    part: str, place: str, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", "secret")
    with pytest.raises(ConfigError) as caught:
        loaded(part)
    said = str(caught.value)
    assert place in said
    assert '="$PLACE" in its place' in said
    assert "secret" not in said


@pytest.mark.parametrize(
    "part", ["dataset:\n  input_data_path: ${PLACE}/data\n", "common:\n  download_path: ${PLACE}/x\n"]
)
def test_a_variable_of_the_environment_stays_where_it_is_read_later_or_changes_nothing(
    part: str, loaded: Loaded
) -> None:
    assert "${PLACE}" in json.dumps(loaded(part).given)
