"""Two foreign machines, written as number formats: the form of the graph must be able to say them, and tell them apart.

MAX78000: one shift a layer in both directions, 8-bit bias, round half up, signed activations after a ReLU.
Ethos-U: zero points, a 31-bit multiplier a channel, TFLite's double rounding.
"""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlab.compiler import interpreter
from flowlab.compiler.number_format import Case, requantize_by, scale_down, tell_apart
from flowlab.compiler.text import parse_graph
from flowlab.compiler.verify import verify
from flowlab.contracts import NumberFormat, Requantize
from flowlab.errors import GraphError

NPU = NumberFormat(
    "npu",
    {
        8: Requantize(multiplier_bits=0, shift=(0, 31), bias_bits=24),
        4: Requantize(multiplier_bits=8, shift=(0, 31), bias_bits=16),
    },
)
MAX78000 = NumberFormat(
    "max78000",
    {8: Requantize(multiplier_bits=0, shift=(-15, 15), bias_bits=8)},
    per="layer",
    unsigned_after_relu=False,
    rounding="half_up",
)
ETHOS_U = NumberFormat(
    "ethos-u",
    {8: Requantize(multiplier_bits=31, shift=(0, 62), bias_bits=32)},
    power_of_two_scales={8: False},
    zero_point=True,
    unsigned_after_relu=False,
    rounding="double",
)
GENERIC = NumberFormat(
    "generic", {8: Requantize(multiplier_bits=8, shift=(0, 31), bias_bits=32)}, power_of_two_scales={8: False}
)
FORMATS = (NPU, MAX78000, ETHOS_U, GENERIC)


@pytest.mark.parametrize(("left", "right"), list(itertools.combinations(FORMATS, 2)), ids=lambda format: format.name)
def test_inputs_are_named_that_tell_two_machines_apart(left: NumberFormat, right: NumberFormat) -> None:
    differences = tell_apart(left, right)
    assert differences
    for each in differences:
        for format, expected in ((left, each.left), (right, each.right)):
            if expected is None:
                with pytest.raises(GraphError, match=f"number format '{format.name}'"):
                    requantize_by(format, each.case)
            else:
                assert requantize_by(format, each.case) == expected


def test_a_machine_is_not_told_apart_from_itself() -> None:
    for format in FORMATS:
        assert tell_apart(format, format) == ()


def kinds(left: NumberFormat, right: NumberFormat) -> dict[str, tuple[int | None, int | None]]:
    return {each.case.kind: (each.left, each.right) for each in tell_apart(left, right)}


def test_a_tie_a_negative_tie_and_a_saturation_tell_the_npu_from_max78000() -> None:
    found = kinds(NPU, MAX78000)
    assert found["tie"] == (1, 2)  # 1.5: floored, rounded half up
    assert found["negative tie"] == (-2, -1)  # -1.5
    assert found["saturation"] == (150, 127)  # after a ReLU: unsigned, and signed
    assert found["left shift"] == (None, 2)


def test_a_negative_tie_tells_rounding_half_up_from_rounding_away_from_zero() -> None:
    fine = Case("negative tie", acc=-6, bias=0, multiplier=2**30, shift=32, unsigned=False)
    assert requantize_by(ETHOS_U, fine) == -2  # TFLite: -3, then -1.5 away from zero
    coarse = Case("negative tie", acc=-3, bias=0, multiplier=1, shift=1, unsigned=False)
    assert requantize_by(MAX78000, coarse) == -1
    assert requantize_by(NPU, coarse) == -2


def test_only_one_of_them_can_say_a_zero_point_or_a_31_bit_multiplier() -> None:
    found = kinds(NPU, ETHOS_U)
    assert found["zero point"][0] is None
    assert found["zero point"][1] is not None
    with pytest.raises(GraphError, match=r"number format 'npu': multiplier 1073741824 is not in 1 \.\. 1"):
        requantize_by(NPU, Case("", 1, 0, 2**30, 31, False))
    with pytest.raises(GraphError, match=r"number format 'max78000': bias 200 is not in -128 \.\. 127"):
        requantize_by(MAX78000, Case("", 1, 200, 1, 1, False))


def test_rounding_twice_differs_from_rounding_once() -> None:
    acc, multiplier, shift = (np.array([value], np.int64) for value in (1, 2**30 + 1, 33))
    assert scale_down(acc * 3, multiplier, shift, "double")[0] == 1  # 1.5 -> 2 -> 2 / 4 -> 1
    assert scale_down(acc * 3, multiplier, shift, "single")[0] == 0  # 0.375


def reference(acc: int, multiplier: int, shift: int, rounding: str) -> int:
    """The same in fractions."""
    exact = Fraction(acc * multiplier) / Fraction(2) ** shift
    if rounding == "floor" or shift <= 0:
        return exact.__floor__()
    return (exact + Fraction(1, 2)).__floor__()


@given(
    acc=st.integers(-(2**31), 2**31 - 1),
    multiplier=st.integers(0, 2**31 - 1),
    shift=st.integers(0, 62),
    rounding=st.sampled_from(["floor", "half_up", "single"]),
)
def test_roundings_are_those_of_exact_fractions(acc: int, multiplier: int, shift: int, rounding: str) -> None:
    found = scale_down(*(np.array([value], np.int64) for value in (acc, multiplier, shift)), rounding)
    assert found[0] == reference(acc, multiplier, shift, rounding)


@given(acc=st.integers(-(2**20), 2**20), multiplier=st.integers(2**30, 2**31 - 1), shift=st.integers(25, 45))
def test_double_rounding_is_within_one_step_of_the_exact_value(acc: int, multiplier: int, shift: int) -> None:
    found = scale_down(*(np.array([value], np.int64) for value in (acc, multiplier, shift)), "double")
    assert abs(found[0] - Fraction(acc * multiplier) / Fraction(2) ** shift) <= 1


@given(
    a=st.integers(-(2**31), 2**31 - 2),
    step=st.integers(1, 2**20),
    multiplier=st.integers(1, 255),
    shift=st.integers(-31, 31),
    rounding=st.sampled_from(["floor", "half_up"]),
)
def test_requantization_is_monotone(a: int, step: int, multiplier: int, shift: int, rounding: str) -> None:
    values = np.array([a, min(a + step, 2**31 - 1)], np.int64)
    low, high = np.clip(scale_down(values, np.array([multiplier]), np.array([shift]), rounding), -128, 127)
    assert low <= high


@pytest.mark.parametrize("format", [MAX78000, ETHOS_U], ids=lambda format: format.name)
def test_the_graph_can_say_a_foreign_machines_layer(format: NumberFormat) -> None:
    """A requantize node with that machine's rounding gives, in the interpreter, what the machine gives."""
    case = Case("", -37, 5, 2**30 if format is ETHOS_U else 1, 33 if format is ETHOS_U else 2, unsigned=False)
    if format is ETHOS_U:
        case = Case("", -37, 5, 2**30, 33, unsigned=False, zero_point=-3)
    attributes = f'bias_before_multiply=true high=127 low=-128 rounding="{format.rounding}"'
    graph = parse_graph(
        f"""
        graph 1
        input %input: int8[1]
        %fc: int32[1] scale 0.0 = linear(%input)
          weight: int8[1, 1] = 1
        %y: int8[1] scale 0.5 zero_point {case.zero_point} = requantize(%fc) {attributes}
          bias: int32[1] = {case.bias}
          multiplier: int32[1] = {case.multiplier}
          shift: int32[1] = {case.shift}
        output "output" = %y
        """
    )
    verify(graph, format)
    found = interpreter.outputs(graph, np.array([[case.acc]], np.int8))["output"]
    assert found.tolist() == [[requantize_by(format, case)]]
