from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from flowlab.engine.source import files_digest, keep_notes, sources
from flowlab.errors import DataError
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
