"""The interpreter is the meaning of the graph: checked against loops, by hand, and at the edges of its numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowlab.compiler import interpreter
from flowlab.compiler.text import parse_graph
from flowlab.compiler.trace import layer_crcs
from flowlab.compiler.verify import verify
from flowlab.errors import GraphError

from .random_graphs import random_features, random_graph


def looped_conv(x, weight, stride, padding, groups, dilation=(1, 1)):
    """A convolution in Python integers."""
    x = np.pad(x, ((0, 0), (padding[0], padding[2]), (padding[1], padding[3]))).tolist()
    out, per_group, high, wide = weight.shape
    down, across = dilation
    rows = (len(x[0]) - (high - 1) * down - 1) // stride[0] + 1
    columns = (len(x[0][0]) - (wide - 1) * across - 1) // stride[1] + 1
    made = np.zeros((out, rows, columns), object)
    for c, row, column in itertools.product(range(out), range(rows), range(columns)):
        first = c // (out // groups) * per_group
        made[c, row, column] = sum(
            int(weight[c, k, i, j]) * x[first + k][row * stride[0] + i * down][column * stride[1] + j * across]
            for k, i, j in itertools.product(range(per_group), range(high), range(wide))
        )
    return made


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_convolutions_are_those_of_loops_over_integers(seed: int) -> None:
    graph = random_graph(seed, quantized=True)
    values = interpreter.run(graph, random_features(graph, seed, 1))
    for node in graph.nodes:
        if node.op == "conv":
            a = node.attributes
            geometry = a["stride"], a["padding"], a["groups"], a.get("dilation", (1, 1))
            expected = looped_conv(values[node.inputs[0]][0], node.constants["weight"], *geometry)
            np.testing.assert_array_equal(values[node.name][0], expected.astype(np.int64))


@given(seed=st.integers(0, 2**32 - 1), quantized=st.booleans())
@settings(max_examples=25)
def test_a_batch_gives_what_its_vectors_give_one_at_a_time(seed: int, quantized: bool) -> None:
    graph = random_graph(seed, quantized)
    features = random_features(graph, seed)
    together = interpreter.outputs(graph, features)["output"]
    alone = interpreter.outputs(graph, features, batch=1)["output"]
    np.testing.assert_allclose(together, alone, rtol=0 if quantized else 1e-4, atol=0 if quantized else 1e-4)


def one_step(bias: float, multiplier: int, shift: int) -> str:
    return f"""
        graph 1
        input %input: float32[1]
        %q: int8[1] scale 0.5 = quantize(%input) high=127 low=-128
          bias: float32[1] = {bias!r}
          multiplier: int32[1] = {multiplier}
          shift: int32[1] = {shift}
        output "output" = %q
    """


@pytest.mark.parametrize(
    ("x", "bias", "multiplier", "shift", "expected"),
    [
        (1.0, 0.5, 3, 1, 2),  # floor(4.5) >> 1
        (-1.0, 0.5, 3, 1, -1),  # floor(-1.5) = -2, >> 1
        (1.0, 0.0, -3, 0, -3),
        (1e30, 0.0, 2047, 31, 127),  # the floor is unbounded: no wrap before the shift
        (-1e30, 0.0, 2047, 31, -128),
        (3e38, 3e38, 2047, 31, 127),  # float32 overflows to infinity, which is clipped
        (2.0**24, 1.0, 1, 18, 64),  # the sum is a float32 sum: 2^24 + 1 = 2^24
        (float(2**31), 0.0, 1, 30, 2),  # does not fit int32
    ],
)
def test_the_input_step_is_defined_to_the_bit(x, bias, multiplier, shift, expected) -> None:
    graph = parse_graph(one_step(bias, multiplier, shift))
    verify(graph)
    with np.errstate(all="raise", over="ignore"):
        found = interpreter.outputs(graph, np.array([[x]], np.float32))["output"]
    assert found.tolist() == [[expected]]
    assert found.dtype == np.int8


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_feature_that_has_no_integer_is_an_error(bad: float) -> None:
    with pytest.raises(GraphError, match="node 'q': the features contain NaN or infinity"):
        interpreter.outputs(parse_graph(one_step(0.0, 0, 0)), np.array([[bad]], np.float32))


def test_channels_that_the_quantization_adds_are_zero_whatever_their_constants_say() -> None:
    graph = parse_graph(
        """
        graph 1
        input %input: float32[1, 2, 1]
        %q: int8[2, 2, 1] scale 0.5 = quantize(%input) channels=1 high=127 low=-128
          bias: float32[2] = 0.0 9.0
          multiplier: int32[2] = 1 5
          shift: int32[2] = 0 0
        output "output" = %q
        """
    )
    verify(graph)
    found = interpreter.outputs(graph, np.full((1, 1, 2, 1), 3.0, np.float32))["output"]
    assert found.ravel().tolist() == [3, 3, 0, 0]


def test_requantization_floors_towards_minus_infinity_and_clips() -> None:
    graph = parse_graph(
        """
        graph 1
        input %input: int8[2]
        %fc: int32[2] scale 0.0 = linear(%input)
          weight: int8[2, 2] = 1 0 0 1
        %y: int8[2] scale 0.5 = requantize(%fc) bias_before_multiply=true high=5 low=-6 rounding="floor"
          bias: int32[2] = 0 1
          multiplier: int32[2] = 3 1
          shift: int32[2] = 2 -1
        output "output" = %y
        """
    )
    verify(graph)
    found = interpreter.outputs(graph, np.array([[-1, -1], [5, 1], [127, 127], [-128, -128]], np.int8))["output"]
    assert found.tolist() == [[-1, 0], [3, 4], [5, 5], [-6, -6]]


def test_zero_points_are_taken_off_and_padding_means_zero() -> None:
    graph = parse_graph(
        """
        graph 1
        input %input: uint8[1, 2, 1] scale 0.5 zero_point 100
        %c: int32[1, 3, 1] scale 0.0 = conv(%input) groups=1 padding=(1, 0, 1, 0) stride=(1, 1)
          weight: int8[1, 1, 2, 1] = 1 1
        %y: int8[1, 3, 1] zero_point -7 = requantize(%c) bias_before_multiply=true high=127 low=-128 rounding="floor"
          bias: int32[1] = 0
          multiplier: int32[1] = 1
          shift: int32[1] = 0
        output "output" = %y
        """
    )
    verify(graph)
    found = interpreter.outputs(graph, np.array([[[[101], [97]]]], np.uint8))["output"]
    assert found.ravel().tolist() == [1 - 7, -2 - 7, -3 - 7]


def test_padding_never_wins_a_max_pool() -> None:
    graph = parse_graph(
        """
        graph 1
        input %input: int8[1, 2, 1]
        %p: int8[1, 2, 1] = max_pool(%input) kernel=(2, 1) padding=(1, 0, 0, 0) stride=(1, 1)
        output "output" = %p
        """
    )
    found = interpreter.outputs(graph, np.array([[[[-100], [-128]]]], np.int8))["output"]
    assert found.ravel().tolist() == [-100, -100]


def test_a_table_is_indexed_from_the_least_byte() -> None:
    entries = " ".join(str(value) for value in range(256))
    for dtype, x in (("int8", -128), ("uint8", 0)):
        graph = parse_graph(
            f"""
            graph 1
            input %input: {dtype}[2]
            %t: uint8[2] = table(%input)
              entries: uint8[256] = {entries}
            output "output" = %t
            """
        )
        assert interpreter.outputs(graph, np.array([[x, x + 255]], dtype))["output"].tolist() == [[0, 255]]


def test_features_of_another_shape_are_refused() -> None:
    with pytest.raises(GraphError, match=r"reads vectors of shape \(1,\), and the features have \(2,\)"):
        interpreter.run(parse_graph(one_step(0.0, 1, 0)), np.zeros((1, 2), np.float32))


def test_a_layers_checksum_is_of_its_own_bytes_without_padding() -> None:
    import zlib

    graph = parse_graph(one_step(0.0, 1, 0).replace("quantize(%input) ", "quantize(%input) channels=1 "))
    values = interpreter.run(graph, np.array([[-2.0], [5.0]], np.float32))
    assert layer_crcs(graph, values)["q"].tolist() == [zlib.crc32(b"\xfe"), zlib.crc32(b"\x05")]
    padded = {"q": np.concatenate([values["q"], np.full((2, 3), 77, np.int8)], axis=1)}
    assert layer_crcs(graph, padded)["q"].tolist() == [zlib.crc32(b"\xfe"), zlib.crc32(b"\x05")]


def test_a_dilated_kernel_skips_rows_and_columns() -> None:
    graph = parse_graph(
        """
        graph 1
        input %input: int8[1, 5, 3]
        %c: int32[2, 3, 2] scale 0.0 = conv(%input) dilation=(3, 2) groups=1 padding=(1, 1, 0, 0) stride=(1, 1)
          weight: int8[2, 1, 2, 2] = 1 2 3 4 -1 -2 -3 -5
        output "output" = %c
        """
    )
    verify(graph)
    x = np.arange(15).reshape(1, 1, 5, 3).astype(np.int8) + np.int8(1)
    padded = np.pad(x[0, 0].astype(int), ((1, 0), (1, 0)))
    expected = [
        [[w[0] * padded[r, c] + w[1] * padded[r, c + 2] + w[2] * padded[r + 3, c] + w[3] * padded[r + 3, c + 2]
          for c in range(2)] for r in range(3)]
        for w in ((1, 2, 3, 4), (-1, -2, -3, -5))
    ]  # fmt: skip
    assert interpreter.outputs(graph, x)["output"][0].tolist() == expected


def test_a_product_is_of_two_values_or_of_one_factor_a_channel() -> None:
    graph = parse_graph(
        """
        graph 1
        input %input: int8[2, 2, 1] scale 0.5
        %first: int8[2, 1, 1] scale 0.5 = take(%input)
          index: int32[2] = 0 2
        %gate: uint8[2, 1, 1] scale 0.25 = table(%first)
          entries: uint8[256] = 7*256
        %square: int32[2, 2, 1] scale 0.25 = multiply(%input, %input)
        %gated: int32[2, 2, 1] scale 0.125 = multiply(%input, %gate)
        output "gated" = %gated
        output "square" = %square
        """
    )
    verify(graph)
    found = interpreter.outputs(graph, np.array([[[[-128], [2]], [[3], [127]]]], np.int8))
    assert found["square"].ravel().tolist() == [16384, 4, 9, 16129]
    assert found["gated"].ravel().tolist() == [-896, 14, 21, 889]


def test_values_are_moved_joined_and_given_another_shape() -> None:
    graph = parse_graph(
        """
        graph 1
        input %input: float32[2, 2, 1]
        %turned: float32[1, 2, 3] = take(%input)
          index: int32[6] = 3 -1 0 0 1 2
        %long: float32[2, 3, 1] = reshape(%turned)
        %both: float32[4, 3, 1] = concat(%long, %long)
        output "output" = %both
        """
    )
    verify(graph)
    found = interpreter.outputs(graph, np.array([[[[1], [2]], [[3], [4]]]], np.float32))["output"]
    assert found.ravel().tolist() == [4, 0, 1, 1, 2, 3] * 2
    assert found.dtype == np.float32


def test_a_place_that_takes_nothing_means_zero() -> None:
    graph = parse_graph(
        """
        graph 1
        input %input: uint8[2] scale 0.5 zero_point 9
        %t: uint8[3] scale 0.5 zero_point 9 = take(%input)
          index: int32[3] = 1 -1 0
        output "output" = %t
        """
    )
    verify(graph)
    assert interpreter.outputs(graph, np.array([[1, 2]], np.uint8))["output"].tolist() == [[2, 9, 1]]
