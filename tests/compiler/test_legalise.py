"""A requantization becomes an addition, a multiplication and a floor where every integer stays, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from integer_graphs import Builder, features_of

from flowlab.compiler import interpreter, text
from flowlab.compiler.ir import Graph
from flowlab.compiler.lower import lower
from flowlab.compiler.number_format import scale_down
from flowlab.compiler.passes.legalise import Legalise, _bias
from flowlab.compiler.verify import verify
from flowlab.errors import ProgramError

ROUNDINGS = st.sampled_from(["floor", "half_up", "single", "double"])


def rounded(rounding: str, before: bool, constants: dict[str, list[int]] | None = None) -> Graph:
    graph = Builder((1, 12, 1), 5).conv("conv", 4, (3, 1), unsigned=False).graph()
    last = graph.nodes[-1]
    given_ = {key: np.int32(values) for key, values in (constants or {}).items()}
    last = replace(last, constants={**last.constants, **given_})
    return replace(
        graph, nodes=(*graph.nodes[:-1], last.with_attributes(rounding=rounding, bias_before_multiply=before))
    )


@given(
    rounding=ROUNDINGS,
    before=st.booleans(),
    bias=st.lists(st.integers(-3000, 3000), min_size=4, max_size=4),
    multiplier=st.lists(st.sampled_from([0, 1, 1, 2, 4, 8, 3, 200, 256]), min_size=4, max_size=4),
    shift=st.lists(st.integers(-2, 20), min_size=4, max_size=4),
)
def test_every_accumulator_gives_the_same_integer(rounding, before, bias, multiplier, shift) -> None:
    if rounding in ("single", "double"):  # TFLite's shifts
        shift = [max(0, each) for each in shift]
    graph = rounded(rounding, before, {"bias": bias, "multiplier": multiplier, "shift": shift})
    verify(graph)
    after = Legalise().apply(graph)
    verify(after)
    assert text.print_graph(Legalise().apply(after)) == text.print_graph(after)
    old, new = graph.nodes[-1], after.nodes[-1]
    acc = np.arange(-15000, 15001)[:, None]

    def integers(node) -> np.ndarray:
        b, m, r = (node.constants[key].astype(np.int64) for key in ("bias", "multiplier", "shift"))
        first, behind = (b, 0) if node.attributes["bias_before_multiply"] else (0, b)
        return np.clip(scale_down(acc + first, m, r, node.attributes["rounding"]) + behind, -128, 127)

    np.testing.assert_array_equal(integers(old), integers(new))
    if new is not old:
        assert (new.attributes["rounding"], new.attributes["bias_before_multiply"]) == ("floor", True)
    elif rounding == "half_up" and before:
        assert any(m == 0 or (r > 0 and 2 ** (r - 1) % m) for m, r in zip(multiplier, shift, strict=True))


def test_a_machine_with_one_shift_that_rounds_half_up_has_programs() -> None:
    graph = rounded("half_up", True)
    features = features_of(graph, 20)
    values = interpreter.run(graph, features)["conv.bnorm"]
    container = lower(graph, "ab" * 32)
    floor = replace(graph, nodes=(*graph.nodes[:-1], Legalise().apply(graph).nodes[-1]))
    np.testing.assert_array_equal(interpreter.run(floor, features)["conv.bnorm"], values)
    np.testing.assert_array_equal(container.layers[-1].bias, floor.nodes[-1].constants["bias"])


def test_what_has_no_whole_bias_stays() -> None:
    graph = rounded("half_up", True, {"multiplier": [3, 3, 3, 3], "shift": [9, 9, 9, 9]})
    assert text.same(Legalise().apply(graph), graph)
    assert lower(graph, "ab" * 32).layers[-1].rounding == "half_up"
    twice = rounded("double", True, {"shift": [9, 9, 9, 9]})
    with pytest.raises(ProgramError, match="rounds by 'double'; a program by floor, half_up, nearest_even"):
        lower(twice, "ab" * 32)


def test_a_sum_that_would_leave_32_bits_stays() -> None:
    graph = rounded("half_up", True, {"bias": [2**30] * 4, "shift": [31] * 4, "multiplier": [1] * 4})
    assert _bias(graph.nodes[-1]) is not None
    assert text.same(Legalise().apply(graph), graph)
