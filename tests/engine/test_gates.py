"""Gates look at records: the number, the limit, and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from flowlab.config import load_mapping
from flowlab.config.loading import Config
from flowlab.engine.gates import Gate, gates_of
from flowlab.engine.local import prepare
from flowlab.errors import ConfigError
from flowlab.plugins import Catalogue
from flowlab.plugins import load as load_plugins
from flowlab.stages import STAGES
from flowlab.store.records import Record
from flowlab.store.store import Store

NOTHING = {"executions": [], "not_run": []}
METRICS: dict[str, dict[str, Any]] = {
    "train": {"test": {"accuracy": 0.99}},
    "simulate": {"simulated": {"accuracy": 0.98}},
    "compile": {"needed": {"flash": 4194, "ram": 2304}},
    "validate": {"cpu_layers": []},
}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_plugins()


def config(catalogue: Catalogue, *sets: str) -> Config:
    demo = catalogue.preset("example", "demo")
    assert demo is not None
    return load_mapping(demo.values, catalogue, sets=sets)


def gates(made: Config, **metrics: Any) -> dict[str, Gate]:
    records = {
        stage: Record(stage, "", {}, {}, values, (), {}) for stage, values in {**METRICS, **metrics}.items() if values
    }
    return {gate.name: gate for gate in gates_of(made, records, NOTHING)}


def test_without_a_limit_there_is_no_gate(catalogue: Catalogue) -> None:
    assert gates(config(catalogue)) == {}


def test_a_drop_of_just_the_limit_is_passed_although_binary_fractions_say_more(catalogue: Catalogue) -> None:
    assert 0.99 - 0.98 > 0.01
    gate = gates(config(catalogue, "testing.max_accuracy_drop=0.01"))["max_accuracy_drop"]
    assert (gate.passed, gate.value) == (True, 0.01)


def test_a_network_that_gains_by_quantization_passes_a_limit_of_nothing(catalogue: Catalogue) -> None:
    made = config(catalogue, "testing.max_accuracy_drop=0")
    assert gates(made, simulate={"simulated": {"accuracy": 0.995}})["max_accuracy_drop"].passed
    assert not gates(made)["max_accuracy_drop"].passed


def test_what_nothing_measured_is_a_missed_gate(catalogue: Catalogue) -> None:
    made = config(
        catalogue, "testing.max_accuracy_drop=0.5", "compilation.max_ram_bytes=9", "compilation.require_npu=True"
    )
    found = gates(made, simulate={"simulated": None}, compile={"needed": {"rom": 3}}, validate={"vectors": 3})
    assert [(gate.value, gate.passed) for gate in found.values()] == [(None, False)] * 3
    assert "nobody says what the program needs of ram. Known: rom" in found["max_ram_bytes"].missed


@pytest.mark.parametrize(
    ("limit", "name", "said"),
    [
        ("max_flash_bytes=4194", "max_flash_bytes", ""),
        (
            "max_flash_bytes=4193",
            "max_flash_bytes",
            "needs 4,194 bytes of flash, and the limit is 4,193. Try a smaller",
        ),
        ("max_ram_bytes=2304", "max_ram_bytes", ""),
        ("max_ram_bytes=1", "max_ram_bytes", "compilation.max_ram_bytes: the program needs 2,304 bytes of ram"),
        ("require_npu=True", "require_npu", ""),
    ],
)
def test_bytes_and_layers_have_their_limits(catalogue: Catalogue, limit: str, name: str, said: str) -> None:
    gate = gates(config(catalogue, f"compilation.{limit}"))[name]
    assert gate.passed == (not said)
    assert said in gate.missed


def test_layers_on_the_cpu_are_named(catalogue: Catalogue) -> None:
    made = config(catalogue, "compilation.require_npu=True")
    layers = [f"conv{at}" for at in range(7)]
    gate = gates(made, validate={"cpu_layers": layers})["require_npu"]
    assert gate.to_json() == {"name": "require_npu", "limit": True, "value": False, "passed": False}
    assert "layers on the CPU: 7 (conv0, conv1, conv2, conv3, conv4 and 2 more), and the limit is 0" in gate.missed


def test_a_gate_is_in_no_recipe(catalogue: Catalogue, tmp_path: Any) -> None:
    limits = (
        "testing.max_accuracy_drop=0.01",
        "compilation.max_flash_bytes=9",
        "compilation.max_ram_bytes=9",
        "compilation.require_npu=True",
    )
    store = Store(tmp_path)
    plain, gated = (prepare(STAGES, config(catalogue, *sets), catalogue, store) for sets in ((), limits))
    assert [node.recipe for node in plain.plan] == [node.recipe for node in gated.plan]
    assert plain.sources == gated.sources


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (("training.quantization=0",), "'quantization: 0' puts every layer on the CPU. Write 'quantization: 2'"),
        (("training.quantization=1",), "'quantization: 1' puts every layer on the CPU"),
        (("common.target_device=F28P65", "compilation.preset_name="), "'F28P65' has no accelerator"),
        (("compilation.preset_name=forced_soft_npu_preset",), "type=soft: every layer on the CPU. Choose another"),
    ],
)
def test_an_accelerator_that_cannot_be_used_is_said_when_the_config_is_loaded(
    catalogue: Catalogue, sets: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ConfigError, match=r"compilation\.require_npu: .") as caught:
        config(catalogue, "compilation.require_npu=True", *sets)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "sets",
    [
        ("testing.max_accuracy_drop=0.1", "testing.enable=False"),
        ("testing.max_accuracy_drop=0.1", "compilation.enable=False"),
        ("compilation.max_flash_bytes=3", "compilation.enable=False"),
    ],
)
def test_a_gate_that_nothing_would_measure_is_refused(catalogue: Catalogue, sets: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="Leave one"):
        config(catalogue, *sets)


@pytest.mark.parametrize("wrong", ["testing.max_accuracy_drop=3", "testing.max_accuracy_drop=-0.1"])
def test_a_drop_is_a_fraction(catalogue: Catalogue, wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a fraction between 0 and 1, as in 0\.01"):
        config(catalogue, wrong)
