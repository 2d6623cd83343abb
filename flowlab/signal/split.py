"""Which recording is in which split, and the proof that no sample is in two.

A recording is split as a whole, or cut by time into consecutive pieces; windows are never split. The draw is seeded
for each class by itself, so a class that is added moves no other. Recordings with equal content stay together.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowlab.contracts import Recording
from flowlab.errors import DataError, OptionError, plural
from flowlab.signal.layout import SPLITS
from flowlab.signal.overlap import LENGTH, Shared, shared_stretches

SHARED_SHOWN = 5  # sentences about stretches in two splits; their number counts all
AMONGST, WITHIN, ANNOTATED, GIVEN = "amongst_files", "within_files", "annotations", "dataset"


@dataclass(frozen=True)
class Piece:
    """A recording, or a stretch of one, that lies in one split: samples ``[start, stop)`` of its source."""

    recording: Recording
    source: str  # the id of the recording that it is a stretch of
    start: int
    stop: int
    sha256: str  # of the samples: float32, little-endian, row-major

    @property
    def split(self) -> str:
        """The split that it is in."""
        assert self.recording.split is not None
        return self.recording.split


def content(samples: NDArray[np.float32]) -> str:
    """The sha256 of samples: their shape, then float32, little-endian, row-major."""
    data = np.ascontiguousarray(samples, dtype="<f4")
    return hashlib.sha256(repr(data.shape).encode() + data.tobytes()).hexdigest()


def counts(total: int, fractions: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers near ``fractions`` of a total, by largest remainder, at least one each.

    Raises:
        OptionError: if the fractions are not positive or do not sum to 1.
        DataError: if there are fewer things than splits.
    """
    check_fractions(fractions)
    if total < len(fractions):
        raise DataError(f"{plural(total, 'recording', 'recordings')} cannot fill {len(fractions)} splits")
    exact = [total * fraction for fraction in fractions]
    whole = [int(share + 1e-9) for share in exact]
    by_remainder = sorted(range(len(whole)), key=lambda i: (whole[i] - exact[i], i))
    for i in by_remainder[: total - sum(whole)]:
        whole[i] += 1
    while min(whole) == 0:  # whoever has most above its share gives
        giver = max((i for i, count in enumerate(whole) if count > 1), key=lambda i: whole[i] - exact[i])
        whole[giver] -= 1
        whole[whole.index(0)] += 1
    return tuple(whole)


def check_fractions(fractions: Sequence[float]) -> None:
    """Raise `OptionError` unless there is one positive fraction for each split and they sum to 1."""
    shown = ", ".join(f"{fraction:g}" for fraction in fractions)
    if len(fractions) != len(SPLITS) or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise OptionError(
            f"dataset.split_factor: found [{shown}]. Three positive fractions for {', '.join(SPLITS)} that sum to 1"
        )


def amongst(recordings: Sequence[Recording], fractions: Sequence[float], seed: int) -> list[Piece]:
    """Split whole recordings, class by class, in an order drawn from the seed.

    Raises:
        DataError: if a class has fewer different recordings than there are splits.
    """
    hashes = {item.id: content(item.samples) for item in recordings}
    by_class: dict[str, dict[str, list[Recording]]] = defaultdict(lambda: defaultdict(list))
    for item in sorted(recordings, key=lambda item: item.id):
        by_class[item.label][hashes[item.id]].append(item)
    pieces = []
    for label, groups in sorted(by_class.items()):
        if len(groups) < len(SPLITS):
            raise DataError(
                f"class '{label}' has {len(groups)} different recordings; a split by recording needs at least "
                f"{len(SPLITS)}. Add recordings, or cut each one: dataset.split_type: {WITHIN}"
            )
        order = np.random.Generator(np.random.PCG64([seed, zlib.crc32(label.encode())])).permutation(len(groups))
        drawn = [list(groups.values())[i] for i in order]
        names = [
            split for split, count in zip(SPLITS, counts(len(groups), fractions), strict=True) for _ in range(count)
        ]
        for split, group in zip(names, drawn, strict=True):
            for item in group:
                pieces.append(_whole(replace(item, split=split), hashes[item.id]))
    return sorted(pieces, key=lambda piece: piece.recording.id)


def within(recordings: Sequence[Recording], fractions: Sequence[float]) -> list[Piece]:
    """Cut each recording by time into consecutive pieces, one for each split.

    Raises:
        DataError: if a recording has fewer samples than there are splits.
    """
    pieces = []
    for item in recordings:
        if len(item.samples) < len(SPLITS):
            raise DataError(f"{item.id}: {len(item.samples)} samples cannot be cut into {len(SPLITS)} splits")
        start = 0
        for split, count in zip(SPLITS, counts(len(item.samples), fractions), strict=True):
            stop = start + count
            samples = item.samples[start:stop]
            part = replace(item, id=f"{item.id}[{start}:{stop}]", samples=samples, split=split)
            pieces.append(Piece(part, item.id, start, stop, content(samples)))
            start = stop
    return pieces


def given(recordings: Sequence[Recording]) -> list[Piece]:
    """Take the split that each recording carries. Raises `DataError` where one carries none."""
    for item in recordings:
        if item.split not in SPLITS:
            raise DataError(f"{item.id}: its split is {item.split!r}, known are {', '.join(SPLITS)}")
    return [_whole(item, content(item.samples)) for item in recordings]


def prove(pieces: Sequence[Piece], shared: Sequence[tuple[str, str, Shared]] | None = None) -> dict[str, Any]:
    """Check that no sample is in two splits, and say what was checked.

    Parts of recordings with equal samples are counted and shown, not refused: simulated signals repeat themselves.

    Args:
        pieces: all of them.
        shared: what `shared_stretches` found, where it is known already.

    Raises:
        DataError: if an id, equal content or overlapping samples stand in two splits, an id stands twice,
            equal content has two classes, or a class is missing from the training split.
    """
    _ids_once(pieces)
    _content_apart(pieces)
    _ranges_disjoint(pieces)
    classes = sorted({piece.recording.label for piece in pieces})
    for split in SPLITS:
        have = {piece.recording.label for piece in pieces if piece.split == split}
        if not have or (split == "train" and len(have) < len(classes)):
            missing = ", ".join(sorted(set(classes) - have))
            raise DataError(f"split '{split}' has no recording of: {missing}")
    if shared is None:
        shared = shared_stretches([piece.recording for piece in pieces])
    return {
        "recordings_in_two_splits": 0,
        "contents_in_two_splits": 0,
        "overlapping_ranges": 0,
        "stretches_in_two_splits": len(shared),
        "shared": [one.text(split, other) for split, other, one in shared[:SHARED_SHOWN]],
        "checked": [
            "every recording, or stretch of one, is in exactly one split",
            "no two splits hold samples of equal sha256",
            "the sample ranges of stretches of one recording are disjoint",
            f"every stretch of {LENGTH} samples of one split was looked for in the others, at every offset",
        ],
        "pieces": [
            {
                "id": piece.recording.id,
                "label": piece.recording.label,
                "split": piece.split,
                "source": piece.source,
                "start": piece.start,
                "stop": piece.stop,
                "sha256": piece.sha256,
            }
            for piece in pieces
        ],
    }


def document(
    pieces: Sequence[Piece],
    method: str,
    seed: int | None,
    fractions: Sequence[float] | None,
    shared: Sequence[tuple[str, str, Shared]] | None = None,
) -> dict[str, Any]:
    """What ``splits.json`` holds: method, seed, fractions, recordings by split and class, and the proof."""
    table: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
    for piece in pieces:
        row = table[piece.split]
        row[piece.recording.label] = row.get(piece.recording.label, 0) + 1
    return {
        "method": method,
        "seed": seed,
        "fractions": None if fractions is None else dict(zip(SPLITS, fractions, strict=True)),
        "counts": {split: dict(sorted(row.items())) for split, row in table.items()},
        "proof": prove(pieces, shared),
    }


def _whole(item: Recording, sha256: str) -> Piece:
    return Piece(item, item.id, 0, len(item.samples), sha256)


def _ids_once(pieces: Sequence[Piece]) -> None:
    seen: dict[str, Piece] = {}
    for piece in pieces:
        other = seen.setdefault(piece.recording.id, piece)
        if other is not piece:
            raise DataError(
                f"recording '{piece.recording.id}' stands twice, in splits '{other.split}' and '{piece.split}'"
            )


def _content_apart(pieces: Sequence[Piece]) -> None:
    first: dict[str, Piece] = {}
    for piece in pieces:
        other = first.setdefault(piece.sha256, piece)
        both = f"'{other.recording.id}' and '{piece.recording.id}' hold the same samples"
        if other.split != piece.split:
            raise DataError(f"{both}, one in '{other.split}', one in '{piece.split}'. Remove one of them")
        if other.recording.label != piece.recording.label:
            raise DataError(f"{both} under two classes. Remove the wrong one")


def _ranges_disjoint(pieces: Sequence[Piece]) -> None:
    by_source: dict[str, list[Piece]] = defaultdict(list)
    for piece in pieces:
        by_source[piece.source].append(piece)
    for source, parts in by_source.items():
        ordered = sorted(parts, key=lambda piece: piece.start)
        for left, right in pairwise(ordered):
            if right.start < left.stop:
                raise DataError(
                    f"recording '{source}': samples {right.start} to {left.stop - 1} are in two pieces, "
                    f"'{left.recording.id}' and '{right.recording.id}'"
                )
