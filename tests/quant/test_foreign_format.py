"""Our quantizers obey another machine's format: it rounds half up, has one shift a layer and a shifted bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from flowlab import testing
from flowlab.compiler import interpreter
from flowlab.compiler.export_onnx import export_onnx
from flowlab.compiler.ir import Graph, Node
from flowlab.compiler.number_format import Case, requantize_by
from flowlab.compiler.rewrite import replace_nodes
from flowlab.compiler.verify import verify
from flowlab.contracts import NumberFormat, Requantize
from flowlab.errors import GraphError
from flowlab.quant.ptq import unknown_arithmetic
from flowlab.stages.validate import check_import, run_onnx
from flowlab_tinpu.quantizers import PostTraining, QuantizationAware

WIDTH = Requantize(multiplier_bits=0, shift=(-8, 22), bias_bits=8, bias_shift=7)
FORMAT = NumberFormat(
    "foreign",
    {8: WIDTH, 4: WIDTH, 2: WIDTH},
    power_of_two_scales={8: True, 4: True, 2: True},
    per="layer",
    unsigned_after_relu=False,
    rounding="half_up",
)


@pytest.fixture(scope="module")
def graphs() -> dict[int, Graph]:
    """Also held by the check: the graph obeys the format, the module gives its integers, 8 bits stay near the float."""
    return testing.check_quantizer(PostTraining(), FORMAT)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_its_onnx_is_read_back_as_the_same_graph_and_gives_its_integers(graphs: dict[int, Graph], bits: int) -> None:
    graph = graphs[bits]
    model = export_onnx(graph, {})
    check_import(graph, model)
    features = 2 * np.random.default_rng(0).normal(size=(200, 2, 24, 1)).astype(np.float32)
    assert (run_onnx(model, features, ["output"])["output"] == interpreter.outputs(graph, features)["output"]).all()


def test_every_layer_has_one_shift_and_a_bias_of_its_register(graphs: dict[int, Graph]) -> None:
    rows = [node for graph in graphs.values() for node in graph.nodes if node.op == "requantize"]
    assert rows
    for node in rows:
        assert len(set(node.constants["shift"].tolist())) == 1
        assert not (node.constants["bias"] % 128).any()
        assert node.type.dtype == "int8"
        assert node.attributes["rounding"] == "half_up"
    assert any(node.attributes["low"] == 0 for node in rows)  # a ReLU clips all the same


def test_a_network_is_trained_in_it_too() -> None:
    assert testing.check_quantizer(QuantizationAware(), FORMAT, widths=(4,))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda node: {"bias": node.constants["bias"] + 1}, "is no multiple of 128"),
        (lambda node: {"bias": node.constants["bias"] * 0 + 128 * 128}, r"bias 16384 of channel 0 is not in -16384"),
        (lambda node: {"shift": np.arange(len(node.constants["shift"]), dtype=np.int32)}, "has several shifts"),
    ],
)
def test_a_graph_that_leaves_it_is_refused(
    graphs: dict[int, Graph], change: Callable[[Node], dict[str, np.ndarray]], said: str
) -> None:
    def changed(node: Node) -> Node:
        return replace(node, constants={**node.constants, **change(node)}) if node.op == "requantize" else node

    with pytest.raises(GraphError, match=said):
        verify(replace_nodes(graphs[8], changed), FORMAT)


def test_a_bias_between_two_of_its_register_is_none_of_its_numbers() -> None:
    assert requantize_by(FORMAT, Case("", 0, 256, 1, 7, unsigned=False)) == 2
    with pytest.raises(GraphError, match="bias 200 is no multiple of 128"):
        requantize_by(FORMAT, Case("", 0, 200, 1, 7, unsigned=False))


@pytest.mark.parametrize(
    ("format", "said"),
    [
        (replace(FORMAT, rounding="double"), "rounds 'double'"),
        (replace(FORMAT, bias_before_multiply=False), "adds the bias behind"),
        (replace(FORMAT, zero_point=True), "has zero points"),
        (replace(FORMAT, by_weight_bits={8: replace(WIDTH, multiplier_bits=8)}), "rounds 'half_up'"),
        (
            replace(FORMAT, rounding="floor", by_weight_bits={8: replace(WIDTH, multiplier_bits=8)}),
            "has one multiplier for a layer",
        ),
    ],
)
def test_what_they_do_not_know_is_said(format: NumberFormat, said: str) -> None:
    assert said in unknown_arithmetic(format, 8)
    with pytest.raises(AssertionError, match=f"refuses an ordinary network: number format 'foreign' {said}"):
        testing.check_quantizer(PostTraining(), format, widths=(8,))
