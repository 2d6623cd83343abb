"""Real recordings, through the real plugins and the real config."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowlab.config import load_mapping
from flowlab.contracts import Stage, StageJob, StageResult
from flowlab.plugins import load
from flowlab.signal import features_file, recordings_file
from flowlab.signal.layout import SPLITS, source_files
from flowlab.stages import extract, ingest
from tests.conftest import shared_folder

ARCHIVE = "data/cwru_bearing/cwru_bearing_12k.zip"
FEATURES = "data_processing_feature_extraction"


def run(stage: Stage, config: Any, inputs: dict[str, Any], out: Path) -> StageResult:
    catalogue = load()
    chosen = stage.plugins(config, catalogue)
    out.mkdir()
    job = StageJob(
        inputs,
        stage.options(config, catalogue),
        {kind: plugin for kind, (plugin, _) in chosen.items()},
        {kind: options for kind, (_, options) in chosen.items()},
        out,
        out,
        lambda what, done: None,
    )
    function = {"ingest": ingest.run, "extract": extract.run}[stage.name]
    return function(job)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StageResult, StageResult, float]]:
    path = shared_folder() / ARCHIVE
    if not path.is_file():
        pytest.skip("no cwru_bearing_12k.zip (FLOWLAB_SHARED)")
    config = load_mapping(
        {
            "common": {"task_type": "generic_timeseries_classification", "target_device": "F28P55"},
            "dataset": {"input_data_path": str(path)},
            FEATURES: {"feature_extraction_name": "Generic_256Input_FFT_128Feature_1Frame", "variables": [0]},
            "training": {"model_name": "CLS_4k_NPU", "quantization": 2},
        },
        load(),
    )
    out = tmp_path_factory.mktemp("cwru")
    begin = time.perf_counter()
    first = run(ingest.STAGE, config, {"source": source_files(path)}, out / "ingest")
    seconds = time.perf_counter() - begin
    second = run(extract.STAGE, config, {"recordings": first.files["recordings"]}, out / "extract")
    yield first, second, seconds


def test_the_lists_are_honoured(results: tuple[StageResult, StageResult, float]) -> None:
    first, _, _ = results
    assert first.metrics["split"] == "annotations"
    assert first.metrics["counts"] == {
        "train": {"ball": 34, "inner_race": 22, "normal": 11, "outer_race": 34},
        "val": {"ball": 12, "inner_race": 8, "normal": 4, "outer_race": 12},
        "test": {"ball": 12, "inner_race": 8, "normal": 4, "outer_race": 12},
    }
    assert first.metrics["samples"] == 173 * 3072
    assert first.warnings[0].startswith("40 recordings stand in no annotation list")


def test_the_proof_holds(results: tuple[StageResult, StageResult, float]) -> None:
    (path,) = results[0].files["splits"].values()
    pieces = json.loads(path.read_text())["proof"]["pieces"]
    contents = {split: {piece["sha256"] for piece in pieces if piece["split"] == split} for split in SPLITS}
    assert not contents["train"] & contents["val"]
    assert not contents["train"] & contents["test"]
    assert not contents["val"] & contents["test"]


def test_numbers_are_those_of_the_text(results: tuple[StageResult, StageResult, float]) -> None:
    (path,) = results[0].files["recordings"].values()
    table = recordings_file.read(path)
    row = table.ids.index("ball/b_14_b00.csv")
    assert table.columns == ("de_g", "fe_g")
    assert np.array_equal(table.samples[row][:2], np.float32([[0.04629, 0.04559], [0.19789, 0.19489]]))


def test_windows_are_as_many_as_the_readme_says(results: tuple[StageResult, StageResult, float]) -> None:
    _, second, _ = results
    assert second.metrics["shape"] == [1, 128, 1]
    assert second.metrics["counts"] == {"train": 1212, "val": 432, "test": 432}
    assert second.metrics["leak"]["windows_in_two_splits"] == {"train": 0, "val": 0, "test": 0}
    (path,) = second.files["features_train"].values()
    features = features_file.read(path).features
    assert np.isfinite(features).all()
    assert features.std(axis=0).min() > 0


def test_reading_takes_seconds(results: tuple[StageResult, StageResult, float]) -> None:
    assert results[2] < 15  # 0.9 s alone on two cores; the machine may be shared
