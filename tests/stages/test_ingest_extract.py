"""Ingest and extract together on small folders, without config or engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flowlab.config import load_mapping
from flowlab.contracts import Dataset, FeatureExtractor, Plugin, Recording, StageJob, StageResult
from flowlab.errors import ConfigError, DataError, NotBuiltYet, OptionError
from flowlab.plugins import load
from flowlab.signal import features_file, layout, recordings_file
from flowlab.signal.chain import FftOptions
from flowlab.signal.windowing import WindowOptions
from flowlab.stages import extract, ingest
from flowlab_signal.csv_reader import CsvReader
from flowlab_signal.fft_extractor import FftExtractor

INGEST = ingest.IngestOptions("tones", "amongst_files", (0.6, 0.2, 0.2), 42)
STEPS = ("FFT_FE", "WINDOWING", "FFT_POS_HALF", "ABS", "LOG_DB")
CHAIN = FftOptions(STEPS, frame_size=16, log_threshold=1e-6)
EXTRACT = extract.ExtractOptions(WindowOptions(frame_size=16), None)


def tone(label: str, number: int, length: int = 64) -> np.ndarray:
    rng = np.random.default_rng([number, len(label)])
    period = {"hum": 8, "buzz": 3}[label]
    wave = np.sin(2 * np.pi * np.arange(length) / period + rng.uniform(0, 6))
    return np.column_stack([wave + rng.normal(0, 0.1, length), rng.normal(0, 1, length)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "tones"
    for label in ("hum", "buzz"):
        (root / "classes" / label).mkdir(parents=True)
        for number in range(5):
            lines = "\n".join(f"{a:.6f},{b:.6f}" for a, b in tone(label, number))
            (root / "classes" / label / f"{number}.csv").write_text(f"x,y\n{lines}\n")
    return root


def job(out: Path, inputs: Mapping[str, Mapping[str, Path]], options: Any, plugin: Plugin, chosen: Any) -> StageJob:
    out.mkdir(parents=True)
    return StageJob(inputs, options, {plugin.kind: plugin}, {plugin.kind: chosen}, out, out, lambda what, done: None)


def ingested(folder: Path, out: Path, options: ingest.IngestOptions = INGEST) -> StageResult:
    inputs = {"source": layout.source_files(folder)}
    return ingest.run(job(out, inputs, options, CsvReader(), CsvReader.Options()))


def extracted(
    folder: Path,
    out: Path,
    options: extract.ExtractOptions = EXTRACT,
    chain: FftOptions = CHAIN,
    extractor: FeatureExtractor | None = None,
) -> StageResult:
    files = ingested(folder, out / "ingest").files
    inputs = {"recordings": files["recordings"]}
    return extract.run(job(out / "extract", inputs, options, extractor or FftExtractor(), chain))


def only(result: StageResult, role: str) -> Path:
    (path,) = result.files[role].values()
    return path


class Toy(Dataset):
    """Makes its own recordings."""

    name = "toy"
    synthetic = True

    def __init__(self, splits: tuple[str | None, ...]) -> None:
        self.splits = splits

    def recordings(self, seed: int, options: Any) -> Iterator[Recording]:
        for label in ("hum", "buzz"):
            for number, part in enumerate(self.splits):
                samples = tone(label, seed + number).astype(np.float32)
                yield Recording(f"{label}/{number}", label, samples, ("x", "y"), part)


def test_ingest_writes_recordings_and_the_proof(folder: Path, tmp_path: Path) -> None:
    result = ingested(folder, tmp_path / "out")
    table = recordings_file.read(only(result, "recordings"))
    document = json.loads(only(result, "splits").read_text())
    assert table.classes == ("buzz", "hum")
    assert table.columns == ("x", "y")
    assert not table.meta["synthetic"]
    assert table.meta["origin"] == "tones"
    assert document["method"] == "amongst_files"
    assert document["seed"] == 42
    assert document["counts"]["train"] == {"buzz": 3, "hum": 3}
    assert document["proof"]["recordings_in_two_splits"] == 0
    split_of = {piece["id"]: piece["split"] for piece in document["proof"]["pieces"]}
    assert split_of == dict(zip(table.ids, table.splits, strict=True))
    assert set(result.files) == set(ingest.STAGE.makes)


def test_ingest_gives_the_same_bytes_twice(folder: Path, tmp_path: Path) -> None:
    one, two = ingested(folder, tmp_path / "1"), ingested(folder, tmp_path / "2")
    for role in ingest.STAGE.makes:
        assert only(one, role).read_bytes() == only(two, role).read_bytes()


def test_ingest_can_cut_each_recording_by_time(folder: Path, tmp_path: Path) -> None:
    result = ingested(folder, tmp_path / "out", replace(INGEST, split_type="within_files"))
    table = recordings_file.read(only(result, "recordings"))
    document = json.loads(only(result, "splits").read_text())
    assert len(table.ids) == 30
    assert document["seed"] is None
    assert {piece["source"] for piece in document["proof"]["pieces"]} == {
        f"{label}/{number}.csv" for label in ("hum", "buzz") for number in range(5)
    }


def test_ingest_honours_lists_and_says_what_is_left_out(folder: Path, tmp_path: Path) -> None:
    (folder / "annotations").mkdir()
    for split, numbers in (("train", "01"), ("val", "2"), ("test", "3")):
        names = [f"{label}/{number}.csv" for label in ("hum", "buzz") for number in numbers]
        (folder / "annotations" / f"instances_{split}_list.txt").write_text("\n".join(names))
    result = ingested(folder, tmp_path / "out")
    assert result.metrics["split"] == "annotations"
    assert result.metrics["counts"]["test"] == {"buzz": 1, "hum": 1}
    assert "2 recordings stand in no annotation list" in result.warnings[0]


def test_ingest_says_first_that_data_are_synthetic(tmp_path: Path) -> None:
    dataset = Toy(("train", "val", "test"))
    result = ingest.run(job(tmp_path / "out", {"source": {}}, INGEST, dataset, dataset.Options()))
    assert result.warnings[0].startswith("the data are synthetic: made by the generator of 'toy' from dataset.seed 42.")
    assert "dataset.input_data_path takes their place" in result.warnings[0]
    assert result.metrics["split"] == "dataset"
    assert recordings_file.read(only(result, "recordings")).meta["synthetic"]


def test_ingest_splits_a_dataset_that_does_not(tmp_path: Path) -> None:
    dataset = Toy((None,) * 5)
    result = ingest.run(job(tmp_path / "out", {"source": {}}, INGEST, dataset, dataset.Options()))
    assert result.metrics["split"] == "amongst_files"
    assert result.metrics["counts"]["train"] == {"buzz": 3, "hum": 3}


def test_ingest_names_files_whose_columns_differ(folder: Path, tmp_path: Path) -> None:
    (folder / "classes" / "hum" / "1.csv").write_text("x,z\n1,2\n")
    with pytest.raises(DataError, match=r"hum/1.csv has the columns x, z, but buzz/0.csv has x, y"):
        ingested(folder, tmp_path / "out")


def test_ingest_names_the_same_recording_in_two_splits(folder: Path, tmp_path: Path) -> None:
    (folder / "annotations").mkdir()
    for split, number in (("train", 0), ("val", 1), ("test", 2)):
        names = f"hum/{number}.csv\nbuzz/{number}.csv"
        (folder / "annotations" / f"instances_{split}_list.txt").write_text(names)
    (folder / "classes" / "hum" / "2.csv").write_bytes((folder / "classes" / "hum" / "0.csv").read_bytes())
    with pytest.raises(DataError, match=r"'hum/0.csv' and 'hum/2.csv' hold the same samples, one in 'train'"):
        ingested(folder, tmp_path / "out")


def test_repairs_are_kept_and_shortened_for_people(folder: Path, tmp_path: Path) -> None:
    for file in folder.rglob("*.csv"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    result = ingested(folder, tmp_path / "out")
    assert len(recordings_file.read(only(result, "recordings")).meta["repairs"]) == 10
    assert result.warnings == ("buzz/0.csv: a byte order mark at the start is left out (and so in 9 more)",)
    for number in range(5):
        path = folder / "classes" / "hum" / f"{number}.csv"
        path.write_text(path.read_text() + "\n" * number + "1,\n")
    result = ingested(folder, tmp_path / "again")
    assert len(result.warnings) == 4
    assert result.warnings[-1] == "and 3 more repairs, in buzz, hum"


def test_extract_writes_features_windows_and_their_description(folder: Path, tmp_path: Path) -> None:
    result = extracted(folder, tmp_path)
    spec = json.loads(only(result, "feature_spec").read_text())
    assert spec["shape"] == [1, 9, 1]
    assert spec["window"] == [1, 16]
    assert spec["classes"] == ["buzz", "hum"]
    assert spec["counts"] == {"train": 24, "val": 8, "test": 8}
    assert spec["counts_by_class"] == {"train": [12, 12], "val": [4, 4], "test": [4, 4]}
    assert spec["warnings"] == list(result.warnings)
    assert spec["columns"] == ["x"]
    assert spec["extractor"] == "fft"
    assert set(result.files) == set(extract.STAGE.makes)
    (note,) = result.warnings
    assert spec["notes"] == [note]
    assert "run as WINDOWING, FFT_FE" in note
    test = features_file.read(only(result, "features_test"))
    windows = features_file.read(only(result, "windows"))
    assert windows.index is not None
    again = FftExtractor().extract(windows.features, CHAIN)
    assert np.array_equal(again, test.features[windows.index])
    assert np.array_equal(windows.labels, test.labels[windows.index])
    assert set(windows.labels.tolist()) == {0, 1}


def asked_of_extract(**keys: Any) -> tuple[extract.ExtractOptions, Any]:
    """What decides extract's result in a config with these keys."""
    catalogue = load()
    config = load_mapping(
        {
            "common": {"task_type": "generic_timeseries_classification", "target_device": "F28P55"},
            "dataset": {"dataset_name": "dc_arc_fault_example_dsk"},
            "data_processing_feature_extraction": keys,
            "training": {"model_name": "CLS_1k_NPU"},
        },
        catalogue,
    )
    return extract.options(config, catalogue), extract.plugins(config, catalogue)["feature_extractor"][1]


def test_a_stride_that_nothing_reads_decides_nothing() -> None:
    preset = {"feature_extraction_name": "Generic_256Input_FFT_128Feature_1Frame"}
    plain = asked_of_extract(**preset)
    assert asked_of_extract(**preset, stride_size=64) == plain
    assert asked_of_extract(**preset, stride_size=0.5, data_proc_transforms=[]) == plain
    read = [
        asked_of_extract(**preset, stride_size=stride, data_proc_transforms=["SimpleWindow"]) for stride in (0.5, 1)
    ]
    assert read[0] != read[1]
    assert [one.windows.hop for one, _ in read] == [128, 256]


def test_notes_on_a_chain_are_warnings_where_no_preset_lists_it(folder: Path, tmp_path: Path) -> None:
    preset = {"feature_extraction_name": "Generic_256Input_FFT_128Feature_1Frame"}
    chain = {"feat_ext_transform": ["ABS", "FFT_FE"]}
    assert not asked_of_extract(**preset)[0].own_chain
    assert asked_of_extract(**preset, **chain)[0].own_chain
    assert asked_of_extract(frame_size=256, **chain)[0].own_chain
    assert asked_of_extract(frame_size=256, feature_extraction_name="fft")[0].own_chain
    result = extracted(folder, tmp_path, replace(EXTRACT, own_chain=False))
    assert result.warnings == ()
    assert len(json.loads(only(result, "feature_spec").read_text())["notes"]) == 1


def test_a_window_leads_back_to_its_recording(folder: Path, tmp_path: Path) -> None:
    result = extracted(folder, tmp_path)
    recordings = recordings_file.read(tmp_path / "ingest" / "recordings.arrow")
    windows = features_file.read(only(result, "windows"))
    for window, row, start in zip(windows.features, windows.recording, windows.start, strict=True):
        assert np.array_equal(window[0], recordings.samples[row][start : start + 16, 0])
        assert recordings.splits[row] == "test"


def test_no_window_of_a_recording_is_in_two_splits(folder: Path, tmp_path: Path) -> None:
    result = extracted(folder, tmp_path)
    rows = [set(features_file.read(only(result, f"features_{s}")).recording.tolist()) for s in layout.SPLITS]
    assert not rows[0] & rows[1]
    assert not rows[0] & rows[2]
    assert not rows[1] & rows[2]


def test_without_transforms_the_window_itself_is_the_feature(folder: Path, tmp_path: Path) -> None:
    options = extract.ExtractOptions(WindowOptions(frame_size=16, variables=("y", "x")), None)
    result = extracted(folder, tmp_path, options, FftOptions(frame_size=16))
    assert features_file.read(only(result, "features_val")).features.shape == (8, 2, 16, 1)


def test_recordings_shorter_than_a_window_are_said(folder: Path, tmp_path: Path) -> None:
    long = extract.ExtractOptions(WindowOptions(frame_size=65), None)
    with pytest.raises(DataError, match="split 'train' has no window of 65 samples: its 6 recordings are shorter"):
        extracted(folder, tmp_path, long, replace(CHAIN, frame_size=65))
    file = folder / "classes" / "hum" / "0.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:9]))
    result = extracted(folder, tmp_path / "again")
    assert any("shorter than one window and gives none (hum/0.csv)" in sentence for sentence in result.warnings)


def test_a_constant_column_is_an_error_that_names_it(folder: Path, tmp_path: Path) -> None:
    for number, file in enumerate(sorted(folder.rglob("*.csv"))):
        rows = [f"5,{number + i % 7}" for i in range(64)]
        file.write_text("stuck,y\n" + "\n".join(rows))
    with pytest.raises(DataError, match="column 'stuck' is 5 in every training window"):
        extracted(folder, tmp_path)


class Broken(FeatureExtractor):
    """Gives what it is told to."""

    name = "broken"

    def __init__(self, value: float, height: int = 9) -> None:
        self.value, self.height = value, height

    def shape(self, window: tuple[int, int], options: Any) -> tuple[int, int, int]:
        return (1, 9, 1)

    def extract(self, windows: np.ndarray, options: Any) -> np.ndarray:
        return np.full((len(windows), 1, self.height, 1), self.value, np.float32)


def test_features_that_are_no_numbers_name_the_first_window(folder: Path, tmp_path: Path) -> None:
    for value in (np.nan, np.inf):
        with pytest.raises(DataError, match=r"24 windows have features that are not finite; .* sample 0 of buzz/"):
            extracted(folder, tmp_path / str(value), extractor=Broken(value))


def test_features_that_are_all_equal_are_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="every feature is 3: the chain leaves nothing"):
        extracted(folder, tmp_path, extractor=Broken(3))


def test_an_extractor_that_breaks_its_announced_shape_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"feature extractor 'broken' gave features of shape \(1, 8, 1\)"):
        extracted(folder, tmp_path, extractor=Broken(3, height=8))


def test_extract_gives_the_same_bytes_twice_and_whatever_the_batch(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = extracted(folder, tmp_path / "1")
    monkeypatch.setattr(extract, "BATCH", 5)
    two = extracted(folder, tmp_path / "2")
    for role in extract.STAGE.makes:
        assert only(one, role).read_bytes() == only(two, role).read_bytes()


def test_a_step_that_is_to_come_is_said_before_any_window(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotBuiltYet, match="'FFT_Q15' is not built yet"):
        extracted(folder, tmp_path, chain=FftOptions(("FFT_Q15",), 16))


def config(**dataset: Any) -> SimpleNamespace:
    known = {
        "input_data_path": None,
        "dataset_name": None,
        "input_annotation_path": None,
        "data_dir": None,
        "annotation_dir": "annotations",
        "annotation_prefix": "instances",
        "time_column": None,
    }
    return SimpleNamespace(dataset=SimpleNamespace(**{**known, **dataset}), options_for=lambda section, key: {})


def test_the_first_recording_chooses_the_reader(folder: Path) -> None:
    chosen = ingest.plugins(config(input_data_path=str(folder)), load())
    assert chosen["reader"][0].name == "csv"


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        ({}, ConfigError, "neither input_data_path nor dataset_name"),
        ({"dataset_name": "dc_arc_fault_example_dks"}, ConfigError, "Did you mean 'dc_arc_fault_example_dsk'"),
        ({"input_data_path": "no/such/folder"}, DataError, "no such file or folder"),
    ],
)
def test_a_source_that_is_not_there_says_what_to_do(dataset: dict[str, str], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        ingest.plugins(config(**dataset), load())


def test_files_that_nobody_reads_are_said_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "classes" / "hum").mkdir(parents=True)
    with pytest.raises(DataError, match="no files in classes/<class>/"):
        ingest.plugins(config(input_data_path=str(tmp_path)), load())
    (tmp_path / "classes" / "hum" / "1.xyz").write_bytes(b"")
    with pytest.raises(DataError, match=r"no reader for \*.xyz. Known endings: .csv, .npy, .txt"):
        ingest.plugins(config(input_data_path=str(tmp_path)), load())


def test_a_pickle_is_refused_with_the_way_out(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "classes" / "hum").mkdir(parents=True)
    (tmp_path / "classes" / "hum" / "1.pkl").write_bytes(b"")
    with pytest.raises(DataError, match=r"\*.pkl is a pickle, .*python -c .*read_pickle\('a.pkl'\).to_csv\('a.csv'"):
        ingest.plugins(config(input_data_path=str(tmp_path)), load())
    (folder / "classes" / "hum" / "9.pickle").write_bytes(b"")
    with pytest.raises(DataError, match=r"classes/hum/9.pickle is a pickle, .*numpy.save"):
        ingested(folder, tmp_path / "out")


def test_the_time_column_reaches_the_reader(folder: Path) -> None:
    (_, options) = ingest.plugins(config(input_data_path=str(folder), time_column="x"), load())["reader"]
    assert options.time_column == "x"


def test_a_dataset_that_makes_itself_needs_no_path() -> None:
    chosen = ingest.plugins(config(dataset_name="dc_arc_fault_example_dsk"), load())
    assert chosen["dataset"][0].name == "dc_arc_fault_example_dsk"


def test_ingest_says_where_a_part_of_one_measurement_stands_in_two_splits(folder: Path, tmp_path: Path) -> None:
    lines = "\n".join(f"{a:.6f},{b:.6f}" for a, b in tone("buzz", 0))
    for number in range(5):
        (folder / "classes" / "buzz" / f"{number}.csv").write_text(f"x,y\n{lines}\n{number},{number}\n")
    result = ingested(folder, tmp_path / "out")
    document = json.loads(only(result, "splits").read_text())
    assert document["proof"]["stretches_in_two_splits"] > 0
    (warning,) = result.warnings
    assert warning.startswith("samples stand in two splits (")
    assert document["warnings"] == [warning]
    assert ingested(folder, tmp_path / "again").warnings == result.warnings


def test_windows_of_recordings_that_are_cut_by_time_share_no_sample(folder: Path, tmp_path: Path) -> None:
    inside = replace(INGEST, split_type="within_files")
    overlapping = WindowOptions(data_proc_transforms=("SimpleWindow",), frame_size=8, stride_size=0.5)
    files = ingested(folder, tmp_path / "ingest", inside).files
    job_of_extract = job(
        tmp_path / "extract",
        {"recordings": files["recordings"]},
        extract.ExtractOptions(overlapping, None),
        FftExtractor(),
        replace(CHAIN, frame_size=8),
    )
    result = extract.run(job_of_extract)
    leak = result.metrics["leak"]
    assert leak["windows_in_two_splits"] == {"train": 0, "val": 0, "test": 0}
    assert leak["recordings_cut_by_time"] == 10
    assert leak["windows_across_cuts"] == 40  # of 15 windows of 64 samples, those over the cuts at 38 and 51
    assert json.loads(only(result, "feature_spec").read_text())["leak"] == leak
    assert "10 recordings are cut by time" in result.warnings[-1]


def test_windows_of_a_stretch_that_stands_in_two_splits_are_counted_and_said(folder: Path, tmp_path: Path) -> None:
    long = "\n".join(f"{a:.6f},{b:.6f}" for a, b in tone("buzz", 0, 256))
    for number in range(5):
        (folder / "classes" / "buzz" / f"{number}.csv").write_text(f"x,y\n{long}\n{number},{number}\n")
    result = extracted(folder, tmp_path)
    shared = result.metrics["leak"]["windows_in_two_splits"]
    assert shared == {"train": 48, "val": 16, "test": 16}  # of a recording's 16 windows, each
    assert "windows share samples with windows of another split: 48 of 60 of train" in result.warnings[-1]


def test_a_class_without_recordings_in_the_test_split_is_said(folder: Path, tmp_path: Path) -> None:
    (folder / "annotations").mkdir()
    for split, names in {"train": "hum/0 buzz/0", "val": "hum/1 buzz/1", "test": "hum/2"}.items():
        lines = "".join(f"{name}.csv\n" for name in names.split())
        (folder / "annotations" / f"instances_{split}_list.txt").write_text(lines)
    result = ingested(folder, tmp_path / "out")
    assert "split 'test' has no recording of class buzz: nothing is measured of it" in result.warnings


def test_a_recording_that_cannot_be_read_is_an_error_of_the_data(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: CsvReader, path: Any, shown: str, options: Any) -> Recording:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(CsvReader, "read", refused)
    with pytest.raises(DataError, match=r"buzz/0.csv cannot be read: Permission denied"):
        ingested(folder, tmp_path / "out")
