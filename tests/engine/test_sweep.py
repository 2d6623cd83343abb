"""Sweeps: what is the same in several cells is done once; a cell that fails stops no other."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import flowlab.stages
from flowlab.config.sweep import load_sweep
from flowlab.engine.session import Asked
from flowlab.engine.sweep import SilentSweep, begin_sweep, run_sweep, survey_sweep
from flowlab.engine.sweep_result import SweepResult
from flowlab.errors import ConfigError, GateError, StageError
from flowlab.plan import Shared
from flowlab.plugins import load
from flowlab.store.runs import state_of
from flowlab.store.store import Store
from tests.conftest import ROOT

MATRIX = """
matrix:
  common.target_device: [F28P55, AM13E2, MSPM33C32]
  training.quantization_weight_bitwidth: [8, 4]
  training.seed: [0, 1]
"""
TINY = """
common: {task_type: generic_timeseries_classification}
dataset: {dataset_name: dc_arc_fault_example_dsk}
data_processing_feature_extraction:
  feature_extraction_name: FFT1024Input_256Feature_1Frame_Full_Bandwidth
  variables: 1
training: {model_name: CLS_500_NPU, training_epochs: 1}
"""
SHARED = {"ingest": 1, "extract": 1, "train": 2, "quantize": 8}


@pytest.fixture
def imagined_stages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The stages of `imagined_sweep`; returns the file in which each of them notes that it ran."""
    import imagined_sweep

    monkeypatch.setattr(flowlab.stages, "STAGES", imagined_sweep.stages())
    monkeypatch.setenv("IMAGINED_LOG", str(tmp_path / "log"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "log"


@pytest.fixture
def sweep(imagined_stages: Path, data: Path, tmp_path: Path) -> Path:
    """A sweep of twelve cells over the imagined stages."""
    import imagined_sweep

    return written(tmp_path, imagined_sweep.config(data) + MATRIX)


def written(folder: Path, text: str) -> Path:
    path = folder / "trial.yaml"
    path.write_text(text)
    return path


def ran(path: Path, folder: Path, jobs: int = 2, **more: Any) -> SweepResult:
    asked = Asked(engine="local", artifacts=folder / "artifacts")
    return run_sweep(load_sweep(path), load(), asked, jobs=jobs, **more)


def noted(log: Path) -> Counter[str]:
    return Counter(line.split()[0] for line in log.read_text().splitlines())


def counts(nodes: tuple[Shared, ...]) -> Counter[str]:
    return Counter(node.node.name for node in nodes)


# --- the real stages ----------------------------------------------------------------------------


def test_twelve_cells_over_three_devices_of_which_two_share_an_npu_train_twice_and_quantize_eight_times(
    tmp_path: Path,
) -> None:
    plan, cached = survey_sweep(load_sweep(written(tmp_path, TINY + MATRIX)), load(), Asked(artifacts=tmp_path))
    found = counts(plan.nodes)
    assert len(plan.cells) == 12
    assert {stage: found[stage] for stage in SHARED} == SHARED
    assert {found[stage] for stage in ("validate", "compile", "simulate", "report")} == {12}
    assert cached == {}
    assert plan.lines(cached)[0] == "trial: 12 cells, 66 nodes instead of 108"


def test_two_devices_with_one_npu_share_a_quantized_model_and_no_program(tmp_path: Path) -> None:
    text = TINY + "matrix: {common.target_device: [F28P55, AM13E2]}\n"
    plan, _ = survey_sweep(load_sweep(written(tmp_path, text)), load(), Asked(artifacts=tmp_path))
    found = counts(plan.nodes)
    assert (found["quantize"], found["compile"]) == (1, 2)


def test_limits_are_in_no_recipe(tmp_path: Path) -> None:
    text = TINY + "  \nmatrix: {compilation.max_flash_bytes: [1000, 2000, 3000], common.target_device: [F28P55]}\n"
    plan, _ = survey_sweep(load_sweep(written(tmp_path, text)), load(), Asked(artifacts=tmp_path))
    assert len(plan.cells) == 3
    assert set(counts(plan.nodes).values()) == {1}


def test_a_cell_that_no_run_could_do_is_named_before_anything_runs(tmp_path: Path) -> None:
    text = TINY + "matrix: {common.target_device: [F28P55, MSPM33C32], training.quantization: [1, 2]}\n"
    with pytest.raises(ConfigError) as error:
        survey_sweep(load_sweep(written(tmp_path, text)), load(), Asked(artifacts=tmp_path))
    assert "has no quantizer of its own for QAT" in str(error.value)
    assert "in 1 cell: target_device=MSPM33C32, quantization=2" in str(error.value)
    assert "Leave these cells of 'trial' out with 'exclude:'" in str(error.value)


def test_what_is_wrong_with_all_cells_is_said_as_for_a_run(tmp_path: Path) -> None:
    text = TINY.replace("CLS_500_NPU", "CLS_500_NPV") + MATRIX
    with pytest.raises(Exception, match="no model named 'CLS_500_NPV'") as error:
        survey_sweep(load_sweep(written(tmp_path, text)), load(), Asked(artifacts=tmp_path))
    assert "exclude" not in str(error.value)


# --- imagined stages, which really run ----------------------------------------------------------


def test_equal_work_runs_once_and_every_cell_is_a_run(sweep: Path, imagined_stages: Path, tmp_path: Path) -> None:
    result = ran(sweep, tmp_path)
    assert noted(imagined_stages) == {"ingest": 1, "inspect": 3, "train": 2, "quantize": 8, "compile": 12}
    assert result.exit_code == 0
    assert result.nodes["quantize"] == {"done": 8, "cached": 0, "failed": 0, "dropped": 0}
    store = Store(tmp_path / "artifacts" / ".store")
    runs = list(store.runs.newest_first("imagined"))
    assert len(runs) == 12
    assert {run["state"] for run in runs} == {"Completed"}
    assert {run["sweep"] for run in runs} == {"trial"}
    assert all(set(run["stages"]) == {"ingest", "inspect", "train", "quantize", "compile", "report"} for run in runs)
    assert {run["cell"]["training.seed"] for run in runs} == {"0", "1"}
    for cell in result.cells:
        assert cell.folder is not None and (cell.folder / "report.html").exists() == (cell.report is not None)


def test_a_second_time_everything_is_cached_and_no_engine_starts(
    sweep: Path, imagined_stages: Path, tmp_path: Path
) -> None:
    ran(sweep, tmp_path)
    before = imagined_stages.read_text()
    again = run_sweep(load_sweep(sweep), load(), Asked(artifacts=tmp_path / "artifacts"))
    assert imagined_stages.read_text() == before
    assert again.engine == "none"
    assert {state: sum(one[state] for one in again.nodes.values()) for state in ("done", "cached")} == {
        "done": 0,
        "cached": 38,
    }


def test_a_device_that_the_gate_refuses_stops_its_cells_and_no_other(
    sweep: Path, imagined_stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGINED_REFUSED", "MSPM33C32")
    result = ran(sweep, tmp_path)
    assert noted(imagined_stages) == {"ingest": 1, "inspect": 3, "train": 2, "quantize": 4, "compile": 8}
    assert result.exit_code == 1
    failed = [one for one in result.cells if one.error is not None]
    assert {one.cell.labels["common.target_device"] for one in failed} == {"MSPM33C32"}
    assert all(one.reason.startswith("inspect 3: nothing of this runs on MSPM33C32") for one in failed)
    assert result.nodes["quantize"] == {"done": 4, "cached": 0, "failed": 0, "dropped": 4}
    states = Counter(state_of(run) for run in Store(tmp_path / "artifacts" / ".store").runs.newest_first("imagined"))
    assert states == {"Completed": 8, "Failed": 4}
    said = "\n".join(result.lines())
    assert "8 of 12 cells completed" in said
    assert "Failed: target_device=MSPM33C32, quantization_weight_bitwidth=8, seed=0: inspect 3: nothing" in said
    with pytest.raises(StageError, match="nothing of this runs on MSPM33C32"):
        result.check()


def test_what_failed_is_tried_again_and_nothing_else(
    sweep: Path, imagined_stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGINED_BROKEN", "4")
    assert ran(sweep, tmp_path).exit_code == 1
    monkeypatch.delenv("IMAGINED_BROKEN")
    before = noted(imagined_stages)
    result = ran(sweep, tmp_path)
    assert result.exit_code == 0
    assert noted(imagined_stages) - before == {"quantize": 4, "compile": 6}


def test_a_missed_gate_is_its_cells_own_and_repeats_nothing(imagined_stages: Path, data: Path, tmp_path: Path) -> None:
    import imagined_sweep

    text = imagined_sweep.config(data) + "matrix: {compilation.max_flash_bytes: [2000, 999]}\n"
    result = ran(written(tmp_path, text), tmp_path)
    assert noted(imagined_stages) == dict.fromkeys(("ingest", "inspect", "train", "quantize", "compile"), 1)
    assert [one.state for one in result.cells] == ["Completed", "Gate missed"]
    assert "the program needs 1,000 bytes of flash, and the limit is 999" in result.cells[1].reason
    assert result.cells[1].values["flash_bytes"] == 1000
    assert result.exit_code == GateError.exit_code
    with pytest.raises(GateError):
        result.check()


def test_the_table_has_means_over_seeds_with_their_spread_and_a_baseline(
    imagined_stages: Path, data: Path, tmp_path: Path
) -> None:
    import imagined_sweep

    text = (
        imagined_sweep.config(data)
        + """
matrix:
  training.quantization_weight_bitwidth: [8, 4, 2]
  training.seed: [0, 1]
baseline: {training.quantization_weight_bitwidth: 8}
"""
    )
    result = ran(written(tmp_path, text), tmp_path)
    eight, four, two = result.table.groups
    assert result.table.seeds == ("training.seed",)
    assert eight.values["metric"] == pytest.approx(0.905 - 0.1 / 8)
    assert eight.spread["metric"] == pytest.approx(0.01 / 2**0.5)
    assert eight.values["drop"] == pytest.approx(0.1 / 8)
    assert (eight.lost, four.smaller) == (0.0, 1.0)
    assert two.lost == pytest.approx(0.1 / 2 - 0.1 / 8)
    assert [one.front for one in (eight, four, two)] == [True, False, False]


def test_its_files_say_what_it_returns(sweep: Path, tmp_path: Path) -> None:
    result = ran(sweep, tmp_path)
    folder = tmp_path / "artifacts" / "sweeps" / "trial"
    assert (folder / "latest").resolve() == result.folder == folder / result.run
    assert {path.name for path in result.folder.iterdir()} == {"sweep.html", "sweep.csv", "sweep.json", "size.svg"}
    rows = list(csv.DictReader((result.folder / "sweep.csv").read_text().splitlines()))
    assert [float(row["accuracy"]) for row in rows] == [one.values["metric"] for one in result.cells]
    assert {row["flash_bytes"] for row in rows} == {"1000"}
    kept = json.loads((result.folder / "sweep.json").read_text())
    assert {key: value for key, value in kept.items() if key != "asked"} == json.loads(json.dumps(result.to_json()))
    page = (result.folder / "sweep.html").read_text()
    assert page.count("<svg") == 1
    assert all(one.run in page for one in result.cells)
    assert "http" not in page.replace("http://www.w3.org", "")


def test_a_damaged_object_is_made_again(sweep: Path, imagined_stages: Path, tmp_path: Path) -> None:
    ran(sweep, tmp_path)
    before = noted(imagined_stages)
    store = Store(tmp_path / "artifacts" / ".store")
    run = next(store.runs.newest_first("imagined"))
    record = store.records.read("train", run["stages"]["train"])
    assert record is not None
    path = store.objects.path(record.outputs["float_model"]["best_model.pt"].sha256)
    path.unlink()
    for fingerprint in (tmp_path / "artifacts" / ".store" / "records" / "quantize").iterdir():
        fingerprint.unlink()
    result = ran(sweep, tmp_path)
    assert result.exit_code == 0
    assert noted(imagined_stages) - before == {"train": 1, "quantize": 8}


def test_a_sweep_that_is_stopped_leaves_no_run_that_seems_to_go_on(
    sweep: Path, imagined_stages: Path, tmp_path: Path
) -> None:
    class Stops(SilentSweep):
        def ended(self, stage: str, name: str, state: str, seconds: float) -> None:
            if name == "train 1":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ran(sweep, tmp_path, watch=Stops())
    runs = list(Store(tmp_path / "artifacts" / ".store").runs.newest_first("imagined"))
    assert {state_of(run) for run in runs} == {"Failed"}
    before = noted(imagined_stages)
    assert ran(sweep, tmp_path).exit_code == 0
    assert (noted(imagined_stages) - before)["ingest"] == 0
    assert noted(imagined_stages)["train"] == 2


def test_no_secret_reaches_what_is_kept(imagined_stages: Path, data: Path, tmp_path: Path) -> None:
    import imagined_sweep

    text = imagined_sweep.config(data).replace(
        "dataset_name: imagined", "dataset_name: {name: synfft, token: hush-hush}"
    )
    with pytest.raises(Exception, match="token"):
        ran(written(tmp_path, text + "matrix: {training.seed: [0]}\n"), tmp_path)
    text = imagined_sweep.config(data) + "matrix: {training.seed: [0]}\n"
    text = text.replace("training:", "testing: {model_path: 'https://u:hush-hush@h/x'}\ntraining:", 1)
    ran(written(tmp_path, text), tmp_path)
    assert all(b"hush-hush" not in path.read_bytes() for path in (tmp_path / "artifacts").rglob("*") if path.is_file())


def test_the_examples_load(tmp_path: Path) -> None:
    for path in (ROOT / "flows").glob("*_sweep.yaml"):
        plan, _ = survey_sweep(load_sweep(path), load(), Asked(artifacts=tmp_path))
        assert len(plan.nodes) < sum(len(one.plan) for one in plan.cells)


def test_a_worker_that_gets_the_sweep_as_json_plans_the_same(sweep: Path, tmp_path: Path) -> None:
    from flowlab.config.sweep import load_sweep_mapping

    read = load_sweep(sweep)
    given = json.loads(json.dumps(read.given))
    shutil.rmtree(tmp_path / "artifacts", ignore_errors=True)
    asked = Asked(artifacts=tmp_path / "artifacts")
    one, _ = survey_sweep(read, load(), asked)
    other, _ = survey_sweep(load_sweep_mapping(given), load(), asked)
    assert [node.recipe for node in one.nodes] == [node.recipe for node in other.nodes]
    assert begin_sweep(load_sweep_mapping(given), load(), asked, SilentSweep(), jobs=1).plan.sweep.name == "trial"
