"""The program container ``.flnp``: little-endian, versioned, checksummed; what ships and what simulators run.

A file is a 64-byte header, a table of sections, and the sections, each aligned to 4 bytes::

    header   magic "FLNP", major, minor, size, CRC-32 of all other bytes, SHA-256 of the source, arena bytes
    NAME     UTF-8 names, each ended by a zero byte
    TENS     one record a tensor: name, dtype, shape, channels of padding, offset in the arena, scale
    LAYR     one record a layer, in the order in which they run
    WGHT     weights of 8, 4 or 2 bits in blocks of 4 outputs x 4 inputs, in the order
             [out/4][kernel_h][kernel_w][in/4][4 out][4 in]; the last block of a row or column holds what is left
    BNRM     for each channel: bias (int32), multiplier (uint16), right shift (int8), a zero byte
    BNRS     the same in half the bytes, of layers all of whose numbers fit: bias (int16), multiplier (uint8), right
             shift (int8); a layer's place has its highest bit set where it is here
    BNRW     the same where the multiplier needs more: bias (int32), multiplier (int32), right shift (int8), three zero
             bytes; a layer's place has the bit below set
    ZERO     tensor and zero point, of every tensor whose zero point is not 0
    STEP     the input step, for each variable: bias (float32), multiplier (int32), shift (int32)
    LUT8     256-byte tables
    TAKE     of each layer that moves numbers: for each number of its result the place that it is read from, in C order,
             or none for a zero; as runs of equal steps where that is shorter (`flowlab.compiler.places`)
    OUTP     output names and their tensors
    GOLD     optional vectors: features, quantized inputs, outputs, CRC-32 of each layer's output

A layer's weights are one stream in that order, whatever their width: for each block of 4 output channels, each place
of the kernel and each block of 4 inputs, the 4 inputs of its first output channel, then those of the second, third and
fourth. A weight of b bits is a two's complement number of b bits, -(2^(b-1)-1) .. 2^(b-1)-1; the most negative pattern
of 4 and 2 bits (-8, -2) is refused, that of 8 bits only other tools' networks have. A byte holds one weight of 8 bits,
two of 4 or four of 2; the first lies in the lowest bits::

    4 bits   byte k = (w[2k] & 15) | (w[2k+1] & 15) << 4
    2 bits   byte k = (w[4k] & 3) | (w[4k+1] & 3) << 2 | (w[4k+2] & 3) << 4 | (w[4k+3] & 3) << 6

Every layer begins with a byte of its own; the bits of its last byte that hold no weight are 0. So a full block of 16
weights is 16, 8 or 4 bytes, and a layer of n weights of b bits is (n * b + 7) / 8 bytes, rounded down.

Layers whose weights, rows, table or places are equal share them.

A reader refuses another version, and any file whose bytes are not exactly what `encode` would write.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowlab.compiler.ops import INPUT_STEPS, LIMITS
from flowlab.compiler.places import pack_places, piece_size, unpack_places
from flowlab.errors import ProgramError

MAGIC = b"FLNP"
MAJOR, MINOR = 5, 0  # 1.0 had a byte for each weight; 2.0 no dilation, and moved no numbers; 3.0 no short rows;
#                     4.0 no zero points and no rounding but the floor; 4.1 32 bits for every number that is moved
BLOCK = 4  # outputs and inputs of a weight block
OPS = (
    "quantize", "conv", "linear", "sum_pool", "max_pool", "table", "flatten", "add", "dequantize",
    "multiply", "concat", "take", "reshape", "quantize_linear", "add_float",
)  # fmt: skip
REQUANTIZED = ("conv", "linear", "sum_pool", "add", "multiply")  # an accumulator and its requantization are one layer
RENAMES = ("flatten", "reshape")  # the same bytes under another shape
PAIRS = ("add", "multiply", "concat", "add_float")  # of two inputs
CLIPPED = (*INPUT_STEPS, *REQUANTIZED, "add_float")
UNITS = ("cpu", "npu")
ROUNDINGS = ("floor", "half_up", "nearest_even")  # as in `flowlab.compiler.number_format`
_ROUNDING_AT, _BIAS_LAST = 4, 1 << 7  # bits of a layer's unit
MOST_SHIFT = {"floor": 31, "half_up": 31, "nearest_even": 127}
DTYPES = ("float32", "int8", "uint8")
WEIGHT_BITS = (8, 4, 2)
MAX_AXIS = 65535  # outputs or inputs of one layer: 16-bit fields
MAX_ELEMENTS = 1 << 24  # of one tensor: far above any microcontroller, and a bound for a hostile file
MAX_READS = 1 << 26  # numbers that one layer's windows hold together
OUTSIDE = 0xFFFFFFFF  # the offset of a tensor that lies in the caller's memory, not in the arena

_HEADER = struct.Struct("<4sHHII32sIHxx8x")  # magic major minor size crc source arena sections
_SECTION = struct.Struct("<4sII")  # tag, offset, size
_TENSOR = struct.Struct("<IBBHIIIId")  # name dtype rank padding dims[3] offset scale
_LAYER = struct.Struct("<IIBBBB2HHhh2H2H4HH2HIIIIf")
_OUTPUT = struct.Struct("<II")
_BNORM = np.dtype([("bias", "<i4"), ("multiplier", "<u2"), ("shift", "i1"), ("zero", "u1")])
_SHORT = np.dtype([("bias", "<i2"), ("multiplier", "u1"), ("shift", "i1")])
_WIDE = np.dtype([("bias", "<i4"), ("multiplier", "<i4"), ("shift", "i1"), ("zero", "u1", 3)])
_SHORT_AT, _WIDE_AT = 1 << 31, 1 << 30  # in the place of a layer's rows: they are in BNRS, or in BNRW
_ZERO = struct.Struct("<Ii")
_INPUT = np.dtype([("bias", "<f4"), ("multiplier", "<i4"), ("shift", "<i4")])
_CRC_FIELD = slice(12, 16)
_TAGS = (
    b"NAME", b"TENS", b"LAYR", b"WGHT", b"BNRM", b"BNRS", b"BNRW", b"ZERO", b"STEP", b"LUT8", b"TAKE", b"OUTP", b"GOLD",
)  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """A value that layers exchange. ``channels`` counts the first axis without padding; traces stop there."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    channels: int
    offset: int  # in the arena, or OUTSIDE
    scale: float = 1.0
    zero_point: int = 0

    @property
    def size(self) -> int:
        """Elements, which are bytes for the integer types."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer: an operation, and its requantization where it accumulates. Named by the value that it makes.

    ``weight`` int8 (out, in/groups, kernel_h, kernel_w), of ``weight_bits`` bits (8 where there are none); ``bias``,
    ``multiplier``, ``shift`` one a channel: int32, or the input step's (bias float32); ``entries`` 256 integers of a
    table; ``index`` int32, one place a number of the result, of a take; ``scale`` the factor of a dequantize.
    """

    name: str
    op: str
    kind: str  # the accelerator's word (FCONV, GCONV, ...) or the operation's, for people
    unit: str
    inputs: tuple[int, ...]
    output: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    dilation: tuple[int, int] = (1, 1)
    low: int = 0
    high: int = 0
    weight_bits: int = 8
    weight: NDArray[np.int8] | None = None
    bias: NDArray[np.generic] | None = None
    multiplier: NDArray[np.int32] | None = None
    shift: NDArray[np.int32] | None = None
    entries: NDArray[np.int16] | None = None
    index: NDArray[np.int32] | None = None
    scale: float = 0.0
    rounding: str = "floor"
    bias_last: bool = False  # the bias is added behind multiplication and shift

    @property
    def plain(self) -> bool:
        """Whether it requantizes as an accelerator does: add, multiply, floor the shift."""
        return self.rounding == "floor" and not self.bias_last

    @property
    def reach(self) -> tuple[int, int]:
        """Height and width of what one place of the kernel reads, gaps included."""
        high, wide = ((size - 1) * gap + 1 for size, gap in zip(self.kernel, self.dilation, strict=True))
        return high, wide


@dataclass(frozen=True, eq=False)
class GoldenVectors:
    """Vectors that ship with a program; every array is flat behind its first axis (vector).

    ``layer_crc`` is uint32 (vector, traced layer), in the order of `Container.traced`.
    """

    features: NDArray[np.float32]
    inputs: NDArray[np.int8]
    outputs: tuple[NDArray[np.int32], ...]  # in the order of Container.outputs; a float output's bits
    layer_crc: NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class Container:
    """A program in memory: what `encode` writes and `parse` reads."""

    tensors: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    outputs: Mapping[str, int]  # output name -> tensor
    arena: int  # bytes
    source_sha256: str
    golden: GoldenVectors | None = field(default=None)

    def traced(self) -> tuple[Layer, ...]:
        """The layers whose output a trace names: 8-bit values, those that only rename one excepted."""
        return tuple(
            layer for layer in self.layers if layer.op not in RENAMES and self.tensors[layer.output].dtype != "float32"
        )

    def first(self) -> Layer:
        """The input step."""
        return self.layers[0]

    @property
    def plain(self) -> bool:
        """Whether all of it is arithmetic that an accelerator has: no zero points, no other rounding."""
        return not any(tensor.zero_point for tensor in self.tensors) and all(
            layer.plain and layer.op not in ("quantize_linear", "add_float") for layer in self.layers
        )


# --- weights ------------------------------------------------------------------------------------


def block_order(shape: Sequence[int]) -> NDArray[np.int64]:
    """Where each packed weight stands in a C-order ``(out, in, kernel_h, kernel_w)`` array: a permutation.

    Packed order: ``[out/4][kernel_h][kernel_w][in/4][4 out][4 in]``, last blocks short.
    """
    out, inner, height, width = (np.arange(n) for n in shape)
    o, i, y, x = np.meshgrid(out, inner, height, width, indexing="ij")
    keys = (i % BLOCK, o % BLOCK, i // BLOCK, x, y, o // BLOCK)  # the last key sorts first
    return np.lexsort([key.ravel() for key in keys]).astype(np.int64)


def packed_size(count: int, bits: int) -> int:
    """Bytes of ``count`` weights of ``bits`` bits."""
    return -(-count * bits // 8)


def pack_stream(values: NDArray[np.integer[Any]], bits: int) -> NDArray[np.uint8]:
    """Integers, in their order, as bytes: the first in the lowest bits, zeros where the last byte is not full.

    Raises:
        ProgramError: if a value needs more bits, or the width is none of `WEIGHT_BITS`.
    """
    _check_weights(values, bits)
    each = 8 // bits
    codes = np.zeros(packed_size(values.size, bits) * each, np.uint8)
    codes[: values.size] = values.ravel().astype(np.int64) & (2**bits - 1)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(codes.reshape(-1, each) << shifts, axis=1)
    return packed


def unpack_stream(data: bytes, count: int, bits: int) -> NDArray[np.int8]:
    """The inverse of `pack_stream`.

    Raises:
        ProgramError: as there, or if bits that hold no value are not 0.
    """
    if bits not in WEIGHT_BITS or len(data) != packed_size(count, bits):
        raise ProgramError(f"{len(data)} bytes do not hold {count} weights of {bits} bits")
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (np.frombuffer(data, np.uint8)[:, None] >> shifts).ravel().astype(np.int64) & (2**bits - 1)
    if codes[count:].any():
        raise ProgramError(f"the last byte of {count} weights of {bits} bits has bits set that hold no weight")
    half = 2 ** (bits - 1)
    values: NDArray[np.int8] = ((codes[:count] ^ half) - half).astype(np.int8)
    _check_weights(values, bits)
    return values


def _check_weights(values: NDArray[np.integer[Any]], bits: int) -> None:
    if bits not in WEIGHT_BITS:
        raise ProgramError(f"weights of {bits} bits; a program has weights of 8, 4 or 2")
    most = 2 ** (bits - 1) - 1
    wide = values.astype(np.int64)
    largest = int(max(-wide.min(initial=0) - (bits == 8), wide.max(initial=0)))
    if largest > most:
        raise ProgramError(f"a weight of magnitude {largest} does not fit {bits} bits ({-most} .. {most})")


def pack(weight: NDArray[np.int8], bits: int = 8) -> bytes:
    """int8 (out, in/groups, kernel_h, kernel_w) -> bytes in blocks of 4 x 4. Raises as `pack_stream`."""
    return pack_stream(weight.ravel()[block_order(weight.shape)], bits).tobytes()


def unpack(data: bytes, shape: Sequence[int], bits: int = 8) -> NDArray[np.int8]:
    """The inverse of `pack`. Raises as `unpack_stream`."""
    flat = np.empty(math.prod(shape), np.int8)
    flat[block_order(shape)] = unpack_stream(data, flat.size, bits)
    return flat.reshape(tuple(shape))


# --- writing ------------------------------------------------------------------------------------


_NameAt = Callable[[str], int]


class _Heap:
    """A section that grows; remembers where each piece went."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._places: dict[bytes, int] = {}

    def share(self, piece: bytes) -> int:
        """Like `add`, once for equal pieces: a layer that is used twice has its numbers once."""
        if piece not in self._places:
            self._places[piece] = self.add(piece)
        return self._places[piece]

    def add(self, piece: bytes) -> int:
        at = len(self.data)
        self.data += piece
        return at


def _bnorm_rows(layer: Layer) -> tuple[tuple[str, NDArray[np.int64]], ...]:
    assert layer.bias is not None and layer.multiplier is not None and layer.shift is not None
    rows = (("bias", layer.bias), ("multiplier", layer.multiplier), ("shift", layer.shift))
    return tuple((name, np.asarray(values, np.int64)) for name, values in rows)


def _fits(values: NDArray[np.int64], dtype: np.dtype[Any]) -> bool:
    limits = np.iinfo(dtype)
    return bool(values.min(initial=0) >= limits.min and values.max(initial=0) <= limits.max)


def is_short(layer: Layer) -> bool:
    """Whether a layer's bias, multiplier and shift fit 4 bytes a channel."""
    return all(_fits(values, _SHORT[name]) for name, values in _bnorm_rows(layer))


def is_wide(layer: Layer) -> bool:
    """Whether a layer's multiplier needs more than 16 bits."""
    assert layer.multiplier is not None
    return not _fits(np.asarray(layer.multiplier, np.int64), _BNORM["multiplier"])


def _bnorm_record(layer: Layer) -> bytes:
    form = _SHORT if is_short(layer) else _WIDE if is_wide(layer) else _BNORM
    rows = _bnorm_rows(layer)
    record = np.zeros(rows[0][1].size, form)
    for name, wide in rows:
        limits = np.iinfo(form[name])
        if not _fits(wide, form[name]):
            raise ProgramError(
                f"layer '{layer.name}': {name} {int(wide[np.argmax(np.abs(wide))])} does not fit the container "
                f"({limits.min} .. {limits.max})"
            )
        record[name] = wide
    return record.tobytes()


def _input_record(layer: Layer) -> bytes:
    assert layer.bias is not None and layer.multiplier is not None and layer.shift is not None
    record = np.zeros(layer.bias.size, _INPUT)
    record["bias"], record["multiplier"], record["shift"] = layer.bias, layer.multiplier, layer.shift
    return record.tobytes()


def _golden_section(golden: GoldenVectors | None) -> bytes:
    if golden is None:
        return b""
    parts = [struct.pack("<I", len(golden.features)), golden.features.astype("<f4").tobytes()]
    parts.append(golden.inputs.astype("i1").tobytes())
    parts += [output.astype("<i4").tobytes() for output in golden.outputs]
    parts.append(golden.layer_crc.astype("<u4").tobytes())
    return b"".join(parts)


def encode(container: Container) -> bytes:
    """The file's bytes; the same container always gives the same bytes.

    Raises:
        ProgramError: if a value does not fit its field.
    """
    heaps = {tag: _Heap() for tag in _TAGS}
    names: dict[str, int] = {}

    def name_at(name: str) -> int:
        if name not in names:
            names[name] = heaps[b"NAME"].add(name.encode() + b"\0")
        return names[name]

    try:
        for tensor in container.tensors:
            dims = (*tensor.shape, 1, 1)[:3]
            fields = (dims[0] - tensor.channels, *dims, tensor.offset, tensor.scale)
            code = DTYPES.index(tensor.dtype)
            heaps[b"TENS"].add(_TENSOR.pack(name_at(tensor.name), code, len(tensor.shape), *fields))
        for at, tensor in enumerate(container.tensors):
            if tensor.zero_point:
                heaps[b"ZERO"].add(_ZERO.pack(at, tensor.zero_point))
        for layer in container.layers:
            heaps[b"LAYR"].add(_layer_record(layer, name_at, heaps))
        for name, index in container.outputs.items():
            heaps[b"OUTP"].add(_OUTPUT.pack(name_at(name), index))
    except struct.error as error:
        raise ProgramError(f"a value does not fit the program container: {error}") from error
    heaps[b"GOLD"].add(_golden_section(container.golden))
    return _assemble(container, heaps)


def _layer_record(layer: Layer, name_at: _NameAt, heaps: Mapping[bytes, _Heap]) -> bytes:
    weight_at = bnorm_at = table_at = 0
    shape = (0, 0)
    if layer.weight is not None:
        shape = (layer.weight.shape[0], layer.weight.shape[1])
        if max(shape) > MAX_AXIS:
            raise ProgramError(f"layer '{layer.name}': weights of {shape[0]} x {shape[1]} are beyond {MAX_AXIS}")
        try:
            weight_at = heaps[b"WGHT"].share(pack(layer.weight, layer.weight_bits))
        except ProgramError as error:
            raise ProgramError(f"layer '{layer.name}': {error}") from error
    if layer.op == "quantize":
        bnorm_at = heaps[b"STEP"].share(_input_record(layer))
    elif layer.bias is not None and is_short(layer):
        bnorm_at = _SHORT_AT | heaps[b"BNRS"].share(_bnorm_record(layer))
    elif layer.bias is not None and is_wide(layer):
        bnorm_at = _WIDE_AT | heaps[b"BNRW"].share(_bnorm_record(layer))
    elif layer.bias is not None:
        bnorm_at = heaps[b"BNRM"].share(_bnorm_record(layer))
    if layer.entries is not None:
        table_at = heaps[b"LUT8"].share((np.asarray(layer.entries, np.int64) & 255).astype(np.uint8).tobytes())
    if layer.index is not None:
        table_at = heaps[b"TAKE"].share(pack_places(layer.index))
    inputs = (*layer.inputs, 0)[:2]
    how = ROUNDINGS.index(layer.rounding) << _ROUNDING_AT | (_BIAS_LAST if layer.bias_last else 0)
    codes = (OPS.index(layer.op), UNITS.index(layer.unit) | how, layer.weight_bits, len(layer.inputs))
    geometry = (*layer.kernel, *layer.stride, *layer.padding, layer.groups, *layer.dilation)
    places = (weight_at, bnorm_at, table_at, shape[0] << 16 | shape[1])
    names = (name_at(layer.name), name_at(layer.kind))
    return _LAYER.pack(*names, *codes, *inputs, layer.output, layer.low, layer.high, *geometry, *places, layer.scale)


def _assemble(container: Container, heaps: Mapping[bytes, _Heap]) -> bytes:
    used = [(tag, heap.data) for tag, heap in heaps.items() if heap.data]
    at = _HEADER.size + _SECTION.size * len(used)
    table, body = b"", b""
    for tag, data in used:
        table += _SECTION.pack(tag, at + len(body), len(data))
        body += bytes(data) + b"\0" * (-len(data) % 4)
    size = at + len(body)
    source = bytes.fromhex(container.source_sha256)
    header = _HEADER.pack(MAGIC, MAJOR, MINOR, size, 0, source, container.arena, len(used))
    return reseal(header + table + body)


def reseal(data: bytes) -> bytes:
    """The same bytes with the checksum that fits them."""
    crc = zlib.crc32(data[_CRC_FIELD.stop :], zlib.crc32(data[: _CRC_FIELD.start]))
    return data[: _CRC_FIELD.start] + struct.pack("<I", crc) + data[_CRC_FIELD.stop :]


# --- reading ------------------------------------------------------------------------------------


class _Reader:
    """Sections of a file whose header and checksum hold; every read is within bounds or a `ProgramError`."""

    def __init__(self, data: bytes, sections: Mapping[bytes, bytes]) -> None:
        self.data = data
        self.sections = sections

    def records(self, tag: bytes, record: struct.Struct) -> list[tuple[object, ...]]:
        section = self.sections.get(tag, b"")
        if len(section) % record.size:
            raise ProgramError(f"section {tag.decode()}: {len(section)} bytes are no whole number of records")
        return list(record.iter_unpack(section))

    def piece(self, tag: bytes, at: int, size: int) -> bytes:
        section = self.sections.get(tag, b"")
        if size < 0 or at + size > len(section):
            raise ProgramError(f"section {tag.decode()}: {size} bytes at {at} lie outside its {len(section)} bytes")
        return section[at : at + size]

    def name(self, at: int) -> str:
        section = self.sections.get(b"NAME", b"")
        end = section.find(b"\0", at)
        if at >= len(section) or end < 0:
            raise ProgramError(f"section NAME: no name at {at}")
        try:
            return section[at:end].decode()
        except UnicodeDecodeError as error:
            raise ProgramError(f"section NAME: the name at {at} is not UTF-8") from error


def _choice(table: Sequence[str], code: int, what: str) -> str:
    if code >= len(table):
        raise ProgramError(f"unknown {what} {code}; known: 0 .. {len(table) - 1}")
    return table[code]


def _sections(data: bytes) -> tuple[dict[bytes, bytes], str, int]:
    if len(data) < _HEADER.size or data[:4] != MAGIC:
        raise ProgramError(f"not a program: {len(data)} bytes, begins with {data[:4]!r} instead of {MAGIC!r}")
    _, major, minor, size, crc, source, arena, count = _HEADER.unpack_from(data)
    if (major, minor) != (MAJOR, MINOR):
        raise ProgramError(f"program of version {major}.{minor}; this flowlab reads {MAJOR}.{MINOR}: compile it again")
    if size != len(data):
        raise ProgramError(f"program of {size} bytes has {len(data)}: truncated, or something follows it")
    if reseal(data)[_CRC_FIELD] != struct.pack("<I", crc):
        raise ProgramError("program bytes are damaged: the checksum does not fit")
    if _HEADER.size + _SECTION.size * count > len(data):
        raise ProgramError(f"a table of {count} sections does not fit {len(data)} bytes")
    sections: dict[bytes, bytes] = {}
    for index in range(count):
        tag, at, length = _SECTION.unpack_from(data, _HEADER.size + _SECTION.size * index)
        if tag not in _TAGS or tag in sections or at + length > len(data):
            raise ProgramError(f"section {tag!r} of {length} bytes at {at} is unknown, there twice, or out of bounds")
        sections[tag] = data[at : at + length]
    return sections, bytes(source).hex(), arena


def parse(data: bytes) -> Container:
    """Read a program's bytes.

    Raises:
        ProgramError: if the bytes are damaged, truncated, of another version, or not what `encode` writes.
    """
    sections, source, arena = _sections(data)
    reader = _Reader(data, sections)
    zeros = _zero_points(reader)
    tensors = tuple(
        _tensor(reader, record, arena, zeros.get(at, 0)) for at, record in enumerate(reader.records(b"TENS", _TENSOR))
    )
    layers = tuple(_layer(reader, record, tensors) for record in reader.records(b"LAYR", _LAYER))
    _check_order(layers)
    outputs: dict[str, int] = {}
    for name_at, index in reader.records(b"OUTP", _OUTPUT):
        outputs[reader.name(_int(name_at))] = _tensor_index(_int(index), tensors)
    plain = Container(tensors, layers, outputs, arena, source)
    container = Container(tensors, layers, outputs, arena, source, _golden(reader, plain))
    if encode(container) != data:
        raise ProgramError("program bytes are not in the form that this version writes")
    return container


def _zero_points(reader: _Reader) -> dict[int, int]:
    return {_int(at): _int(zero) for at, zero in reader.records(b"ZERO", _ZERO)}


def _check_order(layers: Sequence[Layer]) -> None:
    if not layers or layers[0].op not in INPUT_STEPS or any(layer.op in INPUT_STEPS for layer in layers[1:]):
        raise ProgramError("a program begins with its one input step")
    if len({layer.name for layer in layers}) != len(layers):
        raise ProgramError("two layers of the program have one name")
    written = set(layers[0].inputs)
    for layer in layers:
        if not set(layer.inputs) <= written or layer.output in written:
            raise ProgramError(f"layer '{layer.name}' reads what no layer wrote before, or writes a tensor again")
        written.add(layer.output)


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def _tensor(reader: _Reader, record: tuple[object, ...], arena: int, zero_point: int) -> Tensor:
    name_at, dtype, rank, padding, *dims, offset = (_int(value) for value in record[:-1])
    channels = dims[0] - padding
    if rank not in (1, 3) or not all(dims) or (rank == 1 and dims[1:] != [1, 1]):
        raise ProgramError(f"tensor with {rank} axes of {dims}")
    elements = dims[0] * dims[1] * dims[2]
    if elements > MAX_ELEMENTS or not 0 < channels <= dims[0]:
        raise ProgramError(f"tensor of {dims} with {channels} channels is beyond the format's limits")
    kind = _choice(DTYPES, dtype, "dtype")
    if offset != OUTSIDE and (offset + elements > arena or kind == "float32"):
        raise ProgramError(f"tensor of {elements} elements at {offset} lies outside the arena of {arena} bytes")
    scale = record[-1]
    assert isinstance(scale, float)
    if not np.isfinite(scale):
        raise ProgramError("tensor with a scale that is no number")
    least, most = LIMITS.get(kind, (0, 0))
    if not least <= zero_point <= most:
        raise ProgramError(f"tensor of {kind} with the zero point {zero_point}")
    return Tensor(reader.name(name_at), kind, tuple(dims[:rank]), channels, offset, scale, zero_point)


def _tensor_index(index: int, tensors: Sequence[Tensor]) -> int:
    if index >= len(tensors):
        raise ProgramError(f"no tensor {index}; the program has {len(tensors)}")
    return index


def _layer(reader: _Reader, record: tuple[object, ...], tensors: Sequence[Tensor]) -> Layer:
    values = [_int(value) for value in record[:-1]]
    name_at, kind_at, op_code, unit, weight_bits, count, first, second, output, low, high = values[:11]
    kernel, stride, padding, groups = values[11:13], values[13:15], values[15:19], values[19]
    dilation = (values[20], values[21])
    weight_at, bnorm_at, table_at, shape = values[22:]
    name, op = reader.name(name_at), _choice(OPS, op_code, "operation")
    rounding = _choice(ROUNDINGS, (unit & ~_BIAS_LAST) >> _ROUNDING_AT, "rounding")
    bias_last, unit = bool(unit & _BIAS_LAST), unit & ((1 << _ROUNDING_AT) - 1)
    if (bias_last or rounding != "floor") and op not in REQUANTIZED:
        raise ProgramError(f"layer '{name}': {op} requantizes nothing, and says how it rounds")
    if count != (2 if op in PAIRS else 1) or not all((*kernel, *stride, *dilation, groups)):
        raise ProgramError(f"layer '{name}': {op} with {count} inputs, kernel {kernel}, stride {stride}")
    if op != "conv" and (dilation != (1, 1) or groups != 1):
        raise ProgramError(f"layer '{name}': {op} has no dilation and no groups, and says {dilation} and {groups}")
    inputs = tuple(_tensor_index(index, tensors) for index in (first, second)[:count])
    source, result = tensors[inputs[0]], tensors[_tensor_index(output, tensors)]
    parts: dict[str, NDArray[np.generic]] = {}
    if op in ("conv", "linear"):
        dims = (shape >> 16, shape & 0xFFFF, *kernel)
        if math.prod(dims) > MAX_ELEMENTS or not all(dims):
            raise ProgramError(f"layer '{name}': weights of {dims} are beyond the format's limits")
        parts["weight"] = _weights(reader, name, weight_at, dims, weight_bits)
    elif weight_bits != WEIGHT_BITS[0]:
        raise ProgramError(f"layer '{name}': {op} has no weights, and says that they have {weight_bits} bits")
    if op == "quantize" or op in REQUANTIZED:
        channels = source.shape[0] if op == "quantize" else result.shape[0]
        form, tag = (_INPUT, b"STEP") if op == "quantize" else (_BNORM, b"BNRM")
        if op != "quantize" and bnorm_at & _SHORT_AT:
            form, tag, bnorm_at = _SHORT, b"BNRS", bnorm_at ^ _SHORT_AT
        elif op != "quantize" and bnorm_at & _WIDE_AT:
            form, tag, bnorm_at = _WIDE, b"BNRW", bnorm_at ^ _WIDE_AT
        rows = np.frombuffer(reader.piece(tag, bnorm_at, channels * form.itemsize), form)
        parts["bias"] = rows["bias"].astype(np.float32 if op == "quantize" else np.int32)
        parts["multiplier"], parts["shift"] = rows["multiplier"].astype(np.int32), rows["shift"].astype(np.int32)
    if op == "table":
        bytes_ = np.frombuffer(reader.piece(b"LUT8", table_at, 256), np.uint8)
        parts["entries"] = (bytes_.view(np.int8) if result.dtype == "int8" else bytes_).astype(np.int16)
    if op == "take":
        parts["index"] = _places(reader, name, table_at, result.size)
    scale = record[-1]
    assert isinstance(scale, float)
    layer = Layer(
        name, op, reader.name(kind_at), _choice(UNITS, unit, "unit"), inputs, output,
        (kernel[0], kernel[1]), (stride[0], stride[1]), (padding[0], padding[1], padding[2], padding[3]),
        groups, dilation, low, high, weight_bits, scale=scale, rounding=rounding, bias_last=bias_last,
        **parts,  # type: ignore[arg-type]
    )  # fmt: skip
    check_layer(layer, [tensors[index] for index in inputs], result)
    return layer


def _places(reader: _Reader, layer: str, at: int, count: int) -> NDArray[np.int32]:
    (head,) = struct.unpack("<I", reader.piece(b"TAKE", at, 4))
    try:
        return unpack_places(reader.piece(b"TAKE", at, piece_size(head, count)), count)
    except ProgramError as error:
        raise ProgramError(f"layer '{layer}': {error}") from error


def _weights(reader: _Reader, layer: str, at: int, dims: tuple[int, ...], bits: int) -> NDArray[np.int8]:
    try:
        return unpack(reader.piece(b"WGHT", at, packed_size(math.prod(dims), bits)), dims, bits)
    except ProgramError as error:
        raise ProgramError(f"layer '{layer}': {error}") from error


def _golden(reader: _Reader, plain: Container) -> GoldenVectors | None:
    data = reader.sections.get(b"GOLD", b"")
    if not data:
        return None
    features, inputs = plain.tensors[plain.first().inputs[0]].size, plain.tensors[plain.first().output].size
    sizes = [plain.tensors[index].size for index in plain.outputs.values()]
    traced = len(plain.traced())
    count = struct.unpack("<I", reader.piece(b"GOLD", 0, 4))[0]
    if len(data) != 4 + count * (4 * features + inputs + 4 * sum(sizes) + 4 * traced):
        raise ProgramError(f"section GOLD: {len(data)} bytes do not hold {count} vectors")
    at = 4

    def take(columns: int, dtype: str) -> NDArray[np.generic]:
        nonlocal at
        size = count * columns * np.dtype(dtype).itemsize
        values = np.frombuffer(data[at : at + size], dtype).reshape(count, columns)
        at += size
        return values

    return GoldenVectors(
        take(features, "<f4").astype(np.float32),
        take(inputs, "i1").astype(np.int8),
        tuple(take(size, "<i4").astype(np.int32) for size in sizes),
        take(traced, "<u4").astype(np.uint32),
    )


# --- laws ---------------------------------------------------------------------------------------


def window_count(size: int, kernel: int, stride: int, before: int, after: int) -> int:
    """How many windows of a convolution or pool fit along one axis."""
    return (size + before + after - kernel) // stride + 1


def check_layer(layer: Layer, sources: Sequence[Tensor], result: Tensor) -> None:
    """Hold a layer against the shapes of what it reads and writes.

    Raises:
        ProgramError: naming the layer, what it would write, and what its tensor is.
    """
    source = sources[0]
    expected = _expected_shape(layer, sources, result)
    if layer.op == "quantize" and result.channels == source.shape[0] <= result.shape[0]:
        expected = (result.shape[0], *source.shape[1:])  # channels that padding added are zeros
    float_in, float_out = layer.op in INPUT_STEPS, layer.op == "dequantize"
    wrong_type = any((item.dtype == "float32") != float_in for item in sources) or (
        (result.dtype == "float32") != float_out
    )
    if layer.op in (*RENAMES, "max_pool", "concat", "take"):
        kept = (result.dtype, result.zero_point)
        wrong_type |= any((item.dtype, item.zero_point) != kept for item in sources)
    if layer.op == "add":
        wrong_type |= len({item.zero_point for item in sources}) > 1
    if expected != result.shape or wrong_type:
        raise ProgramError(
            f"layer '{layer.name}' ({layer.op}, {source.dtype} {source.shape}) would write {expected}, "
            f"its tensor is {result.dtype} {result.shape}"
        )
    if layer.op in CLIPPED:
        least, most = LIMITS[result.dtype]
        if not least <= layer.low <= layer.high <= most:
            raise ProgramError(f"layer '{layer.name}': clip {layer.low} .. {layer.high} leaves {result.dtype}")
    if layer.op == "quantize" or layer.op in REQUANTIZED:
        _check_rows(layer)
    if layer.op in ("quantize_linear", "add_float"):
        wide = [item.scale for item in (*sources, result) if item.dtype != "float32"]
        if any(not scale > 0 or float(np.float32(scale)) != scale for scale in wide):
            raise ProgramError(f"layer '{layer.name}': its scales {wide} are no float32 numbers above 0")


def _check_rows(layer: Layer) -> None:
    assert layer.shift is not None and layer.multiplier is not None and layer.bias is not None
    if not np.isfinite(layer.bias.astype(np.float64)).all():
        raise ProgramError(f"layer '{layer.name}': a bias that is no number")
    shift, most = np.asarray(layer.shift), MOST_SHIFT[layer.rounding]
    if shift.min() < -31 or shift.max() > most:
        raise ProgramError(f"layer '{layer.name}': a shift beyond {most} bits")
    if layer.rounding == "nearest_even" and not 0 <= layer.multiplier.min() <= layer.multiplier.max() <= 1 << 24:
        raise ProgramError(f"layer '{layer.name}': a multiplier beyond the 24 bits of a float")


def _expected_shape(layer: Layer, sources: Sequence[Tensor], result: Tensor) -> tuple[int, ...] | None:
    source = sources[0]
    if layer.op in PAIRS:
        return _paired_shape(layer.op, source.shape, sources[1].shape)
    if layer.op in ("take", *RENAMES):
        return _moved_shape(layer, source, result)
    if layer.op in (*INPUT_STEPS, "table", "dequantize"):
        return source.shape
    if layer.op == "linear":
        assert layer.weight is not None
        return (layer.weight.shape[0],) if layer.weight.shape[1:] == (*source.shape, 1, 1) else None
    return _windowed_shape(layer, source.shape) if len(source.shape) == 3 else None


def _moved_shape(layer: Layer, source: Tensor, result: Tensor) -> tuple[int, ...] | None:
    if layer.op == "flatten":
        return (source.size,)
    if layer.index is None:
        return result.shape if result.size == source.size else None
    fits = len(layer.index) == result.size and int(layer.index.min(initial=-1)) >= -1
    return result.shape if fits and int(layer.index.max(initial=-1)) < source.size else None


def _paired_shape(op: str, left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...] | None:
    if op == "concat":
        return (left[0] + right[0], *left[1:]) if left[1:] == right[1:] else None
    factors = (left[0], *(1,) * (len(left) - 1))
    return left if right == left or (op == "multiply" and right == factors) else None


def _windowed_shape(layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    channels, height, width = shape
    if layer.op == "sum_pool":
        return (channels, 1, 1)
    top, left, bottom, right = layer.padding
    if (height + top + bottom) * (width + left + right) > MAX_ELEMENTS:
        return None
    rows = window_count(height, layer.reach[0], layer.stride[0], top, bottom)
    columns = window_count(width, layer.reach[1], layer.stride[1], left, right)
    fits = rows >= 1 and columns >= 1 and rows * columns * math.prod(layer.kernel) * channels <= MAX_READS
    if layer.op == "max_pool":  # a window of padding alone has no largest value
        fits = fits and max(top, bottom) < layer.kernel[0] and max(left, right) < layer.kernel[1]
        return (channels, rows, columns) if fits else None
    assert layer.weight is not None
    out, inner = layer.weight.shape[:2]
    fits = fits and channels == inner * layer.groups and out % layer.groups == 0
    return (out, rows, columns) if fits else None
