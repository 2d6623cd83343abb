"""A sample over everything that is fed: every window has the same chance, wherever it stands."""

from __future__ import annotations

import numpy as np
import torch
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


def spread(windows: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """At most ``count`` windows, evenly over all: a sample in its order may begin with one class."""
    if len(windows) <= count:
        return windows
    return windows[np.arange(count) * len(windows) // count]


class Reservoir:
    """The same sample over windows that come in batches, without knowing how many there will be."""

    def __init__(self, count: int, seed: int) -> None:
        """``count``: the most that are kept; the draws for a batch depend on the seed and on what came before it."""
        self.count, self.seed = count, seed
        self.seen = 0
        self.kept: torch.Tensor | None = None

    def __len__(self) -> int:
        """How many are kept."""
        return 0 if self.kept is None else len(self.kept)

    def add(self, windows: torch.Tensor) -> None:
        """Take a batch in: float32 ``(window, ...)``; what is kept is copied."""
        windows = windows.detach().float().cpu()
        room = min(self.count - len(self), len(windows))
        if room > 0:
            first = windows[:room].clone()
            self.kept = first if self.kept is None else torch.cat([self.kept, first])
        if room < len(windows):
            before, rest = self.seen + room, windows[room:]
            random = np.random.Generator(np.random.PCG64([self.seed, before]))
            places = random.integers(0, np.arange(before, before + len(rest)) + 1)
            chosen = np.flatnonzero(places < self.count)
            assert self.kept is not None
            for row in chosen:  # the later of two for one place stays
                self.kept[int(places[row])] = rest[int(row)]
        self.seen += len(windows)
