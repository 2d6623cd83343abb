"""The accuracy of the example over seeds: three with FLOWLAB_SLOW, else the one that no other test runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SEEDS = (0, 1, 2) if os.environ.get("FLOWLAB_SLOW") else (1,)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_demos_accuracy_holds_for_other_seeds_of_the_training(seed: int, tmp_path: Path) -> None:
    words = ["demo", "--engine", "local", "--json", "--set", f"training.seed={seed}"]
    done = subprocess.run(
        [sys.executable, "-m", "flowlab.cli", *words],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    metrics = json.loads(done.stdout)["metrics"]
    assert 0.96 <= metrics["float"]["accuracy"] <= 0.997
    assert metrics["quantized"]["accuracy"] >= metrics["float"]["accuracy"] - 0.01
    assert metrics["simulated"] == metrics["quantized"]
