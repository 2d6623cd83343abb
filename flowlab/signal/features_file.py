"""The file of features of one split, and the file of raw windows: one fixed-size list of float32 a row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flowlab.errors import DataError
from flowlab.signal import arrow_file


@dataclass(frozen=True)
class FeatureTable:
    """What a file holds, as arrays over a private map: writable, and nothing is copied.

    ``features`` float32 ``(window, channel, height, width)`` (raw windows: ``(window, channel, length)``);
    ``labels`` int64, ``recording`` int32 (row in the file of recordings), ``start`` int64 (the sample where the window
    starts); ``index`` int64 (row in the features of the test split), in the file of raw windows only.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    recording: NDArray[np.int32]
    start: NDArray[np.int64]
    meta: dict[str, Any]
    index: NDArray[np.int64] | None = None


def write(  # noqa: PLR0917 - one argument a column
    path: Path,
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    recording: NDArray[np.int32],
    start: NDArray[np.int64],
    meta: Mapping[str, Any],
    index: NDArray[np.int64] | None = None,
) -> None:
    """Write one uncompressed record batch.

    Args:
        path: the file.
        features: float32 ``(window, ...)``; the shape behind the first axis goes to the metadata.
        labels: number of the class.
        recording: row in the file of recordings.
        start: sample of the recording where the window starts.
        meta: ``classes``, ``provenance``, ``split``; ``shape`` is added.
        index: for raw windows, the row in the features of the test split.
    """
    shape = list(features.shape[1:])
    flat = np.ascontiguousarray(features, np.float32).reshape(-1)
    item = pa.field("item", pa.float32(), nullable=False)
    columns = {
        "features": pa.FixedSizeListArray.from_arrays(pa.array(flat), type=pa.list_(item, math.prod(shape))),
        "label": pa.array(np.asarray(labels, np.int64)),
        "recording": pa.array(np.asarray(recording, np.int32)),
        "start": pa.array(np.asarray(start, np.int64)),
    }
    if index is not None:
        columns["index"] = pa.array(np.asarray(index, np.int64))
    arrow_file.write(path, columns, {**meta, "shape": shape})


def read(path: Path) -> FeatureTable:
    """Map the file: its arrays are copies of nothing, and writing to them changes no file.

    Raises:
        DataError: if it is not one of ours.
    """
    mapped = arrow_file.Mapped(path)
    batch, meta = mapped.batch, mapped.meta
    if not {"features", "label", "recording", "start"} <= set(batch.schema.names):
        raise DataError(f"{path.name}: no file of features, its columns are {', '.join(batch.schema.names)}")
    flat = mapped.numbers(batch.column("features").values, np.float32)
    index = mapped.numbers(batch.column("index"), np.int64) if "index" in batch.schema.names else None
    return FeatureTable(
        flat.reshape(batch.num_rows, *meta["shape"]),
        mapped.numbers(batch.column("label"), np.int64),
        mapped.numbers(batch.column("recording"), np.int32),
        mapped.numbers(batch.column("start"), np.int64),
        meta,
        index,
    )
