from __future__ import annotations

import math
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from integer_graphs import awkward_graph, example_graph, features_of, moving_graph, narrow_graph, wide_input_graph

from flowlab.compiler import interpreter
from flowlab.compiler.ir import Graph
from flowlab.compiler.lower import layer_rows, lower, memory, with_golden
from flowlab.compiler.program import (
    MAJOR,
    MINOR,
    Container,
    encode,
    pack,
    pack_stream,
    packed_size,
    parse,
    reseal,
    unpack,
    unpack_stream,
)
from flowlab.compiler.trace import layer_crcs
from flowlab.contracts import Golden
from flowlab.errors import ProgramError
from flowlab_tinpu.simulator import simulate

SHA = "0123456789abcdef" * 4


def program_of(graph, vectors: int = 2) -> Container:
    features = features_of(graph, vectors)
    values = interpreter.run(graph, features)
    outputs = {name: values[value] for name, value in graph.outputs.items()}
    golden = Golden(features, values["quantize"], outputs, layer_crcs(graph, values), np.zeros((vectors, 1, 1)))
    return with_golden(lower(graph, SHA), golden)


SMALL = encode(program_of(wide_input_graph(), vectors=1))
MOVING = encode(program_of(moving_graph(), vectors=1))
NARROW = {bits: program_of(narrow_graph((bits, bits)), vectors=1) for bits in (4, 2)}


@pytest.mark.parametrize(
    "graph",
    [example_graph(), awkward_graph(), moving_graph(), wide_input_graph(), narrow_graph((4, 8)), narrow_graph((2, 2))],
)
def test_a_program_reads_back_as_it_was_written(graph) -> None:
    container = program_of(graph)
    data = encode(container)
    read = parse(data)
    assert encode(read) == data
    assert read.tensors == container.tensors
    assert read.source_sha256 == SHA
    for one, other in zip(read.layers, container.layers, strict=True):
        assert (one.name, one.op, one.unit, one.kind) == (other.name, other.op, other.unit, other.kind)
        assert (one.weight_bits, one.low, one.high) == (other.weight_bits, other.low, other.high)
        assert (one.dilation, one.stride, one.padding) == (other.dilation, other.stride, other.padding)
        for part in ("weight", "bias", "multiplier", "shift", "entries", "index"):
            np.testing.assert_array_equal(getattr(one, part), getattr(other, part))
    np.testing.assert_array_equal(read.golden.layer_crc, container.golden.layer_crc)
    np.testing.assert_array_equal(read.golden.features, container.golden.features)


def test_one_graph_has_one_program() -> None:
    assert encode(program_of(example_graph())) == encode(program_of(example_graph()))


def test_every_flipped_bit_is_refused() -> None:
    for place in range(len(SMALL)):
        for bit in range(8):
            damaged = bytearray(SMALL)
            damaged[place] ^= 1 << bit
            with pytest.raises(ProgramError):
                parse(bytes(damaged))


def test_every_truncation_and_every_tail_is_refused() -> None:
    for size in range(len(SMALL)):
        with pytest.raises(ProgramError):
            parse(SMALL[:size])
    with pytest.raises(ProgramError, match="something follows"):
        parse(SMALL + b"\0")


def test_another_magic_is_refused_by_its_name() -> None:
    with pytest.raises(ProgramError, match="not a program"):
        parse(b"TFL3" + SMALL[4:])


@pytest.mark.parametrize(
    "graph", [narrow_graph((4, 4)), narrow_graph((2, 2)), moving_graph()], ids=["4 bits", "2 bits", "moved"]
)
def test_every_flipped_byte_is_refused_or_runs(graph: Graph) -> None:
    data = encode(program_of(graph, vectors=1))
    features = features_of(graph, 1)
    refused = 0
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF if place % 9 == 8 else 1 << place % 9
        try:
            simulate(reseal(bytes(damaged)), features)
        except ProgramError:
            refused += 1
    assert 0 < refused < len(data)


@pytest.mark.parametrize("version", [(MAJOR + 1, 0), (MAJOR - 1, 0), (MAJOR, MINOR + 1)])
def test_another_version_is_refused_with_what_to_do(version: tuple[int, int]) -> None:
    data = reseal(SMALL[:4] + struct.pack("<HH", *version) + SMALL[8:])
    with pytest.raises(ProgramError, match=r"version .* compile it again"):
        parse(data)


@given(st.data(), st.sampled_from([SMALL, MOVING]))
def test_hostile_bytes_with_a_fitting_checksum_are_refused_or_run(data: st.DataObject, good: bytes) -> None:
    hostile = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(8, len(good) - 4))
        size = data.draw(st.sampled_from([1, 2, 4]))
        hostile[place : place + size] = data.draw(st.binary(min_size=size, max_size=size))
    sealed = reseal(bytes(hostile))
    try:
        container = parse(sealed)
        simulate(sealed, np.zeros((1, *container.tensors[container.first().inputs[0]].shape), np.float32))
    except ProgramError:
        return


@given(st.binary(max_size=200))
def test_bytes_that_are_no_program_are_refused(data: bytes) -> None:
    with pytest.raises(ProgramError):
        parse(b"FLNP" + data)


@given(st.tuples(*(st.integers(1, n) for n in (9, 9, 4, 3))), st.sampled_from([8, 4, 2]), st.integers(0, 2**32 - 1))
def test_packed_weights_unpack_and_waste_no_byte(shape: tuple[int, ...], bits: int, seed: int) -> None:
    most = 2 ** (bits - 1) - 1
    weight = np.random.default_rng(seed).integers(-most, most + 1, shape).astype(np.int8)
    packed = pack(weight, bits)
    assert len(packed) == packed_size(weight.size, bits) == math.ceil(weight.size * bits / 8)
    np.testing.assert_array_equal(unpack(packed, shape, bits), weight)


def test_two_or_four_weights_lie_in_a_byte_the_first_in_the_lowest_bits() -> None:
    four = np.array([7, -7, 1, -1, 0], np.int8)
    assert pack_stream(four, 4).tolist() == [0x97, 0xF1, 0x00]
    two = np.array([1, 0, -1, 1, -1, -1], np.int8)
    assert pack_stream(two, 2).tolist() == [0b01_11_00_01, 0b00_00_11_11]


@pytest.mark.parametrize("bits", [4, 2])
def test_packed_weights_keep_the_order_of_the_blocks(bits: int) -> None:
    most = 2 ** (bits - 1) - 1
    weight = np.random.default_rng(1).integers(-most, most + 1, (6, 5, 3, 2)).astype(np.int8)
    eight = np.frombuffer(pack(weight), np.int8)
    np.testing.assert_array_equal(unpack_stream(pack(weight, bits), weight.size, bits), eight)


@pytest.mark.parametrize(("bits", "weight"), [(4, 8), (4, -8), (2, -2), (2, 2)])
def test_a_weight_beyond_its_bits_is_not_written(bits: int, weight: int) -> None:
    container = NARROW[4]
    layer = container.layers[1]
    wide = replace(layer, weight=np.full(layer.weight.shape, weight, np.int8), weight_bits=bits)
    with pytest.raises(ProgramError, match=rf"'conv1.bnorm': a weight of magnitude {abs(weight)} does not fit {bits}"):
        encode(replace(container, layers=(container.layers[0], wide, *container.layers[2:])))


def changed_weights(container: Container, change) -> bytes:
    """The program with other bytes for the weights of its first layer."""
    layer = container.layers[1]
    packed = pack(layer.weight, layer.weight_bits)
    data = encode(container)
    assert data.count(packed) == 1
    return reseal(data.replace(packed, change(packed)))


@pytest.mark.parametrize(("bits", "pattern"), [(4, 0x08), (2, 0x02)])
def test_the_most_negative_pattern_is_no_weight(bits: int, pattern: int) -> None:
    data = changed_weights(NARROW[bits], lambda packed: bytes([packed[0] & ~(2**bits - 1) | pattern]) + packed[1:])
    with pytest.raises(ProgramError, match=rf"'conv1.bnorm': a weight of magnitude {pattern} does not fit {bits} bits"):
        parse(data)


@pytest.mark.parametrize("bits", NARROW)
def test_bits_behind_the_last_weight_are_zero(bits: int) -> None:
    data = changed_weights(NARROW[bits], lambda packed: packed[:-1] + bytes([packed[-1] | 0x40]))
    with pytest.raises(ProgramError, match=r"'conv1.bnorm': the last byte of 15 weights .* hold no weight"):
        parse(data)


def test_other_widths_and_widths_without_weights_are_refused() -> None:
    container = NARROW[4]
    layer = next(layer for layer in container.layers if layer.op == "max_pool")
    layers = [replace(each, weight_bits=4) if each is layer else each for each in container.layers]
    with pytest.raises(ProgramError, match="'pool': max_pool has no weights, and says that they have 4 bits"):
        parse(encode(replace(container, layers=tuple(layers))))
    with pytest.raises(ProgramError, match="weights of 3 bits; a program has weights of 8, 4 or 2"):
        pack_stream(np.zeros(4, np.int8), 3)
    for data, count in ((b"\0", 3), (b"\0\0\0", 3)):
        with pytest.raises(ProgramError, match="do not hold 3 weights of 4 bits"):
            unpack_stream(data, count, 4)


def test_weights_lie_in_blocks_of_four_outputs_by_four_inputs() -> None:
    weight = np.arange(8 * 8, dtype=np.int8).reshape(8, 8, 1, 1)
    first = np.frombuffer(pack(weight), np.int8)[:16].reshape(4, 4)
    np.testing.assert_array_equal(first, weight[:4, :4, 0, 0])


def test_a_value_that_does_not_fit_its_field_is_not_wrapped() -> None:
    container = program_of(example_graph())
    layer = container.layers[1]
    wide = replace(layer, shift=np.full(layer.bias.size, 200, np.int32))
    with pytest.raises(ProgramError, match=r"'conv1.bnorm': shift 200 does not fit"):
        encode(replace(container, layers=(container.layers[0], wide, *container.layers[2:])))


def test_an_accumulator_that_nothing_requantizes_is_refused() -> None:
    graph = example_graph()
    bare = type(graph)(graph.inputs, graph.nodes[:-1], {"output": "fc"}, {})
    with pytest.raises(ProgramError, match="the accumulator 'fc'"):
        lower(bare, SHA)


def test_rows_and_memory_say_what_the_program_takes() -> None:
    container = program_of(example_graph())
    rows = {row.name: row for row in layer_rows(container)}
    assert rows["conv1.bnorm"].macs == 8 * 5 * 32
    assert rows["conv2.bnorm"].weight_bytes == 8 * 8 * 3
    assert rows["conv1.bnorm"].layer == "FCONV"
    needed = memory(container)
    assert needed["ram"] == {"arena": 512, "quantize": 64}
    assert needed["flash"]["fc.bnorm"] == 32 + 2 * 7
    assert memory(container, 2)["ram"]["arena"] == 1024


def test_narrow_weights_take_as_many_bytes_as_they_have_bits() -> None:
    for bits, container in NARROW.items():
        rows = {row.name: row for row in layer_rows(container)}
        assert rows["conv1.bnorm"].weight_bytes == math.ceil(15 * bits / 8)
        assert rows["conv2.bnorm"].weight_bytes == math.ceil(105 * bits / 8)
        assert memory(container)["flash"]["conv2.bnorm"] == rows["conv2.bnorm"].weight_bytes + 7 * 7
        assert memory(container, 2)["flash"]["conv2.bnorm"] == 2 * rows["conv2.bnorm"].weight_bytes + 7 * 8


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("moved", {"index": np.full(48, 48, np.int32)}, ".*would write None"),
        ("moved", {"index": np.full(48, -2, np.int32)}, ": runs of places from -2 to -2"),
        ("dilated.bnorm", {"dilation": (9, 1)}, ".*would write"),
        ("again", {"op": "flatten"}, r".*would write \(48,\)"),
        ("gated.bnorm", {"op": "add"}, ".*would write None"),
    ],
)
def test_a_layer_that_does_not_fit_its_tensors_is_refused_by_name(name: str, change: dict[str, Any], said: str) -> None:
    container = program_of(moving_graph(), vectors=1)
    layers = tuple(replace(one, **change) if one.name == name else one for one in container.layers)
    with pytest.raises(ProgramError, match=f"layer '{name}'{said}"):
        parse(encode(replace(container, layers=layers, golden=None)))


def test_a_list_of_places_that_is_too_short_is_refused() -> None:
    container = program_of(moving_graph(), vectors=1)
    layers = tuple(replace(one, index=one.index[:-1]) if one.name == "turned" else one for one in container.layers)
    with pytest.raises(ProgramError, match="layer 'turned': 12 runs of 95 places; 96 are needed"):
        parse(encode(replace(container, layers=layers, golden=None)))


def test_moved_numbers_take_two_bytes_a_place_and_renamed_ones_none() -> None:
    container = lower(moving_graph(), SHA)
    flash = memory(container)["flash"]
    assert flash["moved"] == 2 * 48
    assert flash["turned"] == 2 * 96
    assert not {"again", "shaped", "both", "flatten"} & set(flash)
    offsets = {tensor.name: tensor.offset for tensor in container.tensors}
    assert offsets["shaped"] == offsets["turned"]
    assert memory(container, char_bytes=2)["flash"]["moved"] == 2 * 48
