from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flowlab.quant.reservoir import reservoir, spread


@given(st.integers(0, 500), st.integers(0, 100), st.integers(0, 2**31))
def test_a_sample_is_ascending_without_repeats_and_repeatable(total: int, count: int, seed: int) -> None:
    found = reservoir(total, count, seed)
    assert len(found) == min(total, count)
    assert np.all(np.diff(found) > 0)
    assert np.all((found >= 0) & (found < max(total, 1)))
    assert np.array_equal(found, reservoir(total, count, seed))


def test_every_place_has_the_same_chance() -> None:
    hits = np.zeros(100)
    for seed in range(2000):
        hits[reservoir(100, 10, seed)] += 1
    assert abs(hits - 200).max() < 75  # five standard deviations


@given(st.integers(0, 500), st.integers(1, 100))
def test_windows_are_picked_evenly_over_all(total: int, count: int) -> None:
    found = spread(np.arange(total, dtype=np.float32), count)
    assert len(found) == min(total, count)
    assert np.all(found < total)
    gaps = np.diff(found)
    assert not len(gaps) or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)
    assert not len(found) or (found[0] == 0 and total - found[-1] <= total / len(found) + 1)
