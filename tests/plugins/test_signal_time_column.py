"""Which column is the time: the same for all three readers, and always said."""

from __future__ import annotations

import io

import numpy as np
import pytest

from flowlab.contracts import Reader, Recording
from flowlab.errors import DataError
from flowlab_signal.csv_reader import CsvReader
from flowlab_signal.npy_reader import NpyReader
from flowlab_signal.time_column import TimeOptions, rises_evenly
from flowlab_signal.txt_reader import TxtReader

CLOCK = np.arange(40) * 1e-3 + 1.7e9  # seconds since 1970: float32 has no room for such steps
SIGNAL = np.sin(np.arange(40) / 3)
TABLE = np.column_stack([CLOCK, SIGNAL])


class Bytes:
    """A file in an archive, as a reader sees it."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read_bytes(self) -> bytes:
        return self.data


def text(table: np.ndarray, separator: str, header: str = "") -> bytes:
    lines = [separator.join(f"{x:.3f}" for x in row) for row in table]
    return "\n".join([header, *lines] if header else lines).encode()


def npy(table: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, table)
    return file.getvalue()


READERS = [
    pytest.param(CsvReader(), text(TABLE, ","), id="csv"),
    pytest.param(TxtReader(), text(TABLE, " "), id="txt"),
    pytest.param(NpyReader(), npy(TABLE), id="npy"),
]


def read(reader: Reader, data: bytes, time_column: int | str | None = None) -> Recording:
    return reader.read(Bytes(data), "hum/1", TimeOptions(time_column))


@pytest.mark.parametrize(("reader", "data"), READERS)
def test_a_first_column_without_a_name_that_rises_evenly_is_kept_and_said(reader: Reader, data: bytes) -> None:
    recording = read(reader, data)
    assert recording.columns == ("column0", "column1")
    assert recording.repairs == (
        "hum/1: column 0 ('column0') rises evenly, like a clock or a counter, and is kept as a signal. "
        "If it is the time, set dataset.time_column: 0; if it is none, dataset.time_column: keep",
    )


@pytest.mark.parametrize(("reader", "data"), READERS)
def test_the_column_that_is_asked_for_is_left_out_and_said(reader: Reader, data: bytes) -> None:
    recording = read(reader, data, 0)
    assert recording.columns == ("column1",)
    assert np.allclose(recording.samples[:, 0], SIGNAL, atol=1e-3)
    assert recording.repairs == ("hum/1: column 'column0' is left out: as dataset.time_column asks",)


@pytest.mark.parametrize(("reader", "data"), READERS)
def test_keep_keeps_every_column_without_a_word(reader: Reader, data: bytes) -> None:
    recording = read(reader, data, "keep")
    assert recording.columns == ("column0", "column1")
    assert recording.repairs == ()


@pytest.mark.parametrize(("reader", "data"), READERS)
@pytest.mark.parametrize(
    ("asked", "message"), [(2, r"no column 2, the file has 2 \(from 0\)"), ("t", "the file names no columns")]
)
def test_a_time_column_that_is_not_there_is_named(reader: Reader, data: bytes, asked: int | str, message: str) -> None:
    with pytest.raises(DataError, match=f"hum/1: dataset.time_column: .*{message}"):
        read(reader, data, asked)


def test_a_header_names_the_time_or_the_key_does() -> None:
    data = text(TABLE, ",", "uptime,x")
    assert read(CsvReader(), data).columns == ("x",)
    assert read(CsvReader(), data, "keep").columns == ("uptime", "x")
    assert read(CsvReader(), data, "x").columns == ("uptime",)
    with pytest.raises(DataError, match=r"no column 'uptimes'. Did you mean 'uptime'\? The file has uptime, x"):
        read(CsvReader(), data, "uptimes")


def test_a_file_of_times_alone_is_an_error() -> None:
    with pytest.raises(DataError, match="every column is a time"):
        read(NpyReader(), npy(SIGNAL), 0)


@pytest.mark.parametrize(
    ("column", "even"),
    [
        (np.arange(100), True),
        (np.round(np.arange(1000) / 12_000, 4), True),
        (np.arange(100)[::-1], False),
        (np.sin(np.arange(100)), False),
        (np.cumsum(np.random.default_rng(0).exponential(1, 100) ** 3), False),
        (np.zeros(100), False),
        (np.arange(4), False),
    ],
)
def test_a_clock_is_a_straight_line_that_never_falls(column: np.ndarray, even: bool) -> None:
    assert rises_evenly(column.astype(np.float64)) is even
