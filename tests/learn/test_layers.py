"""Layer tables."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowlab.errors import OptionError
from flowlab.learn.layers import AveragePool, Conv, Dense, MaxPool, Row, build_network, count_parameters

ROWS = st.lists(
    st.one_of(
        st.builds(Conv, st.integers(1, 8), st.tuples(st.integers(1, 7), st.just(1)), st.sampled_from([(1, 1), (2, 1)])),
        st.builds(MaxPool, st.tuples(st.integers(1, 4), st.just(1)), st.sampled_from([(1, 1), (2, 1), (4, 1)])),
    ),
    max_size=4,
)
TAIL = st.sampled_from([(), (AveragePool(),), (AveragePool((2, 1)), Dense(5)), (Dense(6, norm=False), Dense(3))])


@given(ROWS, TAIL, st.integers(1, 3), st.integers(8, 40))
def test_every_table_builds_a_network_of_its_head(
    rows: list[Row], tail: tuple[Row, ...], channels: int, length: int
) -> None:
    module = build_network((*rows, *tail), (channels, length, 1), 3)
    assert module(torch.zeros(4, channels, length, 1)).shape == (4, 3)


def test_layers_are_named_by_kind_and_number() -> None:
    module = build_network((Conv(4, (3, 1)), MaxPool((3, 1)), Conv(8, (3, 1)), AveragePool(), Dense(5)), (1, 16, 1), 2)
    assert [name for name, _ in module.named_children()] == [
        *("norm", "conv1", "conv1_norm", "conv1_relu", "pool1", "conv2", "conv2_norm", "conv2_relu"),
        *("average1", "flatten", "fc1", "fc1_norm", "fc1_relu", "fc"),
    ]


def test_padding_that_is_not_given_is_half_the_kernel() -> None:
    module = build_network((Conv(4, (5, 3)), MaxPool((4, 1), (4, 1))), (1, 16, 5), 2)
    assert module.get_submodule("conv1").padding == (2, 1)
    assert module.get_submodule("pool1").padding == (2, 0)


def test_a_convolution_has_a_bias_and_depthwise_ones_a_group_for_each_channel() -> None:
    module = build_network((Conv(6, (5, 1)), Conv(6, (3, 1), depthwise=True)), (1, 16, 1), 2)
    assert module.get_submodule("conv1").bias is not None
    assert module.get_submodule("conv2").groups == 6


def test_an_input_too_short_for_a_layer_names_the_layer() -> None:
    with pytest.raises(OptionError, match="layer 'conv1' with a kernel of 5x1 gets 3x1 values"):
        build_network((Conv(4, (5, 1), padding=(0, 0)),), (1, 3, 1), 2)


def test_parameters_are_counted() -> None:
    assert count_parameters(build_network((Conv(4, (3, 1)),), (1, 8, 1), 2)) == 2 + 16 + 8 + 32 * 2 + 2
