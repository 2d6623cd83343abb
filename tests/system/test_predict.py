"""`flowlab predict` on recordings of a real run: the run's own integers, and a clear word for what cannot be used."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowlab.engine.which_run import StoredRun, which_run
from flowlab.signal import features_file, recordings_file

SAMPLES = 700  # 20 windows of 64 samples with half of them in common, and a rest of 28
CONFIG = """
common: {task_type: generic_timeseries_classification, target_device: F28P55}
dataset: {dataset_name: tones, input_data_path: data, split_factor: [0.5, 0.25, 0.25]}
data_processing_feature_extraction:
  data_proc_transforms: [SimpleWindow]
  feat_ext_transform: []
  stride_size: 0.5
  frame_size: 64
  variables: [loud, quiet]
  sampling_rate: 100
training:
  model_name: CLS_1k_NPU
  training_epochs: 2
  batch_size: 16
  optimizer: adam
  quantization: 2
  quantization_method: PTQ
"""


def tones(path: Path, frequency: float, seed: int, header: str = "quiet,spare,loud", samples: int = SAMPLES) -> Path:
    random, time = np.random.default_rng(seed), np.arange(samples)
    quiet = np.sin(2 * np.pi * frequency * time + random.uniform(0, 6)) + random.normal(0, 0.5, samples)
    loud = 10 * np.cos(2 * np.pi * frequency * time) + random.normal(0, 5, samples)
    table = np.stack([quiet, random.normal(size=samples), loud], axis=1)
    rows = (",".join(f"{value:.5f}" for value in row[: header.count(",") + 1]) for row in table)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def flowlab(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flowlab.cli", *words],
        cwd=folder, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def predicted(folder: Path, *words: str) -> dict[str, Any]:
    done = flowlab(folder, "predict", *words, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's folder with one run."""
    made = tmp_path_factory.mktemp("predict")
    for label, frequency in (("low", 0.05), ("high", 0.15)):
        for number in range(6):
            tones(made / "data" / "classes" / label / f"{label}{number}.csv", frequency, number)
    (made / "config.yaml").write_text(CONFIG)
    done = flowlab(made, "run", "config.yaml", "--engine", "local")
    assert done.returncode == 0, done.stderr
    (made / "said.txt").write_text(done.stdout)
    return made


@pytest.fixture
def run(folder: Path) -> StoredRun:
    return which_run("tones", None, folder / "artifacts")


def test_the_gate_says_what_two_channels_cost_before_the_training_starts(folder: Path) -> None:
    lines = (folder / "said.txt").read_text().splitlines()
    (said,) = (at for at, line in enumerate(lines) if "2 -> 4 input channels: +5120 MACs, +80 bytes of weights" in line)
    stages = {line.split()[0]: at for at, line in enumerate(lines) if line.endswith(" s") and len(line.split()) == 3}
    assert stages["inspect"] < said < stages["train"]


def test_a_test_recording_gets_the_integers_that_the_run_recorded_for_its_windows(folder: Path, run: StoredRun) -> None:
    table = recordings_file.read(run.file("ingest", "recordings", "recordings.arrow"))
    features = features_file.read(run.file("extract", "features_test", "features.arrow"))
    with np.load(run.file("simulate", "outputs", "outputs.npz")) as found:
        outputs = found["output"].reshape(len(features.labels), -1)
    rows = table.of_split("test")
    files = [str(Path("data/classes") / table.ids[row]) for row in rows]
    result = predicted(folder, "latest", *files)
    assert (result["run"], result["execution"], result["classes"]) == (run.name, "simulator", ["high", "low"])
    assert [said["file"] for said in result["recordings"]] == files
    assert len(np.unique(outputs)) > 20
    for row, said in zip(rows, result["recordings"], strict=True):
        of_row = features.recording == row
        assert [window["outputs"] for window in said["windows"]] == outputs[of_row].tolist()
        assert [window["start"] for window in said["windows"]] == features.start[of_row].tolist()
        best = outputs[of_row].argmax(axis=1)
        assert [window["class"] for window in said["windows"]] == [["high", "low"][at] for at in best]
        assert said["counts"] == {"high": int((best == 0).sum()), "low": int((best == 1).sum())}


def test_people_get_spans_of_one_class_and_the_vote(folder: Path) -> None:
    done = flowlab(folder, "predict", "tones", "data/classes/low/low0.csv")
    assert done.returncode == 0, done.stderr
    first, _, vote, *spans = done.stdout.splitlines()
    assert first.endswith("its program for F28P55, run by: simulator")
    assert vote.startswith("data/classes/low/low0.csv: ")
    assert spans[0].lstrip().startswith("0.000-")
    assert spans[-1] == "  the last 28 samples fill no window"
    counted = sum(int(span.rpartition("(")[2].partition(" ")[0]) for span in spans[:-1])
    assert counted == 20


def test_columns_are_found_by_name_in_whatever_order_they_stand(folder: Path, tmp_path: Path) -> None:
    given = folder / "data" / "classes" / "low" / "low1.csv"
    rows = [line.split(",") for line in given.read_text().splitlines()]
    turned = tmp_path / "turned.csv"
    turned.write_text("\n".join(",".join((row[2], row[0])) for row in rows) + "\n")
    result = predicted(folder, "latest", str(given), str(turned), "--rate", "10")
    first, second = result["recordings"]
    assert first["windows"] == second["windows"]
    assert first["windows"][1]["start_s"] == 3.2


def unusable(folder: Path, *words: str) -> str:
    done = flowlab(folder, "predict", *words)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def test_what_cannot_be_used_is_named(folder: Path, tmp_path: Path) -> None:
    good = "data/classes/low/low0.csv"
    other = tones(tmp_path / "other.csv", 0.05, 1, header="quiet,spare")
    assert "no column 'loud'" in unusable(folder, "latest", good, str(other))
    short = tones(tmp_path / "short.csv", 0.05, 1, samples=63)
    assert "63 samples are too few for one window" in unusable(folder, "latest", str(short))
    broken = tmp_path / "broken.csv"
    broken.write_text((folder / good).read_text().replace("\n", "\ninf,1,1\n", 1))
    assert "line 2" in unusable(folder, "latest", str(broken))
    (tmp_path / "x.bin").write_bytes(b"1,2,3")
    assert "no reader for '.bin' files" in unusable(folder, "latest", str(tmp_path / "x.bin"))
    assert "there is no such file" in unusable(folder, "latest", str(tmp_path / "none.csv"))
    assert "is a folder" in unusable(folder, "latest", "data")
    assert "no run 'tonse'" in unusable(folder, "tonse", good)
    assert "--rate 0" in unusable(folder, "latest", good, "--rate", "0")


def test_a_run_whose_program_is_gone_and_one_that_was_stopped_are_named(
    folder: Path, run: StoredRun, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, symlinks=True)
    lost = which_run("tones", None, copy / "artifacts")
    lost.file("compile", "program", "model.flnp").unlink()
    assert "model.flnp" in (said := unusable(copy, "latest", "data/classes/low/low0.csv"))
    assert "Run its config again" in said
    stages = {stage: record.fingerprint for stage, record in run.records.items() if stage in {"ingest", "extract"}}
    lost.store.runs.write("20990101T000000Z-0000", "tones", "Running", stages=stages)
    said = unusable(copy, "20990101T000000Z-0000", "data/classes/low/low0.csv")
    assert "no result of stage 'compile'" in said
