"""A run is exported, imported and replayed elsewhere: to the same hashes, or the first that differs is named."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowlab.canonical import canonical_json, digest

STAGES = ["ingest", "extract", "inspect", "train", "quantize", "validate", "compile", "simulate", "report"]

CONFIG = """\
common: {task_type: generic_timeseries_classification, target_device: F28P55}
dataset: {input_data_path: tones, max_num_files: 3}
data_processing_feature_extraction:
  data_proc_transforms: [SimpleWindow]
  frame_size: 32
  stride_size: 1.0
  variables: 1
training: {model_name: CLS_1k_NPU, training_epochs: 2, batch_size: 16, quantization: 2, quantization_method: PTQ}
"""


def flowlab(folder: Path, *words: str, code: int = 0, text: bool = False, **environment: str) -> Any:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "flowlab.cli", *words, *([] if text else ["--json"])],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == code, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr if text or code < 0 or not done.stdout else json.loads(done.stdout)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and two archives of it; the dataset has no name but its folder's."""
    folder = tmp_path_factory.mktemp("replay")
    for name, wave in (("low", 3), ("high", 9)):
        for turn in range(6):
            path = folder / "tones" / "classes" / name / f"{turn}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{((step * wave) % 64) + turn}\n" for step in range(512)))
    (folder / "tones.yaml").write_text(CONFIG)
    flowlab(folder, "run", "tones.yaml", "--engine", "local")
    flowlab(folder, "store", "export", "latest", "whole.zip", "--with-data")
    flowlab(folder, "store", "export", "latest", "small.zip")
    return folder


def test_an_archive_has_all_that_a_run_made_and_hangs_on(project: Path) -> None:
    with zipfile.ZipFile(project / "whole.zip") as file:
        names = set(file.namelist())
        manifest = json.loads(file.read("manifest.json"))
    assert {
        "config.yaml", "files/train/float_model/best_model.pt", "files/compile/program/model.flnp",
        "files/compile/program/model.c", "files/validate/golden/golden.npz", "files/report/report/report.html",
    } <= names  # fmt: skip
    assert sum(name.startswith("data/") for name in names) == 12
    assert set(manifest["code"]) == set(STAGES) and "torch" in manifest["libraries"]
    with zipfile.ZipFile(project / "small.zip") as file:
        assert not any(name.startswith("data/") for name in file.namelist())
        assert len(json.loads(file.read("manifest.json"))["data"]["files"]) == 12  # their hashes


@pytest.fixture(scope="module")
def elsewhere(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another machine: the archives are there, and the data are not where the config says."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in ("whole.zip", "small.zip"):
        shutil.copy(project / name, folder / name)
    shutil.move(project / "tones", folder / "moved")
    return folder


def test_an_imported_run_with_its_data_is_replayed_to_the_same_hashes(elsewhere: Path) -> None:
    found = flowlab(elsewhere, "store", "import", "whole.zip")
    assert found["data"] and flowlab(elsewhere, "store", "verify")["findings"] == []
    replayed = flowlab(elsewhere, "store", "replay", "latest")
    assert replayed["same"] and [one["name"] for one in replayed["stages"]] == STAGES
    assert all(one["fields"] == [] for one in replayed["stages"])
    flowlab(elsewhere, "store", "export", "latest", "again.zip", "--with-data")
    with zipfile.ZipFile(elsewhere / "again.zip") as again, zipfile.ZipFile(elsewhere / "whole.zip") as first:
        assert again.namelist() == first.namelist()


def test_an_archive_without_data_needs_them_from_elsewhere(elsewhere: Path) -> None:
    said = flowlab(elsewhere, "store", "replay", "small.zip", code=2)
    assert "dataset.input_data_path" in said
    said = flowlab(elsewhere, "store", "replay", "small.zip", "--data", "moved", text=True)
    assert said.splitlines()[-1].endswith("replayed to the same hashes, 9 stages")


def test_the_first_that_differs_is_named_with_what_decides_it(elsewhere: Path) -> None:
    """An archive of a machine that trained with another torch, to other weights; and a changed sample."""

    def forge(contents: dict[str, bytes]) -> None:
        manifest = json.loads(contents["manifest.json"])
        fingerprint = manifest["run"]["stages"]["train"]
        record = json.loads(contents.pop(f"records/train/{fingerprint}.json"))
        record["document"]["libraries"]["torch"] = "1.0"
        record["fingerprint"] = digest(record["document"])
        stored = record["outputs"]["float_model"]["best_model.pt"]
        splits = next(sha for sha, name in manifest["objects"].items() if name.endswith("/splits.json"))
        stored |= {"sha256": splits, "size": manifest["files"][manifest["objects"][splits]]["size"]}
        record.pop("check")
        data = canonical_json({**record, "check": digest(record)})
        name = f"records/train/{record['fingerprint']}.json"
        contents[name] = data
        manifest["run"]["stages"]["train"] = record["fingerprint"]
        del manifest["files"][f"records/train/{fingerprint}.json"]
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        contents["manifest.json"] = json.dumps(manifest).encode()

    rewrite(elsewhere / "whole.zip", elsewhere / "forged.zip", forge)
    said = flowlab(elsewhere, "store", "replay", "forged.zip", code=1, text=True)
    (line, reason) = [one for one in said.splitlines() if "differs: " in one][:2]
    assert line.startswith("train      differs: best_model.pt (float_model): ")
    assert "libraries.torch: '1.0' -> '2." in reason
    assert said.splitlines()[-1].partition(": ")[2].startswith("the first that differs is train, best_model.pt")
    shutil.copytree(elsewhere / "moved", elsewhere / "changed")
    path = elsewhere / "changed" / "classes" / "low" / "0.csv"
    path.write_text(path.read_text().replace("3\n", "4\n", 1))
    found = flowlab(elsewhere, "store", "replay", "small.zip", "--data", "changed", code=1)
    assert found["first"] == "ingest" and found["stages"][0]["fields"][0]["field"] == "inputs.source"


def rewrite(archive: Path, out: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    with zipfile.ZipFile(archive) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    change(contents)
    with zipfile.ZipFile(out, "w") as file:
        for name, data in contents.items():
            file.writestr(name, data)


@pytest.mark.parametrize("fault", ["import-objects", "import-records:1", "import-records:9"])
def test_an_import_that_is_killed_leaves_a_valid_store_and_can_be_done_again(
    elsewhere: Path, tmp_path: Path, fault: str
) -> None:
    archive = str(elsewhere / "whole.zip")
    flowlab(tmp_path, "store", "import", archive, code=-9, FLOWLAB_FAULT=fault)
    assert flowlab(tmp_path, "store", "verify")["findings"] == []
    assert flowlab(tmp_path, "runs")["runs"] == []
    assert not flowlab(tmp_path, "store", "import", archive)["there"]
    assert flowlab(tmp_path, "store", "verify")["findings"] == []
    assert len(flowlab(tmp_path, "runs")["runs"]) == 1


def test_no_code_of_an_imported_run_is_run_and_its_results_are_made_again(elsewhere: Path, tmp_path: Path) -> None:
    """Its C is another one here: neither `predict` nor a run of the same config compiles it."""

    def evil(contents: dict[str, bytes]) -> None:
        manifest = json.loads(contents["manifest.json"])
        name = "files/compile/program/host_runner.c"
        source = contents[name] + b"\n#error this code is not ours\n"
        before, after = (hashlib.sha256(one).hexdigest() for one in (contents[name], source))
        contents[name] = source
        manifest["files"][name] = {"sha256": after, "size": len(source)}
        manifest["objects"] = {after if sha == before else sha: place for sha, place in manifest["objects"].items()}
        record = f"records/compile/{manifest['run']['stages']['compile']}.json"
        value = json.loads(contents[record])
        value["outputs"]["program"]["host_runner.c"] = {"sha256": after, "size": len(source)}
        value.pop("check")
        contents[record] = canonical_json({**value, "check": digest(value)})
        simulated = f"records/simulate/{manifest['run']['stages']['simulate']}.json"
        value = json.loads(contents[simulated])
        value["metrics"]["agreement"]["executions"] = [
            one for one in value["metrics"]["agreement"]["executions"] if one["name"] != "simulator"
        ]
        value.pop("check")
        contents[simulated] = canonical_json({**value, "check": digest(value)})
        for one in (record, simulated):
            data = contents[one]
            manifest["files"][one] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        contents["manifest.json"] = json.dumps(manifest).encode()

    folder = tmp_path / "here"
    folder.mkdir()
    rewrite(elsewhere / "whole.zip", folder / "evil.zip", evil)
    shutil.copytree(elsewhere / "moved", folder / "tones")
    (folder / "tones.yaml").write_text(CONFIG)
    flowlab(folder, "store", "import", "evil.zip")
    window = next((folder / "tones" / "classes").rglob("*.csv"))
    said = flowlab(folder, "predict", "latest~0", str(window), code=1, text=True)
    assert "host C: the run was imported, and no code of it is run here" in said
    assert all(one["state"] != "cached" for one in flowlab(folder, "plan", "tones.yaml")["stages"])
    done = flowlab(folder, "run", "tones.yaml", "--engine", "local")
    assert not any(one["cached"] for one in done["stages"])
    assert flowlab(folder, "predict", done["run"], str(window))["execution"] in ("simulator", "host C")
    flowlab(folder, "store", "verify")
