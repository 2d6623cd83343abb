from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flowlab.config.loading import load_mapping
from flowlab.config.tiers import FEATURES
from flowlab.engine.source import files_digest, keep_notes, notes, sources
from flowlab.errors import DataError
from flowlab.plugins import load
from flowlab.stages import STAGES
from flowlab.store.store import Store


def config(path: Path | None) -> SimpleNamespace:
    return SimpleNamespace(
        dataset=SimpleNamespace(input_data_path=path, dataset_name="motor"),
        common=SimpleNamespace(task_type="classification", target_device="board"),
        warnings=("beware",),
    )


def source_digest(tmp_path: Path, path: Path | None) -> str:
    return files_digest(sources(config(path), Store(tmp_path / "store"))["source"])


def test_a_dataset_that_makes_itself_reads_nothing(tmp_path: Path) -> None:
    assert sources(config(None), Store(tmp_path / "store"))["source"] == {}


def test_an_archive_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    path.write_bytes(b"zip")
    (name,) = sources(config(path), Store(tmp_path / "store"))["source"]
    assert name == "data.zip"


def test_a_folder_is_known_by_names_and_bytes_and_not_by_its_place(tmp_path: Path, data: Path) -> None:
    before = source_digest(tmp_path, data)
    moved = tmp_path / "moved"
    data.rename(moved)
    assert source_digest(tmp_path, moved) == before
    (moved / "arc" / "2.csv").rename(moved / "arc" / "3.csv")
    renamed = source_digest(tmp_path, moved)
    assert renamed != before
    (moved / "arc" / "3.csv").write_text("3\n5\n")
    assert source_digest(tmp_path, moved) != renamed


def test_a_path_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.input_data_path: .*none is neither a file nor a folder"):
        source_digest(tmp_path, tmp_path / "none")


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no files"):
        source_digest(tmp_path, tmp_path / "empty")


def test_the_notes_are_the_configs_warnings_and_overview(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (file,) = sources(config(None), store)["notes"].values()
    assert not (tmp_path / "store").exists()
    keep_notes(config(None), store)
    read = json.loads(store.objects.verified(file.sha256).read_bytes())
    assert read["warnings"] == ["beware"]
    assert read["overview"]["common"] == {"target_device": "board", "task_type": "classification"}


def overview_of_features(**given: Any) -> dict[str, Any]:
    common = {"task_type": "generic_timeseries_classification", "target_device": "F28P55"}
    rest = {"dataset": {"dataset_name": "dc_arc_fault_example_dsk"}, "training": {"model_name": "CLS_4k_NPU"}}
    asked = load_mapping({"common": common, FEATURES: given, **rest}, load())
    found: dict[str, Any] = json.loads(notes(asked))["overview"][FEATURES]
    return found


def test_all_that_decides_the_features_is_noted_where_it_is_not_the_default() -> None:
    chain = {"data_proc_transforms": ["SimpleWindow"], "feat_ext_transform": ["RAW_FE", "CONCAT"]}
    numbers = {"frame_size": 256, "stride_size": 0.5, "sampling_rate": 180}
    found = overview_of_features(**chain, **numbers, variables=3, scale=None, dc_remove=True)
    assert found == {**chain, **numbers, "variables": 3, "feature_extraction_name": None}


def test_what_a_preset_decides_is_noted_too() -> None:
    name = "Generic_256Input_FFT_128Feature_1Frame"
    found = overview_of_features(feature_extraction_name=name)
    assert (found["feature_extraction_name"], found["variables"]) == (name, 1)
    assert found["frame_size"] == 256
    assert "FFT_FE" in found["feat_ext_transform"]


def test_only_the_report_reads_the_notes() -> None:
    assert [stage.name for stage in STAGES if "notes" in (*stage.needs, *stage.optional)] == ["report"]


def test_a_name_that_is_no_utf_8_is_named(tmp_path: Path, data: Path) -> None:
    (data / "a\udcff.csv").write_text("1\n")
    with pytest.raises(DataError, match="is not UTF-8; rename the file"):
        sources(config(data), Store(tmp_path / "store"))


def test_runs_that_are_kept_within_the_data_are_no_part_of_them(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("1\n")
    store = Store(tmp_path / "artifacts" / ".store")
    before = sources(config(tmp_path), store)["source"]
    keep_notes(config(tmp_path), store)
    report = tmp_path / "artifacts" / "motor" / "one" / "report.html"
    report.parent.mkdir(parents=True)
    report.write_text("<html>")
    assert list(before) == ["1.csv"]
    assert sources(config(tmp_path), store)["source"] == before
