"""Sweeps for real: as one Prefect flow on a real server, killed and started again, and the chapter's table."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowlab.config.sweep import load_sweep
from flowlab.cpu.emulated_core import EmulatedCore
from flowlab.engine import server
from flowlab.engine.session import Asked
from flowlab.engine.sweep import run_sweep, survey_sweep
from flowlab.plugins import load

sys.path.insert(0, str(Path(__file__).parent))

from prefect_project import asked, flow_run, task_runs

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
CHILD = Path(__file__).parent / "imagined_sweep_run.py"
NODES = {"ingest": 1, "inspect": 3, "train": 2, "quantize": 8, "compile": 12, "report": 12}
SWEEP = """
common: {task_type: generic_timeseries_classification}
dataset: {input_data_path: data, dataset_name: imagined}
training: {model_name: CLS_500_NPU, training_epochs: 2}
matrix:
  common.target_device: [F28P55, AM13E2, MSPM33C32]
  training.quantization_weight_bitwidth: [8, 4]
  training.seed: [0, 1]
"""
PLANNED_S = 2.0


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real server."""
    home = tmp_path_factory.mktemp("prefect")
    with server.temporary_server(home) as url:
        server.wait_until_healthy(url, home)
        yield url


def start(folder: Path, *words: str, api: str | None = None, **more: str) -> subprocess.Popen[str]:
    data = folder / "data" / "idle"
    data.mkdir(parents=True, exist_ok=True)
    (data / "1.csv").write_text("1\n2\n")
    (folder / "trial.yaml").write_text(SWEEP)
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    named = {"PREFECT_API_URL": api} if api else {}
    return subprocess.Popen(
        [sys.executable, str(CHILD), *words],
        cwd=folder,
        env={**outside, **named, "IMAGINED_LOG": str(folder / "log"), **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def sweep(folder: Path, *words: str, code: int = 0, **more: Any) -> dict[str, Any]:
    process = start(folder, *(words or ("trial.yaml", "--json")), **more)
    out, error = process.communicate(timeout=300)
    assert process.returncode == code, error[-3000:]
    assert "Traceback" not in error
    found: dict[str, Any] = json.loads(out)
    return found


def noted(folder: Path) -> Counter[str]:
    return Counter(line.split()[0] for line in (folder / "log").read_text().splitlines())


def digests(folder: Path) -> dict[str, str]:
    """Every record of the store: the sha256 of what it made."""
    records = (folder / "artifacts" / ".store" / "records").rglob("*.json")
    return {path.name: json.dumps(json.loads(path.read_text())["outputs"]) for path in records}


@pytest.fixture(scope="module")
def first(api: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("sweep")
    return folder, sweep(folder, api=api)


def test_a_sweep_is_one_flow_in_which_equal_work_is_one_task(api: str, first: tuple[Path, dict[str, Any]]) -> None:
    folder, result = first
    assert result["engine"] == "prefect"
    assert noted(folder) == {name: count for name, count in NODES.items() if name != "report"}
    run = flow_run(api, result["run"])
    assert run["state_type"] == "COMPLETED"
    tasks = task_runs(api, run, sum(NODES.values()))
    assert Counter(name.split(":")[0].split()[0] for name in tasks) == NODES
    assert {one["state_name"] for one in tasks.values()} == {"Completed"}


def test_its_edges_are_those_of_the_merged_plan(api: str, first: tuple[Path, dict[str, Any]]) -> None:
    tasks = task_runs(api, flow_run(api, first[1]["run"]), sum(NODES.values()))
    names = {task["id"]: name.split(":")[0] for name, task in tasks.items()}
    reads = {names[one["id"]]: {names[edge["id"]] for edge in one["task_inputs"]["upstream"]} for one in tasks.values()}
    assert reads["train 1"] == reads["inspect 2"] == {"ingest"}
    assert {tuple(one) for name, one in reads.items() if name.startswith("quantize")} == {("train 1",), ("train 2",)}
    waits = {
        names[one["id"]]: {names[edge["id"]] for edge in one["task_inputs"].get("wait_for", ())}
        for one in tasks.values()
    }
    assert waits["train 1"] and waits["train 1"] <= {"inspect 1", "inspect 2", "inspect 3"}


def test_its_parameter_is_the_sweep_and_its_table_is_an_artifact(api: str, first: tuple[Path, dict[str, Any]]) -> None:
    run = flow_run(api, first[1]["run"])
    assert run["parameters"]["sweep"]["matrix"]["training.seed"] == [0, 1]
    found = asked(api, "artifacts", artifacts={"flow_run_id": {"any_": [run["id"]]}})
    assert {one["type"] for one in found} == {"table", "markdown"}  # Prefect keeps a link as markdown
    table = next(json.loads(one["data"]) for one in found if one["type"] == "table")
    assert len(table) == 6


def test_both_engines_make_the_same_records(first: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(first[0] / "data")
    local = sweep(tmp_path, "trial.yaml", "--engine", "local", "--json")
    assert [one["metric"] for one in local["cells"]] == [one["metric"] for one in first[1]["cells"]]
    assert digests(tmp_path) == digests(first[0])


def test_a_cell_that_fails_stops_no_other_and_fails_the_flow(api: str, tmp_path: Path) -> None:
    result = sweep(tmp_path, api=api, code=1, IMAGINED_REFUSED="MSPM33C32")
    assert Counter(one["state"] for one in result["cells"]) == {"Completed": 8, "Failed": 4}
    assert noted(tmp_path)["quantize"] == 4
    assert flow_run(api, result["run"])["state_type"] == "FAILED"


def test_a_worker_gets_the_sweep_as_json_and_does_the_same(api: str, first: tuple[Path, dict[str, Any]]) -> None:
    before = noted(first[0])
    result = sweep(first[0], "--deployed", "trial.yaml", api=api)
    assert noted(first[0]) == before
    assert [one["metric"] for one in result["cells"]] == [one["metric"] for one in first[1]["cells"]]
    assert result["run"] == flow_run(api, result["run"])["name"]


def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    child = start(tmp_path, "trial.yaml", "--engine", "local", IMAGINED_BROKEN="4")
    deadline = time.monotonic() + 120
    while not ((tmp_path / "log").exists() and "quantize" in (tmp_path / "log").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    before = noted(tmp_path)
    result = sweep(tmp_path, "trial.yaml", "--engine", "local", "--json")
    assert {one["state"] for one in result["cells"]} == {"Completed"}
    again = noted(tmp_path) - before
    assert again["ingest"] == again["train"] == 0
    assert noted(tmp_path)["quantize"] - 8 <= 1 + before["quantize"]


# --- the real stages ----------------------------------------------------------------------------


def test_the_precision_sweep_makes_the_chapters_table_with_measured_values(tmp_path: Path) -> None:
    text = (ROOT / "flows" / "precision_sweep.yaml").read_text()
    quick = re.sub(r"epochs: \d+", "epochs: 3", text).replace("[0, 1, 2]", "[0]")
    assert quick.count("epochs: 3") == 2
    (tmp_path / "precision.yaml").write_text(quick)
    result = run_sweep(load_sweep(tmp_path / "precision.yaml"), load(), Asked("local", artifacts=tmp_path), jobs=2)
    assert result.exit_code == 0
    groups = {group.labels["precision"]: group for group in result.table.groups}
    assert list(groups) == ["Float32", "INT8", "INT4", "INT2"]
    assert (groups["Float32"].smaller, groups["Float32"].lost) == (1.0, 0.0)
    for name, least, most in (("INT8", 3.5, 4.5), ("INT4", 7.0, 8.5), ("INT2", 13.5, 16.5)):
        smaller = groups[name].smaller
        assert smaller is not None and least <= smaller <= most, name
    assert (groups["Float32"].values["metric"] or 0) > 0.6  # of two classes: it learned something
    assert groups["INT8"].lost is not None and abs(groups["INT8"].lost) < 0.1
    if EmulatedCore().missing() is None:  # counted of integers alone: nothing runs float programs on the core here
        assert all((groups[name].values["instructions"] or 0) > 10_000 for name in ("INT8", "INT4", "INT2"))
    assert [group.faster for group in groups.values()] == [None] * 4
    rows = list(csv.DictReader((result.folder / "sweep.csv").read_text().splitlines()))
    assert [row["precision"] for row in rows] == list(groups)


def test_a_sweep_of_200_cached_cells_is_planned_in_two_seconds(tmp_path: Path) -> None:
    limits = [1_000_000 + step for step in range(25)]
    text = f"""
common: {{task_type: generic_timeseries_classification}}
dataset: {{dataset_name: dc_arc_fault_example_dsk}}
data_processing_feature_extraction:
  {{feature_extraction_name: FFT1024Input_256Feature_1Frame_Full_Bandwidth, stride_size: 1, variables: 1}}
training: {{model_name: CLS_500_NPU, training_epochs: 1, quantization_epochs: 1}}
testing: {{enable: false}}
matrix:
  common.target_device: [F28P55, AM13E2]
  training.quantization_weight_bitwidth: [8, 4]
  training.seed: [0, 1]
  compilation.max_flash_bytes: {limits}
"""
    (tmp_path / "many.yaml").write_text(text)
    plan = load_sweep(tmp_path / "many.yaml")
    assert run_sweep(plan, load(), Asked("local", artifacts=tmp_path), jobs=2).exit_code == 0
    catalogue = load()
    wall, cpu = time.monotonic(), time.process_time()
    found, cached = survey_sweep(plan, catalogue, Asked(artifacts=tmp_path))
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    assert (len(found.cells), len(cached)) == (200, len(found.nodes))
    print(f"200 cached cells, {len(found.nodes)} nodes, planned in {wall:.2f} s, {cpu:.2f} s of the processor")
    assert cpu <= PLANNED_S  # what it costs, however many share the machine
