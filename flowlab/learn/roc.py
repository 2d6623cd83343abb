"""Receiver operating characteristics, one class against the rest, from outputs of any kind: floats or integers.

The score of a window for a class is its *lead*: that class's output less the largest of the others. It needs no scale,
so integers serve as they are, firmware can compare it with one subtraction, and at a threshold of 0 it is the class
that the network says. With two classes the curve of one is the mirror of the other's, so only the first is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

POINTS = 200  # of all curves of one network together
FEWEST = 24  # of one curve


def curves(outputs: NDArray[np.generic], targets: NDArray[np.int64], classes: Sequence[str]) -> list[dict[str, Any]]:
    """One curve a class, as plain JSON values.

    Args:
        outputs: ``(N, class)``, floats or integers.
        targets: ``(N,)``.
        classes: their names.

    Returns:
        For each class ``class``, ``positives`` and ``negatives`` (windows), ``auc`` (a tie counts half; None where one
        of the two is empty) and ``points``: rows of (false positives, true positives, least lead), from the strictest
        threshold to the loosest. At most `POINTS` rows in all (but `FEWEST` a curve); the area is that of all points.
    """
    if len(classes) < 2 or outputs.ndim != 2 or outputs.shape[1] != len(classes):
        return []
    shown = classes[:1] if len(classes) == 2 else classes
    limit = max(FEWEST, POINTS // len(shown))
    return [_curve(str(name), lead(outputs, at), targets == at, limit) for at, name in enumerate(shown)]


def lead(outputs: NDArray[np.generic], at: int) -> NDArray[Any]:
    """By how much a class's output is above the largest of the others, ``(N,)``: float32, or int64 for integers."""
    import numpy as np

    wide = outputs.astype(np.int64 if outputs.dtype.kind in "iu" else np.float32)
    found: NDArray[Any] = wide[:, at] - np.delete(wide, at, axis=1).max(axis=1)
    return found


def _curve(name: str, score: NDArray[Any], positive: NDArray[np.bool_], limit: int) -> dict[str, Any]:
    import numpy as np

    order = np.argsort(-score, kind="stable")
    sorted_score, hits = score[order], np.cumsum(positive[order].astype(np.int64))
    last = np.flatnonzero(np.append(np.diff(sorted_score) != 0, True)) if len(score) else np.zeros(0, np.int64)
    true, false, threshold = hits[last], last + 1 - hits[last], sorted_score[last]
    positives, negatives = int(positive.sum()), int(len(positive) - positive.sum())
    auc = _area(false, true) / (positives * negatives) if positives and negatives else None
    kept = _thinned(false, true, threshold, limit)
    return {
        "class": name,
        "positives": positives,
        "negatives": negatives,
        "auc": auc,
        "points": [[int(false[i]), int(true[i]), _plain(threshold[i])] for i in kept],
    }


def _area(false: NDArray[np.int64], true: NDArray[np.int64]) -> float:
    """The area under the steps in windows x windows; ties are the slanted parts."""
    import numpy as np

    width = np.diff(false, prepend=0)
    return float((width * (true + np.concatenate([[0], true[:-1]])) / 2).sum())


def _thinned(false: NDArray[np.int64], true: NDArray[np.int64], threshold: NDArray[Any], limit: int) -> list[int]:
    """Rows to keep: the corners, evenly along the curve where they are too many, the last, and that of the class said.

    A row is a corner where the curve turns: those between lie on a line and draw nothing.
    """
    import numpy as np

    count = len(false)
    if count == 0:
        return []
    corners = np.column_stack([false, true])
    rise = corners - np.concatenate([np.zeros((1, 2), np.int64), corners[:-1]])
    turns = rise[:-1, 0] * rise[1:, 1] != rise[:-1, 1] * rise[1:, 0]
    kept = np.flatnonzero(np.append(turns, True))
    said = np.flatnonzero(threshold >= 0)[-1:]  # the last row whose lead is not negative
    room = limit - 2
    if len(kept) > room:
        way = np.cumsum(np.abs(rise).sum(axis=1))[kept]
        wanted = np.linspace(0, way[-1], room)
        kept = kept[np.unique(np.searchsorted(way, wanted).clip(0, len(kept) - 1))]
    return sorted({*kept.tolist(), *said.tolist(), count - 1})


def _plain(value: Any) -> int | float:
    """An integer as it is; a float32 as the shortest number that rounds to it."""
    import numpy as np

    return int(value) if isinstance(value, np.integer) else float(str(value))
