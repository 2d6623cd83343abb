from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlab.contracts import Recording
from flowlab.errors import DataError
from flowlab_signal.npy_reader import NpyReader
from flowlab_signal.time_column import TimeOptions


class Bytes:
    """A file in an archive, as a reader sees it."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read_bytes(self) -> bytes:
        return self.data


def saved(array: np.ndarray, **options: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def read(data: bytes) -> Recording:
    return NpyReader().read(Bytes(data), "hum/1.npy", TimeOptions())


def headed(text: str, body: bytes = b"\0" * 64, version: bytes = b"\1\0") -> bytes:
    """A file with a header of one's own."""
    head = text.encode("latin-1") + b"\n"
    return b"\x93NUMPY" + version + len(head).to_bytes(2 if version == b"\1\0" else 4, "little") + head + body


RNG = np.random.default_rng(1)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i2", ">i4", "<i8", "u1", "?"])
def test_every_dtype_of_numbers_is_read(dtype: str) -> None:
    values = (RNG.normal(0, 3, (20, 2)) * 10).astype(dtype)
    recording = read(saved(values))
    assert recording.samples.dtype == np.float32
    assert np.array_equal(recording.samples, values.astype(np.float32))
    assert recording.columns == ("column0", "column1")
    assert recording.repairs == ()
    assert recording.id == "hum/1.npy"


def test_one_dimension_is_one_column_and_columns_may_lie_one_behind_the_other(tmp_path: Path) -> None:
    values = RNG.normal(0, 1, (30, 3))
    assert read(saved(values[:, 0])).samples.shape == (30, 1)
    assert np.array_equal(read(saved(np.asfortranarray(values))).samples, values.astype(np.float32))
    np.save(tmp_path / "1.npy", values)
    on_disk = NpyReader().read(tmp_path / "1.npy", "hum/1.npy", TimeOptions())
    assert np.array_equal(on_disk.samples, values.astype(np.float32))


def test_few_missing_values_are_left_out_and_said() -> None:
    values = RNG.normal(0, 1, (300, 2))
    values[7, 1] = np.nan
    recording = read(saved(values))
    assert np.array_equal(recording.samples, np.delete(values, 7, axis=0).astype(np.float32))
    assert recording.repairs == ("hum/1.npy: 1 samples with a missing value are left out (sample 7)",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.0, 2], [np.nan, 4], [np.nan, 5]], r"hum/1.npy, sample 1: a value is missing \(NaN\), and so in 2 of 3"),
        ([[1.0, 2], [3, np.inf]], "hum/1.npy, sample 1, column 1: inf is not finite"),
        ([[1.0, 2], [3, -1e39]], "sample 1, column 1: -1e[+]39 is not finite in float32"),
    ],
)
def test_values_that_are_no_numbers_are_named_by_place(values: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(saved(np.array(values)))


class Boom:
    """Says so when it is opened."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ("the pickle ran",))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no readable npy file"),
        (b"a,b\n1,2\n", "no readable npy file .*numpy.save"),
        (pickle.dumps(Boom()), "no readable npy file"),
        (saved(np.array([[Boom()]], object), allow_pickle=True), "Python objects, which only pickle could read"),
        (saved(np.zeros((4, 2)))[:-8], "promises 64 bytes of numbers, the file holds 56"),
        (saved(np.zeros((4, 2))) + b"x", "promises 64 bytes of numbers, the file holds 65"),
        (saved(np.zeros((2, 2, 2))), r"shape \(2, 2, 2\); expected \(time, column\)"),
        (saved(np.zeros(())), r"shape \(\); expected"),
        (saved(np.zeros((0, 2))), r"shape \(0, 2\); expected"),
        (saved(np.zeros((4, 0))), r"shape \(4, 0\); expected"),
        (saved(np.zeros((2, 5000))), "5,000 columns, at most 1,024 are read.*save its transpose"),
        (saved(np.zeros(3, complex)), "complex numbers"),
        (saved(np.array(["a", "b"])), "no numbers"),
        (saved(np.zeros(3, [("x", "f4"), ("y", "f4")])), "records with the fields x, y"),
        (headed("{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,)}"), "the file holds 64: damaged"),
        (headed("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -8)}"), r"shape \(-1, -8\); the file is"),
        (headed("{'descr': '<f8', 'fortran_order': False, 'shape': (True, 8)}"), r"shape \(True, 8\); the file is"),
        (saved(np.full(3, np.longdouble("1e4000"))), "sample 0, column 0: inf is not finite"),
        (headed("{'descr': ('<f4', (99999999,)), 'fortran_order': False, 'shape': (1,)}"), "no readable|no numbers"),
        (headed("{'descr': '<f8', 'fortran_order': 3, 'shape': (8,)}"), "no readable npy file"),
        (headed("{'descr': '<f8', 'shape': (8,)}"), "no readable npy file"),
        (headed("__import__('os').system('true')"), "no readable npy file"),
        (headed("(" * 9000), "no readable npy file"),
        (headed("{" * 30_000), "no readable npy file"),
        (headed("{'descr': '<f8', 'fortran_order': False, 'shape': (8,)}", version=b"\7\7"), "no readable npy file"),
    ],
)
def test_a_file_that_lies_or_holds_something_else_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(data)
    assert str(caught.value).startswith("hum/1.npy")
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=120), st.integers(0, 200), st.binary(max_size=4))
def test_whatever_the_bytes_are_the_error_is_ours(body: bytes, at: int, patch: bytes) -> None:
    good = saved(np.arange(16.0).reshape(8, 2))
    for data in (body, good[:8] + body, good[:at] + patch + good[at + len(patch) :]):
        try:
            samples = read(data).samples
        except DataError:
            continue
        assert np.isfinite(samples).all()
