"""Places of a take: what was packed is what is read, in few bytes, and damage is refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlab.compiler.places import pack_places, piece_size, unpack_places
from flowlab.errors import ProgramError

PLACES = st.lists(st.one_of(st.just(-1), st.integers(0, 6), st.integers(0, 70_000), st.integers(0, 2**24)), max_size=60)


def head_of(data: bytes) -> int:
    return int(struct.unpack_from("<I", data)[0])


@given(places=PLACES, repeats=st.integers(1, 3))
def test_places_come_back(places: list[int], repeats: int) -> None:
    index = np.repeat(np.array(places, np.int32), repeats)
    data = pack_places(index)
    assert len(data) == piece_size(head_of(data), len(index))
    np.testing.assert_array_equal(unpack_places(data, len(index)), index)
    assert len(data) <= 4 + 4 * len(index)


@given(
    sides=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    turn=st.permutations(range(3)),
    step=st.integers(1, 3),
)
def test_slices_and_permutations_come_back(sides: tuple[int, int, int], turn: list[int], step: int) -> None:
    index = np.arange(np.prod(sides), dtype=np.int32).reshape(sides).transpose(turn)[::step].ravel()
    np.testing.assert_array_equal(unpack_places(pack_places(index), index.size), index)


@pytest.mark.parametrize(
    ("index", "size"),
    [
        (np.arange(4096), 4 + 8),  # a split takes one stretch
        (np.arange(4096).reshape(2, 16, 128).transpose(1, 0, 2).ravel(), 4 + 32 * 8),  # a shuffle of 32 channels
        (np.full(4096, -1), 4 + 8),
        (np.arange(100_000), 4 + 2 * 8),  # a run counts up to 65,535
        (np.random.default_rng(0).permutation(4096), 4 + 2 * 4096),
        (np.random.default_rng(0).permutation(100_000), 4 + 4 * 100_000),
        (np.zeros(0, np.int32), 4),
        (np.array([0, 40_000, 80_000]), 4 + 3 * 4),  # steps beyond 16 bits
    ],
)
def test_structure_costs_a_run_each(index: np.ndarray, size: int) -> None:
    data = pack_places(index)
    assert len(data) == size
    np.testing.assert_array_equal(unpack_places(data, index.size), index)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ((0, 1, 3), "1 runs of 3 places; 4 are needed"),
        ((0, 1, 5), "1 runs of 5 places; 4 are needed"),
        ((0, -1, 4), "places from -3 to 0"),
        ((2**31 - 1, 1, 4), "places from 2147483647 to 2147483650"),
    ],
)
def test_runs_that_lie_are_refused(run: tuple[int, int, int], said: str) -> None:
    with pytest.raises(ProgramError, match=said):
        unpack_places(struct.pack("<IihH", 1, *run), 4)
