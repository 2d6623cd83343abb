"""The bearing example as a user runs it, with few epochs: what it printed as JSON, and where its layers run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def flowlab(folder: Path, shared: Path, keys: dict[str, str]) -> Any:
    """One run of the example with these keys."""
    data = shared / "data" / "cwru_bearing" / "cwru_bearing_12k.zip"
    if not data.is_file():
        pytest.skip("no bearing recordings in the shared folder")
    given = {
        "dataset.input_data_path": str(data),
        "training.training_epochs": "2",
        **keys,
    }
    sets = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
    config = str(ROOT / "flows" / "examples" / "cwru.yaml")
    done = subprocess.run(
        [sys.executable, "-m", "flowlab.cli", "run", config, *sets, "--engine", "local", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def placed(result: dict[str, Any]) -> list[dict[str, Any]]:
    (file,) = result["artifacts"]["placement"]
    rows: list[dict[str, Any]] = json.loads(Path(file["path"]).read_text())["layers"]
    return rows
