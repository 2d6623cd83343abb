"""A stretch that stands in two splits is found at any offset; silence and short periods are not taken for one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlab.contracts import Recording
from flowlab.signal import overlap


def noise(name: str, seed: int, split: str, length: int = 700, columns: int = 2) -> Recording:
    samples = np.random.default_rng(seed).normal(size=(length, columns)).astype(np.float32)
    return Recording(name, "a", samples, tuple("xyz"[:columns]), split)


@given(st.integers(0, 573), st.integers(0, 573), st.integers(1, 3), st.sampled_from(["val", "test"]))
def test_a_common_part_of_two_stretches_less_one_is_found_at_any_offset(
    source: int, target: int, columns: int, split: str
) -> None:
    first, second = noise("one", 1, "train", columns=columns), noise("two", 2, split, columns=columns)
    second.samples[target : target + 127] = first.samples[source : source + 127]
    found = overlap.shared_stretches([first, second])
    assert found
    for one, other, shared in found:
        assert (one, other, shared.recording, shared.again) == ("train", split, "one", "two")
        assert shared.again_at - shared.at == target - source
        assert 0 <= shared.at - source <= 63


def test_a_part_in_validation_and_test_is_found_too() -> None:
    first, second = noise("one", 1, "val"), noise("two", 2, "test")
    second.samples[300:600] = first.samples[100:400]
    assert {(one, other) for one, other, _ in overlap.shared_stretches([first, second])} == {("val", "test")}


def test_recordings_of_one_split_may_repeat_each_other() -> None:
    first = noise("one", 1, "train")
    assert overlap.shared_stretches([first, replace(first, id="two"), noise("three", 3, "test")]) == []


def test_independent_recordings_share_nothing() -> None:
    splits = ["train", "val", "test"] * 4
    assert overlap.shared_stretches([noise(f"r{i}", i, split, 3000, 1) for i, split in enumerate(splits)]) == []


@pytest.mark.parametrize("period", [1, 2, 31])
def test_silence_and_short_periods_are_no_shared_samples(period: int) -> None:
    wave = np.resize(np.arange(period, dtype=np.float32), 700)[:, None]
    first, second = noise("one", 1, "train", columns=1), noise("two", 2, "test", columns=1)
    assert overlap.shared_stretches([replace(first, samples=wave), replace(second, samples=wave[1:])]) == []


def test_recordings_shorter_than_a_stretch_are_left_to_the_other_checks() -> None:
    short = noise("one", 1, "train", length=10)
    assert overlap.shared_stretches([short, replace(short, id="two", split="test")]) == []


def test_the_sentence_names_both_places() -> None:
    shared = overlap.Shared("one", 64, "two", 10)
    assert shared.text("train", "test") == "64 samples from 64 of 'one' (train) stand again from 10 of 'two' (test)"


def test_all_samples_that_stand_in_another_split_are_found_in_every_recording() -> None:
    noise = np.random.default_rng(5).normal(0, 1, (400, 1)).astype(np.float32)
    pieces = {
        "a": ("train", noise[:300]),
        "b": ("train", noise[:300]),
        "c": ("test", np.concatenate([noise[300:], noise[64:256]])),
        "d": ("val", np.random.default_rng(6).normal(0, 1, (300, 1)).astype(np.float32)),
    }
    recordings = [Recording(name, "x", samples, ("x",), split) for name, (split, samples) in pieces.items()]
    found = overlap.places_elsewhere(recordings)
    assert set(found) == {"a", "b", "c"}
    assert found["a"] == found["b"]
    assert found["c"] == [(100, 292)]
    ((start, stop),) = found["a"]
    assert 64 <= start < 128  # less than a stretch is missing at each end
    assert 192 < stop <= 256
