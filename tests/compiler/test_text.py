"""The text form prints and parses back, and says where it is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowlab.compiler import text
from flowlab.compiler.ir import Graph, Input, Node, TensorType
from flowlab.errors import GraphError

from .random_graphs import random_graph

EXAMPLE = """\
graph 1
metadata "bits" = "8"
input %input: float32[2]
%"two words": float32[2] = activation(%input) alpha=0.1 function="leaky_relu" note=(1, 2)
%fc: int32[1] scale 0.0 zero_point 3 = linear(%"two words") flag=true
  weight: int8[1, 6] = 1*4 2 3
output "output" = %fc
"""


def test_an_example_prints_as_it_was_written() -> None:
    assert text.print_graph(text.parse_graph(EXAMPLE)) == EXAMPLE


def test_common_indentation_and_blank_lines_do_not_matter() -> None:
    indented = "\n\n".join(f"      {line}" for line in EXAMPLE.splitlines())
    assert text.print_graph(text.parse_graph(indented)) == EXAMPLE


@given(seed=st.integers(0, 2**32 - 1), quantized=st.booleans())
@settings(max_examples=40)
def test_any_graph_prints_and_parses_back(seed: int, quantized: bool) -> None:
    printed = text.print_graph(random_graph(seed, quantized))
    assert text.print_graph(text.parse_graph(printed)) == printed


@given(seed=st.integers(0, 2**32 - 1), quantized=st.booleans())
@settings(max_examples=20)
def test_without_constants_the_numbers_come_from_a_mapping(seed: int, quantized: bool) -> None:
    graph = random_graph(seed, quantized)
    short = text.print_graph(graph, constants=False)
    assert text.same(text.parse_graph(short, text.constants_of(graph)), graph)
    assert text.print_graph(text.parse_graph(short, text.constants_of(graph)), constants=False) == short


@given(
    values=st.lists(st.floats(width=32, allow_nan=False), max_size=12),
    name=st.text(min_size=1, max_size=8),
    scale=st.floats(0, 1e30),
)
def test_every_float_and_every_name_survives(values: list[float], name: str, scale: float) -> None:
    node = Node(
        name, "relu", (name + "!",), TensorType("float32", (1,), scale), {}, {"w": np.array(values, np.float32)}
    )
    graph = Graph((Input(name + "!", TensorType("float32", (1,))),), (node,), {"output": name}, {name: name})
    back = text.parse_graph(text.print_graph(graph))
    assert back.nodes[0].constants["w"].tobytes() == np.array(values, np.float32).tobytes()
    assert (back.nodes[0].name, back.nodes[0].type, dict(back.metadata)) == (name, node.type, {name: name})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("graph 1", "graph 2"), "line 1: found 'graph 2'; the first line is 'graph 1'"),
        (("= linear(", "= linearr("), "line 5: no operation named 'linearr'. Did you mean 'linear'?"),
        (("int32[1]", "int33[1]"), "line 5: no type named 'int33'. Did you mean 'int32'?"),
        (("1*4 2 3", "1*4 2"), "line 6: constant 'fc.weight' has 5 numbers; its shape has 6"),
        (("1*4 2 3", "1*99999999"), "line 6: constant 'fc.weight' has more than the 6 numbers of its shape"),
        (("1*4 2 3", "1*4 2 3.5"), "line 6: constant 'fc.weight': '3.5' is no int8"),
        (("1*4 2 3", "1*4 2 300"), "line 6: constant 'fc.weight' has a number that is no int8"),
        (("int8[1, 6]", "int8[100000, 100000]"), "line 6: constant 'weight' has 10000000000 numbers; at most"),
        (("flag=true", "flag=maybe"), "line 5: cannot read"),
        (("flag=true", "flag=true flag=true"), "line 5: attribute 'flag' stands twice"),
        (('output "output" = %fc', 'output "output" = %fc\noutput "output" = %fc'), "line 8: output 'output' stands"),
        (("  weight: int8[1, 6] = 1*4 2 3", "  weight: int8[1, 6]"), "line 6: 'fc.weight' has no numbers here"),
    ],
)
def test_an_error_names_the_line(change: tuple[str, str], message: str) -> None:
    with pytest.raises(GraphError) as error:
        text.parse_graph(EXAMPLE.replace(*change))
    assert message in str(error.value)


def test_a_given_array_must_have_the_type_of_the_text() -> None:
    short = text.print_graph(text.parse_graph(EXAMPLE), constants=False)
    with pytest.raises(GraphError, match=r"int8\[1, 6\] in the text, and the given array int32\[1, 6\]"):
        text.parse_graph(short, {"fc.weight": np.zeros((1, 6), np.int32)})


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(GraphError, match="empty"):
        text.parse_graph("\n\n")


@given(at=st.integers(0, len(EXAMPLE) - 1), instead=st.characters(codec="utf-8"))
def test_a_changed_character_is_read_or_refused_and_never_a_crash(at: int, instead: str) -> None:
    try:
        text.parse_graph(EXAMPLE[:at] + instead + EXAMPLE[at + 1 :])
    except GraphError as error:
        assert "line" in str(error)
