"""Arrow IPC files of one record batch, mapped privately: arrays that can be written to, and no copy.

An ordinary Arrow map is read-only, and torch warns of read-only arrays. A copy-on-write map (``mmap.ACCESS_COPY``) is
writable, costs no copy, and never changes the file.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from flowlab.errors import DataError

KEY = b"flowlab"  # of the schema's metadata: a JSON text


class Mapped:
    """An Arrow file in memory: columns as numpy arrays over the map.

    Raises:
        DataError: if the file is not an Arrow file of one record batch with our metadata.
    """

    def __init__(self, path: Path) -> None:
        """Map a file; the map lives as long as an array over it."""
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            buffer = pa.py_buffer(self._map)
            reader = pa.ipc.open_file(buffer)
            if reader.num_record_batches != 1:
                raise DataError(f"{path.name}: {reader.num_record_batches} record batches, expected 1")
            self.batch = reader.get_batch(0)
            self.meta: dict[str, Any] = json.loads((reader.schema.metadata or {})[KEY])
        except (OSError, ValueError, KeyError) as error:  # pa.ArrowInvalid is a ValueError
            raise DataError(f"{path.name}: not an Arrow file of ours ({error}). Run the stage that made it") from None
        self._base = buffer.address

    def numbers(self, column: pa.Array, dtype: DTypeLike) -> NDArray[Any]:
        """The values of a column without nulls, flat, writable, over the map."""
        buffer = column.buffers()[-1]
        kind = np.dtype(dtype)
        if buffer is None or len(column) == 0:
            return np.empty(0, kind)
        start = buffer.address - self._base + column.offset * kind.itemsize
        return np.frombuffer(self._map, kind, len(column), start)


def write(path: Path, columns: Mapping[str, pa.Array], meta: Mapping[str, Any]) -> None:
    """Write one uncompressed record batch; equal columns and metadata give equal bytes."""
    text = json.dumps(dict(meta), sort_keys=True, ensure_ascii=False, allow_nan=False)
    fields = [pa.field(name, column.type, nullable=False) for name, column in columns.items()]
    schema = pa.schema(fields, metadata={KEY: text.encode()})
    batch = pa.RecordBatch.from_arrays(list(columns.values()), schema=schema)
    options = pa.ipc.IpcWriteOptions(compression=None)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:
        writer.write_batch(batch)
