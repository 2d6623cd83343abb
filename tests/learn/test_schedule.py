"""The learning rate of each epoch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowlab.errors import OptionError
from flowlab.learn.schedule import SCHEDULES, Cycle, learning_rate, one_cycle


def test_the_cosine_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=9)
    for epoch in range(1, 10):
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate(0.1, epoch, 10, "cosineannealinglr", 1) == pytest.approx(expected)
        optimizer.step()
        scheduler.step()


def test_the_first_epoch_warms_up_at_a_hundredth() -> None:
    assert learning_rate(0.1, 0, 10, "cosineannealinglr", 1) == pytest.approx(0.001)
    assert learning_rate(0.1, 1, 10, "cosineannealinglr", 1) == 0.1


def test_a_training_of_one_epoch_does_not_warm_up() -> None:
    assert learning_rate(0.1, 0, 1, "cosineannealinglr", 1) == 0.1


def test_an_unknown_schedule_gets_a_suggestion() -> None:
    with pytest.raises(OptionError, match="Did you mean 'cosineannealinglr'"):
        learning_rate(0.1, 0, 10, "cosineanealinglr", 1)


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 200), st.integers(0, 3), st.data())
def test_no_rate_leaves_the_range_that_was_asked_for(
    scheduler: str, epochs: int, warmup: int, data: st.DataObject
) -> None:
    epoch = data.draw(st.integers(0, epochs - 1))
    assert 0 <= learning_rate(0.1, epoch, epochs, scheduler, warmup) <= 0.1


def test_one_cycle_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    steps = 101
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=steps, pct_start=0.31, div_factor=25, final_div_factor=1e9
    )  # torch's rise ends at a whole step: 0.31 * 101 - 1 = 30.31 of 100
    for step in range(steps):
        ours = 0.1 * one_cycle(step / (steps - 1) * 0.3 / 0.3031)
        if step < 0.3 * steps:
            assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        scheduler.step()
    assert one_cycle(0.3) == 1
    assert one_cycle(1) == pytest.approx(0)
    assert one_cycle(0.65) == pytest.approx(0.5)


def test_a_second_cycle_has_its_own_rate() -> None:
    cycle = Cycle(until=0.7, then=0.1)
    assert cycle.factor(0.21) == pytest.approx(1)
    assert cycle.factor(0.6999) < 1e-3
    assert cycle.factor(0.79) == pytest.approx(0.1)
    assert max(cycle.factor(0.7 + 0.003 * step) for step in range(100)) <= 0.1
    assert Cycle().factor(0.65) == one_cycle(0.65)
