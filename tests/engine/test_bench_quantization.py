from __future__ import annotations

import copy
import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowlab.contracts import Dataset, Preset, Recording
from flowlab.engine import bench_onnx, bench_quantization
from flowlab.engine.bench_quantization import Asked, quantization
from flowlab.errors import ConfigError, DataError, PluginError
from flowlab.plugins import Brought, Catalogue, load
from flowlab_zoo import peers
from flowlab_zoo.peers import onnxruntime


class Waves(Dataset):
    """Three frequencies."""

    name = "waves"

    def recordings(self, seed: int, options: Any) -> Iterator[Recording]:
        rng = np.random.default_rng(seed)
        for place in range(180):
            phase = rng.uniform(0, 6.28)
            series = np.cos(np.arange(32) * (0.3 + 0.4 * (place % 3)) + phase) + rng.normal(0, 0.2, 32)
            split = "train" if place < 120 else "test"
            yield Recording(f"{place}", "abc"[place % 3], series.astype(np.float32)[:, None], ("value",), split)


def row(label: str, method: str, weights: int, mode: int = 2) -> dict[str, Any]:
    keys = {"quantization": mode, "quantization_method": method, "quantization_weight_bitwidth": weights}
    return {"label": label, "training": keys, "bars": {"waves": 1.0}}


def catalogue(rows: tuple[dict[str, Any], ...] = ()) -> Catalogue:
    values = {
        "config": {
            "common": {"task_type": "generic_timeseries_classification", "target_device": "F28P55"},
            "data_processing_feature_extraction": {"variables": 1},
            "training": {"training_epochs": 2, "batch_size": 32, "quantization_epochs": 2},
        },
        "sets": [{"dataset": "waves", "seed": 1, "frame": 32, "models": ["CLS_500_NPU"]}],
        "rows": [row("QAT 8", "QAT", 8), row("PTQ 8", "PTQ", 8), row("CPU 8", "PTQ", 8, mode=1), *rows],
        "quick_rows": ["QAT 8", "PTQ 8", *(one["label"] for one in rows)],
        "quick_epochs": 1,
        "peers": "flowlab_zoo.peers",
        "speed_rows": ["QAT 8", "PTQ 8"],
        "file_rows": ["CPU 8"],
    }
    real = load()
    others = tuple(one for one in real.brought if getattr(one.item, "kind", "") != "bench")
    brought = (Brought(Waves(), "test"), Brought(Preset("bench", "waves_only", values), "test"))
    return replace(real, brought=(*others, *brought))


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_quantization, "QUICK_ROUNDS", 1)
    monkeypatch.setattr(bench_onnx, "FED_S", 0.001)
    monkeypatch.setattr(peers, "PEERS", onnxruntime.PEERS)  # the others take minutes: tests/system/test_peers.py


def test_accuracy_times_and_files_are_measured_printed_and_written(tmp_path: Path) -> None:
    said: list[str] = []
    lines = quantization(Asked(quick=True, csv=tmp_path / "out"), catalogue(), said.append)
    text = "\n".join(lines)
    assert any(line.startswith("waves CLS_500_NPU seed 0: float") for line in said)
    assert "control: float, 1 epochs more" in text
    with (tmp_path / "out" / "accuracy.csv").open() as file:
        drops = list(csv.DictReader(file))
    assert [one["row"] for one in drops][:3] == ["QAT 8", "PTQ 8", "control: float, 1 epochs more"]
    for one in drops:
        assert float(one["drop"]) == pytest.approx(float(one["float_accuracy"]) - float(one["accuracy"]))
    with (tmp_path / "out" / "speed.csv").open() as file:
        times = list(csv.DictReader(file))
    ratios = {(one["what"], one["batch"]): float(one["ratio"]) for one in times}
    (least,) = (one for one in times if "three plain" in one["over"] and one["what"] == "PTQ 8, all of it")
    assert float(least["unit_s"]) > 0
    assert ("QAT 8 epoch", "64") in ratios and ("PTQ 8, all of it", "64") in ratios
    assert ("calibration pass of the wrapper", "64") in ratios
    assert all(ratio > 0 for ratio in ratios.values())
    with (tmp_path / "out" / "files.csv").open() as file:
        files = {one["what"]: one for one in csv.DictReader(file)}
    assert float(files["float"]["speed_1"]) == 1.0
    assert int(files["CPU 8: best_model_int8.onnx"]["bytes"]) < int(files["CPU 8: best_model.onnx"]["bytes"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["accuracy.csv", "files.csv", "speed.csv"]


def test_a_set_that_cannot_be_made_here_is_said_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Waves, seed: int, options: Any) -> Iterator[Recording]:
        raise DataError("sounds come with a package that is not installed")

    monkeypatch.setattr(Waves, "recordings", missing)
    lines = quantization(Asked(quick=True), catalogue(), lambda text: None)
    assert lines[-1] == "not run: waves: sounds come with a package that is not installed"


def test_a_quantization_that_is_refused_is_a_row_with_its_reason(tmp_path: Path) -> None:
    unknown = row("no quantizer", "PTQ", 8)
    unknown["training"]["quantizer"] = "none_such"
    lines = quantization(Asked(quick=True), catalogue(rows=(unknown,)), lambda text: None)
    (found,) = (line for line in lines if "no quantizer" in line)
    assert "refused" in found and "none_such" in found


@pytest.mark.parametrize("seeds", [0, -1, 11])
def test_a_number_of_seeds_beyond_sense_is_refused(seeds: int) -> None:
    with pytest.raises(ConfigError, match=r"--seeds"):
        quantization(Asked(seeds=seeds), load(), lambda text: None)


def test_a_folder_that_cannot_be_written_is_known_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--csv .*file"):
        quantization(Asked(csv=tmp_path / "file"), load(), lambda text: pytest.fail("it began"))


def test_without_a_preset_it_says_that_no_package_brings_one() -> None:
    with pytest.raises(PluginError, match=r"preset of kind 'bench'"):
        quantization(Asked(), Catalogue(), lambda text: None)


def test_what_is_named_is_measured_alone(tmp_path: Path) -> None:
    only = {"table": ["accuracy"], "row": ["CPU 8"], "dataset": ["waves"], "model": ["CLS_500_NPU"]}
    quantization(Asked(quick=True, csv=tmp_path / "out", only=only), catalogue(), lambda text: None)
    with (tmp_path / "out" / "accuracy.csv").open() as file:
        found = [one["row"] for one in csv.DictReader(file) if not one["row"].startswith(("control", "onnx", "ONNX"))]
    assert found == ["CPU 8"]
    for other in ("speed", "files"):
        with (tmp_path / "out" / f"{other}.csv").open() as file:
            assert not list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("kind", "name", "suggestion"),
    [
        ("row", "CPU 9", "CPU 8"),
        ("table", "accuracies", "accuracy"),
        ("dataset", "wave", "waves"),
        ("model", "", "CLS_500"),
    ],
)
def test_a_name_that_the_preset_has_not_is_an_error(kind: str, name: str, suggestion: str) -> None:
    with pytest.raises(ConfigError, match=rf"--{kind}: no {kind} named '{name}'.*{suggestion}"):
        quantization(Asked(only={kind: [name]}), catalogue(), lambda text: pytest.fail("it began"))


def broken(job: peers.PeerJob) -> Any:
    raise RuntimeError("no kernel\nfor this")


def test_a_peer_that_fails_or_is_not_installed_is_said_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    others = (peers.Peer("Broken", (), broken), peers.Peer("Absent", ("none_such.part",), broken))
    monkeypatch.setattr(peers, "PEERS", (*others, *onnxruntime.PEERS))
    only = {"table": ["accuracy"], "row": ["CPU 8"]}
    lines = quantization(Asked(quick=True, only=only), catalogue(), lambda text: None)
    assert "failed: Broken on waves, CLS_500_NPU: no kernel" in lines
    assert "not run: Absent (none_such.part is not installed)" in lines
    assert any("ONNX Runtime static 8/8" in line for line in lines)


def test_one_peer_of_each_project_that_trains_is_timed_in_the_same_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    def same(job: peers.PeerJob) -> Any:
        return copy.deepcopy(job.module)

    trained = [
        peers.Peer(name, (needs,), same, trains=True)
        for name, needs in (("A 8", "json"), ("A 4", "json"), ("B", "csv"))
    ]
    failing = peers.Peer("C", ("math",), broken, trains=True)
    monkeypatch.setattr(peers, "PEERS", (*trained, failing))
    said: list[str] = []
    lines = quantization(Asked(quick=True, only={"table": ["speed"]}), catalogue(), said.append)
    text = "\n".join(lines)
    assert "A 8 epoch" in text and "B epoch" in text and "A 4 epoch" not in text and "C epoch" not in text
    assert "not timed: C: no kernel" in said
