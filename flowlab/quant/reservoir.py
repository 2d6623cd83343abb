"""A sample over everything that is fed: every window has the same chance, wherever it stands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def reservoir(total: int, count: int, seed: int) -> NDArray[np.int64]:
    """At most ``count`` of the indices below ``total``, ascending; the same seed draws the same.

    Algorithm R, one pass: what is fed need not be known to its end, and the first windows (of a sorted file: one
    class) have no advantage.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    kept = np.arange(min(total, count), dtype=np.int64)
    if total > count > 0:
        places = random.integers(0, np.arange(count, total) + 1)  # one draw for each index from `count` on
        for index in np.flatnonzero(places < count):
            kept[places[index]] = count + index
    return np.sort(kept)
