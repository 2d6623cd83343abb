"""A config that cannot be used: exit code 2, file, line and key named, no traceback, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowlab import cli

GOOD = """\
common:
  task_type: generic_timeseries_classification
  target_device: F28P55
dataset:
  dataset_name: dc_arc_fault_example_dsk
data_processing_feature_extraction:
  feature_extraction_name: FFT1024Input_256Feature_1Frame_Full_Bandwidth
  variables: 1
training:
  model_name: CLS_4k_NPU
  training_epochs: 1
  quantization: 2
  quantization_method: QAT
compilation:
  preset_name: compress_npu_layer_data
"""

SYNTHETIC = (
    "The data are synthetic: 'dc_arc_fault_example_dsk' is made by a generator, not measured.\n"
    "A path in dataset.input_data_path takes their place.\n"
)

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]\n" for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], text: str | bytes, command: str = "run") -> str:
    """What `flowlab run` says of a file; holds what holds for every bad file."""
    path = Path("mine.yaml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert cli.main([command, "mine.yaml"]) == 2
    found = capsys.readouterr()
    assert found.out in ("", SYNTHETIC)
    assert found.err.startswith("flowlab: ")
    assert "Traceback" not in found.err
    assert [one.name for one in Path().iterdir()] == ["mine.yaml"]
    return found.err


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (
            "training_epochs: 1",
            "trainning_epochs: 1",
            "mine.yaml, training, line 11: no key 'trainning_epochs'. Did you mean 'training_epochs'?",
        ),
        (
            "training_epochs: 1",
            "training_epochs: [many]",
            "mine.yaml, training.training_epochs, line 11: found ['many'], expected a whole number, 0 or more",
        ),
        (
            "target_device: F28P55",
            "target_device: F28P_55",
            "mine.yaml, common.target_device, line 3: no target named 'F28P_55'. Did you mean 'F28P55'?",
        ),
        (
            "model_name: CLS_4k_NPU",
            "model_name: CLS_4k_NPO",
            "mine.yaml, training.model_name, line 10: no model named 'CLS_4k_NPO'. Did you mean 'CLS_4k_NPU'?",
        ),
        (
            "Full_Bandwidth",
            "Ful_Bandwidth",
            "mine.yaml, data_processing_feature_extraction.feature_extraction_name, line 7: no feature preset or "
            "extractor named 'FFT1024Input_256Feature_1Frame_Ful_Bandwidth'. Did you mean "
            "'FFT1024Input_256Feature_1Frame_Full_Bandwidth'?",
        ),
        (
            "compress_npu_layer_data",
            "compress_npu_layer_date",
            "mine.yaml, compilation.preset_name, line 15: no compile preset named 'compress_npu_layer_date'. Did you",
        ),
        (
            "quantization_method: QAT",
            "quantization_method: QTA",
            "mine.yaml, training.quantization_method, line 13: found 'QTA', expected 'QAT' or 'PTQ'. Did you mean",
        ),
        (
            "quantization_method: QAT",
            "quantizer: tinpu_qta",
            "mine.yaml, training.quantizer, line 13: no quantizer named 'tinpu_qta'. Did you mean 'tinpu_qat'?",
        ),
        (
            "dataset_name: dc_arc_fault_example_dsk",
            "input_data_path: not/there.zip",
            "mine.yaml, dataset.input_data_path, line 5: no file or folder '",
        ),
        (
            "dataset_name: dc_arc_fault_example_dsk",
            "dataset_name: dc_arc_fault_example_dks",
            "mine.yaml, dataset.dataset_name, line 5: no dataset named 'dc_arc_fault_example_dks'",
        ),
    ],
)
def test_a_wrong_word_is_named_with_its_place(
    capsys: pytest.CaptureFixture[str], right: str, wrong: str, said: str, command: str
) -> None:
    assert right in GOOD
    assert said in refused(capsys, GOOD.replace(right, wrong), command)


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (
            "training_epochs: 1",
            "partial_quantization: True",
            "training.partial_quantization, line 11: partial quantization is",
        ),
        (
            "  variables: 1",
            "  feat_ext_transform: [FFT_FE, FFT_POS]",
            "mine.yaml, data_processing_feature_extraction.feat_ext_transform, line 8: no transform 'FFT_POS'. Did",
        ),
        (
            "  variables: 1",
            "  frame_size: 1",
            "mine.yaml, data_processing_feature_extraction.frame_size, line 8: found 1, expected the samples",
        ),
        (
            "training_epochs: 1",
            "training_epochs: 1\n  quantizer: {name: tinpu_qat, iterations: 3}",
            "mine.yaml, training.quantizer, line 12: quantizer 'tinpu_qat': no option 'iterations'. Known: none",
        ),
    ],
)
def test_what_only_the_plan_finds_leaves_nothing_either(
    capsys: pytest.CaptureFixture[str], right: str, wrong: str, said: str
) -> None:
    assert said in refused(capsys, GOOD.replace(right, wrong))


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("key", ["quantization_weight_bitwidth", "quantization_activation_bitwidth"])
def test_a_width_of_3_bits_is_refused_in_every_mode(capsys: pytest.CaptureFixture[str], key: str, mode: int) -> None:
    text = GOOD.replace("quantization: 2", f"quantization: {mode}\n  {key}: 3")
    assert f"mine.yaml, training.{key}, line 13: found 3, expected 8, 4 or 2" in refused(capsys, text)


def test_references_that_multiply_end_early(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, f"{GOOD}testing:\n" + "".join(f"  {line}\n" for line in BOMB.splitlines()))
    assert "mine.yaml, line " in said
    assert "values; references ('*name') multiply" in said


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system ['touch owned']", "!!python/name:os.system", "!mine 3", "!!binary aGk="]
)
def test_a_tag_builds_nothing(capsys: pytest.CaptureFixture[str], tag: str) -> None:
    said = refused(capsys, GOOD.replace("training_epochs: 1", f"training_epochs: {tag}"))
    assert "mine.yaml, line 11: tag '" in said
    assert "a config holds plain values only" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "common.task_type, common.target_device, training.model_name are missing"),
        ("training: [\n", "mine.yaml, line 2: not YAML"),
        ("- a\n", "mine.yaml: holds a list, expected sections"),
        ("training:\n\tmodel_name: x\n", "mine.yaml, line 2: not YAML: a tab stands in the indentation"),
        (b"\xff\xfea\0", "mine.yaml: UTF-16 text; save it as UTF-8"),
        (b"\x00\x01", "mine.yaml: binary data, expected YAML text"),
        (b"training: \xe9\n", "mine.yaml, line 1: not UTF-8 text"),
        ("a: " * 200, "not YAML"),
        ("[" * 30, "nested deeper than 16 levels"),
        ("[" * 5000, "not YAML"),
    ],
)
def test_what_is_no_config_is_named(capsys: pytest.CaptureFixture[str], text: str | bytes, said: str) -> None:
    assert said in refused(capsys, text)


def test_a_file_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "none.yaml"]) == 2
    assert capsys.readouterr().err == "flowlab: none.yaml: cannot be read as a config: no file of this name\n"
    assert list(Path().iterdir()) == []


def test_the_good_file_is_good(capsys: pytest.CaptureFixture[str]) -> None:
    """Or the tests above would hold for any text."""
    Path("mine.yaml").write_text(GOOD)
    assert cli.main(["config", "show", "mine.yaml"]) == 0


def test_plan_says_what_the_config_is_warned_of_beside_its_output(capsys: pytest.CaptureFixture[str]) -> None:
    narrow = GOOD.replace("quantization: 2", "quantization: 2\n  quantization_activation_bitwidth: 4")
    Path("mine.yaml").write_text(narrow)
    assert cli.main(["plan", "mine.yaml"]) == 0
    found = capsys.readouterr()
    assert found.err.startswith("warning: activation bits 4 -> 8: ")
    assert "warning" not in found.out


def test_a_server_that_is_no_address_leaves_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "nonsense")
    assert "PREFECT_API_URL holds no address" in refused(capsys, GOOD)
