"""Least squares of relative errors, with coefficients that are not negative; each figure predicted without itself."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def fit(counts: Floats, cycles: Floats) -> Floats:
    """The coefficients that keep the sum of squared relative errors least.

    With a handful of features every set of those that are not 0 is tried: the best one without a negative coefficient
    is the optimum, exactly.

    Args:
        counts: (figure, feature).
        cycles: of each figure, positive.
    """
    relative = counts / cycles[:, None]
    width = counts.shape[1]
    best, least = np.zeros(width), float(len(cycles))  # all 0: every relative error is 1
    for size in range(1, width + 1):
        for chosen in map(list, combinations(range(width), size)):
            found = np.linalg.lstsq(relative[:, chosen], np.ones(len(cycles)), rcond=None)[0]
            error = float(((relative[:, chosen] @ found - 1) ** 2).sum())
            if (found >= 0).all() and error < least:
                best, least = np.zeros(width), error
                best[chosen] = found
    return best


def leave_one_out(counts: Floats, cycles: Floats) -> Floats:
    """For each figure the relative error, with its sign, of the fit to all others."""
    errors = []
    for one in range(len(cycles)):
        others = np.arange(len(cycles)) != one
        errors.append(counts[one] @ fit(counts[others], cycles[others]) / cycles[one] - 1)
    return np.array(errors)
