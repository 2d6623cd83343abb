"""The chapter's example and the bearing example, from recordings to a report, as a user runs them."""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowlab.engine import server

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["ingest", "extract", "inspect", "train", "quantize", "validate", "compile", "simulate", "report"]


def flowlab(folder: Path, *words: str, check: bool = True, env: dict[str, str] | None = None) -> Any:
    """Run the command line in a folder of its own and return what it printed as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "flowlab.cli", *words, "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**os.environ, **(env or {})},
    )
    assert not check or done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def assert_all_agree(result: dict[str, Any], vectors: int) -> None:
    agreement = result["agreement"]
    assert [stage["name"] for stage in result["stages"]] == STAGES
    assert agreement["mismatches"] == 0
    assert agreement["vectors"] >= vectors
    assert {"torch", "ONNX Runtime", "interpreter", "simulator", "host C"} <= set(agreement["executions"]), agreement
    for missing in agreement["not_run"]:
        assert missing["reason"], missing


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def demo_text(demo_folder: Path) -> str:
    """What a newcomer sees: the first `flowlab demo`, with the engine that it has by default."""
    done = subprocess.run(
        [sys.executable, "-m", "flowlab.cli", "demo"],
        cwd=demo_folder,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr == ""  # nothing to warn of: its user wrote no config
    return done.stdout


@pytest.fixture(scope="module")
def demo(demo_folder: Path, demo_text: str) -> dict[str, Any]:
    """The same run as JSON: cached by now, so it says what the first one found."""
    return flowlab(demo_folder, "demo", "--engine", "local")  # type: ignore[no-any-return]


def shown(text: str) -> set[str]:
    """Lines of `flowlab demo` without what differs from run to run and from processor to processor."""
    lines = set()
    for line in text.splitlines():
        words = " ".join(line.split())
        words = re.sub(r"\d{8}T\d{6}Z-[0-9a-f]{4}", "RUN", words)
        words = re.sub(r"\S*(?=artifacts/)", "", words)
        words = re.sub(r"\d+\.\d+ s\b", "SECONDS", words)
        words = re.sub(r"accuracy [01]\.\d{4}", "accuracy", words)
        words = re.sub(r"onnx [\d,]+", "onnx", words)
        lines.add(words)
    return lines


def test_the_readme_shows_what_the_demo_prints(demo_text: str) -> None:
    block = (ROOT / "README.md").read_text().split("```console\n$ flowlab demo\n")[1].split("```")[0]
    assert len(block.splitlines()) > 20
    assert shown(block) - {""} == shown(demo_text) - {""}, demo_text


def test_the_demo_runs_through_nine_stages_without_a_mismatch(demo: dict[str, Any]) -> None:
    assert_all_agree(demo, 500)


def test_the_demo_float_accuracy_means_something(demo: dict[str, Any]) -> None:
    assert 0.96 <= demo["metrics"]["float"]["accuracy"] <= 0.997
    assert demo["metrics"]["quantized"]["accuracy"] >= demo["metrics"]["float"]["accuracy"] - 0.01
    assert demo["metrics"]["simulated"] == demo["metrics"]["quantized"]


def test_the_demo_again_is_wholly_cached(demo: dict[str, Any], demo_folder: Path) -> None:
    again = flowlab(demo_folder, "demo", "--engine", "local")
    assert all(stage["cached"] for stage in again["stages"])
    assert again["artifacts"]["program"][0]["sha256"] == demo["artifacts"]["program"][0]["sha256"]


def digests(result: dict[str, Any]) -> dict[str, list[str]]:
    return {role: [file["sha256"] for file in files] for role, files in result["artifacts"].items()}


def test_a_training_killed_in_an_epoch_goes_on_and_ends_with_the_hashes_of_an_undisturbed_run(
    demo: dict[str, Any], tmp_path: Path
) -> None:
    killed = subprocess.run(
        [sys.executable, "-m", "flowlab.cli", "demo", "--engine", "local"],
        cwd=tmp_path,
        capture_output=True,
        timeout=600,
        check=False,
        env={**os.environ, "FLOWLAB_FAULT": "epoch:12"},
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "artifacts" / "dc_arc_fault_example_dsk" / "latest").exists()
    resumed = flowlab(tmp_path, "demo", "--engine", "local")
    cached = {stage["name"] for stage in resumed["stages"] if stage["cached"]}
    assert cached == {"ingest", "extract", "inspect"}
    assert digests(resumed) == digests(demo)


def test_the_run_folder_holds_the_chapters_tree(demo: dict[str, Any], demo_folder: Path) -> None:
    latest = demo_folder / "artifacts" / "dc_arc_fault_example_dsk" / "latest"
    for name in (
        "training/base/best_model.pt",
        "training/quantization/best_model.onnx",
        "training/quantization/best_model.pt",
        "training/quantization/quantization_config.yaml",
        "compilation/model.flnp",
        "compilation/model.c",
        "report.html",
    ):
        assert (latest / name).is_file(), name
    assert Path(demo["report"]).is_file()


@pytest.fixture(scope="module")
def cwru(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    shared = Path(os.environ.get("FLOWLAB_SHARED", ROOT.parent / "shared"))
    archive = shared / "data" / "cwru_bearing" / "cwru_bearing_12k.zip"
    if not archive.is_file():
        pytest.skip("no cwru_bearing_12k.zip in FLOWLAB_SHARED")
    folder = tmp_path_factory.mktemp("cwru")
    config = str(ROOT / "flows" / "examples" / "cwru.yaml")
    return [
        flowlab(
            folder,
            "run",
            config,
            "--engine",
            "local",
            "--set",
            f"dataset.input_data_path={archive}",
            "--set",
            f"training.seed={seed}",
        )
        for seed in (0, 1, 2)
    ]


@pytest.mark.parametrize("which", ["float", "quantized", "simulated"])
def test_cwru_reaches_99_percent_as_the_mean_of_three_seeds(cwru: list[dict[str, Any]], which: str) -> None:
    assert statistics.mean(run["metrics"][which]["accuracy"] for run in cwru) >= 0.990


def test_cwru_agrees_to_the_bit_for_every_seed(cwru: list[dict[str, Any]]) -> None:
    for run in cwru:
        assert_all_agree(run, 432)


def test_seeds_share_ingest_and_extract(cwru: list[dict[str, Any]]) -> None:
    for run in cwru[1:]:
        assert {stage["name"]: stage["cached"] for stage in run["stages"]}["extract"]


def test_prefects_api_shows_nine_stages_with_their_edges(demo_text: str, demo_folder: Path) -> None:
    """The temporary server of the first run is gone; another one shows its database."""
    home = demo_folder / "artifacts" / ".prefect"
    with server.temporary_server(home) as api:
        server.wait_until_healthy(api, home)
        (run,) = httpx.post(f"{api}/flow_runs/filter", json={}, timeout=60).json()
        tasks = httpx.post(f"{api}/task_runs/filter", json={}, timeout=60).json()
    names = {task["id"]: task["name"] for task in tasks}
    assert run["state_type"] == "COMPLETED"
    assert f"{run['name']}, engine prefect" in demo_text
    assert sorted(names.values()) == sorted(STAGES)
    assert {task["state_name"] for task in tasks} == {"Completed"}
    reads = {task["name"]: {names[edge["id"]] for edge in task["task_inputs"]["upstream"]} for task in tasks}
    assert reads["ingest"] == set()
    assert reads["extract"] == {"ingest"}
    assert reads["inspect"] == reads["train"] == {"extract"}
    assert reads["quantize"] == {"extract", "train"}
    assert reads["validate"] == {"extract", "quantize"}
    assert reads["compile"] == {"extract", "quantize", "validate"}  # the vendor compiler's call wants the ONNX
    assert reads["simulate"] == {"extract", "validate", "compile"}
    assert {"train", "quantize", "validate", "compile", "simulate"} <= reads["report"]
    waits = {task["name"]: {names[edge["id"]] for edge in task["task_inputs"].get("wait_for", ())} for task in tasks}
    assert waits["train"] == {"inspect"}


def test_every_state_of_the_network_is_printed(demo: dict[str, Any], demo_folder: Path) -> None:
    states = flowlab(demo_folder, "explain")["states"]
    names = [one["name"] for one in states]
    assert names[0] == "float" and names[-6:] == [
        "placed",
        "pass legalise",
        "pass fuse_bnorm",
        "pass schedule",
        "pass allocate",
        "program",
    ]
    assert names.index("pass fold_batchnorm") < names.index("quantized") < names.index("pass pad_channels")
    by_name = {one["name"]: one["text"] for one in states}
    norms = [by_name[name].count("batch_norm(") for name in ("float", "pass fold_batchnorm")]
    assert norms[0] > norms[1] == 1  # the one that the input step takes
    assert 'layer="FCONV"' in by_name["placed"] and 'unit="npu"' in by_name["placed"]
    assert "offset=" not in by_name["pass schedule"] and "offset=0" in by_name["pass allocate"]
    assert "conv1.bnorm [0..1024)" in by_name["program"]
    whole = flowlab(demo_folder, "explain", "--constants")["states"][-6]["text"]
    (graph,) = demo["artifacts"]["placed_graph"]
    assert whole.split() == Path(graph["path"]).read_text().split()


def test_what_has_not_run_cannot_be_explained(demo: dict[str, Any], demo_folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flowlab.cli", "explain", "--set", "training.seed=7"],
        cwd=demo_folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "stage 'train' of this config is not in the store (train: options.seed: " in done.stderr
