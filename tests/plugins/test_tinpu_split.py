"""What the NPU does not take whole runs there in parts, and the simulator gives every integer of the whole."""

from __future__ import annotations

import numpy as np
import pytest
from compiler.random_graphs import random_features, random_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_graphs import Builder, features_of

from flowlab.compiler import interpreter
from flowlab.compiler.ir import Graph
from flowlab.compiler.lower import lower
from flowlab.compiler.pipeline import place_for
from flowlab.compiler.place import place
from flowlab.compiler.program import encode
from flowlab.compiler.trace import layer_crcs
from flowlab_tinpu.devices import TARGETS
from flowlab_tinpu.simulator import simulate

DEVICE = next(target for target in TARGETS if target.name == "F28P55")


def grouped(bits: int) -> Graph:
    """Groups of 4 -> 8 channels, of 2 -> 2 where values are short, and of 3 -> 5; and a pool of 5 x 5."""
    builder = Builder((1, 10, 3), 13, multiplier=True, bits=(bits, 8))
    builder.conv("first", 8, (3, 3), layer="FCONV").conv("fours", 16, (3, 1), groups=2, unsigned=False)
    builder.max_pool("pool", (5, 5), (3, 2), (2, 2, 2, 2)).conv("twos", 16, (3, 3), (2, 1), groups=8)
    builder.conv("six", 6, (1, 1)).conv("threes", 10, (1, 3), groups=2)
    return builder.sum_pool("mean").flatten().linear("fc", 3).graph()


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_every_multiplication_of_grouped_convolutions_is_on_the_npu(bits: int) -> None:
    graph, features = grouped(bits), features_of(grouped(bits), 40)
    placement = place_for(DEVICE, graph)
    rows = {row.name: row for row in placement.rows}
    whole = {row.name: row.unit for row in place(graph, DEVICE.rules()).rows}
    assert [name for name in ("fours", "pool", "twos", "threes") if whole[name] == "cpu"] == [
        "fours", "pool", "twos", "threes"
    ]  # fmt: skip
    parts = {"fours": 1, "twos": 4, "threes": 1}
    for name, count in parts.items():
        found = [
            row for row in rows.values() if row.layer in ("GCONV", "PWCONV") and f"{row.name}.".startswith(f"{name}.")
        ]
        assert [row.unit for row in found] == ["npu"] * count
    assert rows["pool.rows"].unit == rows["pool"].unit == "npu"
    assert {row.layer for row in rows.values() if row.unit == "cpu"} <= {"take", "concat", "FC"}
    values = interpreter.run(graph, features)
    container = lower(placement.graph, "ab" * 32)
    found = simulate(encode(container), features)
    np.testing.assert_array_equal(found["output/output"], values[graph.outputs["output"]])
    crcs = layer_crcs(graph, values)
    assert set(crcs) <= {key.removeprefix("crc/") for key in found}
    for name, crc in crcs.items():
        np.testing.assert_array_equal(found[f"crc/{name}"], crc, err_msg=name)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_the_simulator_agrees_on_what_the_device_s_passes_make_of_any_network(seed: int) -> None:
    graph = random_graph(seed, quantized=True)
    features = random_features(graph, seed, 5)
    values = interpreter.run(graph, features)
    found = simulate(encode(lower(place_for(DEVICE, graph).graph, "ab" * 32)), features)
    np.testing.assert_array_equal(found["output/output"], values[graph.outputs["output"]])
    for name, crc in layer_crcs(graph, values).items():
        np.testing.assert_array_equal(found[f"crc/{name}"], crc, err_msg=name)


def test_a_device_whose_accelerator_is_off_splits_nothing() -> None:
    placement = place_for(DEVICE, grouped(8), "the preset says so.")
    assert {row.reason for row in placement.rows} == {"the preset says so."}
    assert [node.name for node in placement.graph.nodes] == [node.name for node in grouped(8).nodes]
