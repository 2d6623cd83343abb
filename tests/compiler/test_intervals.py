"""Bounds of integers are sound on any graph, and exact where they can be reached."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flowlab.compiler import interpreter
from flowlab.compiler.intervals import intervals_of
from flowlab.compiler.text import parse_graph

from .random_graphs import random_features, random_graph


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_no_integer_of_any_graph_leaves_its_bounds(seed: int) -> None:
    graph = random_graph(seed, quantized=True)
    values = interpreter.run(graph, random_features(graph, seed))
    for name, (low, high) in intervals_of(graph).items():
        channels = np.moveaxis(values[name], 1, 0).reshape(len(low), -1)
        assert (channels.min(axis=1) >= low).all(), name
        assert (channels.max(axis=1) <= high).all(), name


def test_zero_padding_takes_part_in_a_bound() -> None:
    graph = parse_graph(
        """
        graph 1
        input %input: int8[1]
        %fc: int32[1] scale 0.0 = linear(%input)
          weight: int8[1, 1] = 1
        output "output" = %fc
        """
    )
    assert [int(bound[0]) for bound in intervals_of(graph)["fc"]] == [-128, 127]
    lifted = parse_graph(
        """
        graph 1
        input %input: float32[1, 4, 2]
        %q: int8[1, 4, 2] scale 0.5 = quantize(%input) high=100 low=50
          bias: float32[1] = 0.0
          multiplier: int32[1] = 1
          shift: int32[1] = 0
        %c: int32[1, 4, 2] scale 0.0 = conv(%q) groups=1 padding=(1, 0, 1, 0) stride=(1, 1)
          weight: int8[1, 1, 3, 1] = 1 2 -3
        %s: int32[1, 1, 1] scale 0.5 = sum_pool(%q)
        output "c" = %c
        output "s" = %s
        """
    )
    found = intervals_of(lifted)
    assert [int(bound[0]) for bound in found["c"]] == [-300, 300]
    assert [int(bound[0]) for bound in found["s"]] == [400, 800]


def test_products_and_moves_have_the_bounds_of_what_they_read() -> None:
    graph = parse_graph(
        """
        graph 1
        input %input: float32[2, 2, 1]
        %q: int8[2, 2, 1] scale 0.5 = quantize(%input) high=3 low=-8
          bias: float32[2] = 0.0*2
          multiplier: int32[2] = 1 1
          shift: int32[2] = 0 0
        %u: uint8[2, 2, 1] scale 0.5 = table(%q)
          entries: uint8[256] = 5 9*255
        %m: int32[2, 2, 1] scale 0.25 = multiply(%q, %u)
        %t: uint8[2, 1, 1] scale 0.5 = take(%u)
          index: int32[2] = 3 -1
        %r: uint8[1, 2, 1] scale 0.5 = reshape(%t)
        %j: uint8[3, 2, 1] scale 0.5 = concat(%u, %r)
        output "m" = %m
        output "j" = %j
        """
    )
    found = {name: [bound.tolist() for bound in ends] for name, ends in intervals_of(graph).items()}
    assert found["m"] == [[-72, -72], [27, 27]]
    assert found["t"] == [[5, 0], [9, 0]]
    assert found["r"] == [[0], [9]]
    assert found["j"] == [[5, 5, 0], [9, 9, 9]]
