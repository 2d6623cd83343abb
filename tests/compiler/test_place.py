"""Placement names a layer as the accelerator does, asks its rules, and says a reason and a cure."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowlab.compiler.ir import Graph
from flowlab.compiler.passes.pad_channels import PadChannels
from flowlab.compiler.passes.pad_linear_inputs import PadLinearInputs
from flowlab.compiler.pipeline import apply_passes
from flowlab.compiler.place import describe, place
from flowlab.compiler.rules import Layer, rule
from flowlab.compiler.text import parse_graph
from flowlab.compiler.verify import verify

from .random_graphs import random_graph


@rule("GCONV", "MAXPOOL", "FC", cure=lambda layer: f"use {layer.in_channels} -> {-(-layer.in_channels // 4) * 4}")
def inputs_in_fours(layer: Layer) -> bool:
    """Inputs come in fours."""
    return layer.in_channels % 4 == 0


FLOAT = """
graph 1
input %input: float32[1, 8, 1]
%first: float32[5, 8, 1] = conv(%input) groups=1 padding=(1, 0, 1, 0) stride=(1, 1) weight_bits=8
  weight: float32[5, 1, 3, 1] = 1.0*15
%norm: float32[5, 8, 1] = batch_norm(%first) epsilon=0.0
  bias: float32[5] = 0.0*5
  mean: float32[5] = 0.0*5
  variance: float32[5] = 1.0*5
  weight: float32[5] = 1.0*5
%relu: float32[5, 8, 1] = relu(%norm)
%second: float32[4, 4, 1] = conv(%relu) groups=1 padding=(1, 0, 1, 0) stride=(2, 1) weight_bits=8
  weight: float32[4, 5, 3, 1] = 1.0*60
%act: float32[4, 4, 1] = activation(%second) function="silu"
%point: float32[4, 4, 1] = conv(%act) groups=1 padding=(0, 0, 0, 0) stride=(1, 1) weight_bits=8
  weight: float32[4, 4, 1, 1] = 1.0*16
%deep: float32[4, 4, 1] = conv(%point) groups=4 padding=(1, 0, 1, 0) stride=(1, 1) weight_bits=8
  weight: float32[4, 1, 3, 1] = 1.0*12
%grouped: float32[4, 4, 1] = conv(%deep) groups=2 padding=(1, 0, 1, 0) stride=(1, 1) weight_bits=8
  weight: float32[4, 2, 3, 1] = 1.0*24
%pool: float32[4, 2, 1] = max_pool(%grouped) kernel=(2, 1) padding=(0, 0, 0, 0) stride=(2, 1)
%mean: float32[4, 1, 1] = average_pool(%pool)
%flat: float32[4] = flatten(%mean)
%fc: float32[2] = linear(%flat) weight_bits=8
  weight: float32[2, 4] = 1.0*8
output "output" = %fc
"""


def placed(graph: Graph) -> dict[str, tuple[str, str, str, str]]:
    return {row.name: (row.layer, row.unit, row.reason, row.cure) for row in place(graph, (inputs_in_fours,)).rows}


def test_every_layer_gets_the_accelerators_word_or_a_reason_why_there_is_none() -> None:
    rows = placed(parse_graph(FLOAT))
    assert {name: row[:2] for name, row in rows.items()} == {
        "first": ("FCONV", "npu"),
        "second": ("GCONV", "cpu"),
        "act": ("activation", "cpu"),
        "point": ("PWCONV", "npu"),
        "deep": ("DWCONV", "npu"),
        "grouped": ("conv", "cpu"),
        "pool": ("MAXPOOL", "npu"),
        "mean": ("AVGPOOL", "npu"),
        "fc": ("FC", "npu"),
    }
    assert rows["second"][2:] == ("Inputs come in fours.", "use 5 -> 8")
    assert rows["act"][2] == "the NPU has no layer for 'activation'."
    assert rows["grouped"][2] == "the NPU has no layer for a convolution in 2 groups."


def test_a_layer_that_padding_saves_is_not_called_a_cpu_layer() -> None:
    placement = place(PadChannels().apply(parse_graph(FLOAT)), (inputs_in_fours,))
    rows = {row.name: row for row in placement.rows}
    assert (rows["second"].unit, rows["second"].reason) == ("npu", "")
    assert rows["first"].padding == "5 -> 8 output channels: +72 MACs, +9 bytes of weights"
    assert rows["second"].padding == "5 -> 8 input channels: +144 MACs, +36 bytes of weights"
    assert rows["first"].shape == "1 -> 8 channels, kernel 3x1, stride 1x1"


def test_the_share_counts_multiplications() -> None:
    placement = place(parse_graph(FLOAT), (inputs_in_fours,))
    cpu = 60 * 4 + 24 * 4  # second, grouped
    total = cpu + 15 * 8 + 16 * 4 + 12 * 4 + 8
    assert placement.macs == {"npu": total - cpu, "cpu": cpu}
    assert placement.npu_share == pytest.approx(1 - cpu / total)


def test_sentences_name_layer_reason_and_cure() -> None:
    (second, *_) = place(parse_graph(FLOAT), (inputs_in_fours,)).sentences()
    assert second == (
        "layer 'second' (GCONV, 5 -> 4 channels, kernel 3x1, stride 2x1) runs on the CPU: Inputs come in fours. "
        "Cure: use 5 -> 8."
    )


def test_one_sentence_says_which_layers_were_padded_and_what_it_costs() -> None:
    graph = apply_passes(parse_graph(FLOAT), (PadChannels(),))
    *others, padded = place(graph, (inputs_in_fours,)).sentences()
    assert padded == (
        "zeros are padded where the accelerator works on more channels than there are: layer 'first' (FCONV) "
        "5 -> 8 output channels: +72 MACs, +9 bytes of weights; layer 'second' (GCONV) 5 -> 8 input channels: "
        "+144 MACs, +36 bytes of weights"
    )
    assert not any("zeros are padded" in sentence for sentence in others)


def test_without_rules_everything_runs_on_the_cpu_without_a_reason() -> None:
    placement = place(parse_graph(FLOAT), (), "CPU")
    assert {row.unit for row in placement.rows} == {"cpu"}
    assert {row.reason for row in placement.rows} == {""}
    assert placement.sentences() == ()
    assert placement.npu_share is None


def test_a_requantization_runs_where_its_layer_runs() -> None:
    graph = random_graph(5, quantized=True)
    done = place(graph, (inputs_in_fours,)).graph
    fused = [node for node in done.nodes if node.op == "requantize"]
    assert fused
    for node in fused:
        assert node.attributes["unit"] == done.node(node.inputs[0]).attributes["unit"]


@given(seed=st.integers(0, 2**32 - 1), quantized=st.booleans())
@settings(max_examples=30)
def test_placement_reads_shapes_and_a_placed_graph_obeys_the_laws(seed: int, quantized: bool) -> None:
    graph = apply_passes(random_graph(seed, quantized), (PadChannels(), PadLinearInputs()))
    placement = place(graph, (inputs_in_fours,))
    verify(placement.graph)
    assert place(placement.graph, (inputs_in_fours,)).rows == placement.rows
    for row in placement.rows:
        layer = describe(graph, graph.node(row.name))
        assert layer.out_channels == row.output[0]
        assert (row.unit == "cpu") == bool(row.reason)


def test_an_accelerator_that_is_switched_off_gives_its_reason_to_every_layer() -> None:
    placed = place(parse_graph(FLOAT), (inputs_in_fours,), "NPU", "the preset says so.")
    assert {(row.unit, row.reason) for row in placed.rows} == {("cpu", "the preset says so.")}
    assert placed.npu_share == 0.0
