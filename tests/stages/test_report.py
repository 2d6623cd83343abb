from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from flowlab.config import load_mapping
from flowlab.contracts import StageJob
from flowlab.plugins import load
from flowlab.roles import ROLES
from flowlab.signal import features_file
from flowlab.stages.report import DOCUMENTS, STAGE, ReportOptions, options, run, trained_quantizer
from tests.report.conftest import make_facts


def job(folder: Path, *, without: tuple[str, ...] = ()) -> StageJob:
    """The stage's input files, written from made-up facts."""
    facts = make_facts()
    inputs: dict[str, Mapping[str, Path]] = {}
    for role in DOCUMENTS:
        if role not in without:
            path = folder / f"{role}.json"
            path.write_text(json.dumps(getattr(facts, role)), encoding="utf-8")
            inputs[role] = {path.name: path}
    config = folder / "quantization_config.yaml"
    config.write_text(yaml.safe_dump(dict(facts.quantization_config)), encoding="utf-8")
    inputs["quantization_config"] = {config.name: config}
    for role, size in facts.file_bytes.items():
        path = folder / f"{role}.onnx"
        path.write_bytes(b"x" * size)
        inputs[role] = {path.name: path}
    windows = folder / "windows.arrow"
    values = np.arange(4 * 1 * 1024, dtype=np.float32).reshape(4, 1, 1024)
    labels = np.array([1, 1, 0, 0], np.int64)
    rows = np.arange(4, dtype=np.int64)
    features_file.write(
        windows, values, labels, rows.astype(np.int32), rows, {"classes": ["arc", "normal"]}, index=rows
    )
    inputs["windows"] = {windows.name: windows}
    features = folder / "features_test.arrow"
    features_file.write(
        features, values[:, :, :256, None], labels, rows.astype(np.int32), rows, {"classes": ["arc", "normal"]}
    )
    inputs["features_test"] = {features.name: features}
    outputs = folder / "torch_outputs.npz"
    np.savez(outputs, output=np.array([[3, 9], [5, 5], [90, 1], [7, 8]], np.int32))
    inputs["torch_outputs"] = {outputs.name: outputs}
    out = folder / "out"
    out.mkdir()
    return StageJob(
        inputs=inputs,
        options=ReportOptions("NPU", packs_below_8=True),
        plugins={},
        plugin_options={},
        out=out,
        scratch=folder / "scratch",
        progress=lambda what, done: None,
    )


def page(made: Any) -> str:
    return str(made.files["report"]["report.html"].read_text(encoding="utf-8"))


def test_the_stage_writes_one_page_from_its_files(tmp_path: Path) -> None:
    shown = page(run(job(tmp_path)))
    assert "19,544 bytes" in shown
    assert shown.count('aria-label="window of class') == shown.count('aria-label="feature of class') == 2
    assert "0 mismatches" in shown


def test_curves_of_the_integers_are_counted_from_the_outputs(tmp_path: Path) -> None:
    shown = page(run(job(tmp_path)))
    # leads of arc: 89 and -1 of its own windows, -6 and 0 of the others; one of four pairs is out of order
    assert '<td class="num">0.99871</td><td class="num">0.75000</td>' in shown


def test_equal_files_in_another_folder_give_equal_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert page(run(job(tmp_path / "a"))) == page(run(job(tmp_path / "b")))


def test_the_layer_table_lies_beside_the_page(tmp_path: Path) -> None:
    lines = run(job(tmp_path)).files["layers"]["layers.csv"].read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("layer,operation,unit,reason,cure") and lines[-1].startswith("total,")
    assert len(lines) == len(make_facts().placement["layers"]) + 2


def test_a_run_without_simulation_has_a_report_too(tmp_path: Path) -> None:
    shown = page(run(job(tmp_path, without=("memory", "agreement", "costs", "metrics_simulate"))))
    assert "simulation is off" in shown and "Work of each layer" not in shown


def test_without_simulation_the_memory_map_is_shown_all_the_same(tmp_path: Path) -> None:
    shown = page(run(job(tmp_path, without=("agreement", "costs", "metrics_simulate"))))
    assert "The arena while layers run" in shown and "arena bytes" in shown
    assert "array in use" not in shown and "model NPU" not in shown


def test_unmeasured_integers_have_no_curves(tmp_path: Path) -> None:
    given = job(tmp_path)
    unmeasured = {**make_facts().metrics_quantize, "test": None, "confusion": None}
    given.input("metrics_quantize").write_text(json.dumps(unmeasured), encoding="utf-8")
    assert "0.75000" not in page(run(given))


def test_the_stage_needs_only_known_roles() -> None:
    assert {*STAGE.needs, *STAGE.optional, *STAGE.makes} <= set(ROLES)
    assert set(DOCUMENTS) <= {*STAGE.needs, *STAGE.optional}


@pytest.mark.parametrize(
    ("target", "packs"), [("c type=hard opt_for_space=true", True), ("c type=hard", False), (None, False)]
)
def test_options_come_from_target_and_compiler_string(target: str | None, packs: bool) -> None:
    config = SimpleNamespace(
        common=SimpleNamespace(target_device="x"),
        compilation=SimpleNamespace(target=target),
        training=SimpleNamespace(quantizer=None, model_name="y"),
    )
    catalogue = SimpleNamespace(get=lambda kind, name: SimpleNamespace(unit_name="ACC", larger="z"))
    assert options(config, catalogue) == ReportOptions("ACC", packs, ("training.quantization_method=QAT",), "z")


@pytest.mark.parametrize(
    ("named", "settings"),
    [
        ("tinpu_ptq", ("training.quantizer=tinpu_qat", "training.quantization_method=QAT")),
        ("generic_ptq", ("training.quantizer=generic_qat", "training.quantization_method=QAT")),
        ("none", ()),
    ],
)
def test_the_settings_for_quantization_aware_training_make_a_config_that_loads(
    named: str, settings: tuple[str, ...]
) -> None:
    catalogue = load()
    asked = {
        "common": {"task_type": "generic_timeseries_classification", "target_device": "F28P55"},
        "dataset": {"dataset_name": "dc_arc_fault_example_dsk"},
        "training": {"model_name": "CLS_4k_NPU", "quantizer": named, "quantization_method": "PTQ"},
    }
    config = load_mapping(asked, catalogue)
    assert trained_quantizer(config, catalogue) == settings
    if settings:
        again = load_mapping(asked, catalogue, sets=settings)
        assert catalogue.get("quantizer", again.quantizer_name(catalogue)).trains
