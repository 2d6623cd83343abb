"""Sections that packages bring with a stage: checked like flowlab's own, and in a plan only where a config has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from flowlab.config import Config, load, load_mapping
from flowlab.contracts import Stage
from flowlab.errors import ConfigError
from flowlab.plugins import Brought, Catalogue

Load = Callable[..., Config]


@dataclass(frozen=True)
class PruneOptions:
    amount: float = 0.3
    scope: Literal["layer", "network"] = "layer"
    api_key: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.amount < 1:
            raise ValueError(f"amount is {self.amount}, expected 0 to below 1")


@dataclass(frozen=True)
class DistilOptions:
    teacher: str
    rates: tuple[float, ...] = ()


WHOLE = """\
common: {task_type: generic_timeseries_classification, target_device: F28P55}
dataset: {dataset_name: dc_arc_fault_example_dsk}
training: {model_name: CLS_4k_NPU}
"""
PRUNE = Stage("prune", "somewhere:run", rewrites=("float_model",), section="pruning", Options=PruneOptions)
DISTIL = Stage("distil", "elsewhere:run", rewrites=("float_model",), section="distilling", Options=DistilOptions)


@pytest.fixture
def catalogue(catalogue: Catalogue) -> Catalogue:
    stages = (Brought(PRUNE, "flowlab-pruning"), Brought(DISTIL, "flowlab-distil"))
    return replace(catalogue, brought=(*catalogue.brought, *stages))


def message(loaded: Load, part: str, *sets: str) -> str:
    with pytest.raises(ConfigError) as raised:
        loaded(part, *sets)
    return str(raised.value)


def test_a_config_without_the_section_has_no_stage_of_it(loaded: Load) -> None:
    assert loaded().own == {}
    assert "pruning" not in loaded().given


def test_the_section_brings_its_stage_with_its_options(loaded: Load) -> None:
    own = loaded("pruning: {amount: 0.5}\n").own["pruning"]
    assert own.values == PruneOptions(0.5)
    assert own.stage.name == "prune"
    assert own.stage.options is not None
    assert own.stage.options(None, None) == PruneOptions(0.5)


def test_an_empty_mapping_asks_for_the_defaults_and_an_empty_value_for_nothing(loaded: Load) -> None:
    assert loaded("pruning: {}\n").own["pruning"].values == PruneOptions()
    config = loaded("pruning:\n")
    assert config.own == {}
    assert any("'pruning: {}' asks for it" in warning for warning in config.warnings)


def test_a_later_file_lies_over_an_earlier_one_and_can_take_the_section_out(
    write: Callable[..., Path], catalogue: Catalogue
) -> None:
    base = write(WHOLE + "\npruning: {amount: 0.5, scope: network}\n")
    part, none = write("pruning: {amount: 0.1}\n", "b.yaml"), write("pruning: null\n", "c.yaml")
    assert load([base, part], [], catalogue).own["pruning"].values == PruneOptions(0.1, "network")
    assert load([base, none], [], catalogue).own == {}
    assert load([base], ["pruning.amount=0.2"], catalogue).own["pruning"].values == PruneOptions(0.2, "network")
    assert load([base, none], ["pruning.amount=0.2"], catalogue).own["pruning"].values == PruneOptions(0.2)


def test_given_reads_again_to_an_equal_config(loaded: Load, catalogue: Catalogue) -> None:
    config = loaded("pruning: {amount: 0.5}\ndistilling: {teacher: big, after: prune}\n")
    assert config.given["pruning"] == {"amount": 0.5}
    again = load_mapping(config.given, catalogue)
    assert {name: one.values for name, one in again.own.items()} == {
        "pruning": PruneOptions(0.5),
        "distilling": DistilOptions("big"),
    }
    assert again.own["distilling"].after == ("prune",)


def test_a_misspelt_key_is_named_with_file_line_and_suggestion(loaded: Load) -> None:
    text = message(loaded, "\npruning:\n  scope: layer\n  amounts: 0.5\n")
    assert "part.yaml, pruning, line 4: no key 'amounts'. Did you mean 'amount'? Known: amount, scope" in text


def test_values_of_wrong_types_are_said_all_at_once(loaded: Load) -> None:
    text = message(loaded, "pruning:\n  amount: much\n  scope: layr\n")
    assert "part.yaml, pruning.amount, line 2: found 'much'." in text
    assert "part.yaml, pruning.scope, line 3: found 'layr'." in text


def test_what_the_options_themselves_refuse_is_named_with_its_place(loaded: Load) -> None:
    assert "part.yaml, pruning, line 2: amount is 7.0, expected" in message(loaded, "pruning:\n  amount: 7\n")


def test_a_key_that_must_be_given_is_named(loaded: Load) -> None:
    assert message(loaded, "distilling: {}\n") == "distilling: teacher must be given"


def test_a_secret_is_not_repeated_in_a_message(loaded: Load) -> None:
    text = message(loaded, "pruning:\n  api_key: [s3cret]\n")
    assert "pruning.api_key" in text
    assert "s3cret" not in text


def test_a_variable_of_the_environment_is_refused_since_it_would_decide_unseen(loaded: Load) -> None:
    assert "'${HOME}' is read from the environment in" in message(loaded, "pruning: {api_key: '${HOME}'}\n")


@pytest.mark.parametrize("part", ["pruning: 3\n", "pruning: [amount]\n"])
def test_a_section_that_holds_no_keys_is_refused(loaded: Load, part: str) -> None:
    assert "part.yaml, pruning, line 1: holds" in message(loaded, part)


def test_a_key_twice_is_refused(loaded: Load) -> None:
    assert "amount" in message(loaded, "pruning:\n  amount: 0.1\n  amount: 0.2\n")


@pytest.mark.parametrize(("value", "after"), [("distil", ("distil",)), ("[distil, train]", ("distil", "train"))])
def test_after_is_a_key_of_every_such_section(loaded: Load, value: str, after: tuple[str, ...]) -> None:
    own = loaded(f"pruning: {{after: {value}}}\n").own["pruning"]
    assert own.after == after
    assert own.stage.after == after
    assert own.values == PruneOptions()


def test_after_is_the_name_of_stages(loaded: Load) -> None:
    assert "part.yaml, pruning.after, line 1: found 3, expected a stage's name" in message(
        loaded, "pruning: {after: 3}\n"
    )


def test_an_unknown_section_is_answered_with_those_of_packages_and_with_what_is_broken(
    write: Callable[..., Path], catalogue: Catalogue
) -> None:
    broken = replace(catalogue, broken={"flowlab-sparse": "cannot be loaded: ImportError: no"})
    with pytest.raises(ConfigError) as raised:
        load([write(WHOLE + "sparsity: {}\nprunning: {}\n")], [], broken)
    text = str(raised.value)
    assert "no section 'sparsity'" in text
    assert "compilation, distilling, pruning. Packages that could not be loaded fully: flowlab-sparse: cannot" in text
    assert "Did you mean 'pruning'?" in text


def test_equal_sections_of_two_packages_are_told_apart_by_their_distribution(
    write: Callable[..., Path], catalogue: Catalogue
) -> None:
    two = replace(catalogue, brought=(*catalogue.brought, Brought(replace(PRUNE, name="prune2"), "other")))
    assert set(two.sections()) == {"distilling", "flowlab-pruning:pruning", "other:pruning"}
    with pytest.raises(ConfigError, match=r"two packages bring a section named 'pruning'.*'other:pruning'"):
        load([write(WHOLE + "pruning: {}\n")], [], two)
    own = load([write(WHOLE + "'other:pruning': {amount: 0.1}\n")], [], two).own
    assert [one.stage.name for one in own.values()] == ["prune2"]


def test_the_secret_of_a_set_is_not_in_its_place(loaded: Load) -> None:
    config: Any = loaded("", "pruning.api_key=s3cret")
    assert "s3cret" not in str(config.tiers)


def test_a_sweep_varies_keys_of_such_a_section(write: Callable[..., Path], catalogue: Catalogue) -> None:
    from flowlab.config.sweep import load_sweep, load_sweep_mapping

    base = write(WHOLE + "pruning: {scope: network}\n")
    path = write(f"config: {base.name}\nmatrix:\n  pruning.amount: [0.1, 0.5]\n", "sweep.yaml")
    sweep = load_sweep(path, catalogue=catalogue)
    for read in (sweep, load_sweep_mapping(sweep.given, catalogue=catalogue)):
        values = [read.config(cell, catalogue).own["pruning"].values for cell in read.cells]
        assert values == [PruneOptions(0.1, "network"), PruneOptions(0.5, "network")]
    with pytest.raises(ConfigError, match="no section 'pruning'"):
        load_sweep(path)
