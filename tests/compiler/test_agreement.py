from __future__ import annotations

import numpy as np
import pytest

from flowlab.compiler.agreement import Difference, compare
from flowlab.contracts import Outcome
from flowlab.errors import AgreementError

ORDER = ("first", "second")


def outcome() -> Outcome:
    outputs = {"output": np.arange(10, dtype=np.int32).reshape(5, 2)}
    return Outcome(outputs, {name: np.arange(5, dtype=np.uint32) for name in ORDER})


def test_equal_outcomes_have_no_mismatch() -> None:
    result = compare(outcome(), outcome(), ORDER)
    assert (result.vectors, result.mismatches, result.first) == (5, 0, None)


def test_one_integer_is_one_mismatch() -> None:
    found = outcome()
    found.outputs["output"][3, 1] += 1
    result = compare(outcome(), found, ORDER)
    assert (result.mismatches, result.first) == (1, Difference("output 'output'", 3))


def test_all_vectors_can_differ() -> None:
    found = outcome()
    found.outputs["output"][:, 0] -= 1
    found.trace["second"][:] += 1
    result = compare(outcome(), found, ORDER)
    assert (result.mismatches, result.first) == (5, Difference("second", 0))


def test_a_layer_that_differs_is_a_mismatch_even_where_the_outputs_are_equal() -> None:
    found = outcome()
    found.trace["second"][2] += 1
    found.trace["first"][4] += 1
    result = compare(outcome(), found, ORDER)
    assert (result.mismatches, result.first) == (2, Difference("second", 2))


def test_an_execution_without_a_trace_is_compared_by_its_outputs() -> None:
    result = compare(outcome(), Outcome(outcome().outputs, {}), ORDER)
    assert result.mismatches == 0


def test_floats_are_compared_by_their_bits() -> None:
    right = Outcome({"output": np.array([[0.5], [np.nan], [0.0]], np.float32)}, {})
    found = Outcome({"output": np.array([[0.5], [np.nan], [-0.0]], np.float32)}, {})
    assert compare(right, found, ()).mismatches == 1


@pytest.mark.parametrize(
    "found",
    [
        Outcome({"other": np.zeros((5, 2), np.int32)}, {}),
        Outcome({"output": np.zeros((4, 2), np.int32)}, {}),
        Outcome({"output": np.zeros((5, 2), np.float32)}, {}),
        Outcome(outcome().outputs, {"first": np.arange(5, dtype=np.uint32)}),
    ],
)
def test_outcomes_that_cannot_be_compared_are_an_error(found: Outcome) -> None:
    with pytest.raises(AgreementError):
        compare(outcome(), found, ORDER)
