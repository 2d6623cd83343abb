"""The tables of `flowlab.engine.bench_quantization`: for people, and as CSV."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean
from typing import Any

from flowlab.engine import table
from flowlab.errors import ConfigError


@dataclass(frozen=True)
class Drop:
    """One quantization of one float network. ``accuracy`` and ``drop`` in percent and points; None: refused."""

    dataset: str
    model: str
    row: str
    seed: int
    float_accuracy: float
    accuracy: float | None
    drop: float | None
    bar: float | None
    cpu_s: float
    note: str = ""


@dataclass(frozen=True)
class Ratio:
    """A time over another: median, least and most of the rounds. ``unit_s``: the median of what it is divided by."""

    dataset: str
    model: str
    what: str
    over: str
    batch: int
    ratio: float
    least: float
    most: float
    unit_s: float


@dataclass(frozen=True)
class File:
    """An exported file: its bytes, those of its weights once packed, and how many times float's speed it has."""

    dataset: str
    model: str
    what: str
    bytes: int
    packed_bytes: int
    speed_1: float
    speed_64: float


@dataclass(frozen=True)
class Found:
    """All that was measured; ``notes`` are sentences below the tables."""

    drops: tuple[Drop, ...] = ()
    ratios: tuple[Ratio, ...] = ()
    files: tuple[File, ...] = ()
    notes: tuple[str, ...] = ()

    def joined(self, other: Found) -> Found:
        """Both."""
        notes = tuple(dict.fromkeys((*self.notes, *other.notes)))
        return Found(self.drops + other.drops, self.ratios + other.ratios, self.files + other.files, notes)

    def lines(self, seeds: Sequence[int]) -> list[str]:
        """The tables for people."""
        accuracy = table.lines(_ACCURACY, list(_accuracy_rows(self.drops)))
        speed = table.lines(_SPEED, [_speed_row(one) for one in self.ratios])
        files = table.lines(_FILES, [_file_row(one) for one in self.files])
        return [
            "",
            f"accuracy of the exported file in ONNX Runtime, percent; mean of seeds {', '.join(map(str, seeds))}:",
            *accuracy,
            "",
            "time, CPU seconds on one thread as ratios, median [least..most]:",
            *speed,
            "",
            "files, and their speed in ONNX Runtime on one thread (1.00: as fast as the float file):",
            *files,
            *self.notes,
        ]


_ACCURACY = ("set", "network", "quantization", "float", "exported", "drop", "at most", "each seed's drop", "note")
_SPEED = ("set", "network", "what", "over", "batch", "ratio", "", "one unit")
_FILES = ("set", "network", "file", "bytes", "weights packed", "batch 1", "batch 64")


def _accuracy_rows(drops: Sequence[Drop]) -> Iterator[tuple[str, ...]]:
    groups: dict[tuple[str, str, str], list[Drop]] = {}
    for one in drops:
        groups.setdefault((one.dataset, one.model, one.row), []).append(one)
    for (dataset, model, row), ones in groups.items():
        reached = [(one.accuracy, one.drop) for one in ones if one.accuracy is not None and one.drop is not None]
        bar = ones[0].bar
        yield (
            dataset,
            model,
            row,
            f"{mean(one.float_accuracy for one in ones):.2f}",
            f"{mean(accuracy for accuracy, _ in reached):.2f}" if reached else "refused",
            f"{mean(drop for _, drop in reached):.2f}" if reached else "",
            "" if bar is None else f"{bar:.1f}",
            " ".join("refused" if one.drop is None else f"{one.drop:.2f}" for one in ones)
            if len(ones) > 1
            else f"seed {ones[0].seed} alone",
            "; ".join(dict.fromkeys(one.note for one in ones if one.note)),
        )


def _speed_row(one: Ratio) -> tuple[str, ...]:
    spread = f"[{one.least:.2f}..{one.most:.2f}]"
    return one.dataset, one.model, one.what, one.over, str(one.batch), f"{one.ratio:.2f}", spread, f"{one.unit_s:.3f} s"


def _file_row(one: File) -> tuple[str, ...]:
    packed = f"{one.packed_bytes:,}" if one.packed_bytes else ""
    return one.dataset, one.model, one.what, f"{one.bytes:,}", packed, f"{one.speed_1:.2f}", f"{one.speed_64:.2f}"


def writable(folder: Path) -> None:
    """Whether files can be written there is known before hours are spent."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise ConfigError(f"--csv {folder}: {error.strerror}. Name a folder that can be written") from error


def write(folder: Path, found: Found) -> None:
    """Three tables as CSV, each whole or not at all."""
    tables: Mapping[str, tuple[type[Any], Sequence[Any]]] = {
        "accuracy.csv": (Drop, found.drops),
        "speed.csv": (Ratio, found.ratios),
        "files.csv": (File, found.files),
    }
    for name, (kind, rows) in tables.items():
        as_csv(folder / name, [one.name for one in fields(kind)], [asdict(row) for row in rows])


def as_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """One table as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text.getvalue())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
