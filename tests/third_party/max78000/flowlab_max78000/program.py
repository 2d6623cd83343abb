"""The program file ``model.m78``: magic, length and CRC-32 of what follows, JSON of the layers, and their numbers.

A layer is what the machine runs at once: pools, then a convolution or product, then bias, one shift, clip. Biases lie
as 8 bits; weights of 4 and 2 bits are packed two and four in a byte, the lowest bits first.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from flowlab.errors import ProgramError

MAGIC = b"M78P"
HEADER = struct.Struct("<4sII")  # magic, length of the JSON, CRC-32 of JSON and numbers


@dataclass
class Layer:
    """``op`` is "quantize", "pool", "conv", "linear" or "dequantize"; ``name`` is the value that it makes."""

    op: str
    name: str
    kernel: tuple[int, ...] = (1, 1)
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0, 0, 0)
    bits: int = 8
    shift: int = 0
    low: int = -128
    high: int = 127
    scale: float = 1.0
    arrays: dict[str, Any] = field(default_factory=dict)


def encode(shape: tuple[int, ...], output: str, layers: list[Layer]) -> bytes:
    """The bytes that ship."""
    numbers, rows = bytearray(), []
    for layer in layers:
        places = {}
        for name, array in layer.arrays.items():
            data = pack(array, layer.bits) if name == "weight" else array.tobytes()
            places[name] = [len(numbers), len(data), array.dtype.str, list(array.shape)]
            numbers += data
        rows.append({**asdict(layer), "arrays": places})
    text = json.dumps({"shape": shape, "output": output, "layers": rows}, sort_keys=True).encode()
    return HEADER.pack(MAGIC, len(text), zlib.crc32(text + bytes(numbers))) + text + bytes(numbers)


def decode(data: bytes) -> tuple[tuple[int, ...], str, list[Layer]]:
    """Shape of the features, name of the output, layers. Raises `ProgramError` for damaged bytes."""
    if len(data) < HEADER.size or data[:4] != MAGIC:
        raise ProgramError("model.m78: this is no program of MAX78000")
    _, length, crc = HEADER.unpack_from(data)
    body = data[HEADER.size :]
    if zlib.crc32(body) != crc:
        raise ProgramError("model.m78: the bytes are damaged: the checksum is another. Compile again")
    head, numbers = json.loads(body[:length]), body[length:]
    layers = [Layer(**{**row, "arrays": _arrays(row, numbers)}) for row in head["layers"]]
    return tuple(head["shape"]), head["output"], layers


def _arrays(row: Mapping[str, Any], numbers: bytes) -> dict[str, Any]:
    found = {}
    for name, (at, size, dtype, shape) in row["arrays"].items():
        part = np.frombuffer(numbers[at : at + size], np.uint8)
        flat = unpack(part, row["bits"], int(np.prod(shape))) if name == "weight" else part.view(np.dtype(dtype))
        found[name] = flat.reshape(shape)
    return found


def pack(weight: Any, bits: int) -> bytes:
    """Weights of 8, 4 or 2 bits in bytes."""
    flat = weight.reshape(-1).astype(np.uint8) & (2**bits - 1)
    each = 8 // bits
    rows = np.pad(flat, (0, -len(flat) % each)).reshape(-1, each) << (bits * np.arange(each))
    return bytes(rows.sum(axis=1).astype(np.uint8))


def unpack(data: Any, bits: int, count: int) -> Any:
    """The signed weights again."""
    each = 8 // bits
    values = ((data[:, None] >> (bits * np.arange(each)).astype(np.uint8)) & (2**bits - 1)).reshape(-1)[:count]
    return np.where(values >= 2 ** (bits - 1), values.astype(np.int16) - 2**bits, values).astype(np.int8)
