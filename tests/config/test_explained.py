"""Every value says where it comes from, and no secret is shown."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flowlab.config import Config
from flowlab.config.explained import Value, explained, lines
from flowlab.config.redaction import redacted, written_out
from flowlab.config.sections import EXCEPTIONS, SECTIONS, defaults
from flowlab.errors import ConfigError

Loaded = Callable[..., Config]


def values(config: Config) -> dict[str, Value]:
    return {f"{one.section}.{one.key}": one for one in explained(config)}


def test_every_key_of_every_section_is_there_once(loaded: Loaded) -> None:
    assert list(values(loaded())) == [f"{section}.{key}" for section in SECTIONS for key in defaults(section)]


def test_a_value_says_its_tier_its_default_and_whether_it_is_another(loaded: Loaded) -> None:
    found = values(loaded("training:\n  batch_size: 32\n", "training.seed=3"))
    assert (found["training.batch_size"].value, found["training.batch_size"].default) == (32, 8)
    assert found["training.batch_size"].tier.endswith("part.yaml, line 2")
    assert found["training.batch_size"].changed
    assert found["training.seed"].tier == "--set training.seed"
    assert found["training.learning_rate"].tier == "model CLS_4k_NPU"
    assert (found["training.optimizer"].tier, found["training.optimizer"].changed) == ("built-in", False)
    assert not found["dataset.split_factor"].changed
    assert found["common.target_device"].required


@pytest.mark.parametrize("place", EXCEPTIONS)
def test_a_default_that_differs_from_upstreams_says_why(loaded: Loaded, place: str) -> None:
    assert EXCEPTIONS[place] in values(loaded())[place].note


def test_lines_mark_what_is_changed_under_its_section(loaded: Loaded) -> None:
    config = loaded("training:\n  batch_size: 32\n  quantizer: {name: npu_qat, iterations: 3}\n")
    said = lines([one for one in explained(config) if one.changed])
    assert said[0] == "common:"
    assert all(line.startswith("*") or line.endswith(":") for line in said)
    assert any("batch_size" in line and "(built-in: 8)" in line for line in said)
    assert any("{name: npu_qat, iterations: 3}" in line for line in said)
    assert "  training_epochs" not in "\n".join(said) or "* training_epochs" in "\n".join(said)


def test_secrets_are_left_out_of_what_is_kept_and_shown() -> None:
    given = {
        "dataset": {"input_data_path": "https://me:pw@host.example/a.zip?sig=abc#x"},
        "training": {"quantizer": {"name": "cloud", "api_token": "abc", "list": ["http://u:p@h/x"], "epochs": 3}},
        "common": {"run_name": "${NAME}"},
    }
    kept = redacted(given)
    assert kept["dataset"]["input_data_path"] == "https://host.example/a.zip?..."
    assert kept["training"]["quantizer"] == {"name": "cloud", "api_token": "***", "list": ["http://h/x"], "epochs": 3}
    assert kept["common"] == given["common"]
    assert redacted("${TOKEN}", "api_token") == "${TOKEN}"
    assert "pw" not in str(kept) and "abc" not in str(kept)
    assert redacted("${SCHEME}://me:pw@host/${FILE}") == "${SCHEME}://..."
    assert redacted("see https://me:pw@host/x") == "see https://..."
    assert redacted({"password": 1234, "api-key": "abc", "token": None}) == {
        "password": "***",
        "api-key": "***",
        "token": None,
    }
    assert redacted({"credentials": {"user": "me", "of": ["x", "${X}"], "port": 1}, "accessKey": "abc"}) == {
        "credentials": {"user": "***", "of": ["***", "${X}"], "port": "***"},
        "accessKey": "***",
    }


@pytest.mark.parametrize(
    ("address", "secret"),
    [
        ("https://host/a.zip", False),
        ("https://host/a.zip?download=1#top", False),
        ("https://me:${PASSWORD}@host/a.zip?sig=${SIG}&v=2", False),
        ("https://${USER}:${PASSWORD}@host/a.zip", False),
        ("https://${TOKEN}@host/${FILE}", False),
        ("https://me:pw@host/a.zip", True),
        ("https://ghp_abc@host/a.zip", True),
        ("https://host/a.zip?sig=0123456789", True),
        ("https://host/a.zip?0123456789", True),
        ("https://host/a.zip?access_token=abc", True),
        ("https://host:port/a.zip", True),  # nobody can tell
    ],
)
def test_a_secret_that_is_written_out_is_told_from_one_of_the_environment(address: str, secret: bool) -> None:
    found = written_out({"dataset": {"input_data_path": address}, "training": {"quantizer": {"list": ["x", address]}}})
    assert found == (["dataset.input_data_path", "training.quantizer.list"] if secret else [])
    assert written_out({"a": {"api_token": "x", "token": "${TOKEN}", "secret": None}}) == ["a.api_token"]
    assert written_out({"a": {"credentials": {"user": "me"}}, "b": {"credentials": {"user": "${ME}"}}}) == [
        "a.credentials"
    ]


@pytest.mark.parametrize("value", ["http://me:pw@host:port/x", '"http://me:pw@host:port/x"', "[http://me:pw@host/x]"])
def test_a_secret_on_the_command_line_is_in_no_message(loaded: Loaded, value: str) -> None:
    with pytest.raises(ConfigError, match=r"^--set dataset.input_data_path=.*://") as caught:
        loaded("", f"dataset.input_data_path={value}")
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        "training.quantizer.api_tokn=canary",
        "training.quantizer.Api-Tokne=canary",
        "training.quantizer.passwod=canary",
        "training.quantizer.secrett=canary",
        "training.quantizer={name: generic_qat, api_token: canary}",
        "training.quantizer={name: generic_qat, api_tiken: canary}",
    ],
)
def test_a_secret_under_a_misspelt_key_on_the_command_line_is_in_no_message(loaded: Loaded, words: str) -> None:
    with pytest.raises(ConfigError, match=r"training\.quantiz") as caught:
        loaded("", "training.quantization=1", words)
    assert "canary" not in str(caught.value)


def test_other_values_on_the_command_line_are_shown(loaded: Loaded) -> None:
    with pytest.raises(ConfigError, match=r"^--set training.quantizr=27"):
        loaded("", "training.quantizr=27")


def test_a_secret_on_the_command_line_is_in_no_tier(loaded: Loaded) -> None:
    found = values(loaded("", "training.model_spec=https://me:pw@host.example/x"))["training.model_spec"]
    assert "pw" not in str(found)
