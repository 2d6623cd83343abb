"""The widths that C gets are proven: the largest sum is reached, and no order of summation passes it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from integer_graphs import Builder

from flowlab.compiler.bounds import largest_sums, value_ranges
from flowlab.compiler.lower import lower

CONTAINER = lower(Builder((3, 2, 1), 0).flatten().linear("fc", 2).graph(), "ab" * 32)
LAYER = CONTAINER.layers[-1]
SOURCE = CONTAINER.tensors[LAYER.inputs[0]]
RANGES = [(-128, 127), (0, 255), (-8, 7), (0, 15), (-2, 1), (0, 3), (3, 5), (-5, -3)]


@given(
    st.lists(st.integers(-127, 127), min_size=12, max_size=12),
    st.sampled_from(RANGES),
    st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(0, 255), st.integers(-3, 31)),
)
def test_the_largest_sum_is_one_that_an_input_makes(weights, given_, numbers) -> None:
    bias, multiplier, shift = (np.full(2, number, np.int64) for number in numbers)
    weight = np.array(weights, np.int8).reshape(2, 6, 1, 1)
    layer = replace(LAYER, weight=weight, bias=bias, multiplier=multiplier, shift=shift)
    low, high = min(given_[0], 0), max(given_[1], 0)  # terms that zero padding leaves out
    ends = weight.reshape(2, 6).astype(np.int64)
    most, least = np.where(ends > 0, ends * high, ends * low).sum(1), np.where(ends > 0, ends * low, ends * high).sum(1)
    sums, products = largest_sums(layer, SOURCE, given_)
    assert sums == max(most.max(), -least.min())
    factor = max(1, numbers[1] * 2 ** max(0, -numbers[2]))
    assert products == max(abs(int(end) + numbers[0]) for end in (*most, *least)) * factor


def test_a_multiplier_of_zero_hides_no_bias_that_leaves_32_bits() -> None:
    bias = np.full(2, 2**31 - 1, np.int64)
    layer = replace(LAYER, bias=bias, multiplier=np.zeros(2, np.int32), shift=np.zeros(2, np.int32))
    assert largest_sums(layer, SOURCE, (0, 255))[1] >= 1 << 31


def test_a_pool_and_a_flatten_keep_the_range_of_what_they_read() -> None:
    builder = Builder((1, 8, 1), 0, bits=(4, 4)).conv("conv", 2, (3, 1)).max_pool("pool", (2, 1), (2, 1), (0, 0, 0, 0))
    container = lower(builder.flatten().linear("fc", 2).graph(), "ab" * 32)
    by_name = {container.tensors[at].name: range_ for at, range_ in value_ranges(container).items()}
    assert by_name == {
        "quantize": (-8, 7), "conv.bnorm": (0, 15), "pool": (0, 15), "flatten": (0, 15), "fc.bnorm": (-128, 127),
    }  # fmt: skip
