"""Tables of numbers as text: one row a sample, one column a channel.

Clean files go through Arrow's parser. Whatever it stumbles over, and every file with a value that is missing or not
finite, goes through a second, plain parser, which mends what can be mended (and says so) or names line and column.
Neither depends on the machine's locale.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from flowlab.contracts import Recording
from flowlab.errors import DataError
from flowlab_signal.time_column import said, time_columns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_MISSING = 0.01  # of the rows: more than that is a broken sensor, not a gap
MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "-"})
LARGEST = 3.4028234e38  # of float32
MAX_COLUMNS = 1024  # more are samples that lie across


@dataclass(frozen=True)
class Form:
    """How a text is written: separator, decimal sign, and its column names where it has a header."""

    separator: str
    decimal: str
    header: tuple[str, ...] | None
    width: int
    times: tuple[int, ...] = ()  # columns that are left out

    @property
    def names(self) -> tuple[str, ...]:
        """A name for every column of the file."""
        return self.header or tuple(f"column{i}" for i in range(self.width))

    @property
    def kept(self) -> tuple[int, ...]:
        """The columns that are no time."""
        return tuple(i for i in range(self.width) if i not in self.times)


def recording(text: str, form: Form, shown: str, time: int | str | None, repairs: list[str]) -> Recording:
    """Parse a text of a known form; what is mended is added to ``repairs``.

    Raises:
        DataError: naming file, line and column.
    """
    import numpy as np

    values = fast(text, form)
    if values is None:
        values, form = slow(text, form, shown, repairs)
    repairs += said(shown, form.names, form.times, time, values[:, 0])
    columns = tuple(form.names[i] for i in form.kept)
    label = PurePosixPath(shown).parent.name or "unlabelled"  # the layout's word counts, not the reader's
    return Recording(shown, label, values.astype(np.float32), columns, repairs=tuple(repairs))


def decode(data: bytes, shown: str) -> tuple[str, list[str]]:
    """The text of a file and what was mended. Raises `DataError` for an empty file, NUL bytes, other encodings."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{shown}: UTF-16 text; save it as UTF-8")
    repairs = []
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
        repairs.append(f"{shown}: a byte order mark at the start is left out")
    if not data.strip():
        raise DataError(f"{shown}: the file is empty")
    nul = data.find(b"\0")
    if nul >= 0:
        raise DataError(f"{shown}, {_place(data, nul)}: a NUL byte; the file is damaged or no text")
    try:
        return data.decode(), repairs
    except UnicodeDecodeError as error:
        raise DataError(
            f"{shown}, {_place(data, error.start)}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None


def find_form(text: str, shown: str, time: int | str | None = None, separator: str = "") -> Form:
    """Look at the first lines: separator (unless it is known), decimal sign, header, and the columns of the time.

    Raises:
        DataError: for a first line that is no row or absurdly wide, or a time column that is not there.
    """
    lines = _first_lines(text, 2)
    last = lines[-1]  # data, if there are any
    separator = separator or (";" if ";" in last else "\t" if "\t" in last else ",")
    comma = text.find(",", text.find(last))  # behind the header
    decimal = "," if separator != "," and comma >= 0 else "."
    try:
        first = next(csv.reader([lines[0]], delimiter=separator, skipinitialspace=True))
    except csv.Error as error:
        carriage = ". Its lines end with a carriage return alone: save it with line feeds" if "\r" in lines[0] else ""
        raise DataError(f"{shown}, line 1: no row of a table ({error}){carriage}") from None
    if len(first) > MAX_COLUMNS:
        raise DataError(
            f"{shown}, line 1: {len(first):,} columns, at most {MAX_COLUMNS:,} are read. "
            "Samples go down, columns across: save its transpose"
        )
    if is_number(first[0], decimal):
        form = Form(separator, decimal, None, len(first))
        return replace(form, times=time_columns(form.names, False, time, shown))
    names = tuple(name.strip() or f"column{i}" for i, name in enumerate(first))
    if len(lines) == 1:
        raise DataError(f"{shown}, line 1: only a header ({', '.join(names)}), no samples")
    return Form(separator, decimal, names, len(first), time_columns(names, True, time, shown))


def fast(text: str, form: Form) -> NDArray[np.float64] | None:
    """Parse a clean file with Arrow; None for any file that needs a second look."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    places = [str(i) for i in range(form.width)]
    kept = [places[i] for i in form.kept]
    try:
        table = arrow_csv.read_csv(
            pa.py_buffer(text.lstrip("\r\n").encode()),
            arrow_csv.ReadOptions(
                use_threads=False,
                block_size=min(len(text) * 4 + 16, 1 << 30),
                column_names=places,
                skip_rows_after_names=0,
                skip_rows=0 if form.header is None else 1,
            ),
            arrow_csv.ParseOptions(delimiter=form.separator),
            arrow_csv.ConvertOptions(
                include_columns=kept,
                column_types=dict.fromkeys(kept, pa.float64()),
                decimal_point=form.decimal,
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows == 0 or any(column.null_count for column in table.columns):
        return None
    wide = np.stack([column.to_numpy() for column in table.columns], axis=1)
    return wide if bool((np.abs(wide) <= LARGEST).all()) else None


def slow(text: str, form: Form, shown: str, repairs: list[str]) -> tuple[NDArray[np.float64], Form]:
    """Parse line by line; mend or name what is wrong. Also the form without empty last columns."""
    import numpy as np

    rows = list(_rows(text, form, shown))
    while form.width > 1 and all(not row[-1] for _, row in rows if len(row) == form.width) and _nameless(form):
        form = replace(form, header=None if form.header is None else form.header[:-1], width=form.width - 1)
        rows = [(line, row[: form.width]) for line, row in rows]
        repairs.append(f"{shown}: an empty last column is left out")
    values, missing = [], []
    for line, row in rows:
        numbers = [_cell(row[i], form, shown, line, i) for i in form.kept]
        if any(number is None for number in numbers):
            missing.append(line)
        else:
            values.append(numbers)
    if missing:
        if len(missing) > max(1, MAX_MISSING * len(rows)) or not values:
            raise DataError(
                f"{shown}, line {missing[0]}: a value is missing, and so in {len(missing)} of {len(rows)} rows; "
                f"up to {MAX_MISSING:.0%} are left out. Fill the gaps, or remove the file"
            )
        few = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        repairs.append(f"{shown}: {len(missing)} rows with a missing value are left out (line {few})")
    return np.asarray(values, np.float64), form


def _rows(text: str, form: Form, shown: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each row that is not empty. Raises `DataError` for a row of another width."""
    reader = csv.reader(text.splitlines(), delimiter=form.separator, skipinitialspace=True)
    header = form.header is not None
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if header:
                header = False
                continue
            if len(cells) != form.width:
                raise DataError(
                    f"{shown}, line {reader.line_num}: {len(cells)} columns, expected {form.width} "
                    f"({', '.join(form.names)})"
                )
            yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{shown}, line {reader.line_num}: {error}") from None


def _cell(cell: str, form: Form, shown: str, line: int, column: int) -> float | None:
    """One number; None where it is missing. Raises `DataError` for anything else."""
    if cell.lower() in MISSING:
        return None
    place = f"{shown}, line {line}, column {column + 1} ('{form.names[column]}')"
    try:
        number = float(_plain(cell, form.decimal))
    except ValueError:
        raise DataError(f"{place}: '{cell[:40]}' is no number") from None
    if math.isnan(number):
        return None
    if abs(number) > LARGEST:
        raise DataError(f"{place}: {cell[:40]} is not finite in float32")
    return number


def is_number(cell: str, decimal: str) -> bool:
    """Whether a cell of the first row is a value (or a missing one), not a name."""
    try:
        float(_plain(cell, decimal))
    except ValueError:
        return cell.strip() == ""
    return True


def _plain(cell: str, decimal: str) -> str:
    if "_" in cell:  # Python's float takes 1_000, no one else does
        raise ValueError(cell)
    return cell.strip().replace(",", ".") if decimal == "," else cell.strip()


def _nameless(form: Form) -> bool:
    """Whether the last column has no name of its own."""
    return form.header is None or form.header[-1] == f"column{form.width - 1}"


def _first_lines(text: str, count: int) -> list[str]:
    """The first lines that are not empty, at least one."""
    lines: list[str] = []
    start = 0
    while start < len(text) and len(lines) < count:
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        line = text[start:end].strip("\r")
        if line.strip():
            lines.append(line)
        start = end + 1
    return lines


def _place(data: bytes, offset: int) -> str:
    """Line and byte of an offset."""
    before = data[:offset]
    return f"line {before.count(10) + 1}, byte {offset - before.rfind(10)}"
