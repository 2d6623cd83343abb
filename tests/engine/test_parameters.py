"""The typed config of deployments: made from the sections, as strict as it says; nothing that runs is lost in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flowlab.config import load, load_mapping
from flowlab.config.sections import SECTIONS, checks, defaults
from flowlab.engine import deploy
from flowlab.engine.parameters import as_given, normalised, typed_config
from flowlab.errors import ConfigError
from flowlab.plugins import load as load_plugins

CATALOGUE = load_plugins()
MODEL = typed_config()
SCHEMA = MODEL.model_json_schema()


def demo(**more: dict[str, Any]) -> dict[str, dict[str, Any]]:
    preset = CATALOGUE.preset("example", "demo")
    assert preset is not None
    return {name: {**keys, **more.get(name, {})} for name, keys in preset.values.items()}


def properties(section: str) -> dict[str, Any]:
    reference = SCHEMA["properties"][section]["$ref"].rsplit("/", 1)[1]
    found: dict[str, Any] = SCHEMA["$defs"][reference]
    return found


def refusals(config: dict[str, Any]) -> list[str]:
    """What Prefect's own check, which its server makes at submit, says of a config."""
    from prefect.utilities.schema_tools.validation import validate

    whole = {"type": "object", "properties": {"config": {"$ref": "#/definitions/Config"}}, "required": ["config"]}
    definitions = {**SCHEMA["$defs"], "Config": {key: value for key, value in SCHEMA.items() if key != "$defs"}}
    text = _redirected({**whole, "definitions": definitions})
    return [error.message for error in validate({"config": config}, text, raise_on_error=False, preprocess=True)]


def _redirected(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: one.replace("#/$defs/", "#/definitions/") if key == "$ref" else _redirected(one)
            for key, one in value.items()
        }
    return [_redirected(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_of_every_section_is_in_the_schema(section: str) -> None:
    found = properties(section)
    assert list(found["properties"]) == list(defaults(section))
    assert found["additionalProperties"] is False


@pytest.mark.parametrize("section", SECTIONS)
def test_every_choice_of_a_key_is_an_enum(section: str) -> None:
    for key, check in checks(section).items():
        if check.choices:
            assert tuple(properties(section)["properties"][key]["enum"]) == check.choices, key


def test_types_limits_and_own_defaults_are_in_the_schema() -> None:
    training = properties("training")["properties"]
    assert (training["batch_size"]["type"], training["batch_size"]["minimum"]) == ("integer", 1)
    assert training["learning_rate"]["exclusiveMinimum"] == 0
    assert training["quantization"]["enum"] == [0, 1, 2]
    assert training["quantization_weight_bitwidth"]["enum"] == [8, 4, 2]
    assert properties("dataset")["properties"]["seed"]["default"] == 42
    assert properties("dataset")["properties"]["split_factor"]["default"] == [0.6, 0.3, 0.1]


def test_a_form_never_takes_away_what_the_model_or_a_preset_brings() -> None:
    """A dashboard fills defaults of the schema in; these may be weaker than a preset's values."""
    for section in ("training", "data_processing_feature_extraction", "compilation"):
        assert not [key for key, one in properties(section)["properties"].items() if "default" in one]
    assert "Not given: 8" in properties("training")["properties"]["batch_size"]["description"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"training": {"optimizer": "adamm"}}, "'adamm' is not one of"),
        ({"training": {"epochs": 3}}, "'epochs' was unexpected"),
        ({"training": {"batch_size": "many"}}, "'many'"),
        ({"training": {"batch_size": True}}, "True"),
        ({"training": {"batch_size": 0}}, "0"),
        ({"training": {"quantization_weight_bitwidth": 3}}, "3 is not one of [8, 4, 2]"),
        ({"dataset": {"split_factor": [0.5, 0.5]}}, "[0.5, 0.5]"),
        ({"training": {"quantizer": {"iterations": 3}}}, "quantizer"),
        ({"comon": {}}, "'comon' was unexpected"),
    ],
)
def test_what_is_wrong_is_refused_by_the_servers_own_check_and_by_the_model(change: dict[str, Any], said: str) -> None:
    config = demo()
    for section, keys in change.items():
        config[section] = {**config.get(section, {}), **keys}
    found = refusals(config)
    assert found, change
    assert any(said in text for text in found) or said == "quantizer", found
    with pytest.raises(ValidationError):
        MODEL.model_validate(config, strict=True)


def test_the_demos_config_is_taken_and_comes_back_with_the_given_keys_alone() -> None:
    config = demo()
    assert refusals(config) == []
    assert as_given(MODEL.model_validate(config)) == config
    assert as_given(config) == config


def test_keys_that_are_not_given_may_be_none_as_a_form_sends_them() -> None:
    assert refusals(demo(training={"seed": None, "augment_config": None})) == []


def test_what_the_yaml_reader_accepts_is_brought_into_the_typed_form(tmp_path: Path) -> None:
    """Aliases, keys that nothing reads, flags as numbers, numbers as texts, names in another case."""
    file = tmp_path / "loose.yaml"
    file.write_text(
        "common: {task_type: generic_timeseries_classification, target_device: F28P55, verbose_mode: 1}\n"
        "dataset: {dataset_name: dc_arc_fault_example_dsk, max_num_files: 7, split_factor: ['0.6', 0.3, 0.1]}\n"
        "data_processing_feature_extraction:\n"
        "  feature_extraction_name: FFT1024Input_256Feature_1Frame_Full_Bandwidth\n"
        "training: {model_name: CLS_4k_NPU, learning_rate: 4e-5, batch_size: '64', optimizer: ADAM,\n"
        "           quantization: 2, quantization_method: qat, quantizer: None}\n"
        "compilation: {compile_preset_name: compress_npu_layer_data}\n"
    )
    config = load([file], [], CATALOGUE)
    typed = normalised(config)
    assert typed["training"] == {
        "model_name": "CLS_4k_NPU",
        "learning_rate": 4e-5,
        "batch_size": 64,
        "optimizer": "adam",
        "quantization": 2,
        "quantization_method": "QAT",
    }
    assert typed["compilation"] == {"preset_name": "compress_npu_layer_data"}
    assert typed["dataset"] == {"dataset_name": "dc_arc_fault_example_dsk", "split_factor": [0.6, 0.3, 0.1]}
    assert typed["common"]["verbose_mode"] is True
    assert refusals(typed) == []
    again = load_mapping(as_given(MODEL.model_validate(typed)), CATALOGUE)
    assert again.as_mapping() == config.as_mapping()


def test_options_beside_a_plugins_name_survive() -> None:
    config = demo(training={"model_name": {"name": "CLS_4k_NPU"}})
    assert refusals(config) == []
    assert as_given(MODEL.model_validate(config)) == config
    open_ended = demo(training={"quantizer": {"name": "tinpu_qat", "iterations": 2000}})
    assert refusals(open_ended) == []
    assert as_given(MODEL.model_validate(open_ended)) == open_ended


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("https://me:pw@host/a.zip", r"^dataset.input_data_path: a secret is written out.*\$\{NAME\}"),
        ("https://${USER}:${PASSWORD}@host/a.zip?download=1", "no server is up"),
    ],
)
def test_a_deployment_of_a_secret_is_refused_and_one_of_its_name_is_not(
    tmp_path: Path, address: str, message: str
) -> None:
    config = load_mapping(demo(dataset={"input_data_path": address}), CATALOGUE, source="demo")
    with pytest.raises(ConfigError, match=message) as caught:
        deploy.deploy(deploy.Asked(config, tmp_path), tmp_path / "home")
    assert "pw" not in str(caught.value)


def test_sections_of_packages_are_taken_and_given_back_as_they_are() -> None:
    model = typed_config(["pruning"])
    small = {"common": {"task_type": "t", "target_device": "F28P55"}, "training": {"model_name": "CLS_4k_NPU"}}
    config = {**small, "pruning": {"amount": 0.5}}
    assert as_given(model.model_validate(config))["pruning"] == {"amount": 0.5}
    assert "pruning" not in as_given(model.model_validate(small))
    with pytest.raises(ValidationError, match="pruning"):
        MODEL.model_validate(config)
