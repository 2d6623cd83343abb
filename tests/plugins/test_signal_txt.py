from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlab.contracts import Recording
from flowlab.errors import DataError
from flowlab_signal.time_column import TimeOptions
from flowlab_signal.txt_reader import TxtReader


class Text:
    """A file in an archive, as a reader sees it."""

    def __init__(self, data: bytes | str) -> None:
        self.data = data.encode() if isinstance(data, str) else data

    def read_bytes(self) -> bytes:
        return self.data


def read(data: bytes | str, time_column: int | str | None = None) -> Recording:
    return TxtReader().read(Text(data), "hum/1.txt", TimeOptions(time_column))


@pytest.mark.parametrize(
    ("text", "columns", "values"),
    [
        ("1 2\n3 4\n", ("column0", "column1"), [[1, 2], [3, 4]]),
        ("  1    2  \n 3 \t 4\r\n", ("column0", "column1"), [[1, 2], [3, 4]]),
        ("5\n6\n", ("column0",), [[5], [6]]),
        ("1,2\n3,4\n", ("column0", "column1"), [[1, 2], [3, 4]]),
        ("1, 2\n3, 4\n", ("column0", "column1"), [[1, 2], [3, 4]]),
        ("1;2\n3;4\n", ("column0", "column1"), [[1, 2], [3, 4]]),
        ("1\t2\n3\t4\n", ("column0", "column1"), [[1, 2], [3, 4]]),
        ("x y\n1 2\n3 4\n", ("x", "y"), [[1, 2], [3, 4]]),
        ("x, y\n1 2\n3 4\n", ("x", "y"), [[1, 2], [3, 4]]),
        ("x\ty\n1\t2\n3\t4\n", ("x", "y"), [[1, 2], [3, 4]]),
        ("# x y\n1 2\n3 4\n", ("x", "y"), [[1, 2], [3, 4]]),
        ("% x, y\n1,2\n3,4\n", ("x", "y"), [[1, 2], [3, 4]]),
        ("\n1 2\n\n3 4\n\n", ("column0", "column1"), [[1, 2], [3, 4]]),
        ("1e3 -2.5E-1\n+.5 4.\n", ("column0", "column1"), [[1000, -0.25], [0.5, 4]]),
    ],
)
def test_separators_headers_and_spacing_are_understood(text: str, columns: tuple[str, ...], values: list) -> None:
    recording = read(text)
    assert recording.columns == columns
    assert recording.samples.tolist() == values
    assert recording.samples.dtype == np.float32
    assert recording.repairs == ()


def test_comments_that_are_no_header_are_left_out_and_said() -> None:
    recording = read("# made by a logger\n# 12 kHz, board 3\n# x y\n1 2\n3 4\n")
    assert recording.columns == ("x", "y")
    assert recording.repairs == ("hum/1.txt: 2 lines of comments at the start are left out",)


def test_decimal_commas_between_spaces_are_read_and_said() -> None:
    recording = read("1,5 2,25\n3 4\n-1,5 2\n")
    assert recording.samples.tolist() == [[1.5, 2.25], [3, 4], [-1.5, 2]]
    assert recording.repairs == ("hum/1.txt: read with decimal commas",)


@pytest.mark.parametrize("written", ["savetxt", "header"])
def test_what_numpy_writes_is_read(tmp_path: Path, written: str) -> None:
    values = np.random.default_rng(3).normal(0, 1, (50, 3))
    np.savetxt(tmp_path / "1.txt", values, header="x y z" if written == "header" else "")
    recording = TxtReader().read(tmp_path / "1.txt", "hum/1.txt", TimeOptions())
    assert np.array_equal(recording.samples, values.astype(np.float32))
    assert recording.columns == (("x", "y", "z") if written == "header" else ("column0", "column1", "column2"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "hum/1.txt: the file is empty"),
        ("# only\n# words\n", "only comments, no samples"),
        ("x y\n", r"line 1: only a header \(x, y\), no samples"),
        ("x y\n1 2\n3 four\n", r"hum/1.txt, line 3, column 2 \('y'\): 'four' is no number"),
        ("# a\n\n1 2\n\n3 four\n", r"line 5, column 2 \('column1'\): 'four' is no number"),
        ("1 2\n3\n", r"line 2: 1 columns, expected 2"),
        ("1 2\n3 4 5\n", "line 2: 3 columns, expected 2"),
        ("1 2\n3 inf\n", "inf is not finite"),
        ("1 2\n# gap\n3 4\n", r"line 2, column 1 \('column0'\): '#' is no number"),
        ("acc x  acc y\n1 2\n", r"line 2: 2 columns, expected 4 \(acc, x, acc, y\)"),
        (b"1 2\n3 \x004\n", "line 2, byte 3: a NUL byte"),
    ],
)
def test_what_cannot_be_read_names_file_line_and_column(data: bytes | str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(data)
    assert str(caught.value).startswith("hum/1.txt")


@given(
    st.lists(st.tuples(*[st.floats(-1e6, 1e6, width=32)] * 3), min_size=2, max_size=8),
    st.sampled_from([" ", "   ", "\t", ",", ", ", ";", " ; "]),
    st.booleans(),
)
def test_the_numbers_are_those_that_were_written(table: list[tuple[float, ...]], separator: str, header: bool) -> None:
    lines = [separator.join(f"{x:.9g}" for x in row) for row in table]
    text = "\n".join([separator.join("abc"), *lines] if header else lines) + "\n"
    recording = read(text)
    assert np.array_equal(recording.samples, np.array(table, np.float64).astype(np.float32))
    assert recording.columns == (("a", "b", "c") if header else ("column0", "column1", "column2"))
