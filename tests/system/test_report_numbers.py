"""The report of real runs, one a mode: its numbers are those of `flowlab run --json`, and it reads in a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowlab.config import load_mapping
from flowlab.plugins import load
from tests.report.test_page import block, outline, text
from tests.system.test_demo import flowlab

pytestmark = pytest.mark.system

MODES = {
    "quantization 0": ("training.quantization=0",),
    "quantization 1, PTQ, 2 bits": (
        "training.quantization=1",
        "training.quantization_method=PTQ",
        "training.quantization_weight_bitwidth=2",
        "training.quantization_activation_bitwidth=4",
    ),
    "quantization 2, QAT": ("training.quantization_epochs=1", "training.quantization_activation_bitwidth=4"),
    "no test, no compilation": ("training.quantization_method=PTQ", "testing.enable=false", "compilation.enable=false"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all modes: data and float training are made once."""
    made = tmp_path_factory.mktemp("modes")
    demo = load().preset("example", "demo")
    assert demo is not None
    (made / "config.yaml").write_text(json.dumps(demo.values), encoding="utf-8")
    return made


@pytest.mark.parametrize("mode", MODES)
def test_the_numbers_of_the_page_are_those_of_json(folder: Path, mode: str) -> None:
    sets = [word for one in ("training.training_epochs=3", *MODES[mode]) for word in ("--set", one)]
    printed: dict[str, Any] = flowlab(folder, "run", "config.yaml", "--engine", "local", *sets)
    page = Path(printed["report"]).read_text(encoding="utf-8")
    assert outline(page).outside == []
    numbers = json.loads(block(page))
    assert numbers == {key: printed[key] for key in numbers}
    shown = text(page)
    for form, measured in printed["metrics"].items():
        value = f"{100 * measured['accuracy']:.2f} %" if measured else "–"
        assert f"accuracy, {form} {value}" in shown, form
    assert all(html(warning) in shown for warning in printed["warnings"])


def test_the_next_step_of_a_run_that_lost_accuracy_is_a_config_that_loads(folder: Path) -> None:
    lossy = [*MODES["quantization 1, PTQ, 2 bits"], "training.ptq_finetune=false"]
    sets = [word for one in lossy for word in ("--set", one)]
    words = ("run", "config.yaml", "--engine", "local", "--set", "training.training_epochs=3", *sets)
    page = Path(flowlab(folder, *words)["report"]).read_text(encoding="utf-8")
    step = text(page).partition("--set ")[2].partition(" Add it to")[0]
    assert step == "training.quantization_method=QAT"
    values = json.loads((folder / "config.yaml").read_text(encoding="utf-8"))
    catalogue = load()
    given = [*lossy, step]
    assert load_mapping(values, catalogue, sets=given).quantizer_name(catalogue) == "generic_qat"


def html(sentence: str) -> str:
    """A sentence as `text` shows it."""
    import markupsafe

    return " ".join(str(markupsafe.escape(sentence)).split())
