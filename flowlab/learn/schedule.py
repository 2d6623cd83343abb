"""The learning rate of each epoch, as a function: a resumed training needs no scheduler's state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from flowlab.errors import OptionError, unknown_name

WARMUP_FACTOR = 0.01  # the vendor's toolchain trains its warm-up epochs at a hundredth of the rate
STEP_EPOCHS, DECAY = 30, 0.1  # its steplr; exponentiallr decays by the same factor each epoch
RISE, FIRST = 0.3, 0.04  # of a cycle the part in which the rate rises, and what it rises from

SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "cosineannealinglr": lambda epoch, epochs: (1 + math.cos(math.pi * epoch / epochs)) / 2,
    "steplr": lambda epoch, epochs: float(DECAY ** (epoch // STEP_EPOCHS)),
    "exponentiallr": lambda epoch, epochs: float(DECAY**epoch),
    "constantlr": lambda epoch, epochs: 1.0,
    "none": lambda epoch, epochs: 1.0,
}
CYCLES = "onecyclelr"


def one_cycle(position: float) -> float:
    """The factor at a place of a cycle, 0 to 1: a cosine up to 1, and a longer one down to 0.

    Source: Smith, Topin, "Super-convergence", 2018; shape and parts are those of `torch.optim.lr_scheduler.OneCycleLR`.
    """
    if position < RISE:
        return 1 - (1 - FIRST) * (1 + math.cos(math.pi * position / RISE)) / 2
    return (1 + math.cos(math.pi * (position - RISE) / (1 - RISE))) / 2


@dataclass(frozen=True)
class Cycle:
    """Cycles of a training, one behind the other: where the first one ends (0 to 1), and the second one's rate.

    ``until`` 1 is one cycle over all epochs; ``then`` is a factor of the first one's rate.
    """

    until: float = 1.0
    then: float = 1.0

    def factor(self, position: float) -> float:
        """At a place of the training, 0 to 1."""
        if position < self.until:
            return one_cycle(position / self.until)
        return self.then * one_cycle((position - self.until) / (1 - self.until)) if self.until < 1 else 0.0


def learning_rate(base: float, epoch: int, epochs: int, scheduler: str, warmup_epochs: int) -> float:
    """The rate of one epoch: a hundredth of ``base`` while warming up, then ``base`` times the schedule's factor.

    Args:
        base: the rate that the config asks for.
        epoch: counted from 0.
        epochs: how many there are; where they are not more than ``warmup_epochs``, there is no warm-up.
        scheduler: a name in `SCHEDULES`, in any case; the cosine reaches 0 one epoch after the last.
        warmup_epochs: how many epochs at the hundredth.

    Raises:
        OptionError: for an unknown name.
    """
    factor = SCHEDULES.get(scheduler.lower())
    if factor is None:
        raise OptionError(f"training.lr_scheduler: {unknown_name('schedule', scheduler, SCHEDULES)}")
    warmup = warmup_epochs if epochs > warmup_epochs else 0
    if epoch < warmup:
        return base * WARMUP_FACTOR
    return base * factor(epoch - warmup, epochs - warmup)
