"""Recipes: the narrowest weights decide, and what was done is said."""

from __future__ import annotations

import pytest

from flowlab.quant.recipe import TRAINING, TUNING, Recipe, recipe_of, tuning_of


@pytest.mark.parametrize(("bits", "row"), [([8], 8), ([8, 4], 4), ([2, 8], 2), ([3], 2), ([1], 2), ([16], 8)])
def test_the_narrowest_weights_decide(bits: list[int], row: int) -> None:
    assert recipe_of(bits) is TRAINING[row]


@pytest.mark.parametrize(("bits", "activations", "row"), [([8, 4], 8, 4), ([2], 8, 2), ([8], 4, 4), ([8], 2, 2)])
def test_narrow_activations_are_tuned_too(bits: list[int], activations: int, row: int) -> None:
    assert tuning_of(bits, activations) is TUNING[row]


def test_with_full_bits_scales_are_enough() -> None:
    assert tuning_of([8]) is None


@pytest.mark.parametrize("epochs", range(1, 60))
@pytest.mark.parametrize("live", [0.0, 0.3, 0.7, 1.0])
def test_the_first_cycle_ends_with_the_last_live_epoch(live: float, epochs: int) -> None:
    until = Recipe(live=live).folded(epochs)
    assert 0 < until <= 1
    assert until in (1.0, round(live * epochs) / epochs)


def test_what_was_done_is_said() -> None:
    assert TRAINING[2].sentence(50, "adam", 0.01, 0.7) == (
        "adam, highest rate 0.01, norms live for 35 of 50 epochs, 70% of the loss from the float network's outputs"
    )
    assert TRAINING[8].sentence(10, "sgd", 0.002, 0.0) == "sgd, highest rate 0.002, norms folded, 10 epochs"
