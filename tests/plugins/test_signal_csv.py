from __future__ import annotations

import locale
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlab.contracts import Recording
from flowlab.errors import DataError
from flowlab_signal import text_table
from flowlab_signal.csv_reader import CsvReader
from flowlab_signal.time_column import TimeOptions


class Text:
    """A file in an archive, as a reader sees it."""

    def __init__(self, data: bytes | str) -> None:
        self.data = data.encode() if isinstance(data, str) else data

    def read_bytes(self) -> bytes:
        return self.data


def read(data: bytes | str) -> Recording:
    return CsvReader().read(Text(data), "hum/1.csv", TimeOptions())


def rows(recording: Recording) -> list[list[float]]:
    return recording.samples.tolist()


CLEAN = "de_g,fe_g\n0.5,1\n-2e-1,3.25\n"


def test_a_clean_file_is_read_as_it_stands() -> None:
    recording = read(CLEAN)
    assert recording.columns == ("de_g", "fe_g")
    assert recording.samples.dtype == np.float32
    assert recording.samples.tolist() == np.float32([[0.5, 1], [-0.2, 3.25]]).tolist()
    assert recording.repairs == ()
    assert recording.id == "hum/1.csv"


def test_a_file_on_disk_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text(CLEAN)
    assert rows(CsvReader().read(tmp_path / "1.csv", "hum/1.csv", TimeOptions())) == rows(read(CLEAN))


@pytest.mark.parametrize(
    ("text", "columns", "values"),
    [
        ("1,2\n3,4\n", ("column0", "column1"), [[1, 2], [3, 4]]),
        ("5\n6\n", ("column0",), [[5], [6]]),
        ("a\n5\n6", ("a",), [[5], [6]]),
        ("Time,a\n0.1,5\n0.2,6\n", ("a",), [[5], [6]]),
        ("a,timestamp,b\n1,2020-01-01 00:00:00,2\n3,x,4\n", ("a", "b"), [[1, 2], [3, 4]]),
        ("a,b\r\n1,2\r\n\r\n3,4\r\n", ("a", "b"), [[1, 2], [3, 4]]),
        ("\n\na,b\n1,2\n", ("a", "b"), [[1, 2]]),
        ('"a","b, c"\n"1","2"\n', ("a", "b, c"), [[1, 2]]),
        ("a, b\n 1, 2\n", ("a", "b"), [[1, 2]]),
        ("a,b\n1,+2\n", ("a", "b"), [[1, 2]]),
    ],
)
def test_header_time_columns_and_spacing_are_understood(text: str, columns: tuple[str, ...], values: list) -> None:
    recording = read(text)
    assert recording.columns == columns
    assert rows(recording) == values
    times = [name for name in ("Time", "timestamp") if name in text]
    assert recording.repairs == tuple(
        f"hum/1.csv: column '{name}' is left out: its name says that it is the time" for name in times
    )


@pytest.mark.parametrize(
    ("data", "repair"),
    [
        ("a;b\n1;2\n3;4\n", "read with semicolons as separators"),
        ("a;b\n1,5;2,25\n3;4\n", "read with semicolons as separators and decimal commas"),
        ("a\tb\n1\t2\n3\t4\n", "read with tabs as separators"),
        (b"\xef\xbb\xbfa,b\n1,2\n3,4\n", "a byte order mark at the start is left out"),
        ("a,b,\n1,2,\n3,4,\n", "an empty last column is left out"),
        ("a,b\n1,2\n,\n3,\n" + "3,4\n" * 199, r"1 rows with a missing value are left out \(line 4\)"),
        ("a,b\nnan,2\n" + "3,4\n" * 199, r"1 rows with a missing value are left out \(line 2\)"),
    ],
)
def test_what_is_mended_is_said(data: bytes | str, repair: str) -> None:
    recording = read(data)
    assert recording.columns == ("a", "b")
    assert np.isfinite(recording.samples).all()
    assert rows(recording)[-1] == [3, 4]
    (sentence,) = recording.repairs
    import re

    assert re.fullmatch(f"hum/1.csv: {repair}", sentence)


def test_decimal_commas_keep_their_value() -> None:
    assert rows(read("a;b\n1,5;-2,25\n3;4\n")) == [[1.5, -2.25], [3, 4]]
    assert rows(read("a;b\n1;2\n1,5;-2,25\n")) == [[1, 2], [1.5, -2.25]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "hum/1.csv: the file is empty"),
        (" \n\n", "the file is empty"),
        ("a,b\n", r"line 1: only a header \(a, b\), no samples"),
        ("a,b\n1,2\n3,four\n", r"hum/1.csv, line 3, column 2 \('b'\): 'four' is no number"),
        ("a,b\n1,2\n\n3,1_000\n", r"line 4, column 2 \('b'\): '1_000' is no number"),
        ("a,b\n1,2\n3\n", r"line 3: 1 columns, expected 2 \(a, b\)"),
        ("a,b\n1,2\n3,4,5\n", "line 3: 3 columns, expected 2"),
        ("a,b\n1,2\n3,inf\n", r"line 3, column 2 \('b'\): inf is not finite"),
        ("a,b\n1,2\n3,1e39\n", "1e39 is not finite in float32"),
        ("a,b\n1,2\n3,\n4,\n5,\n", "line 3: a value is missing, and so in 3 of 4 rows"),
        (b"a,b\n1,2\n3,\x004\n", r"line 3, byte 3: a NUL byte"),
        ("a,b\n1,2\n", ""),
        ("a,°C\n1,2\n".encode("latin-1"), r"line 1, byte 3: byte 0xb0 is not UTF-8; save the file as UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        ("time,datetime\n1,2\n", "every column is a time"),
        ('a,b\n1,"2\n3,4\n', "is no number"),
    ],
)
def test_what_cannot_be_read_names_file_line_and_column(data: bytes | str, message: str) -> None:
    if not message:
        read(data)
        return
    with pytest.raises(DataError, match=message) as caught:
        read(data)
    assert str(caught.value).startswith("hum/1.csv")


@given(
    st.lists(st.tuples(*[st.floats(-1e6, 1e6, width=32)] * 3), min_size=1, max_size=8),
    st.sampled_from([",", ";", "\t"]),
    st.booleans(),
    st.booleans(),
)
def test_both_parsers_give_the_numbers_that_were_written(
    table: list[tuple[float, ...]], separator: str, header: bool, comma: bool
) -> None:
    comma = comma and separator != ","
    lines = [separator.join(f"{x:.9g}" for x in row) for row in table]
    text = "\n".join(line.replace(".", ",") if comma else line for line in lines) + "\n"
    text = separator.join("abc") + "\n" + text if header else text
    expected = np.array(table, np.float64).astype(np.float32)
    assert np.array_equal(read(text).samples, expected)
    form = text_table.find_form(text, "x")
    slow, _ = text_table.slow(text, form, "x", [])
    assert np.array_equal(slow.astype(np.float32), expected)
    fast = text_table.fast(text, form)
    assert fast is None or np.array_equal(fast.astype(np.float32), expected)


def test_the_locale_changes_nothing() -> None:
    before = locale.setlocale(locale.LC_NUMERIC)
    try:
        for name in ("de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "C"):
            try:
                locale.setlocale(locale.LC_NUMERIC, name)
            except locale.Error:
                continue
            assert rows(read(CLEAN)) == np.float32([[0.5, 1], [-0.2, 3.25]]).tolist()
            assert rows(read("a;b\n1,5;-2,25\n")) == [[1.5, -2.25]]
    finally:
        locale.setlocale(locale.LC_NUMERIC, before)


def test_a_hundred_thousand_rows_take_well_under_a_second() -> None:
    text = "a,b\n" + "0.12345,-0.54321\n" * 100_000
    begin = time.perf_counter()
    assert read(text).samples.shape == (100_000, 2)
    assert time.perf_counter() - begin < 3  # 0.05 s alone; the machine may be shared


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\r2\r3\r", "carriage return"),
        ("1" * 200_000 + "\n1\n", "field limit"),
        ("1," * 200_000 + "1\n", "200,001 columns, at most 1,024 are read. Samples go down"),
    ],
    ids=["cr", "long", "wide"],
)
def test_a_first_line_that_is_no_row_is_an_error_with_its_place(text: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"a/1\.csv, line 1: .*{message}"):
        text_table.find_form(text, "a/1.csv")
