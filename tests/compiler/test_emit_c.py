from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from integer_graphs import Builder, awkward_graph, example_graph, moving_graph, narrow_graph

from flowlab.compiler.emit_c import emit_c, float_literal, identifier, text_literal
from flowlab.compiler.ir import Graph
from flowlab.compiler.lower import lower, weight_bytes
from flowlab.errors import ProgramError

GOLDEN = Path(__file__).with_name("emit_c_golden.c")
SHA = "ab" * 32


def tiny_graph() -> Graph:
    builder = Builder((1, 6, 1), 7)
    return builder.conv("conv", 4, (3, 1), (2, 1), layer="FCONV").flatten().linear("fc", 2).graph()


def test_the_c_of_a_small_network_is_this_text() -> None:
    files = emit_c(lower(tiny_graph(), SHA), skip_normalize=True)
    assert files["model.h"] + files["model.c"] == GOLDEN.read_text()


def test_no_array_has_a_type_that_some_compiler_lacks() -> None:
    for graph in (example_graph(), awkward_graph(), moving_graph(), narrow_graph((4, 4)), narrow_graph((2, 2))):
        files = emit_c(lower(graph, SHA), skip_normalize=False)
        text = "".join(files.values())
        for word in (" int8_t", "uint8_t ", " char ", "malloc", "union", "memcpy", "int16_t "):
            assert word not in text.replace("_least8_t", "").replace("int_least16_t", ""), word


def test_the_entry_point_takes_features_where_normalization_is_not_skipped() -> None:
    container = lower(tiny_graph(), SHA)
    assert "void model_run(const float *features," in emit_c(container, skip_normalize=False)["model.h"]
    assert "void model_run(const int_least8_t *input," in emit_c(container, skip_normalize=True)["model.h"]


def test_an_accumulator_that_can_leave_32_bits_is_refused() -> None:
    container = lower(tiny_graph(), SHA)
    layer = container.layers[1]
    wide = replace(layer, weight=np.full((4, 1, 300000, 1), 127, np.int8))
    with pytest.raises(ProgramError, match=r"'conv.bnorm': accumulator up to 4876800000"):
        emit_c(replace(container, layers=(container.layers[0], wide, *container.layers[2:])), skip_normalize=True)


def test_products_beyond_32_bits_are_computed_in_64() -> None:
    container = lower(awkward_graph(), SHA)
    layer = container.layers[1]
    wide = replace(layer, bias=np.full(layer.bias.size, 2**31 - 1, np.int32))
    container = replace(container, layers=(container.layers[0], wide, *container.layers[2:]))
    assert "floor_shift_wide((" in emit_c(container, skip_normalize=True)["model.c"]


@pytest.mark.parametrize("bits", [4, 2])
def test_narrow_weights_stay_packed_and_narrow_activations_stay_within_32_bits(bits: int) -> None:
    container = lower(narrow_graph((bits, bits)), SHA)
    text = emit_c(container, skip_normalize=True)["model.c"]
    for layer in container.layers:
        if layer.weight is not None:
            number = container.layers.index(layer)
            declared = re.search(rf"static const uint_least8_t weight_{number}\[\] = {{([^}}]*)}}", text)
            assert declared and len(declared[1].split(",")) == weight_bytes(layer)
    assert f"static int weight{bits}(" in text and f"static int weight{6 - bits}(" not in text
    assert "floor_shift_wide" not in text


def test_names_become_identifiers_and_literals() -> None:
    assert identifier("fc.output") == "fc_output"
    assert identifier("1x") == "_1x"
    assert text_literal('a"b\\?µ') == r'"a\042b\134\077\302\265"'


@pytest.mark.parametrize("value", [0.1, -3.5, 1e-30, 12345.678])
def test_float_literals_lose_nothing(value: float) -> None:
    assert np.float32(float.fromhex(float_literal(value).removesuffix("F"))) == np.float32(value)


def test_a_float_that_is_no_number_is_refused() -> None:
    with pytest.raises(ProgramError):
        float_literal(float("nan"))
