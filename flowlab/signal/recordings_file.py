"""The file of recordings: one row a recording, samples as one flat list of float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flowlab.contracts import Recording
from flowlab.errors import DataError
from flowlab.signal import arrow_file


@dataclass(frozen=True)
class RecordingTable:
    """All recordings. ``samples[i]`` is float32 ``(time, column)``, over the map, without a copy."""

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    samples: tuple[NDArray[np.float32], ...]
    meta: Mapping[str, Any]

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self.meta["columns"])

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, sorted: the index is the label's number."""
        return tuple(self.meta["classes"])

    def of_split(self, split: str) -> tuple[int, ...]:
        """The rows of a split."""
        return tuple(row for row, name in enumerate(self.splits) if name == split)


def write(path: Path, recordings: Sequence[Recording], meta: Mapping[str, Any]) -> None:
    """Write recordings; all have the same columns.

    Args:
        path: the file.
        recordings: each with its split.
        meta: ``classes``, ``synthetic``, ``repairs``, ``origin``; ``columns`` is added.
    """
    lengths = [len(item.samples) for item in recordings]
    sizes = np.cumsum([0, *(item.samples.size for item in recordings)], dtype=np.int64)
    flat = np.empty(int(sizes[-1]), np.float32)
    for item, start, stop in zip(recordings, sizes[:-1], sizes[1:], strict=True):
        flat[start:stop] = item.samples.reshape(-1)
    columns = {
        "id": pa.array([item.id for item in recordings], pa.string()),
        "label": pa.array([item.label for item in recordings], pa.string()),
        "split": pa.array([item.split for item in recordings], pa.string()),
        "samples": pa.LargeListArray.from_arrays(
            pa.array(sizes), pa.array(flat), type=pa.large_list(pa.field("item", pa.float32(), nullable=False))
        ),
        "length": pa.array(lengths, pa.int64()),
    }
    arrow_file.write(path, columns, {**meta, "columns": list(recordings[0].columns)})


def read(path: Path) -> RecordingTable:
    """Map the file. Raises `DataError` if it is not one of ours."""
    mapped = arrow_file.Mapped(path)
    batch = mapped.batch
    if set(batch.schema.names) != {"id", "label", "split", "samples", "length"}:
        raise DataError(f"{path.name}: no file of recordings, its columns are {', '.join(batch.schema.names)}")
    flat = mapped.numbers(batch.column("samples").values, np.float32)
    ends = np.cumsum(batch.column("length").to_numpy()) * len(mapped.meta["columns"])
    pieces = np.split(flat, ends[:-1])
    return RecordingTable(
        tuple(batch.column("id").to_pylist()),
        tuple(batch.column("label").to_pylist()),
        tuple(batch.column("split").to_pylist()),
        tuple(piece.reshape(-1, len(mapped.meta["columns"])) for piece in pieces),
        mapped.meta,
    )
