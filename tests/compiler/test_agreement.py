from __future__ import annotations

import numpy as np
import pytest

from flowlab.compiler.agreement import (
    TOLERANCE,
    Difference,
    compare,
    compare_floats,
    float_differs,
    largest_difference,
)
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


# --- the float law --------------------------------------------------------------------------------


def differs(right: list[float], found: list[float]) -> bool:
    (wrong,) = float_differs(np.array([right], np.float32), np.array([found], np.float32))
    return bool(wrong)


def test_floats_may_differ_by_a_hundred_thousandth_of_the_largest_output() -> None:
    assert TOLERANCE == 1e-5
    assert not differs([100.0, 1.0], [100.0, 1.0009])
    assert differs([100.0, 1.0], [100.0, 1.0011])
    assert differs([-100.0, 1.0], [-100.0011, 1.0])  # the largest by magnitude counts, whatever its sign


def test_a_tie_within_the_tolerance_may_fall_either_way() -> None:
    assert not differs([10.0, 10.00005], [10.00005, 10.0])


def test_another_class_is_a_difference_where_the_two_best_are_further_apart() -> None:
    # each number is within 1e-4 of the reference, and the two best are 1.5e-4 apart
    assert differs([10.0, 10.00015], [10.00008, 10.00007])
    assert not differs([10.0, 10.00015], [10.00007, 10.00008])


def test_what_is_not_finite_differs_from_everything() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        assert differs([1.0, 2.0], [1.0, bad])
        assert differs([1.0, bad], [1.0, 2.0])
        assert differs([1.0, bad], [1.0, bad])


def test_where_all_outputs_are_zero_only_zeros_are_right() -> None:
    assert not differs([0.0, 0.0], [0.0, -0.0])
    assert differs([0.0, 0.0], [0.0, 1e-30])


def test_an_output_of_one_number_has_no_class() -> None:
    assert not differs([5.0], [5.00001])
    assert differs([5.0], [5.0001])


def test_the_vector_that_breaks_the_float_law_is_named_and_counted() -> None:
    right = Outcome({"output": np.ones((4, 2), np.float32)}, {})
    found = Outcome({"output": np.ones((4, 2), np.float32)}, {})
    assert compare_floats(right, found).mismatches == 0
    found.outputs["output"][2:, 1] += 1e-4
    result = compare_floats(right, found)
    assert (result.vectors, result.mismatches, result.first) == (4, 2, Difference("output", 2))
    assert largest_difference(right.outputs["output"], found.outputs["output"]) == pytest.approx(1e-4, rel=1e-2)


def test_integers_or_another_shape_are_no_floats_to_compare() -> None:
    right = Outcome({"output": np.ones((4, 2), np.float32)}, {})
    with pytest.raises(AgreementError, match="int32 of shape"):
        compare_floats(right, Outcome({"output": np.ones((4, 2), np.int32)}, {}))
    with pytest.raises(AgreementError, match="floats of shape"):
        compare_floats(right, Outcome({"output": np.ones((4, 3), np.float32)}, {}))
    with pytest.raises(AgreementError, match="lacking"):
        compare_floats(right, Outcome({"other": np.ones((4, 2), np.float32)}, {}))
