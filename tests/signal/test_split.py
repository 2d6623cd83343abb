from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowlab.contracts import Recording
from flowlab.errors import DataError, OptionError
from flowlab.signal import split

FRACTIONS = (0.6, 0.3, 0.1)


def recording(name: str, label: str, seed: int, length: int = 40, part: str | None = None) -> Recording:
    samples = np.random.default_rng(seed).normal(size=(length, 2)).astype(np.float32)
    return Recording(id=name, label=label, samples=samples, columns=("a", "b"), split=part)


def many(counts: dict[str, int]) -> list[Recording]:
    return [
        recording(f"{label}/{i:03d}", label, 1000 * k + i)
        for k, (label, count) in enumerate(sorted(counts.items()))
        for i in range(count)
    ]


@given(st.integers(3, 400), st.tuples(st.floats(0.05, 1), st.floats(0.05, 1), st.floats(0.05, 1)))
def test_counts_sum_to_the_total_and_are_near_the_fractions(total: int, weights: tuple[float, float, float]) -> None:
    fractions = [weight / sum(weights) for weight in weights]
    whole = split.counts(total, fractions)
    assert sum(whole) == total
    assert min(whole) >= 1
    if all(total * fraction >= 1 for fraction in fractions):
        assert all(abs(count - total * fraction) < 1 for count, fraction in zip(whole, fractions, strict=True))


def test_counts_use_the_largest_remainder() -> None:
    assert split.counts(10, FRACTIONS) == (6, 3, 1)
    assert split.counts(11, FRACTIONS) == (7, 3, 1)
    assert split.counts(3, FRACTIONS) == (1, 1, 1)
    assert split.counts(4, FRACTIONS) == (2, 1, 1)


@pytest.mark.parametrize("fractions", [(0.6, 0.4), (0.6, 0.5, -0.1), (0.6, 0.3, 0.2), (1.0, 0.0, 0.0)])
def test_fractions_that_make_no_sense_are_an_error(fractions: tuple[float, ...]) -> None:
    with pytest.raises(OptionError, match=r"dataset.split_factor: found .* that sum to 1"):
        split.counts(10, fractions)


@settings(max_examples=25)
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(3, 12), min_size=1), st.integers(0, 5))
def test_a_split_by_recording_puts_each_into_one_split(counts: dict[str, int], seed: int) -> None:
    recordings = many(counts)
    pieces = split.amongst(recordings, FRACTIONS, seed)
    assert sorted(piece.recording.id for piece in pieces) == sorted(item.id for item in recordings)
    for label, count in counts.items():
        have = [sum(p.recording.label == label and p.split == name for p in pieces) for name in split.SPLITS]
        assert tuple(have) == split.counts(count, FRACTIONS)
    assert split.prove(pieces)["recordings_in_two_splits"] == 0


def test_the_same_seed_gives_the_same_split_in_any_order_of_files() -> None:
    recordings = many({"a": 9, "b": 7})
    first = {p.recording.id: p.split for p in split.amongst(recordings, FRACTIONS, 1)}
    again = {p.recording.id: p.split for p in split.amongst(recordings[::-1], FRACTIONS, 1)}
    other = {p.recording.id: p.split for p in split.amongst(recordings, FRACTIONS, 2)}
    assert first == again
    assert first != other


def test_a_class_that_is_added_moves_no_other() -> None:
    small = {p.recording.id: p.split for p in split.amongst(many({"a": 9, "b": 7}), FRACTIONS, 1)}
    recordings = [*many({"a": 9, "b": 7}), *(recording(f"c/{i}", "c", 9000 + i) for i in range(5))]
    large = {p.recording.id: p.split for p in split.amongst(recordings, FRACTIONS, 1)}
    assert {name: large[name] for name in small} == small


def test_classes_of_one_size_are_drawn_by_themselves() -> None:
    parts = {p.recording.id: p.split for p in split.amongst(many({"a": 20, "b": 20}), FRACTIONS, 1)}
    assert [parts[f"a/{i:03d}"] for i in range(20)] != [parts[f"b/{i:03d}"] for i in range(20)]


def test_recordings_with_equal_content_stay_together() -> None:
    recordings = many({"a": 9, "b": 9})
    for seed in range(8):
        copies = [replace(item, id=f"{item.id}-copy") for item in recordings[:4]]
        parts = {p.recording.id: p.split for p in split.amongst([*recordings, *copies], FRACTIONS, seed)}
        assert all(parts[item.id] == parts[f"{item.id}-copy"] for item in recordings[:4])


def test_fewer_than_three_recordings_of_a_class_are_an_error_with_a_way_out() -> None:
    with pytest.raises(DataError, match=r"class 'b' has 2 different recordings.*split_type: within_files"):
        split.amongst(many({"a": 5, "b": 2}), FRACTIONS, 0)


@given(st.integers(3, 200))
def test_a_cut_recording_is_covered_once_and_in_order(length: int) -> None:
    item = recording("a/1", "a", 1, length)
    pieces = split.within([item], FRACTIONS)
    assert [piece.split for piece in pieces] == list(split.SPLITS)
    assert [piece.start for piece in pieces] == [0, pieces[0].stop, pieces[1].stop]
    assert pieces[-1].stop == length
    assert np.array_equal(np.concatenate([piece.recording.samples for piece in pieces]), item.samples)
    assert split.prove(pieces)["overlapping_ranges"] == 0


def pair(train: Recording, test: Recording) -> list[split.Piece]:
    others = [recording(f"{label}/{s}", label, 77 + i, part=s) for i, s in enumerate(split.SPLITS) for label in "ab"]
    others = [replace(item, samples=item.samples + k) for k, item in enumerate(others)]
    return split.given([*others, replace(train, split="train"), replace(test, split="test")])


def test_the_proof_fails_for_an_id_in_two_splits() -> None:
    with pytest.raises(DataError, match="'a/1' stands twice, in splits 'train' and 'test'"):
        split.prove(pair(recording("a/1", "a", 1), recording("a/1", "a", 2)))


def test_the_proof_fails_for_equal_content_in_two_splits() -> None:
    with pytest.raises(DataError, match="'a/1' and 'a/2' hold the same samples, one in 'train', one in 'test'"):
        split.prove(pair(recording("a/1", "a", 1), recording("a/2", "a", 1)))


def test_the_proof_fails_for_equal_content_in_two_classes() -> None:
    pieces = pair(recording("a/1", "a", 1), recording("a/2", "a", 2))
    twin = replace(pieces[-2], recording=replace(pieces[-2].recording, id="b/9", label="b"))
    with pytest.raises(DataError, match="under two classes"):
        split.prove([*pieces, twin])


def test_the_proof_fails_for_overlapping_stretches() -> None:
    first, *rest = split.within([recording("a/1", "a", 1)], FRACTIONS)
    with pytest.raises(DataError, match="recording 'a/1': samples 24 to 24 are in two pieces"):
        split.prove([replace(first, stop=first.stop + 1), *rest])


def test_a_training_split_without_a_class_is_an_error() -> None:
    pieces = pair(recording("a/1", "a", 1), recording("a/2", "a", 2))
    without = [p for p in pieces if not (p.split == "train" and p.recording.label == "b")]
    with pytest.raises(DataError, match="split 'train' has no recording of: b"):
        split.prove(without)


def test_the_document_holds_counts_and_the_proof() -> None:
    pieces = split.amongst(many({"a": 10, "b": 5}), FRACTIONS, 3)
    document = split.document(pieces, split.AMONGST, 3, FRACTIONS)
    assert document["counts"] == {"train": {"a": 6, "b": 3}, "val": {"a": 3, "b": 1}, "test": {"a": 1, "b": 1}}
    assert document["fractions"] == {"train": 0.6, "val": 0.3, "test": 0.1}
    assert len(document["proof"]["pieces"]) == 15
    assert document["proof"]["pieces"][0]["sha256"] == split.content(pieces[0].recording.samples)


def test_a_part_of_a_recording_that_stands_in_two_splits_is_counted_and_shown() -> None:
    pieces = pair(recording("a/1", "a", 1, 400), recording("a/2", "a", 2, 400))
    assert split.prove(pieces)["stretches_in_two_splits"] == 0
    pieces[-1].recording.samples[100:300] = pieces[-2].recording.samples[:200]
    proof = split.prove(pieces)
    assert proof["stretches_in_two_splits"] == 3
    assert "'a/1' (train) stand again from 100 of 'a/2' (test)" in proof["shared"][0]
