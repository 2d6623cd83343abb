"""Reads npy files: one array of numbers, samples down, columns across.

The header is checked against the file's length before memory is taken; a file that would need pickle is refused.
"""

from __future__ import annotations

import io
import math
import tokenize
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from flowlab.contracts import Readable, Reader, Recording
from flowlab.errors import DataError
from flowlab_signal.text_table import LARGEST, MAX_COLUMNS, MAX_MISSING
from flowlab_signal.time_column import TimeOptions, said, time_columns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NUMBERS = "biuf"  # kinds of dtypes: flags, whole numbers, numbers
UNREADABLE = (  # what a header that is no header makes numpy raise
    ValueError,
    TypeError,
    SyntaxError,
    KeyError,
    OverflowError,
    MemoryError,
    RecursionError,
    tokenize.TokenError,
)


class NpyReader(Reader):
    """Arrays of numbers."""

    name = "npy"
    summary = "arrays of numbers: (time, column), or (time) for one column"
    suffixes = (".npy",)
    libraries = ("numpy",)
    code = ("flowlab_signal.npy_reader",)
    Options = TimeOptions

    def read(self, path: Readable, shown: str, options: Any) -> Recording:
        """Read one file; float32 ``(time, column)``.

        No column is left out but the one that ``time_column`` names (`flowlab_signal.time_column`). Up to 1 % of
        samples with a missing value are left out, and said.

        Raises:
            DataError: naming file, and sample and column of a value that is not finite.
        """
        import numpy as np

        values = array(path.read_bytes(), shown)
        names = tuple(f"column{i}" for i in range(values.shape[1]))
        times = time_columns(names, False, options.time_column, shown)
        kept = [i for i in range(len(names)) if i not in times]
        with np.errstate(over="ignore"):  # of numbers wider than float64: what becomes infinite is refused below
            numbers = values[:, kept].astype(np.float64)
        values, repairs = without_missing(numbers, kept, shown)
        repairs += said(shown, names, times, options.time_column, values[:, 0])
        label = PurePosixPath(shown).parent.name or "unlabelled"  # the layout's word counts, not the reader's
        columns = tuple(names[i] for i in kept)
        return Recording(shown, label, values.astype(np.float32), columns, repairs=tuple(repairs))


def array(data: bytes, shown: str) -> NDArray[Any]:
    """The array in a file, ``(time, column)``, with the file's own numbers.

    Raises:
        DataError: for what is no npy file, holds no numbers, is cut short, or has another shape.
    """
    import numpy as np

    file = io.BytesIO(data)
    shape, fortran, dtype = header(file, shown)
    if dtype.kind not in NUMBERS or dtype.shape:
        raise DataError(f"{shown}: {_no_numbers(dtype)}. Save an array of numbers: numpy.save(name, array)")
    rest = len(data) - file.tell()
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != rest:
        raise DataError(f"{shown}: its header promises {wanted:,} bytes of numbers, the file holds {rest:,}: damaged")
    if len(shape) not in (1, 2) or not wanted:
        raise DataError(f"{shown}: an array of shape {_shape(shape)}; expected (time, column), or (time) for one")
    if len(shape) == 2 and shape[1] > MAX_COLUMNS:
        raise DataError(
            f"{shown}: an array of shape {_shape(shape)} has {shape[1]:,} columns, at most {MAX_COLUMNS:,} are read. "
            "Samples go down, columns across: save its transpose"
        )
    values = np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")
    return values.reshape(len(values), -1)


def header(file: io.BytesIO, shown: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns lie one behind the other, and dtype; ``file`` stands behind the header afterwards."""
    from numpy.lib import format as npy

    try:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"format version {version[0]}.{version[1]}")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0][:120] or type(error).__name__
        raise DataError(f"{shown}: no readable npy file ({reason}). Save it with numpy.save") from None
    if any(type(count) is not int or count < 0 for count in shape):  # numpy lets True pass as a size
        raise DataError(f"{shown}: an array of shape {_shape(shape)}; the file is damaged")
    return shape, fortran, dtype


def without_missing(values: NDArray[np.float64], kept: list[int], shown: str) -> tuple[NDArray[np.float64], list[str]]:
    """Leave out few samples with a missing value, and say so.

    Args:
        values: float64 ``(time, column)``.
        kept: the columns' numbers in the file.
        shown: the file's name in messages.

    Raises:
        DataError: for many of them, and for a value that float32 cannot hold.
    """
    import numpy as np

    missing = np.isnan(values).any(axis=1)
    large = np.argwhere(np.abs(values) > LARGEST)
    if len(large):
        row, column = large[0]
        raise DataError(
            f"{shown}, sample {row}, column {kept[column]}: {values[row, column]:g} is not finite in float32"
        )
    count = int(missing.sum())
    if not count:
        return values, []
    rows = np.flatnonzero(missing)
    if count > max(1, MAX_MISSING * len(values)) or count == len(values):
        raise DataError(
            f"{shown}, sample {rows[0]}: a value is missing (NaN), and so in {count} of {len(values)} samples; "
            f"up to {MAX_MISSING:.0%} are left out. Fill the gaps, or remove the file"
        )
    few = ", ".join(map(str, rows[:5])) + (", ..." if count > 5 else "")
    return values[~missing], [f"{shown}: {count} samples with a missing value are left out (sample {few})"]


def _no_numbers(dtype: np.dtype[Any]) -> str:
    if dtype.hasobject:
        return "it holds Python objects, which only pickle could read, and pickle runs what it reads"
    if dtype.names:
        return f"it holds records with the fields {', '.join(dtype.names)}"
    return "it holds complex numbers" if dtype.kind == "c" else f"it holds {dtype}, no numbers"


def _shape(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(f"{count}" for count in shape) + ")"
