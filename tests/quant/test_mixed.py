"""Bits by layer: the choice is exact, keeps its budget, and follows what is measured."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from networks.training import data, quantize_job, trained
from torch import nn

from flowlab.compiler.number_format import GENERIC
from flowlab.errors import QuantizationError
from flowlab.quant.fold import fold
from flowlab.quant.mixed import Budget, Choice, Mixed, choices, choose_bits
from flowlab.quant.mixed import _Network as Measured
from flowlab_tinpu.number_format import NPU

WIDTHS = (2, 4, 8)
SIZES = (25, 120, 24)  # weights of the small network's layers


def chosen(**budget: float) -> Mixed:
    features = np.array(data().train_features[:128])
    return choose_bits(fold(quantize_job(trained()).graph), features, NPU, Budget(**budget))  # type: ignore[arg-type]


def every(table: list[dict[int, float]], sizes: list[int]) -> list[Choice]:
    """All choices, none left out."""
    found = []
    for bits in product(WIDTHS, repeat=len(sizes)):
        cost = sum(size * one for size, one in zip(sizes, bits, strict=True))
        found.append(Choice(bits, cost, sum(row[one] for row, one in zip(table, bits, strict=True))))
    return found


@pytest.mark.parametrize("seed", range(30))
def test_no_choice_within_a_budget_is_better(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 6))
    table = [dict(zip(WIDTHS, sorted(random.exponential(1, 3), reverse=True), strict=True)) for _ in range(count)]
    sizes = [int(size) for size in random.integers(1, 500, count)]
    front, whole = choices(table, sizes), every(table, sizes)
    for limit in (2.0, 2.5, 3.3, 4.0, 6.1, 8.0):
        best = min((one.loss for one in whole if one.cost <= limit * sum(sizes)), default=None)
        within = [one for one in front if one.cost <= limit * sum(sizes)]
        assert (within[-1].loss if within else None) == pytest.approx(best)


@pytest.mark.parametrize("mean_bits", [2.0, 2.5, 3.0, 4.0, 8.0])
def test_a_budget_of_mean_bits_is_kept_and_used(mean_bits: float) -> None:
    found = chosen(mean_bits=mean_bits)
    assert [one.weights for one in found.layers] == list(SIZES)
    assert found.mean_bits <= mean_bits
    uniform = {2.0: {2}, 8.0: {8}}
    assert set(found.bits_of.values()) == uniform.get(mean_bits, set(found.bits_of.values()))


def test_the_layer_that_suffers_most_for_its_bytes_gets_the_bits() -> None:
    found = chosen(mean_bits=3.0)
    loss = {one.layer: one.sensitivity[2] / one.weights for one in found.layers}
    most = max(loss, key=lambda name: loss[name])
    assert found.bits_of[most] == max(found.bits_of.values()) > 2


def test_fewer_bits_are_never_said_to_be_better() -> None:
    for one in chosen(mean_bits=4.0).layers:
        assert list(one.sensitivity) == [2, 4, 8]
        assert one.sensitivity[2] >= one.sensitivity[4] >= one.sensitivity[8] >= 0
        assert one.sensitivity[2] > 3 * one.sensitivity[8]


def test_the_same_windows_give_the_same_choice() -> None:
    assert chosen(mean_bits=3.0) == chosen(mean_bits=3.0)


def test_bytes_are_a_budget_too() -> None:
    whole = sum(SIZES)
    assert chosen(weight_bytes=whole).bits_of == chosen(mean_bits=8.0).bits_of
    assert chosen(weight_bytes=whole // 2).mean_bits <= 4
    with pytest.raises(QuantizationError, match="no choice of bits keeps the budget of 10 bytes"):
        chosen(weight_bytes=10)


def test_a_tolerance_gives_the_fewest_bits_that_keep_it() -> None:
    means = [chosen(tolerance=one).mean_bits for one in (0.01, 0.05, 0.9)]
    assert means == sorted(means, reverse=True)
    assert means[0] > means[-1] == 2
    with pytest.raises(QuantizationError, match="no choice of bits keeps the tolerance"):
        chosen(tolerance=-1.0)


def test_a_budget_is_one_thing() -> None:
    for wrong in ({}, {"mean_bits": 4.0, "tolerance": 0.1}):
        with pytest.raises(QuantizationError, match="a budget is one of"):
            Budget(**wrong)


def test_the_table_is_plain_json() -> None:
    found = chosen(mean_bits=3.0).to_json()
    assert set(found) == {"measured", "mean_bits", "weight_bytes", "layers"}
    assert found["weight_bytes"] == sum(row["weights"] * row["bits"] for row in found["layers"]) / 8
    assert set(found["layers"][0]["sensitivity"]) == {"2", "4", "8"}


def test_integers_for_any_cpu_have_the_same_widths() -> None:
    features = np.array(data().train_features[:128])
    found = choose_bits(
        fold(quantize_job(trained()).graph), features, GENERIC, Budget(mean_bits=3.0), activation_bits=4
    )
    assert found.mean_bits <= 3


WINDOWS = slice(192, 320)  # of these sensitivities mislead: (2, 2, 4) sums to less than (2, 2, 2), and loses more


def measured(activation: type[nn.Module] = nn.Tanh) -> Measured:
    steps = fold(quantize_job(trained(activation)).graph)
    return Measured(steps, np.array(data().train_features[WINDOWS]), NPU, 8, next(iter(steps.outputs)))


@pytest.mark.parametrize("tuned", [True, False])
def test_of_whole_choices_the_one_is_taken_that_loses_least(tuned: bool) -> None:
    network = measured()
    for candidates in ([(2, 2, 2), (8, 4, 8)], [(8, 4, 8), (2, 2, 2)]):
        assert network.best(candidates, tuned=tuned, seed=0) == (8, 4, 8)
    assert network.best([(4, 4, 4), (4, 4, 4)], tuned=tuned, seed=0) == (4, 4, 4)


def test_what_is_learned_is_measured_on_windows_that_it_was_not_learned_on() -> None:
    network, other = measured(), measured()
    assert network.tuned_loss((2, 2, 2), 0) < network.loss(dict.fromkeys(network.layers, 2))
    held = np.array(network.features)
    held[1::2] = network.features[1::2][:, :, ::-1]
    other.features = held
    assert other.tuned_loss((2, 2, 2), 0) != network.tuned_loss((2, 2, 2), 0)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid])
@pytest.mark.parametrize("tuned", [True, False])
def test_a_choice_never_measures_worse_than_one_width_for_all(activation: type[nn.Module], tuned: bool) -> None:
    network = measured(activation)

    def loss(*bits: int) -> float:
        return network.tuned_loss(bits, 0) if tuned else network.loss(dict(zip(network.layers, bits, strict=True)))

    found = choose_bits(network.steps, network.features, NPU, Budget(mean_bits=2.5), tuned=tuned)
    assert loss(*found.bits_of.values()) <= loss(2, 2, 2)
    if activation is nn.Sigmoid:
        assert loss(2, 2, 4) > loss(2, 2, 2)
        assert set(found.bits_of.values()) == {2}
