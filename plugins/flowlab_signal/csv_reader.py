"""Reads csv files: one row a sample, one column a channel."""

from __future__ import annotations

from typing import Any

from flowlab.contracts import Readable, Reader, Recording
from flowlab_signal.text_table import decode, find_form, recording
from flowlab_signal.time_column import TimeOptions

SEPARATORS = {";": "semicolons", "\t": "tabs"}


class CsvReader(Reader):
    """Tables of numbers as text, with commas."""

    name = "csv"
    summary = "tables of numbers as text: comma, semicolon or tab, one row a sample, one column a channel"
    suffixes = (".csv",)
    libraries = ("numpy", "pyarrow")
    code = ("flowlab_signal.csv_reader",)
    Options = TimeOptions

    def read(self, path: Readable, shown: str, options: Any) -> Recording:
        """Read one file; float32 ``(time, column)``.

        A column whose header contains ``time`` is left out (`flowlab_signal.time_column`). Mended, and said in
        ``repairs``: a byte order mark, other separators, decimal commas, empty last columns, and up to 1 % of rows
        with a missing value (left out).

        Raises:
            DataError: naming file, line and column.
        """
        text, repairs = decode(path.read_bytes(), shown)
        form = find_form(text, shown, options.time_column)
        if form.separator != ",":
            commas = " and decimal commas" if form.decimal == "," else ""
            repairs.append(f"{shown}: read with {SEPARATORS[form.separator]} as separators{commas}")
        return recording(text, form, shown, options.time_column, repairs)
