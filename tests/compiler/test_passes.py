"""The three laws of passes: they keep the meaning, twice is once, and they do what their docstrings show."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks.foreign_integers import qlinear_conv

from flowlab.compiler import interpreter, text
from flowlab.compiler.channels import channels_of
from flowlab.compiler.importer import import_onnx
from flowlab.compiler.ir import Graph
from flowlab.compiler.passes import Pass
from flowlab.compiler.passes.allocate import Allocate
from flowlab.compiler.passes.drop_dead import DropDead
from flowlab.compiler.passes.drop_identity import DropIdentity
from flowlab.compiler.passes.fold_batchnorm import FoldBatchNorm
from flowlab.compiler.passes.fuse_bnorm import FuseBnorm
from flowlab.compiler.passes.legalise import Legalise
from flowlab.compiler.passes.pad_channels import PadChannels, touching
from flowlab.compiler.passes.pad_linear_inputs import PadLinearInputs
from flowlab.compiler.passes.place import Place
from flowlab.compiler.passes.schedule import Schedule
from flowlab.compiler.passes.signed_input import SignedInput
from flowlab.compiler.passes.split_groups import SplitGroups
from flowlab.compiler.passes.split_max_pool import SplitMaxPool
from flowlab.compiler.pipeline import apply_passes
from flowlab.compiler.place import place
from flowlab.compiler.rules import Layer, rule
from flowlab.compiler.verify import verify
from flowlab.stages.own.integers import meanings, with_float_entry

from .random_graphs import random_features, random_graph

PASSES: tuple[Pass, ...] = (
    DropDead(), DropIdentity(), FoldBatchNorm(), SplitMaxPool(), SplitGroups(), PadChannels(), PadLinearInputs(),
    Place(), Legalise(), FuseBnorm(), Schedule(), Allocate(), SignedInput(),
)  # fmt: skip

every_pass = pytest.mark.parametrize("each", PASSES, ids=lambda each: each.name)


def shown(each: Pass, heading: str) -> str:
    match = re.search(rf"{heading}::\n\n((?:[ ]*\n|[ ]{{4}}.*\n?)+)", textwrap.dedent(f"    {type(each).__doc__}"))
    assert match, f"the docstring of {each.name} shows no {heading}"
    return text.print_graph(text.parse_graph(match[1]))


@every_pass
def test_a_pass_does_what_its_docstring_shows(each: Pass) -> None:
    before = text.parse_graph(shown(each, "Before"))
    verify(before)
    assert text.print_graph(each.apply(before)) == shown(each, "After")


@every_pass
@given(seed=st.integers(0, 2**32 - 1), quantized=st.booleans())
def test_a_pass_keeps_the_meaning_of_any_graph(each: Pass, seed: int, quantized: bool) -> None:
    graph = random_graph(seed, quantized)
    features = random_features(graph, seed)
    after = apply_passes(graph, (each,))
    expected, found = (interpreter.run(g, features, np.float64) for g in (graph, after))
    assert set(graph.outputs) == set(after.outputs)
    for name in graph.outputs:
        left, right = expected[graph.outputs[name]], found[after.outputs[name]]
        if quantized:
            np.testing.assert_array_equal(left, right)
        else:
            np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4 * (np.abs(left).max() + 1e-6))


@every_pass
@given(seed=st.integers(0, 2**32 - 1), quantized=st.booleans())
def test_a_pass_applied_twice_changes_nothing_more(each: Pass, seed: int, quantized: bool) -> None:
    once = each.apply(random_graph(seed, quantized))
    assert text.print_graph(each.apply(once)) == text.print_graph(once)


BYTES = """\
graph 1
input %input: float32[2, 4, 1]
%q: uint8[2, 4, 1] scale 0.5 zero_point 7 = quantize_linear(%input) high=250 low=3
%p: uint8[2, 3, 1] scale 0.5 zero_point 7 = max_pool(%q) kernel=(2, 1) padding=(0, 0, 0, 0) stride=(1, 1)
%c: uint8[4, 4, 1] scale 0.5 zero_point 7 = concat(%q, %q)
%s: int32[4, 1, 1] scale 0.5 = sum_pool(%c)
%y: float32[2, 4, 1] = dequantize(%q) scale=0.5
output "bytes" = %q
output "most" = %p
output "sums" = %s
output "real" = %y
"""


@pytest.mark.parametrize("seed", range(8))
def test_a_signed_input_keeps_every_output(seed: int) -> None:
    data, raw = qlinear_conv(seed)
    given = import_onnx(data)
    cases = [(with_float_entry(given), meanings(Path("x.npy"), given, raw.astype(np.float32)))]
    graph = text.parse_graph(BYTES)
    cases.append((graph, random_features(graph, seed) * 40))
    for before, features in cases:
        once = SignedInput().apply(before)
        verify(once)
        assert "uint8" not in {node.type.dtype for node in once.nodes if node.op == "quantize_linear"}
        assert text.print_graph(SignedInput().apply(once)) == text.print_graph(once)
        wanted, found = (interpreter.outputs(one, features) for one in (before, once))
        for name, right in wanted.items():
            np.testing.assert_array_equal(found[name], right)


@pytest.mark.parametrize("each", [PadChannels(), PadLinearInputs()], ids=lambda each: each.name)
@given(seed=st.integers(0, 2**32 - 1))
def test_padding_keeps_every_integer_of_the_channels_before(each: Pass, seed: int) -> None:
    graph = random_graph(seed, quantized=True)
    features = random_features(graph, seed)
    before, after = interpreter.run(graph, features), interpreter.run(each.apply(graph), features)
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name][:, : value.shape[1]], err_msg=name)


@given(seed=st.integers(0, 2**32 - 1), quantized=st.booleans())
def test_the_padding_passes_together_change_nothing_more(seed: int, quantized: bool) -> None:
    def both(graph: Graph) -> Graph:
        return PadLinearInputs().apply(PadChannels().apply(graph))

    once = both(random_graph(seed, quantized))
    assert text.print_graph(both(once)) == text.print_graph(once)


@rule("FCONV", "GCONV")
def stride_one(layer: Layer) -> bool:
    """The stride is 1."""
    return layer.stride == (1, 1)


@given(seed=st.integers(0, 2**32 - 1))
def test_zeros_go_where_a_layer_is_accelerated_by_them_and_nowhere_else(seed: int) -> None:
    each = PadChannels(rules=(stride_one,))
    graph = random_graph(seed, quantized=True)
    after = apply_passes(graph, (each,))
    assert text.print_graph(each.apply(after)) == text.print_graph(after)
    everywhere = place(PadChannels().apply(graph), (stride_one,)).rows
    found = place(after, (stride_one,)).rows
    assert [row.unit for row in found] == [row.unit for row in everywhere]
    units = {row.name: row.unit for row in found}
    for group in channels_of(after).groups():
        layers = [node for node in touching(after, group) if node.name in units]
        if any("channels" in node.attributes for node in layers if node.name in group.values):
            assert "npu" in {units[node.name] for node in layers}
    features = random_features(graph, seed)
    before, values = interpreter.run(graph, features), interpreter.run(after, features)
    for name, value in graph.outputs.items():
        np.testing.assert_array_equal(before[value], values[after.outputs[name]])


def test_a_layer_that_others_read_too_keeps_its_batch_norm() -> None:
    graph = text.parse_graph(
        """
        graph 1
        input %input: float32[2]
        %fc: float32[1] = linear(%input)
          weight: float32[1, 2] = 1.0 2.0
        %norm: float32[1] = batch_norm(%fc) epsilon=0.0
          bias: float32[1] = 3.0
          mean: float32[1] = 1.0
          variance: float32[1] = 4.0
          weight: float32[1] = 6.0
        %sum: float32[1] = add(%fc, %norm)
        output "output" = %sum
        """
    )
    assert text.same(FoldBatchNorm().apply(graph), graph)
