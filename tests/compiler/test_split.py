"""Layers are split where the accelerator takes the parts and not the whole, and every integer stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from integer_graphs import Builder, features_of

from flowlab.compiler import interpreter, text
from flowlab.compiler.ir import Graph
from flowlab.compiler.passes.pad_channels import PadChannels
from flowlab.compiler.passes.split_groups import SplitGroups
from flowlab.compiler.passes.split_max_pool import SplitMaxPool
from flowlab.compiler.pipeline import apply_passes
from flowlab.compiler.place import Placement, place
from flowlab.compiler.rules import Layer, rule

from .random_graphs import random_features, random_graph


@rule("FCONV", "GCONV", "DWCONV", "PWCONV", "MAXPOOL")
def channels_in_fours(layer: Layer) -> bool:
    """Channels come in fours."""
    return layer.out_channels % 4 == 0 and (layer.kind == "FCONV" or layer.in_channels % 4 == 0)


@rule("MAXPOOL")
def one_short_side(layer: Layer) -> bool:
    """One side is short."""
    return min(layer.kernel) <= 4


@rule("GCONV")
def stride_one(layer: Layer) -> bool:
    """The stride is 1."""
    return layer.stride == (1, 1)


RULES = (channels_in_fours, one_short_side, stride_one)
PASSES = (SplitMaxPool(RULES), SplitGroups(RULES), PadChannels(rules=RULES))


def grouped(channels: int, out: int, groups: int, length: int = 4, **more: object) -> Graph:
    builder = Builder((1, length, 1), 7, multiplier=True).conv("first", channels, (3, 1), layer="FCONV")
    return builder.conv("grouped", out, (3, 1), groups=groups, **more).conv("last", 4, (1, 1)).graph()  # type: ignore[arg-type]


def split(graph: Graph) -> Placement:
    """The placement, whose graph gives every integer of the given one."""
    after = apply_passes(graph, PASSES)
    features = features_of(graph, 8)
    before, values = interpreter.run(graph, features), interpreter.run(after, features)
    for name, value in before.items():
        if name in values and graph.type_of(name).dtype != "int32":
            np.testing.assert_array_equal(value, values[name][:, : value.shape[1]], err_msg=name)
    assert all(node.name in values for node in graph.nodes if node.op == "requantize")
    return place(after, RULES)


def units(placement: Placement) -> dict[str, tuple[str, str]]:
    return {row.name: (row.layer, row.unit) for row in placement.rows}


def test_every_group_is_a_layer_where_its_channels_come_in_fours() -> None:
    placement = split(grouped(8, 16, 2))
    assert units(placement) == {
        "first": ("FCONV", "npu"),
        "grouped.0.in": ("take", "cpu"),
        "grouped.0": ("GCONV", "npu"),
        "grouped.1.in": ("take", "cpu"),
        "grouped.1": ("GCONV", "npu"),
        "grouped.bnorm": ("concat", "cpu"),
        "last": ("PWCONV", "npu"),
    }
    assert placement.npu_share == 1.0
    rows = {row.name: row for row in placement.rows}
    assert rows["grouped.0"].padding == "1 of 2 groups of 'grouped'"
    assert rows["grouped.0"].macs * 2 == 16 * 4 * 3 * 4
    assert {row.zero_macs for row in placement.rows} == {0}
    assert rows["grouped.0.in"].padding == "for 'grouped': +32 bytes of places"
    assert rows["grouped.0.in"].reason == (
        "the NPU has no layer for 'take', which moves what parts of layer 'grouped' read and make."
    )


def test_groups_that_the_accelerator_takes_together_are_one_layer_and_all_that_is_added_is_counted() -> None:
    placement = split(grouped(8, 8, 4))
    rows = {row.name: row for row in placement.rows}
    assert [name for name, row in rows.items() if row.layer == "GCONV"] == ["grouped.0", "grouped.1"]
    # two groups of 2 -> 2 channels as one of 4 -> 4: half of the weights are zeros
    assert rows["grouped.0"].padding == "2 of 4 groups of 'grouped': +96 MACs, +24 bytes of weights"
    assert rows["grouped.0"].zero_macs == 96
    (said,) = placement.sentences()
    part = "2 of 4 groups of 'grouped': +96 MACs, +24 bytes of weights"
    moved = "for 'grouped': +32 bytes of places"
    assert said == (
        "layers that the accelerator does not take are made of those that it does "
        "(the CPU moves what they read and make): "
        f"layer 'grouped.0.in' (take) {moved}; layer 'grouped.0' (GCONV) {part}; "
        f"layer 'grouped.1.in' (take) {moved}; layer 'grouped.1' (GCONV) {part}"
    )


def test_long_values_are_not_moved_where_zeros_take_fewer_bytes() -> None:
    placement = split(grouped(8, 8, 4, length=16))
    rows = {row.name: row for row in placement.rows}
    assert list(rows) == ["first", "grouped", "last"]  # 144 zeros, and not 48 zeros and 128 places of 2 bytes
    assert rows["grouped"].padding == "its 4 groups as one: +2304 MACs, +144 bytes of weights"
    assert placement.npu_share == 1.0
    assert {row.unit for row in placement.rows} == {"npu"}


def test_all_groups_are_one_layer_where_nothing_smaller_is_taken_and_channels_are_padded() -> None:
    placement = split(grouped(6, 6, 2))
    rows = {row.name: row for row in placement.rows}
    assert list(rows) == ["first", "grouped", "last"]
    assert (rows["grouped"].layer, rows["grouped"].unit) == ("GCONV", "npu")
    assert rows["grouped"].padding == (
        "its 2 groups as one: +384 MACs, +96 bytes of weights; "
        "6 -> 8 input channels, 6 -> 8 output channels: +336 MACs, +84 bytes of weights"
    )
    whole = {row.name: row for row in place(grouped(6, 6, 2), RULES).rows}  # zeros that both add are counted once
    assert {name: row.macs - row.zero_macs for name, row in rows.items()} == {
        name: row.macs for name, row in whole.items()
    }


@pytest.mark.parametrize("more", [{"dilation": (2, 1), "padding": (2, 0, 2, 0)}, {"stride": (2, 1)}])
def test_a_layer_whose_parts_break_a_rule_stays_whole(more: dict[str, object]) -> None:
    graph = grouped(8, 8, 2, **more)
    assert text.same(SplitGroups(RULES).apply(graph), graph)


def test_an_accumulator_that_others_read_too_stays_whole() -> None:
    graph = grouped(8, 8, 2)
    both = Graph(graph.inputs, graph.nodes, {**graph.outputs, "sums": "grouped"})
    assert text.same(SplitGroups().apply(both), both)


def test_a_large_pool_slides_along_one_side_at_a_time() -> None:
    builder = Builder((1, 16, 12), 7).conv("first", 4, (3, 3), layer="FCONV", unsigned=False)
    placement = split(builder.max_pool("pool", (5, 6), (2, 3), (2, 4, 1, 5)).graph())
    rows = {row.name: row for row in placement.rows}
    assert units(placement) == {
        "first": ("FCONV", "npu"), "pool.rows": ("MAXPOOL", "npu"), "pool": ("MAXPOOL", "npu")
    }  # fmt: skip
    assert rows["pool.rows"].shape == "4 -> 4 channels, kernel 5x1, stride 2x1"
    assert rows["pool"].shape == "4 -> 4 channels, kernel 1x6, stride 1x3"
    assert rows["pool"].padding == "part of 'pool'"


def test_a_pool_that_is_taken_as_it_is_stays_whole() -> None:
    builder = Builder((1, 16, 12), 7).conv("first", 4, (3, 3), layer="FCONV", unsigned=False)
    graph = builder.max_pool("pool", (5, 4), (2, 3), (2, 1, 1, 1)).graph()
    assert text.same(SplitMaxPool(RULES).apply(graph), graph)


@given(seed=st.integers(0, 2**32 - 1), quantized=st.booleans())
def test_what_is_split_runs_on_the_accelerator_and_nothing_leaves_it(seed: int, quantized: bool) -> None:
    graph = random_graph(seed, quantized)
    after = apply_passes(graph, PASSES)
    assert text.print_graph(apply_passes(after, PASSES)) == text.print_graph(after)
    before = place(PadChannels(rules=RULES).apply(graph), RULES)
    found = {row.name: row.unit for row in place(after, RULES).rows}
    for node in after.nodes:
        if node.op in ("conv", "max_pool") and "part_of" in node.attributes:
            assert found[node.name] == "npu"
    assert all(found[row.name] == "npu" for row in before.rows if row.unit == "npu")
    features = random_features(graph, seed)
    wanted, values = (interpreter.run(each, features, np.float64) for each in (graph, after))
    for name, value in graph.outputs.items():
        compare = np.testing.assert_array_equal if quantized else np.testing.assert_allclose
        more = {} if quantized else {"rtol": 1e-4, "atol": 1e-4 * (np.abs(wanted[value]).max() + 1e-6)}
        compare(values[after.outputs[name]], wanted[value], **more)
