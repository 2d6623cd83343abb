"""Make a stretch of work depend on nothing but its seed and its thread count, and leave the process as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, threads: int) -> Iterator[None]:
    """Run with torch's own generator seeded and its thread count set; both are put back at the end.

    The thread count decides the order of sums, and so the last bit of every weight. Initial weights and dropout draw
    from torch's generator, which is the process's: one training at a time.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed of its own for every epoch, so that epoch 7 draws the same after a restart; 63 bits."""
    import numpy as np

    low, high = np.random.SeedSequence([seed, epoch]).generate_state(2)
    return (int(high) << 32 | int(low)) & (2**63 - 1)
