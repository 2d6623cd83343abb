"""Recipes: the narrowest weights decide, and what was done is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from networks.training import data, quantize_job, settings, trained

from flowlab.learn.loop import fit
from flowlab.quant.ptq import wrap
from flowlab.quant.recipe import TRAINING, TUNING, Recipe, recipe_of, share, tuning_of


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


RATES = {(8, 2): 0.1**0.5, (8, 4): (1 / 3) ** 0.5, (4, 2): 0.3**0.5, (2, 2): 1.0, (8, 8): 1.0}


@pytest.mark.parametrize(("bits", "narrowest"), list(RATES))
def test_wider_layers_have_a_rate_between_their_own_and_the_narrowests(bits: int, narrowest: int) -> None:
    assert share(bits, narrowest) == pytest.approx(RATES[bits, narrowest])


def test_a_mixed_network_is_trained_in_two_groups_at_two_rates() -> None:
    job = quantize_job(trained())
    layers = [node.name for node in job.graph.nodes if "weight" in node.constants and node.op != "batch_norm"]
    network = wrap(replace(job, weight_bits=2, bits_of={layers[0]: 8, layers[-1]: 8}), live=0.5, learn_scales=True)
    groups = {group["share"]: list(group["params"]) for group in network.parameter_groups()}
    assert set(groups) == {slow := share(8, 2), 1.0}
    assert sum(map(len, groups.values())) == len(list(network.parameters()))
    first, middle, _ = network.layers()
    assert any(one is first.weight for one in groups[slow])
    assert any(one is middle.weight for one in groups[1.0])
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    history = fit(network, data(), settings(epochs=1, learning_rate=0.01, optimizer="adam", lr_scheduler="onecyclelr"))
    assert history["epochs"][0]["learning_rate"] <= 0.01
    moved = {name: float((value.detach() - before[name]).abs().max()) for name, value in network.named_parameters()}
    name = next(name for name, value in network.named_parameters() if value is first.weight)
    other = next(name for name, value in network.named_parameters() if value is middle.weight)
    assert 0 < moved[name] < 0.6 * moved[other]
