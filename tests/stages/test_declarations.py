"""What a stage declares is held against what its sources import."""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass
from importlib import import_module, metadata
from pathlib import Path

import pytest

from flowlab.contracts import Plugin, Stage
from flowlab.engine.facts import DiskFacts
from flowlab.engine.imports import imports_of
from flowlab.plugins import KINDS, load
from flowlab.roles import ROLES
from flowlab.stages import STAGES
from flowlab.stages.own.declared import OWN_STAGES
from flowlab.store.store import Store

# Libraries that carry text to people or plugins to flowlab, and decide no result.
CARRIERS = {"pluggy", "pydantic", "yaml", "rich", "markupsafe"}
# A module in a stage's code imports them in a function that the stage does not call.
NOT_CALLED = {
    "inspect": {"onnx", "onnxruntime", "pyarrow"},  # neighbours of the layer table in validate
    "compile": {"onnx", "onnxruntime"},  # the ONNX doors are in the compiler's package
    "simulate": {"torch"},  # a problem's loss; its measure is numpy's
}


ALL = {**{f"own {stage.name}": stage for stage in OWN_STAGES}, **{stage.name: stage for stage in STAGES}}


@pytest.fixture
def facts(tmp_path: Path) -> DiskFacts:
    return DiskFacts(Store(tmp_path))


def imported(facts: DiskFacts, names: tuple[str, ...]) -> set[str]:
    """The top packages that this code imports and that are neither its own nor Python's."""
    found = set()
    for name in facts.code(names):
        path = facts._place(name) if "/" not in name else None
        if path is not None:
            package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
            found |= {one.partition(".")[0] for one in imports_of(Path(path).read_text(), package)}
    return {name for name in found if name and name not in sys.stdlib_module_names and not name.startswith("flowlab")}


@pytest.mark.parametrize("stage", ALL.values(), ids=ALL)
def test_a_stage_declares_the_libraries_that_its_code_imports(stage: Stage, facts: DiskFacts) -> None:
    names = (stage.run.partition(":")[0], *stage.code)
    assert imported(facts, names) - CARRIERS - NOT_CALLED.get(stage.name, set()) <= set(stage.libraries)


@pytest.mark.parametrize("stage", ALL.values(), ids=ALL)
def test_the_code_of_a_stage_has_the_module_of_its_function(stage: Stage, facts: DiskFacts) -> None:
    module = stage.run.partition(":")[0]
    assert module in facts.code((module, *stage.code))


@pytest.mark.parametrize("stage", ALL.values(), ids=ALL)
def test_a_stage_passes_files_of_known_roles(stage: Stage) -> None:
    assert {*stage.needs, *stage.optional, *stage.makes} <= set(ROLES)


def plugins() -> list[Plugin]:
    catalogue = load()
    found = [catalogue.get(kind, name) for kind in KINDS for name in catalogue.names(kind)]
    return [one for one in found if isinstance(one, Plugin)]


def test_every_plugins_code_and_libraries_are_there(facts: DiskFacts) -> None:
    for plugin in plugins():
        assert facts.code((type(plugin).__module__, *plugin.code)), plugin.name
        assert {name for name in plugin.libraries if facts.version(name) == "absent"} == set(), plugin.name


def test_versions_are_those_that_the_packages_say(facts: DiskFacts) -> None:
    for name in {name for stage in ALL.values() for name in stage.libraries}:
        assert facts.version(name) == metadata.version(name)


def test_only_how_often_a_training_is_kept_is_an_option_that_decides_nothing() -> None:
    found = {
        f"{module.__name__}.{kind.__name__}.{one.name}"
        for module in (import_module(stage.run.partition(":")[0]) for stage in STAGES)
        for kind in vars(module).values()
        if isinstance(kind, type) and is_dataclass(kind)
        for one in fields(kind)
        if not one.metadata.get("decides", True)
    }
    assert found == {
        "flowlab.stages.train.TrainOptions.checkpoint_every",
        "flowlab.stages.quantize.QuantizeOptions.checkpoint_every",
    }
