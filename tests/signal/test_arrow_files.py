from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from flowlab.contracts import Recording
from flowlab.errors import DataError
from flowlab.signal import arrow_file, features_file, recordings_file

META = {"classes": ["a", "b"], "split": "train", "provenance": "made here"}


def written(path: Path, count: int = 6) -> np.ndarray:
    features = np.random.default_rng(0).normal(size=(count, 2, 5, 1)).astype(np.float32)
    labels = np.arange(count) % 2
    features_file.write(path, features, labels, np.arange(count, dtype=np.int32), np.arange(count) * 10, META)
    return features


def test_features_come_back_as_they_were(tmp_path: Path) -> None:
    features = written(tmp_path / "f.arrow")
    table = features_file.read(tmp_path / "f.arrow")
    assert table.features.dtype == np.float32
    assert np.array_equal(table.features, features)
    assert table.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert table.labels.dtype == np.int64
    assert table.recording.dtype == np.int32
    assert table.start.tolist() == [0, 10, 20, 30, 40, 50]
    assert table.meta == {**META, "shape": [2, 5, 1]}
    assert table.index is None


def test_features_are_read_without_a_copy(tmp_path: Path) -> None:
    """The array lies inside the map of the file: its bytes change when the map's do, and no memory is Arrow's."""
    written(tmp_path / "f.arrow", 20_000)
    before = pa.total_allocated_bytes()
    mapped = arrow_file.Mapped(tmp_path / "f.arrow")
    array = mapped.numbers(mapped.batch.column("features").values, np.float32)
    whole = np.frombuffer(mapped._map, np.uint8)
    first = whole.__array_interface__["data"][0]
    start = array.__array_interface__["data"][0]
    assert first <= start
    assert start + array.nbytes <= first + whole.nbytes
    assert pa.total_allocated_bytes() - before < array.nbytes / 10
    table = features_file.read(tmp_path / "f.arrow")
    root = table.features
    while isinstance(root.base, np.ndarray):
        root = root.base
    assert not root.flags.owndata


def test_features_are_writable_and_the_file_keeps_its_bytes(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "f.arrow"
    features = written(path)
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    table = features_file.read(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = torch.from_numpy(table.features)
    tensor += 1
    assert np.array_equal(table.features, features + 1)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha
    assert np.array_equal(features_file.read(path).features, features)


def test_the_map_outlives_the_reader(tmp_path: Path) -> None:
    features = written(tmp_path / "f.arrow")
    array = features_file.read(tmp_path / "f.arrow").features
    (tmp_path / "f.arrow").unlink()
    assert np.array_equal(array, features)


def test_the_file_is_one_uncompressed_batch_with_a_fixed_size_list(tmp_path: Path) -> None:
    written(tmp_path / "f.arrow")
    with pa.memory_map(str(tmp_path / "f.arrow")) as source:
        reader = pa.ipc.open_file(source)
        assert reader.num_record_batches == 1
        kind = reader.schema.field("features").type
        assert pa.types.is_fixed_size_list(kind)
        assert kind.list_size == 10
        assert kind.value_type == pa.float32()


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("1", "2"):
        written(tmp_path / name)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_an_empty_split_has_a_shape(tmp_path: Path) -> None:
    written(tmp_path / "f.arrow", 0)
    assert features_file.read(tmp_path / "f.arrow").features.shape == (0, 2, 5, 1)


def test_raw_windows_carry_the_row_of_their_features(tmp_path: Path) -> None:
    windows = np.zeros((3, 1, 8), np.float32)
    rows = np.array([4, 5, 9])
    features_file.write(tmp_path / "w.arrow", windows, rows, rows.astype(np.int32), rows, META, index=rows)
    table = features_file.read(tmp_path / "w.arrow")
    assert table.features.shape == (3, 1, 8)
    assert table.index is not None
    assert table.index.tolist() == [4, 5, 9]


def test_recordings_come_back_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    recordings = [
        Recording(f"{label}/{n}", label, rng.normal(size=(n, 2)).astype(np.float32), ("x", "y"), split)
        for label, n, split in (("a", 3, "train"), ("b", 700, "val"), ("a", 1, "test"))
    ]
    meta = {"classes": ["a", "b"], "synthetic": False, "repairs": ["é"], "origin": "here"}
    recordings_file.write(tmp_path / "r.arrow", recordings, meta)
    table = recordings_file.read(tmp_path / "r.arrow")
    assert table.ids == ("a/3", "b/700", "a/1")
    assert table.labels == ("a", "b", "a")
    assert table.splits == ("train", "val", "test")
    assert table.columns == ("x", "y")
    assert table.of_split("val") == (1,)
    assert table.meta == {**meta, "columns": ["x", "y"]}
    for item, samples in zip(recordings, table.samples, strict=True):
        assert np.array_equal(item.samples, samples)


@pytest.mark.parametrize("data", [b"", b"no arrow at all", b"ARROW1\0\0"])
def test_what_is_no_file_of_ours_is_said(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "f.arrow").write_bytes(data)
    for read in (features_file.read, recordings_file.read):
        with pytest.raises(DataError, match=r"f\.arrow: not an Arrow file of ours"):
            read(tmp_path / "f.arrow")


def test_a_file_of_another_role_is_said(tmp_path: Path) -> None:
    written(tmp_path / "f.arrow")
    with pytest.raises(DataError, match="no file of recordings, its columns are features, label"):
        recordings_file.read(tmp_path / "f.arrow")
    arrow_file.write(tmp_path / "x.arrow", {"x": pa.array([1])}, {})
    with pytest.raises(DataError, match="no file of features"):
        features_file.read(tmp_path / "x.arrow")
