"""Problems as values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flowlab.learn.problems import PROBLEMS, confusion, majority

CLASSIFICATION = PROBLEMS["classification"]


def test_accuracy_counts_the_rows_whose_largest_output_is_the_target() -> None:
    outputs = np.array([[3, 1], [0, 5], [2, 1]])
    assert CLASSIFICATION.measure(outputs, np.array([0, 1, 1])) == {"accuracy": pytest.approx(2 / 3)}


def test_integers_and_floats_are_measured_alike() -> None:
    outputs = np.random.default_rng(0).integers(-128, 128, (50, 3)).astype(np.int8)
    targets = np.arange(50) % 3
    assert CLASSIFICATION.measure(outputs, targets) == CLASSIFICATION.measure(outputs * 0.25, targets)


def test_an_equal_value_of_a_later_epoch_takes_the_place() -> None:
    assert CLASSIFICATION.at_least_as_good(0.5, 0.5)
    assert not CLASSIFICATION.at_least_as_good(0.4, 0.5)


def test_the_head_is_as_wide_as_there_are_classes() -> None:
    assert CLASSIFICATION.outputs(("a", "b", "c")) == 3


def test_the_loss_of_equal_logits_is_the_logarithm_of_the_classes() -> None:
    loss = CLASSIFICATION.loss(torch.zeros(7, 4), torch.zeros(7, dtype=torch.long))
    assert float(loss) == pytest.approx(np.log(4))


def test_chance_is_at_least_the_majority_class() -> None:
    targets = np.array([0] * 70 + [1] * 30)
    assert 0.7 < majority(targets) < 0.8


def test_the_confusion_has_true_classes_in_its_rows() -> None:
    outputs = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert confusion(outputs, np.array([0, 1, 1]), 2) == [[1, 0], [1, 1]]


def test_the_likeness_to_a_teacher_is_zero_where_both_say_the_same() -> None:
    outputs = torch.tensor([[1.0, -2.0, 0.5]])
    assert float(CLASSIFICATION.likeness(outputs, outputs + 7, 3.0)) == pytest.approx(0, abs=1e-6)
    assert float(CLASSIFICATION.likeness(outputs, -outputs, 3.0)) > 0.1


def test_temperature_does_not_change_the_size_of_a_teachers_gradient() -> None:
    sizes = []
    for temperature in (8.0, 16.0):
        outputs = torch.zeros(1, 3, requires_grad=True)
        CLASSIFICATION.likeness(outputs, torch.tensor([[0.3, 0.0, -0.3]]), temperature).backward()  # type: ignore[no-untyped-call]
        assert outputs.grad is not None
        sizes.append(float(outputs.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
