from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from integer_graphs import awkward_graph, example_graph, features_of, wide_input_graph

from flowlab.compiler import interpreter
from flowlab.compiler.lower import layer_rows, lower, memory, with_golden
from flowlab.compiler.program import MAJOR, Container, encode, pack, parse, reseal, unpack
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


@pytest.mark.parametrize("graph", [example_graph(), awkward_graph(), wide_input_graph()])
def test_a_program_reads_back_as_it_was_written(graph) -> None:
    container = program_of(graph)
    data = encode(container)
    read = parse(data)
    assert encode(read) == data
    assert read.tensors == container.tensors
    assert read.source_sha256 == SHA
    for one, other in zip(read.layers, container.layers, strict=True):
        assert (one.name, one.op, one.unit, one.kind) == (other.name, other.op, other.unit, other.kind)
        for part in ("weight", "bias", "multiplier", "shift", "entries"):
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


@pytest.mark.parametrize("version", [(MAJOR + 1, 0), (MAJOR - 1, 0), (MAJOR, 1)])
def test_another_version_is_refused_with_what_to_do(version: tuple[int, int]) -> None:
    data = reseal(SMALL[:4] + struct.pack("<HH", *version) + SMALL[8:])
    with pytest.raises(ProgramError, match=r"version .* compile it again"):
        parse(data)


@given(st.data())
def test_hostile_bytes_with_a_fitting_checksum_are_refused_or_run(data: st.DataObject) -> None:
    hostile = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(8, len(SMALL) - 4))
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


@given(st.tuples(*(st.integers(1, n) for n in (9, 9, 4, 3))), st.integers(0, 2**32 - 1))
def test_packed_weights_unpack_and_waste_no_byte(shape: tuple[int, ...], seed: int) -> None:
    weight = np.random.default_rng(seed).integers(-127, 128, shape).astype(np.int8)
    packed = pack(weight)
    assert len(packed) == weight.size
    np.testing.assert_array_equal(unpack(packed, shape), weight)


def test_weights_lie_in_blocks_of_four_outputs_by_four_inputs() -> None:
    weight = np.arange(8 * 8, dtype=np.int8).reshape(8, 8, 1, 1)
    first = np.frombuffer(pack(weight), np.int8)[:16].reshape(4, 4)
    np.testing.assert_array_equal(first, weight[:4, :4, 0, 0])


def test_a_value_that_does_not_fit_its_field_is_not_wrapped() -> None:
    container = program_of(example_graph())
    layer = container.layers[1]
    wide = replace(layer, multiplier=np.full(layer.bias.size, 70000, np.int32))
    with pytest.raises(ProgramError, match=r"'conv1.bnorm': multiplier 70000 does not fit"):
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
