"""The examples over real recordings: what each reads and becomes, and what it reaches: over three seeds with
FLOWLAB_SLOW, else with the first.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flowlab.config import load as load_config
from flowlab.engine.local import Prepared, prepare
from flowlab.plugins import load
from flowlab.stages import STAGES
from flowlab.store.records import Record
from flowlab.store.store import Store
from tests.conftest import ROOT, shared_folder

SEEDS = (0, 1, 2) if os.environ.get("FLOWLAB_SLOW") else (0,)


@dataclass(frozen=True)
class Example:
    """An example config: its recordings, what it must reach, windows of each split, a feature's shape."""

    name: str
    archive: str
    least: float
    counts: Mapping[str, int]
    shape: tuple[int, int, int]
    padded: str = ""

    @property
    def config(self) -> Path:
        return ROOT / "flows" / "examples" / f"{self.name}.yaml"

    def recordings(self) -> Path:
        path = shared_folder() / "data" / self.archive
        if not path.is_file():
            pytest.skip(f"no {path.name} (FLOWLAB_SHARED)")
        return path


CWRU = {"train": 1212, "val": 432, "test": 432}
EXAMPLES = (
    Example("cwru", "cwru_bearing/cwru_bearing_12k.zip", 0.990, CWRU, (1, 128, 1)),
    Example("cwru_2ch", "cwru_bearing/cwru_bearing_12k.zip", 0.990, CWRU, (2, 128, 1), "2 -> 4 input channels"),
    Example(
        "mitbih", "mitbih_ecg/mitbih_nv_180hz.zip", 0.82, {"train": 3114, "val": 929, "test": 3675}, (1, 256, 1)
    ),
)  # fmt: skip
every_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)


def test_every_example_is_held_here() -> None:
    assert {path.stem for path in (ROOT / "flows" / "examples").glob("*.yaml")} == {one.name for one in EXAMPLES}


@every_example
def test_an_example_loads_reads_its_recordings_and_passes_the_gate(example: Example, tmp_path: Path) -> None:
    catalogue = load()
    config = load_config([example.config], [f"dataset.input_data_path={example.recordings()}"], catalogue)
    assert config.warnings == ()
    prepared = prepare(STAGES, config, catalogue, Store(tmp_path))
    records = made(prepared, "ingest", "extract", "inspect")
    assert records["ingest"].metrics["split"] == "annotations"
    assert records["extract"].metrics["shape"] == list(example.shape)
    assert records["extract"].metrics["counts"] == example.counts
    assert records["inspect"].metrics["npu_share"] == 1.0
    said = records["inspect"].warnings
    assert len(said) == bool(example.padded)
    assert all(example.padded in sentence and "MACs" in sentence for sentence in said)


def made(prepared: Prepared, *stages: str) -> dict[str, Record]:
    records: dict[str, Record] = {}
    for stage in stages:
        records[stage], _ = prepared.perform(stage, records, lambda what, fraction: None)
    return records


@pytest.fixture(
    scope="module", params=EXAMPLES[1:], ids=lambda example: example.name
)  # cwru: tests/system/test_demo.py
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Example, list[dict[str, Any]]]:
    """An example with each seed."""
    example: Example = request.param
    sets = f"dataset.input_data_path={example.recordings()}"
    folder = tmp_path_factory.mktemp(example.name)
    found = []
    for seed in SEEDS:
        words = ["run", str(example.config), "--engine", "local", "--json", "--set", sets]
        done = subprocess.run(
            [sys.executable, "-m", "flowlab.cli", *words, "--set", f"training.seed={seed}"],
            cwd=folder, capture_output=True, text=True, timeout=1800, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        found.append(json.loads(done.stdout))
    return example, found


@pytest.mark.parametrize("which", ["float", "quantized", "simulated"])
def test_an_example_reaches_its_bar_as_the_mean_of_its_seeds(
    runs: tuple[Example, list[dict[str, Any]]], which: str
) -> None:
    example, found = runs
    assert statistics.mean(run["metrics"][which]["accuracy"] for run in found) >= example.least


def test_an_example_agrees_to_the_bit_for_every_seed(runs: tuple[Example, list[dict[str, Any]]]) -> None:
    example, found = runs
    for run in found:
        assert run["agreement"]["mismatches"] == 0
        assert run["agreement"]["vectors"] == example.counts["test"]
        assert {"torch", "ONNX Runtime", "interpreter", "simulator"} <= set(run["agreement"]["executions"])
        assert run["metrics"]["simulated"] == run["metrics"]["quantized"]
