"""A new version of flowlab repeats only the stages whose declared code changed, and `plan` and `why` say so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

CONFIG = """\
common: {task_type: generic_timeseries_classification, target_device: F28P55}
dataset: {dataset_name: tones, input_data_path: data}
data_processing_feature_extraction:
  data_proc_transforms: [SimpleWindow]
  frame_size: 32
  stride_size: 1.0
  variables: 1
training: {model_name: CLS_1k_NPU, training_epochs: 2, batch_size: 16, quantization: 2, quantization_method: PTQ}
"""


def flowlab(folder: Path, *words: str) -> Any:
    """Run the copy of flowlab that lies in the folder."""
    done = subprocess.run(
        [sys.executable, "-m", "flowlab.cli", *words, "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "installed")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def states(folder: Path) -> dict[str, str]:
    return {one["name"]: one["state"] for one in flowlab(folder, "plan", "tones.yaml")["stages"]}


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a copy of flowlab, which was upgraded since: another version, and a report worded otherwise."""
    folder = tmp_path_factory.mktemp("upgrade")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "flowlab", folder / "installed" / "flowlab", ignore=ignored)
    for place in (ROOT / "plugins").iterdir():
        shutil.copytree(place, folder / "installed" / place.name, ignore=ignored)
    for name, wave in (("low", 3), ("high", 9)):
        for turn in range(6):
            path = folder / "data" / "classes" / name / f"{turn}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{((step * wave) % 64) + turn}\n" for step in range(512)))
    (folder / "tones.yaml").write_text(CONFIG)
    result = flowlab(folder, "run", "tones.yaml", "--engine", "local")
    assert not any(stage["cached"] for stage in result["stages"])
    place = folder / "installed" / "flowlab" / "__init__.py"
    place.write_text(place.read_text().replace("__version__ = ", "__version__ = '99.0'  # "))
    return folder


def test_another_version_number_alone_repeats_nothing(project: Path) -> None:
    assert set(states(project).values()) == {"cached"}
    assert flowlab(project, "run", "tones.yaml")["engine"] == "none"
    why = subprocess.run(
        [sys.executable, "-m", "flowlab.cli", "why", "train", "tones.yaml"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project / "installed")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "train is cached: made " in why.stdout and ", by flowlab 0." in why.stdout


def test_only_the_stages_whose_code_changed_run_again_and_plan_says_which_code(project: Path) -> None:
    for module in ("report/page.py", "cli.py", "engine/run.py", "store/objects.py", "errors.py"):
        append(project / "installed" / "flowlab" / module, "\n# worded otherwise\n")
    plan = {one["name"]: one for one in flowlab(project, "plan", "tones.yaml")["stages"]}
    assert {name: one["state"] for name, one in plan.items() if one["state"] != "cached"} == {"report": "will run"}
    assert [one["field"] for one in plan["report"]["changes"]] == ["code.flowlab.report.page"]
    assert plan["report"]["reason"].startswith("code.flowlab.report.page: changed (flowlab 0.")
    assert plan["report"]["reason"].endswith(" -> 99.0)")
    run = flowlab(project, "run", "tones.yaml", "--engine", "local")
    assert [stage["name"] for stage in run["stages"] if not stage["cached"]] == ["report"]


def test_changed_quantization_repeats_no_training(project: Path) -> None:
    append(project / "installed" / "flowlab" / "stages" / "quantize.py", "\n# reads better\n")
    found = states(project)
    assert {name for name, state in found.items() if state == "cached"} == {"ingest", "extract", "inspect", "train"}
    run = flowlab(project, "run", "tones.yaml", "--engine", "local")
    # quantized to the same bytes, so all behind it stay as they are
    assert [stage["name"] for stage in run["stages"] if not stage["cached"]] == ["quantize"]
