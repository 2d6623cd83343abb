from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from flowlab.contracts import StageJob
from flowlab.roles import ROLES
from flowlab.signal import features_file
from flowlab.stages.report import DOCUMENTS, STAGE, ReportOptions, options, run
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
    assert shown.count('class="wave"') == 2
    assert "0 mismatches" in shown


def test_equal_files_in_another_folder_give_equal_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert page(run(job(tmp_path / "a"))) == page(run(job(tmp_path / "b")))


def test_a_run_without_simulation_has_a_report_too(tmp_path: Path) -> None:
    shown = page(run(job(tmp_path, without=("memory", "agreement", "costs", "metrics_simulate"))))
    assert "simulation is off" in shown


def test_the_stage_needs_only_known_roles() -> None:
    assert {*STAGE.needs, *STAGE.optional, *STAGE.makes} <= set(ROLES)
    assert set(DOCUMENTS) <= {*STAGE.needs, *STAGE.optional}


@pytest.mark.parametrize(
    ("target", "packs"), [("c type=hard opt_for_space=true", True), ("c type=hard", False), (None, False)]
)
def test_options_come_from_target_and_compiler_string(target: str | None, packs: bool) -> None:
    config = SimpleNamespace(common=SimpleNamespace(target_device="x"), compilation=SimpleNamespace(target=target))
    catalogue = SimpleNamespace(get=lambda kind, name: SimpleNamespace(unit_name="ACC"))
    assert options(config, catalogue) == ReportOptions("ACC", packs)
    assert replace(options(config, catalogue), unit_name="NPU").unit_name == "NPU"
