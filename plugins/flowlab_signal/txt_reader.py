"""Reads txt files: numbers between spaces, tabs, commas or semicolons, one row a sample, one column a channel."""

from __future__ import annotations

import re
from itertools import takewhile
from typing import Any

from flowlab.contracts import Readable, Reader, Recording
from flowlab.errors import DataError
from flowlab_signal.text_table import decode, find_form, is_number, recording
from flowlab_signal.time_column import TimeOptions

COMMENTS = ("#", "%")
BETWEEN = re.compile(r"[,;\s]+")  # whatever a header puts between its names


class TxtReader(Reader):
    """Tables of numbers as text, with spaces or other separators."""

    name = "txt"
    summary = "tables of numbers as text: spaces, tabs, commas or semicolons, with or without a header"
    suffixes = (".txt",)
    libraries = ("numpy", "pyarrow")
    code = ("flowlab_signal.txt_reader",)
    Options = TimeOptions

    def read(self, path: Readable, shown: str, options: Any) -> Recording:
        """Read one file; float32 ``(time, column)``.

        Lines at the start that begin with ``#`` or ``%`` are left out, and said; the last of them is the header if it
        has a word for each column. Times, missing values and the rest are as `flowlab_signal.csv_reader` has them.

        Raises:
            DataError: naming file, line and column.
        """
        text, repairs = decode(path.read_bytes(), shown)
        lines = [line.strip("\r") for line in text.split("\n")]
        separator, left_out = tidy(lines, shown)
        if left_out:
            repairs.append(f"{shown}: {left_out} lines of comments at the start are left out")
        text = "\n".join(lines)
        form = find_form(text, shown, options.time_column, separator)
        if form.decimal == ",":
            repairs.append(f"{shown}: read with decimal commas")
        return recording(text, form, shown, options.time_column, repairs)


def tidy(lines: list[str], shown: str) -> tuple[str, int]:
    """Turn comments into a header or empty lines, and runs of spaces into one; every line keeps its place.

    Args:
        lines: of the file, changed in place.
        shown: the file's name in messages.

    Returns:
        The separator, and how many lines of comments were left out.

    Raises:
        DataError: where there is nothing but comments.
    """
    filled = [i for i, line in enumerate(lines) if line.strip()]
    comments = list(takewhile(lambda i: lines[i].lstrip().startswith(COMMENTS), filled))
    table = filled[len(comments) : len(comments) + 2]
    if not table:
        raise DataError(f"{shown}: only comments, no samples")
    separator = separator_of(lines[table[-1]])
    if separator == "\t" and "\t" not in lines[table[0]]:
        separator = " "
    width = len(lines[table[-1]].split(None if separator == " " else separator))
    if comments and starts_with_number(lines[table[0]]):
        names = BETWEEN.split(lines[comments[-1]].strip("#% \t"))
        if len(names) == width:
            lines[comments.pop()] = separator.join(names)
    elif separator == " " and not starts_with_number(lines[table[0]]):
        lines[table[0]] = " ".join(BETWEEN.split(lines[table[0]].strip()))
    for i in comments:
        lines[i] = ""
    if separator == " ":
        lines[:] = [" ".join(line.split()) for line in lines]
    return separator, len(comments)


def separator_of(line: str) -> str:
    """What stands between the numbers of a row: a space where spaces and tabs do, in any number."""
    for separator in (";", "\t", ","):
        if separator in line and not any(len(cell.split()) > 1 for cell in line.split(separator)):
            return separator
    return " "


def starts_with_number(line: str) -> bool:
    """Whether a row holds samples, not names."""
    return is_number(BETWEEN.split(line.strip())[0], ".")
