"""Another vendor's target as a stranger writes it: built, installed, its own tests, a run from data to simulator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.system.test_third_party import PACKAGES, copied, install

NAME = "max78000"
MOST_LINES = 400  # without tests, blank lines not counted
CONFIG = """\
common: {task_type: generic_timeseries_classification, target_device: MAX78000}
dataset: {dataset_name: dc_arc_fault_example_dsk}
data_processing_feature_extraction:
  {feature_extraction_name: FFT1024Input_256Feature_1Frame_Full_Bandwidth, variables: 1}
training: {model_name: MODEL, training_epochs: 3, quantization: 2, quantization_method: PTQ}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package is installed, without the source tree."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, copied(PACKAGES / NAME, tmp_path_factory.mktemp("src")))
    return folder


def started(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


def test_its_own_tests_pass_where_it_is_installed(site: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(PACKAGES / NAME / "tests", tmp_path / "tests")
    done = started(site, tmp_path, "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_a_run_on_it_agrees_to_the_bit_and_says_its_cycles_and_memory(site: Path, tmp_path: Path) -> None:
    (tmp_path / "arc.yaml").write_text(CONFIG.replace("MODEL", "CLS_max78000"))
    done = started(site, tmp_path, "flowlab.cli", "run", "arc.yaml", "--engine", "local", "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    text = json.dumps(result)
    assert '"simulator"' in text
    (program,) = tmp_path.glob("artifacts/**/model.m78")
    assert program.read_bytes()[:4] == b"M78P"
    report = started(site, tmp_path, "flowlab.cli", "run", "arc.yaml", "--engine", "local")
    assert "(ONNX Runtime, interpreter, torch, simulator)" in report.stdout
    assert "agreement   0 mismatches in" in report.stdout
    assert "cycles of a model of MAX78000" in report.stdout
    assert "100.0% of its multiplications on the accelerator" in report.stdout


def test_a_model_that_does_not_fit_it_is_said_before_training_with_a_cure(site: Path, tmp_path: Path) -> None:
    (tmp_path / "arc.yaml").write_text(CONFIG.replace("MODEL", "CLS_4k_NPU"))
    done = started(site, tmp_path, "flowlab.cli", "run", "arc.yaml", "--engine", "local")
    assert "A kernel has 1 or 3 rows and columns." in done.stderr + done.stdout
    assert "use stride 1, and a max pool before the layer" in done.stderr + done.stdout
    assert done.returncode == 2
    assert "CLS_4k_NPU cannot run on MAX78000, whose accelerator runs all of a network, and nothing was trained" in (
        done.stderr
    )
    assert "Traceback" not in done.stderr


def test_it_is_small_and_touches_no_core() -> None:
    lines = [
        line for path in (PACKAGES / NAME / "flowlab_max78000").glob("*.py") for line in path.read_text().split("\n")
    ]
    assert sum(bool(line.strip()) for line in lines) <= MOST_LINES
