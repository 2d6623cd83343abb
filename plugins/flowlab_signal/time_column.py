"""Which column of a recording is its time, and how that is said.

A header's word ``time`` names it; without a header nothing is left out that was not asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowlab.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KEEP = "keep"
LEAST_ROWS = 16  # fewer say nothing about a clock
STRAIGHT = 0.01  # of the column's range: how far from a straight line a clock may be


@dataclass(frozen=True)
class TimeOptions:
    """``time_column``: a column's number from 0 or its name is left out, ``keep`` leaves none out.

    None leaves out the columns whose header contains ``time``.
    """

    time_column: int | str | None = None


def time_columns(names: Sequence[str], named: bool, asked: int | str | None, shown: str) -> tuple[int, ...]:
    """The columns that are left out.

    Args:
        names: of all columns of the file.
        named: whether the file itself names them.
        asked: see `TimeOptions`.
        shown: the file's name in messages.

    Raises:
        DataError: for a column that is not there, or where every column is a time.
    """
    found = _found(names, named, asked, shown)
    if len(found) == len(names):
        raise DataError(f"{shown}: every column is a time ({', '.join(names)}); nothing to learn from")
    return found


def _found(names: Sequence[str], named: bool, asked: int | str | None, shown: str) -> tuple[int, ...]:
    if asked == KEEP:
        return ()
    if asked is None:
        return tuple(i for i, name in enumerate(names) if "time" in name.lower()) if named else ()
    if isinstance(asked, int):
        if not 0 <= asked < len(names):
            raise DataError(f"{shown}: dataset.time_column: no column {asked}, the file has {len(names)} (from 0)")
        return (asked,)
    if not named:
        raise DataError(f"{shown}: dataset.time_column: '{asked}', but the file names no columns; give a number from 0")
    if asked not in names:
        hint = did_you_mean(asked, names)
        raise DataError(f"{shown}: dataset.time_column: no column '{asked}'.{hint} The file has {', '.join(names)}")
    return (list(names).index(asked),)


def said(
    shown: str, names: Sequence[str], left_out: Sequence[int], asked: int | str | None, first: NDArray[np.float64]
) -> list[str]:
    """Sentences about what was left out, or about a first column that was kept and looks like a time.

    Args:
        shown: the file's name in messages.
        names: of all columns of the file.
        left_out: by `time_columns`.
        asked: see `TimeOptions`.
        first: the first column that was kept, float64 ``(time,)``.
    """
    why = "its name says that it is the time" if asked is None else "as dataset.time_column asks"
    sentences = [f"{shown}: column '{names[i]}' is left out: {why}" for i in left_out]
    if asked is None and not left_out and len(names) > 1 and rises_evenly(first):
        sentences.append(
            f"{shown}: column 0 ('{names[0]}') rises evenly, like a clock or a counter, and is kept as a signal. "
            f"If it is the time, set dataset.time_column: 0; if it is none, dataset.time_column: {KEEP}"
        )
    return sentences


def rises_evenly(column: NDArray[np.float64]) -> bool:
    """Whether a column never falls and keeps to a straight line, as a clock or a counter does: float64 ``(time,)``."""
    import numpy as np

    if len(column) < LEAST_ROWS or not column[-1] > column[0] or bool((np.diff(column) < 0).any()):
        return False
    line = np.linspace(column[0], column[-1], len(column))
    return bool(np.abs(column - line).max() <= STRAIGHT * (column[-1] - column[0]))
